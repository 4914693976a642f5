import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gzjax import models
from gzjax.errors import UserError
from gzjax.models import TENSORFLOW, Conventions, NetworkSettings, Weights, efficientnet
from gzjax.models.efficientnet import Details
from gzjax.models.variants import NANO, VARIANTS, BlockPlan, plan

FIRST, LITE0, SECOND = "efficientnet-nano", "efficientnet-lite0", "efficientnetv2-b0"

# With 1000 outputs: Tan & Le 2019 and its code; the Lites, its code's README and timm; version 2,
# timm's `tf_efficientnetv2_b0` and so on.
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
    "efficientnetv2-b0": 7_139_704,
    "efficientnetv2-b1": 8_141_052,
    "efficientnetv2-b2": 10_096_086,
    "efficientnetv2-b3": 14_358_406,
    "efficientnetv2-s": 21_458_488,
    "efficientnetv2-m": 54_139_356,
    "efficientnetv2-l": 118_515_272,
}


def size_by_hand(name, outputs):
    """How many parameters a network has, from its blocks."""
    variant = VARIANTS[name]
    stem, head = variant.ends
    blocks = plan(variant)
    size = 3 * 9 * stem + 2 * stem + blocks[-1].outputs * head + 2 * head + (head + 1) * outputs
    for block in blocks:
        wide, pixels = block.inputs * block.expansion, block.kernel**2
        if block.fused and block.expansion == 1:
            size += pixels * wide * block.outputs + 2 * block.outputs
            continue
        if block.expansion > 1:
            size += block.inputs * wide * (pixels if block.fused else 1) + 2 * wide
        if not block.fused:
            size += pixels * wide + 2 * wide
        if block.squeezed:
            size += (wide + 1) * block.squeezed + (block.squeezed + 1) * wide
        size += wide * block.outputs + 2 * block.outputs
    return size


def test_parameter_counts_are_the_published_ones():
    assert {name: size_by_hand(name, 1000) for name in PUBLISHED_SIZES} == PUBLISHED_SIZES
    for name in ("efficientnet-b1", "efficientnet-lite1", "efficientnetv2-s"):
        params, _ = jax.eval_shape(models.build(name, outputs=1000).init, jax.random.key(0))
        assert sum(array.size for array in jax.tree.leaves(params)) == PUBLISHED_SIZES[name]


def test_dropout_rates_are_the_published_ones():
    rates = [VARIANTS[name].dropout for name in PUBLISHED_SIZES]
    assert rates[:8] == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
    assert rates[8:13] == [0.2, 0.2, 0.3, 0.3, 0.3]
    assert rates[13:] == [0.2, 0.2, 0.3, 0.3, 0.2, 0.3, 0.4]


def test_channels_are_rounded_to_eight_and_not_down_by_more_than_a_tenth():
    def scaled(channels, width, **options):
        return VARIANTS[FIRST]._replace(width=width, **options).scaled(channels)

    assert [scaled(32, width) for width in (1.0, 1.1, 1.2, 1.4, 2.0)] == [32, 32, 40, 48, 64]
    assert scaled(24, 0.35) == 8
    assert scaled(8, 0.35) == 8
    assert scaled(32, 0.35) == 16  # 11.2 would become 8, less than nine tenths
    # Version 2 rounds down by as much as it takes.
    assert scaled(16, 1.2) == 24
    assert VARIANTS["efficientnetv2-b3"].scaled(16) == 16
    # Every published one makes images 32 times smaller, the first convolution twice.
    for variant in (VARIANTS[name] for name in PUBLISHED_SIZES):
        assert math.prod(stage.stride for stage in variant.stages) == 16


