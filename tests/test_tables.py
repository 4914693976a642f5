"""Tables of votes: every naming and kind, what stays unknown, and what is said of faults."""

import gzip
import lzma
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings

from gzjax import tree as trees
from gzjax.data import tables, tally
from gzjax.data.rows import ID_COLUMNS
from gzjax.errors import UserError
from gzjax.tree import Tree

GZ2, DECALS = trees.load("gz2"), trees.load("decals-dr5")
COLUMNS = list(DECALS.columns)


def walk(tree, galaxies=30, seed=0, volunteers=40):
    """float64[galaxies, answers]: votes of a crowd that walks the tree and never leaves early."""
    generator = np.random.default_rng(seed)
    votes = np.zeros((galaxies, tree.size))
    for row in votes:
        for question in tree.by_depth:
            asked = int(row[list(question.gates)].sum()) if question.gates else volunteers
            taste = generator.dirichlet(np.full(len(question.answers), 0.7))
            row[question.columns] = generator.multinomial(asked, taste)
    return votes


def frame_of(votes, names, first=1):
    table = pd.DataFrame(votes, columns=list(names))
    table.insert(0, "id_str", [f"J{first + row}" for row in range(len(table))])
    return table


def conditional(votes, tree):
    """The fractions of each question's answers, NaN at 0/0; and each question's votes."""
    totals = np.stack([votes[:, each.columns].sum(axis=1) for each in tree.questions], axis=1)
    with np.errstate(invalid="ignore"):
        return votes / totals[:, tree.question_of], totals


