"""The published trees against what was published, and trees that users write down."""

import copy
import dataclasses
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from gzjax.errors import UserError
from gzjax.tree import NAMES, Question, Tree, load
from gzjax.trees.campaigns import part, union

DECALS = """
smooth-or-featured: smooth, featured-or-disk, artifact <- always
disk-edge-on: yes, no <- smooth-or-featured_featured-or-disk
has-spiral-arms: yes, no <- disk-edge-on_no
bar: strong, weak, no <- disk-edge-on_no
bulge-size: dominant, large, moderate, small, none <- disk-edge-on_no
how-rounded: round, in-between, cigar-shaped <- smooth-or-featured_smooth
edge-on-bulge: boxy, none, rounded <- disk-edge-on_yes
spiral-winding: tight, medium, loose <- has-spiral-arms_yes
spiral-arm-count: 1, 2, 3, 4, more-than-4, cant-tell <- has-spiral-arms_yes
merging: none, minor-disturbance, major-disturbance, merger <- smooth-or-featured_smooth, \
smooth-or-featured_featured-or-disk
"""
COSMIC_DAWN = (
    DECALS.replace("featured-or-disk, artifact <-", "featured-or-disk, problem <-")
    + """
clumps: yes, no <- disk-edge-on_no
problem: star, artifact, zoom <- smooth-or-featured_problem
artifact: satellite, scattered, diffraction, ray, saturation, other <- problem_artifact
"""
)
GZ2 = """
smooth-or-featured: smooth, featured-or-disk, artifact <- always
disk-edge-on: yes, no <- smooth-or-featured_featured-or-disk
bar: yes, no <- disk-edge-on_no
has-spiral-arms: yes, no <- disk-edge-on_no
bulge-size: no, just-noticeable, obvious, dominant <- disk-edge-on_no
something-odd: yes, no <- always
how-rounded: round, in-between, cigar <- smooth-or-featured_smooth
odd-feature: ring, lens-or-arc, disturbed, irregular, other, merger, dust-lane <- something-odd_yes
bulge-shape: round, boxy, no-bulge <- disk-edge-on_yes
spiral-winding: tight, medium, loose <- has-spiral-arms_yes
spiral-arm-count: 1, 2, 3, 4, more-than-4, cant-tell <- has-spiral-arms_yes
"""
# name: (questions, answers, suffix, the facts of the papers)
FACTS = {
    "gz2": (11, 37, "-gz2", GZ2),
    "ukidss": (10, 30, "-ukidss", re.sub("odd-feature: .*\n", "", GZ2)),
    "decals-dr5": (10, 34, "-dr5", DECALS),
    "decals-dr8": (10, 34, "-dr8", DECALS),
    "desi": (10, 34, "", DECALS),
    "decals-dr12": (
        10,
        30,
        "-dr12",
        DECALS.replace("strong, weak, no", "yes, no")
        .replace("dominant, large, moderate, small, none", "dominant, obvious, none")
        .replace("round, in-between", "completely, in-between")
        .replace("more-than-4, cant-tell", "more-than-4")
        .replace(
            "none, minor-disturbance, major-disturbance, merger",
            "neither, tidal-debris, both, merger",
        ),
    ),
    "hubble": (
        12,
        34,
        "-hubble",
        """
smooth-or-featured: smooth, features, artifact <- always
how-rounded: completely, in-between, cigar-shaped <- smooth-or-featured_smooth
clumpy-appearance: yes, no <- smooth-or-featured_features
disk-edge-on: yes, no <- clumpy-appearance_no
bulge-shape: rounded, boxy, none <- disk-edge-on_yes
bar: yes, no <- disk-edge-on_no
has-spiral-arms: yes, no <- disk-edge-on_no
spiral-winding: tight, medium, loose <- has-spiral-arms_yes
spiral-arm-count: 1, 2, 3, 4, 5-plus, cant-tell <- has-spiral-arms_yes
bulge-size: none, just-noticeable, obvious, dominant <- disk-edge-on_no
galaxy-symmetrical: yes, no <- clumpy-appearance_yes
clumps-embedded-larger-object: yes, no <- clumpy-appearance_yes
""",
    ),
    "candels": (
        11,
        32,
        "-candels",
        """
smooth-or-featured: smooth, features, artifact <- always
how-rounded: completely, in-between, cigar-shaped <- smooth-or-featured_smooth
clumpy-appearance: yes, no <- smooth-or-featured_features
disk-edge-on: yes, no <- clumpy-appearance_no
edge-on-bulge: yes, no <- disk-edge-on_yes
bar: yes, no <- disk-edge-on_no
has-spiral-arms: yes, no <- disk-edge-on_no
spiral-winding: tight, medium, loose <- has-spiral-arms_yes
spiral-arm-count: 1, 2, 3, 4, 5-plus, cant-tell <- has-spiral-arms_yes
bulge-size: none, obvious, dominant <- disk-edge-on_no
merging: merger, tidal-debris, both, neither <- smooth-or-featured_smooth, \
smooth-or-featured_features
""",
    ),
    "rings": (1, 2, "", "ring: yes, no <- always"),
    "cosmic-dawn": (13, 45, "-cd", COSMIC_DAWN),
    "euclid": (
        13,
        46,
        "-euclid",
        COSMIC_DAWN.replace("saturation, other", "saturation, other, ghost"),
    ),
    "jwst-ceers": (
        12,
        39,
        "-jwst",
        re.sub("artifact: satellite.*\n", "", COSMIC_DAWN)
        .replace("featured-or-disk, problem <-", "featured-or-disk, star-artifact-zoom <-")
        .replace("star, artifact, zoom <-", "star, artifact, bad-zoom <-")
        .replace("smooth-or-featured_problem", "smooth-or-featured_star-artifact-zoom")
        .replace(
            "clumps: yes, no <- disk-edge-on_no",
            "clumps: yes, no <- smooth-or-featured_smooth, smooth-or-featured_featured-or-disk",
        ),
    ),
}

