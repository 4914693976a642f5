"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) and EfficientNet-Lite, in Flax Linen.

A network is the base network of seven stages, its channels scaled by a width and its blocks
repeated by a depth factor. Lite, made for phones, has no squeeze-and-excitation, ReLU6 in place of
SiLU, and neither stem nor head nor the first and last stage's depth scaled.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from gzjax.models import convolution, normalisation


class Variant(NamedTuple):
    """Compound scaling factors, and the dropout rate that the authors trained with."""

    width: float
    depth: float
    dropout: float
    lite: bool = False


VARIANTS = {
    "efficientnet-b0": Variant(1.0, 1.0, 0.2),
    "efficientnet-b1": Variant(1.0, 1.1, 0.2),
    "efficientnet-b2": Variant(1.1, 1.2, 0.3),
    "efficientnet-b3": Variant(1.2, 1.4, 0.3),
    "efficientnet-b4": Variant(1.4, 1.8, 0.4),
    "efficientnet-b5": Variant(1.6, 2.2, 0.4),
    "efficientnet-b6": Variant(1.8, 2.6, 0.5),
    "efficientnet-b7": Variant(2.0, 3.1, 0.5),
    "efficientnet-lite0": Variant(1.0, 1.0, 0.2, lite=True),
    "efficientnet-lite1": Variant(1.0, 1.1, 0.2, lite=True),
    "efficientnet-lite2": Variant(1.1, 1.2, 0.3, lite=True),
    "efficientnet-lite3": Variant(1.2, 1.4, 0.3, lite=True),
    "efficientnet-lite4": Variant(1.4, 1.8, 0.3, lite=True),
    # Ours, by the same rule: for tests, and for a first look on a laptop.
    "efficientnet-tiny": Variant(0.35, 0.35, 0.1),
}


class Stage(NamedTuple):
    """A row of the paper's table 1."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
SQUEEZE = 0.25
NORM_MOMENTUM = 0.9  # of batch norm's running mean and variance

# From the images to the outputs: the stem, the stages, the head, the classifier.
DEPTHS = len(STAGES) + 3


def depth_of(layer: str) -> int:
    """How far from the images a layer lies, by its name in the parameters: 0 to DEPTHS - 1."""
    first, *rest = layer.split("_")
    if first == "block":
        return 1 + int(rest[0])
    return {"stem": 0, "head": DEPTHS - 2, "classifier": DEPTHS - 1}[first]


def scaled_channels(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8, never down by more than a tenth."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class BlockPlan(NamedTuple):
    """One block of a network, with everything about it decided."""

    stage: int
    repeat: int
    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int
    squeezed: int  # channels of the squeeze; 0: none
    drop: float  # probability to be skipped in training


def plan(variant: Variant, stochastic_depth: float = 0.0) -> tuple[BlockPlan, ...]:
    """The blocks of a network, in order.

    The squeeze is a quarter of the block's input channels, before expansion. The probability of
    skipping a block rises linearly with its index (Huang et al. 2016, arXiv:1603.09382).
    """
    rows = []
    inputs = STEM_CHANNELS if variant.lite else scaled_channels(STEM_CHANNELS, variant.width)
    for number, stage in enumerate(STAGES):
        outputs = scaled_channels(stage.channels, variant.width)
        fixed = variant.lite and number in (0, len(STAGES) - 1)
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)):
            squeezed = 0 if variant.lite else max(1, int(inputs * SQUEEZE))
            stride = stage.stride if repeat == 0 else 1
            rows.append(
                (number, repeat, stage.kernel, stride, stage.expansion, inputs, outputs, squeezed)
            )
            inputs = outputs
    return tuple(
        BlockPlan(*row, drop=stochastic_depth * position / len(rows))
        for position, row in enumerate(rows)
    )


# Batch, height, width and channels, of which the last three change on the way.
Images = Float[Array, "batch _ _ _"]


class Details(NamedTuple):
    """What the same network does differently under other weights or on other machines."""

    dtype: Any
    padding: str
    norm_epsilon: float
    depthwise: str
    folded: bool = False  # without batch norm, which convolutions with a bias do; see `fold`


def fan_out_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, "height width inputs outputs"]:
    """Normal with variance 2 / (kernel pixels x outputs per group), for kernels HWIO.

    As the authors' code: for a depthwise kernel, each group has one output.
    """
    outputs = 1 if shape[2] == 1 else shape[3]
    return jax.random.normal(key, shape, dtype) * math.sqrt(2 / (shape[0] * shape[1] * outputs))


class Convolution(nn.Module):
    """A convolution with kernel HWIO; depthwise ones keep the channels."""

    kernel: int
    outputs: int
    details: Details
    stride: int = 1
    depthwise: bool = False
    bias: bool = False

    @nn.compact
    def __call__(self, images: Images) -> Images:
        inputs = 1 if self.depthwise else images.shape[-1]
        shape = (self.kernel, self.kernel, inputs, self.outputs)
        kernel = self.param("kernel", fan_out_normal, shape).astype(self.details.dtype)
        images = images.astype(self.details.dtype)
        padding = convolution.padding_of(
            images.shape[1:3], self.kernel, self.stride, self.details.padding
        )
        if self.depthwise:
            method = self.details.depthwise
            images = convolution.depthwise(images, kernel, self.stride, padding, method)
        else:
            method = self.details.depthwise
            images = convolution.dense(images, kernel, self.stride, padding, method)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
            images = images + bias.astype(self.details.dtype)
        return images


class Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel, squeeze and excite, project."""

    plan: BlockPlan
    lite: bool
    details: Details

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Images:
        block, details, folded = self.plan, self.details, self.details.folded
        wide = block.inputs * block.expansion
        activation = nn.relu6 if self.lite else silu(details)
        shortcut = images
        if block.expansion != 1:
            images = Convolution(1, wide, details, bias=folded, name="expand")(images)
            images = activation(norm("expand_norm", details, train)(images))
        images = Convolution(
            block.kernel, wide, details, block.stride, True, folded, name="depthwise"
        )(images)
        images = activation(norm("depthwise_norm", details, train)(images))
        if block.squeezed:
            mean = images.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
            mean = Convolution(1, block.squeezed, details, bias=True, name="squeeze")(mean)
            gates = Convolution(1, wide, details, bias=True, name="excite")(nn.silu(mean))
            images = images * nn.sigmoid(gates)
        images = Convolution(1, block.outputs, details, bias=folded, name="project")(images)
        images = norm("project_norm", details, train)(images)
        if block.stride != 1 or block.inputs != block.outputs:
            return images
        if train and block.drop > 0:
            keep, key = 1 - block.drop, self.make_rng("dropout")
            kept = jax.random.bernoulli(key, keep, (len(images), 1, 1, 1))
            images = jnp.where(kept, images / keep, 0)
        return shortcut + images


