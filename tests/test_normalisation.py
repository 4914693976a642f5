import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gzjax.models import normalisation

OPTIONS = {"momentum": 0.8, "epsilon": 1e-2}


def layers(train, dtype):
    options = OPTIONS | {"use_running_average": not train, "dtype": dtype}
    return normalisation.BatchNorm(**options), nn.BatchNorm(**options)


def given(dtype=jnp.float32):
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(3, 2, (4, 5, 6, 7)), dtype)
    weights = {
        "params": {"scale": generator.normal(size=7), "bias": generator.normal(size=7)},
        "batch_stats": {"mean": generator.normal(size=7), "var": generator.uniform(1, 2, 7)},
    }
    return images, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)


def alike(found, expected, tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a.astype(np.float32), b.astype(np.float32), atol=tolerance, rtol=tolerance
        ),
        found,
        expected,
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_batch_norm_is_that_of_flax_forward_and_backward(train, dtype, tolerance, compiled):
    images, weights = given(dtype)

    def run(layer):
        def step(params, images):
            return layer.apply(
                {"params": params, "batch_stats": weights["batch_stats"]},
                images,
                mutable=["batch_stats"],
            )

        step = jax.jit(step) if compiled else step
        result, pullback, updated = jax.vjp(step, weights["params"], images, has_aux=True)
        wave = jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape)
        return result, pullback(wave.astype(result.dtype)), updated

    found, expected = (run(layer) for layer in layers(train, dtype))
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(
        lambda leaf: leaf.dtype, expected
    )
    alike(found, expected, tolerance)


@pytest.mark.parametrize("compiled", [False, True])
def test_each_group_is_a_batch_of_its_own(compiled):
    images, weights = given()
    parts = jnp.split(images, 2)
    whole, alone = (
        normalisation.BatchNorm(
            **OPTIONS, use_running_average=False, dtype="float32", groups=number
        )
        for number in (2, 1)
    )

    def loss(layer, params, images):
        variables = {"params": params, "batch_stats": weights["batch_stats"]}
        result, updated = layer.apply(variables, images, mutable=["batch_stats"])
        return jnp.tanh(result).sum(), updated

    slope = jax.value_and_grad(loss, (1, 2), has_aux=True)
    if compiled:
        slope = jax.jit(slope, static_argnums=0)
    (value, updated), gradients = slope(whole, weights["params"], images)
    each = [slope(alone, weights["params"], part) for part in parts]
    np.testing.assert_allclose(value, sum(loss for (loss, _), _ in each), rtol=1e-5)
    alike(gradients[0], jax.tree.map(jnp.add, *(to_params for _, (to_params, _) in each)), 1e-4)
    alike(gradients[1], jnp.concatenate([to_images for _, (_, to_images) in each]), 1e-5)
    mean = jax.tree.map(lambda one, other: (one + other) / 2, *(found for (_, found), _ in each))
    alike(updated, mean, 1e-5)


def test_batch_norm_begins_like_that_of_flax():
    images, _ = given()
    found, expected = (layer.init(jax.random.key(0), images) for layer in layers(True, "float32"))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    alike(found, expected, 0)


def test_a_gradient_goes_through_mean_and_variance_too():
    images, weights = given()

    def by_hand(images):
        return jnp.tanh(images.mean((0, 1, 2))).sum() + jnp.sin(images.var((0, 1, 2))).sum()

    def ours(images):
        _, mean, variance = normalisation.normalise(images, *weights["params"].values(), 1e-3)
        return jnp.tanh(mean).sum() + jnp.sin(variance).sum()

    np.testing.assert_allclose(jax.grad(ours)(images), jax.grad(by_hand)(images), atol=1e-6)


def test_images_all_alike_have_a_variance_of_zero_and_finite_gradients():
    images = jnp.full((4, 5, 6, 7), 1000.1)

    def loss(images, scale):
        normalised, _, variance = normalisation.normalise(images, scale, jnp.zeros(7), 1e-5)
        return normalised.sum(), variance

    gradients, variance = jax.grad(loss, (0, 1), has_aux=True)(images, jnp.ones(7))
    assert np.all(variance >= 0)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_mean_far_from_zero_costs_little_precision():
    images, weights = given()
    images = images + 20
    wave = np.cos(np.arange(images.size, dtype=np.float32)).reshape(images.shape)
    scale, bias = weights["params"]["scale"], weights["params"]["bias"]

    def loss(scale):
        return (normalisation.normalise(images, scale, bias, 1e-3)[0] * wave).sum()

    exact = np.asarray(images, np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(jax.grad(loss)(scale), (exact * wave).sum((0, 1, 2)), rtol=1e-3)


@pytest.mark.skipif(jax.device_count() != 8, reason="needs eight devices, as conftest makes them")
@pytest.mark.parametrize("groups", [1, 8])
def test_eight_devices_gather_no_images_and_need_no_sums_for_groups_of_their_own(groups):
    images, weights = given()
    images = jnp.concatenate([images, images * 2])

    def normalised(params, images):
        scale, bias = params["scale"], params["bias"]
        return normalisation.normalise(images, scale, bias, 1e-3, groups)[0]

    def loss(params, images):
        return jnp.tanh(normalised(params, images)).mean()

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.value_and_grad(loss)
    spread = jax.jit(step, in_shardings=(whole, parts), out_shardings=whole)
    program = spread.lower(weights["params"], images).compile().as_text()
    assert "all-reduce" in program  # of the gradients, at least
    assert "all-gather" not in program
    alike(spread(weights["params"], images), step(weights["params"], images), 1e-5)
    forward = jax.jit(normalised, in_shardings=(whole, parts), out_shardings=parts)
    program = forward.lower(weights["params"], images).compile().as_text()
    assert ("all-reduce" in program) == (groups == 1)
