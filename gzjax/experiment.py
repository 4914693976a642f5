"""The one place where a config becomes the parts of a run: data, network, optimiser, steps.

Nothing further in knows of configs; nothing here computes.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gzjax import evaluate, losses, models, optim, train
from gzjax.augment import Views
from gzjax.checkpoint import Checkpoints
from gzjax.data import dataset, pipeline, sources
from gzjax.data.dataset import Data, Split
from gzjax.errors import UserError
from gzjax.models import Weights, pretrained
from gzjax.models.pretrained import Conventions
from gzjax.report import Report
from gzjax.tree import GALAXY_ZOO_2


def load_data(config: ConfigDict, cache: Path, decode: bool, report: Report) -> Data:
    """The galaxies that the config names, and no more to train on than it says.

    Raises:
      UserError: something is wrong with them.
    """
    data = read_data(config, cache, decode, report)
    fewer = config.data.training_galaxies
    return data.with_fewer(fewer, config.data.split_seed) if fewer else data


def read_data(config: ConfigDict, cache: Path, decode: bool, report: Report) -> Data:
    """All galaxies that the config names.

    Raises:
      UserError: something is wrong with them.
    """
    options = config.data
    split = Split(options.split_seed, options.validation, options.test)
    if options.kind == "sky":
        with report.task_of("drawing the galaxies of the synthetic sky, once") as progress:
            return dataset.from_sky(
                options.galaxies,
                sky_seed=options.sky_seed,
                crop=options.crop,
                canvas=options.canvas,
                split=split,
                cache=cache / "sky",
                progress=progress,
            )
    if options.kind == "pack":
        return dataset.from_pack(
            Path(options.root),
            crop=options.crop,
            canvas=options.canvas,
            split=split,
        )
    return dataset.from_folder(
        Path(options.root),
        table=options.table,
        images=options.images,
        crop=options.crop,
        canvas=options.canvas,
        split=split,
        decode=decode,
    )


class Origin(NamedTuple):
    """Where a run's weights come from.

    conventions: what a network has to do the way that they were trained.
    begin: the weights that the run starts from, given ones drawn at random.
    """

    conventions: Conventions
    begin: Callable[[Weights], Weights]


def origin(config: ConfigDict) -> Origin:
    """Reads the weights that the config starts from.

    Outputs begin at random, as those of public weights are of other classes; only another run's
    are taken over, too, if there are as many.

    Raises:
      UserError: there are none, or they are not of this network.
    """
    name, weights = config.model.name, config.model.weights
    if not weights:
        return Origin(Conventions(), lambda drawn: drawn)
    if Path(weights).is_dir():
        folder = Path(weights) / "checkpoints"
        if not folder.is_dir():
            raise UserError(f"--config.model.weights: {weights}: no checkpoints of a run there")
        with Checkpoints(folder) as checkpoints:
            best = checkpoints.best()
            if best is None:
                raise UserError(f"--config.model.weights: {folder}: no finished checkpoint there")
            about, (_, found) = checkpoints.about(best), checkpoints.weights(best)
        theirs = about["config"]["model"]["name"]
        if theirs != name:
            raise UserError(
                f"--config.model.weights: {weights} is a run of {theirs}; expected one of "
                f"--config.model.name={name}"
            )
        conventions = Conventions.from_json(about["conventions"])
        return Origin(conventions, lambda drawn: pretrained.take_over(found, drawn))
    published = pretrained.read(weights, name, config.model.conventions)
    return Origin(
        published.conventions,
        lambda drawn: pretrained.convert(published, name, drawn, keep=("classifier",)),
    )


class Parts(NamedTuple):
    """What a run is made of, once its config is read."""

    network: models.Network
    objective: losses.Objective
    views: Views
    learning_rate: optax.Schedule
    optimiser: optax.GradientTransformationExtraArgs
    steps_per_epoch: int
    steps: int
    replicated: NamedSharding
    by_galaxy: NamedSharding


def build(
    config: ConfigDict,
    training_galaxies: int | None,
    conventions: Conventions = pretrained.TENSORFLOW,
    devices: Sequence[jax.Device] | None = None,
) -> Parts:
    """Makes the parts of a run.

    Args:
      config: of the run.
      training_galaxies: how many there are; None where nothing is to be trained.
      conventions: of the weights that it starts from.
      devices: to spread batches over; all there are, unless given.

    Raises:
      UserError: a batch size that the devices do not divide, or that exceeds the galaxies.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"evaluate.batch_size": config.evaluate.batch_size}
    if training_galaxies is None:
        # Steps are of no concern then, so one batch of galaxies is as good as any number.
        training_galaxies = config.batch_size
    else:
        sizes["batch_size"] = config.batch_size
    for option, size in sizes.items():
        if size % len(devices):
            raise UserError(
                f"--config.{option}: expected a multiple of the {len(devices)} devices, "
                f"found {size}"
            )
    steps_per_epoch = pipeline.batches_per_epoch(training_galaxies, config.batch_size)
    steps = round(config.epochs * steps_per_epoch)
    accumulate = config.optim.accumulate

    def updates(epochs: float) -> int:
        return round(epochs * steps_per_epoch / accumulate)

    learning_rate = optim.schedule(
        config.optim.schedule,
        config.optim.learning_rate,
        updates(config.epochs),
        warmup=min(updates(config.optim.warmup), updates(config.epochs) // 2),
        decay_rate=config.optim.decay_rate,
        decay_steps=updates(config.optim.decay_every),
    )
    mesh = jax.make_mesh(
        (len(devices),), ("galaxies",), axis_types=(AxisType.Auto,), devices=devices
    )
    network = models.build(
        config.model.name,
        image_size=config.model.image_size,
        outputs=GALAXY_ZOO_2.size,
        dtype=config.model.dtype,
        stochastic_depth=config.model.stochastic_depth,
        frozen=config.optim.freeze,
        **conventions._asdict(),
    )
    fine_tuning = optim.FineTuning(
        layer_decay=config.optim.layer_decay,
        freeze=config.optim.freeze,
        head_warmup=updates(config.optim.head_warmup),
    )
    return Parts(
        network=network,
        objective=losses.Objective(
            activation=config.loss.activation,
            targets=config.loss.targets,
            terms=tuple(config.loss.terms),
            weighting=config.loss.weighting,
            weights=tuple(config.loss.weights),
            decay=config.loss.decay,
            gamma=config.loss.gamma,
            class_weights=tuple(config.loss.class_weights) or None,
        ),
        views=Views(**config.views),
        learning_rate=learning_rate,
        optimiser=optim.adamw(
            learning_rate,
            weight_decay=config.optim.weight_decay,
            clip_norm=config.optim.clip_norm,
            accumulate=accumulate,
            fine_tuning=optim.by_depth(fine_tuning, network.depths, network.depth_of),
        ),
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        replicated=NamedSharding(mesh, PartitionSpec()),
        by_galaxy=NamedSharding(mesh, PartitionSpec("galaxies")),
    )


def compile_train_step(config: ConfigDict, parts: Parts):
    """The jitted train step: the batch spread over the devices, the state on all of them."""
    step = functools.partial(
        train.train_step,
        network=parts.network,
        optimiser=parts.optimiser,
        objective=parts.objective,
        views=parts.views,
        image_size=config.model.image_size,
        average_decay=config.average.decay,
    )
    return jax.jit(
        step,
        in_shardings=(parts.replicated, parts.by_galaxy),
        out_shardings=parts.replicated,
        donate_argnums=0,
    )


def initial_state(config: ConfigDict, parts: Parts, begin: Callable[[Weights], Weights]) -> Any:
    """The train state before the first step, on all devices."""
    parameter_key, training_key = jax.random.split(jax.random.key(config.seed))
    weights = begin(jax.jit(parts.network.init)(parameter_key))
    init = functools.partial(
        train.init_state, optimiser=parts.optimiser, objective=parts.objective, key=training_key
    )
    return jax.jit(init, out_shardings=parts.replicated)(weights)


def abstract_state(config: ConfigDict, parts: Parts) -> Any:
    """The shapes of a train state, with their sharding, without making one."""
    key = jax.random.key(config.seed)
    state = jax.eval_shape(
        lambda: train.init_state(parts.network.init(key), parts.optimiser, parts.objective, key)
    )
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parts.replicated), state
    )


