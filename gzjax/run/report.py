"""What people see of a run on their screen: lines, tables, progress bars.

In the table of an evaluation, ECE is the expected calibration error; `accuracy` says how often
the most likely answer is the crowd's, of the galaxies that the question was asked of; `clear`
counts those of them where more than four fifths of the crowd gave one answer, and `on clear` is
the accuracy on these.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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

from gzjax import losses


class Report:
    """Says how a run goes.

    Args:
      loud: whether anything is said; only the first of several processes speaks.
    """

    def __init__(self, *, loud: bool = True):
        self.console = Console(
            quiet=not loud, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self.watched = loud and self.console.is_terminal

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text)

    def table(self, table: Table) -> None:
        """A table."""
        self.console.print(table)

    @contextlib.contextmanager
    def task(self, description: str) -> Iterator[Callable[[int, int], None]]:
        """A bar for something that takes a while; where no one watches, a line when it begins.

        Yields a function (done, of) -> None, to be called as the work proceeds.
        """
        with Progress(
            *Progress.get_default_columns(),
            console=self.console,
            disable=not self.watched,
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=None)
            said = False

            def advance(done: int, of: int) -> None:
                nonlocal said
                if not said and not self.watched:
                    self.say(f"{description}: {of}")
                said = True
                bar.update(task, completed=done, total=of)

            yield advance

    @contextlib.contextmanager
    def training(
        self, start: int, steps: int, steps_per_epoch: int
    ) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
        """A bar for a training run, where someone watches.

        Args:
          start: steps done before.
          steps: in all.
          steps_per_epoch: in one pass.

        Yields:
          A function (steps done, what was measured) -> None.
        """

        def epoch(step: int) -> str:
            return f"{step / steps_per_epoch:.4g}/{steps / steps_per_epoch:.4g}"

        with Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s, left"),
            TimeRemainingColumn(),
            # In a narrow terminal the losses get what is left; nothing else is cut.
            TextColumn("{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=self.console,
            disable=not self.watched,
            transient=True,
        ) as bar:
            task = bar.add_task(
                "", total=steps, completed=start, epoch=epoch(start), rate=0.0, losses=""
            )

            def advance(step: int, measured: Mapping[str, float]) -> None:
                shown = " ".join(
                    f"{name} {measured[name]:.3g}"
                    for name in ("loss", *losses.TERMS)
                    if name in measured
                )
                bar.update(
                    task,
                    completed=step,
                    epoch=epoch(step),
                    rate=measured["images_per_second"],
                    losses=shown,
                )

            yield advance

    def evaluation(self, result: Mapping[str, Any]) -> None:
        """The table of an evaluation, and what each of several networks scores alone."""
        self.console.print(summary_table(result))
        for name, scores in result.get("catalogues", {}).items():
            self.say(
                f"{name}: RMSE {_score(scores['rmse'])} "
                f"(baseline {_score(scores['baseline_rmse'])}), "
                f"{scores['galaxies']} galaxies"
            )
        if "intervals" in result:
            self.say(intervals_line(result["intervals"]))
        for alone in result.get("alone", ()):
            low, high = alone["together_interval"]
            self.say(
                f"{alone['workdir']} alone: RMSE {_score(alone['rmse'])}; together "
                f"{_score(alone['together'], '+')} [{_score(low, '+')}, {_score(high, '+')}]"
            )


SILENT = Report(loud=False)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Without the warnings of some loggers."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def summary_line(result: Mapping[str, Any]) -> str:
    """An evaluation in one line, with all that a score needs beside it."""
    return (
        f"{result['split']} RMSE {_score(result['rmse'])} {_interval(result)}{_raw(result)} "
        f"(baseline {_score(result['baseline_rmse'])}), "
        f"question 1 accuracy {_share(result['q1_accuracy'], 1)} "
        f"(baseline {_share(result['q1_baseline_accuracy'], 1)}), {result['galaxies']} galaxies, "
        f"{_views(result)}, {result['data']}"
    )


def summary_table(result: Mapping[str, Any]) -> Group:
    """An evaluation as a table, a row for each question, with what the scores need around it."""
    # Narrow enough for a terminal of 80 columns; where it is not, names are cut, not numbers.
    name = Column("question", overflow="ellipsis")
    table = Table(Column("", no_wrap=True), name, box=box.SIMPLE_HEAD, padding=0)
    covered = result.get("intervals", {}).get("tempered", {}).get("questions", {})
    headings = ("RMSE", "baseline", "ratio", "ECE", *["90 %"] * bool(covered))
    for heading in (*headings, "accuracy", "clear", "on clear"):
        table.add_column(heading, justify="right", no_wrap=True)

    def scores(score: float | None, baseline: float | None) -> tuple[str, ...]:
        if score is None or baseline is None:  # a question that nobody knows
            return "-", "-", "-"
        ratio = f"{score / baseline:.0%}" if baseline > 0 else "-"
        return f"{score:.4f}", f"{baseline:.4f}", ratio

    for number, (name, rmse) in enumerate(result["rmse_per_question"].items(), 1):
        answered = result["accuracies"][name]
        error = result["calibration"][name]["error"]
        table.add_row(
            f"{number:2}",
            name,
            *scores(rmse, result["baseline_rmse_per_question"][name]),
            "-" if error is None else f"{error:.3f}",
            *([_percent(covered[name], 0)] if covered else []),
            _share(answered["accuracy"]),
            f"{answered['agreed_galaxies']}",
            _share(answered["agreed_accuracy"]),
        )
    table.add_section()
    table.add_row("", "all", *scores(result["rmse"], result["baseline_rmse"]), style="bold")
    return Group(
        f"{result['split']}, step {result['step']}: {result['galaxies']} galaxies, "
        f"{_views(result)}, {result['data']}; baseline: the mean of the training galaxies",
        table,
        f"RMSE {_score(result['rmse'])} {_interval(result)}{_raw(result)}; question 1 answered as "
        f"the crowd did: {_share(result['q1_accuracy'], 1)} "
        f"(baseline {_share(result['q1_baseline_accuracy'], 1)})",
    )


def intervals_line(intervals: Mapping[str, Any]) -> str:
    """How often intervals hold what the crowd said, before and after the temperature."""
    shown = []
    for kind in ("plain", "tempered"):
        levels = intervals[kind]["levels"].items()
        shown.append(", ".join(f"{level} % hold {_percent(found)}" for level, found in levels))
    temperatures = ", ".join(f"{value:.2f}" for value in intervals["temperatures"])
    return f"intervals: {shown[0]}; at temperature {temperatures}: {shown[1]}"


def _percent(found: Mapping[str, Any], digits: int = 1) -> str:
    if found["covered"] is None:
        return "-"
    return f"{100 * found['covered']:.{digits}f}±{100 * found['error']:.{digits}f}"


def _share(value: float | None, digits: int = 0) -> str:
    """A part of some galaxies, or a dash where there were none."""
    return "-" if value is None else f"{value:.{digits}%}"


def _interval(result: Mapping[str, Any]) -> str:
    low, high = result["rmse_interval"]
    return f"[{_score(low)}, {_score(high)}]"


def _score(value: float | None, sign: str = "") -> str:
    """A score, or a dash where nobody knows the truth."""
    return "-" if value is None else f"{value:{sign}.4f}"


def _views(result: Mapping[str, Any]) -> str:
    views = f"{result['views']} view{'s' * (result['views'] != 1)}"
    return views if result["networks"] == 1 else f"{views}, {result['networks']} networks"


def _raw(result: Mapping[str, Any]) -> str:
    """Beside the score of averaged weights, that of the weights as they are."""
    return f", raw weights {_score(result['raw_rmse'])}" if "raw_rmse" in result else ""
