"""What is shown and what is recorded of a run."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from gzjax import metrics, trees
from gzjax.run import recorder, trackers
from gzjax.run.recorder import Recorder
from gzjax.run.report import Report, summary_line, summary_table
from gzjax.tree import fractions
from gzjax.trees import campaigns


@pytest.fixture
def result(crowd, gz2):
    mean = crowd.mean(axis=0)
    predicted = np.clip(crowd + 0.1, 0, 1)
    about = {"split": "validation", "step": 4, "views": 1, "networks": 1, "data": "synthetic sky"}
    return about | metrics.summary(predicted, crowd, mean, gz2)


def shown(result, width=80):
    console = Console(width=width)
    with console.capture() as captured:
        console.print(summary_table(result))
    return captured.get()


def test_a_score_is_never_shown_without_what_it_needs(result):
    for text in (summary_line(result), shown(result, 120)):
        for needed in (f"{result['rmse']:.4f}", f"{result['baseline_rmse']:.4f}"):
            assert needed in text
        for needed in ("validation", "64 galaxies", "1 view", "synthetic sky"):
            assert needed in text
        low, high = result["rmse_interval"]
        right, baseline = result["q1_accuracy"], result["q1_baseline_accuracy"]
        assert right != baseline
        assert f"{result['rmse']:.4f} [{low:.4f}, {high:.4f}]" in text
        assert f"{right:.1%} (baseline {baseline:.1%})" in text


def test_the_table_has_a_row_for_each_question_in_80_columns(result, gz2):
    lines = shown(result).splitlines()
    assert max(map(len, lines)) <= 80
    for question in gz2.questions:
        (row,) = [line for line in lines if f"{question.number:2} {question.name} " in line]
        cells = row.split()[2:]
        score, baseline = (
            result[name][question.name]
            for name in ("rmse_per_question", "baseline_rmse_per_question")
        )
        answered = result["accuracies"][question.name]
        assert cells[:3] == [f"{score:.4f}", f"{baseline:.4f}", f"{score / baseline:.0%}"]
        assert cells[3] == f"{result['calibration'][question.name]['error']:.3f}"
        assert cells[5] == str(answered["agreed_galaxies"])
        assert cells[4] == ("-" if answered["accuracy"] is None else f"{answered['accuracy']:.0%}")
        clear = answered["agreed_accuracy"]
        assert cells[6] == ("-" if clear is None else f"{clear:.0%}")
    kinds = ("accuracy", "agreed_accuracy", "agreed_baseline")
    assert len({str([each[kind] for each in result["accuracies"].values()]) for kind in kinds}) == 3
    heads = next(line for line in lines if "baseline" in line and "RMSE" in line).split()
    assert len(heads[:6]) == len(set(heads[:6]))


@pytest.mark.parametrize(("name", "width"), [("hubble", 80), ("gz2+decals-dr5", 80), ("gz2", 68)])
def test_names_are_cut_where_a_table_is_too_wide_and_numbers_are_not(name, width):
    tree = campaigns.union([trees.load(each) for each in name.split("+")])
    values = np.asarray(
        fractions(np.random.default_rng(0).normal(0, 1, (30, tree.size)), tree, "softmax")
    )
    about = {"split": "test", "step": 4, "views": 1, "networks": 1, "data": "synthetic sky"}
    result = about | metrics.summary(values[::-1], values, values.mean(axis=0), tree)
    covered = {question.name: {"covered": 1.0, "error": 0.0} for question in tree.questions}
    result["intervals"] = {"tempered": {"questions": covered}}
    lines = shown(result, width).splitlines()
    for number, question in enumerate(tree.questions, 1):
        (row,) = [line for line in lines if line.startswith(f" {number:2} ")]
        score = f"{result['rmse_per_question'][question.name]:.4f}"
        baseline = f"{result['baseline_rmse_per_question'][question.name]:.4f}"
        assert f" {score} " in row
        assert f" {baseline} " in row
        assert " 100±0 " in row
    (heads,) = [line for line in lines if "RMSE" in line and "baseline" in line]
    for heading in ("RMSE", "baseline", "ratio", "ECE", "90 %", "accuracy", "clear", "on clear"):
        assert heading in heads


def test_raw_weights_views_and_networks_are_named(result):
    more = result | {"raw_rmse": 0.1234, "views": 16, "networks": 3}
    for text in (summary_line(more), shown(more, 120)):
        assert "raw weights 0.1234" in text
        assert "16 views, 3 networks" in text


def test_what_each_network_scores_alone_is_said(result, capsys):
    alone = {"workdir": "runs/a", "rmse": 0.1, "together": -0.01, "together_interval": [-0.02, 0.0]}
    Report().evaluation(result | {"alone": [alone]})
    said = capsys.readouterr().out
    assert "runs/a alone: RMSE 0.1000; together -0.0100 [-0.0200, +0.0000]" in said


def test_coverage_before_and_after_the_temperature_is_told_apart(result, gz2, capsys):
    def coverage(share):
        levels = {"90": {"covered": share, "error": 0.01}}
        return {"levels": levels, "questions": dict.fromkeys(result["accuracies"], levels["90"])}

    intervals = {"temperatures": [2.0], "plain": coverage(0.5), "tempered": coverage(0.75)}
    Report().evaluation(result | {"intervals": intervals})
    said = capsys.readouterr().out
    expected = "intervals: 90 % hold 50.0±1.0; at temperature 2.00: 90 % hold 75.0±1.0"
    assert expected in " ".join(said.split())
    rows = [line for line in said.splitlines() if "bar " in line]
    assert "75±1" in rows[0]
    assert "50±1" not in rows[0]


def test_each_catalogue_is_said_with_its_baseline(result, capsys):
    scores = {"rmse": 0.1, "baseline_rmse": 0.2, "galaxies": 7}
    Report().evaluation(result | {"catalogues": {"mine": scores}})
    assert "mine: RMSE 0.1000 (baseline 0.2000), 7 galaxies" in capsys.readouterr().out


def test_rows_past_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n2,0.5\n4,0.4\n6,0.3\n8,")
    trackers.drop_rows_after(path, 4)
    assert path.read_text().split() == ["step,loss", "2,0.5", "4,0.4"]
    trackers.drop_rows_after(path, 1)
    assert not path.exists()
    trackers.drop_rows_after(path, 1)


def test_what_is_measured_is_written(tmp_path, result):
    (tmp_path / "train.csv").write_text("step,loss\n2,0.5\n4,0.4\n")
    with Recorder(tmp_path, 2) as written:
        written.scalars("train", 3, {"loss": 0.25})
        written.validation(result)
    train = pd.read_csv(tmp_path / "train.csv")
    assert train.to_dict("list") == {"step": [2, 3], "loss": [0.5, 0.25]}
    validation = pd.read_csv(tmp_path / "validation.csv")
    assert validation["step"].tolist() == [4]
    assert validation["rmse"][0] == pytest.approx(result["rmse"])
    assert validation["rmse_bar"][0] == pytest.approx(result["rmse_per_question"]["bar"])
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_events_past_the_resumed_step_are_purged(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tensorboardX.SummaryWriter", lambda folder, **options: asked.append(options)
    )
    Recorder(tmp_path, 7)
    assert asked == [{"purge_step": 8}]


def test_evaluations_have_files_of_their_own(tmp_path, result):
    of_two = {"split": "test", "views": 16, "networks": 2, "workdirs": ["a", "b"]}
    for changes, name in (
        ({}, "validation"),
        ({"split": "test", "views": 16}, "test_16_views"),
        ({**of_two, "mixture": [0.5, 0.5]}, "test_16_views_2_networks_f7b5ad"),
        ({**of_two, "mixture": [0.4, 0.6]}, "test_16_views_2_networks_cd8c8c"),
    ):
        recorder.write_evaluation(tmp_path, result | changes)
        saved = json.loads((tmp_path / f"evaluate_{name}.json").read_text())
        assert saved == json.loads(json.dumps(result | changes))
        curves = pd.read_csv(tmp_path / f"reliability_{name}.csv")
        expected = result["calibration"]["bar"]["curve"]
        assert curves[curves["question"] == "bar"]["count"].tolist() == [
            row["count"] for row in expected
        ]


def test_skipped_galaxies_are_listed_once(tmp_path):
    rows = pd.DataFrame([("7", "7.jpg", "broken")], columns=["GalaxyID", "file", "reason"])
    recorder.write_left_out(tmp_path, rows)
    recorder.write_left_out(tmp_path, pd.concat([rows, rows.assign(GalaxyID="007")]))
    recorder.write_left_out(tmp_path, rows.assign(GalaxyID="8"))  # those before are kept
    listed = pd.read_csv(tmp_path / "left_out.csv", dtype=str)
    assert listed["GalaxyID"].tolist() == ["7", "007", "8"]


def test_other_processes_are_silent(result, capsys):
    report = Report(loud=False)
    with report.training(0, 8, 4) as show:
        report.say("hello")
        show(1, {"loss": 1.0, "images_per_second": 3.0})
    with report.task("drawing") as progress:
        progress(1, 2)
    report.evaluation(result)
    assert capsys.readouterr().out == ""
    assert not report.watched


def test_what_users_call_things_is_shown_as_it_is(capsys):
    name = "/data/[old]/[/b]/survey:star:v2"
    report = Report()
    report.say(name)
    (table := Table("option")).add_row(name)
    report.table(table)
    assert capsys.readouterr().out.count(name) == 2


def test_a_task_says_what_it_does_where_no_one_watches(capsys):
    with Report().task("drawing") as progress:
        progress(1, 20)
        progress(2, 20)
    assert capsys.readouterr().out == "drawing: 20\n"
