"""Predictions read back from the tables that `--mode predict` wrote, a sample of them if many.

The inverse of `gzjax.run.prediction_columns`. Tables are streamed, so memory does not grow with
them.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
from jaxtyping import Float32

from gzjax.data.rows import ID_COLUMNS, column_names, first_of
from gzjax.errors import UserError, one_line
from gzjax.run.prediction_columns import KINDS, asked_columns
from gzjax.tree import EPSILON, Tree

BATCH = 16384  # rows read at a time
NOBODY = EPSILON + 1e-6  # of whom the fractions are blank, also after rounding to six digits
_ROUNDING = 1e-4  # by which fractions may leave [0, 1]

Answers = Float32[np.ndarray, "galaxies answers"]


class Predictions(NamedTuple):
    """Predictions of some galaxies, in the order of their table.

    ids: GalaxyIDs.
    tree: whose columns the table has.
    cumulative: of all volunteers; NaN of questions that the table lacks.
    conditional: of those who are asked.
    asked: the part of the volunteers who are.
    low, high: the ends of 90 % intervals of the conditional fractions; None where there are none.
    number: galaxies in the table, of which these are a random sample if they are fewer.
    """

    ids: list[str]
    tree: Tree
    cumulative: Answers
    conditional: Answers
    asked: Float32[np.ndarray, "galaxies questions"]
    low: Answers | None
    high: Answers | None
    number: int


def read(path: Path, trees: Sequence[Tree], most: int, seed: int = 0) -> Predictions:
    """Reads predictions; of more than `most` galaxies, that many, drawn at random.

    Args:
      path: a CSV or Parquet table, or a folder of Parquet files.
      trees: that it may be of; of those which fit equally well, the first.
      most: galaxies read at most.
      seed: of the sample.

    Raises:
      UserError: no such table, not the columns of any of the trees, a GalaxyID twice, or no
        fractions.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.glob("*.parquet") if file.name[0] not in "._")
        if not files:
            raise UserError(f"{path}: expected the Parquet files of predictions, found none")
    elif path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: expected predictions: .csv, .parquet, or a folder of the latter")
    header = column_names(files[0])
    of_galaxies = first_of(ID_COLUMNS, header)
    tree = _tree_of(header, trees)
    if of_galaxies is None or tree is None:
        missing = f"a column {ID_COLUMNS[0]}" if of_galaxies is None else "the answers of a tree"
        raise UserError(
            f"{path}: expected {missing}, found {one_line(', '.join(header[:8]))}"
            + "; --workdir or --config.data.tree names a tree of your own" * (tree is None)
        )
    names = set(header)
    numbers = [name for name in _columns(tree) if name in names]
    table = _open(files, of_galaxies, numbers)
    try:
        good = np.concatenate([np.zeros(0, bool), *_good(table, "fault" in names, of_galaxies)])
        rows = np.flatnonzero(good)
        if not len(rows):
            raise UserError(f"{path}: expected predicted galaxies, found none")
        chosen = rows
        if len(rows) > most:
            chosen = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
        ids, values = _take(table, of_galaxies, numbers, chosen)
    except (ValueError, pa.ArrowTypeError, OSError) as error:
        raise UserError(f"{path}: not readable as predictions: {one_line(error)}") from None
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise UserError(f"{path}: {of_galaxies} {one_line(twice)} appears twice")
    wrong = (values < -_ROUNDING) | (values > 1 + _ROUNDING)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: {numbers[place]} of {one_line(ids[row])}: expected a fraction, found "
            f"{values[row, place]:g}"
        )
    found = _fractions(ids, tree, dict(zip(numbers, values.clip(0, 1).T, strict=True)), len(rows))
    if np.isnan(found.cumulative).all():
        raise UserError(
            f"{path}: expected fractions of the votes, found none, or none without those of the "
            "questions before them"
        )
    return found


def _tree_of(header: Sequence[str], trees: Sequence[Tree]) -> Tree | None:
    """The tree most of whose questions are there, of equals the first."""
    best = max(trees, key=lambda tree: len(_there(tree, header)), default=None)
    return best if best is not None and _there(best, header) else None


