"""Which images to predict: a folder, a pattern, a table that names them, a pack, or arrays."""

import functools
import glob
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from gzjax import remote
from gzjax.data import file_tables, names, packs
from gzjax.data.images import (
    Framing,
    ImageArrays,
    ImageFiles,
    Images,
    JoinedImages,
)
from gzjax.data.parquet import Cells, ParquetImages, holds_images
from gzjax.data.paths import SUFFIXES, find_files, in_order, is_image, name_of, path_of
from gzjax.data.rows import (
    ID_COLUMNS,
    TABLES,
    Rows,
    any_there,
    column_names,
    first_of,
    number_of_rows,
)
from gzjax.errors import UserError, renamed


class Listing(NamedTuple):
    """Images in the order of their predictions.

    ids: GalaxyIDs, each once; a file's name without its suffix, where no table gives another.
    files: paths; none of a pack or of arrays.
    pack: folder of a pack, if they are of one.
    rows: int[galaxies], of the pack or of `made`; None: all.
    pixels: uint8[galaxies, height, width, 3], if they are in memory.
    embedded: where they are inside Parquet files, if they are.
    made: images that are cut out and rescaled already, as galaxies of a run are, and how.
    """

    ids: Sequence[str]
    files: Sequence[str]
    pack: Path | None = None
    rows: np.ndarray | None = None
    pixels: np.ndarray | None = None
    embedded: Cells | None = None
    made: tuple[Images, Framing] | None = None

    def part(self, rows: range) -> "Listing":
        """Some of the images, one after the other; their names are in memory."""
        cut = slice(rows.start, rows.stop)
        return self._some(self.ids[cut], self.files[cut], cut)

    def take(self, rows: Sequence[int]) -> "Listing":
        """Those of some rows, wherever they are; their names are in memory."""
        files = [self.files[row] for row in rows] if len(self.files) else []
        return self._some([self.ids[row] for row in rows], files, np.asarray(rows, int))

    def _some(
        self, ids: Sequence[str], files: Sequence[str], rows: slice | np.ndarray
    ) -> "Listing":
        return Listing(
            ids,
            files,
            self.pack,
            self._rows(rows),
            None if self.pixels is None else self.pixels[rows],
            None if self.embedded is None else self.embedded.take(rows),
            self.made,
        )

    def _rows(self, some: slice | np.ndarray) -> np.ndarray | None:
        if self.pack is None and self.made is None:
            return None
        return (np.arange(len(self.ids)) if self.rows is None else self.rows)[some]

    def framed(self, framing: Framing) -> Images:
        """The images, cut out and rescaled as `images.read_image` does.

        Raises:
          UserError: images that were cut out or rescaled otherwise already.
        """
        if self.made is not None:
            images, theirs = self.made
            if theirs != framing:
                raise UserError(f"images: expected galaxies in {framing}, found them in {theirs}")
            return images if self.rows is None else JoinedImages([(images, self.rows)])
        if self.pixels is not None:
            return ImageArrays(self.pixels, framing)
        if self.pack is not None:
            changed = (self.pack / packs.MANIFEST).stat().st_mtime_ns
            packed = _packed(self.pack, framing, changed)
            return packed if self.rows is None else JoinedImages([(packed, self.rows)])
        if self.embedded is not None:
            return ParquetImages(self.embedded, framing)
        return ImageFiles(self.files, framing)

    def framing(self, wanted: Framing) -> Framing:
        """The one in which images can be read: of a pack its own, of others the wanted one."""
        if self.made is not None:
            return self.made[1]
        return wanted if self.pack is None else packs.framing_of(self.pack)

    @property
    def digest(self) -> str:
        """Changes with any GalaxyID, path or pixel in memory."""
        digest = hashlib.sha256(str(self.pack).encode(errors="surrogateescape"))
        if self.made is not None:
            digest.update(f"{self.made[1]}".encode())
        for part in (self.ids, self.files):
            digest.update(names.digest_of(part).encode())
        if self.embedded is not None:
            digest.update("\n".join(self.embedded.files).encode(errors="surrogateescape"))
            digest.update(self.embedded.file.tobytes() + self.embedded.row.tobytes())
        if self.pixels is not None:
            digest.update(f"{self.pixels.shape}".encode() + self.pixels.tobytes())
        return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=4)
