import json

import numpy as np
import pandas as pd
from rich.console import Console

from gzjax import metrics, report
from gzjax.report import Report


def result_of(crowd):
    mean = crowd.mean(axis=0)
    predicted = np.clip(crowd + 0.1, 0, 1)
    about = {"split": "validation", "step": 4, "views": 1, "data": "synthetic sky"}
    return about | metrics.summary(predicted, crowd, mean)


def test_a_score_is_never_shown_without_what_it_needs(crowd):
    result = result_of(crowd)
    line = report.summary_line(result)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(report.summary_table(result))
    for text in (line, captured.get()):
        for needed in (f"{result['rmse']:.4f}", f"{result['baseline_rmse']:.4f}"):
            assert needed in text
        for needed in ("validation", "64 galaxies", "1 view", "synthetic sky"):
            assert needed in text
    assert "11 arms" in captured.get()


def test_rows_past_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("step,loss\n2,0.5\n4,0.4\n6,0.3\n8,")
    report.drop_rows_after(path, 4)
    assert path.read_text().split() == ["step,loss", "2,0.5", "4,0.4"]
    report.drop_rows_after(path, 1)
    assert not path.exists()
    report.drop_rows_after(path, 1)


def test_what_is_measured_is_written(tmp_path, crowd, capsys):
    steps = [{"loss": np.float32(1.0), "mse": np.float32(0.1)}] * 2
    shown = Report(tmp_path)
    with shown.training(0, 8, 4, 16):
        shown.trained(2, steps, 1e-3)
        shown.trained(4, steps, 5e-4)
        shown.evaluated(result_of(crowd))
    train = pd.read_csv(tmp_path / "train.csv")
    assert train["step"].tolist() == [2, 4]
    assert train["epoch"].tolist() == [0.5, 1.0]
    assert train["learning_rate"].tolist() == [1e-3, 5e-4]
    validation = pd.read_csv(tmp_path / "validation.csv")
    assert validation["step"].tolist() == [4]
    assert "rmse_spiral" in validation.columns
    saved = json.loads((tmp_path / "evaluate_validation.json").read_text())
    assert saved == result_of(crowd)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_other_processes_are_silent_and_write_nothing(tmp_path, crowd, capsys):
    shown = Report(tmp_path, loud=False)
    with shown.training(0, 8, 4, 16):
        shown.say("hello")
        shown.trained(1, [{"loss": np.float32(1)}], 0.1)
        shown.evaluated(result_of(crowd), table=True)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
