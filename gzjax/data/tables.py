"""Tables of votes: CSV or Parquet, with the columns of any survey.

A table says of each answer how many volunteers gave it (counts, or weights), or which part of them
(conditional or cumulative fractions), see `gzjax.data.tally`. Which of them is seen from the names
of its columns, see `gzjax.data.columns`. It also names the galaxies, and maybe the files of their
images, or holds the images themselves, see `gzjax.data.rows`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from gzjax.data import parquet, tally
from gzjax.data.columns import CHALLENGE_TABLE, KINDS, Columns, find_columns
from gzjax.data.rows import Rows, column_names
from gzjax.errors import UserError
from gzjax.tree import Tree

# More rows broken, or images missing or broken, than this part of a catalogue is a mistake, not
# bad luck.
MOST_LEFT_OUT = 0.01
LEFT_OUT_COLUMNS = ["GalaxyID", "file", "reason"]

_SAID = {"fractions": "conditional fractions", "cumulative": "cumulative fractions"}
_SAID |= {"debiased": "debiased fractions"}


class Table(NamedTuple):
    """The galaxies of one or several tables, in their order.

    votes: float32, the tree's columns, indexed by GalaxyID; NaN where a question is unknown.
    files: of their images, as seen from the table; "" is an empty cell, None is no such column.
    embedded: their images inside the tables, if there is such a column.
    left_out: GalaxyID, file and reason of the rows that are not among them.
    about: what was found, in one line.
    """

    votes: pd.DataFrame
    files: list[str] | None
    embedded: parquet.Cells | None
    left_out: pd.DataFrame
    about: str


def read(
    tables: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tree: Tree,
    *,
    votes_per_galaxy: float = 40.0,
    kind: str = "auto",
) -> Table:
    """Reads and checks a table, or several with the same columns.

    Args:
      tables: paths of CSV tables, also compressed, or Parquet tables.
      tree: whose answers are looked for, under the names of its families, as
        `{question}_{answer}`, or with any one suffix as `{question}-SUFFIX_{answer}`.
      votes_per_galaxy: how many volunteers there were, where only fractions tell.
      kind: what the columns hold, of `KINDS`; `auto` takes counts before weights before fractions,
        and bare names for cumulative fractions where the values are such.

    Raises:
      UserError: no such file, no votes of this tree, a galaxy without a name or twice, something
        that is neither a number of votes nor a fraction, or more than `MOST_LEFT_OUT` of the rows
        break the tree's gates.
    """
    listed = [tables] if isinstance(tables, str | os.PathLike) else tables
    paths = [Path(each) for each in listed]
    if kind not in KINDS:
        raise UserError(f"kind of votes: expected one of {', '.join(KINDS)}, found {kind!r}")
    if not 0 < votes_per_galaxy < np.inf:
        raise UserError(f"votes per galaxy: expected more than 0, found {votes_per_galaxy}")
    header = list(dict.fromkeys(name for path in paths for name in column_names(path)))
    columns = find_columns(header, tree, kind, paths[0])
    rows = Rows(paths, header, [*filter(None, columns.answers), *columns.totals.values()])
    kind = columns.kind
    values = rows.numbers(columns.answers, 1 if kind in tally.FRACTIONS else np.inf)
    if columns.bare and tally.looks_cumulative(values):
        kind, values = "cumulative", rows.numbers(columns.answers, 1)
    if columns.bare and kind == "counts" and tally.look_like_percentages(values, tree):
        raise UserError(
            f"{paths[0]}: expected votes or fractions, found what looks like percentages, as the "
            "answers of every galaxy sum to 100; divide them by 100"
        )
    counted = rows.numbers(columns.totals.values(), np.inf)
    totals = dict(zip(columns.totals, counted.T, strict=True))
    there = columns.there(tree)
    votes = tally.to_votes(values, tree, kind, votes_per_galaxy, there, totals)

    reasons = np.full(len(votes), "", object)
    reasons[~(np.nan_to_num(votes) > 0).any(axis=1)] = "row without votes"
    if all(reasons):
        raise UserError(f"{paths[0]}: expected galaxies with votes, found none")
    faults = tally.faults(values, votes, tree, kind)
    broken = (faults.excess > 0) & (reasons == "")[:, None]
    for row, position in np.argwhere(broken)[::-1]:  # the first question remains
        name = tree.questions[position].name
        reasons[row] = f"breaks the gate of {name}: its answers {faults.said(row, position)}"
    some = int((reasons != "row without votes").sum())
    if broken.any(axis=1).sum() > MOST_LEFT_OUT * some:
        worst = np.where(broken, faults.excess, -np.inf)
        row, position = map(int, np.unravel_index(worst.argmax(), worst.shape))
        question = tree.questions[position]
        advice = f". The challenge's first, withdrawn table does so; use {CHALLENGE_TABLE}"
        raise UserError(
            f"{paths[int(rows.file[row])]}: {broken.any(axis=1).sum()} of {some} rows break the "
            f"decision tree {tree.name}, the worst is GalaxyID {rows.ids[row]}: the answers of "
            f"question {question.number} ({question.name}) {faults.said(row, position)}"
            + advice * (tree.name == "gz2" and kind == columns.kind == "cumulative")
            + ", of cumulative fractions, which these numbers seem to be" * (kind != columns.kind)
        )
    kept, lost = np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "")
    places = rows.files or (rows.embedded.names if rows.embedded else [""] * len(votes))
    frame = pd.DataFrame(votes[kept].astype(np.float32), columns=list(tree.columns))
    frame.index = pd.Index([rows.ids[row] for row in kept], dtype=object, name="GalaxyID")
    return Table(
        frame,
        [rows.files[row] for row in kept] if rows.files is not None else None,
        rows.embedded.take(kept) if rows.embedded else None,
        pd.DataFrame(
            [(rows.ids[row], places[row], reasons[row]) for row in lost], columns=LEFT_OUT_COLUMNS
        ),
        _about(paths, columns, kind, votes, tree, votes_per_galaxy),
    )


def _about(
    paths: Sequence[Path],
    columns: Columns,
    kind: str,
    votes: np.ndarray,
    tree: Tree,
    votes_per_galaxy: float,
) -> str:
    known = [bool(np.isfinite(votes[:, each.first]).any()) for each in tree.questions]
    unknown = [
        each.name for each, is_known in zip(tree.questions, known, strict=True) if not is_known
    ]
    first = {position for position in columns.there(tree) if not tree.questions[position].gates}
    nominal = kind == "cumulative" or (kind in tally.FRACTIONS and first - {*columns.totals})
    more = f" and {len(paths) - 1} more" * (len(paths) > 1)
    return (
        f"table {paths[0].name}{more}: {_SAID.get(kind, kind)} of {tree.name} ({columns.naming}), "
        f"{sum(known)} of {len(known)} questions"
        + f"; unknown: {', '.join(unknown)}" * bool(unknown)
        + "".join(f"; {lacking}" for lacking in columns.lacking)
        + f"; taken as {votes_per_galaxy:g} volunteers a galaxy" * bool(nominal)
    )
