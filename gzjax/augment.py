"""Random views of galaxies, on the device, inside the jitted step.

The sky has no up and no mirror, so a galaxy turned, flipped or slightly nearer is as good a
galaxy. Turning, zooming, shifting and flipping are one affine map, so the stored canvas is
resampled once, straight to the size the network sees. Everything is a pure function of
(key, images).
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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


class Views(NamedTuple):
    """How views are drawn; the defaults leave every galaxy as it is.

    field: side of the view as a fraction of the canvas's side.
    rotate: turn by an angle uniform within +- this many degrees; 180 is any angle.
    zoom: magnify by a factor log-uniform within [1 / zoom, zoom].
    shift: move by a distance uniform within +- this fraction of the view's side, each way.
    flip: mirror every second galaxy.
    colour: deviation of the draws of `shift_colours`, 0.1 in Krizhevsky et al. 2012; 0: none.
    erase: chance that a rectangle is blackened by `erase_rectangles`.
    """

    field: float = 1.0
    rotate: float = 0.0
    zoom: float = 1.0
    shift: float = 0.0
    flip: bool = False
    colour: float = 0.0
    erase: float = 0.0

    @property
    def upright(self) -> "Views":
        """The one view without chance, for evaluation."""
        return Views(field=self.field)


def sample_maps(key: jax.Array, batch: int, views: Views) -> jax.Array:
    """Random affine maps from a view to the canvas.

    Coordinates are in units of half a side, (x, y) from the centre, so that a map does not depend
    on the pixels of either side: (-1, -1) is the upper left corner.

    Args:
      key: PRNG key.
      batch: number of maps.
      views: how they are drawn.

    Returns:
      float32[batch, 2, 3]: the linear part and, in the last column, the shift.
    """
    angle_key, zoom_key, shift_key, flip_key = jax.random.split(key, 4)
    angle = jnp.deg2rad(
        jax.random.uniform(angle_key, (batch,), minval=-views.rotate, maxval=views.rotate)
    )
    log_zoom = math.log(views.zoom)
    scale = views.field * jnp.exp(
        jax.random.uniform(zoom_key, (batch,), minval=-log_zoom, maxval=log_zoom)
    )
    # A side is 2 units long, and the shift is a fraction of the view's side.
    reach = 2 * views.shift * views.field
    shift = jax.random.uniform(shift_key, (batch, 2), minval=-reach, maxval=reach)
    mirror = jnp.where(
        jax.random.bernoulli(flip_key, 0.5 if views.flip else 0.0, (batch,)), -1.0, 1.0
    )
    cosine, sine = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    return jnp.stack(
        [
            jnp.stack([mirror * cosine, -sine, shift[:, 0]], axis=-1),
            jnp.stack([mirror * sine, cosine, shift[:, 1]], axis=-1),
        ],
        axis=-2,
    )


def upright_maps(batch: int, field: float = 1.0) -> jax.Array:
    """float32[batch, 2, 3]: the maps that show the central `field` of the canvas as it is."""
    return jnp.broadcast_to(
        jnp.asarray([[field, 0.0, 0.0], [0.0, field, 0.0]], jnp.float32), (batch, 2, 3)
    )


def grid_maps(count: int, field: float = 1.0, zoom: float = 1.0) -> np.ndarray:
    """Affine maps of `count` different views of one galaxy, to be averaged over.

    As many are mirrored as not if the count is even; from 24 on, if it is a multiple of 6 and
    there is a zoom, a third each is shown smaller, as it is, and larger; the rest are turns,
    evenly around: 60 views are ten turns, three sizes and both mirrors, as in Dieleman et al. 2015
    (arXiv:1503.07077). The first is the upright view.

    Args:
      count: how many.
      field: side of the view as a fraction of the canvas's side.
      zoom: views were trained on magnified by up to this factor; half of it, in the logarithm, is
        used here.

    Returns:
      float32[count, 2, 3]; see `sample_maps`.
    """
    mirrors = (1.0, -1.0) if count % 2 == 0 else (1.0,)
    sizes = zoom > 1 and count >= 24 and count % 6 == 0
    scales = (1.0, zoom**-0.5, zoom**0.5) if sizes else (1.0,)
    turns = count // (len(mirrors) * len(scales))
    maps = []
    for turn, scale, mirror in itertools.product(range(turns), scales, mirrors):
        angle = 2 * math.pi * turn / turns
        cosine, sine = field * scale * math.cos(angle), field * scale * math.sin(angle)
        maps.append([[mirror * cosine, -sine, 0.0], [mirror * sine, cosine, 0.0]])
    return np.asarray(maps, np.float32)


def warp(images: jax.Array, maps: jax.Array, size: int, oversample: int = 1) -> jax.Array:
    """Resamples each image through its affine map, bilinearly; beyond the edge, the edge goes on.

    Args:
      images: uint8[batch, height, width, channels], or float in [0, 255].
      maps: float32[batch, 2, 3], from the view to the canvas; see `sample_maps`.
      size: side of the result in pixels.
      oversample: points averaged each way within a pixel of the result. Where the view has fewer
        pixels than the piece of canvas it shows, this keeps fine structure from aliasing.

    Returns:
      float32[batch, size, size, channels] in [0, 1].
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