def _there(tree: Tree, header: Iterable[str]) -> set[int]:
    """The questions, by position, whose fractions are all there, of either kind."""
    names = set(header)
    return {
        question.number - 1
        for question in tree.questions
        if names.issuperset(tree.columns[question.columns])
        or names.issuperset(f"{n}_fraction" for n in tree.survey_columns[question.columns])
    }


def _columns(tree: Tree) -> list[str]:
    """All columns that predictions of a tree may have."""
    survey = [f"{name}_{kind}" for kind in KINDS for name in tree.survey_columns]
    return list(dict.fromkeys([*tree.columns, *survey, *asked_columns(tree)]))


def _open(files: Sequence[Path], galaxies: str, numbers: Sequence[str]) -> pa.dataset.Dataset:
    """The table, with names as text, whatever they look like, and numbers."""
    kinds = {galaxies: pa.string(), "fault": pa.string(), **dict.fromkeys(numbers, pa.float32())}
    form: str | pa.dataset.CsvFileFormat = "parquet"
    if files[0].suffix == ".csv":
        options = pa.csv.ConvertOptions(column_types=kinds, strings_can_be_null=False)
        form = pa.dataset.CsvFileFormat(convert_options=options)
    try:
        return pa.dataset.dataset(list(map(str, files)), format=form)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{files[0]}: not readable as predictions: {one_line(error)}") from None


def _batches(table: pa.dataset.Dataset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns in the order of the rows, with little of the table in memory."""
    yield from table.to_batches(
        columns=list(columns), batch_size=BATCH, batch_readahead=2, fragment_readahead=1
    )


def _good(table: pa.dataset.Dataset, faults: bool, galaxies: str) -> Iterator[np.ndarray]:
    """Of each row whether its image could be read."""
    for batch in _batches(table, ["fault" if faults else galaxies]):
        if faults:
            yield np.array([not fault for fault in batch.column(0).to_pylist()], bool)
        else:
            yield np.ones(len(batch), bool)


def _take(
    table: pa.dataset.Dataset, galaxies: str, numbers: Sequence[str], rows: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The GalaxyIDs and numbers of some rows, in order; NaN where a cell is empty."""
    ids: list[str] = []
    values, first = [np.zeros((0, len(numbers)), np.float32)], 0
    for batch in _batches(table, [galaxies, *numbers]):
        here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + len(batch))]
        some = batch.take(pa.array(here - first))
        ids += map(str, some.column(0).to_pylist())
        columns = [some.column(name).to_numpy(zero_copy_only=False) for name in numbers]
        values.append(np.stack(columns, axis=1).astype(np.float32))
        first += len(batch)
    return ids, np.concatenate(values)


def _fractions(
    ids: list[str], tree: Tree, columns: dict[str, np.ndarray], number: int
) -> Predictions:
    """What the columns of either kind say; where one kind is missing, it follows from the other."""
    unknown = np.full(len(ids), np.nan, np.float32)

    def all_of(names: Sequence[str]) -> np.ndarray:
        return np.stack([columns.get(name, unknown) for name in names], axis=1)

    cumulative = all_of(tree.columns)
    conditional, low, high = (
        all_of([f"{name}_{kind}" for name in tree.survey_columns]) for kind in KINDS
    )
    asked, there = all_of(asked_columns(tree)), _there(tree, columns)
    for question in tree.by_depth:
        place, own = question.number - 1, question.columns
        gates = np.ones_like(unknown)
        if question.gates:
            gates = cumulative[:, list(question.gates)].sum(axis=1)
        asked[:, place] = np.where(np.isnan(asked[:, place]), gates, asked[:, place])
        reached = asked[:, place, None]
        product = conditional[:, own] * reached
        if place in there:  # of a question that nobody is asked the fractions are blank
            product = np.where(np.isnan(product) & (reached <= NOBODY), 0, product)
        cumulative[:, own] = np.where(np.isnan(cumulative[:, own]), product, cumulative[:, own])
        with np.errstate(divide="ignore", invalid="ignore"):
            share = cumulative[:, own] / cumulative[:, own].sum(axis=1, keepdims=True)
        conditional[:, own] = np.where(np.isnan(conditional[:, own]), share, conditional[:, own])
    if np.isnan(low).all():
        return Predictions(ids, tree, cumulative, conditional, asked, None, None, number)
    return Predictions(ids, tree, cumulative, conditional, asked, low, high, number)
