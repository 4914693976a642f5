"""Which images to predict: a folder, a pattern, a table that names them, a pack, or arrays."""

import glob
import hashlib
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet

from gzjax.data import packs
from gzjax.data.catalogue import check_name
from gzjax.data.images import (
    SUFFIXES,
    Framing,
    ImageArrays,
    ImageFiles,
    Images,
    find_files,
    in_order,
    is_image,
)
from gzjax.errors import UserError, one_line

# What tables in this field call the column of files, and that of galaxies; the first one there.
FILE_COLUMNS = ("file", "file_loc", "filename", "path", "image")
ID_COLUMNS = ("GalaxyID", "id_str", "id", "objid", "dr7objid")
TABLES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".parquet")


class Listing(NamedTuple):
    """Images in the order of their predictions.

    ids: GalaxyIDs, each once; a file's name without its suffix, where no table gives another.
    files: paths; none of a pack or of arrays.
    pack: folder of a pack, if they are of one.
    pixels: uint8[galaxies, height, width, 3], if they are in memory.
    """

    ids: list[str]
    files: list[str]
    pack: Path | None = None
    pixels: np.ndarray | None = None

    def framed(self, framing: Framing) -> Images:
        """The images, cut out and rescaled as `images.read_image` does.

        Raises:
          UserError: a pack of images that were cut out or rescaled otherwise.
        """
        if self.pixels is not None:
            return ImageArrays(self.pixels, framing)
        if self.pack is not None:
            return packs.read_images(self.pack, framing)
        return ImageFiles(self.files, framing)

    @property
    def digest(self) -> str:
        """Changes with any GalaxyID, path or pixel in memory."""
        digest = hashlib.sha256()
        for name in (*self.ids, *self.files, str(self.pack)):
            digest.update(name.encode(errors="surrogateescape") + b"\n")
        if self.pixels is not None:
            digest.update(f"{self.pixels.shape}".encode() + self.pixels.tobytes())
        return digest.hexdigest()[:16]


def list_images(what: Any) -> Listing:
    """Finds images. Whether a file can be read is seen when it is.

    Args:
      what: a folder, searched with all folders in it; a pattern such as `images/10*.jpg`, where
        `**` stands for any folders; a CSV or Parquet table with a column of files, paths relative
        to the table; the folder of a pack; a single image; or, from Python, a sequence of paths, a
        DataFrame with a column of files, or an array uint8[galaxies, height, width, 3], whose
        GalaxyIDs are 0, 1, ...

    Raises:
      UserError: nothing there, or one GalaxyID twice.
    """
    if isinstance(what, str | os.PathLike):
        listing = _of_path(os.fspath(what))
    elif isinstance(what, pd.DataFrame):
        name = what.index.name
        known = name in ID_COLUMNS and name not in what.columns
        listing = _of_table(what.reset_index() if known else what, "images", "")
    elif getattr(what, "ndim", 1) != 1:
        listing = _of_arrays(np.asarray(what))
    elif isinstance(what, Iterable):
        paths = pd.Series(list(what), dtype=object)
        listing = _of_table(pd.DataFrame({FILE_COLUMNS[0]: paths}), "images", "")
    else:
        raise UserError(
            "images: expected a path, a list of paths, a DataFrame or an array uint8[galaxies, "
            f"height, width, 3], found {type(what).__name__}"
        )
    where = what if isinstance(what, str | os.PathLike) else "images"
    if not listing.ids:
        raise UserError(f"{where}: expected at least one image, found none")
    seen: dict[str, str] = {}
    for galaxy, file in zip(listing.ids, listing.files, strict=False):  # others have no files
        if fault := check_name(galaxy) or check_name(file):
            raise UserError(f"{where}: {fault}")
        if galaxy in seen:
            raise UserError(
                f"{where}: {seen[galaxy]} and {file} are images of one galaxy, {galaxy}; a table "
                f"with the columns {ID_COLUMNS[0]} and {FILE_COLUMNS[0]} can name them"
            )
        seen[galaxy] = file
    return listing