def test_the_blocks_of_version_2_by_hand():
    blocks = plan(VARIANTS["efficientnetv2-s"], 0.2)
    assert [sum(block.stage == n for block in blocks) for n in range(6)] == [2, 4, 4, 6, 9, 15]
    assert [block.fused for block in blocks] == [True] * 10 + [False] * 30
    assert {block.squeezed for block in blocks if block.fused} == {0}
    assert [block.squeezed for block in blocks[10:13]] == [16, 32, 32]
    assert {block.kernel for block in blocks} == {3}
    assert [blocks[n].stride for n in (0, 2, 6, 10, 16, 25)] == [1, 2, 2, 2, 1, 2]
    assert [blocks[n].expansion for n in (0, 2, 6, 10, 16, 25)] == [1, 4, 4, 4, 6, 6]
    assert blocks[0].inputs == 24
    assert VARIANTS["efficientnetv2-s"].ends == (24, 1280)
    assert VARIANTS["efficientnetv2-b3"].ends == (40, 1536)
    assert blocks[-1].drop == pytest.approx(0.2 * 39 / 40)


def test_the_blocks_of_b0_by_hand():
    blocks = plan(VARIANTS["efficientnet-b0"], 0.3)
    assert [block.squeezed for block in blocks] == [
        8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48,
    ]  # fmt: skip
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [block.stride for block in blocks] == strides
    assert [block.kernel for block in blocks] == [3] * 3 + [5] * 2 + [3] * 3 + [5] * 7 + [3]
    np.testing.assert_allclose([block.drop for block in blocks], 0.3 * np.arange(16) / 16)


def test_lite_scales_neither_stem_nor_head_nor_the_outer_stages():
    blocks = plan(VARIANTS["efficientnet-lite4"])
    assert [sum(block.stage == n for block in blocks) for n in range(7)] == [1, 4, 4, 6, 6, 8, 1]
    assert all(block.squeezed == 0 for block in blocks)
    assert blocks[0].inputs == 32


STRIDES = {FIRST: (1, 2), LITE0: (1, 2), SECOND: (1, 2, 2)}
UNUSUAL = Conventions("symmetric", 0.1, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
KEY = jax.random.key(7)


def short(name=FIRST, **options):
    """Builds a network of a few stages only."""
    stages = tiny.SHORT_V2 if name == SECOND else NANO
    with pytest.MonkeyPatch.context() as patch:
        tiny.shorten(patch, name, stages)
        return models.build(name, **{"outputs": 5, "image_size": 24} | options)


@functools.cache
def given(name=FIRST):
    """Random weights of a short network, and images for it."""
    generator = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) > 1:
            return generator.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        return generator.uniform(0.5, 1.5, leaf.shape)

    shapes = jax.eval_shape(short(name).init, KEY)
    weights = Weights(*jax.tree.map(lambda leaf: jnp.float32(draw(leaf)), tuple(shapes)))
    return weights, jnp.float32(generator.uniform(0, 1, (6, 24, 24, 3)))


def run(train=False, key=None, name=FIRST, compiled=False, **options):
    """Outputs and statistics of a short network; without `jit` operations are compiled but once."""
    weights, images = given(name)
    apply = functools.partial(short(name, **options).apply, train=train, key=key)
    return (jax.jit(apply) if compiled else apply)(*weights, images)


