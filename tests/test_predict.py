"""Predictions in parts: whole, resumed, joined."""

import json

import numpy as np
import pandas as pd
import pytest

from gzjax import tree as trees
from gzjax.data import images
from gzjax.errors import UserError
from gzjax.run import inference, predict
from gzjax.run import parts as in_parts
from gzjax.run.parts import Parts
from gzjax.run.prediction_columns import CHALLENGE, Predicted

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
    return in_parts.join_parts(parts, output, write)


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
    for changes in ({"job": JOB | {"views": 16}}, {"size": 5}):
        with pytest.raises(UserError, match=r"p\.csv\.parts was left by a prediction of different"):
            parts_of(output, 10, **changes)
    (tmp_path / "p.csv.parts" / "_job.json").write_text("{")
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


def test_a_failed_join_leaves_no_output(tmp_path, crowd, gz2):
    output = tmp_path / "p.csv"
    parts = filled(output, crowd, 8)
    parts.file(range(4, 8)).unlink()
    with pytest.raises(FileNotFoundError):
        join(parts, output)
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv.parts"]


def test_a_disk_that_is_gone_is_no_damaged_image():
    gone = [images.fault_text(OSError(5, "Input/output error", "x.jpg"))] * 40
    with pytest.raises(UserError, match="none of 40 images from b on can be opened: cannot be op"):
        inference.check_no_outage(gone, "b")
    inference.check_no_outage(gone[:5], "b")  # a list of a few
    inference.check_no_outage([*gone, ""], "b")
    inference.check_no_outage([images.fault_text(images.Unusable("truncated"))] * 40, "b")


def test_the_job_says_how_many_images_a_part_has(tmp_path, gz2):
    parts_of(tmp_path / "p.csv", 10)
    job = json.loads((tmp_path / "p.csv.parts" / "_job.json").read_text())
    assert job == JOB | {"images_a_part": 4}