def _packed(folder: Path, framing: Framing, changed: int) -> Images:
    """The images of a pack, opened once for all of its parts."""
    return packs.read(folder, tree=None, framing=framing).images


def list_images(what: Any) -> Listing:
    """Finds images. Whether a file can be read is seen when it is.

    Names of files are not held in memory, see `names.keep`.

    Args:
      what: a folder, searched with all folders in it; a pattern such as `images/10*.jpg`, where
        `**` stands for any folders; a CSV or Parquet table with a column of files, paths relative
        to the table; a Parquet table that holds the images themselves, or a folder or a pattern of
        such; the folder of a pack; a single image; a URL of images or of a table of files; or, from
        Python, a sequence of paths, a DataFrame with a column of files, an array uint8[galaxies,
        height, width, 3], whose GalaxyIDs are 0, 1, ... and which is cut out as files are, or a
        listing, such as `Data.listed` gives of galaxies that are cut out already.

    Raises:
      UserError: nothing there, or one GalaxyID twice.
    """
    if isinstance(what, Listing):
        listing = what
    elif isinstance(what, str | os.PathLike):
        listing = _of_path(os.fspath(what))
    elif isinstance(what, pd.DataFrame):
        if twice := list(map(str, what.columns[what.columns.duplicated()])):
            raise UserError(f"images: expected columns of different names, found {twice[0]} twice")
        name = what.index.name
        known = name is not None and first_of(ID_COLUMNS, [str(name)]) and name not in what.columns
        listing = _of_tables([what.reset_index() if known else what])
    elif getattr(what, "ndim", 1) != 1:
        listing = _of_arrays(np.asarray(what))
    elif isinstance(what, Iterable):
        paths = pd.Series(list(what), dtype=object)
        listing = _of_tables([pd.DataFrame({"file": paths})])
    else:
        raise UserError(
            "images: expected a path, a list of paths, a DataFrame or an array uint8[galaxies, "
            f"height, width, 3], found {type(what).__name__}"
        )
    if not len(listing.ids):
        where = what if isinstance(what, str | os.PathLike) else "images"
        raise UserError(f"{where}: expected at least one image, found none")
    return listing


def _of_path(name: str) -> Listing:
    if remote.is_remote(name):
        return _of_url(name)
    name = os.path.expanduser(name)
    path = Path(name)
    if packs.is_pack(path):
        return _of_pack(path)
    found: Iterable[str]
    if path.is_dir():
        found = find_files(path)
        first = next(found, None)
        if first is not None:
            embedded = next(filter(holds_images, path.glob("*.parquet")), None)
            if embedded is not None:
                raise UserError(
                    f"{name}: expected image files, or Parquet files that hold images, found both, "
                    f"such as {first} and {embedded}; a pattern such as *.parquet names some"
                )
            return _of_files(itertools.chain([first], found), name)
        shards = in_order(glob.glob(f"{glob.escape(name)}/**/*.parquet", recursive=True))
        if shards:
            return _of_shards(shards)
        raise UserError(f"{name}: no image in this folder; expected files such as 100008.jpg")
    if path.suffix == ".parquet" and path.is_file() and holds_images(path):
        return _of_shards([name])
    if name.lower().endswith(TABLES) and (path.is_file() or not glob.has_magic(name)):
        return Listing(*_kept(file_tables.of_file(path, name, path.parent), name))
    if os.path.isfile(path_of(name)):
        found = [name]
        expected = f"expected an image ({', '.join(SUFFIXES)}), a folder of them, or a table"
    else:
        found = in_order(glob.glob(name, recursive=True))
        if found and all(file.endswith(".parquet") for file in found):
            return _of_shards(found)
        expected = "expected a folder, a pattern that fits images, or a table"
    found = [file for file in found if is_image(os.path.basename(path_of(file)))]
    if not found:
        raise UserError(f"{name}: {expected}")
    return _of_files(found, name)


