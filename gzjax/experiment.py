"""The one place where a config becomes a run: data, network, optimiser, steps, and their order.

Nothing further in knows of configs; nothing here computes.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from gzjax import config as configs
from gzjax import evaluate, losses, models, optim, train
from gzjax.augment import Views
from gzjax.checkpoint import Checkpoints
from gzjax.data import dataset, pipeline
from gzjax.data.dataset import Data
from gzjax.data.sources import Galaxies
from gzjax.errors import UserError
from gzjax.report import Report
from gzjax.tree import GALAXY_ZOO_2


def load_data(config: ConfigDict, cache: Path, decode: bool, report: Report) -> Data:
    """The galaxies that the config names.

    Raises:
      UserError: something is wrong with them.
    """
    options = config.data
    if options.kind == "sky":
        with report.task_of("drawing the galaxies of the synthetic sky, once") as progress:
            return dataset.from_sky(
                options.galaxies,
                sky_seed=options.sky_seed,
                crop=options.crop,
                canvas=options.canvas,
                split_seed=options.split_seed,
                cache=cache / "sky",
                progress=progress,
            )
    return dataset.from_folder(
        Path(options.root),
        table=options.table,
        images=options.images,
        crop=options.crop,
        canvas=options.canvas,
        split_seed=options.split_seed,
        decode=decode,
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
    config: ConfigDict, training_galaxies: int, devices: Sequence[jax.Device] | None = None
) -> Parts:
    """Makes the parts of a run.

    Args:
      config: of the run.
      training_galaxies: how many there are.
      devices: to spread batches over; all there are, unless given.

    Raises:
      UserError: a batch size that the devices do not divide, or that exceeds the galaxies.
    """
    devices = jax.devices() if devices is None else devices
    for option in ("batch_size", "evaluate.batch_size"):
        size = dict(configs.flatten(config))[option]
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
    return Parts(
        network=models.build(
            config.model.name,
            image_size=config.model.image_size,
            outputs=GALAXY_ZOO_2.size,
            dtype=config.model.dtype,
            stochastic_depth=config.model.stochastic_depth,
        ),
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
    )
    return jax.jit(
        step,
        in_shardings=(parts.replicated, parts.by_galaxy),
        out_shardings=parts.replicated,
        donate_argnums=0,
    )


def compile_predict_step(config: ConfigDict, parts: Parts):
    """The jitted predict step (params, batch_stats, batch) -> fractions, on every process."""
    step = functools.partial(
        evaluate.predict_step,
        network=parts.network,
        views=parts.views,
        image_size=config.model.image_size,
        activation=config.loss.activation,
    )
    return jax.jit(
        step,
        in_shardings=(parts.replicated, parts.replicated, parts.by_galaxy),
        out_shardings=parts.replicated,
    )


def on_devices(
    batches: Iterator[Mapping[str, np.ndarray]], sharding: NamedSharding
) -> Iterator[dict[str, jax.Array]]:
    """Each process's part of each batch, put together on the devices."""
    for batch in batches:
        yield {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in batch.items()
        }


def batches_of(config: ConfigDict, galaxies: Galaxies) -> grain.IterDataset:
    """The batches of one evaluation."""
    return pipeline.evaluation_batches(
        galaxies,
        config.evaluate.batch_size,
        threads=config.data.threads,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )


def evaluate_state(
    config: ConfigDict, parts: Parts, data: Data, split: str, step: int, state: Any, predict: Any
) -> dict[str, Any]:
    """All metrics of a state on one split, with what makes them comparable."""
    result = evaluate.evaluate(
        functools.partial(predict, state.params, state.batch_stats),
        on_devices(iter(batches_of(config, data.split(split))), parts.by_galaxy),
        data.fractions,
        data.training_mean,
    )
    return {"split": split, "step": step, "views": 1, "data": data.label, **result}


