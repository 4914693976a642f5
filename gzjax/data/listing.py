"""Which images to predict: a folder, a pattern, a table that names them, a pack, or arrays."""

import glob
import hashlib
import numbers
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gzjax.data import packs
from gzjax.data.catalogue import by_galaxy, read_columns
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
from gzjax.errors import UserError

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
            return packs.read(self.pack, tree=None, framing=framing).images
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
    if listing.files:
        advice = f"; a table with the columns {ID_COLUMNS[0]} and {FILE_COLUMNS[0]} can name them"
        by_galaxy(listing.ids, listing.files, where, advice)
    return listing


def _of_path(name: str) -> Listing:
    path = Path(name)
    if packs.is_pack(path):
        return Listing(list(packs.read_ids(path)), [], path)
    if path.is_dir():
        files = find_files(path)
        expected = "no image in this folder; expected files such as 100008.jpg"
    elif name.lower().endswith(TABLES):
        # As text, since a galaxy may be called 007, or NA.
        table, names = read_columns(
            path, (*FILE_COLUMNS, *ID_COLUMNS), dtype=str, keep_default_na=False
        )
        return _of_table(table, name, path.parent, names)
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


def _of_table(
    table: pd.DataFrame, where: str, folder: str | Path, names: Iterable[object] = ()
) -> Listing:
    """Of a table with these and perhaps more columns: `names`, if it has been read in part."""
    of_files = [name for name in FILE_COLUMNS if name in table.columns]
    of_galaxies = [name for name in ID_COLUMNS if name in table.columns]
    if not of_files:
        found = list(map(str, names or table.columns))
        raise UserError(
            f"{where}: expected a column of files, named one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(found[:8])}"
        )
    files = [os.path.join(folder, name) for name in _names(table[of_files[0]], where, str)]
    if not of_galaxies:
        return Listing([Path(file).stem for file in files], files)
    return Listing(_names(table[of_galaxies[0]], where, str, numbers.Integral), files)


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