HART = """
t01_smooth_or_features: a01_smooth a02_features_or_disk a03_star_or_artifact
t02_edgeon: a04_yes a05_no
t03_bar: a06_bar a07_no_bar
t04_spiral: a08_spiral a09_no_spiral
t05_bulge_prominence: a10_no_bulge a11_just_noticeable a12_obvious a13_dominant
t06_odd: a14_yes a15_no
t07_rounded: a16_completely_round a17_in_between a18_cigar_shaped
t08_odd_feature: a19_ring a20_lens_or_arc a21_disturbed a22_irregular a23_other a24_merger \
a38_dust_lane
t09_bulge_shape: a25_rounded a26_boxy a27_no_bulge
t10_arms_winding: a28_tight a29_medium a30_loose
t11_arms_number: a31_1 a32_2 a33_3 a34_4 a36_more_than_4 a37_cant_tell
"""

OWN = """
name = "own"
[[questions]]
name = "kind"
answers = ["smooth", "disk", "star"]
[[questions]]
name = "arms"
answers = ["yes", "no"]
asked_after = ["kind_disk"]
[[questions]]
name = "merging"
answers = ["no", "yes", "cant-tell"]
asked_after = ["kind_disk", "kind_smooth"]
"""


def lines(facts: str) -> list[tuple[str, list[str], set[str]]]:
    """[(question, answers, gates)]."""
    found = []
    for line in filter(None, facts.splitlines()):
        question, rest = line.split(": ")
        answers, gates = rest.split(" <- ")
        found.append((question, answers.split(", "), set(gates.split(", ")) - {"always"}))
    return found


