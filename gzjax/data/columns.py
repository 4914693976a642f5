"""Which columns of a table hold the votes of a tree, seen from their names.

A column is called after the answer, as one of the tree's families of names has it, or as
`{question}_{answer}`, or with the suffix of a campaign as `{question}-SUFFIX_{answer}`. An ending
says what it holds: `_count`, `_weight`, `_fraction`, ...; upper and lower case are one.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gzjax.errors import UserError, one_line
from gzjax.tree import Tree

# What tables call by the bare name are counts, or else cumulative fractions.
_ENDINGS = {
    "counts": ("_count", ""),
    "weights": ("_weight",),
    "fractions": ("_fraction", "_weighted_fraction"),
    "debiased": ("_debiased", "_fraction-debiased", "_debiased_fraction"),
    "cumulative": ("",),
}
_AUTO = ("counts", "weights", "fractions", "cumulative")
KINDS = ("auto", *_ENDINGS)
CHALLENGE_TABLE, CHALLENGE_IMAGES = "training_solutions_rev1.csv", "images_training_rev1"
_TOTALS = ("_total-votes", "_total_count")
_CHALLENGE = "challenge names"  # of the family whose columns are cumulative, whatever they hold

Names = tuple[str | None, ...]  # one for each answer, None where there is none


class Columns(NamedTuple):
    """The columns that hold the votes, as the table writes them.

    kind: counts, weights, fractions, debiased or cumulative.
    naming: the names' family or suffix, for messages.
    bare: whether the names leave open if these are counts or cumulative fractions.
    answers: a column for each answer; None for those of a question that lacks any.
    totals: {position of a question: the column of how many answered it}.
    lacking: what is missing of questions that have columns for some of their answers.
    """

    kind: str
    naming: str
    bare: bool
    answers: Names
    totals: dict[int, str]
    lacking: tuple[str, ...]

    def there(self, tree: Tree) -> list[int]:
        """Positions of the questions that have all their columns."""
        return [p for p, each in enumerate(tree.questions) if all(self.answers[each.columns])]


def find_columns(header: Sequence[str], tree: Tree, kind: str, where: object) -> Columns:
    """Finds the columns of a tree's votes.

    The tree's own names go before those without a suffix, and these before those with the suffix
    of another campaign; among these the most questions, then the kind that `auto` prefers.

    Args:
      header: all columns of the table.
      tree: whose votes are looked for.
      kind: of `KINDS`.
      where: the table, for messages.

    Raises:
      UserError: no question with all its columns, or suffixes of several other campaigns.
    """
    there = {name.lower(): name for name in reversed(header)}
    there |= {name: name for name in header}
    kinds = _AUTO if kind == "auto" else (kind,)
    own = {f"{family} names": names for family, names in tree.families.items()}
    own = own or {"own names": tree.columns}
    foreign = {f"suffix -{each}": _names(tree, f"-{each}") for each in _suffixes(there, tree)}
    for namings in (own, {"no suffix": _names(tree, "")}, foreign):
        found = [
            (each, naming, ending, _present(tree, names, ending, there))
            for each in kinds
            for naming, names in namings.items()
            if naming != _CHALLENGE or each == "cumulative"
            for ending in _ENDINGS[each]
        ]
        found = [each for each in found if any(each[3])]
        rivals = sorted({naming for _, naming, _, _ in found})
        if namings is foreign and len(rivals) > 1:
            raise UserError(
                f"{where}: expected the votes of {tree.name} under one suffix, found "
                f"{', '.join(rivals)}"
            )
        if found:
            chosen, naming, ending, present = max(
                found, key=lambda each: (sum(each[3]), -kinds.index(each[0]))
            )
            bare = kind == "auto" and chosen == "counts" and not ending
            return _columns(tree, namings[naming], ending, present, there)._replace(
                kind=chosen, naming=naming, bare=bare
            )
    names = [next(filter(None, names)) for names in own.values()]
    raise UserError(
        f"{where}: expected the columns of at least one whole question of {tree.name}, such as "
        f"{' or '.join(name + _ENDINGS[kinds[0]][-1] for name in names)} ...; found "
        f"{one_line(', '.join(header[:8]))}{' ...' * (len(header) > 8)}"
    )


def _present(tree: Tree, names: Names, ending: str, there: Mapping[str, str]) -> list[bool]:
    """Whether a table has all columns of each question."""
    return [
        all(name and _look_up(name + ending, there) for name in names[question.columns])
        for question in tree.questions
    ]


def _columns(
    tree: Tree, names: Names, ending: str, present: Sequence[bool], there: Mapping[str, str]
) -> Columns:
    answers: list[str | None] = []
    totals: dict[int, str] = {}
    lacking: list[str] = []
    for position, question in enumerate(tree.questions):
        own = names[question.columns]
        found = [_look_up(name + ending, there) if name else None for name in own]
        answers += found if present[position] else [None] * len(found)
        if any(found) and not present[position]:
            missing = [
                f"{name}{ending}" for name, column in zip(own, found, strict=True) if not column
            ]
            lacking.append(f"{question.name} lacks {', '.join(missing)}")
        # What the names of all answers share, up to the last underscore: the question's.
        stem = os.path.commonprefix([name for name in own if name]).rpartition("_")[0]  # noqa: RUF071
        columns = [_look_up(stem + total, there) for total in _TOTALS]
        if present[position] and stem and any(columns):
            totals[position] = next(filter(None, columns))
    return Columns("", "", False, tuple(answers), totals, tuple(lacking))


def _look_up(name: str, there: Mapping[str, str]) -> str | None:
    return there.get(name) or there.get(name.lower())


def _names(tree: Tree, suffix: str) -> Names:
    return tuple(
        f"{question.name}{suffix}_{answer}"
        for question in tree.questions
        for answer in question.answers
    )


def _suffixes(there: Mapping[str, str], tree: Tree) -> list[str]:
    """What stands between a question and its answer in any column, without the hyphen."""
    names = [question.name.lower() for question in tree.questions]
    found = set()
    for column in there:
        start = column.lower().partition("_")[0]  # names of questions have no underscore
        fitting = [name for name in names if f"{start}-".startswith(f"{name}-")]
        if fitting:
            found.add(start.removeprefix(max(fitting, key=len)).removeprefix("-"))
    return sorted(found - {""})