def compile_predict_step(config: ConfigDict, parts: Parts, views: int = 1):
    """The jitted predict step (weights, batch) -> fractions, on every process."""
    step = functools.partial(
        evaluate.predict_step,
        network=parts.network,
        views=parts.views,
        image_size=config.model.image_size,
        activation=config.loss.activation,
        count=views,
        at_once=config.evaluate.views_at_once,
    )
    return jax.jit(
        step,
        in_shardings=(parts.replicated, parts.by_galaxy),
        out_shardings=parts.replicated,
    )


def on_devices(
    batches: Iterator[Mapping[str, np.ndarray]],
    sharding: NamedSharding,
    canvases: jax.Array | None = None,
) -> Iterator[dict[str, jax.Array]]:
    """Each process's part of each batch, put together on the devices.

    Args:
      batches: of this process.
      sharding: of a batch.
      canvases: all images, if the devices hold them; gives the batches their `image`.
    """
    for batch in batches:
        placed = {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }
        if canvases is not None:
            placed["image"] = _gather(sharding)(canvases, placed["row"])
        yield placed


@functools.cache
def _gather(sharding: NamedSharding):
    """The jitted (canvases, rows) -> uint8[batch, canvas, canvas, 3]; row -1 is a blank one."""

    def gather(canvases: jax.Array, rows: jax.Array) -> jax.Array:
        return canvases.at[rows].get(mode="fill", fill_value=0, wrap_negative_indices=False)

    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(gather, in_shardings=(everywhere, sharding), out_shardings=sharding)


