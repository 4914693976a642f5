"""The synthetic sky's camera: latent truth -> a colour picture as SDSS would have taken it.

The light of `sky_light` is computed on a finer grid, blurred by the seeing while it is gathered
into pixels, joined by stars and the noise of the night sky, and stretched to 8 bits as in the
SDSS's own colour pictures. Bands are g, r, i, in this order, until the very end.
"""

import math

import jax
import jax.numpy as jnp

from gzjax.data.sky_light import bump, colour, galaxy_light, neighbour_light, star_light
from gzjax.data.sky_population import STAR, Latents

# The SDSS camera: arcseconds a pixel; and, in nanomaggies per square arcsecond, the sky's noise in
# one of those, and what is left of the sky's own light after its subtraction.
CAMERA_PIXEL = 0.396
SKY_NOISE = (0.055, 0.08, 0.095)
SKY_LEFT = (0.025, 0.04, 0.05)
# How bright i, r, g are painted as red, green, blue, and where the stretch bends.
BRIGHTNESS = (0.39, 0.43, 0.60)
BEND = 2.3
FIELD_STARS = 12


def render(latents: Latents, size: int, field: jax.Array | float = 1.0) -> jax.Array:
    """Draws the picture of one galaxy.

    Args:
      latents: scalars.
      size: side of the picture in pixels, static.
      field: side of the central square that the picture shows, as a fraction of the whole. The
        whole is what the challenge's cut-outs of 424 pixels show: 8.48 times the radius R90.

    Returns:
      uint8[size, size, 3], red, green, blue, the same for the same arguments. Use `jax.vmap` or
      `jax.lax.map` for more.
    """
    key = jax.random.key(latents.seed, impl="threefry2x32")
    patches, field_stars, field_galaxies, noise = jax.random.split(key, 4)
    # Fine enough for the thinnest disks; from 128 pixels on the pixels themselves are.
    fine = size * max(1, math.ceil(128 / size))
    across = _centres(fine, field)
    x, y = across[None, :], -across[:, None]
    # The cusp of a Sersic profile is blunted at the grid's own scale.
    blunt = 0.5 * field / fine
    light = jnp.where(
        latents.kind == STAR,
        star_light(latents, x, y, blunt),
        galaxy_light(latents, patches, x, y, blunt),
    )
    light += neighbour_light(latents, field_galaxies, x, y, blunt)
    light = _through_the_air(latents, light, size, field)
    light += _field_stars(latents, field_stars, size, field)
    light += _noise(latents, noise, size, field)
    return stretch(light)


def stretch(light: jax.Array) -> jax.Array:
    """Light -> an 8-bit colour picture (Lupton et al. 2004, PASP 116, 133).

    All bands of a pixel are scaled alike, by asinh(bend * I) / (bend * I), I their sum as painted:
    linear where faint, logarithmic where bright, keeping the colour at any brightness. A pixel
    with a band beyond white is scaled back as a whole.

    Args:
      light: float[3, height, width], nanomaggies per square arcsecond in g, r, i.

    Returns:
      uint8[height, width, 3], red, green, blue.
    """
    painted = light[::-1] * jnp.asarray(BRIGHTNESS, light.dtype)[:, None, None]
    total = jnp.maximum(jnp.sum(painted, axis=0), 1e-6) * BEND
    painted = painted * jnp.arcsinh(total) / total
    painted = painted / jnp.maximum(jnp.max(painted, axis=0), 1.0)
    levels = jnp.round(255.0 * jnp.clip(painted, 0.0, 1.0))
    return jnp.moveaxis(levels, 0, -1).astype(jnp.uint8)


def _centres(size: int, field: jax.Array | float) -> jax.Array:
    """float32[size], the pixels' centres along a side, 0 in the middle, whole pictures as unit."""
    return ((jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5) * field


def _seeing(latents: Latents) -> jax.Array:
    """Standard deviation of a point source's Gaussian, whole pictures as unit."""
    return latents.seeing / latents.view / math.sqrt(8.0 * math.log(2.0))


def _through_the_air(
    latents: Latents, light: jax.Array, size: int, field: jax.Array | float
) -> jax.Array:
    """float32[3, size, size]: light of a finer grid as the camera gathers it into pixels.

    The seeing's Gaussian and the extent of a pixel in one, for rows and columns apart, as both are
    separable. The air refracts blue light more than red, which gives pictures coloured edges.
    """
    seeing = _seeing(latents)
    width = jnp.sqrt(seeing**2 + (field / size) ** 2 / 12.0)
    refraction = jnp.asarray((0.15, 0.0, -0.08)) / latents.view

    def weights(shift: jax.Array) -> jax.Array:  # [band, pixel, fine row]
        pixels = _centres(size, field)[:, None] + refraction[:, None, None] * shift
        near = bump(pixels - _centres(light.shape[-1], field), width)
        return near / jnp.sum(near, axis=2, keepdims=True)

    direction = 2.0 * latents.angle + latents.odd_angle  # any
    rows, columns = weights(jnp.sin(direction)), weights(jnp.cos(direction))
    return jnp.einsum("byh,bhw,bxw->byx", rows, light, columns)


def _field_stars(
    latents: Latents, key: jax.Array, size: int, field: jax.Array | float
) -> jax.Array:
    """float32[3, size, size]: stars of our own galaxy, points blurred by the seeing."""
    places, rest = jax.random.split(key)
    across, up = jax.random.uniform(places, (2, FIELD_STARS), jnp.float32, -0.5, 0.5)
    chance, brightness, redness = jax.random.uniform(rest, (3, FIELD_STARS))
    # The more sky in the picture, the more stars: about 3 to a square arcminute.
    seen = chance < (latents.view / 60.0) ** 2 * 3.0 / FIELD_STARS
    seen &= jnp.hypot(across, up) > 0.04
    light = 0.8 * jnp.exp(4.5 * brightness**2) * seen
    colours = jax.vmap(colour)(2.0 * redness - 0.4)[:, :, 0, 0]  # [stars, 3]
    centres = _centres(size, field)
    width = jnp.sqrt(_seeing(latents) ** 2 + (field / size) ** 2 / 12.0)
    dimmer = (_seeing(latents) / width) ** 2
    columns = bump(centres[None, :] - across[:, None], width)
    rows = bump(-centres[None, :] - up[:, None], width)
    return dimmer * jnp.einsum("s,sb,sy,sx->byx", light, colours, rows, columns)


def _noise(latents: Latents, key: jax.Array, size: int, field: jax.Array | float) -> jax.Array:
    """float32[3, size, size]: the night sky's noise, as coarse as the camera's pixels."""
    grain = CAMERA_PIXEL / latents.view
    pixel = field / size
    centres = _centres(size, field)
    weights = bump(centres[:, None] - centres[None, :], jnp.maximum(0.7 * grain, 0.3 * pixel))
    weights /= jnp.sqrt(jnp.sum(weights**2, axis=1, keepdims=True))
    white = jax.random.normal(key, (3, size, size), jnp.float32)
    # A pixel of the picture larger than the camera's averages over several of those.
    level = jnp.asarray(SKY_NOISE)[:, None, None] / jnp.sqrt(1.0 + (pixel / grain) ** 2)
    noise = level * jnp.einsum("yh,bhw,xw->byx", weights, white, weights)
    return noise + jnp.asarray(SKY_LEFT)[:, None, None]