def shift_colours(key: jax.Array, images: jax.Array, deviation: float) -> jax.Array:
    """Shifts all pixels of an image alike, along the principal components of galaxies' colours.

    Krizhevsky et al. 2012, section 4.1; Dieleman et al. 2015 used the first component alone.

    Args:
      key: PRNG key.
      images: float32[batch, height, width, 3] in [0, 1].
      deviation: of the normal draws that each component is multiplied by.

    Returns:
      float32[batch, height, width, 3] in [0, 1].
    """
    draws = deviation * jax.random.normal(key, (len(images), len(COLOUR_COMPONENTS)))
    shifts = jnp.matmul(draws, jnp.asarray(COLOUR_COMPONENTS), precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(images + shifts[:, None, None, :], 0.0, 1.0)


def erase_rectangles(key: jax.Array, images: jax.Array, chance: float) -> jax.Array:
    """Blackens a rectangle, as dark as the sky, in some of the images.

    Random erasing, Zhong et al. 2020 (arXiv:1708.04896). The rectangle's centre lies anywhere.

    Args:
      key: PRNG key.
      images: float32[batch, height, width, 3].
      chance: of each image.

    Returns:
      float32[batch, height, width, 3].
    """
    batch, height, width, _ = images.shape
    chosen_key, area_key, aspect_key, centre_key = jax.random.split(key, 4)
    smallest, largest = (math.log(area) for area in ERASED_AREA)
    area = jnp.exp(jax.random.uniform(area_key, (batch,), minval=smallest, maxval=largest))
    longest = math.log(ERASED_ASPECT)
    aspect = jnp.exp(jax.random.uniform(aspect_key, (batch,), minval=-longest, maxval=longest))
    chosen = jax.random.bernoulli(chosen_key, chance, (batch,))
    centre = jax.random.uniform(centre_key, (batch, 2))

    def within(pixels: int, position: jax.Array, side: jax.Array) -> jax.Array:
        places = (jnp.arange(pixels, dtype=jnp.float32) + 0.5) / pixels
        return jnp.abs(places[None, :] - position[:, None]) < side[:, None] / 2

    rows = within(height, centre[:, 0], jnp.sqrt(area * aspect))
    columns = within(width, centre[:, 1], jnp.sqrt(area / aspect))
    erased = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
    return jnp.where(erased[..., None], 0.0, images)


def view(images: jax.Array, views: Views, size: int, key: jax.Array | None = None) -> jax.Array:
    """What the network is shown of a batch of canvases.

    Args:
      images: uint8[batch, canvas, canvas, 3].
      views: how views are drawn.
      size: side of the view in pixels.
      key: PRNG key; None shows every galaxy upright, without chance.

    Returns:
      float32[batch, size, size, 3] in [0, 1].
    """
    if key is None or views == views.upright:
        if views.field == 1.0 and images.shape[1] == size:
            return images.astype(jnp.float32) / 255
        return mapped(images, upright_maps(len(images), views.field), size, views.field)
    map_key, colour_key, erase_key = jax.random.split(key, 3)
    maps = sample_maps(map_key, len(images), views)
    shown = mapped(images, maps, size, views.field * views.zoom)
    if views.colour:
        shown = shift_colours(colour_key, shown, views.colour)
    if views.erase:
        shown = erase_rectangles(erase_key, shown, views.erase)
    return shown


def mapped(images: jax.Array, maps: jax.Array, size: int, widest: float) -> jax.Array:
    """`warp`, with as many points averaged within a pixel as the shrinking asks for.

    Args:
      images: see `warp`.
      maps: see `warp`.
      size: see `warp`.
      widest: the largest side that any of the maps shows, as a fraction of the canvas's side.
    """
    # A shrinking of up to a quarter is left to the bilinear weights.
    oversample = max(1, math.ceil(widest * images.shape[1] / size - 0.25))
    return warp(images, maps, size, oversample)
