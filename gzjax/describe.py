"""Vote fractions in words: the most likely answers, and the morphology that they describe.

The words are data of the tree. Each question that most volunteers would reach adds the phrase of
its most likely answer, in the tree's `described` order. An empty phrase says nothing. Where the
question `replaces`, its phrase takes the place of that of the question before it: `spiral`
instead of `disk`. A phrase that ends in a full stop is the last. Without phrases a question says
`question: answer`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from gzjax.trees import Question, Tree
from gzjax.trees.campaigns import campaign_of

# A question counts as reached if at least this part of the volunteers would be asked it.
REACHED = 0.5

NOT_REACHED = -1


def most_likely(fractions: Float[np.ndarray, "galaxies answers"], tree: Tree) -> pd.DataFrame:
    """A column for each question: its most likely answer; empty where few would reach it.

    From cumulative vote fractions; empty, too, where they are not known.
    """
    columns = {}
    for question, chosen in zip(tree.questions, _chosen(fractions, tree).T, strict=True):
        # The last word is that of NOT_REACHED.
        words = np.asarray([*map(_words, question.answers), ""], dtype=object)
        columns[question.name] = words[chosen]
    return pd.DataFrame(columns)


def morphology(chosen: Sequence[int], tree: Tree) -> tuple[str, ...]:
    """What a galaxy looks like, such as `spiral`, `barred`, `2 arms`, `obvious bulge`.

    Follows the most likely answers down the tree, as far as the questions are reached. Of several
    campaigns' trees, down the first whose questions are.

    Args:
      chosen: for each question the position of its most likely answer, `NOT_REACHED` if none.
      tree: the decision tree.
    """
    path: dict[str, tuple[Question, int]] = {}  # the questions on the way down, with the answers
    given: set[int] = set()  # columns of those answers
    for question in tree.by_depth:
        answer = chosen[question.number - 1]
        if answer != NOT_REACHED and (not question.gates or given.intersection(question.gates)):
            path[question.name] = question, answer
            given.add(question.first + answer)
    said: dict[int, str] = {}  # column of the answer: its phrase
    names = [name for name in tree.described or [q.name for q in tree.questions] if name in path]
    for name in names:
        if campaign_of(name, tree) != campaign_of(names[0], tree):
            break
        question, answer = path[name]
        phrase = f"{name}: {_words(question.answers[answer])}"
        if question.phrases:
            phrase = question.phrases[answer]
        if phrase and question.replaces:
            for gate in question.gates:
                said.pop(gate, None)
        if phrase:
            said[question.first + answer] = phrase.removesuffix(".")
        if phrase.endswith("."):
            break
    return tuple(said.values())


def readable(fractions: Float[np.ndarray, "galaxies answers"], tree: Tree) -> pd.DataFrame:
    """`most_likely`, and the morphology of each galaxy in a last column.

    It is called `morphology`; `description` where the tree has a question of that name.
    """
    table = most_likely(fractions, tree)
    different, which = morphologies(fractions, tree)
    described = np.asarray([", ".join(phrases) for phrases in different], dtype=object)
    column = "description" if "morphology" in table else "morphology"
    return table.assign(**{column: described[which]})


def morphologies(
    fractions: Float[np.ndarray, "galaxies answers"], tree: Tree
) -> tuple[list[tuple[str, ...]], Int[np.ndarray, " galaxies"]]:
    """The different morphologies that there are, and which of them each galaxy has.

    Galaxies share few combinations of answers, so each is put into words once.
    """
    different, which = np.unique(_chosen(fractions, tree), axis=0, return_inverse=True)
    return [morphology(row, tree) for row in different.tolist()], which.reshape(-1)


def _chosen(
    fractions: Float[np.ndarray, "galaxies answers"], tree: Tree
) -> Int[np.ndarray, "galaxies questions"]:
    best = [fractions[:, question.columns].argmax(axis=1) for question in tree.questions]
    known = ~np.isnan(fractions[:, [question.first for question in tree.questions]])
    reached = known & (tree.asked(fractions) >= REACHED)
    return np.where(reached, np.stack(best, axis=1), NOT_REACHED)


def _words(answer: str) -> str:
    return answer.replace("-", " ")