class EfficientNet(nn.Module):
    """From normalised images to outputs, or to the features that outputs are linear in."""

    variant: Variant
    outputs: int
    dropout: float
    stochastic_depth: float
    output_bias: float
    frozen: int  # so many depths, from the images on, do not learn
    details: Details

    @nn.compact
    def __call__(
        self, images: Images, train: bool, features_alone: bool = False
    ) -> Float32[Array, "batch _"]:
        variant, details = self.variant, self.details
        activation = nn.relu6 if variant.lite else silu(details)

        def learns(name: str) -> bool:
            return train and depth_of(name) >= self.frozen

        def settled(name: str, images: jax.Array) -> jax.Array:
            # No gradient is computed for what will not change.
            return images if depth_of(name) >= self.frozen else jax.lax.stop_gradient(images)

        scale = 1.0 if variant.lite else variant.width
        stem, head = (scaled_channels(n, scale) for n in (STEM_CHANNELS, HEAD_CHANNELS))
        images = Convolution(3, stem, details, 2, bias=details.folded, name="stem")(images)
        images = settled("stem", activation(norm("stem_norm", details, learns("stem"))(images)))
        for block in plan(variant, self.stochastic_depth):
            name = f"block_{block.stage}_{block.repeat}"
            layer = Block(block, variant.lite, details, name=name)
            images = settled(name, layer(images, learns(name)))
        images = Convolution(1, head, details, bias=details.folded, name="head")(images)
        images = settled("head", activation(norm("head_norm", details, learns("head"))(images)))
        features = images.mean(axis=(1, 2), dtype=jnp.float32)
        if features_alone:
            return features
        if train:
            features = nn.Dropout(self.dropout, deterministic=False)(features)
        return nn.Dense(
            self.outputs,
            # Not more than a feature's share: a few outputs must not start out far from the bias.
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            bias_init=nn.initializers.constant(self.output_bias),
            name="classifier",
        )(features)


def norm(name: str, details: Details, train: bool) -> Callable[[Array], Array]:
    """Batch norm, unless it is folded; its statistics are float32 whatever the images are."""
    if details.folded:
        return lambda images: images
    layer = nn.BatchNorm if details.depthwise == "xla" else normalisation.BatchNorm
    return layer(
        use_running_average=not train,
        momentum=NORM_MOMENTUM,
        epsilon=details.norm_epsilon,
        dtype=details.dtype,
        name=name,
    )


def silu(details: Details) -> Callable[[Array], Array]:
    """SiLU; where memory is slow, only what it is of is kept for the backward pass."""
    return jax.checkpoint(nn.silu) if details.depthwise == "shifted" else nn.silu
