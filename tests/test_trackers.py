"""What is measured goes to every tracker that a run names, once, also when it resumes."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import tiny

import gzjax
from gzjax import UserError
from gzjax.run import trackers
from gzjax.run.recorder import Recorder


class Run:
    """In place of a run of wandb, which needs a server."""

    def __init__(self, asked):
        self.asked, self.id, self.logged, self.finished = asked, asked["id"] or "abc", [], False
        self.metrics = {}

    def define_metric(self, name, step_metric):
        self.metrics[name] = step_metric

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    runs = []

    def init(**asked):
        runs.append(Run(asked))
        return runs[-1]

    package = types.SimpleNamespace(init=init, Error=type("Error", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "wandb", package)
    return runs


def test_a_run_of_weights_and_biases_is_resumed(tmp_path, wandb):
    for start in (0, 5):
        with Recorder(tmp_path, start, None, ("wandb",), {"optim.weight_decay": 0.1}) as recorder:
            recorder.scalars("train", start + 1, {"loss": 0.5, "epoch": 1.0})
    first, second = wandb
    assert first.asked["id"] is None
    assert (second.asked["id"], second.asked["resume"]) == ("abc", "allow")
    assert first.asked["config"] == {"optim.weight_decay": 0.1}
    assert Path(first.asked["dir"]) == tmp_path
    assert first.metrics == {"*": "step"}
    assert first.logged == [{"train/loss": 0.5, "train/epoch": 1.0, "step": 1}]
    assert second.logged == [{"train/loss": 0.5, "train/epoch": 1.0, "step": 6}]
    assert first.finished
    assert second.finished
    assert not (tmp_path / "train.csv").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_without_an_account_weights_and_biases_says_so_in_one_line(tmp_path, wandb, monkeypatch):
    package = sys.modules["wandb"]

    def refuse(**_):
        raise package.Error("api_key not configured\nlog in")

    monkeypatch.setattr(package, "init", refuse)
    with pytest.raises(
        UserError, match=r"^wandb: api_key not configured.*; the same command resum"
    ):
        Recorder(tmp_path, 0, None, ("wandb",))


@pytest.mark.parametrize("store", ["nowhere://at/all", "http://127.0.0.1:9"])
def test_a_store_that_mlflow_cannot_open_is_said_in_one_line(world, tmp_path, monkeypatch, store):
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv(trackers.RETRIES, "3")
    config = tiny.config(world, log__trackers=("csv", "mlflow"))
    with pytest.raises(UserError, match=r"mlflow: .*; MLFLOW_TRACKING_URI names a server, such as"):
        gzjax.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert os.environ[trackers.RETRIES] == "3"


def test_a_store_that_fails_in_training_is_said_in_one_line(world, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def refuse(*_, **__):
        raise mlflow.MlflowException("gone")

    for name in ("create_run", "log_batch", "set_terminated"):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, name, refuse)
            with pytest.raises(UserError, match=r"^mlflow: gone; the same command resumes$"):
                gzjax.train(
                    tiny.config(world, epochs=1, log__trackers=("mlflow",)), tmp_path / name
                )


def test_a_run_is_tracked_in_a_local_store_of_mlflow(world, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = tiny.config(world, epochs=1, log__trackers=("csv", "mlflow"))
    gzjax.train(config, tmp_path / "run")
    config.epochs = 2
    gzjax.train(config, tmp_path / "run")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("gzjax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["optim.learning_rate"] == "0.1"
    for group, name in (("train", "loss"), ("validation", "rmse")):
        table = pd.read_csv(tmp_path / "run" / f"{group}.csv")
        points = client.get_metric_history(run.info.run_id, f"{group}/{name}")
        assert [point.step for point in points] == table["step"].tolist()
        assert [point.value for point in points] == pytest.approx(table[name].tolist())
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_missing_packages_are_said_before_anything_else(world, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        with pytest.raises(UserError, match=rf"trackers: {name} needs the extra {name}: pip"):
            gzjax.train(tiny.config(world, log__trackers=("csv", name)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for wrong in (("csv", "csv"), ("paper",)):
        with pytest.raises(UserError, match="trackers: expected some of tensorboard, csv, wandb"):
            gzjax.train(tiny.config(world, log__trackers=wrong), tmp_path / "run")


def test_every_tracker_that_needs_a_package_has_an_extra():
    setup = (Path(gzjax.__file__).parent.parent / "setup.py").read_text()
    assert all(f'"{name}": [' in setup for name in trackers.EXTRAS)
    assert set(trackers.EXTRAS) <= set(trackers.TRACKERS)
