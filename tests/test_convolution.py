import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gzjax.models import convolution


@pytest.mark.parametrize(("stride", "scheme"), [(1, "same"), (2, "same"), (2, "symmetric")])
@pytest.mark.parametrize(("kernel", "shape"), [(3, (8, 8)), (5, (9, 6)), (5, (2, 3))])
def test_shifted_depthwise_gives_the_numbers_of_lax(scheme, stride, kernel, shape):
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(size=(3, *shape, 4)), jnp.float32)
    weights = jnp.asarray(generator.normal(size=(kernel, kernel, 1, 4)), jnp.float32)
    padding = convolution.padding_of(shape, kernel, stride, scheme)

    def run(method):
        function = jax.jit(
            functools.partial(convolution.depthwise, stride=stride, padding=padding, method=method)
        )
        result, pullback = jax.vjp(function, images, weights)
        return result, *pullback(
            jnp.cos(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape)
        )

    for found, expected in zip(run("shifted"), run("xla"), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(7, 3, 1), (8, 3, 2), (7, 3, 2), (8, 5, 2), (1, 3, 2)]
)
def test_same_padding_is_tensorflows(side, kernel, stride):
    expected = jax.lax.padtype_to_pads((side, side), (kernel, kernel), (stride, stride), "SAME")
    assert list(convolution.padding_of((side, side), kernel, stride, "same")) == expected


def test_same_padding_is_of_each_side():
    assert convolution.padding_of((7, 8), 5, 2, "same") == ((2, 2), (1, 2))


def test_symmetric_padding_is_half_a_kernel():
    assert convolution.padding_of((8, 8), 5, 2, "symmetric") == ((2, 2), (2, 2))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_is_one(stride):
    generator = np.random.default_rng(1)
    images = jnp.asarray(generator.normal(size=(2, 5, 5, 3)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(1, 1, 3, 7)), jnp.float32)
    found = convolution.dense(images, kernel, stride, ((0, 0), (0, 0)))
    expected = np.asarray(images)[:, ::stride, ::stride] @ np.asarray(kernel)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_method_follows_the_platform():
    assert convolution.fastest_method() == "shifted"  # the tests run on the CPU


def test_bfloat16_is_summed_in_float32():
    generator = np.random.default_rng(2)
    images = jnp.asarray(generator.normal(size=(2, 9, 9, 16)), jnp.bfloat16)
    kernel = jnp.asarray(generator.normal(size=(5, 5, 1, 16)), jnp.bfloat16)
    found, expected = (
        convolution.depthwise(images, kernel, 1, ((2, 2), (2, 2)), method)
        for method in ("shifted", "xla")
    )
    assert found.dtype == jnp.bfloat16
    # The last bit may be rounded the other way, no more.
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=2**-7)


def test_a_kernels_gradient_in_bfloat16_is_summed_in_float32():
    images = jnp.ones((2, 40, 40, 1), jnp.bfloat16)

    def loss(kernel):
        return convolution.depthwise(images, kernel, 1, ((0, 0), (0, 0)), "shifted").sum()

    gradient = jax.grad(loss)(jnp.zeros((3, 3, 1, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    # In bfloat16 a sum of ones ends at 256.
    np.testing.assert_allclose(gradient.astype(np.float32), 2 * 38 * 38, rtol=2**-8)


@pytest.mark.skipif(jax.device_count() != 8, reason="needs eight devices, as conftest makes them")
def test_eight_devices_sum_gradients_and_gather_nothing():
    generator = np.random.default_rng(3)
    images = jnp.asarray(generator.normal(size=(16, 9, 9, 4)), jnp.float32)
    kernels = (
        jnp.asarray(generator.normal(size=(3, 3, 1, 4)), jnp.float32),
        jnp.asarray(generator.normal(size=(1, 1, 4, 8)), jnp.float32),
    )

    def loss(kernels, images):
        padding = convolution.padding_of((9, 9), 3, 2, "same")
        images = convolution.depthwise(images, kernels[0], 2, padding, "shifted")
        return jnp.tanh(convolution.dense(images, kernels[1], 1, ((0, 0), (0, 0)))).mean()

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = NamedSharding(mesh, PartitionSpec("data"))
    step = jax.value_and_grad(loss)
    spread = jax.jit(step, in_shardings=(whole, parts), out_shardings=whole)
    program = spread.lower(kernels, images).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program
    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, atol=1e-6, rtol=1e-5),
        spread(kernels, images),
        jax.jit(step)(kernels, images),
    )


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of same, symmetric"):
        convolution.padding_of((8, 8), 3, 1, "valid")
    with pytest.raises(ValueError, match="expected one of xla, shifted"):
        convolution.depthwise(
            jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4)), 1, ((1, 1), (1, 1)), "fast"
        )
