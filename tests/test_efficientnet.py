import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gzjax import models
from gzjax.models import efficientnet
from gzjax.models.efficientnet import VARIANTS, plan, scaled_channels

# With 1000 outputs: Tan & Le 2019 and its code; the Lites, its code's README and timm.
PUBLISHED_SIZES = {
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "efficientnet-b4": 19_341_616,
    "efficientnet-b5": 30_389_784,
    "efficientnet-b6": 43_040_704,
    "efficientnet-b7": 66_347_960,
    "efficientnet-lite0": 4_652_008,
    "efficientnet-lite1": 5_416_680,
    "efficientnet-lite2": 6_092_072,
    "efficientnet-lite3": 8_197_096,
    "efficientnet-lite4": 13_006_568,
}


@pytest.mark.parametrize(("name", "size"), PUBLISHED_SIZES.items())
def test_parameter_counts_are_the_published_ones(name, size):
    network = models.build(name, outputs=1000)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(array.size for array in jax.tree.leaves(params)) == size


def test_channels_are_rounded_to_eight_and_not_down_by_more_than_a_tenth():
    assert [scaled_channels(32, width) for width in (1.0, 1.1, 1.2, 1.4, 2.0)] == [
        32, 32, 40, 48, 64,
    ]  # fmt: skip
    assert scaled_channels(24, 0.35) == 8
    assert scaled_channels(32, 0.35) == 16  # 11.2 would become 8, less than nine tenths


def test_the_blocks_of_b0_by_hand():
    blocks = plan(VARIANTS["efficientnet-b0"])
    assert [block.squeezed for block in blocks] == [
        8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48,
    ]  # fmt: skip
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [block.stride for block in blocks] == strides
    assert [block.kernel for block in blocks] == [3] * 3 + [5] * 2 + [3] * 3 + [5] * 7 + [3]
    np.testing.assert_allclose([block.drop for block in blocks], 0.2 * np.arange(16) / 16)


def test_lite_leaves_stem_head_and_the_outer_stages_alone():
    blocks = plan(VARIANTS["efficientnet-lite4"])
    assert [sum(block.stage == n for block in blocks) for n in range(7)] == [1, 4, 4, 6, 6, 8, 1]
    assert all(block.squeezed == 0 for block in blocks)
    assert blocks[0].inputs == 32


def test_stages_halve_the_image_where_they_should():
    variant = VARIANTS["efficientnet-b0"]
    module = efficientnet.EfficientNet(variant, 1000, 0.2, 0.2, 1.0)

    def capture(images):
        key = jax.random.key(0)
        return module.init_with_output(
            key, images, train=False, capture_intermediates=True, mutable=True
        )[1]["intermediates"]

    found = jax.eval_shape(capture, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    sides = [found[f"block_{stage}_0"]["__call__"][0].shape[1] for stage in range(7)]
    assert found["stem"]["__call__"][0].shape == (1, 112, 112, 32)
    assert sides == [112, 56, 28, 14, 14, 7, 7]
    assert found["head"]["__call__"][0].shape == (1, 7, 7, 1280)


@pytest.fixture(scope="module")
def tiny():
    """A network, its parameters and statistics, its jitted apply, and images for it."""
    network = models.build("efficientnet-tiny", image_size=32)
    # This generator compiles in half the time.
    params, batch_stats = jax.jit(network.init)(jax.random.key(0, impl="unsafe_rbg"))
    apply = jax.jit(network.apply, static_argnames="train")
    images = jax.random.uniform(jax.random.key(1), (8, 32, 32, 3))
    return params, batch_stats, apply, images


def test_outputs_start_near_their_positive_bias(tiny):
    params, batch_stats, apply, images = tiny
    outputs, after = apply(params, batch_stats, images, train=False)
    assert outputs.shape == (8, 37)
    assert outputs.dtype == jnp.float32
    assert np.asarray(outputs).mean() == pytest.approx(1.0, abs=0.2)
    jax.tree.map(np.testing.assert_array_equal, after, batch_stats)


def test_evaluation_has_no_chance_in_it_and_treats_each_image_alone(tiny):
    params, batch_stats, apply, images = tiny
    whole, _ = apply(params, batch_stats, images, train=False)
    turned, _ = apply(params, batch_stats, images[::-1], train=False)
    np.testing.assert_allclose(whole[::-1], turned, atol=1e-5)


def test_training_uses_the_batch_and_moves_the_statistics_by_a_tenth(tiny):
    params, batch_stats, apply, images = tiny
    _, after = apply(params, batch_stats, images, train=True, key=jax.random.key(2))
    stem = models.efficientnet.convolution.dense(
        (images - jnp.asarray(models.IMAGENET_MEAN)) / jnp.asarray(models.IMAGENET_DEVIATION),
        params["stem"]["kernel"],
        2,
        ((0, 1), (0, 1)),
    )
    expected = 0.9 * 0 + 0.1 * stem.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(after["stem_norm"]["mean"], expected, atol=1e-6)
    expected = 0.9 * 1 + 0.1 * stem.var(axis=(0, 1, 2))
    np.testing.assert_allclose(after["stem_norm"]["var"], expected, rtol=1e-5)


def test_stochastic_depth_and_dropout_follow_the_key(tiny):
    params, batch_stats, apply, images = tiny
    one, again, other = (
        apply(params, batch_stats, images, train=True, key=jax.random.key(seed))[0]
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, again)
    assert abs(np.asarray(one - other)).max() > 1e-4


def test_a_skipped_block_gives_its_input_and_a_kept_one_makes_up_for_it():
    block = efficientnet.BlockPlan(3, 1, 3, 1, 6, 8, 8, 2, drop=0.5)
    module = efficientnet.Block(block, lite=False)
    images = jax.random.normal(jax.random.key(0), (256, 4, 4, 8))
    never = efficientnet.Block(block._replace(drop=0.0), lite=False)

    @jax.jit
    def run():
        variables = module.init(jax.random.key(1), images, False)
        rngs = {"dropout": jax.random.key(2)}
        return [
            form.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)[0] - images
            for form in (module, never)
        ]

    dropped, kept = map(np.asarray, run())
    skipped = abs(dropped).max(axis=(1, 2, 3)) == 0
    assert 0.35 < skipped.mean() < 0.65
    np.testing.assert_allclose(dropped[~skipped], 2 * kept[~skipped], atol=1e-4)


