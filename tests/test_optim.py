import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import optim
from gzjax.errors import UserError
from gzjax.optim import Optimisation


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", math.inf, "a number above 0"),
        ("schedule", "linear", "one of cosine, exponential, step, constant"),
        ("warmup", -0.1, "a number at least 0"),
        ("decay_rate", 0.0, "a number above 0 and at most 1"),
        ("decay_rate", 1.1, "a number above 0 and at most 1"),
        ("decay_every", 0.0, "a number above 0"),
        ("weight_decay", -0.1, "a number at least 0"),
        ("clip_norm", -1.0, "a number at least 0"),
        ("accumulate", 0, "a whole number at least 1"),
        ("accumulate", 1.5, "a whole number at least 1"),
        ("layer_decay", 0.0, "a number above 0 and at most 1"),
        ("layer_decay", 1.01, "a number above 0 and at most 1"),
        ("freeze", -1, "a whole number from 0 to 9"),
        ("freeze", 10, "a whole number from 0 to 9"),
        ("head_warmup", -1.0, "a number at least 0"),
    ],
)
def test_settings_that_are_refused(name, value, expected):
    with pytest.raises(UserError, match=f"^{name}: expected {expected}, found .*{value}"):
        Optimisation(**{name: value})


def test_the_ends_of_what_is_allowed_and_the_defaults():
    Optimisation(warmup=0, decay_rate=1, weight_decay=0, clip_norm=0, layer_decay=1, freeze=9)
    assert Optimisation() == Optimisation(
        learning_rate=1e-3,
        schedule="cosine",
        warmup=1.0,
        decay_rate=0.1,
        decay_every=10.0,
        weight_decay=1e-2,
        clip_norm=1.0,
        accumulate=1,
        layer_decay=1.0,
        freeze=0,
        head_warmup=0.0,
    )


def test_cosine_rises_then_falls_to_nothing():
    rate = optim.schedule("cosine", 0.1, 100, warmup=10)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(0.05)
    assert float(rate(10)) == pytest.approx(0.1)
    assert float(rate(55)) == pytest.approx(0.05, rel=1e-3)
    assert float(rate(32.5)) == pytest.approx(0.05 * (1 + np.cos(np.pi / 4)), rel=1e-5)
    assert float(rate(100)) == pytest.approx(0, abs=1e-8)


def test_exponential_and_step_decay_by_hand():
    smooth = optim.schedule("exponential", 1.0, 100, decay_rate=0.5, decay_steps=10)
    stairs = optim.schedule("step", 1.0, 100, decay_rate=0.5, decay_steps=10)
    for update in (0, 5, 10, 25):
        assert float(smooth(update)) == pytest.approx(0.5 ** (update / 10), rel=1e-5)
        assert float(stairs(update)) == pytest.approx(0.5 ** (update // 10), rel=1e-5)
    assert float(optim.schedule("constant", 0.3, 10)(7)) == pytest.approx(0.3)
    late = optim.schedule("step", 1.0, 100, warmup=4, decay_rate=0.5, decay_steps=10)
    for update, expected in [(1, 0.25), (4, 1), (13, 1), (14, 0.5), (24, 0.25)]:
        assert float(late(update)) == pytest.approx(expected)
    # Without an update between two of them, steps follow each other at every update.
    assert float(optim.schedule("step", 1.0, 9, decay_rate=0.5, decay_steps=0)(3)) == 0.125
    # A schedule that is warm-up and nothing else still has a value at its end.
    assert float(optim.schedule("cosine", 1.0, 4, warmup=4)(4)) == 1.0


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


def test_later_steps_of_adam_by_hand():
    """Both moments decay as Kingma & Ba 2015 have it; the first step hides them."""
    change, value = optim.adamw(optax.constant_schedule(0.1)), jnp.float32(2.0)
    state, expected, first, second = change.init(value), 2.0, 0.0, 0.0
    for step, gradient in enumerate((0.25, -1.0, 0.5), 1):
        updates, state = change.update(jnp.float32(gradient), state, value)
        value = optax.apply_updates(value, updates)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        length = (second / (1 - 0.999**step)) ** 0.5 + 1e-8
        expected -= 0.1 * first / (1 - 0.9**step) / length
        assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e4])
