"""Writing packs; see `gzjax.data.pack` for what they hold.

Each shard is written under another name and renamed when it is whole, so packing that was
interrupted goes on from the shards that are there. `unfinished.json` says what they are shards of,
until the manifest takes its place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gzjax.data import catalog, pack
from gzjax.data.sources import UNREADABLE, ImageFiles, Images
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2

# Galaxies of one shard; as many at most, a thread, are decoded again after an interruption.
SHARD = 1024


def write(
    folder: Path,
    *,
    ids: Sequence[str],
    images: Images,
    fractions: np.ndarray,
    left_out: pd.DataFrame,
    label: str,
    crop: float,
    canvas: int,
    shard: int = SHARD,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Packs galaxies, or goes on where it was interrupted; a whole pack is left as it is.

    Shards are written by as many threads as the machine runs well: Pillow decodes without
    Python's lock.

    Args:
      folder: of the pack; made if need be.
      ids: GalaxyIDs.
      images: uint8[canvas, canvas, 3] by row.
      fractions: float32[galaxies, answers].
      left_out: GalaxyID, file and reason of what is not among the galaxies; images that turn out
        unreadable here are added, and are not in the pack.
      label: of the galaxies.
      crop: that the images are cut out with.
      canvas: pixels a side.
      shard: galaxies of each shard.
      progress: called with (galaxies done, galaxies).

    Raises:
      UserError: the folder holds something else, or a pack of something else; it has no room, or
        cannot be written; or more than one per cent of the images are unreadable.
    """
    about = {
        "format": pack.FORMAT,
        "source": _source_hash(ids, images, fractions),
        "label": label,
        "crop": crop,
        "canvas": canvas,
        "columns": list(GALAXY_ZOO_2.columns),
        "galaxies_per_shard": shard,
    }
    before = _check_folder(folder, about)
    if before and not pack.damage(folder, before):
        return
    pieces = [range(first, min(first + shard, len(ids))) for first in range(0, len(ids), shard)]
    shards = {
        folder / f"{number:05}-of-{len(pieces):05}.arecord": rows
        for number, rows in enumerate(pieces)
    }
    missing = {file: rows for file, rows in shards.items() if _galaxies_in(file) != len(rows)}
    unreadable: dict[int, str] = {}
    done = len(ids) - sum(map(len, missing.values()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, (len(ids) - done) * canvas * canvas * 3)
        _write_json(folder / pack.UNFINISHED, about)
        (folder / pack.MANIFEST).unlink(missing_ok=True)
        progress(done, len(ids))
        with ThreadPoolExecutor() as pool:
            written = {
                pool.submit(_write_shard, file, rows, ids, images, fractions): rows
                for file, rows in missing.items()
            }
            try:
                for future in as_completed(written):
                    unreadable |= future.result()
                    _check_left_out(unreadable, ids, folder)
                    done += len(written[future])
                    progress(done, len(ids))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        kept = np.array([row not in unreadable for row in range(len(ids))])
        with _whole(folder / pack.TABLE) as partial, partial.open("wb") as table:
            np.savez(table, ids=np.array(ids)[kept], fractions=fractions[kept])
        files = images.files if isinstance(images, ImageFiles) else [""] * len(ids)
        broken = [[ids[row], files[row], reason] for row, reason in sorted(unreadable.items())]
        sizes = {file: file.stat().st_size for file in shards}
        manifest = {
            "galaxies": int(kept.sum()),
            "bytes": sum(sizes.values()),
            "fingerprint": catalog.fingerprint(list(np.array(ids)[kept]), fractions[kept]),
            "shards": [
                {"file": file.name, "galaxies": int(kept[rows].sum()), "bytes": sizes[file]}
                for file, rows in shards.items()
            ],
            "left_out": left_out.astype(str).to_numpy().tolist() + broken,
        }
        _write_json(folder / pack.MANIFEST, about | manifest)
        for leftover in (folder / pack.UNFINISHED, *folder.glob("*.partial")):
            leftover.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{folder}: the pack cannot be written: {error}") from error


def _write_shard(
    file: Path, rows: range, ids: Sequence[str], images: Images, fractions: np.ndarray
) -> dict[int, str]:
    """Writes one shard; returns the rows of unreadable images, which it lacks, with the reason."""
    unreadable = {}
    with _whole(file) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
        for row in rows:
            try:
                image = images[row]
            except UNREADABLE as error:
                unreadable[row] = f"not readable as an image: {error}"
                continue
            writer.write(pack.to_record(np.asarray(image), fractions[row], ids[row]))
        writer.close()
    return unreadable


def _source_hash(ids: Sequence[str], images: Images, fractions: np.ndarray) -> str:
    """Changes with any GalaxyID, vote fraction, or file of an image.

    Files are told apart by size and time of change: to read them all takes minutes where they lie
    on another machine. A copy with new times counts as another source; it costs a new pack.
    """
    digest = hashlib.sha256(catalog.fingerprint(ids, fractions).encode())
    for file in images.files if isinstance(images, ImageFiles) else ():
        status = os.stat(file)
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _check_folder(folder: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of the pack in a folder, if there is one.

    Raises:
      UserError: the folder holds something else, or a pack, whole or half-written, of something
        else.
    """
    for name in (pack.MANIFEST, pack.UNFINISHED):
        before = pack.read_json(folder / name)
        if before is None:
            continue
        changed = ", ".join(
            f"{key} was {before.get(key)!r}, now {value!r}" if key != "source" else "the galaxies"
            for key, value in about.items()
            if before.get(key) != value
        )
        if changed:
            raise UserError(
                f"{folder} holds a pack of something else: {changed}. Use another folder, or "
                "delete this one"
            )
        return before if name == pack.MANIFEST else None
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--pack: {folder}: expected a new or empty folder, or that of a pack")
    return None


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: the pack needs {needed / 1e9:.1f} GB, only {free / 1e9:.1f} GB are free"
        )


def _check_left_out(unreadable: Mapping[int, str], ids: Sequence[str], folder: Path) -> None:
    if len(unreadable) > catalog.MOST_LEFT_OUT * len(ids):
        row, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{folder}: more than {catalog.MOST_LEFT_OUT:.0%} of {len(ids)} galaxies would be left "
            f"out; one of them is {ids[row]} ({reason})"
        )


def _galaxies_in(file: Path) -> int:
    """How many records there are in a shard; 0 if it is not there or not whole."""
    if not file.exists():
        return 0
    reader = ArrayRecordReader(str(file))
    return reader.num_records() if reader.ok() else 0


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    with _whole(file) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path to write to; becomes `file` once it is written, and is nothing if that fails."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
