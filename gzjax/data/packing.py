"""Writing packs; see `gzjax.data.packs` for what they hold.

Each shard is written under another name and renamed when it is whole, so packing that was
interrupted resumes from the shards that are there. `unfinished.json` says what they are shards of,
until the manifest takes its place. `SHARD.unreadable.json` lists the images that a shard lacks,
until the manifest does.

Several processes may share the work, each with every n-th shard; whichever is last writes the
table and the manifest. So the pack is the same, byte for byte, whoever wrote its shards.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gzjax.data import catalogue, packs
from gzjax.data.dataset import Data
from gzjax.data.framing import Framing
from gzjax.data.images import JoinedImages, paths_of, some_of
from gzjax.data.paths import path_of
from gzjax.data.shards import NOTE, Engine, Shard, in_threads, is_whole, lacks, write_shard
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
    share: tuple[int, int] = (1, 1),
    engine: Engine | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> str:
    """Packs galaxies, or resumes where it was interrupted; a whole pack stays as it is.

    Images that turn out unreadable are not in the pack, but among its `left_out`.

    Args:
      folder: of the pack.
      data: the galaxies.
      shard: galaxies of a shard.
      share: which of the shards are this process's: (2, 8) is the second of eight shares.
      engine: has other processes write them, which see the same folder, by `See` of
        `gzjax.run.parts`; None: as many threads of this one as the machine runs well, since Pillow
        decodes without Python's lock.
      progress: called with (galaxies done, galaxies) of the share.

    Returns:
      What the pack still lacks, in words; "" if it is whole.

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
            return ""
        if share != (1, 1):
            raise UserError(f"{folder}: expected one process to repair it, found {share[1]}")
    number, shares = share
    galaxies = len(data.ids)
    ranges = [range(first, min(first + shard, galaxies)) for first in range(0, galaxies, shard)]
    shards = {
        folder / f"{place:05}-of-{len(ranges):05}.arecord": rows
        for place, rows in enumerate(ranges)
    }
    mine = dict(list(shards.items())[number - 1 :: shares])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / (LOCK if shares == 1 else f"{LOCK}-{number}-of-{shares}")):
            if before is not None:  # at any time one of the two says whose folder this is
                write_json(folder / packs.UNFINISHED, about)
                (folder / packs.MANIFEST).unlink()
            if not (folder / packs.MANIFEST).exists():  # of another process, meanwhile
                write_json(folder / packs.UNFINISHED, about)
                _write_shards(mine, data, engine, progress)
            return _finish(folder, data, about, shards, share)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: the pack cannot be written: {one_line(error)}") from error


def _write_shards(
    shards: Mapping[Path, range],
    data: Data,
    engine: Engine | None,
    progress: Callable[[int, int], None],
) -> None:
    """Writes those of some shards that are missing."""
    missing = {rows: file for file, rows in shards.items() if not is_whole(file, rows)}
    galaxies, new = sum(map(len, shards.values())), sum(map(len, missing))
    done = galaxies - new
    _check_room(missing, new * data.framing.canvas**2 * 3)
    progress(done, galaxies)

    def tasks() -> Iterator[tuple[range, Shard]]:
        for rows, file in missing.items():
            cut, numbers = slice(rows.start, rows.stop), np.array(rows)
            # Others are sent no more than they need; threads share what the images remember.
            images = (
                JoinedImages([(data.images, numbers)])
                if engine is None
                else some_of(data.images, numbers)
            )
            yield rows, Shard(file, images, data.votes[cut], data.ids[cut])

    unreadable: dict[int, str] = {}
    with contextlib.closing((engine or in_threads)(write_shard, tasks())) as written:
        for rows, faults in written:
            unreadable |= {rows[place]: reason for place, reason in faults.items()}
            skipped = {data.ids[row]: reason for row, reason in unreadable.items()}
            catalogue.check_left_out(skipped, len(data.ids), missing[rows].parent)
            done += len(rows)
            progress(done, galaxies)


def _check_room(shards: Mapping[range, Path], needed: int) -> None:
    for file in list(shards.values())[:1]:
        free = shutil.disk_usage(file.parent).free
        if needed > free:
            raise UserError(
                f"{file.parent}: the pack needs {needed / 1e9:.1f} GB, only {free / 1e9:.1f} GB "
                "are free"
            )


def _finish(
    folder: Path,
    data: Data,
    about: Mapping[str, Any],
    shards: Mapping[Path, range],
    share: tuple[int, int],
) -> str:
    """Writes the table and the manifest if all shards are there; see `write`."""
    number, shares = share
    others = sum(not is_whole(file, rows) for file, rows in shards.items())
    if others and not (folder / packs.MANIFEST).exists():
        return f"share {number} of {shares} is done; {others} shards of others are missing"
    with contextlib.ExitStack() as stack:
        if shares > 1:
            try:
                stack.enter_context(locked(folder / LOCK))
            except UserError:
                return "another process completes the pack"
        if not (folder / packs.MANIFEST).exists():
            _write_manifest(folder, data, about, shards)
        for name in (packs.UNFINISHED, "*.partial", f"*{NOTE}", f"{LOCK}*"):
            for leftover in folder.glob(name):
                leftover.unlink(missing_ok=True)
    return ""


def _write_manifest(
    folder: Path, data: Data, about: Mapping[str, Any], shards: Mapping[Path, range]
) -> None:
    unreadable = {
        rows[place]: reason
        for file, rows in shards.items()
        for place, reason in lacks(file).items()
    }
    skipped = {data.ids[row]: reason for row, reason in unreadable.items()}
    catalogue.check_left_out(skipped, len(data.ids), folder)
    kept = np.array([row not in unreadable for row in range(len(data.ids))])
    ids, votes = np.array(data.ids)[kept], data.votes[kept]
    with replacing(folder / packs.TABLE) as partial, partial.open("wb") as table:
        np.savez(table, ids=ids, votes=votes)
    sizes = {file: file.stat().st_size for file in shards}
    manifest = {
        **about,
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
    manifest["checksum"] = packs.checksum_of(manifest)
    write_json(folder / packs.MANIFEST, manifest)


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
    if folder.exists() and not all(map(_is_beginning, folder.iterdir())):
        raise UserError(f"{folder}: expected a new or empty folder, or that of a pack")
    return None


def _is_beginning(file: Path) -> bool:
    """Whether a file may be there before `unfinished.json` is."""
    return file.name.startswith((LOCK, packs.UNFINISHED))
