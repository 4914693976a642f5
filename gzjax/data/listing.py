"""Which images to predict: a folder, a pattern, a table that names them, or a pack."""

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow
import pyarrow.parquet

from gzjax.data import catalog, pack
from gzjax.data.catalog import SUFFIXES
from gzjax.data.sources import ImageFiles, Images
from gzjax.errors import UserError

# What tables in this field call the column of files, and that of galaxies; the first one there.
FILE_COLUMNS = ("file", "file_loc", "filename", "path", "image")
ID_COLUMNS = ("GalaxyID", "id_str", "id", "objid", "dr7objid")


class Listing(NamedTuple):
    """Images in the order of their predictions.

    ids: GalaxyIDs, each once; a file's name without its suffix, where no table gives another.
    files: paths; none of a pack.
    pack: folder of a pack, if they are of one.
    """

    ids: list[str]
    files: list[str]
    pack: Path | None = None

    def framed(self, crop: float, canvas: int) -> Images:
        """The images, cut out and rescaled as `sources.read_image` does.

        Raises:
          UserError: a pack of images that were cut out or rescaled otherwise.
        """
        if self.pack is None:
            return ImageFiles(self.files, crop, canvas)
        return pack.read(self.pack, crop=crop, canvas=canvas).images

    @property
    def digest(self) -> str:
        """Changes with any GalaxyID or path."""
        digest = hashlib.sha256()
        for name in (*self.ids, *self.files, str(self.pack)):
            digest.update(name.encode() + b"\n")
        return digest.hexdigest()[:16]


def list_images(what: str) -> Listing:
    """Finds images.

    Args:
      what: a folder, searched with all folders in it; a pattern such as `images/10*.jpg`, where
        `**` stands for any folders; a CSV or Parquet table with a column of files, paths
        relative to the table; or the folder of a pack.

    Raises:
      UserError: nothing there, or one GalaxyID twice.
    """
    path = Path(what)
    if pack.is_pack(path):
        return Listing(list(pack.read_ids(path)), [], path)
    if path.is_dir():
        listing = _of_files(file for file in path.rglob("*") if file.is_file())
        found = f"{path}: no image in this folder; expected files such as 100008.jpg"
    elif path.suffix.lower() in (".csv", ".parquet"):
        listing = _of_table(path)
        found = f"{path}: no galaxy in this table"
    elif path.is_file():
        listing = _of_files([path])
        found = f"{path}: expected an image ({', '.join(SUFFIXES)}), a folder of them, or a table"
    else:
        listing = _of_files(map(Path, glob.glob(what, recursive=True)))
        found = f"--images {what}: expected a folder, a pattern that fits images, or a table"
    if not listing.ids:
        raise UserError(found)
    seen: dict[str, str] = {}
    for galaxy, file in zip(listing.ids, listing.files, strict=True):
        if fault := catalog.check_name(galaxy) or catalog.check_name(file):
            raise UserError(f"--images {what}: {fault}")
        if galaxy in seen:
            raise UserError(
                f"--images {what}: {seen[galaxy]} and {file} are images of one galaxy, {galaxy}; "
                f"a table with the columns {ID_COLUMNS[0]} and {FILE_COLUMNS[0]} can name them"
            )
        seen[galaxy] = file
    return listing


def _of_files(files) -> Listing:
    images = sorted(
        file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    return Listing([file.stem for file in images], [str(file) for file in images])


def _of_table(path: Path) -> Listing:
    csv = path.suffix.lower() == ".csv"
    try:
        # Tables of surveys have hundreds of columns; two are of use.
        names = (
            pd.read_csv(path, nrows=0).columns if csv else pyarrow.parquet.read_schema(path).names
        )
        column, known = _first(FILE_COLUMNS, names), _first(ID_COLUMNS, names)
        wanted = [name for name in (column, known) if name is not None]
        if csv:
            table = pd.read_csv(path, dtype=str, usecols=wanted, keep_default_na=False)
        else:
            table = pd.read_parquet(path, columns=wanted)
    except FileNotFoundError:
        raise UserError(f"{path}: no such table of images") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as a table: {error}") from None
    if column is None:
        raise UserError(
            f"{path}: expected a column of files, named one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(map(str, names[:8]))}"
        )
    for name in wanted:
        empty = (table[name].isna() | (table[name] == "")).to_numpy()
        if empty.any():
            raise UserError(f"{path}: row {int(empty.argmax()) + 1} has nothing in {name}")
    files = [os.path.join(path.parent, str(file)) for file in table[column]]
    if known is None:
        return Listing([Path(file).stem for file in files], files)
    if pd.api.types.is_float_dtype(table[known]):
        raise UserError(
            f"{path}: {known} is a column of floating-point numbers, which cannot tell all "
            "galaxies apart; expected text or whole numbers"
        )
    return Listing(table[known].astype(str).tolist(), files)


def _first(names: Sequence[str], columns: Iterable[str]) -> str | None:
    return next((name for name in names if name in columns), None)