def convolved(images, kernel, stride, padding):
    """By one product for each of the kernel's pixels."""
    side, _, inputs, _ = kernel.shape
    if padding == "symmetric":
        pads = [(side // 2, side // 2)] * 2
    else:
        pads = jax.lax.padtype_to_pads(images.shape[1:3], (side, side), (stride, stride), "SAME")
    images = np.pad(images, [(0, 0), *pads, (0, 0)])
    rows, columns = ((n - side) // stride + 1 for n in images.shape[1:3])
    result = 0
    for row in range(side):
        for column in range(side):
            part = images[:, row:, column:][:, ::stride, ::stride][:, :rows, :columns]
            if inputs == 1 and images.shape[-1] > 1:
                result = result + part * kernel[row, column, 0]
            else:
                result = result + part @ kernel[row, column]
    return result


def by_hand(weights, images, train, conventions, name):
    """The network in float64 and numpy, without dropout: outputs and statistics."""
    params, stats, images = jax.tree.map(np.float64, (*weights, images))
    images = (images - np.array(conventions.mean)) / np.array(conventions.deviation)
    after = {}

    def sigmoid(values):
        return 1 / (1 + np.exp(-values))

    def activated(values):
        return np.clip(values, 0, 6) if name == LITE0 else values * sigmoid(values)

    def normed(values, name, layer, old, new):
        mean, variance = old[name]["mean"], old[name]["var"]
        if train:
            mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2))
        new[name] = {
            "mean": 0.9 * old[name]["mean"] + 0.1 * mean,
            "var": 0.9 * old[name]["var"] + 0.1 * variance,
        }
        deviation = np.sqrt(variance + conventions.norm_epsilon)
        return (values - mean) / deviation * layer[name]["scale"] + layer[name]["bias"]

    def convolve(values, layer, stride=1):
        result = convolved(values, layer["kernel"], stride, conventions.padding)
        return result + layer.get("bias", 0)

    images = convolve(images, params["stem"], 2)
    images = activated(normed(images, "stem_norm", params, stats, after))
    for layer in sorted(layer for layer in params if layer.startswith("block")):
        block, old, new = params[layer], stats[layer], after.setdefault(layer, {})
        stage, repeat = map(int, layer.split("_")[1:])
        shortcut = images
        stride = STRIDES[name][stage] if repeat == 0 else 1
        if "depthwise" not in block:  # fused
            first = "expand" if "expand" in block else "project"
            images = normed(
                convolve(images, block[first], stride), f"{first}_norm", block, old, new
            )
            images = activated(images)
        else:
            if "expand" in block:
                images = convolve(images, block["expand"])
                images = activated(normed(images, "expand_norm", block, old, new))
            images = convolve(images, block["depthwise"], stride)
            images = activated(normed(images, "depthwise_norm", block, old, new))
        if "squeeze" in block:
            mean = convolve(images.mean((1, 2), keepdims=True), block["squeeze"])
            images = images * sigmoid(convolve(mean * sigmoid(mean), block["excite"]))
        if block.keys() & {"depthwise", "expand"}:
            images = normed(convolve(images, block["project"]), "project_norm", block, old, new)
        if images.shape == shortcut.shape:
            images = images + shortcut
    images = convolve(images, params["head"])
    features = activated(normed(images, "head_norm", params, stats, after)).mean((1, 2))
    classifier = params["classifier"]
    return features @ classifier["kernel"] + classifier["bias"], after if train else stats


@pytest.mark.parametrize(
    ("name", "train", "conventions", "depthwise"),
    [
        (FIRST, False, UNUSUAL, "shifted"),
        (FIRST, True, UNUSUAL, "xla"),
        (FIRST, True, TENSORFLOW, "shifted"),
        (LITE0, True, UNUSUAL, "shifted"),
        (SECOND, True, TENSORFLOW, "shifted"),
        (SECOND, False, UNUSUAL, "xla"),
    ],
)
def test_a_network_gives_the_numbers_of_numpy(name, train, conventions, depthwise):
    options = {"dropout": 0.0, "stochastic_depth": 0.0, "depthwise": depthwise}
    outputs, after = run(train, KEY, name, name != FIRST, conventions=conventions, **options)
    weights, images = given(name)
    expected, statistics = by_hand(weights, images, train, conventions, name)
    assert outputs.shape == (6, 5)
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(outputs, expected, atol=2e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), after, statistics
    )


def test_groups_of_a_batch_do_not_see_each_other_in_training():
    # Of six images; test_normalisation.py has the numbers.
    two, one = (str(program(norm_groups=groups)[0]) for groups in (2, 1))
    assert len(re.findall(r"f32\[2,3,\d+,\d+,\d+\]", two)) > 10
    assert "f32[2,3," not in one


def test_evaluation_is_the_same_every_time_whatever_training_does_at_random():
    plain, after = run(dropout=0.0, stochastic_depth=0.0)
    outputs, _ = run(key=KEY, dropout=0.9, stochastic_depth=0.9)
    np.testing.assert_array_equal(outputs, plain)
    jax.tree.map(np.testing.assert_array_equal, after, given()[0].batch_stats)


