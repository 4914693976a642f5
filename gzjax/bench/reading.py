"""How fast galaxies come from where they are: the pipeline alone, and the loop that it feeds."""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row, Step, columns
from gzjax.data import batches, devices, packing
from gzjax.data.dataset import Data
from gzjax.run import config as configs
from gzjax.run import loop
from gzjax.run.config import Options

WAYS = ((1, 0), (2, 0), (4, 0), (2, 2))  # threads, processes
NEVER = 10**9


def measure_input(plan: Plan) -> list[Row]:
    """The pipeline alone: from where the galaxies are, and from a pack of them."""
    settings = configs.typed(plan.config).data
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = {settings.kind: plan.load(settings)}
        if settings.kind != "pack":
            packing.write(Path(folder) / "pack", data[settings.kind])
            packed = dataclasses.replace(settings, kind="pack", root=str(Path(folder) / "pack"))
            data["pack"] = plan.load(packed)
        for (kind, galaxies), batch, (threads, processes) in itertools.product(
            data.items(), plan.batches, WAYS
        ):
            source = galaxies.source("train")
            size = min(batch, len(source))
            read = batches.training_batches(source, size, 0, threads=threads, processes=processes)
            rows.append(
                {
                    "source": kind,
                    "canvas": settings.canvas,
                    "batch": size,
                    "threads": threads,
                    "processes": processes,
                    "images/s": size * rate_of(iter(read), plan.repeats),
                }
            )
    return rows


def rate_of(items: Iterator[Any], repeats: int) -> float:
    """Items/s of an endless iterator: the median over stretches of a good part of a second."""
    next(items)
    began, stretch = timing.now(), 0
    while timing.now() - began < 0.3:
        next(items)
        stretch += 1

    def read() -> None:
        for _ in range(stretch):
            next(items)

    return stretch / timing.time_of(read, repeats).median


class Waited:
    """An iterator that knows how long it was waited for."""

    def __init__(self, iterator: Iterator[Any]):
        self.iterator, self.seconds = iterator, 0.0

    def __iter__(self) -> "Waited":
        return self

    def __next__(self) -> Any:
        began = timing.now()
        item = next(self.iterator)
        self.seconds += timing.now() - began
        return item


def measure_e2e(plan: Plan) -> list[Row]:
    """The real loop on real batches, against its step on a batch that is always there."""
    data = plan.load(configs.typed(plan.config).data)
    return [loop_of(options, plan, data) for options in plan.combinations()]


class Marks:
    """What the loop calls: notes the time, and the time waited for data until then."""

    def __init__(self, waited: Waited):
        self.waited = waited
        self.noted: list[tuple[float, float]] = []

    def record(self, step: int, results: loop.Results) -> None:
        """Notes both."""
        self.noted.append((timing.now(), self.waited.seconds))

    def evaluate(self, step: int, state: Any) -> float:
        """Evaluates nothing."""
        return 0.0

    def save(self, step: int, state: Any, rmse: float | None) -> None:
        """Saves nothing."""


def loop_of(options: Options, plan: Plan, data: Data) -> Row:
    """One row of `measure_e2e`."""
    step = Step(options, plan.tree)
    if options.data.on_device:
        data = devices.hold_on_devices(data, step.placement, lambda done, of: None)
    size = options.run.batch_size
    read = batches.training_batches(
        data.source("train"),
        size,
        options.run.seed,
        threads=options.data.threads,
        processes=options.data.processes,
    )
    placed = devices.on_devices(iter(read), step.placement, data.canvases)
    waited = Waited(batch for _, batch in placed)
    alone = timing.time_of(step, plan.repeats).median
    marks, every = Marks(waited), max(1, round(0.5 / alone))
    training = step.training._replace(
        steps=int(step.state.step) + every * (plan.repeats + 1),
        log_every=every,
        save_every=NEVER,
        evaluate_every=NEVER,
    )
    loop.train(step.state, waited, step.compiled, training, loop.StopRequest(), watch=marks)
    stretches = [after[0] - before[0] for before, after in itertools.pairwise(marks.noted)]
    median = timing.seconds_of(stretches).median / every
    (first, waited_first), (last, waited_last) = marks.noted[0], marks.noted[-1]
    return columns(options) | {
        "source": options.data.kind,
        "loop images/s": size / median,
        "step images/s": size / alone,
        "loop / step": alone / median,
        "waited for data": (waited_last - waited_first) / (last - first),
    }
