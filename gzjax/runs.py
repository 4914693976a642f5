"""What the front door can ask for, each as the order in which it is done."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from gzjax import config as configs
from gzjax import ensemble, evaluate, experiment, metrics, predict, train
from gzjax.checkpoint import Checkpoints
from gzjax.data import listing, packing, pipeline
from gzjax.data.dataset import Data
from gzjax.errors import UserError
from gzjax.experiment import Parts
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
    report.say(f"gzjax: {describe_devices()}; workdir {workdir}")
    folder = workdir / "checkpoints"
    before = Checkpoints.peek(folder)
    # No process makes the folder before all have looked whether it is there.
    multihost_utils.sync_global_devices("gzjax: looked for checkpoints")
    if before:
        check_same_run(before["config"], config, workdir)
        conventions, begin = Conventions.from_json(before["conventions"]), None
    else:
        conventions, begin = experiment.origin(config)
    data = experiment.load_data(config, cache, check_images, report)
    if before:
        check_same_data(before["data"], data, config, workdir)
    parts = experiment.build(config, len(data.splits["train"]), conventions)
    workdir.mkdir(parents=True, exist_ok=True)
    describe_data(data, workdir, report)
    if config.data.on_device:
        data = experiment.hold_on_devices(data, parts.replicated, report)
    about = {
        "config": config.to_dict(),
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

        predict = experiment.compile_predict_step(config, parts)

        def score(split: str, step: int, state: train.TrainState, views: int = 1) -> dict[str, Any]:
            compiled = (
                predict if views == 1 else experiment.compile_predict_step(config, parts, views)
            )

            def summary(weights: Weights) -> dict[str, Any]:
                rows, predicted = predict_split(config, parts, data, split, weights, compiled)
                return metrics.summary(predicted, data.fractions[rows], data.training_mean)

            result = {
                "split": split,
                "step": step,
                "views": views,
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
    on_devices: Iterator[Mapping[str, jax.Array]] = experiment.on_devices(
        iter(batches), parts.by_galaxy, data.canvases
    )
    return evaluate.predict(lambda batch: step(weights, batch), on_devices)


class Member(NamedTuple):
    """A trained network, ready to predict, alone or as one of several.

    about: config, conventions and fingerprint of the data, as they were saved.
    weights: the moving average, of the step that was best on validation.
    """

    workdir: Path
    config: ConfigDict
    parts: Parts
    weights: Weights
    step: int
    about: Mapping[str, Any]


def load_member(workdir: Path, overrides: Mapping[str, Any]) -> Member:
    """Opens a run's best checkpoint.

    Args:
      workdir: of the run.
      overrides: options to change, such as where the data is now.

    Raises:
      UserError: no checkpoint, or an override that would make it another run.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no checkpoints there; --workdir names the folder of a run")
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
        # Steps are of no concern here, so one batch of galaxies is as good as all.
        parts = experiment.build(
            config, config.batch_size, Conventions.from_json(about["conventions"])
        )
        weights = jax.device_put(checkpoints.average(best), parts.replicated)
    return Member(workdir, config, parts, weights, best, about)


def load_same_data(
    members: Sequence[Member], cache: Path, check_images: bool, report: Report
) -> list[Data]:
    """The galaxies that networks were trained on, in the framing of each.

    Raises:
      UserError: they are not the same, or not those of the training any more.
    """
    data = [experiment.load_data(member.config, cache, check_images, report) for member in members]
    for member, galaxies in zip(members, data, strict=True):
        check_same_data(member.about["data"], galaxies, member.config, member.workdir)
        check_same_data(data[0].fingerprint, galaxies, members[0].config, member.workdir)
    return data


