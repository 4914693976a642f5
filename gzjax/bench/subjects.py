"""What is measured, each with the very parts that a run is made of.

Every subject is a function (settings) -> rows of a table, as dicts of one shape.
"""

import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from gzjax import augment, experiment, train
from gzjax.augment import Views
from gzjax.bench import SUBJECTS, timing
from gzjax.data import packing, pipeline
from gzjax.data.dataset import Data
from gzjax.data.sources import Galaxies
from gzjax.errors import UserError
from gzjax.report import Report
from gzjax.tree import GALAXY_ZOO_2

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent


class Settings(NamedTuple):
    """What to measure with.

    config: a recipe; galaxies, views, optimiser and network are as it says ...
    models, sizes, batches, dtypes: ... but for these, each combination of which is measured.
    cache: folder for rendered skies.
    repeats: of every measurement.
    """

    config: ConfigDict
    models: list[str]
    sizes: list[int]
    batches: list[int]
    dtypes: list[str]
    cache: Path
    repeats: int


def combinations(settings: Settings) -> Iterator[ConfigDict]:
    """The recipe, with every combination of network, size, batch and type."""
    for name in settings.models:
        for size in settings.sizes:
            for batch in settings.batches:
                for dtype in settings.dtypes:
                    config = settings.config.copy_and_resolve_references()
                    config.model.update(name=name, image_size=size, dtype=dtype, weights="")
                    config.batch_size = config.evaluate.batch_size = batch
                    yield config


def named(config: ConfigDict) -> Row:
    """The columns that say which combination a row is of."""
    model = config.model
    return {
        "model": model.name.removeprefix("efficientnet-"),
        "pixels": model.image_size,
        "batch": config.batch_size,
        "dtype": model.dtype,
    }