def read(table, tree=DECALS, suffix="csv", **options):
    """What is read of a table in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"votes.{suffix}"
        save = table.to_parquet if suffix == "parquet" else table.to_csv
        save(path, index=False)
        return tables.read(path, tree, **options)


def refused(table, tree=DECALS, suffix="csv", **options):
    """The one line in which a table is refused."""
    with pytest.raises(UserError) as raised:
        read(table, tree, suffix, **options)
    assert "\n" not in str(raised.value)
    assert "--" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "csv.bz2", "csv.xz", "parquet"])
def test_counts_are_the_votes_whatever_the_file(suffix):
    votes = walk(DECALS)
    found = read(frame_of(votes, COLUMNS).assign(ra=1.5, note="x"), suffix=suffix)
    assert list(found.votes.columns) == COLUMNS
    assert found.votes.index.name == "GalaxyID"
    assert found.votes.index[2] == "J3"
    assert (found.votes.dtypes == np.float32).all()
    np.testing.assert_array_equal(found.votes, votes)
    assert found.left_out.empty
    assert list(found.left_out.columns) == ["GalaxyID", "file", "reason"]
    assert found.files is found.embedded is None
    assert found.about == (
        f"table votes.{suffix}: counts of decals-dr5 (survey names), 10 of 10 questions"
    )


@given(seed=st.integers(0, 99), data=st.data())
@settings(max_examples=10, deadline=None)
def test_the_order_of_columns_and_rows_changes_nothing(seed, data):
    table = frame_of(walk(DECALS, 6, seed), COLUMNS)
    columns = data.draw(st.permutations(list(table.columns)))
    rows = data.draw(st.permutations(range(6)))
    expected, found = read(table), read(table.iloc[list(rows)][columns])
    pd.testing.assert_frame_equal(found.votes, expected.votes.iloc[list(rows)])
    assert found.about == expected.about


@given(seed=st.integers(0, 99), removed=st.sets(st.integers(0, 9), max_size=9))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("kind", ["counts", "totals", "cumulative"])
def test_a_question_without_columns_is_unknown_and_no_other(seed, removed, kind):
    votes = walk(DECALS, 6, seed)
    fractions, totals = conditional(votes, DECALS)
    table = frame_of(votes if kind == "counts" else votes / 40, COLUMNS)
    if kind == "totals":
        table = frame_of(fractions, [f"{name}_fraction" for name in COLUMNS])
        names = [f"{each.name}-dr5_total-votes" for each in DECALS.questions]
        table = table.join(pd.DataFrame(totals, columns=names))
    lost = [f"{DECALS.questions[each].name}-dr5_" for each in removed]
    expected = votes.copy()
    expected[:, np.isin(DECALS.question_of, list(removed))] = np.nan
    expected = expected[np.nan_to_num(expected).any(axis=1)]
    assume(len(expected))
    found = read(table.drop(columns=[c for c in table if c.startswith(tuple(lost))]))
    np.testing.assert_allclose(found.votes, expected, rtol=1e-6)
    names = ", ".join(DECALS.questions[each].name for each in sorted(removed))
    assert f"{10 - len(removed)} of 10 questions" in found.about
    assert (f"; unknown: {names}" in found.about) == bool(removed)


@given(seed=st.integers(0, 99), tree=st.sampled_from([DECALS, GZ2, trees.load("desi")]))
@settings(max_examples=10, deadline=None)
def test_fractions_and_totals_are_the_counts_again(seed, tree):
    votes = walk(tree, 8, seed)
    votes[0] = 0
    votes[0, 1] = 1  # one volunteer, who left
    votes[:, tree.questions[1].columns] = np.floor(votes[:, tree.questions[1].columns] / 2)
    for question in tree.by_depth[2:]:  # those below are asked of fewer
        if question.gates:
            asked = votes[:, list(question.gates)].sum(axis=1)
            own = votes[:, question.columns]
            own *= (own.sum(axis=1) <= asked)[:, None]
    fractions, totals = conditional(votes, tree)
    names = tree.families.get("hart", tree.columns)
    table = frame_of(fractions, [f"{name}_fraction" for name in names])
    for position, question in enumerate(tree.questions):
        stem = names[question.first].rpartition("_")[0]
        stem = "_".join(names[question.first].split("_a")[:1]) if tree == GZ2 else stem
        table[f"{stem}_total{'_count' if tree == GZ2 else '-votes'}"] = totals[:, position]
    found = read(table, tree)
    np.testing.assert_allclose(found.votes, votes, rtol=1e-6)
    assert "conditional fractions" in found.about
    assert "volunteers a galaxy" not in found.about


@given(seed=st.integers(0, 99), tree=st.sampled_from([DECALS, GZ2]))
@settings(max_examples=10, deadline=None)
def test_fractions_alone_are_walked_down_the_tree(seed, tree):
    votes = walk(tree, 8, seed)
    fractions, _ = conditional(votes, tree)
    ending = "_weighted_fraction" if seed % 2 else "_fraction"
    names = [f"{name}{ending}" for name in tree.families.get("hart", tree.columns)]
    found = read(frame_of(fractions, names), tree, votes_per_galaxy=20)
    np.testing.assert_allclose(found.votes, votes / 2, rtol=1e-5, atol=1e-5)
    assert found.about.endswith("; taken as 20 volunteers a galaxy")
    zeros = read(frame_of(np.nan_to_num(fractions), names), tree)  # as Hart+16 write 0/0
    np.testing.assert_allclose(zeros.votes, votes, rtol=1e-5, atol=1e-5)
    everything = read(frame_of(votes / 40, tree.columns), tree)
    np.testing.assert_allclose(everything.votes, votes, rtol=1e-5, atol=1e-5)


def test_the_kind_that_tells_most_is_taken_unless_told():
    counts = walk(GZ2)
    fractions, _ = conditional(counts, GZ2)
    names = GZ2.families["hart"]
    other = np.roll(counts, 1, axis=0)
    parts = {
        "counts": frame_of(counts, [f"{name}_count" for name in names]),
        "weights": frame_of(counts * 0.9, [f"{name}_weight" for name in names]),
        "fractions": frame_of(fractions, [f"{name}_fraction" for name in names]),
        "debiased": frame_of(conditional(other, GZ2)[0], [f"{name}_debiased" for name in names]),
    }
    flags = frame_of(counts * 0 + 7, [f"{name}_flag" for name in names])
    expected = {"counts": counts, "weights": 0.9 * counts, "fractions": counts, "debiased": other}

    def joined(kinds):
        table = pd.concat([parts[kind].drop(columns="id_str") for kind in kinds], axis=1)
        return pd.concat([flags, table], axis=1)

    for number, kind in enumerate(parts):
        rest = list(parts)[number:]
        if kind != "debiased":
            found = read(joined(rest[::-1]), GZ2)
            np.testing.assert_allclose(found.votes, expected[kind], rtol=1e-5, atol=1e-5)
        found = read(joined(parts), GZ2, kind=kind)
        np.testing.assert_allclose(found.votes, expected[kind], rtol=1e-5, atol=1e-5)
        assert f"{kind} " in found.about
        assert "(hart names)" in found.about
    assert "such as Class1.1_count" not in refused(joined(["debiased"]), GZ2)
    assert refused(joined(["counts"]), GZ2, kind="weights").endswith(
        "expected the columns of at least one whole question of gz2, such as Class1.1_weight or "
        "t01_smooth_or_features_a01_smooth_weight or smooth-or-featured-gz2_smooth_weight ...; "
        "found id_str, t01_smooth_or_features_a01_smooth_flag, "
        "t01_smooth_or_features_a02_features_or_disk_flag, "
        "t01_smooth_or_features_a03_star_or_artifact_flag, t02_edgeon_a04_yes_flag, "
        "t02_edgeon_a05_no_flag, t03_bar_a06_bar_flag, t03_bar_a07_no_bar_flag ..."
    )
    assert refused(joined(["counts"]), GZ2, kind="votes").startswith("kind of votes: expected one")
    for number in (0, -1, np.nan, np.inf):
        line = refused(joined(["counts"]), GZ2, votes_per_galaxy=number)
        assert line.startswith("votes per galaxy: expected more than 0, found ")


@pytest.mark.parametrize("ending", ["_debiased", "_fraction-debiased", "_debiased_fraction"])
def test_debiased_fractions_need_not_fit_the_totals(ending):
    fractions, totals = conditional(walk(DECALS), DECALS)
    totals[:, 1] = 30  # more than those who gave the gate
    table = frame_of(fractions, [f"{name}{ending}" for name in COLUMNS])
    table = table.assign(**{"disk-edge-on-dr5_total-votes": totals[:, 1]})
    found = read(table.fillna(0.0), kind="debiased")
    assert "debiased fractions" in found.about
    edge_on = found.votes[COLUMNS[3:5]].sum(axis=1)
    np.testing.assert_allclose(edge_on, 30 * (totals[:, 2] >= 0) * (edge_on > 0), rtol=1e-6)
    table = table.rename(columns=lambda name: name.replace(ending, "_fraction"))
    assert "rows break the decision tree decals-dr5" in refused(table.fillna(0.0))


def test_bare_names_are_counts_or_cumulative_fractions_by_their_values():
    votes = walk(DECALS)
    table = frame_of(votes / 40, COLUMNS)
    found = read(table)
    assert "cumulative fractions" in found.about
    np.testing.assert_allclose(found.votes, votes, rtol=1e-6)
    single = walk(DECALS, volunteers=1)  # whole numbers: one volunteer each
    assert ": counts" in read(frame_of(single, COLUMNS)).about
    np.testing.assert_allclose(read(table, kind="counts").votes, votes / 40, rtol=1e-6)
    assert "taken as 9.5 volunteers" in read(table, kind="cumulative", votes_per_galaxy=9.5).about
    assert "line 2" in refused(frame_of(votes, COLUMNS), kind="cumulative")
    # Faults of fractions do not make them counts.
    assert refused(table.assign(**{COLUMNS[0]: 0.0})).endswith(
        "expected 0.000, of cumulative fractions, which these numbers seem to be"
    )
    table.loc[3, COLUMNS[3]] = 7
    assert "line 5, disk-edge-on-dr5_yes: expected a number in [0, 1], found 7" in refused(table)
    assert ": weights" in read(frame_of(votes / 40, [f"{name}_weight" for name in COLUMNS])).about
    whole = frame_of(np.rint(walk(GZ2, volunteers=1)), GZ2.columns)
    assert "11 of 11" in read(whole.rename(columns=str.lower), GZ2).about
    assert "cumulative" in read(whole, GZ2).about  # the challenge's are, whatever they hold
    assert "one whole question" in refused(whole, GZ2, kind="counts")


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        (lambda name: name, "survey names"),
        (lambda name: name.replace("-dr5_", "_"), "no suffix"),
        (lambda name: name.replace("-dr5_", "-dr8_"), "suffix -dr8"),
        (lambda name: name.replace("-dr5_", "-My-2_"), "suffix -my-2"),
        (lambda name: name.upper(), "survey names"),
        (lambda name: name.replace("-dr5_", "-DR9_").title(), "suffix -dr9"),
    ],
)
@pytest.mark.parametrize("ending", ["", "_count", "_weight"])
def test_names_may_have_another_suffix_or_none(change, naming, ending):
    votes = walk(DECALS)
    table = frame_of(votes, [change(f"{name}{ending}") for name in COLUMNS])
    found = read(table)
    np.testing.assert_array_equal(found.votes, votes)
    assert f"({naming}), 10 of 10" in found.about


def test_of_several_suffixes_the_trees_own_is_taken():
    votes, other = walk(DECALS), walk(DECALS, seed=1)

    def with_suffix(values, suffix):
        return pd.DataFrame(values, columns=[c.replace("-dr5", suffix) for c in COLUMNS])

    foreign = frame_of(other, [name.replace("-dr5", "-dr8") for name in COLUMNS])
    assert (read(foreign.join(with_suffix(votes, "-dr5"))).votes.to_numpy() == votes).all()
    assert (read(foreign.join(with_suffix(votes, ""))).votes.to_numpy() == votes).all()
    assert refused(foreign.join(with_suffix(votes, "-gz2"))).endswith(
        "expected the votes of decals-dr5 under one suffix, found suffix -dr8, suffix -gz2"
    )
    # One with no whole question is none.
    more = with_suffix(votes, "-gz2").iloc[:, :1]
    assert (read(foreign.join(more)).votes.to_numpy() == other).all()
    # Of the tree's own the most questions count, and what only begins like one is not one.
    table = frame_of(votes, COLUMNS).assign(
        **{f"bar-dr5_{answer}_count": 3 for answer in ("strong", "weak", "no")}
    )
    assert "10 of 10" in read(table).about


def test_questions_that_begin_alike_are_told_apart():
    tree = Tree.from_dict(
        {
            "name": "alike",
            "questions": [
                {"name": "bar", "answers": ["yes", "no"]},
                {"name": "bar-like", "answers": ["yes", "no"]},
            ],
        }
    )
    table = pd.DataFrame({"id": [1], "bar-x_yes": 3, "bar-x_no": 1})
    table = table.assign(**{"bar-like-x_yes": 2, "bar-like-x_no": 6})
    assert read(table, tree).votes.to_numpy().tolist() == [[3, 1, 2, 6]]
    plain = table.rename(columns=lambda name: name.replace("-x", ""))
    assert read(plain, tree).votes.to_numpy().tolist() == [[3, 1, 2, 6]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_question_with_a_cell_or_a_column_missing_is_unknown(suffix):
    votes = walk(DECALS)
    table = frame_of(votes, COLUMNS)
    table.loc[4, "bar-dr5_weak"] = np.nan
    found = read(table, suffix=suffix)
    expected = votes.copy()
    expected[4, 7:10] = np.nan
    np.testing.assert_array_equal(found.votes, expected)
    assert "10 of 10 questions" in found.about
    found = read(table.drop(columns=["bar-dr5_no", "bar-dr5_weak"]), suffix=suffix)
    expected[:, 7:10] = np.nan
    np.testing.assert_array_equal(found.votes, expected)
    assert found.about.endswith(
        "9 of 10 questions; unknown: bar; bar lacks bar-dr5_weak, bar-dr5_no"
    )


def test_empty_fractions_are_unknown_unless_nobody_was_asked():
    fractions, totals = conditional(walk(DECALS), DECALS)
    table = frame_of(fractions, [f"{name}_fraction" for name in COLUMNS])
    asked = np.flatnonzero(totals[:, 3] > 0)[0]
    table.loc[asked, "bar-dr5_weak_fraction"] = np.nan
    for given_totals in (False, True):
        if given_totals:
            table["bar-dr5_total-votes"] = totals[:, 3]
        bars = read(table).votes[COLUMNS[7:10]].to_numpy()
        assert np.isnan(bars[asked]).all()
        assert np.isnan(bars).sum() == 3
        assert (bars[totals[:, 3] == 0] == 0).all()
    table.loc[asked, "bar-dr5_weak_fraction"] = 0.0
    table.loc[asked, "bar-dr5_total-votes"] = np.nan
    assert np.isnan(read(table).votes[COLUMNS[7:10]].to_numpy()[asked]).all()
    # What is walked through an unknown question is unknown.
    table = table.drop(columns=[name for name in table if name.startswith("disk-edge-on")])
    found = read(table)
    assert "unknown: disk-edge-on, has-spiral-arms, bulge-size, edge-on-bulge, " in found.about
    assert found.votes["bar-dr5_no"].notna().sum() == 29  # by its total


def test_rows_without_votes_are_listed_and_cost_nothing():
    votes = walk(DECALS)
    votes[:12] = 0
    votes[3] = np.nan
    votes[5, :10] = np.nan
    found = read(frame_of(votes, COLUMNS))
    np.testing.assert_array_equal(found.votes, votes[12:])
    assert found.left_out.to_numpy().tolist() == [
        [f"J{row + 1}", "", "row without votes"] for row in range(12)
    ]
    assert refused(frame_of(votes[:12], COLUMNS)).endswith("galaxies with votes, found none")


def test_counts_may_fall_short_of_their_gates_but_not_exceed_them():
    votes = walk(DECALS, 300)
    disks = np.flatnonzero(votes[:, 1] >= 20)[:4]
    good, fewer = votes.copy(), votes.copy()
    good[:, 3] += 0.02 * votes[:, 1] + 0.49  # asked after featured or disk
    np.testing.assert_array_equal(read(frame_of(good, COLUMNS)).votes, good.astype(np.float32))
    fewer[:, 3:] = np.floor(fewer[:, 3:] / 3)
    read(frame_of(fewer, COLUMNS))
    bad = votes.copy()
    bad[disks[:3], 3] += 2
    found = read(frame_of(bad, COLUMNS))
    np.testing.assert_array_equal(found.votes, np.delete(votes, disks[:3], axis=0))
    row = disks[0]
    asked = votes[row, 1]
    assert found.left_out.iloc[0].tolist() == [
        f"J{row + 1}",
        "",
        f"breaks the gate of disk-edge-on: its answers sum to {asked + 2:.3f}, expected at most "
        f"{asked:.3f}",
    ]
    bad[disks[3], 3] += 9
    asked = votes[disks[3], 1]
    assert refused(frame_of(bad, COLUMNS)).endswith(
        f"votes.csv: 4 of 300 rows break the decision tree decals-dr5, the worst is GalaxyID "
        f"J{disks[3] + 1}: the answers of question 2 (disk-edge-on) sum to {asked + 9:.3f}, "
        f"expected at most {asked:.3f}"
    )
    # Merging is asked after either of two answers; where a gate is unknown nothing is checked.
    bad = votes.copy()
    bad[:, 30] += 41 - votes[:, 30:].sum(axis=1)
    assert "(merging)" in refused(frame_of(bad, COLUMNS))
    read(frame_of(bad, COLUMNS).drop(columns=COLUMNS[0]))


def test_conditional_fractions_sum_to_one():
    fractions, _ = conditional(walk(DECALS), DECALS)
    names = [f"{name}_fraction" for name in COLUMNS]
    table = frame_of(fractions, names)
    read(table.assign(**{names[0]: table[names[0]] * 0.98}))
    line = refused(table.assign(**{names[0]: 0.0, names[1]: 0.45, names[2]: 0.45}))
    assert "30 of 30 rows" in line
    assert line.endswith("of question 1 (smooth-or-featured) sum to 0.900, expected 1.000")


def small_tree(asked_after=("shape_disk", "shape_edge")):
    """Two questions; the second is asked after two of the first one's answers."""
    return Tree.from_dict(
        {
            "name": "small",
            "questions": [
                {"name": "shape", "answers": ["smooth", "disk", "edge"]},
                {"name": "bar", "answers": ["yes", "no"], "asked_after": list(asked_after)},
            ],
        }
    )


