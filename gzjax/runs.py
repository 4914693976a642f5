"""Training and packing, each as the order in which it is done."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from gzjax import config as configs
from gzjax import experiment, metrics, train
from gzjax.checkpoint import Checkpoints
from gzjax.data import packing, pipeline
from gzjax.data.dataset import Data
from gzjax.errors import UserError
from gzjax.models import Weights
from gzjax.models.pretrained import Conventions
from gzjax.report import Report


def run_training(config: ConfigDict, workdir: Path, cache: Path, check_images: bool) -> None:
    """Trains, from the newest checkpoint in the workdir if there is one, then tests.

    Raises:
      UserError: a fault in the options or the data, or a workdir of another run.
    """
    configs.check(config)
    report = Report(workdir, loud=jax.process_index() == 0)
    report.say(f"gzjax: {experiment.describe_devices()}; workdir {workdir}")
    folder = workdir / "checkpoints"
    before = Checkpoints.peek(folder)
    # No process makes the folder before all have looked whether it is there.
    multihost_utils.sync_global_devices("gzjax: looked for checkpoints")
    if before:
        configs.check_same_run(before["config"], config, workdir)
        processes = before.get("processes", jax.process_count())
        if processes != jax.process_count():
            raise UserError(
                f"{workdir} holds a run of {processes} processes, this one has "
                f"{jax.process_count()}; each has its own place in the data, so expected as many"
            )
        conventions, begin = Conventions.from_json(before["conventions"]), None
    else:
        conventions, begin = experiment.origin(config)
    data = experiment.load_data(config, cache, check_images, report)
    if before:
        data.check_same(before["data"], workdir)
    parts = experiment.build(config, len(data.splits["train"]), conventions)
    workdir.mkdir(parents=True, exist_ok=True)
    describe_data(data, workdir, report)
    if config.data.on_device:
        data = experiment.hold_on_devices(data, parts.replicated, report)
    about = {
        "config": config.to_dict(),
        "processes": jax.process_count(),
        "conventions": conventions._asdict(),
        "data": data.fingerprint,
    }
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
        if newest is None:
            state = experiment.initial_state(config, parts, begin or (lambda drawn: drawn))
        else:
            like = experiment.abstract_state(config, parts)
            state = checkpoints.restore(newest, like, batches)
            report.say(f"going on from step {newest} of {parts.steps}")
        size = sum(array.size for array in jax.tree.leaves(state.weights.params))
        report.say(f"{config.model.name}: {size:,} parameters; {parts.steps} steps to do in all")

        # A program for each number of views, compiled when it is first asked for.
        predict_step = functools.cache(
            functools.partial(experiment.compile_predict_step, config, parts)
        )

        def score(split: str, step: int, state: train.TrainState, views: int = 1) -> dict[str, Any]:
            def summary(weights: Weights) -> dict[str, Any]:
                rows, predicted = experiment.predict_split(
                    config, parts, data, split, weights, predict_step(views)
                )
                return metrics.summary(predicted, data.fractions[rows], data.training_mean)

            result = {
                "split": split,
                "step": step,
                "views": views,
                "networks": 1,
                "data": data.label,
                "training_galaxies": len(data.splits["train"]),
            }
            if config.average.decay and views == 1:
                result["raw_rmse"] = summary(state.weights)["rmse"]
            return result | summary(state.average)

        with (
            report.training(newest or 0, parts.steps, parts.steps_per_epoch, config.batch_size),
            train.StopRequest() as stop,
        ):

            def record(step: int, results: list[dict[str, np.ndarray]]) -> None:
                update = (step - 1) // config.optim.accumulate
                report.trained(step, results, float(parts.learning_rate(update)))

            def validate(step: int, state: train.TrainState) -> dict[str, Any]:
                result = score("validation", step, state)
                report.evaluated(result)
                report.resume_clock()
                return result

            def save(step: int, state: train.TrainState, metrics: Any) -> None:
                checkpoints.save(step, state, batches, about, metrics)
                report.resume_clock()

            state = train.train(
                state,
                experiment.on_devices(batches, parts.by_galaxy, data.canvases),
                experiment.compile_train_step(config, parts),
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
            for views in sorted({1, config.evaluate.views}):
                report.evaluated(score(split, best, state, views), table=True)


def run_packing(config: ConfigDict, folder: Path, cache: Path, check_images: bool) -> None:
    """Packs the galaxies of a config, or goes on where that was interrupted.

    Args:
      config: of which only `data` matters.
      folder: of the pack.
      cache: folder for rendered skies.
      check_images: decode every image first.

    Raises:
      UserError: a fault in the options or the data, or a folder of something else.
    """
    configs.check(config)
    if jax.process_count() > 1:
        raise UserError("--mode pack: expected one process; it uses all cores of its machine")
    if config.data.kind == "pack":
        raise UserError("--config.data.kind: expected sky or folder to be packed, found pack")
    report = Report(folder, loud=jax.process_index() == 0)
    data = experiment.load_data(config, cache, check_images, report)
    with report.task_of(f"packing galaxies into {folder}") as progress:
        packing.write(
            folder,
            ids=data.ids,
            images=data.images,
            fractions=data.fractions,
            left_out=data.left_out,
            label=data.label,
            crop=config.data.crop,
            canvas=config.data.canvas,
            progress=progress,
        )
    packed = config.copy_and_resolve_references()
    packed.data.kind, packed.data.root = "pack", str(folder)
    describe_data(experiment.load_data(packed, cache, False, report), folder, report)
    report.say(f"--config.data.kind=pack --config.data.root={folder} reads the pack")


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
