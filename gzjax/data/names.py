"""GalaxyIDs and paths: which can be written; those of very many images, on disk."""

import hashlib
import mmap
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gzjax import remote
from gzjax.data.paths import check_astropy
from gzjax.errors import UserError

CHUNK = 2**16  # names that are in memory at a time
_SCHEMA = pa.schema({"id": pa.string(), "file": pa.string()})


class Names(Sequence[str]):
    """Texts that are not in memory; equal to a list of the same texts.

    Args:
      column: of strings.
      digest: changes with any of them, and with their order.
    """

    def __init__(self, column: pa.ChunkedArray, digest: str):
        self.column, self.digest = column, digest

    def __len__(self) -> int:
        return len(self.column)

    def __iter__(self) -> Iterator[str]:
        for chunk in self.column.iterchunks():
            yield from chunk.to_pylist()

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.column[place].to_pylist()
        return self.column[int(place)].as_py()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def digest_of(names: Sequence[str]) -> str:
    """Changes with any name, and with their order."""
    if isinstance(names, Names):
        return names.digest
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def strings(values: Sequence[str], where: object) -> pa.Array:
    """The same as an Arrow array.

    Raises:
      UserError: bytes that are not UTF-8.
    """
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        _check_names(values, where)
        raise


def _check_names(names: Sequence[str], where: object) -> None:
    for fault in filter(None, map(check_name, names)):
        raise UserError(f"{where}: {fault}")


def keep(
    chunks: Iterable[tuple[pa.Array, pa.Array | None]], where: object, advice: str
) -> tuple[Names, Sequence[str]]:
    """Puts names on disk, in a temporary file that vanishes with the process.

    Args:
      chunks: strings, GalaxyIDs and files of some images; None: they have no files.
      where: they are from, for messages.
      advice: at the end of the message of two images of one galaxy.

    Returns:
      GalaxyIDs, and files; no files if there are none.

    Raises:
      UserError: a name that cannot be written, or one GalaxyID twice.
    """
    digests, hashes, named = [hashlib.sha256(), hashlib.sha256()], [np.empty(0, np.uint64)], False
    with tempfile.TemporaryFile(prefix="gzjax-") as stored:
        with pa.ipc.new_file(pa.PythonFile(stored, mode="w"), _SCHEMA) as writer:
            for ids, files in chunks:
                columns = [ids, pa.nulls(len(ids), pa.string()) if files is None else files]
                named = files is not None
                if files is not None:
                    check_astropy(file.as_py() for file in files)
                    if pc.any(pc.match_substring(files, "://")).as_py():
                        remote.check(files.to_pylist())
                for column, digest in zip(columns[: 1 + named], digests, strict=False):
                    if not pc.all(pc.utf8_is_printable(column)).as_py():
                        _check_names(column.to_pylist(), where)
                    if len(column):
                        ends = pa.array([0, len(column)], pa.int32())
                        lines = pc.binary_join(pa.ListArray.from_arrays(ends, column), "\n")[0]
                        digest.update(lines.as_buffer())
                        digest.update(b"\n")
                hashes.append(_hashes(ids))
                writer.write_batch(pa.record_batch(columns, _SCHEMA))
        stored.flush()
        mapped = mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ)
    table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
    both = zip(_SCHEMA.names, digests, strict=True)
    galaxies, paths = (Names(table[name], digest.hexdigest()) for name, digest in both)
    found = np.concatenate(hashes)
    hashes.clear()
    found.sort()
    if (twice := found[1:][found[1:] == found[:-1]]).size:
        _check_once(galaxies, paths if named else galaxies, twice, where, advice)
    return galaxies, paths if named else []


def _hashes(names: pa.Array) -> np.ndarray:
    return pd.util.hash_array(names.to_numpy(zero_copy_only=False), categorize=False)


def _check_once(
    ids: Names, files: Names, suspected: np.ndarray, where: object, advice: str
) -> None:
    """Raises a `UserError` for GalaxyIDs that are the same, if not only their hashes are."""
    rows, first = [], 0
    for chunk in ids.column.iterchunks():
        rows += (first + np.flatnonzero(np.isin(_hashes(chunk), suspected))).tolist()
        first += len(chunk)
    by_galaxy([ids[row] for row in rows], [files[row] for row in rows], where, advice)


def check_name(name: str) -> str:
    """Why a GalaxyID or a path cannot be written into tables; an empty string if it can."""
    # Bytes that are not UTF-8 come as surrogates (Cs).
    if name.isprintable() or not any(unicodedata.category(part) in ("Cc", "Cs") for part in name):
        return ""
    return f"{name!a}: expected a name in UTF-8, without control characters"


def by_galaxy(
    ids: Sequence[str], files: Sequence[str], where: object, advice: str = ""
) -> dict[str, str]:
    """{GalaxyID: file}; the message of a second image of one galaxy ends with `advice`.

    Raises:
      UserError: a name that cannot be written, two images of one GalaxyID, or FITS files without
        astropy.
    """
    check_astropy(files)
    found: dict[str, str] = {}
    for galaxy, file in zip(ids, files, strict=True):
        if fault := check_name(file) or check_name(galaxy):
            raise UserError(f"{where}: {fault}")
        if galaxy in found:
            raise UserError(
                f"{where}: {found[galaxy]} and {file} are images of one galaxy, {galaxy}{advice}"
            )
        found[galaxy] = file
    return found
