"""Which images to predict: a folder, a pattern, a table that names them, a pack, or arrays."""

import glob
import hashlib
import os
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gzjax.data import packs
from gzjax.data.catalogue import by_galaxy
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
from gzjax.data.parquet import Cells, ParquetImages, holds_images
from gzjax.data.paths import name_of, path_of
from gzjax.data.rows import (
    FILE_COLUMNS,
    ID_COLUMNS,
    TABLES,
    Rows,
    any_there,
    column_names,
    cutouts_advice,
    files_in,
    first_of,
    read_columns,
    texts,
)
from gzjax.errors import UserError


class Listing(NamedTuple):
    """Images in the order of their predictions.

    ids: GalaxyIDs, each once; a file's name without its suffix, where no table gives another.
    files: paths; none of a pack or of arrays.
    pack: folder of a pack, if they are of one.
    pixels: uint8[galaxies, height, width, 3], if they are in memory.
    embedded: where they are inside Parquet files, if they are.
    """

    ids: list[str]
    files: list[str]
    pack: Path | None = None
    pixels: np.ndarray | None = None
    embedded: Cells | None = None

    def framed(self, framing: Framing) -> Images:
        """The images, cut out and rescaled as `images.read_image` does.

        Raises:
          UserError: a pack of images that were cut out or rescaled otherwise.
        """
        if self.pixels is not None:
            return ImageArrays(self.pixels, framing)
        if self.pack is not None:
            return packs.read(self.pack, tree=None, framing=framing).images
        if self.embedded is not None:
            return ParquetImages(self.embedded, framing)
        return ImageFiles(self.files, framing)

    def framing(self, wanted: Framing) -> Framing:
        """The one in which images can be read: of a pack its own, of others the wanted one."""
        return wanted if self.pack is None else packs.framing_of(self.pack)

    @property
    def digest(self) -> str:
        """Changes with any GalaxyID, path or pixel in memory."""
        digest = hashlib.sha256()
        cells = self.embedded.names if self.embedded is not None else ()
        for name in (*self.ids, *self.files, *cells, str(self.pack)):
            digest.update(name.encode(errors="surrogateescape") + b"\n")
        if self.pixels is not None:
            digest.update(f"{self.pixels.shape}".encode() + self.pixels.tobytes())
        return digest.hexdigest()[:16]


def list_images(what: Any) -> Listing:
    """Finds images. Whether a file can be read is seen when it is.

    Args:
      what: a folder, searched with all folders in it; a pattern such as `images/10*.jpg`, where
        `**` stands for any folders; a CSV or Parquet table with a column of files, paths relative
        to the table; a Parquet table that holds the images themselves, or a folder or a pattern of
        such; the folder of a pack; a single image; or, from Python, a sequence of paths, a
        DataFrame with a column of files, or an array uint8[galaxies, height, width, 3], whose
        GalaxyIDs are 0, 1, ...

    Raises:
      UserError: nothing there, or one GalaxyID twice.
    """
    if isinstance(what, str | os.PathLike):
        listing = _of_path(os.fspath(what))
    elif isinstance(what, pd.DataFrame):
        name = what.index.name
        known = name is not None and first_of(ID_COLUMNS, [str(name)]) and name not in what.columns
        listing = _of_table(what.reset_index() if known else what, "images", "")
    elif getattr(what, "ndim", 1) != 1:
        listing = _of_arrays(np.asarray(what))
    elif isinstance(what, Iterable):
        paths = pd.Series(list(what), dtype=object)
        listing = _of_table(pd.DataFrame({"file": paths}), "images", "")
    else:
        raise UserError(
            "images: expected a path, a list of paths, a DataFrame or an array uint8[galaxies, "
            f"height, width, 3], found {type(what).__name__}"
        )
    where = what if isinstance(what, str | os.PathLike) else "images"
    if not listing.ids:
        raise UserError(f"{where}: expected at least one image, found none")
    if listing.files:
        advice = f"; a table with the columns {ID_COLUMNS[0]} and file can name them"
        by_galaxy(listing.ids, listing.files, where, advice)
    return listing


def _of_path(name: str) -> Listing:
    path = Path(name)
    if packs.is_pack(path):
        return Listing(list(packs.read_ids(path)), [], path)
    if path.is_dir():
        files = find_files(path)
        shards = (
            []
            if files
            else in_order(glob.glob(f"{glob.escape(name)}/**/*.parquet", recursive=True))
        )
        if shards:
            return _of_shards(shards)
        expected = "no image in this folder; expected files such as 100008.jpg"
    elif path.suffix == ".parquet" and path.is_file() and holds_images(path):
        return _of_shards([name])
    elif name.lower().endswith(TABLES) and not glob.has_magic(name):
        # As text, since a galaxy may be called 007, or NA.
        names = column_names(path)
        wanted = [first_of([each], names) for each in (*FILE_COLUMNS, "subfolder")]
        wanted.append(first_of(ID_COLUMNS, names))
        table = read_columns(path, [*filter(None, wanted)], dtype=str, keep_default_na=False)
        return _of_table(table, name, path.parent, names)
    elif os.path.isfile(path_of(name)):
        files = [name]
        expected = f"expected an image ({', '.join(SUFFIXES)}), a folder of them, or a table"
    else:
        files = in_order(glob.glob(name, recursive=True))
        if files and all(file.endswith(".parquet") for file in files):
            return _of_shards(files)
        expected = "expected a folder, a pattern that fits images, or a table"
    files = [file for file in files if is_image(os.path.basename(path_of(file)))]
    if not files:
        raise UserError(f"{name}: {expected}")
    return Listing([name_of(file) for file in files], files)


def _of_shards(files: list[str]) -> Listing:
    """Of Parquet files that hold images; or the paths of images, where these are there."""
    paths = [Path(file) for file in files]
    rows = Rows(paths, column_names(paths[0]), [])
    if rows.files is not None and (rows.embedded is None or any_there(rows.files)):
        return Listing(rows.ids, rows.files)
    if rows.embedded is None:
        raise UserError(f"{files[0]}: expected a column of encoded images, or of their files")
    return Listing(rows.ids, [], embedded=rows.embedded)


def _of_table(
    table: pd.DataFrame, where: str, folder: str | Path, names: Iterable[object] = ()
) -> Listing:
    """Of a table with these and perhaps more columns: `names`, if it has been read in part."""
    of_files, of_galaxies = (
        files_in(table, [str(folder)] * len(table)),
        first_of(ID_COLUMNS, table.columns),
    )
    if of_files is None:
        found = list(map(str, names or table.columns))
        raise UserError(
            f"{where}: expected a column of files, named one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(found[:8])}{cutouts_advice(found)}"
        )

    def row(number: int) -> str:
        return f"{where}: row {number + 1}"

    files = [os.path.join(folder, name) for name in texts(of_files, row, str)]
    if of_galaxies is None:
        return Listing([name_of(file) for file in files], files)
    return Listing(texts(table[of_galaxies], row, str, Integral), files)


def _of_arrays(pixels: np.ndarray) -> Listing:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        shape = ", ".join(map(str, pixels.shape))
        raise UserError(
            f"images: expected uint8[galaxies, height, width, 3], found {pixels.dtype}[{shape}]"
        )
    return Listing([str(number) for number in range(len(pixels))], [], pixels=pixels)