def random_batch(config: ConfigDict, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
    """A batch of noise, of the right shapes, on the devices."""
    generator = np.random.default_rng(0)
    batch, canvas = config.batch_size, config.data.canvas
    fractions = generator.dirichlet(np.ones(GALAXY_ZOO_2.size), batch).astype(np.float32)
    arrays = {
        "image": generator.integers(0, 255, (batch, canvas, canvas, 3), np.uint8),
        "fractions": fractions,
        "row": np.arange(batch, dtype=np.int32),
        "mask": np.ones(batch, np.float32),
    }
    return {name: jax.device_put(array, sharding) for name, array in arrays.items()}


class Step:
    """The compiled train step of a config, to be called again and again."""

    def __init__(self, config: ConfigDict, devices: Any = None):
        parts = experiment.build(config, config.batch_size, devices=devices)
        self.state = experiment.initial_state(config, parts, lambda drawn: drawn)
        self.batch = random_batch(config, parts.by_galaxy)
        began = time.perf_counter()
        step = experiment.compile_train_step(config, parts)
        self.compiled = step.lower(self.state, self.batch).compile()
        self.compile_seconds = time.perf_counter() - began

    def __call__(self) -> Any:
        self.state, result = self.compiled(self.state, self.batch)
        return result


def measure_step(settings: Settings) -> list[Row]:
    """The real train step: rate, and how near it comes to what the machine can do."""
    peaks = {dtype: timing.measure_peak(dtype, settings.repeats) for dtype in settings.dtypes}
    rows = []
    for config in combinations(settings):
        step = Step(config)
        seconds = timing.in_turns({"step": step}, settings.repeats)["step"]
        cost = step.compiled.cost_analysis()
        peak = peaks[config.model.dtype]
        rows.append(
            named(config)
            | {
                "images/s": config.batch_size / seconds.median,
                "slowest": config.batch_size / seconds.most,
                "fastest": config.batch_size / seconds.least,
                "compile s": step.compile_seconds,
                "GFLOP": cost.get("flops", 0) / 1e9,
                "GB": cost.get("bytes accessed", 0) / 1e9,
                "of peak FLOP/s": cost.get("flops", 0) / seconds.median / peak.flops,
                "of peak bytes/s": cost.get("bytes accessed", 0) / seconds.median / peak.bytes,
                "temp GB": step.compiled.memory_analysis().temp_size_in_bytes / 1e9,
            }
        )
    return rows


def load(settings: Settings) -> Data:
    """The galaxies of the recipe."""
    report = Report(Path(tempfile.gettempdir()), loud=False)
    return experiment.load_data(settings.config, settings.cache, False, report)


def rate_of(galaxies: Galaxies, batch: int, threads: int, processes: int, repeats: int) -> float:
    """Images/s out of the pipeline alone: the median over stretches of batches."""
    batches = iter(
        pipeline.training_batches(galaxies, batch, 0, threads=threads, processes=processes)
    )
    next(batches)
    # A stretch lasts a good part of a second, whatever the source.
    began, stretch = time.perf_counter(), 0
    while time.perf_counter() - began < 0.3:
        next(batches)
        stretch += 1
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(stretch):
            next(batches)
        times.append(time.perf_counter() - began)
    return batch * stretch / timing.seconds_of(times).median


def measure_input(settings: Settings) -> list[Row]:
    """The pipeline alone: from where the galaxies are, and from a pack of them."""
    config, data = settings.config, load(settings)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {config.data.kind: data}
        if config.data.kind != "pack":
            packing.write(
                Path(folder) / "pack",
                ids=data.ids,
                images=data.images,
                fractions=data.fractions,
                left_out=data.left_out,
                label=data.label,
                crop=config.data.crop,
                canvas=config.data.canvas,
            )
            packed = config.copy_and_resolve_references()
            packed.data.update(kind="pack", root=str(Path(folder) / "pack"))
            sources["pack"] = load(settings._replace(config=packed))
        for kind, galaxies in sources.items():
            train_split = galaxies.split("train")
            for batch in settings.batches:
                batch = min(batch, len(train_split))
                for threads, processes in ((1, 0), (2, 0), (4, 0), (2, 2)):
                    rate = rate_of(train_split, batch, threads, processes, settings.repeats)
                    rows.append(
                        {
                            "source": kind,
                            "canvas": config.data.canvas,
                            "batch": batch,
                            "threads": threads,
                            "processes": processes,
                            "images/s": rate,
                        }
                    )
    return rows


class Waited:
    """An iterator that knows how long it was waited for."""

    def __init__(self, iterator: Iterator[Any]):
        self.iterator, self.seconds = iterator, 0.0

    def __iter__(self) -> "Waited":
        return self

    def __next__(self) -> Any:
        began = time.perf_counter()
        item = next(self.iterator)
        self.seconds += time.perf_counter() - began
        return item


def measure_e2e(settings: Settings) -> list[Row]:
    """The real loop on real batches, against its step on a batch that is always there."""
    data = load(settings)
    return [loop_of(config, data, settings.repeats) for config in combinations(settings)]


def loop_of(config: ConfigDict, data: Data, repeats: int) -> Row:
    """One row of `measure_e2e`."""
    parts = experiment.build(config, len(data.splits["train"]))
    if config.data.on_device:
        report = Report(Path(tempfile.gettempdir()), loud=False)
        data = experiment.hold_on_devices(data, parts.replicated, report)
    batches = iter(
        pipeline.training_batches(
            data.split("train"),
            config.batch_size,
            config.seed,
            threads=config.data.threads,
            processes=config.data.processes,
        )
    )
    waited = Waited(experiment.on_devices(batches, parts.by_galaxy, data.canvases))
    step = Step(config)
    alone = timing.in_turns({"step": step}, repeats)["step"].median
    # (time, time waited for data until then), each few steps.
    marks: list[tuple[float, float]] = []
    every = max(1, round(0.5 / alone))
    train.train(
        step.state,
        waited,
        step.compiled,
        steps=int(step.state.step) + every * (repeats + 1),
        log_every=every,
        save_every=10**9,
        evaluate_every=10**9,
        stop=train.StopRequest(),
        record=lambda done, results: marks.append((time.perf_counter(), waited.seconds)),
        evaluate=lambda done, state: {},
        save=lambda done, state, metrics: None,
    )
    stretches = [after[0] - before[0] for before, after in itertools.pairwise(marks)]
    median = timing.seconds_of(stretches).median / every
    waiting = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
    return named(config) | {
        "source": config.data.kind,
        "loop images/s": config.batch_size / median,
        "step images/s": config.batch_size / alone,
        "loop / step": alone / median,
        "waited for data": waiting,
    }


def measure_predict(settings: Settings) -> list[Row]:
    """Prediction with one view and with sixteen."""
    rows = []
    for config in combinations(settings):
        parts = experiment.build(config, config.batch_size)
        weights = jax.device_put(parts.network.init(jax.random.key(0)), parts.replicated)
        image = {"image": random_batch(config, parts.by_galaxy)["image"]}
        for views in (1, 16):
            step = experiment.compile_predict_step(config, parts, views)
            calls = {
                "predict": lambda step=step, weights=weights, image=image: step(weights, image)
            }
            seconds = timing.in_turns(calls, settings.repeats)["predict"]
            rate = config.batch_size / seconds.median
            rows.append(named(config) | {"views": views, "images/s": rate, "views/s": rate * views})
    return rows


def measure_augment(settings: Settings) -> list[Row]:
    """What the random views cost, as the recipe has them and otherwise."""
    recipe = Views(**settings.config.views)
    canvas = settings.config.data.canvas
    kinds = {
        "upright": recipe.upright,
        "recipe": recipe,
        "recipe, colours": recipe._replace(colour=0.1),
        "recipe, erasing": recipe._replace(erase=0.5),
        "recipe, twice the field": recipe._replace(field=min(1.0, 2 * recipe.field)),
    }
    show = jax.jit(augment.view, static_argnums=(1, 2))
    rows = []
    for size in settings.sizes:
        for batch in settings.batches:
            shape = (batch, canvas, canvas, 3)
            images = jnp.asarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
            key = jax.random.key(0)
            calls = {
                name: functools.partial(show, images, views, size, key)
                for name, views in kinds.items()
            }
            for name, seconds in timing.in_turns(calls, settings.repeats).items():
                shown = {"views": name, "canvas": canvas, "pixels": size, "batch": batch}
                rows.append(shown | {"images/s": batch / seconds.median})
    return rows


def measure_start(_settings: Settings) -> list[Row]:
    """From the command to its first step, without and with compiled programs in the cache."""
    rows = []
    main = [sys.executable, "-m", "gzjax.main"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def add(what: str, command: list[str], until: Path | None = None) -> None:
        began = time.perf_counter()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and not (until and until.exists()):
                time.sleep(0.01)
            if process.poll() and until and not until.exists():
                raise UserError(f"{' '.join(command)}: ended with status {process.returncode}")
            rows.append({"what": what, "seconds": time.perf_counter() - began})
            process.terminate()

    add("--help", [*main, "--help"])
    with tempfile.TemporaryDirectory() as folder:
        for what in ("first step, nothing compiled yet", "first step, compiled before"):
            workdir = Path(folder) / f"run{len(rows)}"
            command = [*main, "--config", str(ROOT / "configs" / "test.py"), "--cache", folder]
            command += ["--workdir", str(workdir), "--config.log.every=1"]
            add(what, command, workdir / "train.csv")
    return rows


def measure_scaling(settings: Settings) -> list[Row]:
    """The program of one step on more and more devices: what they tell each other.

    Simulated ones share the machine's cores: then the programs count, not the rates.
    """
    if len(jax.devices()) < 2:
        return simulated_scaling()
    rows = []
    config = next(combinations(settings))
    config.batch_size = config.evaluate.batch_size = max(8, config.batch_size // 8 * 8)
    numbers = [number for number in (1, 2, 4, 8) if number <= len(jax.devices())]
    for number in numbers:
        for accumulate in (1, 2) if number == numbers[-1] else (1,):
            config.optim.accumulate = accumulate
            step = Step(config, jax.devices()[:number])
            seconds = timing.in_turns({"step": step}, settings.repeats)["step"]
            program = step.compiled.as_text()
            rows.append(
                {
                    "devices": number,
                    "accumulate": accumulate,
                    "images/s": config.batch_size / seconds.median,
                    "all-reduces": len(re.findall(r" all-reduce(?:-start)?\(", program)),
                    "all-gathers": len(re.findall(r" all-gather(?:-start)?\(", program)),
                }
            )
    return rows


def simulated_scaling() -> list[Row]:
    """`measure_scaling` on eight devices that the CPU plays, as a process of its own."""
    # What the cores are told is left as it is: it takes minutes to compile, and changes no program.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scaling.json"
        arguments = [argument for argument in sys.argv[1:] if argument not in SUBJECTS]
        subprocess.run(
            [sys.executable, "-m", "gzjax.bench", "scaling", *arguments, "--output", str(output)],
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
            | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return json.loads(output.read_text())["scaling"]
