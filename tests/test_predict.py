"""Predictions in parts: whole, resumed, joined."""

import functools
import json
import re
import types

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gzjax import describe
from gzjax import tree as trees
from gzjax.data.framing import Framing
from gzjax.data.listing import Listing
from gzjax.errors import UserError
from gzjax.run import inference, predict
from gzjax.run import parts as in_parts
from gzjax.run.model import Reading
from gzjax.run.parts import Parts
from gzjax.run.prediction_columns import CHALLENGE, Predicted, Wanted
from gzjax.run.report import Report
from gzjax.tree import fractions
from gzjax.trees import campaigns

JOB = {"images": "0123", "views": 4}


def parts_of(output, number, size=4, job=JOB):
    return Parts(output, job, number, size)


def write(parts, rows, crowd, faults=None, readable=False):
    """A part in two batches."""
    faults = [""] * len(rows) if faults is None else faults
    values = crowd[rows.start : rows.stop].astype(np.float32)
    some = [Predicted(values[:2], None, faults[:2]), Predicted(values[2:], None, faults[2:])]
    ids = [str(row) for row in rows]
    tree = trees.load("gz2")
    table = predict.table_of(tree, ids, some, CHALLENGE)
    parts.write(rows, predict.published(table, tree, CHALLENGE, readable))


def join(parts, output):
    write = predict.write_csv if output.suffix == ".csv" else in_parts.write_parquet
    return in_parts.join_parts(parts, write)


def missing(parts):
    return parts.missing(parts.ranges)


def filled(output, crowd, number, broken=(), readable=False):
    parts = parts_of(output, number)
    for rows in parts.missing(parts.ranges):
        faults = ['broken, as "they" say' * (row in broken) for row in rows]
        write(parts, rows, crowd, faults, readable)
    return parts


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_parts_are_joined_in_order(tmp_path, crowd, gz2, suffix):
    output = tmp_path / f"p{suffix}"
    parts = filled(output, crowd, 30, broken=(4, 6, 21))
    assert join(parts, output) == 3
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert list(table.columns) == ["GalaxyID", *gz2.columns]
    assert table["GalaxyID"].astype(int).tolist() == [n for n in range(30) if n not in (4, 6, 21)]
    expected = np.delete(crowd[:30], (4, 6, 21), axis=0)
    np.testing.assert_allclose(table[list(gz2.columns)], expected, atol=6e-7)
    listed = pd.read_csv(tmp_path / f"p{suffix}.unreadable.csv")
    assert listed.to_dict("list") == {
        "GalaxyID": [4, 6, 21],
        "fault": ['broken, as "they" say'] * 3,
    }