@pytest.mark.parametrize("name", FACTS)
def test_a_published_tree_is_as_published(name):
    questions, answers, suffix, facts = FACTS[name]
    tree = load(name)
    assert (tree.name, len(tree.questions), tree.size) == (name, questions, answers)
    named = [f"{q.name}_{answer}" for q in tree.questions for answer in q.answers]
    found = [
        (question.name, list(question.answers), {named[gate] for gate in question.gates})
        for question in tree.questions
    ]
    assert found == lines(facts)
    survey = tuple(
        f"{question}{suffix}_{answer}" for question, answers, _ in found for answer in answers
    )
    # The names that the table of Galaxy Zoo 2 lacks are made like the others.
    assert (tree.suffix, tree.survey_columns) == (suffix, survey)
    if name != "gz2":
        assert tree.columns == tree.families["survey"] == survey
    if name in ("cosmic-dawn", "euclid"):
        assert tree.families["public"] == tuple(named)
    # Each can be described, and nothing is forgotten or said twice.
    assert not tree.described or sorted(tree.described) == sorted(q.name for q in tree.questions)
    assert all(question.phrases for question in tree.questions)


def test_the_published_trees_are_named():
    assert sorted(FACTS) == list(NAMES)


def test_columns_of_galaxy_zoo_2():
    tree = load("gz2")
    sizes = (3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6)
    challenge = [f"Class{q}.{a}" for q, n in enumerate(sizes, 1) for a in range(1, n + 1)]
    hart = [
        f"{task}_{answer}"
        for task, answers in (line.split(": ") for line in HART.strip().splitlines())
        for answer in answers.split()
    ]
    assert list(tree.families) == ["challenge", "hart", "survey"]
    assert tree.columns == tree.families["challenge"] == tuple(challenge)
    assert tree.families["hart"] == tuple(hart)
    survey = tree.families["survey"]
    assert survey[18:25] == (None,) * 7
    assert survey[:5] == (
        "smooth-or-featured-gz2_smooth",
        "smooth-or-featured-gz2_featured-or-disk",
        "smooth-or-featured-gz2_artifact",
        "disk-edge-on-gz2_yes",
        "disk-edge-on-gz2_no",
    )
    assert survey[35:] == ("spiral-arm-count-gz2_more-than-4", "spiral-arm-count-gz2_cant-tell")
    ukidss = [name.replace("-gz2_", "-ukidss_") for name in survey if name]
    assert ukidss == list(load("ukidss").columns)


@pytest.mark.parametrize("name", ["decals-dr5", "euclid", "candels", "jwst-ceers"])
def test_gates_where_the_common_tables_are_simpler(name):
    """Merging is not asked of everybody, but of all that is a galaxy."""
    tree = load(name)
    merging = next(question for question in tree.questions if question.name == "merging")
    assert merging.gates == (0, 1)


@pytest.mark.parametrize(
    ("pattern", "suffix", "column"),
    [
        ("columns = {survey = '{question}-my-own_{answer}'}", "-my-own", "arms-my-own_yes"),
        ("columns = {votes = '{question}-a_{answer}'}", "", "arms_yes"),  # no survey
        ("columns = {survey = '{question}.x_{answer}'}", "", "arms.x_yes"),  # no part of a name
        ("columns = {survey = 't{number}-x_{answer}'}", "", "t2-x_yes"),
        ("columns = {survey = '{question}-{number}_{answer}'}", "", "arms-2_yes"),  # not one suffix
        ("columns = {survey = '{question}-x_{answer}?'}", "", "arms-x_yes?"),
    ],
)
def test_the_suffix_of_ones_own_tree(tmp_path, pattern, suffix, column):
    tree = load_own(tmp_path, pattern + OWN)
    assert (tree.suffix, tree.survey_columns[3]) == (suffix, column)
    assert len(tree.survey_columns) == tree.size


def test_without_families_survey_columns_are_plain():
    tree = Tree("x", (Question(1, "q", ("a", "b"), first=0),), ("one", "two"))
    assert (tree.suffix, tree.survey_columns) == ("", ("q_a", "q_b"))


def load_own(folder: Path, content: str) -> Tree:
    (folder / "own.toml").write_text(content)
    return load(folder / "own.toml")


