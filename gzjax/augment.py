"""Views of galaxies, on the device, inside the jitted step.

Training sees a random view of each galaxy; prediction averages over its test-time views. The sky
has no up and no mirror, so a galaxy rotated, flipped or slightly nearer is as good a galaxy.
Rotation, zoom, shift and flip are one affine map, so the stored canvas is resampled once, straight
to the size that the network sees. Everything is a pure function of (key, images).
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, PRNGKeyArray, UInt8

from gzjax.settings import Settings, number, switch

# Principal components of the colours of real galaxies' images, in [0, 1], each times its standard
# deviation: mostly brighter or fainter, a little redder or bluer. Measured on 400 of the
# challenge's images, their central 70 %.
COLOUR_COMPONENTS = (
    (0.1115, 0.0933, 0.0784),
    (-0.0152, 0.0013, 0.0202),
    (0.0054, -0.0104, 0.0047),
)

# Of an erased rectangle: its part of the view's area, and how much longer one side is at most.
ERASED_AREA = (0.02, 0.15)
ERASED_ASPECT = 3.0


@dataclasses.dataclass(frozen=True)
class Augmentation(Settings):
    """How random views are drawn; the defaults leave every galaxy as it is.

    field: side of the view as a fraction of the canvas's side.
    rotate: rotation by an angle uniform within +- this many degrees; 180 is any angle.
    zoom: magnification by a factor log-uniform within [1 / zoom, zoom].
    shift: shift by a distance uniform within +- this fraction of the view's side, each way.
    flip: mirror half of the galaxies, at random.
    colour: standard deviation of `shift_colours`, 0.1 in Krizhevsky et al. 2012; 0: none.
    erase: probability of `erase_rectangles`.
    """

    field: float = number(1.0, above=0, most=1)
    rotate: float = number(0.0, least=0, most=180, unit="degrees")
    zoom: float = number(1.0, least=1)
    shift: float = number(0.0, least=0, most=0.5)
    flip: bool = switch(False)
    colour: float = number(0.0, least=0)
    erase: float = number(0.0, least=0, most=1)


class TestViews(NamedTuple):
    """How test-time views are made; see `grid_maps`.

    field: side of the view as a fraction of the canvas's side.
    zoom: random views were magnified by up to this factor in training.
    at_once: views of each galaxy computed at the same time; more need more memory.
    """

    field: float = 1.0
    zoom: float = 1.0
    at_once: int = 1


def sample_maps(
    key: PRNGKeyArray, batch: int, augmentation: Augmentation
) -> Float[Array, "{batch} 2 3"]:
    """Random affine maps from a view to the canvas.

    Coordinates are in units of half a side, (x, y) from the centre, so that a map does not depend
    on the pixels of either side: (-1, -1) is the upper left corner.

    Args:
      key: PRNG key.
      batch: number of maps.
      augmentation: how they are drawn.

    Returns:
      float32: the linear part and, in the last column, the shift.
    """
    angle_key, zoom_key, shift_key, flip_key = jax.random.split(key, 4)
    angle = jnp.deg2rad(
        jax.random.uniform(
            angle_key, (batch,), minval=-augmentation.rotate, maxval=augmentation.rotate
        )
    )
    log_zoom = math.log(augmentation.zoom)
    scale = augmentation.field * jnp.exp(
        jax.random.uniform(zoom_key, (batch,), minval=-log_zoom, maxval=log_zoom)
    )
    # A side is 2 units long, and the shift is a fraction of the view's side.
    reach = 2 * augmentation.shift * augmentation.field
    shift = jax.random.uniform(shift_key, (batch, 2), minval=-reach, maxval=reach)
    mirror = jnp.where(
        jax.random.bernoulli(flip_key, 0.5 if augmentation.flip else 0.0, (batch,)), -1.0, 1.0
    )
    cosine, sine = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    return jnp.stack(
        [
            jnp.stack([mirror * cosine, -sine, shift[:, 0]], axis=-1),
            jnp.stack([mirror * sine, cosine, shift[:, 1]], axis=-1),
        ],
        axis=-2,
    )


def upright_maps(batch: int, field: float = 1.0) -> Float32[Array, "{batch} 2 3"]:
    """The maps that show the central `field` of the canvas as it is."""
    return jnp.broadcast_to(
        jnp.asarray([[field, 0.0, 0.0], [0.0, field, 0.0]], jnp.float32), (batch, 2, 3)
    )


def grid_maps(
    count: int, field: float = 1.0, zoom: float = 1.0
) -> Float32[np.ndarray, "{count} 2 3"]:
    """Affine maps of `count` different test-time views of one galaxy, to be averaged over.

    If the count is even, half are mirrored. If it is a multiple of 6, at least 24, and there is a
    zoom, a third each is smaller, unchanged, and larger. The rest are rotations, evenly spaced: 60
    views are ten rotations, three sizes and both mirrors, as in Dieleman et al. 2015
    (arXiv:1503.07077). The first is the upright view.

    Args:
      count: how many.
      field: see `TestViews`.
      zoom: see `TestViews`; half of it, in the logarithm, is used here.

    Returns:
      See `sample_maps`.
    """
    mirrors = (1.0, -1.0) if count % 2 == 0 else (1.0,)
    sizes = zoom > 1 and count >= 24 and count % 6 == 0
    scales = (1.0, zoom**-0.5, zoom**0.5) if sizes else (1.0,)
    rotations = count // (len(mirrors) * len(scales))
    maps = []
    for rotation, scale, mirror in itertools.product(range(rotations), scales, mirrors):
        angle = 2 * math.pi * rotation / rotations
        cosine, sine = field * scale * math.cos(angle), field * scale * math.sin(angle)
        maps.append([[mirror * cosine, -sine, 0.0], [mirror * sine, cosine, 0.0]])
    return np.asarray(maps, np.float32)


def warp(
    images: Num[Array, "batch height width channels"],
    maps: Float[Array, "batch 2 3"],
    size: int,
    oversample: int = 1,
) -> Float32[Array, "batch {size} {size} channels"]:
    """Resamples each image through its affine map, bilinearly; outside, its edge is repeated.

    Args:
      images: uint8, or float in [0, 255].
      maps: from the view to the canvas; see `sample_maps`.
      size: side of the result in pixels.
      oversample: points averaged each way within a pixel of the result. Where the view has fewer
        pixels than the part of the canvas that it shows, this keeps fine structure from aliasing.

    Returns:
      Values in [0, 1].
    """
    height, width, channels = images.shape[1:]
    pixels = images.reshape(len(images), height * width, channels)

    def pick(row: jax.Array, column: jax.Array) -> jax.Array:
        flat = (row * width + column).reshape(len(images), size * size, 1)
        picked = jnp.take_along_axis(pixels, flat, axis=1, mode="promise_in_bounds")
        return picked.reshape(len(images), size, size, channels).astype(jnp.float32)

    def sample(below: float, right: float) -> jax.Array:
        """The image at one point of every pixel: its centre, moved by parts of a pixel."""
        steps = 2 * jnp.arange(size, dtype=jnp.float32) + 1
        x, y = (steps + 2 * right) / size - 1, (steps + 2 * below) / size - 1
        ones = jnp.ones((size, size), jnp.float32)
        grid = jnp.stack([ones * x[None, :], ones * y[:, None], ones], axis=-1)
        # Full float32: a coordinate rounded to bfloat16 would be off by a pixel.
        canvas = jnp.einsum("bij,yxj->ibyx", maps, grid, precision=jax.lax.Precision.HIGHEST)
        column = jnp.clip((canvas[0] + 1) * (width / 2) - 0.5, 0, width - 1)
        row = jnp.clip((canvas[1] + 1) * (height / 2) - 0.5, 0, height - 1)
        first, top = jnp.floor(column), jnp.floor(row)
        right_part, lower_part = (column - first)[..., None], (row - top)[..., None]
        first, top = first.astype(jnp.int32), top.astype(jnp.int32)
        last, bottom = jnp.minimum(first + 1, width - 1), jnp.minimum(top + 1, height - 1)
        upper = pick(top, first) * (1 - right_part) + pick(top, last) * right_part
        lower = pick(bottom, first) * (1 - right_part) + pick(bottom, last) * right_part
        return upper * (1 - lower_part) + lower * lower_part

    # One image of the final size after another, rather than one large one: what is added up stays
    # small enough for a processor's cache.
    places = [(2 * place + 1) / (2 * oversample) - 0.5 for place in range(oversample)]
    total = sum(sample(below, right) for below in places for right in places)
    return jnp.asarray(total) / (255 * oversample**2)


def shift_colours(
    key: PRNGKeyArray, images: Float[Array, "batch height width 3"], deviation: float
) -> Float[Array, "batch height width 3"]:
    """Shifts all pixels of an image alike, along the principal components of galaxies' colours.

    Krizhevsky et al. 2012, section 4.1; Dieleman et al. 2015 used the first component alone.

    Args:
      key: PRNG key.
      images: in [0, 1]; so is the result.
      deviation: of the normal draws that each component is multiplied by.
    """
    draws = deviation * jax.random.normal(key, (len(images), len(COLOUR_COMPONENTS)))
    shifts = jnp.matmul(draws, jnp.asarray(COLOUR_COMPONENTS), precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(images + shifts[:, None, None, :], 0.0, 1.0)


def erase_rectangles(
    key: PRNGKeyArray, images: Float[Array, "batch height width 3"], probability: float
) -> Float[Array, "batch height width 3"]:
    """Blackens a rectangle, as dark as the sky, in some of the images.

    Random erasing, Zhong et al. 2020 (arXiv:1708.04896). The rectangle's centre lies anywhere.

    Args:
      key: PRNG key.
      images: any values.
      probability: of each image.
    """
    batch, height, width, _ = images.shape
    chosen_key, area_key, aspect_key, centre_key = jax.random.split(key, 4)
    smallest, largest = (math.log(area) for area in ERASED_AREA)
    area = jnp.exp(jax.random.uniform(area_key, (batch,), minval=smallest, maxval=largest))
    longest = math.log(ERASED_ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (batch,), minval=-longest, maxval=longest))
    chosen = jax.random.bernoulli(chosen_key, probability, (batch,))
    centre = jax.random.uniform(centre_key, (batch, 2))

    def within(pixels: int, position: jax.Array, side: jax.Array) -> jax.Array:
        places = (jnp.arange(pixels, dtype=jnp.float32) + 0.5) / pixels
        return jnp.abs(places[None, :] - position[:, None]) < side[:, None] / 2

    rows = within(height, centre[:, 0], jnp.sqrt(area * aspect))
    columns = within(width, centre[:, 1], jnp.sqrt(area / aspect))
    erased = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
    return jnp.where(erased[..., None], 0.0, images)


def mapped(
    images: Num[Array, "batch height width channels"],
    maps: Float[Array, "batch 2 3"],
    size: int,
    widest: float,
) -> Float32[Array, "batch {size} {size} channels"]:
    """`warp`, with as many points averaged within a pixel as needed not to alias.

    `widest` is the largest side that any of the maps shows, as a fraction of the canvas's side.
    """
    # Up to a quarter more pixels than points are left to the bilinear weights.
    oversample = max(1, math.ceil(widest * images.shape[1] / size - 0.25))
    return warp(images, maps, size, oversample)


def upright_view(
    images: UInt8[Array, "batch canvas canvas 3"], field: float, size: int
) -> Float32[Array, "batch {size} {size} 3"]:
    """The central `field` of each canvas, a fraction of its side, with values in [0, 1]."""
    if field == 1.0 and images.shape[1] == size:
        return images.astype(jnp.float32) / 255
    return mapped(images, upright_maps(len(images), field), size, field)


def random_views(
    key: PRNGKeyArray,
    images: UInt8[Array, "batch canvas canvas 3"],
    augmentation: Augmentation,
    size: int,
) -> Float32[Array, "batch {size} {size} 3"]:
    """A random view of each canvas, `size` pixels a side, with values in [0, 1]."""
    if augmentation == Augmentation(field=augmentation.field):
        return upright_view(images, augmentation.field, size)
    map_key, colour_key, erase_key = jax.random.split(key, 3)
    maps = sample_maps(map_key, len(images), augmentation)
    shown = mapped(images, maps, size, augmentation.field * augmentation.zoom)
    if augmentation.colour:
        shown = shift_colours(colour_key, shown, augmentation.colour)
    if augmentation.erase:
        shown = erase_rectangles(erase_key, shown, augmentation.erase)
    return shown
