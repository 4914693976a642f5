"""The rows of tables: who the galaxies are, where their images are, and numbers, CSV or Parquet."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from jaxtyping import Float64

from gzjax import remote
from gzjax.data import parquet
from gzjax.data.paths import name_of, path_of
from gzjax.errors import UserError, one_line

# What tables in this field call the column of galaxies, and that of files; the first one there.
ID_COLUMNS = (
    *("GalaxyID", "id_str", "iauname", "dr8_id", "objid", "dr7objid", "specobjid", "asset_id"),
    *("galaxy_id", "id"),
)
FILE_COLUMNS = ("file_loc", "file", "path", "filename", "image_path", "image")
TABLES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".parquet")

_LINES = 2**16  # of CSV tables, whose unwanted columns are in memory at a time
# An empty cell; in other columns a galaxy may be called NA.
_EMPTY = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None", "<NA>")
# In the metadata of a Parquet table of predictions.
PREDICTED = b"gzjax.predictions"
_ROUNDING = 1e-6  # by which fractions may leave [0, 1]


class Rows:
    """The rows of all tables, one below the other; `file` and `number` say where each is from."""

    def __init__(self, paths: Sequence[Path], header: Sequence[str], numbers: Sequence[str]):
        self.paths = paths
        id_column = first_of(ID_COLUMNS, header)
        texts = [name for name in (first_of((each,), header) for each in FILE_COLUMNS) if name]
        subfolder = first_of(("subfolder",), header)
        if _is_parquet(paths[0]):
            schema = pyarrow.parquet.read_schema(paths[0])
            # One that this table lacks and another has stays, and is missed below.
            texts = [
                name
                for name in texts
                if name not in schema.names or _is_text(schema.field(name).type)
            ]
            image = parquet.image_column(schema)
        else:
            image = None
        wanted = [*filter(None, (id_column, *texts, subfolder))]
        frames = [_read(path, wanted, numbers) for path in paths]
        self.table = pd.concat(frames, ignore_index=True)
        if not len(self.table):
            raise UserError(f"{paths[0]}: expected at least one galaxy, found none")
        self.file = np.repeat(np.arange(len(paths)), [len(frame) for frame in frames])
        self.number = np.concatenate([frame.index.to_numpy() for frame in frames])
        self.files = self._files() if texts else None
        self.embedded = None
        if image is not None:
            self.embedded = parquet.Cells(image, tuple(map(str, paths)), self.file, self.number)
        self.ids = self._ids(id_column, header)

    def where(self, row: int) -> str:
        """The file and the line, or the row of a Parquet table."""
        path = self.paths[int(self.file[row])]
        if _is_parquet(path):
            return f"{path}: row {self.number[row] + 1}"
        return f"{path}: line {self.number[row] + 2}"  # the header is line 1

    def numbers(
        self, names: Iterable[str | None], most: float
    ) -> Float64[np.ndarray, "rows columns"]:
        """The numbers of some columns; NaN for empty cells, and for a column that is None.

        Raises:
          UserError: something else than a number from 0 to `most`.
        """
        columns, slack = list(names), _ROUNDING * (most == 1)
        values = np.full((len(self.table), len(columns)), np.nan)
        wrong = np.zeros(values.shape, bool)
        for place, name in enumerate(columns):
            if name is None:
                continue
            given = self.table[name]
            if given.dtype == object:
                given = given.astype(str).where(given.notna())
            numbers = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan)
            good = (numbers >= -slack) & (numbers <= most + slack) & np.isfinite(numbers)
            wrong[:, place] = ~good & given.notna() & ~given.isin(_EMPTY)
            values[:, place] = numbers
        if wrong.any():
            row, place = np.argwhere(wrong)[0]
            expected = "a number in [0, 1]" if most == 1 else "a number of votes"
            raise UserError(
                f"{self.where(row)}, {columns[place]}: expected {expected}, found "
                f"{one_line(self.table[columns[place]].iloc[row])}; {wrong.sum()} in all"
            )
        return values.clip(0, most)

    def _files(self) -> list[str] | None:
        """The files of images, seen from the tables' folders; "" for an empty cell."""
        folders = [str(self.paths[file].parent) for file in self.file.tolist()]
        column = files_in(self.table, folders)
        if column is None:
            return None
        names = zip(folders, column.fillna("").tolist(), strict=True)
        return [
            os.path.join(folder, name) if name and not remote.is_remote(name) else name
            for folder, name in names
        ]

    def _ids(self, column: str | None, header: Sequence[str]) -> list[str]:
        if column is not None:
            name, ids = column, texts(self.table[column], self.where, str, Integral)
            check_no_floats(pa.array(ids), f"{self.paths[0]}: {column}")
        else:
            name, paths = "the image's path", self.files
            if paths is None and self.embedded is not None:
                named = [parquet.image_paths(path, self.embedded.column) for path in self.paths]
                paths = [path or "" for path in itertools.chain(*named)]
            if not paths:
                raise UserError(
                    f"{self.paths[0]}: expected a column of galaxies, named one of "
                    f"{', '.join(ID_COLUMNS)}; found {one_line(', '.join(header[:8]))}"
                )
            ids = texts(pd.Series([name_of(path) for path in paths], name=name), self.where, str)
        twice = pd.Series(ids).duplicated().to_numpy()
        if twice.any():
            row = int(np.flatnonzero(twice)[0])
            if self.file[ids.index(ids[row])] != self.file[row]:
                raise UserError(f"{self.where(row)}: {name} {ids[row]} is in more than one table")
            place = self.where(row).removeprefix(f"{self.paths[int(self.file[row])]}: ")
            raise UserError(
                f"{self.paths[int(self.file[row])]}: {name} {ids[row]} appears twice (again in "
                f"{place}); {twice.sum()} in all"
            )
        return ids


