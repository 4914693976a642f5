"""What is done with trained networks, one or several together: evaluation and prediction."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gzjax import config as configs
from gzjax import ensemble, evaluate, experiment, metrics, predict
from gzjax.checkpoint import Checkpoints
from gzjax.data import listing, pipeline
from gzjax.data.dataset import Data
from gzjax.errors import UserError
from gzjax.experiment import Parts
from gzjax.models import Weights
from gzjax.models.pretrained import Conventions
from gzjax.report import Report


class Member(NamedTuple):
    """A trained network, ready to predict, alone or as one of several.

    about: config, conventions and fingerprint of the data, as they were saved.
    weights: the moving average, of the step that was best on validation.
    raw: the weights that it is the average of, on the host.
    step_of: number of views -> the jitted predict step, compiled once.
    """

    workdir: Path
    config: ConfigDict
    parts: Parts
    weights: Weights
    raw: Weights
    step: int
    about: Mapping[str, Any]
    step_of: Callable[[int], Any]

    @property
    def identity(self) -> str:
        """Changes with what was trained on what, and for how long; not with where it lies."""
        described = json.dumps([self.about, self.step], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]


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
        config = configs.with_defaults(about["config"])
        config.update_from_flattened_dict(overrides)
        configs.check(config)
        configs.check_same_run(about["config"], config, workdir)
        parts = experiment.build(config, None, Conventions.from_json(about["conventions"]))
        raw, weights = checkpoints.weights(best)
        placed = jax.device_put(weights, parts.replicated)
    step_of = functools.cache(functools.partial(experiment.compile_predict_step, config, parts))
    return Member(workdir, config, parts, placed, raw, best, about, step_of)


def load_same_data(
    members: Sequence[Member], cache: Path, check_images: bool, report: Report
) -> list[Data]:
    """The galaxies that networks were trained on, in the framing of each.

    Raises:
      UserError: they are not the same, or not those of the training any more, or one network has
        learnt from what another one keeps apart.
    """
    data = [experiment.load_data(member.config, cache, check_images, report) for member in members]
    for member, galaxies in zip(members, data, strict=True):
        galaxies.check_same(member.about["data"], member.workdir)
        galaxies.check_same(data[0].fingerprint, members[0].workdir)
        for split in ("validation", "test"):
            if not np.array_equal(galaxies.splits[split], data[0].splits[split]):
                raise UserError(
                    f"{member.workdir} and {members[0].workdir} keep other galaxies apart for "
                    f"{split}; expected runs of the same data.split_seed, data.validation and "
                    "data.test"
                )
    return data


def predict_all(
    members: Sequence[Member], data: Sequence[Data], split: str, views: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """What the crowd said of a split, and what each network predicts."""
    results = [
        experiment.predict_split(
            member.config, member.parts, galaxies, split, member.weights, member.step_of(views)
        )
        for member, galaxies in zip(members, data, strict=True)
    ]
    for member, (rows, _) in zip(members, results, strict=True):
        if not np.array_equal(rows, results[0][0]):
            raise UserError(
                f"{member.workdir} and {members[0].workdir} have other galaxies in {split}; "
                "expected runs of the same data.training_galaxies"
            )
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
        Empty: one, and as many as the recipe says.
      mixture: `uniform`, or `fitted` on validation.
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
        if len(members) > 1:
            result["workdirs"] = [str(member.workdir) for member in members]
            result["mixture"] = weights.round(4).tolist()
        elif count == 1 and members[0].config.average.decay:
            raw = jax.device_put(members[0].raw, members[0].parts.replicated)
            alone = members[0]._replace(weights=raw)
            _, (unaveraged,) = predict_all([alone], data, split, count)
            result["raw_rmse"] = metrics.rmse(unaveraged, observed)
        mixed = ensemble.mix(predicted, weights)
        summary = metrics.summary(mixed, observed, first.training_mean)
        report.evaluated(result | summary, table=True)
        if len(members) > 1:
            for workdir, its in zip(workdirs, predicted, strict=True):
                gain, low, high = metrics.rmse_difference(mixed, its, observed)
                report.say(
                    f"{workdir} alone: RMSE {metrics.rmse(its, observed):.4f}; together "
                    f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"
                )


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
      mixture: `uniform`, or `fitted` on validation.
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
    devices, plural = experiment.describe_devices(), "s" * (count > 1)
    report.say(f"gzjax: {devices}; {len(listed.ids)} images, {count} view{plural} each")
    weights = ensemble.uniform_weights(len(members))
    if mixture == "fitted" and len(members) > 1:
        data = load_same_data(members, cache, False, report)
        weights = fit_mixture(members, data, count, report)
    job = {
        "images": listed.digest,
        "networks": [member.identity for member in members],
        "weights": [round(float(weight), 4) for weight in weights],
        "views": count,
    }
    # Networks that cut out and rescale images alike share them.
    framings = {
        framing: listed.framed(*framing)
        for framing in {(member.config.data.crop, member.config.data.canvas) for member in members}
    }
    partial = predict.Partial(output, job)
    already = partial.done
    if already:
        report.say(f"going on after {already} images that are done")

    def step(batch: Mapping[str, Any]) -> tuple[np.ndarray, list[jax.Array]]:
        canvases = dict(zip(framings, batch["images"], strict=True))
        results = []
        for member in members:
            framing = member.config.data.crop, member.config.data.canvas
            shown = jax.device_put(canvases[framing], member.parts.by_galaxy)
            results.append(member.step_of(count)(member.weights, {"image": shown})["fractions"])
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
