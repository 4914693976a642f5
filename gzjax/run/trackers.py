"""Where what is measured on the way is sent to: tables, TensorBoard, Weights & Biases, MLflow.

A tracker is made by a function of the run's folder, the steps done before and the run's options,
and is one of `TRACKERS`; `config.log.trackers` names those of a run. Those of services need a
package of their own, and remember in `WORKDIR/trackers.json` which of their runs this one is, so
that it is resumed, too. Their own variables say where they send records (`WANDB_MODE`,
`MLFLOW_TRACKING_URI`, ...).
"""

import contextlib
import csv
import importlib.util
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gzjax import files
from gzjax.errors import UserError, one_line

REMEMBERED = "trackers.json"
PROJECT = "gzjax"
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class Tracker(Protocol):
    """What records; `group` is `train` or `validation`."""

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Csv:
    """`train.csv` and `validation.csv`, a row a record; rows past the steps done are dropped."""

    def __init__(self, workdir: Path, start: int, options: Mapping[str, Any]):
        self.workdir = workdir
        for group in ("train", "validation"):
            drop_rows_after(workdir / f"{group}.csv", start)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a row."""
        path = self.workdir / f"{group}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.DictWriter(file, ["step", *values], lineterminator="\n")
            if new:
                rows.writeheader()
            rows.writerow({"step": step, **values})

    def close(self) -> None:
        """Nothing is open."""


class TensorBoard:
    """Event files in `tensorboard/`."""

    def __init__(self, workdir: Path, start: int, options: Mapping[str, Any]):
        from tensorboardX import SummaryWriter  # here, since it takes a while

        self.events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for key, value in values.items():
            self.events.add_scalar(f"{group}/{key}", value, step)
        self.events.flush()

    def close(self) -> None:
        """Closes the file."""
        self.events.close()


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, workdir: Path, start: int, options: Mapping[str, Any]):
        import wandb

        with resumable("wandb", wandb.Error):
            self.run = wandb.init(
                project=PROJECT,
                name=workdir.name,
                dir=str(workdir),
                id=files.read_json(workdir / REMEMBERED).get("wandb"),
                resume="allow",
                config=dict(options),
            )
        # A resumed run may repeat steps, which its own counter would refuse.
        self.run.define_metric("*", step_metric="step")
        remember(workdir, "wandb", self.run.id)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Logs all values at once."""
        named = {f"{group}/{key}": value for key, value in values.items()}
        self.run.log({**named, "step": step})

    def close(self) -> None:
        """Ends the run there."""
        self.run.finish()


class Mlflow:
    """A run of MLflow."""

    def __init__(self, workdir: Path, start: int, options: Mapping[str, Any]):
        import mlflow

        self.client, self.fault = mlflow.MlflowClient(), mlflow.MlflowException
        self.run: str = files.read_json(workdir / REMEMBERED).get("mlflow", "")
        with resumable("mlflow", self.fault):
            if self.run:
                self.client.update_run(self.run, "RUNNING")
                return
            experiment = self.client.get_experiment_by_name(PROJECT)
            number = (
                experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
            )
            self.run = self.client.create_run(number, run_name=workdir.name).info.run_id
            params = [mlflow.entities.Param(name, str(value)) for name, value in options.items()]
            for first in range(0, len(params), 100):  # which is all that a request takes
                self.client.log_batch(self.run, params=params[first : first + 100])
        remember(workdir, "mlflow", self.run)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each metric."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        named = {f"{group}/{key}": value for key, value in values.items()}
        metrics = [Metric(name, value, now, step) for name, value in named.items()]
        with resumable("mlflow", self.fault):
            self.client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        """Ends the run there."""
        with resumable("mlflow", self.fault):
            self.client.set_terminated(self.run)


TRACKERS: dict[str, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "csv": Csv,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
EXTRAS = ("wandb", "mlflow")  # packages called like the extras, and the trackers


def check(names: Sequence[str]) -> None:
    """Checks that the packages of some trackers are there, and that MLflow's store answers.

    Raises:
      UserError: one is not, or it does not.
    """
    for name in names:
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            raise UserError(f"{name} needs the extra {name}: pip install 'gzjax[{name}]'")
    if "mlflow" in names:
        import mlflow

        patience = os.environ.get(RETRIES)
        os.environ[RETRIES] = "0"  # in training it waits for minutes
        try:
            mlflow.MlflowClient().search_experiments(max_results=1)
        except mlflow.MlflowException as error:
            raise UserError(
                f"mlflow: {one_line(error)}; MLFLOW_TRACKING_URI names a server, such as "
                "http://localhost:5000"
            ) from None
        finally:
            os.environ.pop(RETRIES)
            if patience is not None:
                os.environ[RETRIES] = patience


@contextlib.contextmanager
def resumable(service: str, *faults: type[Exception]) -> Iterator[None]:
    """Says in one line that a service failed, after as many tries as its package makes.

    Raises:
      UserError: it did.
    """
    try:
        yield
    except faults as error:
        raise UserError(f"{service}: {one_line(error)}; the same command resumes") from None


def remember(workdir: Path, name: str, run: str) -> None:
    """Notes which run of a service this one is."""
    known = files.read_json(workdir / REMEMBERED)
    files.write_json(workdir / REMEMBERED, known | {name: run})


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header of a table, and its rows that are whole; nothing if there is no such file."""
    if not path.exists():
        return [], []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, [row for row in rows if header and len(row) == len(header)]


def drop_rows_after(path: Path, step: int) -> None:
    """Drops the rows of a table past a step, and a half-written last one."""
    header, rows = read_rows(path)
    kept = [row for row in rows if row[0].isdigit() and int(row[0]) <= step]
    if not kept:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *kept])
    files.write_text(path, text.getvalue())