def _read(path: Path, texts: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """Some columns of a table, without its empty lines; the index counts them, too."""
    table = read_columns(
        path,
        [*texts, *numbers],
        dtype=dict.fromkeys(texts, str),
        keep_default_na=False,
        na_values={name: list(_EMPTY) for name in numbers},
        skip_blank_lines=False,  # they count, too, when a line is named
        low_memory=False,
    )
    if missing := [name for name in texts if name not in table]:
        raise UserError(
            f"{path}: expected the columns of the other tables, {len(missing)} missing: "
            f"{one_line(', '.join(missing[:5]))}{' ...' * (len(missing) > 5)}"
        )
    absent = [name for name in numbers if name not in table]  # of other tables: unknown here
    table = table.assign(**dict.fromkeys(absent, np.nan))
    if _is_parquet(path):
        return table
    filled = table.notna() & (table != "")
    return table[filled.any(axis=1)]


def column_names(path: Path) -> list[str]:
    """All columns of a CSV or Parquet table.

    Raises:
      UserError: no such file, or one that is not readable.
    """
    with _readable(path):
        if _is_parquet(path):
            return list(pyarrow.parquet.read_schema(path).names)
        return list(map(str, pd.read_csv(path, nrows=0, index_col=False).columns))


def is_prediction(path: Path) -> bool:
    """Whether a Parquet table says that a model predicted it; other tables cannot say."""
    if not _is_parquet(path):
        return False
    with _readable(path):
        schema = pyarrow.parquet.read_schema(path)
    # The columns, since pandas drops the mark.
    return PREDICTED in (schema.metadata or {}) or any(
        name.endswith(("_90pc-lower", "_proportion-asked")) for name in schema.names
    )


def number_of_rows(path: Path) -> int:
    """How many rows a Parquet table has.

    Raises:
      UserError: no such file, or one that is not readable.
    """
    with _readable(path):
        return pyarrow.parquet.read_metadata(path).num_rows


def read_columns(path: Path, wanted: Sequence[str], **options: Any) -> pd.DataFrame:
    """Those of the wanted columns that a CSV or Parquet table has.

    CSV tables may be compressed; `options` are those of `pandas.read_csv`.

    Raises:
      UserError: no such file, or one that is not readable.
    """
    with _readable(path):
        if _is_parquet(path):
            file = pyarrow.parquet.ParquetFile(path)
            there = [name for name in file.schema_arrow.names if name in wanted]
            table = _plain(file.read(columns=there).select(there))
            return table.reindex(range(file.metadata.num_rows))  # also of no column
        return pd.concat(_csv_chunks(path, wanted, _LINES, options))


def read_chunks(
    path: Path, wanted: Sequence[str], rows: int, **options: Any
) -> Iterator[pd.DataFrame]:
    """What `read_columns` gives, this many rows at a time; at least one piece, be it empty."""
    with _readable(path):
        if not _is_parquet(path):
            yield from _csv_chunks(path, wanted, rows, options)
            return
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            there = [name for name in file.schema_arrow.names if name in wanted]
            schema = pa.schema(file.schema_arrow.field(name) for name in there)
            empty = [schema.empty_table()] * (file.metadata.num_rows == 0)
            batches = file.iter_batches(rows, columns=there)
            pieces = (pa.Table.from_batches([batch]).select(there) for batch in batches)
            for piece in itertools.chain(empty, pieces):
                yield _plain(piece)


def _csv_chunks(
    path: Path, wanted: Sequence[str], rows: int, options: Mapping[str, Any]
) -> Iterator[pd.DataFrame]:
    # An unquoted comma gives a line more cells than the header. pandas refuses such a line only if
    # the first one is shorter, so the first one's own surplus is read and looked at. `usecols`
    # would switch that off, and without `index_col=False` a surplus would become the index.
    header = column_names(path)
    more = [f"\0{n}" for n in range(_width(path) - len(header))]
    layout = {"header": 0, "names": [*header, *more]} if more else {}
    options = {**options, **layout, "index_col": False}
    for chunk in pd.read_csv(path, chunksize=rows, **options):
        wrong = (chunk[more].notna() & (chunk[more] != "")).any(axis=1)
        if wrong.any():  # else a comma at the end of each line
            raise ValueError(
                f"row {chunk.index[wrong][0] + 1} has more cells than the header; one with a comma "
                "has to be in quotes"
            )
        yield chunk[[name for name in header if name in wanted]]


def _width(path: Path) -> int:
    """How many cells the first line below the header has."""
    with contextlib.suppress(pd.errors.EmptyDataError):
        return pd.read_csv(path, header=None, skiprows=1, nrows=1, dtype=str).shape[1]
    return 0


def _plain(table: pa.Table) -> pd.DataFrame:
    """A DataFrame of an Arrow table; dictionaries are written out.

    Raises:
      ArrowInvalid: text that is not UTF-8.
    """
    table.validate(full=True)
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table.column(place).cast(field.type.value_type)
            table = table.set_column(place, field.name, plain)
    return table.to_pandas(ignore_metadata=True)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table") from None
    except Exception as error:  # pandas, pyarrow and the decompressors raise many kinds
        raise UserError(f"{path}: not readable as a table: {one_line(error)}") from error


def first_of(names: Iterable[str], header: Iterable[str]) -> str | None:
    """The column of the first of these names that is there, upper and lower case being one."""
    there = {str(name).lower(): name for name in reversed(list(header))}
    return next((there[name.lower()] for name in names if name.lower() in there), None)


def files_in(table: pd.DataFrame, folders: Sequence[str]) -> pd.Series | None:
    """Of the columns of files the first of which a file is there, seen from each row's folder.

    A column `subfolder` stands before a `filename`. If no file is there it is the first column; if
    there is no such column, None.
    """
    subfolder, found = first_of(("subfolder",), table.columns), []
    for name in FILE_COLUMNS:
        column = first_of((name,), table.columns)
        if column is None:
            continue
        files = table[column]
        if subfolder is not None and name == "filename":
            files = (table[subfolder].astype(str) + "/").where(files.notna()) + files
            files = files.rename(column)
        first = zip(folders, files.head(100), strict=False)
        if any_there([os.path.join(*each) for each in first if isinstance(each[1], str)]):
            return files
        found.append(files)
    return found[0] if found else None


def cutouts_advice(header: Sequence[str]) -> str:
    """What to do with positions on the sky alone; an empty string if there are none."""
    ra, dec = (first_of((name,), header) for name in ("ra", "dec"))
    if ra is None or dec is None:
        return ""
    return (
        f"; a survey's cut-out service turns the positions in {ra}, {dec} into images, such as "
        "https://www.legacysurvey.org/viewer/jpeg-cutout?ra=RA&dec=DEC&layer=ls-dr10&pixscale=0.262"
        "&size=424: save them, and list their paths in a column `file`"
    )


def any_there(files: Sequence[str]) -> bool:
    """Whether one of the first hundred files is there."""
    return any(os.path.isfile(path_of(file)) for file in files[:100])


def texts(column: pd.Series, where: Callable[[int], str], *kinds: type) -> list[str]:
    """The texts of a column, or whole numbers, written out.

    Raises:
      UserError: an empty cell, or something that is none of `kinds`; `where` names the row.
    """
    values = [os.fspath(value) if isinstance(value, os.PathLike) else value for value in column]
    for row, (value, missing) in enumerate(zip(values, column.isna(), strict=True)):
        if missing or (isinstance(value, str) and not value):
            raise UserError(f"{where(row)} has nothing in {column.name}")
    if pd.api.types.is_float_dtype(column):
        raise UserError(
            f"{where(0).rpartition(': ')[0]}: {column.name} is a column of floating-point numbers, "
            "which cannot tell all galaxies apart; expected text or whole numbers"
        )
    for row, value in enumerate(values):
        if not isinstance(value, kinds):
            raise UserError(
                f"{where(row)}, {column.name}: expected text"
                f"{' or a whole number' * (Integral in kinds)}, found {type(value).__name__}"
            )
    return list(map(str, values))


def check_no_floats(ids: pa.Array, where: str) -> None:
    """Raises a UserError for GalaxyIDs that have been floating-point numbers: digits are lost."""
    if not len(ids):
        return
    whole = pc.all(pc.match_substring_regex(ids, r"^\d+\.0*$")).as_py()
    rounded = pc.match_substring_regex(ids, r"^\d(\.\d+)?[eE]\+\d+$")
    if whole or pc.any(rounded).as_py():
        found = ids[0] if whole else ids.filter(rounded)[0]
        raise UserError(
            f"{where} is a column of floating-point numbers such as {found}, which no other table "
            "may write alike; expected text or whole numbers"
        )


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)
