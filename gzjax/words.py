"""Vote fractions in words: the most likely answers, and the morphology that they describe."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from gzjax.tree import GALAXY_ZOO_2, Tree

# A question counts as reached if at least this part of the volunteers would be asked it.
REACHED = 0.5


def most_likely(fractions: np.ndarray, tree: Tree = GALAXY_ZOO_2) -> pd.DataFrame:
    """The most likely answer to each question that most volunteers would reach.

    Args:
      fractions: float[galaxies, answers], cumulative.
      tree: the decision tree.

    Returns:
      A column for each question, of answers in words; empty where the question is not reached.
    """
    columns = {}
    for question in tree.questions:
        answers = np.asarray(question.answers, dtype=object)
        best = answers[fractions[:, question.columns].argmax(axis=1)]
        if question.gate is not None:
            best = np.where(fractions[:, question.gate] >= REACHED, best, "")
        columns[question.name] = best
    return pd.DataFrame(columns)


def morphology(answers: Mapping[str, str]) -> str:
    """What a galaxy looks like, such as `spiral, barred, 2 arms, tight winding, obvious bulge`.

    Follows the most likely answers down the Galaxy Zoo 2 tree, as far as they are given.

    Args:
      answers: {question: answer, empty where not reached}, a row of `most_likely`.
    """
    kind = answers["smooth-or-featured"]
    if kind == "star or artifact":
        return kind
    words = []
    if kind == "smooth":
        words += ["smooth", answers["roundness"]]
    elif answers["edge-on"] == "yes":
        words += ["edge-on disk", _noun(answers["edge-on-bulge"], "bulge")]
    elif answers["edge-on"] == "no":
        words.append("spiral" if answers["spiral"] == "yes" else "disk")
        words.append({"yes": "barred"}.get(answers["bar"], ""))
        if answers["spiral"] == "yes":
            arms = answers["arms"]
            words.append("" if arms == "can't tell" else _noun(arms, "arm" + "s" * (arms != "1")))
            words.append(_noun(answers["winding"], "winding"))
        words.append(_noun(answers["bulge"], "bulge"))
    else:
        words.append("features or disk")
    if answers["odd"] == "yes":
        odd = answers["odd-feature"]
        words.append("odd" if odd in ("", "other") else f"odd: {odd}")
    return ", ".join(word for word in words if word)


def _noun(adjective: str, noun: str) -> str:
    """`obvious bulge`, `no bulge`; nothing where the question was not reached."""
    if not adjective:
        return ""
    return f"no {noun}" if adjective == "none" else f"{adjective} {noun}"


def readable(fractions: np.ndarray, tree: Tree = GALAXY_ZOO_2) -> pd.DataFrame:
    """`most_likely`, and the morphology of each galaxy in a last column."""
    answers = most_likely(fractions, tree)
    rows = zip(*(answers[column] for column in answers.columns), strict=True)
    described = [morphology(dict(zip(answers.columns, row, strict=True))) for row in rows]
    return answers.assign(morphology=described)