def test_the_length_and_the_clipping_are_those_of_optax(size, compiled):
    generator = np.random.default_rng(0)
    gradients = {
        "a": jnp.asarray(generator.normal(0, size, (3, 4)), jnp.float32),
        "b": {"c": jnp.asarray(generator.normal(0, size, 5), jnp.float32)},
    }

    def by(clip):
        update = clip.update
        return (jax.jit(update) if compiled else update)(gradients, clip.init(gradients))[0]

    np.testing.assert_allclose(
        optim.global_norm(gradients), optax.tree.norm(gradients), rtol=1e-6, atol=0
    )
    found, expected = by(optim.clip_by_global_norm(2.0)), by(optax.clip_by_global_norm(2.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


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


DEPTHS = list(LAYERS)


def scaled(updates=1, **settings):
    """How much of an update of 1 each layer gets, in each of some updates."""
    transform = optim.by_depth(3, DEPTHS.index, **settings)
    state, seen = transform.init(LAYERS), []
    for _ in range(updates):
        result, state = transform.update(LAYERS, state, LAYERS)
        seen.append([float(result[name]["kernel"][0, 0]) for name in DEPTHS])
    return seen


def test_each_depth_gets_its_share():
    assert scaled() == [[1, 1, 1]]
    assert scaled(layer_decay=0.5) == [[0.25, 0.5, 1]]
    assert scaled(layer_decay=0.5, freeze=1) == [[0, 0.5, 1]]


def test_the_last_depth_warms_up_alone():
    seen = scaled(layer_decay=0.5, head_warmup=2, updates=4)
    assert seen == [[0, 0, 1], [0, 0, 1], [0.25, 0.5, 1], [0.25, 0.5, 1]]
    seen = scaled(head_warmup=1, freeze=1, updates=2)
    assert seen == [[0, 0, 1], [0, 1, 1]]


def test_weight_decay_does_not_move_what_is_frozen():
    fine_tuning = optim.by_depth(3, DEPTHS.index, freeze=2)
    optimiser = optim.adamw(optax.constant_schedule(0.1), weight_decay=0.5, fine_tuning=fine_tuning)
    params, _ = one_update(optimiser, jax.tree.map(jnp.zeros_like, LAYERS), LAYERS)
    for name, expected in (("stem", 1), ("middle", 1), ("last", 0.95)):
        np.testing.assert_allclose(params[name]["kernel"], expected, rtol=1e-6)


def made(epochs=4, steps_per_epoch=6, **settings):
    return optim.make(
        Optimisation(**settings),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        depths=3,
        depth_of=DEPTHS.index,
    )


def rates(updates, **settings):
    return [float(made(**settings)[0](update)) for update in range(updates)]


def test_lengths_in_epochs_become_updates():
    # 4 epochs of 6 steps; the warm-up is the first of them.
    expected = optim.schedule("cosine", 1e-3, 24, warmup=6)
    np.testing.assert_allclose(rates(25), [float(expected(n)) for n in range(25)])
    # Two batches an update: half as many of everything.
    stairs = {"schedule": "step", "decay_rate": 0.5, "decay_every": 1.25, "learning_rate": 1.0}
    expected = optim.schedule("step", 1.0, 12, warmup=1, decay_rate=0.5, decay_steps=4)
    found = rates(12, accumulate=2, warmup=0.4, **stairs)
    np.testing.assert_allclose(found, [float(expected(n)) for n in range(12)])
    assert found[:6] == [0, 1, 1, 1, 1, 0.5]
    # Fractions of an epoch are rounded to updates.
    assert rates(3, epochs=0.5, warmup=0, schedule="constant", learning_rate=0.5) == [0.5] * 3
    assert rates(4, epochs=0.5, warmup=0, learning_rate=1.0)[3] == pytest.approx(0, abs=1e-7)


def test_the_warm_up_takes_half_of_all_updates_at_most():
    found = rates(25, warmup=99, learning_rate=1.0, schedule="constant")
    np.testing.assert_allclose(found, np.minimum(np.arange(25) / 12, 1), rtol=1e-6)
    found = rates(13, warmup=99, learning_rate=1.0, schedule="constant", accumulate=2)
    np.testing.assert_allclose(found, np.minimum(np.arange(13) / 6, 1), rtol=1e-6)


def walked(steps=6, **settings):
    """The kernels of all layers after some steps down the same gradients."""
    _, optimiser = made(**({"schedule": "constant", "warmup": 0, "learning_rate": 0.1} | settings))
    generator = np.random.default_rng(1)
    params, state, step = LAYERS, optimiser.init(LAYERS), jax.jit(optimiser.update)
    for _ in range(steps):
        gradients = jax.tree.map(
            lambda a: jnp.asarray(generator.normal(0, 9, a.shape), jnp.float32), LAYERS
        )
        updates, state = step(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray([params[name]["kernel"] for name in LAYERS])


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.2},
        {"schedule": "cosine"},
        {"warmup": 1.0},
        {"schedule": "step", "decay_every": 0.5},
        {"schedule": "exponential", "decay_rate": 0.5},
        {"weight_decay": 0.3},
        {"clip_norm": 0.0},
        {"accumulate": 2},
        {"layer_decay": 0.5},
        {"freeze": 1},
        {"head_warmup": 0.5},
    ],
    ids=str,
)
def test_every_setting_changes_where_weights_go(change):
    assert abs(walked() - walked(**change)).max() > 1e-3


def test_the_depth_of_a_layer_decides_in_the_whole_transformation():
    start = np.ones((2, 2))
    moved = walked(freeze=1)
    np.testing.assert_array_equal(moved[0], start)
    assert (moved[1:] != 1).all()
    # One and a half epochs of 6 steps, 2 batches an update: the last layer alone for 4 updates.
    waiting = {"head_warmup": 1.5, "accumulate": 2}
    moved = walked(9, **waiting)
    np.testing.assert_array_equal(moved[:2], [start, start])
    assert (moved[2] != 1).all()
    assert (walked(10, **waiting) != 1).all()
    whole, shared = walked(1, weight_decay=0), walked(1, weight_decay=0, layer_decay=0.5)
    np.testing.assert_allclose(shared - 1, (whole - 1) * [[[0.25]], [[0.5]], [[1]]], rtol=1e-4)


def test_accumulating_more_batches_than_there_are_is_refused():
    with pytest.raises(
        UserError, match=r"^accumulate: expected at most the 24 steps of training, found 25$"
    ):
        made(accumulate=25)
    with pytest.raises(UserError, match="at most the 3 steps"):
        made(epochs=0.5, accumulate=4)
    assert (walked(24, accumulate=24) != 1).all()
    made(epochs=0.6, accumulate=4)  # 3.6 steps are 4
