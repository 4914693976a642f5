"""The two jitted programs, on one device and on eight."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import augment, models, steps
from gzjax.augment import Augmentation
from gzjax.data import devices
from gzjax.data.framing import Framing
from gzjax.losses import Objective
from gzjax.models import Weights
from gzjax.run.model import Model, Reading, Training


def model_on(number, gz2, network):
    return Model(
        network=network,
        weights=Weights({}, {}),
        tree=gz2,
        activation="relu",
        has_intervals=False,
        framing=Framing(1.0, 36),
        image_size=32,
        test_views=augment.TestViews(),
        views=1,
        placement=devices.place(jax.devices()[:number]),
        reading=Reading(16),
    )


def training_with(optimiser):
    return Training(
        objective=Objective(),
        augmentation=Augmentation(rotate=180.0, flip=True),
        learning_rate=optax.constant_schedule(0.1),
        optimiser=optimiser,
        average_decay=0.999,
        batch_size=16,
        steps_per_epoch=10,
        steps=200,
        accumulate=1,
        seed=0,
        evaluate_every=10,
        save_every=10,
        log_every=10,
        keep=1,
    )


@pytest.fixture(scope="module")
def batch(crowd):
    images = np.random.default_rng(0).integers(0, 255, (16, 36, 36, 3), np.uint8)
    return {
        "image": images,
        "votes": 40 * crowd[:16].astype(np.float32),
        "row": np.arange(16, dtype=np.int32),
        "mask": np.ones(16, np.float32),
    }


@pytest.fixture(scope="module")
def on_devices(gz2, batch):
    """{number of devices: (compiled step, state after two steps, its metrics, first weights)}."""
    network = models.build("efficientnet-nano", outputs=gz2.size, image_size=32)
    results = {}
    for number in (1, 8):
        model = model_on(number, gz2, network)
        # Adam divides by the gradient's own size, so that rounding errors of tiny gradients
        # would become whole updates; plain descent keeps them as small as they are.
        training = training_with(optax.with_extra_args_support(optax.sgd(0.1)))
        step = training.step(model)
        state = training.initial_state(model, lambda drawn: drawn)
        first = jax.device_get(state.weights)
        spread = {
            name: jax.device_put(array, model.placement.by_galaxy) for name, array in batch.items()
        }
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
        average = steps.follow(average, weights, jnp.int32(step), 0.5)
        keeps = min(0.5, (1 + step) / (10 + step))
        expected = keeps * expected + (1 - keeps) * (step + 1)
    assert float(average.params["w"]) == pytest.approx(expected, rel=1e-5)
    assert float(average.batch_stats["s"]) == pytest.approx(1 - expected, rel=1e-4)


def test_a_step_averages_statistics_too_and_without_averaging_follows_at_once(on_devices):
    _, state, _, begun = on_devices[1]
    before = jax.tree.leaves(begun)
    weights, average = map(jax.tree.leaves, jax.device_get((state.weights, state.average)))
    for first, now, mean in zip(before, weights, average, strict=True):
        # Two steps: the average lies between where it began and where the weights are.
        span = np.abs(now - first).max()
        assert np.abs(mean - now).max() <= 2 * span + 1e-6
    assert any(np.any(a != b) for a, b in zip(average, weights, strict=True))
    assert steps.follow(state.average, state.weights, state.step, 0.0) is state.weights


@pytest.fixture(scope="module")
def plain(gz2):
    """A state, and a step of a network with one layer: rate 0.5, weight decay, no momentum."""

    def apply(params, batch_stats, images, *, train, key=None):
        assert train
        outputs = images.mean(axis=(1, 2, 3))[:, None] + params["w"]
        noise = jax.random.normal(key, ())
        return outputs, {"seen": batch_stats["seen"] + 1, "noise": noise}

    network = SimpleNamespace(apply=apply)
    weights = Weights(
        {"w": jnp.linspace(0.5, 1.5, gz2.size)}, {"seen": jnp.zeros(()), "noise": jnp.zeros(())}
    )
    objective = Objective(activation="softmax", terms=("mse",))
    optimiser = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5))
    optimiser = optax.with_extra_args_support(optimiser)
    state = steps.init_state(weights, optimiser, objective, jax.random.key(5))

    settings = {
        "network": network, "tree": gz2, "image_size": 36, "augmentation": Augmentation(),
        "objective": objective, "optimiser": optimiser, "average_decay": 0.5,
    }  # fmt: skip
    return state, jax.jit(functools.partial(steps.train_step, **settings)), settings


def test_a_step_follows_the_gradient_of_the_galaxies_that_count(plain, batch, gz2):
    """Against numerical differences of the loss, computed here."""
    state, step, _ = plain
    masked = {**batch, "mask": np.float32([1] * 10 + [0] * 6)}
    after, record = step(state, masked)

    def loss_of(w):
        outputs = batch["image"][:10].mean(axis=(1, 2, 3))[:, None] / 255 + w
        total, columns = 0.0, np.zeros((10, 37))
        for question in gz2.by_depth:
            powers = np.exp(outputs[:, question.columns])
            gate = sum(columns[:, gate] for gate in question.gates) if question.gates else 1.0
            share = powers / powers.sum(axis=1, keepdims=True)
            columns[:, question.columns] = share * np.reshape(gate, (-1, 1))
        total = np.mean((columns - batch["votes"][:10] / 40) ** 2)
        return total

    w = np.linspace(0.5, 1.5, 37)
    assert float(record["loss"]) == pytest.approx(loss_of(w), rel=1e-5)
    assert float(record["mse"]) == pytest.approx(loss_of(w), rel=1e-5)
    gradient = np.array([(loss_of(w + d) - loss_of(w - d)) / 2e-4 for d in 1e-4 * np.eye(37)])
    moved = w - 0.5 * (gradient + 0.1 * w)
    np.testing.assert_allclose(after.weights.params["w"], moved, atol=2e-6)
    assert float(record["gradient_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-3)


def test_a_step_takes_everything_from_the_state_before_it(plain, batch):
    state, step, _ = plain
    one, _ = step(state, batch)
    two, _ = step(one, batch)
    assert [int(s.step) for s in (state, one, two)] == [0, 1, 2]
    assert [int(s.means.count) for s in (state, one, two)] == [0, 1, 2]
    assert [float(s.weights.batch_stats["seen"]) for s in (one, two)] == [1, 2]
    # A step's randomness follows from the key and the number of the step; the key stays.
    assert float(one.weights.batch_stats["noise"]) != float(two.weights.batch_stats["noise"])
    again, _ = step(state.replace(step=jnp.int32(1)), batch)
    assert float(again.weights.batch_stats["noise"]) == float(two.weights.batch_stats["noise"])
    assert bool(jnp.all(jax.random.key_data(two.key) == jax.random.key_data(state.key)))
    # What is learnt does not depend on the average.
    elsewhere, _ = step(one.replace(average=jax.tree.map(lambda a: a + 1, one.average)), batch)
    jax.tree.map(np.testing.assert_array_equal, elsewhere.weights, two.weights)
    # The average of the old average and the new weights; early on it forgets faster.
    old, w = np.asarray(one.average.params["w"]), np.asarray(two.weights.params["w"])
    np.testing.assert_allclose(two.average.params["w"], old * 2 / 11 + w * 9 / 11, rtol=1e-5)


def test_random_views_follow_from_the_key_of_the_state(plain, batch):
    state, _, settings = plain

    def apply(params, batch_stats, images, *, train, key=None):
        return images[:, 4, 4, :1] * params["w"], batch_stats

    changes = {"network": SimpleNamespace(apply=apply), "augmentation": Augmentation(rotate=180.0)}
    step = jax.jit(functools.partial(steps.train_step, **settings | changes))
    one, again, other = (
        float(step(state.replace(key=jax.random.key(key)), batch)[1]["loss"]) for key in (1, 1, 2)
    )
    assert one == again != other


@pytest.fixture(scope="module")
def canvases():
    images = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), np.uint8)
    return {"image": jnp.asarray(images), "row": jnp.arange(3)}


@pytest.fixture(scope="module")
def predicted(canvases, gz2):
    """(settings -> fractions); the network answers by the pixels, so every view is another one."""

    def apply(params, statistics, images, train):
        assert not train
        return images.reshape(len(images), -1) @ params, statistics

    weights = Weights(jax.random.normal(jax.random.key(1), (12 * 12 * 3, gz2.size)), {})
    network = SimpleNamespace(apply=apply)

    @functools.cache
    def compiled(views, activation="softmax", field=0.8, zoom=1.5, at_once=1, piece=0):
        return jax.jit(
            functools.partial(
                steps.predict_step,
                network=network,
                tree=gz2,
                activation=activation,
                image_size=12,
                test_views=augment.TestViews(field, zoom, at_once, piece),
                views=views,
            )
        )

    def predicted(views, batch=None, **settings):
        result = compiled(views, **settings)(weights, canvases if batch is None else batch)
        assert set(result) == {"row", "fractions"}
        assert result["row"].tolist() == [0, 1, 2]
        return np.asarray(result["fractions"])

    return predicted


@pytest.mark.parametrize("at_once", [2, 24])
def test_how_many_views_are_computed_at_once_changes_nothing(predicted, at_once):
    one_by_one = predicted(24)
    np.testing.assert_allclose(predicted(24, at_once=at_once), one_by_one, atol=1e-5)
    assert np.abs(one_by_one - predicted(1)).max() > 0.01


@pytest.mark.parametrize("piece", [1, 2, 3])  # of three galaxies
@pytest.mark.parametrize("views", [1, 4])
def test_how_many_galaxies_are_computed_at_once_changes_nothing(predicted, views, piece):
    np.testing.assert_allclose(predicted(views, piece=piece), predicted(views), atol=1e-5)


def test_galaxies_are_computed_in_equal_pieces_no_larger_than_asked():
    seen = []

    def see(images):
        seen.append(images.shape[0])
        return (images.mean(axis=(1, 2, 3)),)

    canvases = jnp.arange(12 * 48, dtype=jnp.uint8).reshape(12, 4, 4, 3)
    views = augment.TestViews(piece=5)
    (found,) = steps.of_each_view(see, canvases, 4, views, 1)
    assert seen == [4]
    np.testing.assert_allclose(found[0], canvases.mean(axis=(1, 2, 3)) / 255, rtol=1e-5)


def test_views_are_sampled_as_finely_as_the_widest_needs(monkeypatch):
    seen = []

    def mapped(canvases, maps, size, widest, method):
        seen.append(widest)
        return canvases / 255.0

    monkeypatch.setattr(steps.augment, "mapped", mapped)
    canvases, views = jnp.zeros((2, 4, 4, 3), jnp.uint8), augment.TestViews(field=0.8, zoom=1.5)
    steps.of_each_view(lambda images: (images.mean(axis=(1, 2, 3)),), canvases, 4, views, 24)
    assert seen == [pytest.approx(0.8 * 1.5**0.5, rel=1e-5)]


@pytest.mark.parametrize("change", [{"activation": "softplus"}, {"field": 0.6}, {"zoom": 1.2}])
def test_every_setting_of_prediction_matters(predicted, change):
    assert np.abs(predicted(24) - predicted(24, **change)).max() > 1e-4
    if "zoom" not in change:  # a single view has the size that was asked for
        assert np.abs(predicted(1) - predicted(1, **change)).max() > 1e-4


def test_an_average_over_views_is_their_mean_and_obeys_the_tree(predicted, canvases, gz2):
    fractions = predicted(8)
    for question in gz2.questions:
        gate = sum(fractions[:, column] for column in question.gates) if question.gates else 1
        np.testing.assert_allclose(fractions[:, question.columns].sum(axis=1), gate, atol=1e-5)
    # Of a canvas turned by 90 degrees the views are the same, in another order.
    turned = {**canvases, "image": jnp.rot90(canvases["image"], axes=(1, 2))}
    np.testing.assert_allclose(predicted(8, batch=turned), fractions, atol=2e-3)
    assert np.abs(predicted(1, batch=turned) - predicted(1)).max() > 0.01
