"""Embeddings on disk, and which of them are nearest.

A Parquet file with the columns `GalaxyID` and `features`, float16 lists of one length, and in its
metadata what made it. It is read a block at a time, so memory does not grow with the file, except
for the GalaxyIDs. What is compared here is exact: every pair is looked at.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float16, Float32, Int64, Shaped

from gzjax.errors import UserError, one_line

BLOCK = 4096  # galaxies that are compared at a time, with as many others
_KEY = b"gzjax"  # in the file's metadata


def table(
    ids: Sequence[str], features: Float16[np.ndarray, "galaxies features"], faults: Sequence[str]
) -> pa.Table:
    """The columns of embeddings, and `fault`."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    text = pa.string()
    return pa.table(
        {"GalaxyID": pa.array(ids, text), "features": lists, "fault": pa.array(faults, text)}
    )


def metadata(about: Mapping[str, Any]) -> dict[bytes, bytes]:
    """What made embeddings, as their file says it; see `read_about`."""
    return {_KEY: json.dumps(about).encode()}


def read_about(file: Path) -> dict[str, Any]:
    """What made embeddings; nothing of files that others wrote."""
    with _opened(file) as opened:
        return json.loads((opened.metadata.metadata or {}).get(_KEY, b"{}"))


def read_ids(file: Path) -> list[str]:
    """The GalaxyIDs."""
    with _opened(file) as opened:
        return list(map(str, opened.read(columns=["GalaxyID"])["GalaxyID"].to_pylist()))


def number_of(file: Path) -> int:
    """How many galaxies there are."""
    with _opened(file) as opened:
        return opened.metadata.num_rows


def read_row(file: Path, row: int) -> Float32[np.ndarray, "1 features"]:
    """The features of one galaxy, of length 1."""
    with _opened(file) as opened:
        sizes = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
        group = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
        column = opened.read_row_group(group, columns=["features"]).column(0).combine_chunks()
    return unit(_array(column.slice(row - sum(sizes[:group]), 1), file))


def read_of(file: Path, ids: Sequence[str]) -> Shaped[np.ndarray, "galaxies features"]:
    """The features of some galaxies, float16 in their order; NaN of those that have none."""
    places = {name: place for place, name in enumerate(ids)}
    with _opened(file) as opened:
        features = None
        for batch in opened.iter_batches(BLOCK, columns=["GalaxyID", "features"]):
            own = _array(batch.column("features"), file)
            if features is None:
                features = np.full((len(ids), own.shape[1]), np.nan, np.float16)
            names = map(str, batch.column("GalaxyID").to_pylist())
            found = [(row, places[name]) for row, name in enumerate(names) if name in places]
            if found:
                rows, where = zip(*found, strict=True)
                features[list(where)] = own[list(rows)]
    return np.zeros((len(ids), 0), np.float16) if features is None else features


def raw_blocks(file: Path) -> Iterator[Shaped[np.ndarray, "block features"]]:
    """All features in order, as they are.

    Raises:
      UserError: some are not finite.
    """
    with _opened(file) as opened:
        first = 0
        for batch in opened.iter_batches(BLOCK, columns=["features"]):
            block = _array(batch.column(0), file)
            wrong = ~np.isfinite(block).all(axis=1)
            if wrong.any():  # as `model.embed` gives of an image that cannot be read
                raise UserError(
                    f"{file}: row {first + int(wrong.argmax()) + 1}: expected features, found NaN "
                    "or infinity; leave galaxies without an image out"
                )
            yield block
            first += len(block)


def blocks(file: Path) -> Iterator[Float32[np.ndarray, "block features"]]:
    """All features in order, of length 1."""
    return map(unit, raw_blocks(file))


def _array(lists: pa.Array, file: Path) -> Shaped[np.ndarray, "galaxies features"]:
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(lists.type):
        return flat.reshape(-1, lists.type.list_size)
    # As pandas writes them.
    sizes = pc.list_value_length(lists).unique().to_pylist()
    if len(sizes) > 1 or None in sizes:
        raise UserError(f"{file}: features: expected lists of one length, found {sizes[:5]}")
    return flat.reshape(len(lists), *(sizes or [0]))


def unit(
    features: Shaped[np.ndarray, "galaxies features"],
) -> Float32[np.ndarray, "galaxies features"]:
    """The same of length 1; where all are 0, they stay so, and are similar to nothing."""
    features = features.astype(np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def nearest(
    queries: Float32[np.ndarray, "queries features"], embeddings: Path, k: int
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """(cosines, rows) of the k galaxies most similar to each query, of length 1, in order."""

    def checked() -> Iterator[np.ndarray]:
        for block in blocks(embeddings):
            if block.shape[1] != queries.shape[1]:
                raise UserError(
                    f"{embeddings}: expected {queries.shape[1]} features, found {block.shape[1]}"
                )
            yield block

    return nearest_of(queries, checked(), k)


def nearest_of(
    queries: Float32[np.ndarray, "queries features"], among: Iterable[np.ndarray], k: int
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """The same among blocks of features in memory, all of length 1."""
    found = np.zeros((len(queries), 0), np.float32)
    rows, first = np.zeros((len(queries), 0), np.int64), 0
    for block in among:
        cosines, places = _highest(queries @ block.T, k)
        found, rows = np.hstack([found, cosines]), np.hstack([rows, first + places])
        found, places = _highest(found, k)
        rows, first = np.take_along_axis(rows, places, axis=1), first + len(block)
    order = np.lexsort((rows, -found), axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _highest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest values of each row, in any order, and their columns."""
    if values.shape[1] <= k:
        return values, np.broadcast_to(np.arange(values.shape[1]), values.shape)
    places = np.argpartition(values, -k, axis=1)[:, -k:]
    return np.take_along_axis(values, places, axis=1), places


def _opened(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file, pre_buffer=False)  # which would keep all that was read
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; expected what --mode embed wrote") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file}: not readable as embeddings: {one_line(error)}") from None
    schema = opened.schema_arrow
    kind = schema.field("features").type if "features" in schema.names else pa.null()
    tests = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if "GalaxyID" not in schema.names or not any(test(kind) for test in tests):
        raise UserError(
            f"{file}: expected the columns GalaxyID and features, lists of one length, found "
            f"{one_line(', '.join(schema.names[:8]))}"
        )
    return opened
