"""A training run from start to finish."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from gzjax import __version__, files
from gzjax.data import devices
from gzjax.errors import UserError
from gzjax.run import build, loop, page, profile, recorder
from gzjax.run import config as configs
from gzjax.run.build import Run
from gzjax.run.checkpoint import Checkpoints
from gzjax.run.evaluate import evaluate
from gzjax.run.model import Model, digest_of
from gzjax.run.recipes import recipe
from gzjax.run.recorder import Recorder
from gzjax.run.report import SILENT, Report, summary_line
from gzjax.steps import TrainState


def train(
    config: ConfigDict | str | Path,
    workdir: str | Path,
    *,
    cache: str | Path | None = None,
    check_images: bool = False,
    command: str = "",
    traced: tuple[int, int] | None = None,
    report: Report = SILENT,
) -> Model | None:
    """Trains, from the newest checkpoint in the workdir if there is one, tests, writes the page.

    Args:
      config: of the run, or the name or the path of a recipe.
      workdir: folder of the run: checkpoints, scores and tables.
      cache: folder for rendered skies; None: the user's cache folder.
      check_images: decode every image first.
      command: what was typed, to be recorded.
      traced: the first and the last step of which a trace is written, into `WORKDIR/profile`.
      report: says how it goes.

    Returns:
      The model of the step that was best on validation; None if training was asked to stop, by
      SIGTERM or Ctrl-C. The same call resumes.

    Raises:
      UserError: a fault in the options or the data, or a workdir of another run.
    """
    config = recipe(config) if isinstance(config, str | Path) else config
    if not isinstance(config, ConfigDict):
        raise UserError(f"config: expected one, as gzjax.recipe gives it, found {config!r}")
    workdir = Path(workdir).expanduser()
    report.say(f"gzjax: {devices.describe_devices()}; workdir {workdir}")
    folder = workdir / "checkpoints"
    saved = Checkpoints.peek(folder)
    # No process makes the folder before all have looked whether it is there.
    multihost_utils.sync_global_devices("gzjax: looked for checkpoints")
    run = build.build_run(
        config, workdir, saved, cache=cache, check_images=check_images, report=report
    )
    if traced and not 1 <= traced[0] <= traced[1] <= run.training.steps:
        raise UserError(
            f"steps to trace: expected some of 1 to {run.training.steps}, the last not before the "
            f"first, found {traced[0]}:{traced[1]}"
        )
    found = {"galaxies": run.data.fingerprint} | {k: len(v) for k, v in run.data.splits.items()}
    devices.check_same_in_all_processes("galaxies", repr(found))
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        if first:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(files.locked(workdir / "lock"))
        sizes = ", ".join(f"{len(rows)} {name}" for name, rows in run.data.splits.items())
        report.say(f"{len(run.data.ids)} galaxies ({run.data.label}): {sizes}")
        if run.on_device:
            with report.task("reading all images, for the devices to hold") as progress:
                data = devices.hold_on_devices(run.data, run.model.placement, progress)
            run = run._replace(data=data)
        if first:
            recorder.describe_skipped(run.data.left_out, workdir, report)
        checkpoints = stack.enter_context(Checkpoints(folder, run.training.keep))
        newest = checkpoints.newest()
        devices.check_same_in_all_processes("newest checkpoint", str(newest))
        # The galaxies may have taken minutes to read, and this process did not hold the lock.
        if (None if newest is None else checkpoints.about(newest)) != saved:
            raise UserError(f"{workdir}: another command has trained here meanwhile; try again")
        trainer = Trainer(run, workdir, checkpoints, newest or 0, report, traced)
        if first:
            session = {
                "command": command,
                "devices": devices.describe_devices(),
                "versions": f"gzjax {__version__}, jax {jax.__version__}",
            }
            options = dict(configs.flatten(config))
            trainer.recorder = stack.enter_context(
                Recorder(workdir, newest or 0, session, run.trackers, options)
            )
        model = trainer.train(newest)
    if model is not None:
        page.write(workdir, model, run.data, report)
    return model


@dataclasses.dataclass
class Trainer:
    """A training run in progress; the loop calls `record`, `evaluate` and `save`."""

    run: Run
    workdir: Path
    checkpoints: Checkpoints
    start: int
    report: Report
    traced: tuple[int, int] | None = None
    recorder: Recorder | None = None  # of the first process alone

    def train(self, newest: int | None) -> Model | None:
        """From the newest checkpoint, or from the beginning, to the last scores."""
        model, training, data, *_ = self.run
        steps = training.steps
        source = data.source("train")
        read = training.batches(source, model.reading)
        self.batches: grain.DatasetIterator = iter(read)
        if newest is None:
            state = training.initial_state(model, self.run.begin)
        else:
            like = training.abstract_state(model)
            state = self.checkpoints.restore(newest, like, self.batches)
            self.report.say(f"resuming from step {newest} of {steps}")
        size = sum(array.size for array in jax.tree.leaves(state.weights.params))
        self.report.say(f"{size:,} parameters; {steps} steps in all")

        guarded = loop.GuardedBatches(
            self.batches,
            loop.most_lost(source.drawn, jax.process_count()),
            training.steps_per_epoch,
            taken=newest or 0,
            lost=self.lost,
        )
        self.last_step, self.images, self.seconds = self.start, 0, 0.0
        with (
            self.report.training(self.start, steps, training.steps_per_epoch) as self.show,
            loop.StopRequest() as stop,
            self.step() as step,
        ):
            self.last_time = time.perf_counter()
            state = loop.train(
                state,
                (batch for _, batch in devices.on_devices(guarded, model.placement, data.canvases)),
                step,
                training,
                stop,
                callbacks=self,
            )
            # Within the request: a second signal must not end the saving.
            self.checkpoints.wait()
        done = int(state.step)
        if done < steps:
            self.report.say(
                f"stopped as asked after step {done} of {steps}, everything is saved; the same "
                "command resumes from there"
            )
            return None
        best = self.checkpoints.best() or done
        if best != done:
            state = self.checkpoints.restore(best, state)
        self.report.say(f"trained {done} steps; the best on validation is step {best}")
        # What the run is, as `load` has it; an earlier session may have saved the best.
        model = self.model_of(best, state)._replace(
            digest=digest_of(state.average), about=self.checkpoints.about(best)
        )
        for split in ("validation", "test"):
            for views in sorted({1, model.views}):
                result = evaluate(model, data, split, views=views)
                # Shown before it is written: a full disk costs nobody the scores.
                self.report.evaluation(result)
                if self.recorder is not None:
                    recorder.write_evaluation(self.workdir, result)
                if split == "validation" and model.has_intervals:
                    found = {views: result["intervals"]["temperatures"][0]}
                    model = model._replace(temperatures={**model.temperatures, **found})
        if self.recorder is not None and model.has_intervals:
            recorder.write_temperatures(self.workdir, best, model.temperatures)
        return model

    def step(self) -> contextlib.AbstractContextManager[Callable[..., Any]]:
        """The train step, traced where that is asked for."""
        step = self.run.training.step(self.run.model)
        if self.traced is None:
            return contextlib.nullcontext(step)
        folder = self.workdir / profile.FOLDER
        if self.start >= self.traced[0]:
            self.report.say(f"nothing is traced: {self.start} steps are done already")
            return contextlib.nullcontext(step)
        self.report.say(f"a trace of steps {self.traced[0]} to {self.traced[1]}: {folder}")
        return profile.traced(step, self.traced, self.start, folder)

    def model_of(self, step: int, state: TrainState) -> Model:
        """The model as it is after a step."""
        return self.run.model._replace(
            weights=state.average,
            raw=state.weights if self.run.training.average_decay else None,
            step=step,
            name=str(self.workdir),
            about=self.run.about,
        )

    def record(self, step: int, results: loop.Results) -> None:
        """Records the steps since the last call: their mean, and the learning rate."""
        training, now = self.run.training, time.perf_counter()
        images = training.batch_size * (step - self.last_step)
        seconds = now - self.last_time
        self.images, self.seconds = self.images + images, self.seconds + seconds
        update = (step - 1) // training.accumulate
        self.latest = {
            "epoch": step / training.steps_per_epoch,
            **{name: float(np.mean([r[name] for r in results])) for name in results[0]},
            "learning_rate": float(training.learning_rate(update)),
            "images_per_second": images / max(seconds, 1e-9),
        }
        self.last_step, self.last_time = step, now
        if self.recorder is not None:
            self.recorder.scalars("train", step, self.latest)
        self.show(step, self.latest)

    def evaluate(self, step: int, state: TrainState) -> float | None:
        """Scores the validation galaxies, with one view; None if nobody knows their fractions."""
        training = self.run.training
        result = evaluate(self.model_of(step, state), self.run.data, "validation", views=1)
        epoch, epochs = (n / training.steps_per_epoch for n in (step, training.steps))
        if self.report.watched:
            self.report.evaluation(result)
        else:
            self.report.say(
                f"epoch {epoch:.4g}/{epochs:.4g}, step {step} of {training.steps}: loss "
                f"{self.latest['loss']:.4f}, {self.images / max(self.seconds, 1e-9):.0f} "
                f"images/s; {summary_line(result)}"
            )
        self.images, self.seconds = 0, 0.0
        if self.recorder is not None:
            recorder.write_evaluation(self.workdir, result)
            self.recorder.validation(result)
        self.last_time = time.perf_counter()
        return result["rmse"]

    def save(self, step: int, state: TrainState, rmse: float | None) -> None:
        """Saves everything that resuming needs."""
        self.checkpoints.save(step, state, self.batches, self.run.about, rmse)
        self.last_time = time.perf_counter()

    def lost(self, rows: np.ndarray, reasons: list[str]) -> None:
        """Lists galaxies that turned out unreadable."""
        if self.run.data.canvases is not None:
            return  # these were listed when all images were read
        said = f"skipped {len(rows)} unreadable galaxies, the last because {reasons[-1]}"
        self.report.say(said)
        if self.recorder is None:  # another process than the first, whose report is silent
            names = ", ".join(self.run.data.ids[row] for row in rows)
            logging.getLogger(__name__).warning(
                "process %d %s: %s", jax.process_index(), said, names
            )
        else:
            unreadable = dict(zip(rows.tolist(), reasons, strict=True))
            recorder.write_left_out(self.workdir, self.run.data.left_out_with(unreadable))
