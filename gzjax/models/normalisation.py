"""Batch normalisation with a backward pass of its own.

The network waits for memory, most of all on CPUs. Autodiff keeps, beside the images, the centred
images, written once and read again several times; this keeps the images only and computes the rest
anew. Numbers, parameters and statistics are those of flax (Ioffe & Szegedy 2015,
arXiv:1502.03167).

Over many devices, the statistics of the whole batch are two sums over all devices for each layer,
each way. In groups of images they need none: ghost batch norm (Hoffer et al. 2017,
arXiv:1705.08741).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

PIXELS = (0, 1, 2)

Images = Float[Array, "batch height width channels"]
Channels = Float32[Array, " channels"]


class BatchNorm(nn.Module):
    """As flax's BatchNorm over all but the last axis, with the same parameters and statistics.

    In training, each of `groups` equal parts of a batch has the mean and variance of its own; the
    running ones follow the averages of all.
    """

    use_running_average: bool
    momentum: float
    epsilon: float
    dtype: Any
    groups: int = 1

    @nn.compact
    def __call__(self, images: Images) -> Images:
        shape = images.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_variance = self.variable("batch_stats", "var", jnp.ones, shape)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average:
            mean, variance = running_mean.value, running_variance.value
            factor = lax.rsqrt(variance + self.epsilon) * scale
            return ((images - mean) * factor + bias).astype(self.dtype)
        normalised, mean, variance = normalise(images, scale, bias, self.epsilon, self.groups)
        if not self.is_initializing():
            keeps = self.momentum
            running_mean.value = keeps * running_mean.value + (1 - keeps) * mean
            running_variance.value = keeps * running_variance.value + (1 - keeps) * variance
        return normalised.astype(self.dtype)


def normalise(
    images: Images, scale: Channels, bias: Channels, epsilon: float, groups: int = 1
) -> tuple[Images, Channels, Channels]:
    """Images of mean `bias` and standard deviation `scale` in each channel, over a group.

    Groups are as many consecutive images each. Beside them, the mean and the variance that they
    had, to which epsilon is added, on average over the groups.
    """
    if groups == 1:  # an axis more, even of length 1, and a CPU's step takes a third longer
        return _normalise(images, scale, bias, epsilon)
    parts = images.reshape(groups, -1, *images.shape[1:])
    over_groups = jax.vmap(_normalise, in_axes=(0, None, None, None))
    normalised, mean, variance = over_groups(parts, scale, bias, epsilon)
    return normalised.reshape(images.shape), mean.mean(0), variance.mean(0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(images, scale, bias, epsilon):
    return _normalise_forward(images, scale, bias, epsilon)[0]


def _normalise_forward(images, scale, bias, epsilon):
    values = images.astype(jnp.float32)
    mean = values.mean(PIXELS)
    variance = jnp.maximum(0, (values * values).mean(PIXELS) - mean * mean)
    deviation = lax.rsqrt(variance + epsilon)
    normalised = (values - mean) * (deviation * scale) + bias
    return (normalised, mean, variance), (images, scale, mean, deviation)


def _normalise_backward(epsilon, residuals, gradients):
    images, scale, mean, deviation = residuals
    gradient, to_mean, to_variance = gradients
    values = images.astype(jnp.float32)
    pixels = images.size // images.shape[-1]
    to_bias = gradient.sum(PIXELS)
    # Of the images as they are: centred ones would have to be written first.
    to_scale = ((gradient * values).sum(PIXELS) - mean * to_bias) * deviation
    # gradient * factor + values * slope + offset, with all that a pixel does by way of the mean
    # and the variance in the last two.
    factor = deviation * scale
    slope = (2 * to_variance - factor * deviation * to_scale) / pixels
    offset = (to_mean - factor * to_bias) / pixels - slope * mean
    to_images = gradient * factor + values * slope + offset
    return to_images.astype(images.dtype), to_scale, to_bias


_normalise.defvjp(_normalise_forward, _normalise_backward)
