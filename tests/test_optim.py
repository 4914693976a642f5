import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import optim


def test_cosine_rises_then_falls_to_nothing():
    rate = optim.schedule("cosine", 0.1, 100, warmup=10)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.05)
    assert float(rate(10)) == pytest.approx(0.1)
    assert float(rate(55)) == pytest.approx(0.05, rel=1e-3)
    assert float(rate(100)) == pytest.approx(0, abs=1e-8)


def test_exponential_and_step_decay_by_hand():
    smooth = optim.schedule("exponential", 1.0, 100, decay_rate=0.5, decay_steps=10)
    stairs = optim.schedule("step", 1.0, 100, decay_rate=0.5, decay_steps=10)
    for update in (0, 5, 10, 25):
        assert float(smooth(update)) == pytest.approx(0.5 ** (update / 10), rel=1e-5)
        assert float(stairs(update)) == pytest.approx(0.5 ** (update // 10), rel=1e-5)
    assert float(optim.schedule("constant", 0.3, 10)(7)) == pytest.approx(0.3)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear'"):
        optim.schedule("linear", 0.1, 10)


PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((3,), 2.0), "scale": jnp.ones((3,))}


def one_update(optimiser, gradients, params=PARAMS, state=None):
    state = optimiser.init(params) if state is None else state
    updates, state = optimiser.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def test_weight_decay_spares_biases_and_scales():
    nothing = jax.tree.map(jnp.zeros_like, PARAMS)
    optimiser = optim.adamw(optax.constant_schedule(0.1), weight_decay=0.5)
    params, _ = one_update(optimiser, nothing)
    np.testing.assert_allclose(params["kernel"], 2 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(params["bias"], PARAMS["bias"])
    np.testing.assert_allclose(params["scale"], PARAMS["scale"])


def test_first_step_of_adam_by_hand():
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 0.25), PARAMS)
    params, _ = one_update(optim.adamw(optax.constant_schedule(0.1)), gradients)
    np.testing.assert_allclose(params["bias"], 2.0 - 0.1 * 0.25 / (0.25 + 1e-8), rtol=1e-5)


def test_clipping_bounds_what_adam_sees():
    huge = jax.tree.map(lambda p: jnp.full_like(p, 1e6), PARAMS)
    _, state = one_update(optim.adamw(optax.constant_schedule(0.1), clip_norm=1.0), huge)
    moments = [leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "ndim", 0)]
    assert max(float(abs(moment).max()) for moment in moments) < 0.1


def test_accumulated_batches_make_the_update_of_their_mean():
    generator = np.random.default_rng(0)
    gradients = [
        jax.tree.map(lambda p: jnp.asarray(generator.normal(size=p.shape), jnp.float32), PARAMS)
        for _ in range(2)
    ]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    rate = optax.constant_schedule(0.1)
    expected, _ = one_update(optim.adamw(rate, clip_norm=1.0), mean)
    optimiser = optim.adamw(rate, clip_norm=1.0, accumulate=2)
    halfway, state = one_update(optimiser, gradients[0])
    jax.tree.map(np.testing.assert_array_equal, halfway, PARAMS)
    updated, _ = one_update(optimiser, gradients[1], halfway, state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updated, expected)


LAYERS = {name: {"kernel": jnp.ones((2, 2))} for name in ("stem", "middle", "last")}


def scaled(settings, updates=1):
    """How much of an update of 1 each layer gets, in each of some updates."""
    depths = ["stem", "middle", "last"]
    transform = optim.by_depth(settings, 3, depths.index)
    state, seen = transform.init(LAYERS), []
    for _ in range(updates):
        result, state = transform.update(LAYERS, state, LAYERS)
        seen.append([float(result[name]["kernel"][0, 0]) for name in depths])
    return seen


def test_each_depth_gets_its_share():
    assert scaled(optim.FineTuning()) == [[1, 1, 1]]
    assert scaled(optim.FineTuning(layer_decay=0.5)) == [[0.25, 0.5, 1]]
    assert scaled(optim.FineTuning(layer_decay=0.5, freeze=1)) == [[0, 0.5, 1]]


def test_the_last_depth_warms_up_alone():
    seen = scaled(optim.FineTuning(layer_decay=0.5, head_warmup=2), updates=4)
    assert seen == [[0, 0, 1], [0, 0, 1], [0.25, 0.5, 1], [0.25, 0.5, 1]]


def test_weight_decay_does_not_move_what_is_frozen():
    fine_tuning = optim.by_depth(optim.FineTuning(freeze=2), 3, ["stem", "middle", "last"].index)
    optimiser = optim.adamw(optax.constant_schedule(0.1), weight_decay=0.5, fine_tuning=fine_tuning)
    params, _ = one_update(optimiser, jax.tree.map(jnp.zeros_like, LAYERS), LAYERS)
    for name, expected in (("stem", 1), ("middle", 1), ("last", 0.95)):
        np.testing.assert_allclose(params[name]["kernel"], expected, rtol=1e-6)
