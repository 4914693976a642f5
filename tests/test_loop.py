import signal
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gzjax.errors import UserError
from gzjax.run import loop


class FakeState:
    step = 0


class Noted:
    """What the loop does, in order."""

    def __init__(self):
        self.done = []

    def record(self, step, results):
        self.done.append(("record", step, len(results)))

    def evaluate(self, step, state):
        self.done.append(("evaluate", step))
        return 0.1

    def save(self, step, state, rmse):
        self.done.append(("save", step, rmse))


def run_loop(steps, *, loss_of=lambda n: 1.0, gradient_of=lambda n: 1.0, stop=None, batches=None,
             start=0, **intervals):  # fmt: skip
    """The loop with a step that only counts; returns what was done, in order."""
    callbacks = Noted()
    intervals = {"log_every": 4, "save_every": 3, "evaluate_every": 5} | intervals
    with loop.StopRequest() as request:

        def step(state, _batch):
            step.count += 1
            if step.count == stop:
                signal.raise_signal(signal.SIGTERM)
            values = {"loss": loss_of(step.count), "gradient_norm": gradient_of(step.count)}
            return state, {name: np.float32(value) for name, value in values.items()}

        step.count = start
        state = FakeState()
        state.step = start
        try:
            loop.train(
                state,
                batches or iter(int, 1),
                step,
                SimpleNamespace(steps=steps, **intervals),
                request,
                callbacks,
            )
        except UserError as error:
            return callbacks.done, str(error)
    return callbacks.done


def test_the_loop_records_evaluates_and_saves_in_order():
    assert run_loop(7) == [
        ("record", 3, 3), ("save", 3, None),
        ("record", 4, 1),
        ("record", 5, 1), ("evaluate", 5), ("save", 5, 0.1),
        ("record", 6, 1), ("save", 6, None),
        ("record", 7, 1), ("evaluate", 7), ("save", 7, 0.1),
    ]  # fmt: skip


def test_the_loop_starts_where_the_state_is():
    assert run_loop(7, start=5) == [
        ("record", 6, 1), ("save", 6, None), ("record", 7, 1), ("evaluate", 7), ("save", 7, 0.1),
    ]  # fmt: skip
    assert run_loop(7, start=7) == []


def test_a_request_to_stop_saves_and_ends():
    assert run_loop(9, stop=2) == [("record", 2, 2), ("save", 2, None)]


def test_a_loss_that_is_not_finite_names_step_and_last_good_checkpoint():
    done, said = run_loop(9, loss_of=lambda n: np.nan if n == 5 else 1.0, evaluate_every=100)
    assert "the loss is nan at step 5; the last good checkpoint is of step 3" in said
    assert done[-1] == ("record", 4, 1)


def test_a_gradient_that_is_not_finite_is_not_saved():
    """The loss that belongs to it is finite still."""
    done, said = run_loop(9, gradient_of=lambda n: np.inf if n == 2 else 1.0)
    assert "the gradient norm is inf at step 2" in said
    assert done == []


def test_what_was_trained_is_saved_where_the_batches_end():
    def batches():
        yield from range(5)
        raise UserError("the disk is gone")

    done, said = run_loop(9, batches=batches(), save_every=3, evaluate_every=100)
    assert said == "the disk is gone"
    assert done[-2:] == [("record", 5, 1), ("save", 5, None)]
    # Nothing new since the last checkpoint: nothing to save.
    done, _ = run_loop(9, batches=batches(), save_every=5, evaluate_every=100)
    assert done[-1] == ("save", 5, None)
    assert done.count(("save", 5, None)) == 1


def test_one_of_several_processes_saves_nothing_where_its_batches_end(monkeypatch):
    """The others would not join."""

    def batches():
        yield from range(5)
        raise UserError("the disk is gone")

    monkeypatch.setattr(loop.StopRequest, "at", lambda *_: False)
    monkeypatch.setattr("jax.process_count", lambda: 2)
    done, said = run_loop(9, batches=batches(), save_every=3, evaluate_every=100)
    assert said == "the disk is gone"
    assert [each for each in done if each[0] == "save"] == [("save", 3, None)]


