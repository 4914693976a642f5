"""The trees of several campaigns as one tree, and each as a part of that."""

import dataclasses
import itertools
from collections.abc import Sequence

from gzjax.errors import UserError
from gzjax.trees import Tree
from gzjax.trees.checks import wrong


def union(trees: Sequence[Tree]) -> Tree:
    """The trees of several campaigns as one, in their order; a single one as it is.

    Each question has the suffix of its campaign, `bar-dr5`, or the name of a tree that has none,
    `bar-desi`; so its only family, `survey`, has columns such as `bar-dr5_strong`.

    Raises:
      UserError: no tree, or two whose suffixes end in the same word, by which campaigns are told.

    Examples:
      >>> from gzjax.trees import load
      >>> both = union([load("gz2"), load("decals-dr5")])
      >>> both.size == load("gz2").size + load("decals-dr5").size
      True
    """
    if len(trees) == 1:
        return trees[0]
    if not trees:
        raise wrong("trees", "at least one", trees)
    for one, other in itertools.combinations(trees, 2):
        if _last_word(_campaign(one)) == _last_word(_campaign(other)):
            found = f"{_campaign(one)} for {one.name} and {_campaign(other)} for {other.name}"
            raise UserError(f"trees: expected suffixes that end in different words, found {found}")
    members = [
        dataclasses.replace(
            tree,
            questions=tuple(
                dataclasses.replace(question, name=question.name + _campaign(tree))
                for question in tree.questions
            ),
        )
        for tree in trees
    ]
    described = [
        name + _campaign(tree)
        for tree in trees
        for name in tree.described or [question.name for question in tree.questions]
    ]
    return Tree.from_dict(
        {
            "name": "+".join(tree.name for tree in trees),
            "described": described,
            "questions": [each for tree in members for each in tree.to_dict()["questions"]],
        }
    )


def part(whole: Tree, tree: Tree) -> slice:
    """The columns of a tree's answers within a union; all of them if it is that tree itself.

    Raises:
      UserError: the union has no such questions.
    """
    if tree == whole:
        return slice(0, whole.size)
    for position, question in enumerate(whole.questions):
        place = slice(question.first, question.first + tree.size)
        moved = tuple(
            dataclasses.replace(
                each,
                number=each.number + position,
                name=each.name + _campaign(tree),
                first=each.first + place.start,
                gates=tuple(gate + place.start for gate in each.gates),
            )
            for each in tree.questions
        )
        if whole.questions[position:][: len(moved)] == moved:
            return place
    raise wrong("tree", f"one that is part of {whole.name}", tree.name)


def campaign_of(question: str, tree: Tree) -> str:
    """How the name of a question ends that tells its campaign; "" in the tree of a single one."""
    return _last_word(question) if "+" in tree.name else ""


def _last_word(name: str) -> str:
    return name.rpartition("-")[2]


def _campaign(tree: Tree) -> str:
    """What tells its questions from those of other campaigns."""
    return tree.suffix or f"-{tree.name}"
