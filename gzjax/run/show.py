"""What a run is and what its steps cost, before it is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.table import Column, Table

from gzjax.models import Network
from gzjax.run import build
from gzjax.run import config as configs
from gzjax.run.build import Run
from gzjax.run.checkpoint import Checkpoints
from gzjax.run.report import Report

# What the compiler says of a program: of all, in words.
COSTS = ("FLOPs", "bytes moved", "bytes of arguments", "of results", "temporary")


def show(
    config: ConfigDict,
    workdir: Path,
    report: Report,
    *,
    cache: str | Path | None = None,
    check_images: bool = False,
) -> None:
    """Shows options, galaxies, parameters and costs of a run; trains nothing and writes nothing.

    A sky that was never drawn is drawn, and kept in the cache, as for training.

    Raises:
      UserError: whatever `train.train` would say before it reads images or compiles a step.
    """
    saved = Checkpoints.peek(workdir / "checkpoints")
    run = build.build_run(
        config, workdir, saved, cache=cache, check_images=check_images, report=report
    )
    report.say(f"workdir {workdir}: {'a new run' if saved is None else 'a run to be resumed'}")
    report.table(options(config))
    report.table(galaxies(run))
    report.table(parameters(run.model.network, configs.typed(config).optim.freeze))
    report.table(costs(run))


def options(config: ConfigDict) -> Table:
    """Every option, and its default where it differs."""
    table = _table("option", "value", "default")
    defaults = dict(configs.flatten(configs.default()))
    for name, value in sorted(configs.flatten(config)):
        changed = value != defaults[name]
        table.add_row(name, f"{value}", f"{defaults[name]}" if changed else "")
    return table


def galaxies(run: Run) -> Table:
    """How many galaxies there are, and the first batch of them."""
    data = run.data
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in data.splits.items())
    caption = f"{len(data.ids)} galaxies ({data.label}): {sizes}"
    table = _table("first batch", "dtype", "shape", "from", "to", caption=caption)
    batch = next(iter(run.training.batches(data.source("train"), run.model.reading)))
    for name, array in batch.items():
        ends = ["", ""]
        if np.issubdtype(array.dtype, np.number):
            ends = [f"{end:g}" for end in (np.nanmin(array), np.nanmax(array))]
        table.add_row(name, f"{array.dtype}", f"{array.shape}", *ends)
    return table


def parameters(network: Network, freeze: int) -> Table:
    """The parameters by stage, and which of them are trained: none of the first `freeze`."""
    weights = jax.eval_shape(network.init, jax.random.key(0))
    table = _table("stage", "arrays", "parameters", "trained", numbers=True)
    total, moving = 0, 0
    for name in sorted(weights.params, key=lambda name: (network.depth_of(name), name)):
        leaves = jax.tree.leaves(weights.params[name])
        number, trained = sum(leaf.size for leaf in leaves), network.depth_of(name) >= freeze
        total, moving = total + number, moving + number * trained
        table.add_row(name, f"{len(leaves)}", f"{number:,}", "yes" if trained else "no")
    table.add_section()
    table.add_row("all", "", f"{total:,}", f"{moving:,}")
    return table


def costs(run: Run) -> Table:
    """What the compiled steps cost on each device, as the compiler says."""
    model, training = run.model, run.training
    state = training.abstract_state(model)
    batch = model.abstract_batch(training.batch_size)
    table = _table("step, on each device", *COSTS, numbers=True)

    def add(name: str, cost: Mapping[str, float | None]) -> None:
        table.add_row(name, *map(_shown, cost.values()))

    train = training.step(model).lower(state, batch)
    add(f"train, batch {training.batch_size}", cost_of(train.compile()))
    size = model.reading.batch_size
    batch = model.abstract_batch(size, votes=False)
    for views in sorted({1, model.views}):
        step: Any = model.predict_step(views)
        cost = cost_of(step.lower(state.weights, batch).compile())
        # Compilers count what a loop does once: FLOPs are of a program without any.
        unrolled = model.test_views._replace(piece=0, at_once=views)
        whole: Any = model._replace(test_views=unrolled).predict_step(views)
        flops = whole.lower(state.weights, batch).cost_analysis()["flops"]
        counted = {"FLOPs": flops, "bytes moved": None}
        add(f"predict, batch {size}, {views} view{'s' * (views != 1)}", {**cost, **counted})
    return table


def cost_of(compiled: jax.stages.Compiled) -> dict[str, float | None]:
    """What the compiler says of a program; None where it says nothing."""
    said: Mapping[str, float] = compiled.cost_analysis() or {}
    memory: Any = compiled.memory_analysis()
    sizes = [
        getattr(memory, f"{kind}_size_in_bytes", None) for kind in ("argument", "output", "temp")
    ]
    return dict(zip(COSTS, (said.get("flops"), said.get("bytes accessed"), *sizes), strict=True))


def _table(first: str, *others: str, numbers: bool = False, caption: str | None = None) -> Table:
    table = Table(
        Column(first, no_wrap=True), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption
    )
    table.caption_justify = "left"
    for heading in others:
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    return table


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("", "k", "M", "G"):
        if abs(value) < 999.5:  # what is shown as 1000 is the next unit's
            break
        value, unit = value / 1000, {"": "k", "k": "M", "M": "G", "G": "T"}[unit]
    return f"{value:.3g} {unit}".strip()
