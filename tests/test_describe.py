import numpy as np
import pytest

from gzjax import describe
from gzjax.tree import NAMES, Tree, load
from gzjax.trees.campaigns import part, union


def fractions_of(tree, **answers):
    """A row that gives nine tenths of the votes to the named answers, or to the last ones."""
    row = np.zeros(tree.size)
    for question in tree.by_depth:
        asked = sum(row[gate] for gate in question.gates) if question.gates else 1.0
        chosen = answers.pop(question.name.replace("-", "_"), question.answers[-1])
        row[question.columns] = asked * 0.1 / (len(question.answers) - 1)
        row[question.first + question.answers.index(chosen)] = asked * 0.9
    assert not answers
    return row


def described(tree, **answers):
    return describe.readable(fractions_of(tree, **answers)[None], tree)["morphology"].tolist()[0]


DISK = {"smooth_or_featured": "featured-or-disk", "disk_edge_on": "no"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"smooth_or_featured": "smooth", "how_rounded": "in-between"}, "smooth, in-between round"),
        ({"smooth_or_featured": "artifact"}, "star or artifact"),
        ({"smooth_or_featured": "artifact", "something_odd": "yes"}, "star or artifact"),
        (
            {
                "smooth_or_featured": "featured-or-disk",
                "disk_edge_on": "yes",
                "bulge_shape": "no-bulge",
            },
            "edge-on disk, no bulge",
        ),
        (
            {
                "smooth_or_featured": "featured-or-disk",
                "disk_edge_on": "yes",
                "bulge_shape": "round",
            },
            "edge-on disk, rounded bulge",
        ),
        (
            DISK
            | {
                "bar": "yes",
                "has_spiral_arms": "yes",
                "spiral_arm_count": "2",
                "spiral_winding": "tight",
                "bulge_size": "obvious",
            },
            "spiral, barred, 2 arms, tight winding, obvious bulge",
        ),
        (
            DISK
            | {
                "bar": "no",
                "has_spiral_arms": "yes",
                "spiral_arm_count": "1",
                "spiral_winding": "loose",
                "bulge_size": "no",
                "something_odd": "yes",
                "odd_feature": "merger",
            },
            "spiral, 1 arm, loose winding, no bulge, odd: merger",
        ),
        (
            DISK | {"has_spiral_arms": "yes", "spiral_arm_count": "cant-tell"},
            "spiral, loose winding, dominant bulge",
        ),
        (
            DISK
            | {
                "bar": "yes",
                "has_spiral_arms": "no",
                "something_odd": "yes",
                "odd_feature": "other",
            },
            "disk, barred, dominant bulge, odd",
        ),
        (
            {
                "smooth_or_featured": "smooth",
                "how_rounded": "round",
                "something_odd": "yes",
                "odd_feature": "ring",
            },
            "smooth, completely round, odd: ring",
        ),
    ],
)
def test_morphologies_of_galaxy_zoo_2(gz2, answers, expected):
    assert described(gz2, **answers) == expected


@pytest.mark.parametrize(
    ("name", "answers", "expected"),
    [
        (
            "decals-dr5",
            DISK
            | {
                "bar": "weak",
                "has_spiral_arms": "yes",
                "spiral_arm_count": "more-than-4",
                "spiral_winding": "medium",
                "bulge_size": "small",
                "merging": "minor-disturbance",
            },
            "spiral, weak bar, more than 4 arms, medium winding, small bulge, minor disturbance",
        ),
        (
            "hubble",
            {"smooth_or_featured": "features", "clumpy_appearance": "yes"},
            "clumpy",
        ),
        (
            "hubble",
            {
                "smooth_or_featured": "features",
                "clumpy_appearance": "no",
                "disk_edge_on": "yes",
                "bulge_shape": "boxy",
            },
            "edge-on disk, boxy bulge",
        ),
        (
            "euclid",
            {"smooth_or_featured": "problem", "problem": "artifact", "artifact": "ghost"},
            "artifact: ghost",
        ),
        ("cosmic-dawn", {"smooth_or_featured": "problem", "problem": "star"}, "star"),
        ("rings", {"ring": "yes"}, "ring"),
    ],
)
def test_morphologies_of_other_trees(name, answers, expected):
    assert described(load(name), **answers) == expected


def test_what_is_not_reached_is_not_said(gz2):
    row = np.zeros((3, 37))
    row[:, 0], row[:, 1], row[:, 2] = 0.3, [0.49, 0.5, 0.6], 0.1
    row[:, 4] = [0.49, 0.49, 0.5]
    row[:, 7] = row[:, 14] = 0.4
    row[:, 12] = 0.4
    table = describe.readable(row, gz2)
    assert table["disk-edge-on"].tolist() == ["", "no", "no"]
    assert table["has-spiral-arms"].tolist() == ["", "", "yes"]
    assert table["morphology"].tolist() == [
        "features or disk",
        "disk",
        "spiral, barred, dominant bulge",
    ]


def test_a_tie_is_described_one_way_only(gz2):
    """Both kinds are reached by half of the crowd; the description follows the first."""
    row = np.zeros((1, 37))
    row[0, [0, 1, 3, 15, 25]] = 0.5
    row[0, 14] = 1
    table = describe.readable(row, gz2)
    assert table["disk-edge-on"].tolist() == ["yes"]
    assert table["how-rounded"].tolist() == ["round"]
    assert table["morphology"].tolist() == ["smooth, completely round"]


