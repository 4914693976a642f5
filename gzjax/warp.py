"""Images through affine maps, in the form that each platform runs fastest.

CPUs and GPUs pick pixels from anywhere in an image as fast as they read it. A TPU does not: there
a gather of a million pixels takes longer than the network. It has matrix units instead, and moves
whole rows, so a view is made of two products with matrices of interpolation weights, which scale
and shift, and of three shears, which rotate (Paeth 1986, Graphics Interface 86, 77).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Num

# The fastest on each platform, or gathers on all of them.
METHODS = ("fastest", "gathers")

Canvases = Num[Array, "batch canvas canvas channels"]
Maps = Float[Array, "batch 2 3"]


def resample(
    images: Canvases, maps: Maps, size: int, oversample: int = 1, method: str = "fastest"
) -> Float32[Array, "batch {size} {size} channels"]:
    """Each image through its map; outside, its edge is repeated.

    From values in [0, 255] to values in [0, 1], and from the canvas's pixels to `size` a side.
    `oversample` points are averaged each way within a pixel of the result: where it has fewer
    pixels than the part of the canvas that it shows, this keeps fine structure from aliasing.

    Args:
      images: to look at.
      maps: from a view to its canvas: rotation, magnification, shift and mirror; coordinates are
        those of `augment.sample_maps`.
      size: pixels a side of the views.
      oversample: see above.
      method: one of `METHODS`, which says what platforms a program is for.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "gathers":
        return by_gathers(images, maps, size, oversample)
    return lax.platform_dependent(
        images,
        maps,
        tpu=functools.partial(by_shears, size=size, oversample=oversample),
        default=functools.partial(by_gathers, size=size, oversample=oversample),
    )


def by_gathers(
    images: Canvases, maps: Maps, size: int, oversample: int = 1
) -> Float32[Array, "batch {size} {size} channels"]:
    """`resample` for any affine maps, bilinearly: four pixels are picked for each point."""
    batch, canvas, _, channels = images.shape  # of a program that is exported, symbolic
    pixels = images.reshape(batch, canvas * canvas, channels)

    def pick(row: jax.Array, column: jax.Array) -> jax.Array:
        flat = (row * canvas + column).reshape(batch, size * size, 1)
        picked = jnp.take_along_axis(pixels, flat, axis=1, mode="promise_in_bounds")
        return picked.reshape(batch, size, size, channels).astype(jnp.float32)

    def sample(below: float, right: float) -> jax.Array:
        """The image at one point of every pixel: its centre, moved by parts of a pixel."""
        steps = 2 * jnp.arange(size, dtype=jnp.float32) + 1
        x, y = (steps + 2 * right) / size - 1, (steps + 2 * below) / size - 1
        # Term by term, in full float32: a product of matrices would be written to memory, and its
        # coordinates rounded to bfloat16 would be off by a pixel.
        terms = maps[:, :, :, None, None]
        place = terms[:, :, 0] * x + terms[:, :, 1] * y[:, None] + terms[:, :, 2]
        column = jnp.clip((place[:, 0] + 1) * (canvas / 2) - 0.5, 0, canvas - 1)
        row = jnp.clip((place[:, 1] + 1) * (canvas / 2) - 0.5, 0, canvas - 1)
        first, top = jnp.floor(column), jnp.floor(row)
        right_part, lower_part = (column - first)[..., None], (row - top)[..., None]
        first, top = first.astype(jnp.int32), top.astype(jnp.int32)
        last, bottom = jnp.minimum(first + 1, canvas - 1), jnp.minimum(top + 1, canvas - 1)
        upper = pick(top, first) * (1 - right_part) + pick(top, last) * right_part
        lower = pick(bottom, first) * (1 - right_part) + pick(bottom, last) * right_part
        return upper * (1 - lower_part) + lower * lower_part

    # One image of the final size after another, rather than one large one: what is added up stays
    # small enough for a processor's cache.
    places = [(2 * place + 1) / (2 * oversample) - 0.5 for place in range(oversample)]
    total = sum(sample(below, right) for below in places for right in places)
    return jnp.asarray(total) / (255 * oversample**2)


