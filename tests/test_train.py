import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import config as configs
from gzjax import experiment, train
from gzjax.errors import UserError
from gzjax.models import Weights


@pytest.fixture(scope="module")
def recipe():
    config = configs.default()
    config.batch_size = 16
    config.evaluate.batch_size = 16
    config.model.name = "efficientnet-tiny"
    config.model.image_size = 32
    config.data.canvas = 36
    config.views.rotate = 180.0
    config.views.flip = True
    config.optim.warmup = 0.0
    config.optim.learning_rate = 1e-3
    return config


@pytest.fixture(scope="module")
def batch(crowd):
    images = np.random.default_rng(0).integers(0, 255, (16, 36, 36, 3), np.uint8)
    return {
        "image": images,
        "fractions": crowd[:16].astype(np.float32),
        "row": np.arange(16, dtype=np.int32),
        "mask": np.ones(16, np.float32),
    }


def initial_state(recipe, parts):
    return experiment.initial_state(recipe, parts, lambda drawn: drawn)


@pytest.fixture(scope="module")
def on_devices(recipe, batch):
    """{number of devices: (compiled step, state after two steps, its metrics, first weights)}."""
    results = {}
    for number in (1, 8):
        parts = experiment.build(recipe, 160, devices=jax.devices()[:number])
        # Adam divides by the gradient's own size, so that rounding errors of tiny gradients
        # would become whole updates; plain descent keeps them as small as they are.
        parts = parts._replace(optimiser=optax.sgd(0.1))
        step = experiment.compile_train_step(recipe, parts)
        state = jax.device_put(initial_state(recipe, parts), parts.replicated)
        first = jax.device_get(state.weights)
        spread = {name: jax.device_put(array, parts.by_galaxy) for name, array in batch.items()}
        compiled = step.lower(state, spread).compile()
        for _ in range(2):
            state, metrics = compiled(state, spread)
        results[number] = compiled, state, metrics, first
    return results


def test_eight_devices_do_what_one_does(on_devices):
    _, one, metrics, _ = on_devices[1]
    _, eight, metrics_of_eight, _ = on_devices[8]
    assert len(jax.tree.leaves(eight.weights)[0].sharding.device_set) == 8
    for name, value in metrics.items():
        assert float(value) == pytest.approx(float(metrics_of_eight[name]), rel=2e-3), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3),
        one.weights.params,
        eight.weights.params,
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-2),
        one.weights.batch_stats,
        eight.weights.batch_stats,
    )


def test_the_step_of_eight_devices_reduces_and_gathers_nothing(on_devices):
    program = on_devices[8][0].as_text()
    assert "all-reduce" in program
    assert " all-gather(" not in program


def test_a_step_counts_and_moves_everything(on_devices):
    _, state, metrics, first = on_devices[1]
    assert int(state.step) == 2
    assert set(metrics) == {
        "loss", "gradient_norm", "mse", "focal", "kl", "weight_mse", "weight_focal", "weight_kl",
    }  # fmt: skip
    for (path, before), after in zip(
        jax.tree.leaves_with_path(first), jax.tree.leaves(state.weights), strict=True
    ):
        assert np.any(np.asarray(before) != np.asarray(after)), path


def test_the_average_follows_the_weights_by_hand():
    average = weights = Weights({"w": jnp.zeros(())}, {"s": jnp.zeros(())})
    expected = 0.0
    for step in range(30):
        weights = Weights({"w": jnp.float32(step + 1)}, {"s": jnp.float32(-step)})
        average = train.follow(average, weights, jnp.int32(step), 0.5)
        keeps = min(0.5, (1 + step) / (10 + step))
        expected = keeps * expected + (1 - keeps) * (step + 1)
    assert float(average.params["w"]) == pytest.approx(expected, rel=1e-5)
    assert float(average.batch_stats["s"]) == pytest.approx(1 - expected, rel=1e-4)