def test_sets_of_gates_are_summed(tmp_path):
    tree = load("decals-dr5")
    row = np.zeros((2, tree.size))
    row[:, :3] = [0.3, 0.3, 0.4], [0.2, 0.25, 0.55]
    row[:, -1] = 0.5
    table = describe.readable(row, tree)
    assert table["merging"].tolist() == ["merger", ""]
    # The way down leads over the most likely answer, to which merging does not belong.
    assert table["morphology"].tolist() == ["star or artifact"] * 2
    row[0, 0] = 0.5
    assert describe.readable(row, tree)["morphology"].tolist()[0].endswith(", merger")


PLAIN = {
    "name": "plain",
    "questions": [
        {"name": "kind", "answers": ["smooth", "disk", "cant-tell"]},
        {"name": "arms", "answers": ["yes", "no"], "asked_after": ["kind_disk"]},
        {
            "name": "merging",
            "answers": ["not-at-all", "yes"],
            "asked_after": ["kind_smooth", "kind_disk"],
        },
    ],
}


def test_a_tree_without_phrases_is_described_all_the_same():
    tree = Tree.from_dict(PLAIN)
    assert described(tree, kind="cant-tell") == "kind: cant tell"
    assert (
        described(tree, kind="smooth", merging="not-at-all") == "kind: smooth, merging: not at all"
    )
    assert described(tree, kind="disk", arms="yes") == "kind: disk, arms: yes, merging: yes"


def test_order_and_phrases_are_those_of_the_tree():
    questions = [dict(question) for question in PLAIN["questions"]]
    questions[1] |= {"phrases": ["spiral", ""], "replaces": True}
    questions[2] |= {"phrases": ["alone.", "with another"]}
    tree = Tree.from_dict(
        PLAIN | {"questions": questions, "described": ["merging", "kind", "arms"]}
    )
    assert described(tree, kind="disk", arms="yes") == "with another, spiral"
    assert described(tree, kind="disk", arms="no") == "with another, kind: disk"
    assert described(tree, kind="disk", merging="not-at-all", arms="yes") == "alone"
    tree = Tree.from_dict(PLAIN | {"described": ["merging"]})
    assert described(tree, kind="disk") == "merging: yes"
    assert described(tree, kind="cant-tell") == ""


def test_questions_may_stand_before_what_leads_to_them():
    first, *others = PLAIN["questions"]
    tree = Tree.from_dict(PLAIN | {"questions": [*others, first]})
    assert described(tree, kind="disk", arms="no") == "arms: no, merging: yes, kind: disk"


def test_a_question_called_morphology_keeps_its_column():
    tree = Tree.from_dict(
        {"name": "x", "questions": [{"name": "morphology", "answers": ["early", "late"]}]}
    )
    table = describe.readable(np.array([[0.2, 0.8]]), tree)
    assert table.to_dict("list") == {"morphology": ["late"], "description": ["morphology: late"]}


def test_questions_that_few_would_reach_are_left_empty(gz2):
    row = fractions_of(gz2, smooth_or_featured="smooth", how_rounded="in-between")
    table = describe.readable(row[None], gz2)
    assert list(table.columns) == [q.name for q in gz2.questions] + ["morphology"]
    said = {name: table[name].iloc[0] for name in table.columns if table[name].iloc[0] != ""}
    assert said == {
        "smooth-or-featured": "smooth",
        "something-odd": "no",
        "how-rounded": "in between",
        "morphology": "smooth, in-between round",
    }


def test_each_galaxy_is_described_as_if_alone(gz2, crowd):
    together = describe.readable(crowd, gz2)
    assert len(together) == len(crowd)
    assert together["morphology"].nunique() > 5
    for position in range(len(crowd)):
        alone = describe.readable(crowd[position : position + 1], gz2)
        assert alone.iloc[0].to_dict() == together.iloc[position].to_dict()
    assert describe.most_likely(crowd, gz2).equals(together.drop(columns="morphology"))


@pytest.mark.parametrize("name", NAMES)
def test_no_galaxy_is_a_table_all_the_same(name):
    tree = load(name)
    assert describe.readable(np.zeros((0, tree.size)), tree).shape == (0, len(tree.questions) + 1)


def test_of_several_campaigns_the_first_that_a_galaxy_is_known_to_is_described():
    trees = load("gz2"), load("decals-dr5")
    whole = union(trees)
    rows = [fractions_of(trees[0], **DISK), fractions_of(trees[1], **DISK)]
    pairs = zip(rows, trees, strict=True)
    words = [describe.readable(row[None], tree)["morphology"][0] for row, tree in pairs]
    assert words[0] != words[1]
    places = [part(whole, tree) for tree in trees]
    for known, expected in (((0,), words[0]), ((1,), words[1]), ((0, 1), words[0]), ((), "")):
        fractions = np.full((1, whole.size), np.nan)
        for each in known:
            fractions[0, places[each]] = rows[each]
        assert describe.readable(fractions, whole)["morphology"].tolist() == [expected]
