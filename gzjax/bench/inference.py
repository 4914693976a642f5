"""How fast galaxies are predicted: the network against ONNX Runtime, decoding, and all together."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row, columns, model_of, random_batch
from gzjax.data import batches, listing
from gzjax.data.batches import Source
from gzjax.models import Conventions
from gzjax.run import build, export, predict
from gzjax.run.config import Options
from gzjax.run.model import Model

SIDE = 424  # pixels of the JPEGs, as the challenge's
BATCHES = 2  # of JPEGs


def measure_predict(plan: Plan) -> list[Row]:
    """The network alone, ONNX Runtime on it, decoding alone, and prediction with 1 view and 16.

    `bound`: images/s that the slower of network and decoding allows; `of bound`: what part of it
    is reached, of ONNX Runtime's rate by the network.
    """
    rows = []
    for options in plan.combinations():
        placement = build.place(options, training=False)
        model = model_of(options, plan.tree, placement, folded=True)
        init = jax.jit(model.network.init, out_shardings=placement.replicated)
        model = model._replace(weights=init(jax.random.key(0)))
        with tempfile.TemporaryDirectory() as folder:
            number = write_jpegs(plan, options, Path(folder))
            rows += rows_of(options, plan, model, folder, number)
    return rows


def measure_decoding(plan: Plan) -> float:
    """JPEGs that a core decodes in a second of its own, whatever else the machine does."""
    options = next(plan.combinations())
    model = model_of(options, plan.tree, build.place(options, training=False))
    # What worker processes spend is not counted.
    model = model._replace(reading=model.reading._replace(processes=0))
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        number = write_jpegs(plan, options, Path(folder))
        for _ in range(plan.repeats + 1):
            began = timing.of_cores()
            sum(1 for _ in decoded(model, folder))
            spent.append(timing.of_cores() - began)
    return number / timing.seconds_of(spent[1:]).median


def rows_of(options: Options, plan: Plan, model: Model, folder: str, number: int) -> list[Row]:
    """The rows of one network, size, batch and type."""
    size = options.run.batch_size
    batch = {"image": random_batch(model, size)["image"]}
    shown = {1: "1 view", 16: "16 views"}
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        f"network, {name}": (
            size,
            functools.partial(model.predict_step(views), model.weights, batch),
        )
        for views, name in shown.items()
    }
    calls |= {name: (size, call) for name, call in onnx_runtime(options, plan, model).items()}
    calls["decoding"] = (number, lambda: sum(1 for _ in decoded(model, folder)))
    for views, name in shown.items():
        calls[f"--mode predict, {name}"] = (
            number,
            functools.partial(predict.predict, model, folder, views=views),
        )
    measured = timing.in_turns({name: call for name, (_, call) in calls.items()}, plan.repeats)
    rates = {name: calls[name][0] / seconds.median for name, seconds in measured.items()}
    network = rates["network, 1 view"]
    bounds = {
        "network, 1 view": rates.get("ONNX Runtime"),
        "network, 16 views": network / 16,
        "--mode predict, 1 view": min(network, rates["decoding"]),
        "--mode predict, 16 views": min(network / 16, rates["decoding"]),
    }
    return [
        columns(options)
        | {"what": name, "images/s": rate}
        | {"bound": bounds.get(name) or "", "of bound": rate / b if (b := bounds.get(name)) else ""}
        for name, rate in rates.items()
    ]


def write_jpegs(plan: Plan, options: Options, folder: Path) -> int:
    """Writes the recipe's galaxies as JPEGs, enlarged to `SIDE`; returns how many."""
    data = plan.load(options)
    number = BATCHES * options.run.batch_size
    for position in range(number):
        image = Image.fromarray(data.images[position % len(data.images)])
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
            folder / f"{position}.jpg", quality=90
        )
    return number


def decoded(model: Model, folder: str) -> Iterator[Any]:
    """Batches of the JPEGs as prediction reads them."""
    listed = listing.list_images(folder)
    source = Source(listed.framed(model.framing), np.arange(len(listed.ids)))
    reading = model.reading
    return iter(
        batches.ordered_batches(
            source, reading.batch_size, threads=reading.threads, processes=reading.processes
        )
    )


def onnx_runtime(options: Options, plan: Plan, model: Model) -> dict[str, Callable[[], Any]]:
    """ONNX Runtime on the same network, and on the exported program with one view; a batch each.

    By all cores. Its threads do not wait busily, which would take the cores from the others' turns.
    Nothing, where it is not installed.
    """
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        return {}
    # ONNX Runtime has no convolutions of bfloat16 on a CPU.
    options = options._replace(model=dataclasses.replace(options.model, dtype="float32"))
    plain = build.build_network(options, plan.tree, Conventions(), folded=True, depthwise="plain")
    side, canvas = options.model.image_size, options.data.canvas
    network = export.to_onnx(
        lambda images: (plain.apply(*model.weights, images, train=False)[0],),
        jax.ShapeDtypeStruct(("batch", side, side, 3), jnp.float32),
        ["outputs"],
    )
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = timing.cores()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.log_severity_level = 3
    size, random = options.run.batch_size, np.random.default_rng

    def run(made: bytes, images: np.ndarray) -> Callable[[], Any]:
        session = onnxruntime.InferenceSession(made, settings)
        return lambda: session.run(None, {export.INPUT: images})

    exported = export.onnx(model._replace(network=plain), 1)
    canvases = random(0).integers(0, 256, (size, canvas, canvas, 3), np.uint8)
    return {
        "ONNX Runtime": run(network, random(0).random((size, side, side, 3), np.float32)),
        f"ONNX Runtime, {export.ONNX}": run(exported, canvases),
    }
