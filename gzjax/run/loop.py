"""The loop around the train step: when to record, evaluate, save and stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from gzjax.data import catalogue
from gzjax.errors import UserError
from gzjax.run.model import Training
from gzjax.steps import Batch, TrainState

Results = list[dict[str, np.ndarray]]

# A batch of as many, none of which can be read, is no bad luck.
OUTAGE = 4


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a request to save and stop.

    Of several processes each would stop at another step; there jax's preemption service, which
    catches SIGTERM itself, agrees on one step for all. Signals are left alone outside the main
    thread, where Python cannot handle them.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    def at(self, step: int) -> bool:
        """Whether to stop after this step; the same answer in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None


class Callbacks(Protocol):
    """What the loop calls on the way, with the number of steps done."""

    def record(self, step: int, results: Results) -> None: ...

    def evaluate(self, step: int, state: TrainState) -> float | None: ...

    def save(self, step: int, state: TrainState, rmse: float | None) -> None: ...


def train(
    state: TrainState,
    batches: Iterator[Batch],
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    training: Training,
    stop: StopRequest,
    callbacks: Callbacks,
) -> TrainState:
    """The loop, from where `state` is to the last step, or until asked to stop.

    Results stay on the device until they are recorded, so that the next batch is prepared while
    the device works; nothing is saved before its loss and gradient are known to be finite.

    Args:
      state: to start from.
      batches: endless, at the place of `state`.
      step: the jitted `steps.train_step`.
      training: says how many steps there are, and after how many to record, evaluate and save;
        the last step is evaluated, too.
      stop: asked after every step.
      callbacks: gets what each step since the last record returned; returns the RMSE on validation;
        saves, with the RMSE if there is a new one.

    Raises:
      UserError: the loss or its gradient is no longer finite, or galaxies cannot be read any more;
        then the state before it is saved.
    """
    pending: list[dict[str, jax.Array]] = []
    saved = start = int(state.step)

    def recorded(done: int) -> None:
        if not pending:
            return
        results = jax.device_get(pending)
        pending.clear()
        for number, values in enumerate(results, done - len(results) + 1):
            # The gradient's, too: after an infinite one the weights are lost.
            for name, value in values.items():
                if not np.isfinite(value):
                    raise UserError(
                        f"the {name.replace('_', ' ')} is {value} at step {number}; the last "
                        f"good checkpoint is of step {saved}. A lower learning rate "
                        "(optim.learning_rate) or norm of the gradient (optim.clip_norm), in "
                        "another workdir, may help"
                    )
        callbacks.record(done, results)

    for done in range(start + 1, training.steps + 1):
        try:
            batch = next(batches)
        except Exception:
            # Nothing of what was trained is lost; whoever resumes begins with this very batch.
            if done - 1 > saved and jax.process_count() == 1:
                recorded(done - 1)
                callbacks.save(done - 1, state, None)
            if stop.signal is not None:  # worker processes got the signal, too
                break
            raise
        state, result = step(state, batch)
        pending.append(result)

        stopping = stop.at(done)
        evaluating = done % training.evaluate_every == 0 or done == training.steps
        saving = done % training.save_every == 0 or evaluating or stopping
        if saving or done % training.log_every == 0:
            recorded(done)
        rmse = callbacks.evaluate(done, state) if evaluating else None
        if saving:
            callbacks.save(done, state, rmse)
            saved = done
        if stopping:
            break
    return state


def most_lost(galaxies: int, processes: int) -> float:
    """How many of its share of the galaxies each of several processes may lose in an epoch.

    One per cent; and what chance adds where the unreadable ones are not spread evenly.
    """
    share = catalogue.MOST_LEFT_OUT * galaxies / processes
    return share if processes == 1 else share + 5 * share**0.5 + 1


class GuardedBatches:
    """Training batches, until more images are unreadable than bad luck explains.

    An outage of the disk or network would otherwise ruin a run silently: its galaxies do not
    count, the loss falls to 0, and the optimiser moves on.

    Args:
      batches: a grain iterator. After an outage it is at the place before, to be saved.
      most: galaxies of an epoch that may be lost.
      batches_per_epoch: in an epoch.
      taken: batches before the first one.
      lost: called with the rows of lost galaxies, and the reasons.
    """

    def __init__(
        self,
        batches: Any,
        most: float,
        batches_per_epoch: int,
        taken: int = 0,
        lost: Callable[[np.ndarray, list[str]], None] = lambda rows, reasons: None,
    ):
        self.batches, self.most, self.batches_per_epoch = batches, most, batches_per_epoch
        self.lost = lost
        self.taken, self.of_epoch = taken, 0

    def __iter__(self) -> "GuardedBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        before = self.batches.get_state()
        batch = next(self.batches)
        try:
            self._check(batch)
        except Exception:  # a list of lost galaxies that cannot be written, too
            with contextlib.suppress(Exception):
                self.batches.set_state(before)
            raise
        return batch

    def _check(self, batch: dict[str, np.ndarray]) -> None:
        if self.taken % self.batches_per_epoch == 0:
            self.of_epoch = 0
        self.taken += 1
        gone = np.flatnonzero(batch["fault"] != b"")
        if len(gone):
            reasons = [fault.decode() for fault in batch["fault"][gone]]
            self.of_epoch += len(gone)
            outage = len(gone) == len(batch["fault"]) >= OUTAGE
            if outage or self.of_epoch > self.most:
                raise UserError(
                    f"{self.of_epoch} training galaxies could not be read in this epoch, the last "
                    f"because {reasons[-1]}. Training stopped; fix that, and the same command "
                    "resumes"
                )
            self.lost(batch["row"][gone], reasons)