def test_a_tree_of_ones_own(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    tree = load(str(file))
    assert tree == Tree(
        "own",
        (
            Question(1, "kind", ("smooth", "disk", "star"), first=0),
            Question(2, "arms", ("yes", "no"), first=3, gates=(1,)),
            Question(3, "merging", ("no", "yes", "cant-tell"), first=5, gates=(0, 1)),
        ),
        (
            *("kind_smooth", "kind_disk", "kind_star", "arms_yes", "arms_no"),
            *("merging_no", "merging_yes", "merging_cant-tell"),
        ),
    )
    assert tree.families == {"survey": tree.columns}
    assert load(file) == tree
    assert list(tree.to_dict()["columns"]) == ["survey"]


def test_columns_by_pattern_and_by_list(tmp_path):
    file = tmp_path / "own.toml"
    listed = ["", "", "", "y", "", "", "", ""]
    file.write_text(
        replaced(
            "[[questions]]",
            '[columns]\nours = "t{number:02d}_{question}_a{index}_{answer}"\n'
            f"theirs = {listed}\n[[questions]]",
        )
    )
    tree = load(file)
    assert list(tree.families) == ["ours", "theirs"]
    assert tree.columns == tree.families["ours"]
    assert tree.columns[2:6] == (
        *("t01_kind_a3_star", "t02_arms_a1_yes", "t02_arms_a2_no", "t03_merging_a1_no"),
    )
    assert tree.families["theirs"] == (None, None, None, "y", None, None, None, None)
    assert Tree.from_dict(tree.to_dict()).families == tree.families
    assert (
        load_own(tmp_path, "columns = {x = '{question}-x_{answer}'}" + OWN).columns[4]
        == "arms-x_no"
    )


def test_a_tree_is_found_by_path_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "own").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("own.toml", "./own", "~/own", str(tmp_path / "own"), Path("own")):
        assert load(name).name == "own"


@pytest.mark.parametrize("name", NAMES)
def test_json_and_pickle_give_the_same_tree(name):
    tree = load(name)
    content = json.loads(json.dumps(tree.to_dict()))
    for other in (Tree.from_dict(content), pickle.loads(pickle.dumps(tree)), copy.deepcopy(tree)):
        assert other == tree
        assert hash(other) == hash(tree)
        for field in dataclasses.fields(Tree):
            assert getattr(other, field.name) == getattr(tree, field.name), field.name
        for one, another in zip(tree.questions, other.questions, strict=True):
            for field in dataclasses.fields(Question):
                assert getattr(one, field.name) == getattr(another, field.name), field.name
    assert list(tree.families) == list(Tree.from_dict(content).families)


def test_a_tree_built_in_python_survives_json():
    tree = Tree("x", (Question(1, "q", ("a", "b"), first=0),), ("one", "two"))
    assert Tree.from_dict(tree.to_dict()).columns == ("one", "two")


def test_trees_are_compared_by_what_they_ask():
    tree = load("gz2")
    first, second, *rest = tree.questions
    others = [
        dataclasses.replace(tree, name="gz3"),
        dataclasses.replace(
            tree, questions=(first, dataclasses.replace(second, gates=(2,)), *rest)
        ),
        dataclasses.replace(tree, columns=tree.families["hart"], families={}),
    ]
    assert len({tree, *others}) == 4
    # A better wording is no other tree.
    reworded = dataclasses.replace(first, text="?", phrases=("a", "b", "c"), replaces=True)
    assert tree == dataclasses.replace(tree, questions=(reworded, second, *rest), described=())
    assert len({load(name) for name in NAMES}) == len(NAMES)


def test_properties_of_galaxy_zoo_2():
    tree = load("gz2")
    sizes = (3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6)
    assert tree.question_of.tolist() == [q for q, size in enumerate(sizes) for _ in range(size)]
    assert tree.membership.shape == (37, 11)
    assert tree.membership.dtype == "float32"
    assert tree.membership.argmax(axis=1).tolist() == tree.question_of.tolist()
    assert tree.membership.sum() == 37
    assert [question.number for question in tree.by_depth] == [1, 6, 2, 7, 8, 3, 4, 5, 9, 10, 11]


def test_questions_come_after_all_their_gates():
    questions = (
        Question(1, "last", ("a", "b"), first=0, gates=(2, 5)),
        Question(2, "root", ("a", "b"), first=2),
        Question(3, "middle", ("a", "b"), first=4, gates=(3,)),
    )
    tree = Tree("x", questions, tuple("abcdef"))
    assert [question.number for question in tree.by_depth] == [2, 3, 1]


