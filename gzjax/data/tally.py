"""From the numbers of a table to votes: how many volunteers gave each answer.

Tables hold counts, weights (fractional votes), conditional fractions (of those who were asked) or
cumulative ones (of all). An empty cell is NaN, and then its whole question is unknown for that
galaxy. Pure functions of arrays; `gzjax.data.tables` finds the columns and names the faults.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from gzjax.tree import Tree

# The challenge's first table broke the tree's gates; the table of the second release holds them
# to 2e-6. Between them lies room for tables rounded to three digits.
GATE_TOLERANCE = 0.02
# Counts: volunteers may leave early, so fewer are fine; more by this part and this many are not.
MORE_ANSWERS, MORE_VOTES = 0.02, 0.5

FRACTIONS = ("fractions", "debiased", "cumulative")  # in [0, 1], the first two conditional


class Faults(NamedTuple):
    """How far each question of each galaxy is from what the tree allows.

    excess: above 0 where the tree is broken; -inf where nothing can be said.
    sums: of the answers.
    expected: what they should sum to.
    at_most: whether less is fine.
    """

    excess: Float64[np.ndarray, "galaxies questions"]
    sums: Float64[np.ndarray, "galaxies questions"]
    expected: Float64[np.ndarray, "galaxies questions"]
    at_most: Bool[np.ndarray, "galaxies questions"]

    def said(self, row: int, position: int) -> str:
        """What is wrong with a question of a galaxy, to follow on `its answers`."""
        most = "at most " * bool(self.at_most[row, position])
        expected = f"{most}{self.expected[row, position]:.3f}"
        return f"sum to {self.sums[row, position]:.3f}, expected {expected}"


def looks_cumulative(values: Float[np.ndarray, "galaxies answers"]) -> bool:
    """Whether numbers without a name are cumulative fractions rather than counts.

    Not all are whole, and of most galaxies none is above 1. Neither a few bad rows nor what the
    answers sum to may decide: those would hide as strange counts from the checks of fractions.
    """
    known = ~np.isnan(values)
    whole = np.all(~known | (values == np.rint(values)))
    small = np.all(~known | (values <= 1), axis=1)[known.any(axis=1)]
    return not whole and bool(small.mean() > 0.5)


def look_like_percentages(values: Float[np.ndarray, "galaxies answers"], tree: Tree) -> bool:
    """Whether numbers without a name are per cent: not all whole, of 100 for each galaxy."""
    known = values[~np.isnan(values)]
    always = [position for position, each in enumerate(tree.questions) if not each.gates]
    sums = np.fmax.reduce(_sums(values, tree)[:, always], axis=1)  # of those that the table has
    near = np.abs(sums[~np.isnan(sums)] - 100) <= 100 * GATE_TOLERANCE
    return bool((known != np.rint(known)).any() and len(near) and near.mean() > 0.9)


def to_votes(
    values: Float[np.ndarray, "galaxies answers"],
    tree: Tree,
    kind: str,
    votes_per_galaxy: float,
    there: Collection[int],
    totals: Mapping[int, Float[np.ndarray, " galaxies"]],
) -> Float64[np.ndarray, "galaxies answers"]:
    """Votes, NaN where a question is unknown.

    Args:
      values: what the table says of each answer; NaN: an empty cell, or no such column.
      tree: of the answers.
      kind: counts, weights, fractions, debiased or cumulative.
      votes_per_galaxy: how many volunteers there are, where nothing else tells.
      there: positions of the questions that the table has columns of.
      totals: how many answered a question, by its position; only conditional fractions need it.
        Without, the tree is walked: everybody is asked the first questions, those who gave the
        gates the others.
    """
    unknown = np.isnan(_sums(values, tree))[:, tree.question_of]
    if kind not in FRACTIONS or kind == "cumulative":
        scale = votes_per_galaxy if kind == "cumulative" else 1.0
        return np.where(unknown, np.nan, scale * values.astype(np.float64))
    votes = np.full(values.shape, np.nan)
    for question in tree.by_depth:
        position, own = question.number - 1, question.columns
        if position not in there:
            continue  # unknown, even of galaxies of which nobody was asked
        asked = np.full(len(values), float(votes_per_galaxy))
        if position in totals:
            asked = totals[position]
        elif question.gates:
            asked = votes[:, list(question.gates)].sum(axis=1)
        product = values[:, own] * asked[:, None]
        product[np.isnan(product).any(axis=1)] = np.nan
        product[asked == 0] = 0  # 0/0, often an empty cell: known, and nobody was asked
        votes[:, own] = product
    return votes


def faults(
    values: Float[np.ndarray, "galaxies answers"],
    votes: Float[np.ndarray, "galaxies answers"],
    tree: Tree,
    kind: str,
) -> Faults:
    """Checks each question against its gates, where both are known.

    The answers sum to: the gates, of cumulative fractions; at most the gates, of votes; 1, of
    conditional fractions with votes. Debiased ones need not agree with the number of votes.
    """
    if kind == "cumulative":
        sums, asked = _sums(values, tree), tree.asked(values)
        return _faults(np.abs(sums - asked) - GATE_TOLERANCE, sums, asked, False)
    sums = _sums(votes, tree)
    asked = np.where([bool(each.gates) for each in tree.questions], tree.asked(votes), np.inf)
    by_votes = _faults(sums - (asked * (1 + MORE_ANSWERS) + MORE_VOTES), sums, asked, True)
    if kind not in FRACTIONS:
        return by_votes
    parts = _sums(values, tree)
    off = np.where(sums > 0, np.abs(parts - 1) - GATE_TOLERANCE, -np.inf)
    by_parts = _faults(off, parts, np.ones_like(parts), False)
    if kind == "debiased":
        return by_parts
    first = by_parts.excess > 0
    return Faults(*(np.where(first, *pair) for pair in zip(by_parts, by_votes, strict=True)))


def _faults(excess: np.ndarray, sums: np.ndarray, expected: np.ndarray, at_most: bool) -> Faults:
    known = np.where(np.isnan(excess), -np.inf, excess)
    return Faults(known, sums, expected, np.full(sums.shape, at_most))


def _sums(values: np.ndarray, tree: Tree) -> Float64[np.ndarray, "galaxies questions"]:
    """The sum of each question's answers; NaN if one of them is unknown."""
    parts = [values[:, each.columns].sum(axis=1, dtype=np.float64) for each in tree.questions]
    return np.stack(parts, axis=1)