def _of_path(name: str) -> Listing:
    path = Path(name)
    if packs.is_pack(path):
        return Listing(list(packs.read_ids(path)), [], path)
    if path.is_dir():
        files = find_files(path)
        expected = "no image in this folder; expected files such as 100008.jpg"
    elif name.lower().endswith(TABLES):
        return _of_table(_read_table(path), name, path.parent)
    elif path.is_file():
        files = [name]
        expected = f"expected an image ({', '.join(SUFFIXES)}), a folder of them, or a table"
    else:
        files = in_order(glob.glob(name, recursive=True))
        expected = "expected a folder, a pattern that fits images, or a table"
    files = [file for file in files if is_image(os.path.basename(file))]
    if not files:
        raise UserError(f"{name}: {expected}")
    return Listing([Path(file).stem for file in files], files)


def _read_table(path: Path) -> pd.DataFrame:
    """The columns of files and of galaxies, of the hundreds that tables of surveys have."""
    wanted = (*FILE_COLUMNS, *ID_COLUMNS)
    try:
        if path.suffix.lower() == ".parquet":
            names = pyarrow.parquet.read_schema(path).names
            table = pd.read_parquet(path, columns=[name for name in names if name in wanted])
        else:
            names = list(pd.read_csv(path, nrows=0, index_col=False).columns)
            table = pd.read_csv(
                path,
                dtype=str,
                usecols=lambda name: name in wanted,
                keep_default_na=False,  # a galaxy may be called NA
                index_col=False,  # a comma at the end of each line would shift the columns
            )
    except FileNotFoundError:
        raise UserError(f"{path}: no such table of images") from None
    except Exception as error:  # pandas, pyarrow and the decompressors raise many kinds
        raise UserError(f"{path}: not readable as a table: {one_line(error)}") from error
    _column_of_files(names, str(path))
    return table


def _of_table(table: pd.DataFrame, where: str, folder: str | Path) -> Listing:
    column = _column_of_files(table.columns, where)
    files = [os.path.join(folder, name) for name in _names(table[column], where, str)]
    known = _first(ID_COLUMNS, table.columns)
    if known is None:
        return Listing([Path(file).stem for file in files], files)
    return Listing(_names(table[known], where, str, numbers.Integral), files)


def _of_arrays(pixels: np.ndarray) -> Listing:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        shape = ", ".join(map(str, pixels.shape))
        raise UserError(
            f"images: expected uint8[galaxies, height, width, 3], found {pixels.dtype}[{shape}]"
        )
    return Listing([str(number) for number in range(len(pixels))], [], pixels=pixels)


def _names(column: pd.Series, where: str, *kinds: type) -> list[str]:
    """The texts of a column, or whole numbers, written out."""
    values = [os.fspath(value) if isinstance(value, os.PathLike) else value for value in column]
    for row, (value, missing) in enumerate(zip(values, column.isna(), strict=True), 1):
        if missing or (isinstance(value, str) and not value):
            raise UserError(f"{where}: row {row} has nothing in {column.name}")
    if pd.api.types.is_float_dtype(column):
        raise UserError(
            f"{where}: {column.name} is a column of floating-point numbers, which cannot tell all "
            "galaxies apart; expected text or whole numbers"
        )
    for row, value in enumerate(values, 1):
        if not isinstance(value, kinds):
            raise UserError(
                f"{where}: row {row}, {column.name}: expected text"
                f"{' or a whole number' * (numbers.Integral in kinds)}, found "
                f"{type(value).__name__}"
            )
    return list(map(str, values))


def _column_of_files(columns: Iterable[str], where: str) -> str:
    columns = list(columns)
    column = _first(FILE_COLUMNS, columns)
    if column is None:
        raise UserError(
            f"{where}: expected a column of files, named one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(map(str, columns[:8]))}"
        )
    return column


def _first(names: Sequence[str], columns: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)
