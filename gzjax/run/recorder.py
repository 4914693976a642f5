"""What is recorded of a run, in files to be read later.

train.csv, validation.csv   one row a record, see `gzjax.run.trackers`
tensorboard/                the same as event files
evaluate_SPLIT.json         an evaluation, with everything that `metrics.summary` knows
reliability_SPLIT.csv       its calibration curves, to be plotted
coverage_SPLIT.csv          of a model with intervals, how often those at 90 % hold each answer
temperatures.json           of such a model, what makes them right on validation
left_out.csv                galaxies that were skipped, and why
sessions.json               every start of the training: command, machine, how long it took
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gzjax import files
from gzjax.data.tables import LEFT_OUT_COLUMNS
from gzjax.run.report import Report
from gzjax.run.trackers import TRACKERS

LEFT_OUT, TEMPERATURES, SESSIONS = "left_out.csv", "temperatures.json", "sessions.json"


class Recorder:
    """Records a training run as it proceeds.

    Args:
      workdir: of the run.
      start: steps done before; rows past them, of a run that was killed, are dropped.
      session: what is to be remembered of this start, such as its `command`.
      trackers: of `trackers.TRACKERS`.
      options: of the run, for trackers that show them.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        session: Mapping[str, str] | None = None,
        trackers: Sequence[str] = ("tensorboard", "csv"),
        options: Mapping[str, Any] | None = None,
    ):
        self.workdir, self.began = workdir, time.perf_counter()
        # Without seconds, unless it ends in order.
        self.session: dict[str, Any] = {"from_step": start, **(session or {}), "seconds": None}
        self.sessions = read_sessions(workdir)
        self.trackers = [TRACKERS[name](workdir, start, options or {}) for name in trackers]

    def __enter__(self) -> "Recorder":
        self._write_sessions()
        return self

    def __exit__(self, *_: object) -> None:
        self.session["seconds"] = round(time.perf_counter() - self.began, 1)
        self._write_sessions()
        for tracker in self.trackers:
            tracker.close()

    def _write_sessions(self) -> None:
        content = {"sessions": [*self.sessions, self.session]}
        files.write_json(self.workdir / SESSIONS, content)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Records what was measured, of `train` or `validation`, with all trackers."""
        for tracker in self.trackers:
            tracker.scalars(group, step, values)

    def validation(self, result: Mapping[str, Any]) -> None:
        """Adds an evaluation on validation."""
        scores = {name: value for name, value in result.items() if isinstance(value, float)}
        questions = {
            f"rmse_{name}": value
            for name, value in result["rmse_per_question"].items()
            if value is not None  # as nobody knows its answers
        }
        self.scalars("validation", result["step"], scores | questions)


def write_evaluation(workdir: Path, result: Mapping[str, Any]) -> None:
    """Writes an evaluation, and its calibration curves."""
    name = result_name(result)
    files.write_json(workdir / f"{name}.json", result)
    curves = [
        {"question": question, **row}
        for question, calibration in result["calibration"].items()
        for row in calibration["curve"]
    ]
    table = pd.DataFrame(curves).to_csv(index=False, lineterminator="\n")
    files.write_text(workdir / f"{name.replace('evaluate', 'reliability')}.csv", table)

    if "intervals" in result:
        answers = pd.DataFrame(result["intervals"]["tempered"]["answers"]).T
        table = answers.rename_axis("answer").to_csv(lineterminator="\n")
        files.write_text(workdir / f"{name.replace('evaluate', 'coverage')}.csv", table)


def write_temperatures(workdir: Path, step: int, found: Mapping[int, float]) -> None:
    """Writes the temperatures of the model of a step, by the number of views."""
    files.write_json(workdir / TEMPERATURES, {"step": step, "views": found})


def read_temperatures(workdir: Path, step: int) -> dict[int, float]:
    """The temperatures of the model of a step; none where they were not fitted for it."""
    found = files.read_json(workdir / TEMPERATURES)
    try:
        views = {int(views): float(value) for views, value in found["views"].items()}
        return views if found["step"] == step else {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_evaluations(workdir: Path, step: int) -> list[dict[str, Any]]:
    """The evaluations of the model of a step: test galaxies first, by networks and views."""
    found = [files.read_json(path) for path in sorted(workdir.glob("evaluate_*.json"))]
    of_step = [result for result in found if result.get("step") == step and "rmse" in result]
    order = ("test", "validation", "train")
    return sorted(of_step, key=lambda r: (order.index(r["split"]), r["networks"], r["views"]))


def read_sessions(workdir: Path) -> list[dict[str, Any]]:
    """Every start of a training run; none where that was not recorded."""
    found = files.read_json(workdir / SESSIONS).get("sessions")
    return found if isinstance(found, list) else []


def result_name(result: Mapping[str, Any]) -> str:
    """Name of the files of an evaluation: `evaluate_test`, `evaluate_test_16_views`.

    Of several networks it ends in a digest of which, and how they are mixed.
    """
    name = f"evaluate_{result['split']}"
    if result["views"] > 1:
        name += f"_{result['views']}_views"
    if result.get("networks", 1) > 1:
        mixed = json.dumps([result["workdirs"], result["mixture"]])
        digest = hashlib.sha256(mixed.encode()).hexdigest()[:6]
        name += f"_{result['networks']}_networks_{digest}"
    return name


def write_left_out(workdir: Path, rows: pd.DataFrame) -> None:
    """Lists galaxies that were skipped, GalaxyID, file and reason; each once, however often."""
    path = workdir / LEFT_OUT
    rows = pd.concat([read_left_out(workdir), rows.astype(str)])
    files.write_text(path, rows.drop_duplicates(["GalaxyID", "file"]).to_csv(index=False))


def read_left_out(workdir: Path) -> pd.DataFrame:
    """The galaxies that were skipped: GalaxyID, file and reason, as text."""
    try:
        return pd.read_csv(workdir / LEFT_OUT, dtype=str, keep_default_na=False)
    except (OSError, ValueError):  # none, or a damaged one
        return pd.DataFrame(columns=LEFT_OUT_COLUMNS, dtype=str)


def describe_skipped(rows: pd.DataFrame, folder: Path, report: Report) -> None:
    """Says how many galaxies were skipped, and lists them in a file."""
    if len(rows):
        write_left_out(folder, rows)
        counts = rows["reason"].str.partition(":")[0].value_counts()
        report.say(
            f"skipped: {', '.join(f'{n} {reason}' for reason, n in counts.items())}; see "
            f"{folder / LEFT_OUT}"
        )