def test_dropout_is_of_the_last_features_at_the_published_rate():
    bias = given()[0].params["classifier"]["bias"]
    outputs, _ = run(True, KEY, dropout=1.0, stochastic_depth=0.0)
    np.testing.assert_array_equal(outputs, np.tile(bias, (6, 1)))
    rates = {rate: run(True, KEY, dropout=rate)[0] for rate in (None, 0.1, 0.5)}
    np.testing.assert_array_equal(rates[None], rates[0.1])  # that of the smallest network
    assert abs(np.asarray(rates[None] - rates[0.5])).max() > 0.01


def test_training_is_as_random_as_it_is_told_to_be():
    default, same, other = (run(True, jax.random.key(seed), dropout=0.0)[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(default, same)
    assert abs(np.asarray(default - other)).max() > 0.01
    depths = {d: run(True, KEY, dropout=0.0, stochastic_depth=d)[0] for d in (0.2, 0.9)}
    np.testing.assert_array_equal(default, depths[0.2])
    assert abs(np.asarray(default - depths[0.9])).max() > 0.01
    features = [run(True, jax.random.key(seed), stochastic_depth=0.0)[0] for seed in (7, 8)]
    assert abs(np.asarray(features[0] - features[1])).max() > 0.01
    with pytest.raises(Exception, match="dropout"):  # flax's, for want of a key
        run(True)


def test_a_skipped_block_gives_its_input_and_a_kept_one_makes_up_for_it():
    block = BlockPlan(3, 1, 3, 1, 6, 8, 8, 2, drop=0.3)
    details = Details(jnp.dtype("float32"), "same", 1e-3, "shifted")
    module = efficientnet.Block(block, False, details)
    images = jax.random.normal(jax.random.key(0), (256, 4, 4, 8))
    never = efficientnet.Block(block._replace(drop=0.0), False, details)

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
    assert 0.2 < skipped.mean() < 0.4
    np.testing.assert_allclose(dropped[~skipped], kept[~skipped] / 0.7, atol=1e-4)


def program(**options):
    """The operations of a training step, as text, and the types of its results."""
    weights, images = given()
    apply = functools.partial(short(**options).apply, train=True, key=KEY)
    return jax.make_jaxpr(apply, return_shape=True)(*weights, images)


def test_the_method_for_depthwise_convolutions_is_the_one_asked_for(monkeypatch):
    grouped = "feature_group_count=48"
    assert grouped in str(program(depthwise="xla")[0])
    assert grouped not in str(program(depthwise="shifted")[0])
    assert grouped not in str(program()[0])  # the tests run on the CPU
    monkeypatch.setattr("gzjax.models.convolution.fastest_method", lambda: "xla")
    assert grouped in str(program()[0])


def test_activations_on_a_cpu_and_batch_norm_have_a_backward_pass_of_their_own():
    on_a_cpu, elsewhere = (str(program(depthwise=how)[0]) for how in ("shifted", "xla"))
    assert "remat" in on_a_cpu
    assert "remat" not in elsewhere
    assert all("name=_normalise" in each for each in (on_a_cpu, elsewhere))


def test_bfloat16_computes_in_it_and_keeps_statistics_and_outputs_float32():
    operations, results = program(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(results)} == {jnp.dtype("float32")}
    # Every convolution and product but that of the classifier.
    products = [line for line in str(operations).splitlines() if "dot_general[" in line]
    assert len(products) > 10
    assert sum(" bf16[" in line or ":bf16[" in line for line in products) == len(products) - 1
    assert "bf16" not in str(program()[0])
    assert "bf16" not in str(program(dtype="float32")[0])
    half = jax.eval_shape(short(dtype="bfloat16").init, KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
    off = abs(np.asarray(run(dtype="bfloat16", compiled=True)[0] - run()[0]))
    assert 0 < off.max() < 0.1
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    features = jax.eval_shape(short(dtype="bfloat16").features, *half, images)
    assert features.dtype == jnp.float32


def test_a_network_takes_images_of_any_size_and_begins_with_its_own():
    weights, _ = given()
    network = short(image_size=40)
    for side in (16, 23, 32):
        images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
        apply = functools.partial(network.apply, train=False)
        assert jax.eval_shape(apply, *weights, images)[0].shape == (2, 5)
    assert "f32[1,40,40,3]" in str(jax.make_jaxpr(network.init)(KEY))
    assert "f32[1,128,128,3]" in str(jax.make_jaxpr(models.build(FIRST, outputs=5).init)(KEY))


@pytest.fixture(scope="module")
def start():
    """Weights as the smallest network draws them, and another bias."""
    network = short(output_bias=3.0, outputs=50)
    # Weights not asked for are not computed.
    third = jax.jit(lambda key: network.init(key).params["classifier"])(KEY)
    return jax.jit(short(outputs=50).init)(KEY), third["bias"]


def test_outputs_begin_near_their_positive_bias(start):
    (params, batch_stats), third = start
    kernel, bias = (np.asarray(params["classifier"][name]) for name in ("kernel", "bias"))
    np.testing.assert_array_equal(bias, np.ones(50))
    np.testing.assert_array_equal(third, np.full(50, 3))
    # Uniform, such that a feature of variance 1 gives one of 1/3.
    edge = len(kernel) ** -0.5
    assert kernel.shape == (448, 50)
    assert 0.99 * edge < abs(kernel).max() <= edge
    assert kernel.std() == pytest.approx(edge / np.sqrt(3), rel=0.02)
    for layer in jax.tree.leaves(batch_stats, is_leaf=lambda node: "mean" in node):
        assert not np.any(layer["mean"])
        assert np.all(layer["var"] == 1)


def test_kernels_begin_with_fan_out_variance_and_the_rest_neutral(start):
    params = start[0].params
    for layer, fan_out in [
        (params["stem"], 9 * 16),
        (params["block_1_0"]["expand"], 48),
        (params["block_1_0"]["depthwise"], 25),
        (params["block_1_0"]["project"], 8),
        (params["head"], 448),
    ]:
        assert np.std(layer["kernel"]) == pytest.approx(np.sqrt(2 / fan_out), rel=0.15)
    assert not np.any(params["block_1_0"]["squeeze"]["bias"])
    assert np.all(params["head_norm"]["scale"] == 1)
    assert not np.any(params["head_norm"]["bias"])
    key = jax.random.key(0)
    pointwise = efficientnet.fan_out_normal(key, (1, 1, 64, 256))
    assert float(pointwise.std()) == pytest.approx(np.sqrt(2 / 256), rel=0.02)
    depthwise = efficientnet.fan_out_normal(key, (5, 5, 1, 512))
    assert float(depthwise.std()) == pytest.approx(np.sqrt(2 / 25), rel=0.03)


def test_depths_run_from_the_stem_to_the_classifier():
    network = models.build("efficientnet-tiny", outputs=5)
    params = jax.eval_shape(network.init, KEY).params
    depths = {layer: network.depth_of(layer) for layer in params}
    assert depths["stem"] == depths["stem_norm"] == 0
    assert depths["block_0_0"] == 1
    assert depths["block_6_0"] == 7
    assert depths["head"] == depths["head_norm"] == 8
    assert depths["classifier"] == 9 == network.depths - 1
    assert set(depths.values()) == set(range(10))
    second = models.build(SECOND, outputs=5)
    assert second.depths == 9
    assert [second.depth_of(layer) for layer in ("block_5_7", "head_norm", "classifier")] == [
        6,
        7,
        8,
    ]
    depths = {second.depth_of(layer) for layer in jax.eval_shape(second.init, KEY).params}
    assert depths == set(range(9))


def test_frozen_depths_get_no_gradient():
    weights, images = given()
    network = short(frozen=2)

    @jax.jit
    @jax.grad
    def gradients(params):
        outputs, _ = network.apply(params, weights.batch_stats, images, train=True, key=KEY)
        return jnp.sum(outputs**2)

    for layer, found in gradients(weights.params).items():
        moved = [bool(np.any(leaf)) for leaf in jax.tree.leaves(found)]
        assert moved == [network.depth_of(layer) >= 2] * len(moved), layer


@pytest.mark.parametrize("frozen", [0, 1, 2, 9])
def test_frozen_depths_keep_their_statistics(frozen):
    _, after = run(True, KEY, frozen=frozen)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), after, given()[0].batch_stats)
    for layer, flags in changed.items():
        flags = jax.tree.leaves(flags)
        assert flags == [short().depth_of(layer) >= frozen] * len(flags), layer


def test_frozen_depths_normalise_as_in_evaluation():
    options = {"dropout": 0.0, "stochastic_depth": 0.0, "frozen": 10}
    outputs, _ = run(True, KEY, **options)
    np.testing.assert_allclose(outputs, run()[0], atol=1e-5)


def test_settings_begin_as_documented():
    expected = NetworkSettings("efficientnet-b0", 128, "float32", 0.2, "", True, "auto", 1)
    assert NetworkSettings() == expected
    assert list(models.NAMES) == [*PUBLISHED_SIZES, "efficientnet-tiny", FIRST]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"name": "efficientnet-lit0"},
            "name: expected one of .*did you mean 'efficientnet-lite0'",
        ),
        ({"image_size": 15}, "image_size: expected a whole number of pixels at least 16, found 15"),
        ({"image_size": 64.0}, "image_size: expected a whole number"),
        ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16, found 'float16'"),
        ({"stochastic_depth": 0.91}, "stochastic_depth: expected .*from 0 to 0.9, found 0.91"),
        ({"stochastic_depth": -0.1}, "stochastic_depth: expected .*from 0 to 0.9, found -0.1"),
        ({"weights": 5}, "weights: expected text, found 5"),
        ({"conventions": "jax"}, "conventions: expected one of auto, tensorflow, pytorch"),
    ],
)
def test_settings_that_are_not_allowed_are_named(options, expected):
    with pytest.raises(UserError, match=expected):
        NetworkSettings(**options)
    if not options.keys() & {"weights", "conventions"}:
        with pytest.raises(UserError, match=expected):
            models.build(**{"name": FIRST, "outputs": 5} | options)