def test_a_step_averages_statistics_too_and_without_averaging_follows_at_once(on_devices):
    _, state, _, begun = on_devices[1]
    before = jax.tree.leaves(begun)
    weights, average = jax.tree.leaves(state.weights), jax.tree.leaves(state.average)
    for first, now, mean in zip(before, weights, average, strict=True):
        # Two steps: the average lies between where it began and where the weights are.
        span = np.abs(np.asarray(now) - first).max()
        assert np.abs(np.asarray(mean) - now).max() <= 2 * span + 1e-6
    assert any(np.any(np.asarray(a) != b) for a, b in zip(average, weights, strict=True))
    assert train.follow(state.average, state.weights, state.step, 0.0) is state.weights


def one_device(recipe):
    return experiment.build(recipe, 160, devices=jax.devices()[:1])


class FakeState:
    step = 0


def run_loop(steps, loss_of, *, gradient_of=lambda n: 1.0, stop=None, **intervals):
    """The loop with a step that only counts; returns what was done, in order."""
    done = []
    intervals = {"log_every": 4, "save_every": 3, "evaluate_every": 5} | intervals
    with train.StopRequest() as request:

        def step(state, _batch):
            step.count += 1
            if step.count == stop:
                signal.raise_signal(signal.SIGTERM)
            values = {"loss": loss_of(step.count), "gradient_norm": gradient_of(step.count)}
            return state, {name: np.float32(value) for name, value in values.items()}

        step.count = 0
        train.train(
            FakeState(),
            iter(int, 1),
            step,
            steps=steps,
            stop=request,
            record=lambda n, results: done.append(("record", n, len(results))),
            evaluate=lambda n, state: done.append(("evaluate", n)) or {"rmse": 0.1},
            save=lambda n, state, metrics: done.append(("save", n, metrics is not None)),
            **intervals,
        )
    return done


def test_the_loop_records_evaluates_and_saves_in_order():
    assert run_loop(7, lambda n: 1.0) == [
        ("record", 3, 3), ("save", 3, False),
        ("record", 4, 1),
        ("record", 5, 1), ("evaluate", 5), ("save", 5, True),
        ("record", 6, 1), ("save", 6, False),
        ("record", 7, 1), ("evaluate", 7), ("save", 7, True),
    ]  # fmt: skip


def test_a_request_to_stop_saves_and_ends():
    assert run_loop(9, lambda n: 1.0, stop=2) == [("record", 2, 2), ("save", 2, False)]


def test_a_loss_that_is_not_finite_names_step_and_last_good_checkpoint():
    with pytest.raises(UserError, match="nan at step 5; the last good checkpoint is of step 3"):
        run_loop(9, lambda n: np.nan if n == 5 else 1.0, evaluate_every=100)


def test_a_gradient_that_is_not_finite_is_not_saved():
    """The loss that belongs to it is finite still."""
    with pytest.raises(UserError, match="the gradient norm is inf at step 2"):
        run_loop(9, lambda n: 1.0, gradient_of=lambda n: np.inf if n == 2 else 1.0)


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_loop(2, lambda n: 1.0, stop=1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_batches_that_the_devices_cannot_share_are_refused(recipe):
    config = recipe.copy_and_resolve_references()
    config.batch_size = 12
    with pytest.raises(UserError, match="batch_size: expected a multiple of the 8 devices"):
        experiment.build(config, 160, devices=jax.devices())


def test_padding_does_not_train(recipe, batch):
    """A masked galaxy's labels are of no consequence."""
    parts = one_device(recipe)
    means = train.losses.init_means(parts.objective.terms)
    mask = batch["mask"].copy()
    mask[3] = 0
    outputs = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, (16, 37)), jnp.float32)
    other = batch["fractions"].copy()
    other[3] = 0.5
    losses = [
        train.losses.objective(parts.objective, outputs, fractions, mask, means)[0]
        for fractions in (batch["fractions"], other)
    ]
    assert float(losses[0]) == float(losses[1])
