"""How fast runs start, galaxies come from where they are, and the loop that they feed."""

import dataclasses
import itertools
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row, Step, columns
from gzjax.data import batches, devices, packing
from gzjax.data.dataset import Data
from gzjax.errors import UserError
from gzjax.run import config as configs
from gzjax.run import loop
from gzjax.run.config import Options
from gzjax.run.model import Reading
from gzjax.steps import Batch

WAYS = ((1, 0), (2, 0), (4, 0), (2, 2))  # threads, processes
NEVER = 10**9
MAIN = (sys.executable, "-m", "gzjax.main")


def measure_input(plan: Plan) -> list[Row]:
    """The pipeline alone: from where the galaxies are, and from a pack of them."""
    options = configs.typed(plan.config)
    settings, rows = options.data, []
    with tempfile.TemporaryDirectory() as folder:
        data = {settings.kind: plan.load(options)}
        if settings.kind != "pack":
            packing.write(Path(folder) / "pack", data[settings.kind])
            pack = str(Path(folder) / "pack")  # of all catalogues, so that none is added to it
            packed = dataclasses.replace(settings, kind="pack", root=pack, extra="", catalogues=())
            data["pack"] = plan.load(options._replace(data=packed))
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


def measure_e2e(plan: Plan) -> list[Row]:
    """The real loop on real batches, against its step on a batch that is always there."""
    data = plan.load(configs.typed(plan.config))
    return [loop_of(options, plan, data) for options in plan.combinations()]


def loop_of(options: Options, plan: Plan, data: Data) -> Row:
    """One row of `measure_e2e`."""
    step = Step(options, plan.tree)
    if options.data.on_device:
        data = devices.hold_on_devices(data, step.placement, lambda done, of: None)
    size = options.run.batch_size
    reading = Reading(size, options.data.threads, options.data.processes)
    read = step.training.batches(data.source("train"), reading)
    placed = devices.on_devices(iter(read), step.placement, data.canvases)
    waits: list[float] = []

    def waited() -> Iterator[Batch]:
        while True:
            began = timing.now()
            _, batch = next(placed)
            waits.append(timing.now() - began)
            yield batch

    alone = timing.time_of(step, plan.repeats).median
    marks, every = [], max(1, round(0.5 / alone))
    training = step.training._replace(
        steps=int(step.state.step) + every * (plan.repeats + 1),
        log_every=every,
        save_every=NEVER,
        evaluate_every=NEVER,
    )
    watch = types.SimpleNamespace(
        record=lambda done, results: marks.append((timing.now(), sum(waits))),
        evaluate=lambda done, state: 0.0,
        save=lambda done, state, rmse: None,
    )
    loop.train(step.state, waited(), step.compiled, training, loop.StopRequest(), watch)
    stretches = [after[0] - before[0] for before, after in itertools.pairwise(marks)]
    median = timing.seconds_of(stretches).median / every
    (first, waited_first), (last, waited_last) = marks[0], marks[-1]
    return columns(options) | {
        "source": options.data.kind,
        "loop images/s": size / median,
        "step images/s": size / alone,
        "loop / step": alone / median,
        "waited for data": (waited_last - waited_first) / (last - first),
    }


def measure_start(plan: Plan) -> list[Row]:
    """From the command to its first step, without and with compiled programs in the cache."""
    # Every option is passed on, whichever recipe it comes from.
    recipe = ["--config", "test"]
    recipe += [f"--config.{name}={value}" for name, value in configs.flatten(plan.config)]
    rows = [{"what": "--help", "seconds": seconds_until(None, "--help")}]
    with tempfile.TemporaryDirectory() as folder:
        for what in ("nothing compiled yet", "compiled before"):
            workdir = Path(folder) / what.replace(" ", "-")
            arguments = [*recipe, "--cache", folder, "--workdir", str(workdir)]
            seconds = seconds_until(workdir / "train.csv", *arguments, "--config.log.every=1")
            rows.append({"what": f"first step, {what}", "seconds": seconds})
    return rows


def seconds_until(file: Path | None, *arguments: str) -> float:
    """From the start of gzjax until a file is there; without one, until it ends.

    Raises:
      UserError: it ended without the file.
    """
    began = timing.now()
    with subprocess.Popen(
        [*MAIN, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not (file and file.exists()):
            time.sleep(0.01)
        seconds = timing.now() - began
        process.terminate()
    if file and not file.exists():
        raise UserError(f"gzjax {' '.join(arguments)}: ended with status {process.returncode}")
    return seconds
