"""Tables of files: which image is of which galaxy, a piece at a time."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gzjax import remote
from gzjax.data import names
from gzjax.data.paths import name_of
from gzjax.data.rows import (
    FILE_COLUMNS,
    ID_COLUMNS,
    check_no_floats,
    column_names,
    cutouts_advice,
    files_in,
    first_of,
    read_chunks,
    texts,
)
from gzjax.errors import UserError

Chunk = tuple[pa.Array, pa.Array]  # GalaxyIDs, and their files


def of_file(path: Path, where: str, folder: str | Path) -> Iterator[Chunk]:
    """GalaxyIDs and files of a CSV or Parquet table.

    Args:
      path: of the table.
      where: that is, for people.
      folder: which relative paths are seen from.

    Raises:
      UserError: no column of files, or a row without one.
    """
    header = column_names(path)
    wanted = [first_of([each], header) for each in (*FILE_COLUMNS, "subfolder")]
    wanted.append(first_of(ID_COLUMNS, header))
    # As text, since a galaxy may be called 007, or NA.
    options = {"dtype": str, "keep_default_na": False}
    tables = read_chunks(path, [*filter(None, wanted)], names.CHUNK, **options)
    return of_tables(tables, where, folder, header)


def of_tables(
    tables: Iterable[pd.DataFrame], where: str, folder: str | Path, header: Iterable[object] = ()
) -> Iterator[Chunk]:
    """The same of one table, a piece at a time, with these and perhaps more columns: `header`."""
    columns, first = None, 0
    for table in tables:

        def row(number: int, first: int = first) -> str:
            return f"{where}: row {first + number + 1}"

        if columns is None:
            columns = _columns_of(table, where, folder, header)
        table = table[columns]
        of_galaxies = first_of(ID_COLUMNS, table.columns)
        of_files = files_in(table, [str(folder)] * len(table))
        assert of_files is not None  # as `_columns_of` has found it
        files = _seen_from(folder, _strings(of_files, row, str))
        if of_galaxies is None:
            ids = names.strings([name_of(file) for file in files.to_pylist()], where)
        else:
            ids = _strings(table[of_galaxies], row, str, Integral)
            check_no_floats(ids, f"{where}: {of_galaxies}")
        yield ids, files
        first += len(table)


def _columns_of(
    table: pd.DataFrame, where: str, folder: str | Path, header: Iterable[object]
) -> list[str]:
    """The columns of files, of their subfolder and of galaxies, by the first piece of a table."""
    of_files = files_in(table, [str(folder)] * len(table))
    if of_files is None:
        found = list(map(str, header or table.columns))
        raise UserError(
            f"{where}: expected a column of files, named one of {', '.join(FILE_COLUMNS)}; found "
            f"{', '.join(found[:8])}{cutouts_advice(found)}"
        )
    others = (first_of(each, table.columns) for each in (["subfolder"], ID_COLUMNS))
    return [str(of_files.name), *filter(None, others)]


def _strings(column: pd.Series, row: Callable[[int], str], *kinds: type) -> pa.Array:
    """The texts of a column, or whole numbers, written out; see `rows.texts` for what it raises."""
    with contextlib.suppress(UnicodeEncodeError, pa.ArrowInvalid, pa.ArrowTypeError):
        found = pa.array(column, from_pandas=True)
        found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
        whole = Integral in kinds and pa.types.is_integer(found.type)
        if whole or pa.types.is_string(found.type) or pa.types.is_large_string(found.type):
            found = found.cast(pa.string())
            if not found.null_count and pc.all(pc.not_equal(found, "")).as_py():
                return found
    where = row(0).rpartition(": ")[0]
    return names.strings(texts(column, row, *kinds), where)


def _seen_from(folder: str | Path, files: pa.Array) -> pa.Array:
    """`os.path.join` of a folder and paths."""
    folder = os.path.join(folder, "")
    joined = pc.binary_join_element_wise(folder, files, "")
    whole = pc.match_substring_regex(files, f"^{os.sep}|{remote.PATTERN}")
    return pc.if_else(whole, files, joined)
