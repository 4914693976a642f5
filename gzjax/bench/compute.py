"""How fast the devices compute: training, prediction, random views, on batches that are there."""

import dataclasses
import functools
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from gzjax import augment
from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row, Step, columns
from gzjax.data import devices
from gzjax.run import config as configs


def measure_step(plan: Plan) -> list[Row]:
    """The train step, and how near it comes to the machine's own peak."""
    peaks = {dtype: timing.measure_peak(dtype, plan.repeats) for dtype in plan.dtypes}
    rows = []
    for options in plan.combinations():
        step = Step(options, plan.tree)
        seconds = timing.time_of(step, plan.repeats)
        cost = step.compiled.cost_analysis()
        flops, moved = cost.get("flops", 0), cost.get("bytes accessed", 0)
        peak = peaks[options.model.dtype]
        rows.append(
            columns(options)
            | timing.rates(options.run.batch_size, seconds)
            | {
                "compile s": step.compile_seconds,
                "GFLOP": flops / 1e9,
                "GB": moved / 1e9,
                "of peak FLOP/s": flops / seconds.median / peak.flops,
                "of peak bytes/s": moved / seconds.median / peak.bytes,
                "temp GB": step.compiled.memory_analysis().temp_size_in_bytes / 1e9,
            }
        )
    return rows


def measure_augment(plan: Plan) -> list[Row]:
    """What random views cost, as the recipe has them and otherwise."""
    options = configs.typed(plan.config)
    recipe, canvas = options.views, options.data.canvas
    kinds = {
        "upright": augment.Augmentation(field=recipe.field),
        "recipe": recipe,
        "recipe, colours": dataclasses.replace(recipe, colour=0.1),
        "recipe, erasing": dataclasses.replace(recipe, erase=0.5),
        "recipe, twice the field": dataclasses.replace(recipe, field=min(1.0, 2 * recipe.field)),
    }
    show = jax.jit(augment.random_views, static_argnums=(2, 3))
    rows = []
    for size in plan.sizes:
        for batch in plan.batches:
            shape = (batch, canvas, canvas, 3)
            images = jnp.asarray(np.random.default_rng(0).integers(0, 255, shape, np.uint8))
            calls = {
                name: functools.partial(show, jax.random.key(0), images, views, size)
                for name, views in kinds.items()
            }
            for name, seconds in timing.in_turns(calls, plan.repeats).items():
                shown = {"views": name, "canvas": canvas, "pixels": size, "batch": batch}
                rows.append(shown | {"images/s": batch / seconds.median})
    return rows


def measure_scaling(plan: Plan) -> list[Row]:
    """The program of one step on more and more devices, and what they exchange.

    Where there is one device, eight are simulated; those share the machine's cores, so the
    programs count, not the rates.
    """
    if jax.device_count() > 1:
        return scaling(plan)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        return pool.submit(simulated_scaling, plan).result()


def scaling(plan: Plan) -> list[Row]:
    """`measure_scaling` on the devices that there are."""
    rows = []
    options = next(plan.combinations())
    size = max(8, options.run.batch_size // 8 * 8)
    options = options._replace(run=dataclasses.replace(options.run, batch_size=size))
    numbers = [number for number in (1, 2, 4, 8) if number <= jax.device_count()]
    for number, accumulate in [(number, 1) for number in numbers] + [(numbers[-1], 2)]:
        accumulating = options._replace(
            optim=dataclasses.replace(options.optim, accumulate=accumulate)
        )
        step = Step(accumulating, plan.tree, devices.place(jax.devices()[:number]))
        seconds = timing.time_of(step, plan.repeats)
        program = step.compiled.as_text()
        rows.append(
            {
                "devices": number,
                "accumulate": accumulate,
                "images/s": size / seconds.median,
                "all-reduces": len(re.findall(r" all-reduce(?:-start)?\(", program)),
                "all-gathers": len(re.findall(r" all-gather(?:-start)?\(", program)),
            }
        )
    return rows


def simulated_scaling(plan: Plan) -> list[Row]:
    """`scaling` on devices that the CPU simulates; in a process that has used none yet."""
    # Optimising for the cores takes minutes, and changes nothing of what devices exchange.
    simulated = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {simulated}"
    jax.config.update("jax_platforms", "cpu")
    return scaling(plan)