def test_gates_of_several_answers_are_summed():
    tree = small_tree()
    good = np.array([[0.5, 0.3, 0.2, 0.4, 0.1], [1, 0, 0, 0, 0], [0, 0, 1, 0.5, 0.5]])

    def fault(rows, tree=tree):
        return refused(frame_of(rows, tree.columns, 7), tree, kind="cumulative")

    for change in (0, 0.019, -0.019):  # as rounding may
        rows = good - np.array([change, 0, 0, 0, 0]) * [[1], [abs(change) / 0.019], [0]]
        read(frame_of(rows.clip(0, 1), tree.columns), tree)
    worse = good.copy()
    worse[0, 3], worse[1, 4] = 0.43, 0.07
    assert fault(worse).endswith(
        "/votes.csv: 2 of 3 rows break the decision tree small, the worst is GalaxyID J8: "
        "the answers of question 2 (bar) sum to 0.070, expected 0.000"
    )
    line = fault(good, small_tree(["shape_disk"]))
    assert line.endswith(
        "GalaxyID J9: the answers of question 2 (bar) sum to 1.000, expected 0.000"
    )
    line = fault(good * [0.9, 1, 0.5, 1, 1])
    assert line.endswith("(shape) sum to 0.500, expected 1.000")
    line = refused(frame_of(walk(GZ2) / 50, GZ2.columns), GZ2)
    assert "30 of 30 rows break the decision tree gz2" in line
    assert line.endswith("withdrawn table does so; use training_solutions_rev1.csv")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (-1.0, "expected a number of votes, found -1"),
        (np.inf, "expected a number of votes, found inf"),
        ("many", "expected a number of votes, found many"),
        ("a\nb", "expected a number of votes, found a b"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_no_number_of_votes_is_named(value, said, suffix):
    table = frame_of(walk(DECALS), COLUMNS).astype({"bar-dr5_no": object})
    table.loc[[6, 8], "bar-dr5_no"] = value
    if suffix == "parquet":
        texts = isinstance(value, str)
        table["bar-dr5_no"] = table["bar-dr5_no"].astype(str if texts else float)
    place = "line 8" if suffix == "csv" else "row 7"
    line = refused(table, suffix=suffix)
    assert f"votes.{suffix}: {place}, bar-dr5_no: {said}" in line
    assert line.endswith("; 2 in all")


def test_fractions_lie_between_0_and_1():
    fractions, totals = conditional(walk(DECALS), DECALS)
    table = frame_of(fractions, names := [f"{name}_fraction" for name in COLUMNS]).fillna(0.0)
    table.loc[2, names[:3]] = [1 + 9e-7, -9e-7, 0]
    assert read(table).votes.iloc[2, :3].tolist() == [40, 0, 0]
    for value in (1 + 2e-6, -2e-6):
        table.loc[2, names[0]] = value
        assert "line 4, smooth-or-featured-dr5_smooth_fraction: expected a number in [0, 1]" in (
            refused(table)
        )
    table.loc[2, names[0]] = 1
    table["bar-dr5_total-votes"] = totals[:, 3] - 100
    assert "line 2, bar-dr5_total-votes: expected a number of votes, found" in refused(table)


def test_shards_are_one_table(tmp_path):
    votes = walk(DECALS)
    frame_of(votes[:10], COLUMNS).to_csv(tmp_path / "a.csv", index=False)
    table = frame_of(votes[10:], COLUMNS, 11)
    table[table.columns[::-1]].to_parquet(tmp_path / "b.parquet")
    shards = [tmp_path / "a.csv", tmp_path / "b.parquet"]
    found = tables.read(shards, DECALS)
    np.testing.assert_array_equal(found.votes, votes)
    assert found.about.startswith("table a.csv and 1 more: counts")
    for change, said in (
        (table.assign(**{COLUMNS[3]: -1}), "b.parquet: row 1, disk-edge-on-dr5_yes"),
        (table.drop(columns="id_str"), "b.parquet: expected the columns of the other tables"),
        (table.assign(id_str=[f"J{row}" for row in range(10, 30)]), "b.parquet: row 1: id_str J10"),
    ):
        change.to_parquet(tmp_path / "b.parquet")
        with pytest.raises(UserError, match=said):
            tables.read(shards, DECALS)
    # Also where the first one lacks a column that another has.
    table.assign(file="1.png").to_parquet(tmp_path / "c.parquet")
    table.to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b.parquet: expected the columns .* 1 missing: file"):
        tables.read([tmp_path / "b.parquet", tmp_path / "c.parquet"], DECALS)


def test_what_one_shard_lacks_is_unknown_in_it_alone(tmp_path):
    votes = walk(DECALS)
    frame_of(votes[:10], COLUMNS).to_csv(tmp_path / "a.csv", index=False)
    less = frame_of(votes[10:], COLUMNS, 11).drop(columns=COLUMNS[3])
    less.to_parquet(tmp_path / "b.parquet")
    edge_on = DECALS.questions[1].columns
    for shards in (["a.csv", "b.parquet"], ["b.parquet", "a.csv"]):
        found = tables.read([tmp_path / shard for shard in shards], DECALS)
        assert "10 of 10 questions" in found.about
        unknown = found.votes.iloc[:, edge_on].isna().all(axis=1)
        assert unknown.sum() == len(votes) - 10
        assert set(found.votes.index[unknown]) == set(less["id_str"].astype(str))
        assert found.votes.drop(columns=COLUMNS[edge_on]).notna().all(axis=None)


def test_the_most_questions_come_before_the_kind():
    votes = walk(DECALS, 8)
    first = DECALS.questions[0].columns
    table = frame_of(votes, COLUMNS).rename(columns=lambda name: name + "_weight")
    table = table.rename(columns={"id_str_weight": "id_str"})
    table = table.assign(**{f"{name}_count": 1 for name in COLUMNS[first]})
    assert "weights of decals-dr5 (survey names), 10 of 10" in read(table).about


def test_floating_point_ids_in_csv_are_refused():
    table = frame_of(walk(DECALS, 3), COLUMNS).assign(id_str=["1000.0", "1001.0", "7.0"])
    with pytest.raises(UserError, match="id_str is a column of floating-point numbers such"):
        read(table)


def test_one_rounded_id_is_enough_and_others_may_look_alike():
    table = frame_of(walk(DECALS, 3), COLUMNS)
    rounded = table.assign(id_str=["J1", "5.877229817413633e+17", "J3"])
    assert "floating-point numbers such as 5.877229817413633e+17" in refused(rounded)
    ids = ["7e45", "1e3", "2.5"]
    assert list(read(table.assign(id_str=ids)).votes.index) == ids


@pytest.mark.parametrize("wrong", [0, 1])
def test_commas_that_are_not_in_quotes_shift_nothing(tmp_path, wrong):
    table = frame_of(walk(DECALS, 3), COLUMNS)
    table.insert(1, "note", ["note-1", "note-2", "note-3"])
    text = table.to_csv(index=False)
    (tmp_path / "t.csv").write_text(text.replace(table["note"][wrong], '"a, b"'))
    expected = tables.read(tmp_path / "t.csv", DECALS).votes
    assert len(expected) == 3
    (tmp_path / "t.csv").write_text(text.replace(table["note"][wrong], "a, b"))
    said = "row 1 has more cells than the header" if wrong == 0 else "Expected .* in line 3, saw"
    with pytest.raises(UserError, match=f"t.csv: not readable as a table: .*{said}"):
        tables.read(tmp_path / "t.csv", DECALS)


def test_percentages_are_refused():
    cumulative = walk(DECALS, 30) / 40
    table = frame_of(100 * cumulative + 0.0, COLUMNS)
    assert "found what looks like percentages" in refused(table)
    # A table may lack one of the questions that everybody is asked.
    cumulative = walk(GZ2, 30) / 40
    cumulative[:, GZ2.questions[5].columns] = np.nan
    assert not GZ2.questions[5].gates
    assert tally.look_like_percentages(100 * cumulative, GZ2)
    assert not tally.look_like_percentages(90 * cumulative, GZ2)
    # Weights may be of any sum, and counts of 100 volunteers are whole.
    counts = np.rint(walk(DECALS, 30, volunteers=100))
    assert "counts of" in read(frame_of(counts, COLUMNS)).about
    weights = walk(DECALS, 30) * 0.9
    assert read(frame_of(weights, COLUMNS)).votes.shape == (30, DECALS.size)


def test_text_of_every_type_of_arrow_is_a_column_of_files(tmp_path):
    table = frame_of(walk(DECALS, 2), COLUMNS).assign(file_loc=["a.jpg", "b.jpg"])
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        place = arrow.schema.get_field_index("file_loc")
        column = pa.array(["a.jpg", "b.jpg"], kind)
        pyarrow.parquet.write_table(
            arrow.set_column(place, "file_loc", column), tmp_path / "t.parquet"
        )
        files = tables.read(tmp_path / "t.parquet", DECALS).files
        assert files == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("name", [*ID_COLUMNS, "galaxyid", "ID"])
def test_galaxies_are_named_by_whatever_column_does(suffix, name):
    table = frame_of(walk(DECALS, 2), COLUMNS).drop(columns="id_str")
    for ids in ([587722981742084096, 9], ["007", "NA"]):
        found = read(table.assign(**{name: ids}), suffix=suffix)
        assert list(found.votes.index) == list(map(str, ids))
    if name.lower() != "id":
        found = read(table.assign(**{"id": ["a", "b"], name: ids}), suffix=suffix)
        assert list(found.votes.index) == ids


def test_faults_of_names_are_told():
    table = frame_of(walk(DECALS, 3), COLUMNS)
    nameless = table.drop(columns="id_str")
    for changed, suffix, said in (
        (nameless, "csv", "named one of GalaxyID, id_str, iauname, .*, id; found smooth-or"),
        (nameless, "parquet", "named one of GalaxyID"),
        (nameless.assign(id=["a", "", "c"]), "csv", "line 3 has nothing in id"),
        (nameless.assign(id=["a", None, "c"]), "parquet", "row 2 has nothing in id"),
        (nameless.assign(objid=[1.0, 2.0, 3.0]), "parquet", "t: objid is a column of floating-po"),
        (nameless.assign(id=["a", "b", "a"]), "csv", "id a appears twice .again in line 4.; 1 in"),
        (nameless.assign(id=["a", "b", "a"]), "parquet", "id a appears twice .again in row 3."),
        (nameless.assign(file=["x/a.png", "y/b.png", "z/a.jpg"]), "csv", "path a appears twice"),
        (nameless.assign(id=[[1], [2], [3]]), "parquet", "row 1, id: expected text or a whole nu"),
    ):
        line = refused(changed, suffix=suffix)
        assert pd.Series([line]).str.contains(said).all(), line


@pytest.mark.parametrize("column", ["file_loc", "file", "path", "filename", "image_path", "File"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_seen_from_the_table(tmp_path, column, suffix):
    table = frame_of(walk(DECALS, 3), COLUMNS).drop(columns="id_str")
    table[column] = ["a.jpg", "deep/b.jpg", str(tmp_path / "c.jpg")]
    path = tmp_path / f"votes.{suffix}"
    save = table.to_parquet if suffix == "parquet" else table.to_csv
    save(path, index=False)
    found = tables.read(path, DECALS)
    assert list(found.votes.index) == ["a", "b", "c"]  # nothing else names them
    expected = [str(tmp_path / name) for name in ("a.jpg", "deep/b.jpg", "c.jpg")]
    assert found.files == expected
    table.insert(0, "image", ["x", "", "y"])
    table["id"] = [7, 8, 9]
    save(path, index=False)
    assert tables.read(path, DECALS).files == expected
    if column == "filename":
        table["subfolder"] = ["s", "t", "u"]
        save(path, index=False)
        assert tables.read(path, DECALS).files[:2] == [
            str(tmp_path / name) for name in ("s/a.jpg", "t/deep/b.jpg")
        ]
    (tmp_path / "x").touch()  # of several columns, the first whose files are there
    save(path, index=False)
    assert tables.read(path, DECALS).files == [str(tmp_path / "x"), "", str(tmp_path / "y")]


def test_files_are_seen_from_their_own_table(tmp_path):
    shards = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        table = frame_of(walk(DECALS, 2), COLUMNS, 1 + 2 * number).assign(file=["x.jpg", "y.jpg"])
        table.to_csv(tmp_path / name / "votes.csv", index=False)
        shards.append(tmp_path / name / "votes.csv")
    expected = [str(tmp_path / name) for name in ("a/x.jpg", "a/y.jpg", "b/x.jpg", "b/y.jpg")]
    assert tables.read(shards, DECALS).files == expected


def test_left_out_rows_have_their_files_and_others_keep_theirs(tmp_path):
    votes = walk(DECALS, 4)
    votes[1] = 0
    table = frame_of(votes, COLUMNS).assign(file=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    table.to_csv(tmp_path / "t.csv", index=False)
    found = tables.read(tmp_path / "t.csv", DECALS)
    assert found.files == [str(tmp_path / name) for name in ("a.jpg", "c.jpg", "d.jpg")]
    assert found.left_out["file"].tolist() == [str(tmp_path / "b.jpg")]


def test_the_index_of_a_parquet_table_is_a_column():
    table = frame_of(walk(DECALS, 3), COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        table.set_index("id_str").to_parquet(path := f"{folder}/t.parquet")
        assert list(tables.read(path, DECALS).votes.index) == ["J1", "J2", "J3"]


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_truncated_tables_are_refused(tmp_path, suffix):
    content = frame_of(walk(DECALS, 100), COLUMNS).to_csv(index=False).encode()
    file = tmp_path / f"table.csv{suffix}"
    file.write_bytes({".gz": gzip, ".xz": lzma}[suffix].compress(content)[:-200])
    with pytest.raises(UserError, match=rf"csv\{suffix}: not readable as a table: Comp"):
        tables.read(file, DECALS)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\xff\xfe\x00", b'a,b\n"1,2\n3,4', b"\n"])
def test_what_is_no_table_is_told_in_one_line(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: ") as raised:
        tables.read(tmp_path / name, DECALS)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"gone\.csv: no such file; expected a table$"):
        tables.read(tmp_path / "gone.csv", DECALS)


def test_columns_of_categories_are_read_as_what_they_stand_for(tmp_path):
    table = frame_of(walk(DECALS, 3), COLUMNS)
    table["file_loc"] = pd.Series([None, "a.png", "b.png"]).astype("category")
    table["id_str"] = table["id_str"].astype(str).astype("category")
    table.to_parquet(tmp_path / "t.parquet")
    found = tables.read(tmp_path / "t.parquet", DECALS)
    assert found.files == ["", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert list(found.votes.index) == table["id_str"].tolist()
