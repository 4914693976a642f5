"""The layers of EfficientNets (Tan & Le 2019, 2021; see `variants`), in Flax Linen."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from gzjax.models import convolution, normalisation
from gzjax.models.variants import BlockPlan, Variant, plan

NORM_MOMENTUM = 0.9  # of batch norm's running mean and variance

# Batch, height, width and channels, of which the last three change on the way.
Images = Float[Array, "batch _ _ _"]


class Details(NamedTuple):
    """What the same network does differently under other weights or on other machines."""

    dtype: Any
    padding: str
    norm_epsilon: float
    depthwise: str
    norm_groups: int = 1
    folded: bool = False  # without batch norm, which convolutions with a bias do; see `fold`


def fan_out_normal(
    key: PRNGKeyArray, shape: tuple[int, ...]
) -> Float[Array, "height width inputs outputs"]:
    """Normal with variance 2 / (kernel pixels x outputs per group), for kernels HWIO.

    As the authors' code: for a depthwise kernel, each group has one output.
    """
    outputs = 1 if shape[2] == 1 else shape[3]
    scale = math.sqrt(2 / (shape[0] * shape[1] * outputs))
    return scale * jax.random.normal(key, shape, jnp.float32)


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
        method = self.details.depthwise
        if self.depthwise:
            images = convolution.depthwise(images, kernel, self.stride, padding, method)
        else:
            images = convolution.dense(images, kernel, self.stride, padding, method)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.outputs,))
            images = images + bias.astype(self.details.dtype)
        return images


class Block(nn.Module):
    """Inverted bottleneck: expand, convolve each channel, squeeze and excite, project.

    Fused, the first two are one convolution; and if there is nothing to expand, all are.
    """

    plan: BlockPlan
    lite: bool
    details: Details

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Images:
        block, details, folded = self.plan, self.details, self.details.folded
        activation = nn.relu6 if self.lite else silu(details)

        def convolve(name: str, images: Images, kernel: int, outputs: int, stride: int) -> Images:
            layer = Convolution(
                kernel, outputs, details, stride, name == "depthwise", folded, name=name
            )
            return norm(f"{name}_norm", details, train)(layer(images))

        wide = block.inputs * block.expansion
        shortcut = images
        if block.fused and block.expansion == 1:
            images = convolve("project", images, block.kernel, block.outputs, block.stride)
            images = activation(images)
        elif block.fused:
            images = activation(convolve("expand", images, block.kernel, wide, block.stride))
            images = convolve("project", images, 1, block.outputs, 1)
        else:
            if block.expansion != 1:
                images = activation(convolve("expand", images, 1, wide, 1))
            images = activation(convolve("depthwise", images, block.kernel, wide, block.stride))
            if block.squeezed:
                mean = images.mean(axis=(1, 2), keepdims=True, dtype=jnp.float32)
                mean = Convolution(1, block.squeezed, details, bias=True, name="squeeze")(mean)
                gates = Convolution(1, wide, details, bias=True, name="excite")(nn.silu(mean))
                images = images * nn.sigmoid(gates)
            images = convolve("project", images, 1, block.outputs, 1)
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
    frozen: int  # this many depths, from the images on, do not learn
    details: Details

    @nn.compact
    def __call__(
        self, images: Images, train: bool, features_alone: bool = False
    ) -> Float32[Array, "batch _"]:
        variant, details = self.variant, self.details
        activation = nn.relu6 if variant.lite else silu(details)

        def learns(name: str) -> bool:
            return train and variant.depth_of(name) >= self.frozen

        def settled(name: str, images: jax.Array) -> jax.Array:
            # No gradient is computed for what will not change.
            return (
                images if variant.depth_of(name) >= self.frozen else jax.lax.stop_gradient(images)
            )

        stem, head = variant.ends
        images = Convolution(3, stem, details, 2, bias=details.folded, name="stem")(images)
        images = settled("stem", activation(norm("stem_norm", details, learns("stem"))(images)))
        for block in plan(variant, self.stochastic_depth):
            layer = Block(block, variant.lite, details, name=block.name)
            images = settled(block.name, layer(images, learns(block.name)))
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
    return normalisation.BatchNorm(
        use_running_average=not train,
        momentum=NORM_MOMENTUM,
        epsilon=details.norm_epsilon,
        dtype=details.dtype,
        groups=details.norm_groups,
        name=name,
    )


def silu(details: Details) -> Callable[[Array], Array]:
    """SiLU; where memory is slow, only what it is of is kept for the backward pass."""
    return jax.checkpoint(nn.silu) if details.depthwise == "shifted" else nn.silu
