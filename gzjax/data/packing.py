"""Writing packs; see `gzjax.data.packs` for what they hold.

Each shard is written under another name and renamed when it is whole, so packing that was
interrupted resumes from the shards that are there. `unfinished.json` says what they are shards of,
until the manifest takes its place.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gzjax.data import catalogue, packs
from gzjax.data.dataset import Data
from gzjax.data.framing import Framing
from gzjax.data.images import fault_text, paths_of
from gzjax.data.paths import path_of
from gzjax.errors import UserError, one_line
from gzjax.files import locked, replacing, write_json
from gzjax.tree import Tree

# Galaxies of one shard; as many at most, a thread, are decoded again after an interruption.
SHARD = 1024
LOCK = "lock"


def write(
    folder: Path,
    data: Data,
    *,
    shard: int = SHARD,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Packs galaxies, or resumes where it was interrupted; a whole pack stays as it is.

    Images that turn out unreadable are not in the pack, but among its `left_out`. Shards, of so
    many galaxies each, are written by as many threads as the machine runs well: Pillow decodes
    without Python's lock. `progress` is called with (galaxies done, galaxies).

    Raises:
      UserError: the folder holds something else, or a pack of something else; it has no room, or
        cannot be written; or more than one per cent of the images are unreadable.
    """
    about = {
        "format": packs.FORMAT,
        "source": _source_hash(data),
        "label": data.label,
        **data.framing.options,
        "tree": data.tree.to_dict(),
        "galaxies_per_shard": shard,
    }
    before = _check_folder(folder, about, data.tree)
    if before is not None:
        with contextlib.suppress(UserError):
            packs.check_whole(folder, before, data.tree)
            return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            _write(folder, data, about, progress)
            (folder / LOCK).unlink()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: the pack cannot be written: {one_line(error)}") from error


def _write(
    folder: Path, data: Data, about: Mapping[str, Any], progress: Callable[[int, int], None]
) -> None:
    galaxies, shard = len(data.ids), about["galaxies_per_shard"]
    pieces = [range(first, min(first + shard, galaxies)) for first in range(0, galaxies, shard)]
    shards = {
        folder / f"{number:05}-of-{len(pieces):05}.arecord": rows
        for number, rows in enumerate(pieces)
    }
    missing = {file: rows for file, rows in shards.items() if _galaxies_in(file) != len(rows)}
    unreadable: dict[int, str] = {}
    done = galaxies - sum(map(len, missing.values()))
    needed, free = (galaxies - done) * data.framing.canvas**2 * 3, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the pack needs {needed / 1e9:.1f} GB, only {free / 1e9:.1f} GB are free"
        )
    write_json(folder / packs.UNFINISHED, about)
    (folder / packs.MANIFEST).unlink(missing_ok=True)
    progress(done, galaxies)
    with ThreadPoolExecutor() as pool:
        written = {
            pool.submit(_write_shard, file, rows, data): rows for file, rows in missing.items()
        }
        try:
            for future in as_completed(written):
                unreadable |= future.result()
                skipped = {data.ids[row]: reason for row, reason in unreadable.items()}
                catalogue.check_left_out(skipped, galaxies, folder)
                done += len(written[future])
                progress(done, galaxies)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    kept = np.array([row not in unreadable for row in range(galaxies)])
    ids, votes = np.array(data.ids)[kept], data.votes[kept]
    with replacing(folder / packs.TABLE) as partial, partial.open("wb") as table:
        np.savez(table, ids=ids, votes=votes)
    sizes = {file: file.stat().st_size for file in shards}
    manifest = {
        "galaxies": len(ids),
        "bytes": sum(sizes.values()),
        "fingerprint": catalogue.fingerprint(ids.tolist(), votes, data.tree),
        "shards": [
            {"file": file.name, "galaxies": int(kept[rows].sum()), "bytes": sizes[file]}
            for file, rows in shards.items()
        ],
        "about": data.about,
        "members": [
            member._replace(
                first=int(kept[: member.first].sum()), stop=int(kept[: member.stop].sum())
            )
            for member in data.members
        ],
        "left_out": data.left_out_with(unreadable).astype(str).to_numpy().tolist(),
    }
    write_json(folder / packs.MANIFEST, {**about, **manifest})
    for leftover in (folder / packs.UNFINISHED, *folder.glob("*.partial")):
        leftover.unlink(missing_ok=True)


def _write_shard(file: Path, rows: range, data: Data) -> dict[int, str]:
    """Writes one shard; returns the rows of unreadable images, which it lacks, with the reason."""
    unreadable = {}
    with replacing(file) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
        for row in rows:
            try:
                image = np.asarray(data.images[row])
            except Exception as error:  # a damaged file may raise anything
                unreadable[row] = fault_text(error)
                continue
            writer.write(packs.to_record(image, data.votes[row], data.ids[row]))
        writer.close()
    return unreadable


def _source_hash(data: Data) -> str:
    """Changes with any GalaxyID, vote, or file of an image; see `about` for the rest.

    Files are compared by size and time of change: to read them all takes minutes where they lie on
    another machine. A copy with new times counts as another source; it costs a new pack.
    """
    digest = hashlib.sha256(data.fingerprint.encode())
    for file in paths_of(data.images):
        try:
            status = os.stat(path_of(file))
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(b"unreadable\n")
    return digest.hexdigest()[:16]


def _check_folder(folder: Path, about: Mapping[str, Any], tree: Tree) -> dict[str, Any] | None:
    """The manifest of the pack in a folder, if there is one; a `UserError` if it is another's."""
    for name in (packs.MANIFEST, packs.UNFINISHED):
        before = packs.read_json(folder / name)
        if before is None:
            continue
        before = {**Framing().options, **before}
        changed = [
            f"{key} was {before.get(key)!r}, now {value!r}"
            for key, value in about.items()
            if before.get(key) != value and key not in ("source", "tree")
        ]
        if before.get("format") == about["format"]:
            theirs = packs.tree_of(folder, before)
            if theirs != tree:
                changed.append(f"tree was {theirs.name}, now {tree.name}")
            elif before.get("source") != about["source"]:
                changed.append("the galaxies")
        if changed:
            raise UserError(
                f"{folder} holds a pack of something else: {', '.join(changed)}. Use another "
                "folder, or delete this one"
            )
        return before if name == packs.MANIFEST else None
    if folder.exists() and any(entry.name != LOCK for entry in folder.iterdir()):
        raise UserError(f"{folder}: expected a new or empty folder, or that of a pack")
    return None


def _galaxies_in(file: Path) -> int:
    """How many records there are in a shard; 0 if it is not there or not whole."""
    if not file.exists():
        return 0
    reader = ArrayRecordReader(str(file))
    return reader.num_records() if reader.ok() else 0
