"""The synthetic sky's light: latent truth -> what would reach a perfect camera.

Light is in nanomaggies per square arcsecond, in the bands g, r, i. Within a galaxy, lengths are in
half-light radii and its total light is 1, until the very end.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gzjax.sky import population
from gzjax.sky.population import FLOCCULENT, Latents, face_on

# Light of 1 in r is this in g, r, i. In magnitudes, g - r is 0.26 and 0.8, r - i 0.13 and 0.4.
BLUE = (0.79, 1.0, 1.13)
RED = (0.48, 1.0, 1.45)
FIELD_GALAXIES = 2

Row = Float[Array, "1 width"]
Column = Float[Array, "height 1"]
Light = Float[Array, "3 height width"]


def sersic(radius: jax.Array, half_light: ArrayLike, index: ArrayLike) -> jax.Array:
    """Sersic's profile (1968): surface brightness of a round galaxy whose total light is 1.

    I(r) = I_e exp(-b ((r / R)^(1/n) - 1)), with b from the series of Ciotti & Bertin (1999,
    A&A 352, 447, eq. 18), accurate to 1e-4 for n above 0.5. n = 1 is an exponential disk,
    n = 4 is de Vaucouleurs' profile of ellipticals.

    The radius is above 0 and in the unit of `half_light`, which holds half of the light. Per unit
    of area; divide by the axis ratio for an ellipse.
    """
    index = jnp.asarray(index, jnp.float32)
    b = 2.0 * index - 1.0 / 3.0 + 4.0 / (405.0 * index) + 46.0 / (25515.0 * index**2)
    log_total = (
        jnp.log(2.0 * jnp.pi * index)
        + 2.0 * jnp.log(half_light)
        - 2.0 * index * jnp.log(b)
        + jax.scipy.special.gammaln(2.0 * index)
    )
    return jnp.exp(-b * jnp.exp(jnp.log(radius / half_light) / index) - log_total)


def bump(distance: jax.Array, width: ArrayLike) -> jax.Array:
    """A Gaussian of height 1; `width` is its standard deviation."""
    return jnp.exp(-0.5 * (distance / width) ** 2)


def colour(redness: ArrayLike) -> Float[Array, "3 1 1"]:
    """Light of 1 in r, in g, r, i: interpolated geometrically between BLUE and RED."""
    redness = jnp.asarray(redness, jnp.float32)
    blue, red = jnp.log(jnp.asarray(BLUE)), jnp.log(jnp.asarray(RED))
    return jnp.exp((1.0 - redness) * blue + redness * red)[:, None, None]


class Places(NamedTuple):
    """Where each point of a picture lies in a galaxy: float32[height, width], half-light radii."""

    major: jax.Array  # along the apparent major axis
    minor: jax.Array  # across it, as seen
    depth: jax.Array  # across it within the plane of the disk: not foreshortened
    radius: jax.Array  # within the plane of the disk, above 0
    turn: jax.Array  # angle within the plane of the disk
    rough: jax.Array  # patches within the plane of the disk, around 0


def galaxy_light(latents: Latents, key: jax.Array, x: Row, y: Column, blunt: ArrayLike) -> Light:
    """The galaxy itself: bulge, disk, arms, bar, and all that is odd.

    Args:
      latents: scalars.
      key: of the patches.
      x: to the right; the centre is 0, the unit the whole picture's side.
      y: upwards.
      blunt: the length below which the cusp of a profile is flattened, same unit.
    """
    odd, strength, ratio = latents.odd, latents.odd_strength, latents.axis_ratio
    at, bend = _places(latents, key, x, y, blunt)

    disk, arms = _disk_and_arms(latents, at)
    ring, arc, companion = _ring(latents, at), _arc(latents, at), _companion(latents, at)
    own, old, young = (colour(latents.redness + shift) for shift in (0.0, 0.15, -0.3))
    # Foreign matter is blue: a lensed source, a polar ring.
    foreign = jnp.where((odd == population.OTHER) | (odd == population.LENS), colour(-0.3), young)
    in_disk = 1.0 - latents.bulge
    light = (
        old * latents.bulge * _bulge(latents, at, blunt / latents.radius)
        + own * in_disk * disk
        + young * in_disk * arms
        + old * in_disk * _bar(latents, at)
        + foreign * (ring + arc)
        + own * companion
    )
    # A disturbed galaxy is heavier on one side.
    light *= 1.0 + 1.2 * bend * jnp.tanh(at.major * jnp.cos(latents.odd_angle) + at.minor)
    # Dust dims a band along the major axis, most in g.
    dust = jnp.where(odd == population.DUST_LANE, 2.8 * strength, 0.0)
    dust *= bump(at.minor - 0.05, 0.09) * bump(at.major, 1.6)
    light *= jnp.exp(-dust * jnp.asarray((1.35, 1.0, 0.75))[:, None, None])
    # Half of the light is within the half-light ellipse, of area pi * ratio. Disks are half
    # transparent: the longer the line of sight through one, the brighter it looks.
    mean = 10.0 ** (0.4 * (22.5 - latents.surface_brightness))
    return light * mean * 2.0 * jnp.pi * ratio**0.7


def _places(
    latents: Latents, key: jax.Array, x: Row, y: Column, blunt: ArrayLike
) -> tuple[Places, jax.Array]:
    cos, sin = jnp.cos(latents.angle) / latents.radius, jnp.sin(latents.angle) / latents.radius
    major, minor = x * cos + y * sin, y * cos - x * sin
    # A disturbed galaxy is bent like a banana.
    bend = jnp.where(latents.odd == population.DISTURBED, 0.45 * latents.odd_strength, 0.0)
    minor += bend * (0.8 * major**2 - 0.6) * jnp.exp(-0.12 * major**2)
    depth = minor / latents.axis_ratio
    radius = jnp.sqrt(major**2 + depth**2 + (blunt / latents.radius) ** 2)
    rough = _rough(latents, key, x, y)
    return Places(major, minor, depth, radius, jnp.arctan2(depth, major), rough), bend


def _rough(latents: Latents, key: jax.Array, x: Row, y: Column) -> jax.Array:
    """A sum of a few waves in all directions.

    As sin(a + b) = sin a cos b + cos a sin b, a wave is a sum of products of functions of x and of
    y, and the sum of the waves is a product of two small matrices.
    """
    direction, phase, waves = jax.random.uniform(key, (3, 12))
    direction, waves = 2.0 * jnp.pi * direction, (2.0 + 4.0 * waves) / latents.radius
    along, across = waves * jnp.cos(direction), waves * jnp.sin(direction) / latents.axis_ratio
    cos, sin = jnp.cos(latents.angle), jnp.sin(latents.angle)
    on_x = x[0, :, None] * (along * cos - across * sin) + 2.0 * jnp.pi * phase
    on_y = y[:, 0, None] * (along * sin + across * cos)
    columns = jnp.concatenate([jnp.sin(on_x), jnp.cos(on_x)], axis=1)
    rows = jnp.concatenate([jnp.cos(on_y), jnp.sin(on_y)], axis=1)
    return rows @ columns.T / math.sqrt(direction.size / 2.0)


def _bulge(latents: Latents, at: Places, blunt: ArrayLike) -> jax.Array:
    """The bulge, or the whole of a smooth galaxy. A boxy one has isophotes x^4 + y^4 = c."""
    ratio, smooth = latents.axis_ratio, latents.bulge >= 1.0
    boxy = (ratio < population.EDGE_ON) & (latents.bulge_shape == population.BOXY)
    own_ratio = jnp.where(smooth, ratio, jnp.maximum(ratio, 0.65))
    along, across = at.major**2, (at.minor / own_ratio) ** 2
    radius = jnp.where(boxy, jnp.sqrt(along**2 + across**2), along + across)
    size = jnp.where(boxy, 0.65, 0.22 + 0.35 * latents.bulge)
    index = jnp.where(boxy, 0.7, latents.sersic)
    return sersic(jnp.sqrt(radius + blunt**2), jnp.where(smooth, 1.0, size), index) / own_ratio


def _disk_and_arms(latents: Latents, at: Places) -> tuple[jax.Array, jax.Array]:
    """An exponential disk with logarithmic spirals.

    Along an arm, the angle grows with log(radius) / tan(pitch). The light of arms, bar and ring is
    taken from the disk around them.
    """
    facing = face_on(latents.axis_ratio)
    flocculent = latents.arms == FLOCCULENT
    count = jnp.where(
        flocculent, 5, jnp.where(latents.arms == population.MANY_ARMS, 6, latents.arms)
    )
    path = latents.arm_phase + latents.winding * jnp.log(at.radius) / jnp.tan(latents.pitch)
    # Flocculent arms are many, crooked and torn into pieces.
    crooked = jnp.where(flocculent, 0.9, 0.12) * at.rough
    torn = jnp.where(flocculent, 1.5 * jax.nn.sigmoid(2.0 * at.rough + 0.3), 1.0 + 0.15 * at.rough)
    crest = torn * jnp.exp(2.2 * (jnp.cos(count * (at.turn - path) + crooked) - 1.0))
    where = jax.nn.sigmoid((at.radius - 0.55) / 0.1) * jax.nn.sigmoid((2.9 - at.radius) / 0.25)
    contrast = latents.arm_contrast * facing * where

    disk = sersic(at.radius, 1.0, 1.0) / latents.axis_ratio
    arms = disk * contrast * crest * 2.1 * jnp.sqrt(at.radius)
    # An irregular galaxy is made of patches, without a centre.
    patchy = jnp.where(latents.odd == population.IRREGULAR, latents.odd_strength, 0.0)
    disk *= 1.0 - patchy + patchy * 2.2 * jax.nn.sigmoid(2.4 * at.rough - 0.5)
    disk *= 1.0 - 0.72 * contrast
    disk *= 1.0 - 0.6 * latents.bar * facing * bump(at.radius, 0.7)
    emptied = jnp.where(latents.odd == population.RING, 0.75 * latents.odd_strength, 0.0)
    disk *= 1.0 - emptied * jax.nn.sigmoid((at.radius - 0.6) / 0.1)
    return disk, arms


def _bar(latents: Latents, at: Places) -> jax.Array:
    """A bar within the disk: flat along its length, with sharp ends."""
    cos, sin = jnp.cos(latents.bar_angle), jnp.sin(latents.bar_angle)
    along = (at.major * cos + at.depth * sin) / latents.bar_length
    beside = (at.depth * cos - at.major * sin) / (0.24 * latents.bar_length)
    peak = 0.5 * latents.bar * face_on(latents.axis_ratio) / latents.axis_ratio
    return peak * jnp.exp(-(along**4) - 0.5 * beside**2)


def _ring(latents: Latents, at: Places) -> jax.Array:
    """A ring in the disk; or, for what is odd in another way, across its poles."""
    polar = latents.odd == population.OTHER
    radius = jnp.where(polar, jnp.hypot(at.minor, at.major / 0.16), at.radius)
    peak = jnp.where(
        polar, 0.21, jnp.where(latents.odd == population.RING, 0.13 / latents.axis_ratio, 0.0)
    )
    return peak * latents.odd_strength * bump(radius - 1.7, 0.24)


def _arc(latents: Latents, at: Places) -> jax.Array:
    """A lensed arc; or the tidal tail of a disturbed or merging galaxy, winding outwards."""
    tail = (latents.odd == population.DISTURBED) | (latents.odd == population.MERGER)
    turn = jnp.arctan2(at.minor, at.major) - latents.odd_angle
    ahead = jnp.mod(turn + jnp.pi, 2.0 * jnp.pi) - jnp.pi
    path = jnp.where(tail, 2.0 + 0.55 * ahead, 2.1)
    peak = jnp.where(latents.odd == population.LENS, 0.20, jnp.where(tail, 0.06, 0.0))
    away = jnp.hypot(at.major, at.minor) - path
    width = jnp.where(tail, 0.35, 0.13)
    return peak * latents.odd_strength * bump(away, width) * bump(ahead, 0.55)


def _companion(latents: Latents, at: Places) -> jax.Array:
    """The other galaxy of a merger."""
    apart = 1.0 + 0.9 * (1.0 - latents.odd_strength)
    across = 1.25 * (at.major - apart * jnp.cos(latents.odd_angle))
    radius = jnp.hypot(across, at.minor - apart * jnp.sin(latents.odd_angle)) + 0.05
    share = jnp.where(latents.odd == population.MERGER, 0.3 + 0.4 * latents.odd_strength, 0.0)
    return share * sersic(radius, 0.5, 1.5)


def star_light(latents: Latents, x: Row, y: Column, blunt: ArrayLike) -> Light:
    """A bright star with spikes, or a satellite's trail; arguments as in `galaxy_light`."""
    radius = jnp.sqrt(x**2 + y**2 + blunt**2)
    brightness = 10.0 ** (0.4 * (22.5 - latents.surface_brightness))
    glow = 50.0 * jnp.exp(-radius / 0.011) + 1.6 / (1.0 + (radius / 0.025) ** 2) ** 1.6
    across, up = jnp.abs(x), jnp.abs(y)
    spikes = jnp.exp(-across / 0.06 - up / 0.003) + jnp.exp(-up / 0.06 - across / 0.003)
    star = brightness * (glow + 5.0 * spikes) * colour(1.5 * latents.redness - 0.9)
    # The bands are exposed one after another, so a trail has the colour of one of them.
    band = jax.nn.one_hot((latents.seed % 3).astype(jnp.int32), 3)[:, None, None]
    away = y * jnp.cos(latents.angle) - x * jnp.sin(latents.angle)
    trail = (0.1 + band) * brightness * bump(away, 0.0025) + 0.25 * star * bump(radius, 0.01)
    return jnp.where(latents.trail > 0, trail, star)


def neighbour_light(latents: Latents, key: jax.Array, x: Row, y: Column, blunt: ArrayLike) -> Light:
    """A few small, faint galaxies elsewhere in the picture; arguments as in `galaxy_light`."""
    light = jnp.zeros((3, y.shape[0], x.shape[1]))
    for draws in jax.random.uniform(key, (FIELD_GALAXIES, 6)):
        across, up, size, flat, turn, brightness = draws
        cos, sin = jnp.cos(jnp.pi * turn), jnp.sin(jnp.pi * turn)
        right, above = x - (across - 0.5), y - (up - 0.5)
        along, beside = right * cos + above * sin, above * cos - right * sin
        radius = jnp.sqrt(along**2 + (beside / (0.3 + 0.7 * flat)) ** 2 + blunt**2)
        profile = jnp.exp(-1.3 * radius * latents.view / (0.7 + 1.2 * size))
        # Not in front of the galaxy itself, where it would pass for a merger.
        apart = jnp.hypot(across - 0.5, up - 0.5) > 0.16
        light += apart * 4.0 * brightness**2 * profile * colour(0.2 + flat)
    return light
