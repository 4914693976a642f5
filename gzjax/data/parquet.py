"""Encoded images inside Parquet files, as Hugging Face datasets write them."""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Integer

from gzjax.data.framing import Framing
from gzjax.data.images import Images, Unusable, fault_text, read_image

NO_IMAGE = "row without image"
# What a column of bare bytes is called if they are images; others hold shapes, sums and the like.
CALLED = re.compile("image|img|jpe?g|png|webp|picture|photo|cutout|stamp|thumbnail|bytes", re.I)
# Row groups that are kept, in bytes; one at least, however large.
MOST_BYTES = 256 * 2**20


class Cells(NamedTuple):
    """Where the encoded image of each galaxy is.

    column: of bytes, or of a struct of `bytes` and `path`.
    files: the Parquet files.
    file: for each galaxy, which of them.
    row: for each galaxy, its row in that file, from 0.
    """

    column: str
    files: tuple[str, ...]
    file: Integer[np.ndarray, " galaxies"]
    row: Integer[np.ndarray, " galaxies"]

    def take(self, positions: np.ndarray | slice) -> "Cells":
        """Those of some galaxies: their positions, a mask or a slice."""
        return self._replace(file=self.file[positions], row=self.row[positions])

    @property
    def names(self) -> list[str]:
        """What lists call them: `FILE, row 17`, from 1."""
        pairs = zip(self.file.tolist(), self.row.tolist(), strict=True)
        return [f"{self.files[file]}, row {row + 1}" for file, row in pairs]


def image_column(schema: pa.Schema) -> str | None:
    """The column of encoded images by its type; a struct, or one called so, before others."""
    found = [
        field
        for field in schema
        if _has_bytes(field.type) or (_is_bytes(field.type) and CALLED.search(field.name))
    ]
    found.sort(key=lambda field: (not _has_bytes(field.type), "image" not in field.name.lower()))
    return found[0].name if found else None


def holds_images(file: Path) -> bool:
    """Whether a Parquet file has a column of encoded images; False if it cannot be read."""
    try:
        return image_column(pq.read_schema(file)) is not None
    except (OSError, pa.ArrowInvalid):
        return False


def image_paths(file: Path, column: str) -> list[str | None]:
    """The paths beside the bytes, of each row; none if there is no such field."""
    schema = pq.read_schema(file)
    kind = schema.field(column).type
    if not _has_bytes(kind) or kind.get_field_index("path") < 0:
        return []
    cells = pq.ParquetFile(file).read(columns=[f"{column}.path"]).column(column)
    return [cell["path"] if cell else None for cell in cells.to_pylist()]


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
    return any(getattr(pa.types, test)(kind) for test in tests)


def _has_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    bytes_of = kind.field("bytes").type
    # Where all images are files, the bytes have no type of their own.
    return _is_bytes(bytes_of) or (pa.types.is_null(bytes_of) and kind.get_field_index("path") >= 0)


class ParquetImages(Images):
    """Images inside Parquet files, decoded when asked for; whole row groups are read and kept.

    Threads may share it; each process opens the files for itself.
    """

    def __init__(self, cells: Cells, framing: Framing, most_bytes: int = MOST_BYTES):
        self.cells, self.framing, self.most_bytes = cells, framing, most_bytes
        self.shape = (len(cells.row), framing.canvas, framing.canvas, 3)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._metadata: dict[int, tuple[pq.FileMetaData, np.ndarray]] = {}
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: each for name, each in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def place(self, position: int) -> str:
        """Where an image is, for people."""
        return self.cells.take(np.array([position])).names[0]

    @property
    def paths(self) -> Sequence[str]:
        """The Parquet files."""
        return self.cells.files

    def some(self, rows: Integer[np.ndarray, " rows"]) -> "ParquetImages":
        """Those of some rows alone."""
        return ParquetImages(self.cells.take(rows), self.framing, self.most_bytes)

    def __getitem__(self, position: int) -> np.ndarray:
        encoded = self.encoded(position)
        try:
            return read_image(encoded, self.framing)
        except Exception as error:  # decoders raise many kinds
            raise Unusable(fault_text(error)) from error

    def encoded(self, position: int) -> bytes | str:
        """The bytes of an image; of a struct without, the path beside the Parquet file.

        Raises:
          Unusable: neither is there, or the Parquet file is damaged.
        """
        file, row = int(self.cells.file[position]), int(self.cells.row[position])
        try:
            with self._lock:
                cell = self._cell(file, row)
        except Exception as error:  # pyarrow raises many kinds
            raise Unusable(fault_text(error)) from error
        if isinstance(cell, dict):
            path = cell.get("path")
            cell = cell["bytes"]
            if cell is None and path:
                return os.path.join(os.path.dirname(self.cells.files[file]), path)
        if cell is None:
            raise Unusable(NO_IMAGE)
        return cell

    def _cell(self, file: int, row: int) -> Any:
        if file not in self._metadata:
            metadata = pq.read_metadata(self.cells.files[file])
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._metadata[file] = metadata, np.cumsum([0, *sizes])
        metadata, starts = self._metadata[file]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        key, column = (file, group), self.cells.column
        if key not in self._groups:
            # Opened each time, since there may be more files than a process may hold open.
            with pq.ParquetFile(self.cells.files[file], metadata=metadata) as opened:
                read = opened.read_row_group(group, columns=[column], use_threads=False)
            self._groups[key] = read.column(column)
            while len(self._groups) > 1 and self._bytes() > self.most_bytes:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][row - int(starts[group])].as_py()

    def _bytes(self) -> int:
        return sum(group.nbytes for group in self._groups.values())