def _of_pack(path: Path) -> Listing:
    """Of a galaxy that is in several of its catalogues, the first image."""
    ids = np.array(packs.read_ids(path), dtype=object)
    rows = np.flatnonzero(~pd.Index(ids).duplicated())
    return Listing(ids[rows].tolist(), [], path, None if len(rows) == len(ids) else rows)


def _of_url(url: str) -> Listing:
    """Of images, or a table of their files, on another machine; see `gzjax.remote`."""
    if url.lower().endswith(TABLES) and "*" not in url:
        with remote.copied(url) as copy, renamed(copy, url):
            return Listing(*_kept(file_tables.of_file(copy, url, url.rpartition("/")[0]), url))
    if is_image(os.path.basename(path_of(url))) and "*" not in url:
        return _of_files([url], url)
    found = [file for file in in_order(remote.find(url)) if is_image(os.path.basename(file))]
    if not found:
        raise UserError(
            f"{url}: expected an image ({', '.join(SUFFIXES)}), a folder of them, a pattern or a "
            "table of their files"
        )
    return _of_files(found, url)


def _of_tables(tables: list[pd.DataFrame]) -> Listing:
    return Listing(*_kept(file_tables.of_tables(tables, "images", ""), "images"))


def _of_files(files: Iterable[str], where: str) -> Listing:
    """Of files, which name the galaxies."""

    def chunks() -> Iterator[tuple[pa.Array, pa.Array]]:
        for some in _batched(files):
            yield names.strings([name_of(file) for file in some], where), names.strings(some, where)

    return Listing(*_kept(chunks(), where))


def _batched(files: Iterable[str]) -> Iterator[list[str]]:
    files = iter(files)
    while some := list(itertools.islice(files, names.CHUNK)):
        yield some


def _kept(
    chunks: Iterable[tuple[pa.Array, pa.Array | None]], where: object
) -> tuple[Sequence[str], Sequence[str]]:
    advice = f"; a table with the columns {ID_COLUMNS[0]} and file can name them"
    return names.keep(chunks, where, advice)


def _of_shards(files: list[str]) -> Listing:
    """Of Parquet files that hold images; or the paths of images, where these are there."""
    files = [file for file in files if number_of_rows(Path(file))] or files[:1]
    first = Rows([Path(files[0])], column_names(Path(files[0])), [])
    if first.embedded is None and first.files is None:
        raise UserError(f"{files[0]}: expected a column of encoded images, or of their files")
    inside = first.embedded is not None and not (first.files and any_there(first.files))
    cells: list[Cells] = []

    def chunks() -> Iterator[tuple[pa.Array, pa.Array | None]]:
        for file in files:
            rows = first if file == files[0] else Rows([Path(file)], column_names(Path(file)), [])
            ids = names.strings(rows.ids, file)
            if inside and rows.embedded is not None:
                cells.append(rows.embedded)
                yield ids, None
            elif not inside and rows.files is not None:
                yield ids, names.strings(rows.files, file)
            else:
                kind = "encoded images" if inside else "files"
                raise UserError(f"{file}: expected a column of {kind}, as {files[0]} has")

    listing = Listing(*_kept(chunks(), files[0]))
    if not inside:
        return listing
    numbers = [each.row.astype(np.int32) for each in cells]
    of_file = np.repeat(np.arange(len(files), dtype=np.int32), [len(each) for each in numbers])
    embedded = Cells(cells[0].column, tuple(files), of_file, np.concatenate(numbers))
    return listing._replace(embedded=embedded)


def _of_arrays(pixels: np.ndarray) -> Listing:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        shape = ", ".join(map(str, pixels.shape))
        raise UserError(
            f"images: expected uint8[galaxies, height, width, 3], found {pixels.dtype}[{shape}]"
        )
    return Listing([str(number) for number in range(len(pixels))], [], pixels=pixels)
