"""Views of galaxies, on the device, inside the jitted step.

Training sees a random view of each galaxy; prediction averages over its test-time views. The sky
has no preferred orientation or handedness, so a rotated, mirrored or slightly magnified galaxy is
as good an example. Rotation, zoom, shift and flip are one affine map, so the stored canvas is
resampled once, straight to the size that the network sees (`gzjax.warp`). Everything is a pure
function of (key, images).
"""

import dataclasses
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Num, PRNGKeyArray, UInt8

from gzjax import warp
from gzjax.settings import Settings, number, switch

Canvases = UInt8[Array, "batch canvas canvas 3"]
Images = Float[Array, "batch height width 3"]
Views = Float32[Array, "batch {size} {size} 3"]

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
    piece: galaxies computed at the same time, at most; 0: all of a batch.
    resample: one of `warp.METHODS`.
    """

    field: float = 1.0
    zoom: float = 1.0
    at_once: int = 1
    piece: int = 0
    resample: str = "fastest"


def sample_maps(
    key: PRNGKeyArray, batch: int, augmentation: Augmentation
) -> Float[Array, "{batch} 2 3"]:
    """Random affine maps from a view to the canvas: a linear part and, last, the shift.

    Coordinates are in units of half a side, (x, y) from the centre, so that a map does not depend
    on the pixels of either side: (-1, -1) is the upper left corner.
    """
    angle_key, zoom_key, shift_key, flip_key = jax.random.split(key, 4)
    angle = jnp.deg2rad(_uniform(angle_key, (batch,), augmentation.rotate))
    log_zoom = math.log(augmentation.zoom)
    scale = augmentation.field * jnp.exp(_uniform(zoom_key, (batch,), log_zoom))
    # A side is 2 units long, and the shift is a fraction of the view's side.
    shift = _uniform(shift_key, (batch, 2), 2 * augmentation.shift * augmentation.field)
    flipped = jax.random.bernoulli(flip_key, 0.5 if augmentation.flip else 0.0, (batch,))
    mirror = jnp.where(flipped, -1.0, 1.0)
    cosine, sine = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    return jnp.stack(
        [
            jnp.stack([mirror * cosine, -sine, shift[:, 0]], axis=-1),
            jnp.stack([mirror * sine, cosine, shift[:, 1]], axis=-1),
        ],
        axis=-2,
    )


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], reach: float) -> jax.Array:
    """Random numbers, uniform from -reach to reach."""
    return jax.random.uniform(key, shape, minval=-reach, maxval=reach)


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
    (arXiv:1503.07077). The first is the upright view. Sizes differ by the square root of `zoom`,
    see `TestViews`.
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


def shift_colours(key: PRNGKeyArray, images: Images, deviation: float) -> Images:
    """Shifts all pixels of an image alike, along the principal components of galaxies' colours.

    Krizhevsky et al. 2012, section 4.1; Dieleman et al. 2015 used the first component alone. Each
    is multiplied by a normal draw with this standard deviation. Values stay in [0, 1].
    """
    draws = deviation * jax.random.normal(key, (len(images), len(COLOUR_COMPONENTS)))
    shifts = jnp.matmul(draws, jnp.asarray(COLOUR_COMPONENTS), precision=jax.lax.Precision.HIGHEST)
    return jnp.clip(images + shifts[:, None, None, :], 0.0, 1.0)


def erase_rectangles(key: PRNGKeyArray, images: Images, probability: float) -> Images:
    """Blackens a rectangle, as dark as the sky, in each image with this probability.

    Random erasing, Zhong et al. 2020 (arXiv:1708.04896). The rectangle's centre lies anywhere.
    """
    batch, height, width, _ = images.shape
    chosen_key, area_key, aspect_key, centre_key = jax.random.split(key, 4)
    smallest, largest = (math.log(area) for area in ERASED_AREA)
    area = jnp.exp(jax.random.uniform(area_key, (batch,), minval=smallest, maxval=largest))
    aspect = jnp.exp(_uniform(aspect_key, (batch,), math.log(ERASED_ASPECT)))
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
    method: str = "fastest",
) -> Float32[Array, "batch {size} {size} channels"]:
    """`warp.resample`, with as many points averaged within a pixel as needed not to alias.

    `widest` is the largest side that any of the maps shows, as a fraction of the canvas's side.
    """
    # Up to a quarter more pixels than points are left to the bilinear weights.
    oversample = max(1, math.ceil(widest * images.shape[1] / size - 0.25))
    return warp.resample(images, maps, size, oversample, method)


def upright_view(images: Canvases, field: float, size: int, method: str = "fastest") -> Views:
    """The central `field` of each canvas, a fraction of its side, with values in [0, 1]."""
    if field == 1.0 and images.shape[1] == size:
        return images.astype(jnp.float32) / 255
    maps = jnp.broadcast_to(upright_maps(1, field), (images.shape[0], 2, 3))
    return mapped(images, maps, size, field, method)


def random_views(
    key: PRNGKeyArray, images: Canvases, augmentation: Augmentation, size: int
) -> Views:
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