def replaced(old: str, new: str) -> str:
    assert old in OWN
    return OWN.replace(old, new, 1)


ARMS = '"arms"\nanswers = ["yes", "no"]\n'
WRONG = [
    ("name = ", "expected TOML in UTF-8, found: Invalid value"),
    ("a = 1", "key: expected one of name, described, columns, questions, found 'a'"),
    (b"\xff\xfe", "expected TOML in UTF-8, found: 'utf-8' codec"),
    ("x = " + "[" * 5000, "expected TOML in UTF-8"),
    (replaced("name", "nam"), "key: expected .*, found 'nam'; did you mean 'name'\\?"),
    (replaced('name = "own"', ""), "name: expected letters and digits, .*, found nothing"),
    (replaced('"own"', "5"), "name: expected text, found 5"),
    (replaced('"own"', '"a tree"'), "name: expected letters and digits, .*, found 'a tree'"),
    (replaced('"own"', '"own+"'), "name: expected letters and digits, .*, found nothing"),
    (replaced('"arms"', '"a+b"'), "question 'a.b': name: expected letters and digits"),
    ('name = "own"', "questions: expected at least one, found nothing"),
    ('name = "own"\nquestions = []', "questions: expected at least one, found nothing"),
    ('name = "own"\nquestions = ["a"]', "question 1: content: expected a table, found 'a'"),
    ('name = "own"\n[questions]\nname = "a"', "questions: expected a list, found {'name': 'a'}"),
    ("columns = 'x'" + OWN, "columns: expected a table, found 'x'"),
    ("described = ['bar']" + OWN, "described: expected one of kind, arms, merging, found 'bar'"),
    ("described = ['arm']" + OWN, "found 'arm'; did you mean 'arms'"),
    (replaced('name = "arms"', ""), "question 2: name: expected letters .*, found nothing"),
    (replaced('"arms"', "true"), "question True: name: expected text, found True"),
    (replaced('"arms"', '"a_b"'), "question 'a_b': name: expected letters and digits, .* 'a_b'"),
    (replaced('"arms"', '""'), "question '': name: expected letters and digits"),
    (replaced('"arms"', '"kind"'), r"questions: expected different names, found .'kind', 'kind'"),
    (
        OWN + '[[questions]]\nname = "arms"\nanswers = ["yes", "no"]\nasked_after = ["kind_disk"]',
        "questions: expected different names, found .'arms', 'arms'",
    ),
    (
        replaced('answers = ["yes", "no"]', ""),
        "question 'arms': answers: expected at least two, found nothing",
    ),
    (replaced('["yes", "no"]', '"yes"'), "answers: expected a list of strings, found 'yes'"),
    (
        replaced('["yes", "no"]', "[1, 2]"),
        r"'arms': answers: expected a list of strings, found \[1,",
    ),
    (replaced('["yes", "no"]', '["yes"]'), r"'arms': answers: expected at least two, found .'yes'"),
    (replaced('["yes", "no"]', '["y", "y"]'), "'arms': answers: expected different names"),
    (replaced('["yes", "no"]', '["y!", "n"]'), "'arms': answers: expected letters .*, found 'y!'"),
    (replaced('["kind_disk"]', '"kind_disk"'), "'arms': asked_after: expected a list of strings"),
    (
        replaced('["kind_disk"]', '["kind_disc"]'),
        "'arms': asked_after: expected one of kind_smooth, .*, found 'kind_disc'; did you "
        "mean 'kind_disk'",
    ),
    (
        replaced('["kind_disk"]', '["arms_yes"]'),
        "asked_after: expected no cycle, found one among arms",
    ),
    (
        replaced('["kind_disk"]', '["merging_yes"]').replace('"kind_smooth"]', '"arms_no"]'),
        "asked_after: expected no cycle, found one among arms, merging",
    ),
    (
        replaced('"kind_smooth"]', '"arms_no"]'),
        r"'merging': asked_after: .* exclude each other, found \['kind_disk', 'arms_no'\]",
    ),
    (replaced("asked_after", "asked_afer"), "'arms': key: .*'asked_afer'; did you mean 'asked_a"),
    (replaced(ARMS, ARMS + "phrases = ['a']\n"), "'arms': phrases: expected one for each of 2 an"),
    (replaced(ARMS, ARMS + "phrases = 'a'\n"), "'arms': phrases: expected a list of strings"),
    (replaced(ARMS, ARMS + "replaces = 1\n"), "'arms': replaces: expected true or false, found 1"),
    (replaced(ARMS, ARMS + "text = 1\n"), "'arms': text: expected text, found 1"),
    ("columns = {a = 1}" + OWN, "columns of a: expected a list of strings, found 1"),
    ("columns = {a = ['x']}" + OWN, r"columns of a: expected 8 names, one for each answer, .*'x'"),
    (
        "columns = {a = ['a', 'b', 'c', 'd', 'e', 'f', 'g', '']}" + OWN,
        "columns: expected a name for",
    ),
    ("columns = {a = '{answer}'}" + OWN, "columns of a: expected different names, found .'yes'"),
    (
        "columns = {a = '{anwer}'}" + OWN,
        "columns of a: expected a pattern of {question}, {answer}, {number}, {index}, found '{anw",
    ),
    *(
        ("columns = {a = 'BAD'}".replace("BAD", bad) + OWN, "columns of a: expected a pattern of")
        for bad in ("{", "{0}", "{answer:d}", "{answer.x}")
    ),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_a_wrong_file_ends_in_one_line(tmp_path, content, message):
    file = tmp_path / "own.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert "\n" not in text
    assert len(text) < 600
    assert re.search(message, text), text


def test_no_such_tree(tmp_path):
    with pytest.raises(UserError, match=r"^expected .*candels.*, found 'gz3'; did you mean 'gz2'"):
        load("gz3")
    with pytest.raises(UserError, match=r"desi.toml: expected a TOML file, found: No such file"):
        load(str(tmp_path / "desi.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match=r"folder.toml: expected a TOML file, found: Is a direc"):
        load(tmp_path / "folder.toml")


@pytest.mark.parametrize("content", [None, [], "gz2", 1])
def test_what_is_no_table_is_no_tree(content):
    with pytest.raises(UserError, match="expected a table"):
        Tree.from_dict(content)


def test_a_long_mistake_is_shortened(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(replaced('["yes", "no"]', json.dumps(["y" * 5000, 1])))
    with pytest.raises(UserError) as caught:
        load(file)
    assert len(str(caught.value)) < 500


def test_a_shipped_file_is_read_as_any_other(tmp_path):
    from gzjax import trees

    for name in NAMES:
        source = f"{trees.__path__[0]}/{name}.toml"
        shutil.copy(source, tmp_path)
        assert load(tmp_path / f"{name}.toml") == load(name)


# --- several campaigns ---


def same(one: Tree, other: Tree) -> None:
    """In all that they hold, compared or not."""
    for field in dataclasses.fields(Tree):
        assert getattr(one, field.name) == getattr(other, field.name), field.name
    for first, second in zip(one.questions, other.questions, strict=True):
        for field in dataclasses.fields(Question):
            assert getattr(first, field.name) == getattr(second, field.name), field.name


@pytest.mark.parametrize(
    "names",
    [("decals-dr5", "decals-dr12"), ("rings", "gz2", "desi"), NAMES[::-1]],
    ids=["two", "three", "all"],
)
def test_laws_of_a_union(names):
    trees = [load(name) for name in names]
    whole = union(trees)
    assert whole.name == "+".join(names)
    assert whole.size == sum(tree.size for tree in trees)
    assert whole.columns == whole.survey_columns == whole.families["survey"]
    assert len(set(whole.columns)) == whole.size
    assert next(iter(whole.families)) == "survey"
    fractions = np.random.default_rng(0).random((3, whole.size)).astype(np.float32)
    asked, questions, first = whole.asked(fractions), iter(whole.questions), 0
    for tree in trees:
        suffix = tree.suffix or f"-{tree.name}"
        columns = part(whole, tree)
        assert columns == slice(first, first + tree.size)
        if tree.suffix:
            assert whole.columns[columns] == tree.survey_columns
        own = []
        for question in tree.questions:
            found = next(questions)
            own.append(found.number - 1)
            assert found.name == question.name + suffix
            assert found.columns == slice(
                first + question.columns.start, first + question.columns.stop
            )
            assert found.gates == tuple(first + gate for gate in question.gates)
            for field in ("answers", "text", "phrases", "replaces"):
                assert getattr(found, field) == getattr(question, field)
        np.testing.assert_array_equal(asked[:, own], tree.asked(fractions[:, columns]))
        first = columns.stop
    assert next(questions, None) is None
    same(whole, Tree.from_dict(json.loads(json.dumps(whole.to_dict()))))
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_a_union_by_hand():
    rings, dr5 = load("rings"), load("decals-dr5")
    whole = union([dr5, rings])
    assert whole.columns[:2] == (
        "smooth-or-featured-dr5_smooth",
        "smooth-or-featured-dr5_featured-or-disk",
    )
    assert whole.columns[34:] == ("ring-rings_yes", "ring-rings_no")
    assert whole.described == (*(f"{name}-dr5" for name in dr5.described), "ring-rings")
    # A tree that describes all of its questions names none.
    assert rings.described == ()
    assert union([rings, dr5]).described[:2] == ("ring-rings", f"{dr5.described[0]}-dr5")
    assert part(union([rings, dr5]), dr5) == slice(2, 36)


def test_one_campaign_is_its_own_union():
    tree = load("gz2")
    assert union([tree]) is tree
    assert part(tree, load("gz2")) == slice(0, 37)


def test_a_union_of_ones_own_tree(tmp_path):
    own, moved = load_own(tmp_path, OWN), load_own(tmp_path, replaced('"own"', '"other"'))
    whole = union([own, moved])
    assert whole.name == "own+other"
    assert [whole.columns[column] for column in (0, 8)] == ["kind-own_smooth", "kind-other_smooth"]
    assert part(whole, moved) == slice(8, 16)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "trees: expected at least one, found nothing"),
        (
            ["desi", "gz2", "desi"],
            "trees: expected suffixes that end in different words, found -desi for desi and -desi "
            "for desi",
        ),
        (
            ["decals-dr5", "dr5"],
            "trees: expected suffixes that end in different words, found -dr5 for decals-dr5 and "
            "-dr5 for dr5",
        ),
        (
            ["rings", "my-rings"],
            "trees: expected suffixes that end in different words, found -rings for rings and "
            "-my-rings for my-rings",
        ),
        (["desi+rings", "gz2"], "question '.*-desi.rings': name: expected letters and digits, .*"),
    ],
)
def test_no_union(tmp_path, names, message):
    def named(name):
        if name in NAMES:
            return load(name)
        if "+" in name:
            return union([load(each) for each in name.split("+")])
        return load_own(tmp_path, replaced('"own"', f'"{name}"'))

    with pytest.raises(UserError, match=f"^{message}$") as caught:
        union([named(name) for name in names])
    assert "\n" not in str(caught.value)


def test_no_part(tmp_path):
    own, dr5 = load_own(tmp_path, OWN), load("decals-dr5")
    whole = union([own, dr5])
    edited = [
        load_own(tmp_path, replaced('"no", "yes", "cant-tell"', '"no", "yes", "unsure"')),
        load_own(tmp_path, replaced('"kind_disk", "kind_smooth"', '"kind_disk"')),
        load_own(tmp_path, replaced('"merging"', '"merger"')),
    ]
    for tree in (*edited, load("decals-dr8"), union([dr5, own])):
        for of in (whole, dr5):
            with pytest.raises(UserError) as caught:
                part(of, tree)
            expected = f"tree: expected one that is part of {of.name}, found {tree.name!r}"
            assert str(caught.value) == expected
