"""What people see of a run: lines, tables, a progress bar, and files to read later.

In the workdir: `train.csv` and `validation.csv`, one row a record; `tensorboard/`, the same as
event files; `evaluate_SPLIT.json`, the last evaluation of a split, with everything that
`metrics.summary` knows; `reliability_SPLIT.csv`, its calibration curves, to be plotted.

In a table, ECE is the expected calibration error; `right` says how often the most likely answer
is the crowd's, of the galaxies that the question was asked of, and then of those (`agreed`) where
more than four fifths of the crowd gave one answer.
"""

import contextlib
import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from tensorboardX import SummaryWriter

from gzjax.tree import GALAXY_ZOO_2, Tree


def summary_line(result: Mapping[str, Any]) -> str:
    """An evaluation in one line, with all that a score needs beside it."""
    return (
        f"{result['split']} RMSE {result['rmse']:.4f} {_interval(result)}{_raw(result)} "
        f"(baseline {result['baseline_rmse']:.4f}), "
        f"question 1 right {result['q1_accuracy']:.1%} "
        f"(baseline {result['q1_baseline_accuracy']:.1%}), {result['galaxies']} galaxies, "
        f"{_views(result)}, {result['data']}"
    )


def summary_table(result: Mapping[str, Any], tree: Tree = GALAXY_ZOO_2) -> Group:
    """An evaluation as a table, a row for each question, with what the scores need around it."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(Column("question", no_wrap=True), box=box.SIMPLE_HEAD, padding=0)
    for heading in ("RMSE", "baseline", "ratio", "ECE", "right", "agreed", "right"):
        table.add_column(heading, justify="right")

    def scores(score: float, baseline: float) -> tuple[str, ...]:
        ratio = f"{score / baseline:.0%}" if baseline > 0 else "-"
        return f"{score:.4f}", f"{baseline:.4f}", ratio

    for question in tree.questions:
        name = question.name
        answered = result["accuracies"][name]
        table.add_row(
            f"{question.number:2} {name}",
            *scores(result["rmse_per_question"][name], result["baseline_rmse_per_question"][name]),
            f"{result['calibration'][name]['error']:.3f}",
            _share(answered["accuracy"]),
            f"{answered['agreed_galaxies']}",
            _share(answered["agreed_accuracy"]),
        )
    table.add_section()
    table.add_row("all", *scores(result["rmse"], result["baseline_rmse"]), style="bold")
    return Group(
        f"{result['split']}, step {result['step']}: {result['galaxies']} galaxies, "
        f"{_views(result)}, {result['data']}; baseline: the training set's mean row",
        table,
        f"RMSE {result['rmse']:.4f} {_interval(result)}{_raw(result)}; question 1 answered as the "
        f"crowd did: {result['q1_accuracy']:.1%} (baseline {result['q1_baseline_accuracy']:.1%})",
    )


def _share(value: float | None) -> str:
    """A part of some galaxies, or a dash where there were none."""
    return "-" if value is None else f"{value:.0%}"


def _interval(result: Mapping[str, Any]) -> str:
    low, high = result["rmse_interval"]
    return f"[{low:.4f}, {high:.4f}]"


def _views(result: Mapping[str, Any]) -> str:
    views = f"{result['views']} view{'s' * (result['views'] != 1)}"
    networks = result.get("networks", 1)
    return views if networks == 1 else f"{views}, {networks} networks"


def _raw(result: Mapping[str, Any]) -> str:
    """Beside the score of averaged weights, that of the weights as they are."""
    return f", raw weights {result['raw_rmse']:.4f}" if "raw_rmse" in result else ""


def result_name(result: Mapping[str, Any]) -> str:
    """Name of the files of an evaluation: `evaluate_test`, `evaluate_test_16_views`."""
    name = f"evaluate_{result['split']}"
    if result["views"] > 1:
        name += f"_{result['views']}_views"
    if result.get("networks", 1) > 1:
        name += f"_{result['networks']}_networks"
    return name


class Report:
    """Says and writes how a run goes; silent in all processes but the first.

    Args:
      workdir: of the run.
      loud: whether this process speaks.
    """

    def __init__(self, workdir: Path, *, loud: bool = True):
        self.workdir = workdir
        self.loud = loud
        self.console = Console(quiet=not loud, highlight=False, soft_wrap=True)
        self.writer: SummaryWriter | None = None
        self.latest: dict[str, float] = {}

    @contextlib.contextmanager
    def training(
        self, start: int, steps: int, steps_per_epoch: int, batch_size: int
    ) -> Iterator[None]:
        """Follows a training, with a bar where someone looks on.

        Args:
          start: step the run starts or goes on from; rows past it, of a run that was killed, are
            dropped.
          steps: number of steps in all.
          steps_per_epoch: number of steps in one pass.
          batch_size: galaxies a step.
        """
        self.steps, self.steps_per_epoch, self.batch_size = steps, steps_per_epoch, batch_size
        self.last_step, self.last_time = start, time.perf_counter()
        self.images, self.seconds = 0, 0.0  # trained on, since the last evaluation
        if self.loud:
            for name in ("train.csv", "validation.csv"):
                drop_rows_after(self.workdir / name, start)
            self.writer = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=start + 1)
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s, left"),
            TimeRemainingColumn(),
            # Of a narrow terminal the losses get what is left; nothing else is cut.
            TextColumn("{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=self.console,
            disable=not (self.loud and self.console.is_terminal),
            transient=True,
        )
        self.task = self.progress.add_task(
            "", total=steps, completed=start, epoch=self._epoch(start), rate=0.0, losses=""
        )
        try:
            with self.progress:
                yield
        finally:
            if self.writer is not None:
                self.writer.close()
                self.writer = None

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False)

    @contextlib.contextmanager
    def task_of(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for something before training; a line when it begins, where no one looks on.

        Gives a function (done, of) -> None, to be called as the work goes on.
        """
        with Progress(
            *Progress.get_default_columns(),
            console=self.console,
            disable=not (self.loud and self.console.is_terminal),
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=None)
            said = False

            def advance(done: int, of: int) -> None:
                nonlocal said
                if not said and not self.console.is_terminal:
                    self.say(f"{description}: {of}")
                said = True
                bar.update(task, completed=done, total=of)

            yield advance

    def resume_clock(self) -> None:
        """Starts the rate's clock anew, after something that is not training."""
        self.last_time = time.perf_counter()

    def trained(self, step: int, results: Sequence[Mapping[str, np.ndarray]], rate: float) -> None:
        """Records the steps since the last call: their mean, and the learning rate.

        Args:
          step: steps done.
          results: what each of them returned.
          rate: learning rate of the last.
        """
        now = time.perf_counter()
        images, seconds = self.batch_size * (step - self.last_step), now - self.last_time
        self.images, self.seconds = self.images + images, self.seconds + seconds
        self.latest = {
            "epoch": step / self.steps_per_epoch,
            **{name: float(np.mean([r[name] for r in results])) for name in results[0]},
            "learning_rate": rate,
            "images_per_second": images / max(seconds, 1e-9),
        }
        self.last_step, self.last_time = step, now
        self._write("train", step, self.latest)
        shown = " ".join(
            f"{name} {self.latest[name]:.3g}"
            for name in ("loss", "mse", "focal", "kl")
            if name in self.latest
        )
        self.progress.update(
            self.task,
            completed=step,
            epoch=self._epoch(step),
            rate=self.latest["images_per_second"],
            losses=shown,
        )

    def evaluated(self, result: Mapping[str, Any], table: bool = False) -> None:
        """Shows and writes an evaluation; `table` shows the questions though no one looks on."""
        if not self.loud:
            return
        # Shown before it is written: a workdir that cannot be written to costs nobody the scores.
        if table or self.console.is_terminal:
            self.console.print(summary_table(result))
        else:
            self.say(
                f"epoch {self._epoch(result['step'])}, step {result['step']} of {self.steps}: loss "
                f"{self.latest['loss']:.4f}, {self.images / max(self.seconds, 1e-9):.0f} images/s; "
                f"{summary_line(result)}"
            )
            self.images, self.seconds = 0, 0.0
        path = self.workdir / f"{result_name(result)}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        curves = [
            {"question": name, **row}
            for name, calibration in result["calibration"].items()
            for row in calibration["curve"]
        ]
        curves_path = path.with_name(f"{path.stem.replace('evaluate', 'reliability')}.csv")
        with curves_path.open("w", newline="") as file:
            table_of_curves = csv.DictWriter(file, curves[0].keys())
            table_of_curves.writeheader()
            table_of_curves.writerows(curves)
        if self.writer is not None and result["split"] == "validation":
            scores = {name: value for name, value in result.items() if isinstance(value, float)}
            questions = {
                f"rmse_{name}": value for name, value in result["rmse_per_question"].items()
            }
            self._write("validation", result["step"], scores | questions)

    def _epoch(self, step: int) -> str:
        return f"{step / self.steps_per_epoch:.4g}/{self.steps / self.steps_per_epoch:.4g}"

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if self.writer is None:
            return
        path = self.workdir / f"{name}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.DictWriter(file, ["step", *(key for key in values if key != "step")])
            if new:
                rows.writeheader()
            rows.writerow({**values, "step": step})
        for key, value in values.items():
            if key != "step":
                self.writer.add_scalar(f"{name}/{key}", value, step)
        self.writer.flush()


def drop_rows_after(path: Path, step: int) -> None:
    """Drops the rows of a metrics file past a step, and a half-written last one."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
    if not kept:
        path.unlink()
        return
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *kept])