def test_batches_that_end_with_the_request_to_stop_end_cleanly():
    """Worker processes get the signal, too, and may be gone first."""

    def batches():
        yield from range(2)
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("worker died")

    assert run_loop(9, batches=batches()) == [("record", 2, 2), ("save", 2, None)]


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_loop(2, stop=1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not():
    with loop.StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.at(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGTERM)


def test_no_request_is_none():
    with loop.StopRequest() as request:
        assert not request.at(1)


def test_several_processes_stop_where_jax_says(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    sync = "reached_preemption_sync_point"
    monkeypatch.setattr(loop.multihost_utils, sync, lambda step: step == 7)
    before = signal.getsignal(signal.SIGTERM)
    with loop.StopRequest() as request:
        assert signal.getsignal(signal.SIGTERM) is before  # jax's own
        assert [request.at(step) for step in (6, 7)] == [False, True]


def test_other_threads_may_train():
    """As a notebook's do: Python handles signals in the main thread alone."""
    failed = []

    def train():
        try:
            run_loop(2)
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not failed


class Batches:
    """An iterator of batches with some faults, and a place that can be set."""

    def __init__(self, faults):
        self.faults, self.place = faults, 0

    def get_state(self):
        return self.place

    def set_state(self, place):
        self.place = place

    def __next__(self):
        self.place += 1
        fault = np.array([b"broken"] * self.faults[self.place - 1] + [b""] * 4, "S200")[:4]
        return {"fault": fault, "row": np.arange(4)}


def test_a_few_lost_galaxies_are_reported_and_forgotten_with_the_epoch():
    lost = []
    faults = [1, 0, 1, 1, 0, 1]
    guarded = loop.GuardedBatches(Batches(faults), 2, 3, lost=lambda *args: lost.append(args))
    for _ in faults:
        next(guarded)
    assert [(rows.tolist(), reasons) for rows, reasons in lost] == [([0], ["broken"])] * 4


@pytest.mark.parametrize(
    ("faults", "taken", "at"),
    [
        ([1, 1, 1], 0, 2),  # more than two in an epoch
        ([0, 4], 0, 1),  # a whole batch
        ([1, 1, 1], 1, None),  # an epoch ends in between
    ],
)
def test_an_outage_is_an_error_and_the_place_is_the_one_before(faults, taken, at):
    batches = Batches(faults)
    guarded = loop.GuardedBatches(batches, 2, 3, taken=taken)
    for number in range(len(faults)):
        if number == at:
            with pytest.raises(
                UserError, match="could not be read in this epoch, the last because"
            ):
                next(guarded)
            assert batches.place == at
            return
        next(guarded)
    assert at is None


def test_lost_galaxies_that_cannot_be_written_down_do_not_move_the_place():
    def full(rows, reasons):
        raise OSError("no space left on device")

    batches = Batches([0, 1, 0])
    guarded = loop.GuardedBatches(batches, 2, 3, lost=full)
    next(guarded)
    with pytest.raises(OSError, match="no space"):
        next(guarded)
    assert batches.place == 1


def test_a_batch_of_few_is_no_outage():
    class Single(Batches):
        def __next__(self):
            return {name: array[:1] for name, array in super().__next__().items()}

    guarded = loop.GuardedBatches(Single([1, 0, 1]), 2, 3)
    assert [len(next(guarded)["row"]) for _ in range(3)] == [1] * 3


def test_processes_may_lose_a_hundredth_and_what_chance_adds():
    assert loop.most_lost(1000, 1) == 10
    generator, galaxies, processes = np.random.default_rng(0), 10_000, 8
    for _ in range(200):  # epochs, in which 0.8 % are lost anywhere
        lost = generator.permutation(galaxies)[:80] % processes
        most = np.bincount(lost, minlength=processes).max()
        assert most <= loop.most_lost(galaxies, processes)
    # Of one process alone, an outage is still found early.
    assert loop.most_lost(galaxies, processes) < 3 * 0.01 * galaxies / processes