@pytest.mark.parametrize("lite", [False, True])
def test_both_methods_train_the_same_block(lite):
    block = efficientnet.BlockPlan(0, 0, 5, 1, 3, 8, 8, squeezed=0 if lite else 2, drop=0.0)
    images = jax.random.normal(jax.random.key(0), (4, 6, 6, 8))

    def step(method):
        module = efficientnet.Block(block, lite, efficientnet.Details(depthwise=method))
        weights = module.init(jax.random.key(1), images, train=False)

        def loss(params, images):
            outputs, changed = module.apply(
                weights | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.tanh(outputs).mean(), changed

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weights["params"], images)

    found, expected = step("shifted"), step("xla")
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)


def test_bfloat16_keeps_parameters_statistics_and_outputs_float32(tiny):
    params, batch_stats, apply, images = tiny
    half = models.build("efficientnet-tiny", image_size=32, dtype="bfloat16")
    half_params, half_stats = jax.eval_shape(half.init, jax.random.key(0))
    outputs, after = jax.jit(half.apply, static_argnames="train")(
        params, batch_stats, images, train=True, key=jax.random.key(0)
    )
    for leaf in jax.tree.leaves((half_params, half_stats, outputs, after)):
        assert leaf.dtype == jnp.float32
    full, _ = apply(params, batch_stats, images, train=True, key=jax.random.key(0))
    off = np.abs(np.asarray(outputs - full))
    assert 0 < np.median(off) < 0.1  # batch norm over eight small images magnifies rounding


@pytest.mark.parametrize("side", [32, 47, 64])
def test_any_image_size(tiny, side):
    params, batch_stats, _, _ = tiny
    network = models.build("efficientnet-tiny")
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    outputs, _ = jax.eval_shape(
        functools.partial(network.apply, train=False), params, batch_stats, images
    )
    assert outputs.shape == (2, 37)


def test_initial_kernels_have_fan_out_variance():
    key = jax.random.key(0)
    pointwise = efficientnet.fan_out_normal(key, (1, 1, 64, 256))
    assert float(pointwise.std()) == pytest.approx(np.sqrt(2 / 256), rel=0.02)
    depthwise = efficientnet.fan_out_normal(key, (5, 5, 1, 512))
    assert float(depthwise.std()) == pytest.approx(np.sqrt(2 / 25), rel=0.03)


def test_an_unknown_name_suggests_the_right_one():
    with pytest.raises(ValueError, match="did you mean 'efficientnet-lite0'"):
        models.build("efficientnet-lit0")


def test_depths_run_from_the_stem_to_the_classifier(tiny):
    params = tiny[0]
    depths = {layer: efficientnet.depth_of(layer) for layer in params}
    assert depths["stem"] == depths["stem_norm"] == 0
    assert depths["block_0_0"] == 1
    assert depths["block_6_0"] == 7
    assert depths["head"] == depths["head_norm"] == 8
    assert depths["classifier"] == 9 == efficientnet.DEPTHS - 1
    assert set(depths.values()) == set(range(10))


def test_frozen_depths_keep_statistics_and_get_no_gradient(tiny):
    params, batch_stats, _, images = tiny
    network = models.build("efficientnet-tiny", image_size=32, frozen=4)

    def loss(params):
        outputs, after = network.apply(
            params, batch_stats, images, train=True, key=jax.random.key(0)
        )
        return jnp.sum(outputs**2), after

    gradients, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    for layer in params:
        moved = any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(gradients[layer]))
        assert moved == (efficientnet.depth_of(layer) >= 4), layer
    for layer, statistics in after.items():
        same = jax.tree.leaves(
            jax.tree.map(lambda a, b: bool(np.all(a == b)), statistics, batch_stats[layer])
        )
        assert all(same) == (efficientnet.depth_of(layer) < 4), layer