def test_settings_at_the_edges_are_allowed():
    for options in ({"image_size": 16}, {"stochastic_depth": 0}, {"stochastic_depth": 0.9}):
        NetworkSettings(**options)
    NetworkSettings(dtype="bfloat16", weights="imagenet", conventions="pytorch")


def test_the_number_of_outputs_has_no_default():
    with pytest.raises(TypeError, match="outputs"):
        models.build(FIRST)


@pytest.mark.parametrize(
    ("name", "conventions", "depthwise"),
    [
        (FIRST, UNUSUAL, "shifted"),
        (FIRST, TENSORFLOW, "xla"),
        (LITE0, UNUSUAL, "shifted"),
        (SECOND, TENSORFLOW, "xla"),
    ],
)
def test_a_network_whose_batch_norm_is_folded_gives_the_same_outputs(name, conventions, depthwise):
    weights, images = given(name)
    folded = models.fold(weights, conventions)
    names = [path[-2].key for path, _ in jax.tree.leaves_with_path(folded)]
    assert not folded.batch_stats
    assert not [each for each in names if each.endswith("norm")]
    # Sides that strides do not divide are padded unevenly.
    for side in (24, 23):
        seen = images[:2, :side, :side]
        plain, without = (
            short(name, conventions=conventions, depthwise=depthwise, folded=each)
            for each in (False, True)
        )
        expected, _ = plain.apply(*weights, seen, train=False)
        found, statistics = without.apply(*folded, seen, train=False)
        assert not statistics
        assert np.ptp(expected) > 0.5
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_weights_without_batch_norm_stay_as_they_are_when_folded():
    weights = Weights({"stem": {"kernel": np.ones(3)}}, {"other": {"mean": np.ones(2)}})
    jax.tree.map(np.testing.assert_array_equal, models.fold(weights, TENSORFLOW), weights)