def by_shears(
    images: Canvases, maps: Maps, size: int, oversample: int = 1
) -> Float32[Array, "batch {size} {size} channels"]:
    """`resample` without a gather: products with matrices, and rows shifted as a whole.

    Smooth images come out as by `by_gathers` to less than a grey level of 255 (rms). The edge that
    is repeated is that of the rotated image.
    """
    pixels = images.shape[1]
    # A map is shift + scale * quarter turns * mirror * rotation by at most 45 degrees.
    angle = jnp.arctan2(-maps[:, 0, 1], maps[:, 1, 1])
    scale = jnp.hypot(maps[:, 0, 1], maps[:, 1, 1])
    mirror = jnp.sign(maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0])
    quarters = jnp.round(angle / (math.pi / 2))
    rotation = mirror * (angle - quarters * (math.pi / 2))
    quarters = quarters.astype(jnp.int32) % 4

    # Channels first, since a TPU's registers lie along the last axis. An odd number of quarter
    # turns is a transposition, and the directions of the axes do the rest.
    odd = quarters % 2 == 1
    planes = jnp.moveaxis(images, 3, 1).astype(jnp.float32)
    planes = jnp.where(odd[:, None, None, None], planes.swapaxes(2, 3), planes)
    towards_x = mirror * jnp.where(quarters < 2, 1.0, -1.0)
    towards_y = jnp.where(odd ^ (quarters < 2), 1.0, -1.0)
    shift_x = jnp.where(odd, maps[:, 1, 2], maps[:, 0, 2])
    shift_y = jnp.where(odd, maps[:, 0, 2], maps[:, 1, 2])

    # The pixels of the view already, and as many of them as a rotation turns into the view.
    wide = size + 2 * math.ceil((math.sqrt(2) - 1) * size / 2 + 1)
    columns = _interpolation(pixels, wide, shift_x, scale * towards_x / size, oversample)
    rows = _interpolation(pixels, wide, shift_y, scale * towards_y / size, oversample)
    planes = jnp.einsum(
        "byi,bcij,bxj->bcyx", rows, planes, columns, precision=lax.Precision.HIGHEST
    )

    cut, along_x = (wide - size) // 2, -jnp.tan(rotation / 2)
    planes = _shear(planes, along_x, 3, math.tan(math.pi / 8))
    planes = _shear(planes, jnp.sin(rotation), 2, math.sin(math.pi / 4))
    planes = _shear(planes[:, :, cut : cut + size], along_x, 3, math.tan(math.pi / 8))
    return jnp.moveaxis(planes[..., cut : cut + size], 1, 3) / 255


def _interpolation(
    pixels: int, points: int, shift: jax.Array, step: jax.Array, oversample: int
) -> Float32[Array, "batch {points} {pixels}"]:
    """The weights of an axis's pixels at each of some points, evenly spaced around its centre.

    `shift` of the points' centre and `step` from point to point are in sides of the axis, the
    former in half ones.
    """
    places = jnp.arange(points) - (points - 1) / 2
    centre = (shift[:, None] + 1) * (pixels / 2) - 0.5
    weights = jnp.zeros((shift.shape[0], points, pixels))
    for within in (2 * np.arange(oversample) + 1) / (2 * oversample) - 0.5:
        at = jnp.clip(centre + step[:, None] * pixels * (places + within), 0, pixels - 1)
        weights += jnp.maximum(0, 1 - jnp.abs(at[:, :, None] - jnp.arange(pixels)))
    return weights / oversample


def _shear(
    planes: Float32[Array, "batch channels rows columns"], slope: jax.Array, axis: int, most: float
) -> Float32[Array, "batch channels rows columns"]:
    """Rows (axis 3) or columns (axis 2) shifted by `slope` times their distance from the centre.

    The whole pixels of a shift are a sum of powers of two: for each, either all of a row moves or
    none. The rest is by cubic convolution (Keys 1981), as three linear interpolations one after
    the other would blur. `slope` is within +- `most`.
    """
    number, length = planes.shape[5 - axis], planes.shape[axis]
    reach = math.ceil(most * number / 2) + 1
    powers = [2**bit for bit in reversed(range((2 * reach).bit_length()))]
    shape = [-1, 1, 1, 1]
    shape[5 - axis] = number
    shift = (slope[:, None] * (jnp.arange(number) - (number - 1) / 2)).reshape(shape)
    whole = jnp.floor(shift)
    steps, part = (whole + reach).astype(jnp.int32), shift - whole

    # One pixel before and two behind are what the interpolation needs beside.
    around = [(0, 0)] * 4
    around[axis] = (reach + 1, sum(powers) - reach + 2)
    planes = jnp.pad(planes, around, mode="edge")
    for power in powers:
        left = planes.shape[axis] - power
        moved = lax.slice_in_dim(planes, power, power + left, axis=axis)
        planes = jnp.where(steps & power, moved, lax.slice_in_dim(planes, 0, left, axis=axis))
    weights = (
        ((1 - part / 2) * part - 0.5) * part,
        (1.5 * part - 2.5) * part**2 + 1,
        ((2 - 1.5 * part) * part + 0.5) * part,
        (part - 1) * part**2 / 2,
    )
    taps = [lax.slice_in_dim(planes, tap, tap + length, axis=axis) for tap in range(4)]
    return sum((weight * tap for weight, tap in zip(weights, taps, strict=True)), jnp.zeros(()))