def predict_all(
    members: Sequence[Member], data: Sequence[Data], split: str, views: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What the crowd said of a split, and what each network predicts."""
    results = [
        predict_split(
            member.config,
            member.parts,
            galaxies,
            split,
            member.weights,
            experiment.compile_predict_step(member.config, member.parts, views),
        )
        for member, galaxies in zip(members, data, strict=True)
    ]
    return data[0].fractions[results[0][0]], [predicted for _, predicted in results]


def fit_mixture(
    members: Sequence[Member], data: Sequence[Data], views: int, report: Report
) -> np.ndarray:
    """The weights of the mixture that is best on validation."""
    observed, predicted = predict_all(members, data, "validation", views)
    weights = ensemble.fit_weights(predicted, observed)
    shares = zip(weights, members, strict=True)
    described = ", ".join(f"{weight:.2f} {member.workdir}" for weight, member in shares)
    report.say(f"mixture fitted on validation: {described}")
    return weights


def run_evaluation(
    overrides: Mapping[str, Any],
    workdirs: Sequence[Path],
    cache: Path,
    split: str,
    views: Sequence[int],
    mixture: str,
    check_images: bool,
) -> None:
    """Evaluates the best checkpoint of a workdir, or several together, on one split.

    Args:
      overrides: options to change, such as where the data is now.
      workdirs: of the runs; the predictions of several are mixed.
      cache: folder for rendered skies.
      split: `train`, `validation` or `test`.
      views: how many views of each galaxy are averaged; each number is a result of its own.
        Empty: as the recipe says.
      mixture: one of `ensemble.MIXTURES`.
      check_images: decode every image first.

    Raises:
      UserError: no checkpoint, an override that would make it another run, or other galaxies.
    """
    members = [load_member(workdir, overrides) for workdir in workdirs]
    report = Report(workdirs[0], loud=jax.process_index() == 0)
    data = load_same_data(members, cache, check_images, report)
    first = data[0]
    for count in views or sorted({1, members[0].config.evaluate.views}):
        weights = ensemble.uniform_weights(len(members))
        if mixture == "fitted" and len(members) > 1:
            weights = fit_mixture(members, data, count, report)
        observed, predicted = predict_all(members, data, split, count)
        result = {
            "split": split,
            "step": members[0].step,
            "views": count,
            "networks": len(members),
            "data": first.label,
            "training_galaxies": len(first.splits["train"]),
        }
        mixed = ensemble.mix(predicted, weights)
        summary = metrics.summary(mixed, observed, first.training_mean)
        report.evaluated(result | summary, table=True)


def run_prediction(
    overrides: Mapping[str, Any],
    workdirs: Sequence[Path],
    cache: Path,
    images: str,
    output: Path,
    views: Sequence[int],
    mixture: str,
    readable: bool,
) -> None:
    """Predicts the vote fractions of images, with one run or several together.

    Args:
      overrides: options to change, such as where the galaxies are that weights are fitted on.
      workdirs: of the runs; the predictions of several are mixed.
      cache: folder for rendered skies.
      images: see `listing.list_images`.
      output: see `predict.check_output`.
      views: how many views of each galaxy are averaged; none: as the recipe says.
      mixture: one of `ensemble.MIXTURES`.
      readable: adds columns in words.

    Raises:
      UserError: nothing to predict, nowhere to write, or no network to predict with.
    """
    if jax.process_count() > 1:
        raise UserError("--mode predict: expected one process; give each its own images instead")
    if len(views) > 1:
        raise UserError(f"--views: expected one number to predict with, found {len(views)}")
    predict.check_output(output)
    listed = listing.list_images(images)
    members = [load_member(workdir, overrides) for workdir in workdirs]
    first = members[0].config
    count = views[0] if views else first.evaluate.views
    report = Report(workdirs[0])
    plural = "s" * (count > 1)
    report.say(f"gzjax: {describe_devices()}; {len(listed.ids)} images, {count} view{plural} each")
    weights = ensemble.uniform_weights(len(members))
    if mixture == "fitted" and len(members) > 1:
        data = load_same_data(members, cache, False, report)
        weights = fit_mixture(members, data, count, report)
    job = {
        "images": listed.digest,
        "networks": [[str(member.workdir), member.step] for member in members],
        "weights": [round(float(weight), 4) for weight in weights],
        "views": count,
    }
    partial = predict.Partial(output, job)
    already = partial.done
    if already:
        report.say(f"going on after {already} images that are done")

    # Networks that cut out and rescale images alike share them.
    framings = {
        framing: listed.framed(*framing)
        for framing in {(member.config.data.crop, member.config.data.canvas) for member in members}
    }
    steps = [
        experiment.compile_predict_step(member.config, member.parts, count) for member in members
    ]

    def step(batch: Mapping[str, Any]) -> tuple[np.ndarray, list[jax.Array]]:
        canvases = dict(zip(framings, batch["images"], strict=True))
        results = []
        for member, compiled in zip(members, steps, strict=True):
            framing = member.config.data.crop, member.config.data.canvas
            shown = jax.device_put(canvases[framing], member.parts.by_galaxy)
            results.append(compiled(member.weights, {"image": shown})["fractions"])
        return batch["fault"], results

    batches = pipeline.prediction_batches(
        tuple(framings.values()),
        already,
        first.evaluate.batch_size,
        threads=first.data.threads,
    )
    began = time.perf_counter()
    with report.task_of("predicting images") as progress:
        for faults, results in evaluate.stream(step, batches):
            number = min(len(faults), len(listed.ids) - partial.done)
            partial.append(
                listed.ids[partial.done : partial.done + number],
                ensemble.mix(results, weights)[:number],
                [fault.decode() for fault in faults[:number]],
            )
            progress(partial.done, len(listed.ids))
    seconds, number = time.perf_counter() - began, partial.done - already
    unreadable = predict.finish(partial, output, readable)
    report.say(f"{number} images in {seconds:.0f} s: {number / seconds:.1f} images/s")
    report.say(f"{output}: {partial.done - unreadable} galaxies")
    if unreadable:
        report.say(f"{unreadable} images could not be read; see {output}.unreadable.csv")


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
