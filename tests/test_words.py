import numpy as np
import pytest

from gzjax import words
from gzjax.tree import GALAXY_ZOO_2


def fractions_of(**answers):
    """A row that gives all votes to the named answers, and a tenth elsewhere, by question."""
    row = np.zeros(GALAXY_ZOO_2.size)
    for question in GALAXY_ZOO_2.questions:
        gate = 1.0 if question.gate is None else row[question.gate]
        chosen = answers.get(question.name.replace("-", "_"), question.answers[-1])
        others = len(question.answers) - 1
        values = np.full(len(question.answers), 0.1 / others)
        values[question.answers.index(chosen)] = 0.9
        row[question.columns] = gate * values
    # Gates come before what they open, but for questions 7 and 8, whose gates stand before them.
    return row


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"smooth_or_featured": "smooth", "roundness": "in between"}, "smooth, in between"),
        ({"smooth_or_featured": "star or artifact"}, "star or artifact"),
        (
            {
                "smooth_or_featured": "features or disk",
                "edge_on": "yes",
                "edge_on_bulge": "none",
            },
            "edge-on disk, no bulge",
        ),
        (
            {
                "smooth_or_featured": "features or disk",
                "edge_on": "no",
                "bar": "yes",
                "spiral": "yes",
                "arms": "2",
                "winding": "tight",
                "bulge": "obvious",
            },
            "spiral, barred, 2 arms, tight winding, obvious bulge",
        ),
        (
            {
                "smooth_or_featured": "features or disk",
                "edge_on": "no",
                "bar": "no",
                "spiral": "yes",
                "arms": "1",
                "winding": "loose",
                "bulge": "none",
                "odd": "yes",
                "odd_feature": "merger",
            },
            "spiral, 1 arm, loose winding, no bulge, odd: merger",
        ),
        (
            {
                "smooth_or_featured": "features or disk",
                "edge_on": "no",
                "bar": "yes",
                "spiral": "no",
                "bulge": "dominant",
                "odd": "yes",
                "odd_feature": "other",
            },
            "disk, barred, dominant bulge, odd",
        ),
    ],
)
def test_morphologies(answers, expected):
    table = words.readable(fractions_of(**answers)[None])
    assert table["morphology"].tolist() == [expected]


def test_questions_that_few_would_reach_are_left_empty():
    row = fractions_of(smooth_or_featured="smooth", roundness="completely round")
    table = words.readable(row[None])
    assert list(table.columns) == [q.name for q in GALAXY_ZOO_2.questions] + ["morphology"]
    said = {name for name in table.columns if table[name].iloc[0] != ""}
    assert said == {"smooth-or-featured", "odd", "roundness", "morphology"}
    assert table["roundness"].iloc[0] == "completely round"


def test_no_galaxy_is_a_table_all_the_same():
    assert len(words.readable(np.zeros((0, 37)))) == 0