def hold_on_devices(data: Data, sharding: NamedSharding, report: Report) -> Data:
    """Puts all images into the memory of every device, where batches are gathered from them.

    Args:
      data: with images that can be read.
      sharding: replicated.
      report: shows how far it is.

    Returns:
      `data` with `canvases`; its batches are of rows, without images.

    Raises:
      UserError: they do not fit.
    """
    size = math.prod(data.images.shape)
    for device in jax.local_devices():
        memory = device.memory_stats() or {}  # CPUs do not tell
        free = memory.get("bytes_limit", math.inf) - memory.get("bytes_in_use", 0)
        if size > free:
            raise UserError(
                f"--config.data.on_device: the images are {size / 1e9:.1f} GB, but {device} has "
                f"{free / 1e9:.1f} GB free; use False"
            )
    with report.task_of("reading all images, for the devices to hold") as progress:
        images, readable = sources.read_all(data.images, progress)
    canvases = jax.make_array_from_callback(images.shape, sharding, lambda index: images[index])
    return data._replace(images=sources.OnDevices(images.shape, readable), canvases=canvases)


def predict_split(
    config: ConfigDict, parts: Parts, data: Data, split: str, weights: Weights, step: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and vote fractions of all galaxies of a split; see `evaluate.predict`."""
    batches = pipeline.evaluation_batches(
        data.split(split),
        config.evaluate.batch_size,
        threads=config.data.threads,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )
    placed = on_devices(iter(batches), parts.by_galaxy, data.canvases)
    return evaluate.predict(lambda batch: step(weights, batch), placed)


def describe_devices() -> str:
    """Such as `8 gpu devices (NVIDIA H100)`."""
    devices = jax.devices()
    plural = "s" * (len(devices) > 1)
    return f"{len(devices)} {devices[0].platform} device{plural} ({devices[0].device_kind})"