def test_words_are_added_where_asked(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    join(filled(output, crowd, 5, readable=True), output)
    table = pd.read_csv(output, keep_default_na=False)
    assert list(table.columns[38:40]) == ["smooth-or-featured", "disk-edge-on"]
    assert table["morphology"].str.len().min() > 3


def test_words_are_of_the_campaigns_that_are_asked_for(crowd, gz2):
    decals = trees.load("decals-dr5")
    both = campaigns.union([gz2, decals])
    own = np.asarray(fractions(np.random.default_rng(0).normal(0, 2, (5, 34)), decals, "softmax"))
    values = np.concatenate([crowd[:5], own], axis=1).astype(np.float32)
    wanted = Wanted("challenge", None, ("dr5",))
    ids = [str(row) for row in range(5)]
    table = predict.table_of(both, ids, [Predicted(values, None, [""] * 5)], wanted)
    found = predict.published(table, both, wanted, readable=True).to_pandas()
    assert not [name for name in found if "gz2" in name]
    expected = describe.readable(own, decals)
    np.testing.assert_array_equal(found["morphology"], expected["morphology"])
    np.testing.assert_array_equal(found["bar-dr5"], expected["bar"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gz2+decals-dr5", "dr5, gz2"), ("decals-dr5", "decals-dr5, dr5"), ("gz2", "gz2")],
)
def test_campaigns_that_there_are_not_are_said_with_those_that_there_are(name, expected):
    tree = campaigns.union([trees.load(each) for each in name.split("+")])
    model = types.SimpleNamespace(tree=tree, has_intervals=False)
    with pytest.raises(UserError, match=f"^campaigns: expected some of {expected}, found dr99$"):
        Wanted(campaigns=("dr99",)).of([model])
    for each in expected.split(", "):
        Wanted(campaigns=(each,)).of([model])


def test_what_is_done_is_not_done_again(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    parts = parts_of(output, 10)
    assert missing(parts) == [range(0, 4), range(4, 8), range(8, 10)]
    write(parts, range(4, 8), crowd)
    assert missing(parts_of(output, 10)) == [range(0, 4), range(8, 10)]
    # One of other images, or damaged, is not done.
    write(parts, range(4, 7), crowd)
    assert missing(parts)[1] == range(4, 8)
    file = parts.file(range(4, 8))
    file.write_bytes(file.read_bytes()[:-9])
    assert missing(parts)[1] == range(4, 8)
    file.write_bytes(b"\0" * 100)
    assert missing(parts)[1] == range(4, 8)


def test_parts_of_another_job_are_refused(tmp_path, gz2):
    output = tmp_path / "p.csv"
    parts_of(output, 10)
    left = r"p\.csv\.parts was left by a command with different"
    fewer = {name: value for name, value in JOB.items() if name != "views"}
    for changed, changes in (
        ("views", {"job": JOB | {"views": 16}}),
        ("views", {"job": fewer}),
        ("range", {"size": 5}),
    ):
        with pytest.raises(UserError, match=f"{left} {changed};"):
            parts_of(output, 10, **changes)
    for damaged in ("{", "7"):
        (tmp_path / "p.csv.parts" / "_job.json").write_text(damaged)
        with pytest.raises(UserError, match=r"job\.json: damaged"):
            parts_of(output, 10)


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.csv").write_text("")
    for name, expected in (
        ("p.txt", "ends with .csv or .parquet"),
        ("none/p.csv", "there is no folder"),
        ("there.csv", "is already there"),
    ):
        with pytest.raises(UserError, match=expected):
            in_parts.check_output(tmp_path / name)
    in_parts.check_output(tmp_path / "new.csv")


@pytest.mark.parametrize("readable", [False, True])
def test_a_part_without_any_readable_image_is_no_fault_of_the_table(tmp_path, crowd, gz2, readable):
    output = tmp_path / "p.parquet"
    parts = filled(output, crowd, 8, range(4), readable)
    assert join(parts, output) == 4
    table = pd.read_parquet(output)
    assert table["GalaxyID"].tolist() == ["4", "5", "6", "7"]
    assert table["Class1.1"].dtype == np.float32
    assert ("morphology" in table) == readable


def test_a_list_of_unreadable_images_is_of_the_last_prediction(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    for broken, listed in (((0,), True), ((), False)):
        join(filled(output, crowd, 2, broken), output)
        assert (tmp_path / "p.csv.unreadable.csv").exists() == listed
        for file in (output, *(tmp_path / "p.csv.parts").iterdir()):
            file.unlink()


def test_a_prediction_of_nothing_that_can_be_read_is_none(tmp_path, crowd, gz2):
    for broken, fails in ((range(8), True), (range(7), False)):
        parts = filled(tmp_path / f"{len(broken)}.csv", crowd, 8, broken)
        finish = functools.partial(
            in_parts._finish, parts, 8, predict.write_csv, Report(loud=False)
        )
        if not fails:
            finish()
            continue
        with pytest.raises(
            UserError, match="none of 8 images could be read, the first because: br"
        ):
            finish()
        assert not parts.output.exists()


def test_a_damaged_bit_of_a_part_is_named_or_changes_nothing(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    parts = filled(output, crowd, 8)
    file = parts.file(range(4, 8))
    whole, named = file.read_bytes(), 0
    join(parts, output)
    expected = output.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    for place in np.linspace(8, len(whole) - footer - 8, 60).astype(int):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        output.unlink()
        said = ""
        try:
            join(parts, output)
        except UserError as error:
            said = str(error)
            output.write_bytes(expected)
        assert not said or re.search(r"000000004\.parquet: damaged \(.*; delete it, and", said)
        named += bool(said)
        assert output.read_bytes() == expected
    assert named > 20


def test_a_failed_join_leaves_no_output(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    parts = filled(output, crowd, 8)
    parts.file(range(4, 8)).unlink()
    with pytest.raises(FileNotFoundError):
        join(parts, output)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.parts"]


def test_a_disk_that_is_gone_is_no_damaged_image(tmp_path):
    """However small batches are: whole ones count, one after the other."""
    for name in ("good", "bad"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")

    def faults(*runs):
        files = [
            str(tmp_path / ("no-folder" * (name == "gone")) / f"{name}.png")
            for name, number in runs
            for _ in range(number)
        ]
        listed = Listing([f"g{n}" for n in range(len(files))], files)
        seen = inference.batches_of(listed, [Framing(1.0, 16)], Reading(8, 1, 0), lambda _: {})
        return [fault for _, _, some in seen for fault in some]

    with pytest.raises(UserError, match="none of 32 images from g16 on can be opened: cannot be"):
        faults(("good", 12), ("gone", 40))
    for runs in (
        [("good", 12), ("gone", 35), ("good", 5)],  # three whole batches
        [("gone", 31), ("good", 1), ("gone", 30)],
        [("bad", 40)],
        [("missing", 80), ("good", 1)],  # a field of which nothing was downloaded
    ):
        assert [not fault for fault in faults(*runs)] == [
            name == "good" for name, number in runs for _ in range(number)
        ]


def test_the_job_says_how_many_images_a_part_has(tmp_path, gz2):
    parts_of(tmp_path / "p.csv", 10)
    job = json.loads((tmp_path / "p.csv.parts" / "_job.json").read_text())
    assert job == JOB | {"range": 4}
