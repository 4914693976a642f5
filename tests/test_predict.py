import json

import numpy as np
import pandas as pd
import pytest

from gzjax import predict
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2

JOB = {"images": "abc", "views": 1}


def append(partial, first, fractions, faults=None):
    ids = [str(number) for number in range(first, first + len(fractions))]
    partial.append(ids, fractions, faults or [""] * len(fractions))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_goes_in_comes_out_in_the_challenges_header(tmp_path, crowd, suffix, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK", 7)  # several chunks
    output = tmp_path / f"p{suffix}"
    partial = predict.Partial(output, JOB)
    faults = [""] * 20
    faults[4] = 'broken, as "they" say'
    append(partial, 0, crowd[:20], faults)
    append(partial, 20, crowd[20:30])
    assert predict.finish(partial, output, readable=False) == 1
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert list(table.columns) == ["GalaxyID", *GALAXY_ZOO_2.columns]
    assert table["GalaxyID"].astype(int).tolist() == [n for n in range(30) if n != 4]
    expected = np.delete(crowd[:30], 4, axis=0)
    np.testing.assert_allclose(table[list(GALAXY_ZOO_2.columns)], expected, atol=6e-7)
    listed = pd.read_csv(tmp_path / f"p{suffix}.unreadable.csv")
    assert listed.to_dict("list") == {"GalaxyID": [4], "fault": ['broken, as "they" say']}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        output.name, f"{output.name}.unreadable.csv",
    ]  # fmt: skip


def test_words_are_added_where_asked(tmp_path, crowd):
    output = tmp_path / "p.csv"
    partial = predict.Partial(output, JOB)
    append(partial, 0, crowd[:5])
    predict.finish(partial, output, readable=True)
    table = pd.read_csv(output, keep_default_na=False)
    assert list(table.columns[38:40]) == ["smooth-or-featured", "edge-on"]
    assert table["morphology"].str.len().min() > 3


def test_an_interrupted_line_is_written_again(tmp_path, crowd):
    output = tmp_path / "p.csv"
    append(predict.Partial(output, JOB), 0, crowd[:6])
    path = tmp_path / "p.csv.partial"
    path.write_bytes(path.read_bytes()[:-11])
    partial = predict.Partial(output, JOB)
    assert partial.done == 5
    append(partial, 5, crowd[5:8])
    predict.finish(partial, output, readable=False)
    table = pd.read_csv(output)
    assert table["GalaxyID"].tolist() == list(range(8))
    np.testing.assert_allclose(table.to_numpy()[:, 1:], crowd[:8], atol=6e-7)


def test_lines_of_another_job_are_not_gone_on_with(tmp_path, crowd):
    output = tmp_path / "p.csv"
    append(predict.Partial(output, JOB), 0, crowd[:2])
    with pytest.raises(UserError, match=r"p\.csv\.partial was left by a prediction of other"):
        predict.Partial(output, JOB | {"views": 16})
    first = (tmp_path / "p.csv.partial").read_text().splitlines()[0]
    assert json.loads(first) == JOB


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.csv").write_text("")
    for name, expected in (
        ("p.txt", "ends with .csv or .parquet"),
        ("none/p.csv", "there is no folder"),
        ("there.csv", "is already there"),
    ):
        with pytest.raises(UserError, match=expected):
            predict.check_output(tmp_path / name)


@pytest.mark.parametrize("readable", [False, True])
def test_a_stretch_without_any_readable_image_is_no_fault_of_the_table(
    tmp_path, crowd, monkeypatch, readable
):
    monkeypatch.setattr(predict, "CHUNK", 4)
    output = tmp_path / "p.parquet"
    partial = predict.Partial(output, JOB)
    append(partial, 0, crowd[:4])
    append(partial, 4, crowd[4:7], ["broken"] * 3)
    assert predict.finish(partial, output, readable=readable) == 3
    table = pd.read_parquet(output)
    assert table["GalaxyID"].tolist() == ["0", "1", "2", "3"]
    assert table["Class1.1"].dtype == np.float32


def test_a_list_of_unreadable_images_is_of_the_last_prediction(tmp_path, crowd):
    output = tmp_path / "p.csv"
    for faults, listed in ((["broken", ""], True), (["", ""], False)):
        partial = predict.Partial(output, JOB)
        append(partial, 0, crowd[:2], faults)
        predict.finish(partial, output, readable=False)
        assert (tmp_path / "p.csv.unreadable.csv").exists() == listed
        output.unlink()