def run_training(config: ConfigDict, workdir: Path, cache: Path, check_images: bool) -> None:
    """Trains, from the newest checkpoint in the workdir if there is one, then tests.

    Raises:
      UserError: a fault in the options or the data, or a workdir of another run.
    """
    configs.check(config)
    report = Report(workdir, loud=jax.process_index() == 0)
    report.say(f"gzjax: {describe_devices()}; workdir {workdir}")
    folder = workdir / "checkpoints"
    before = Checkpoints.peek(folder)
    # No process makes the folder before all have looked whether it is there.
    multihost_utils.sync_global_devices("gzjax: looked for checkpoints")
    if before:
        check_same_run(before["config"], config, workdir)
    data = load_data(config, cache, check_images, report)
    if before:
        check_same_data(before["data"], data, config, workdir)
    parts = build(config, len(data.splits["train"]))
    workdir.mkdir(parents=True, exist_ok=True)
    describe_data(data, workdir, report)
    about = {"config": config.to_dict(), "data": data.fingerprint}
    with Checkpoints(folder, config.checkpoint.keep) as checkpoints:
        newest = checkpoints.newest()
        batches = iter(
            pipeline.training_batches(
                data.split("train"),
                config.batch_size,
                config.seed,
                threads=config.data.threads,
                processes=config.data.processes,
                shard=jax.process_index(),
                shards=jax.process_count(),
            )
        )
        initial = jax.jit(
            lambda: train.init_state(parts.network, parts.optimiser, parts.objective, config.seed),
            out_shardings=parts.replicated,
        )
        if newest is None:
            state = initial()
        else:
            state = checkpoints.restore(newest, abstract(initial, parts.replicated), batches)
            report.say(f"going on from step {newest} of {parts.steps}")
        size = sum(array.size for array in jax.tree.leaves(state.params))
        report.say(f"{config.model.name}: {size:,} parameters; {parts.steps} steps to do in all")

        predict = compile_predict_step(config, parts)
        with (
            report.training(newest or 0, parts.steps, parts.steps_per_epoch, config.batch_size),
            train.StopRequest() as stop,
        ):

            def record(step: int, results: list[dict[str, np.ndarray]]) -> None:
                update = (step - 1) // config.optim.accumulate
                report.trained(step, results, float(parts.learning_rate(update)))

            def validate(step: int, state: train.TrainState) -> dict[str, Any]:
                result = evaluate_state(config, parts, data, "validation", step, state, predict)
                report.evaluated(result)
                report.resume_clock()
                return result

            def save(step: int, state: train.TrainState, metrics: Any) -> None:
                checkpoints.save(step, state, batches, about, metrics)
                report.resume_clock()

            state = train.train(
                state,
                on_devices(batches, parts.by_galaxy),
                compile_train_step(config, parts),
                steps=parts.steps,
                log_every=config.log.every,
                save_every=config.checkpoint.every,
                evaluate_every=config.evaluate.every * parts.steps_per_epoch,
                stop=stop,
                record=record,
                evaluate=validate,
                save=save,
            )
        checkpoints.wait()
        done = int(state.step)
        if done < parts.steps:
            report.say(
                f"stopped as asked after step {done} of {parts.steps}, everything is saved; the "
                "same command goes on from there"
            )
            return
        best = checkpoints.best() or done
        if best != done:
            state = checkpoints.restore(best, state)
        report.say(f"trained {done} steps; the best on validation is step {best}")
        for split in ("validation", "test"):
            result = evaluate_state(config, parts, data, split, best, state, predict)
            report.evaluated(result, table=True)


def run_evaluation(
    overrides: Mapping[str, Any], workdir: Path, cache: Path, split: str, check_images: bool
) -> None:
    """Evaluates the best checkpoint of a workdir on one split.

    Args:
      overrides: options to change, such as where the data is now.
      workdir: of a run.
      cache: folder for rendered skies.
      split: `train`, `validation` or `test`.
      check_images: decode every image first.

    Raises:
      UserError: no checkpoint, an override that would make it another run, or other galaxies.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no checkpoints there; --workdir names the folder of a run")
    report = Report(workdir, loud=jax.process_index() == 0)
    with Checkpoints(folder) as checkpoints:
        best = checkpoints.best()
        if best is None:
            raise UserError(f"{folder}: no finished checkpoint there")
        about = checkpoints.about(best)
        config = configs.default()
        config.update(about["config"])
        config.update_from_flattened_dict(overrides)
        configs.check(config)
        check_same_run(about["config"], config, workdir)
        data = load_data(config, cache, check_images, report)
        check_same_data(about["data"], data, config, workdir)
        parts = build(config, len(data.splits["train"]))
        like = abstract(
            lambda: train.init_state(parts.network, parts.optimiser, parts.objective, config.seed),
            parts.replicated,
        )
        state = checkpoints.restore(best, like)
    predict = compile_predict_step(config, parts)
    result = evaluate_state(config, parts, data, split, best, state, predict)
    report.evaluated(result, table=True)


def abstract(make: Any, sharding: NamedSharding) -> Any:
    """The shapes of what `make` returns, with their sharding, without making it."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(make),
    )


def check_same_run(before: Mapping[str, Any], now: ConfigDict, workdir: Path) -> None:
    """Checks that a config may go on with what another one began.

    Raises:
      UserError: they differ in more than what may change; lists the options.
    """
    changed = configs.differences(before, now)
    if changed:
        listed = ", ".join(
            f"{option} was {old!r}, now {new!r}" for option, (old, new) in changed.items()
        )
        raise UserError(
            f"{workdir} holds a run with other options: {listed}. Use another --workdir, or the "
            "options as they were"
        )


def check_same_data(before: str, data: Data, config: ConfigDict, workdir: Path) -> None:
    """Checks that the galaxies are those that a run was started on.

    Raises:
      UserError: they are not, so that order and splits would not be the same.
    """
    if before != data.fingerprint:
        raise UserError(
            f"{workdir} was started on other galaxies or vote fractions than there are now in "
            f"{config.data.root or 'this sky'}; use another --workdir"
        )


def describe_devices() -> str:
    """Such as `8 gpu devices (NVIDIA H100)`."""
    devices = jax.devices()
    plural = "s" * (len(devices) > 1)
    return f"{len(devices)} {devices[0].platform} device{plural} ({devices[0].device_kind})"


def describe_data(data: Data, workdir: Path, report: Report) -> None:
    """Says how many galaxies there are, and lists those left out in a file."""
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in data.splits.items())
    report.say(f"{len(data.ids)} galaxies ({data.label}): {sizes}")
    path = workdir / "left_out.csv"
    if len(data.left_out) and report.loud:
        data.left_out.to_csv(path, index=False)
        counts = data.left_out["reason"].str.partition(":")[0].value_counts()
        report.say(
            f"left out: {', '.join(f'{n} {reason}' for reason, n in counts.items())}; see {path}"
        )
