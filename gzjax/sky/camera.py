"""The synthetic sky's camera: latent truth -> a colour picture as SDSS would have taken it.

The light of `light` is computed on a finer grid and blurred by the seeing while it is gathered into
pixels. Stars and the noise of the night sky are added, and the sum is stretched to 8 bits as in the
SDSS's own colour pictures. Bands are g, r, i, in this order, until the very end.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt8

from gzjax.sky.light import bump, colour, galaxy_light, neighbour_light, star_light
from gzjax.sky.population import STAR, Latents

# The SDSS camera: arcseconds per pixel; and, in nanomaggies per square arcsecond, the noise of the
# sky in such a pixel, and the rest of the sky's light after its subtraction.
CAMERA_PIXEL = 0.396
SKY_NOISE = (0.055, 0.08, 0.095)
SKY_LEFT = (0.025, 0.04, 0.05)
# How bright i, r, g are shown as red, green, blue, and where the stretch bends.
BRIGHTNESS = (0.39, 0.43, 0.60)
BEND = 2.3
FIELD_STARS = 12


def render(latents: Latents, size: int, field: ArrayLike = 1.0) -> UInt8[Array, "{size} {size} 3"]:
    """Draws the picture of one galaxy in red, green, blue.

    Args:
      latents: scalars.
      size: side of the picture in pixels, static.
      field: side of the central square that the picture shows, as a fraction of the whole. The
        whole is what the challenge's cut-outs of 424 pixels show: 8.48 times the radius R90.
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
    light = _through_the_atmosphere(latents, light, size, field)
    light += _field_stars(latents, field_stars, size, field)
    light += _noise(latents, noise, size, field)
    return stretch(light)


def stretch(light: Float[Array, "3 height width"]) -> UInt8[Array, "height width 3"]:
    """Light in g, r, i -> an 8-bit colour picture (Lupton et al. 2004, PASP 116, 133).

    All bands of a pixel are scaled alike, by asinh(bend * I) / (bend * I), where I is their
    weighted sum: linear where faint, logarithmic where bright, with the same colour at any
    brightness. A pixel with a band above white is scaled down as a whole.
    """
    shown = light[::-1] * jnp.asarray(BRIGHTNESS, light.dtype)[:, None, None]
    total = jnp.maximum(jnp.sum(shown, axis=0), 1e-6) * BEND
    shown = shown * jnp.arcsinh(total) / total
    shown = shown / jnp.maximum(jnp.max(shown, axis=0), 1.0)
    levels = jnp.round(255.0 * jnp.clip(shown, 0.0, 1.0))
    return jnp.moveaxis(levels, 0, -1).astype(jnp.uint8)


def _centres(size: int, field: ArrayLike) -> jax.Array:
    """float32[size], the centres of the pixels along a side; unit: the whole picture's side."""
    return ((jnp.arange(size, dtype=jnp.float32) + 0.5) / size - 0.5) * field


def _seeing(latents: Latents) -> jax.Array:
    """Standard deviation of a point source's Gaussian; unit: the whole picture's side."""
    return latents.seeing / latents.view / math.sqrt(8.0 * math.log(2.0))


def _through_the_atmosphere(
    latents: Latents, light: jax.Array, size: int, field: ArrayLike
) -> jax.Array:
    """float32[3, size, size]: light of a finer grid as the camera gathers it into pixels.

    One Gaussian for the seeing and the extent of a pixel, applied to rows and to columns. The
    atmosphere refracts blue light more than red, which gives galaxies coloured edges.
    """
    seeing = _seeing(latents)
    width = jnp.sqrt(seeing**2 + (field / size) ** 2 / 12.0)
    refraction = jnp.asarray((0.15, 0.0, -0.08)) / latents.view

    def weights(shift: jax.Array) -> jax.Array:  # [band, pixel, fine row]
        pixels = _centres(size, field)[:, None] + refraction[:, None, None] * shift
        near = bump(pixels - _centres(light.shape[-1], field), width)
        return near / jnp.sum(near, axis=2, keepdims=True)

    direction = 2.0 * latents.angle + latents.odd_angle  # as good as random
    rows, columns = weights(jnp.sin(direction)), weights(jnp.cos(direction))
    return jnp.einsum("byh,bhw,bxw->byx", rows, light, columns)


def _field_stars(latents: Latents, key: jax.Array, size: int, field: ArrayLike) -> jax.Array:
    """float32[3, size, size]: stars of our own galaxy, points blurred by the seeing."""
    places, rest = jax.random.split(key)
    across, up = jax.random.uniform(places, (2, FIELD_STARS), jnp.float32, -0.5, 0.5)
    rarity, brightness, redness = jax.random.uniform(rest, (3, FIELD_STARS))
    # The more sky in the picture, the more stars: about 3 per square arcminute.
    seen = rarity < (latents.view / 60.0) ** 2 * 3.0 / FIELD_STARS
    seen &= jnp.hypot(across, up) > 0.04
    light = 0.8 * jnp.exp(4.5 * brightness**2) * seen
    colours = jax.vmap(colour)(2.0 * redness - 0.4)[:, :, 0, 0]  # [stars, 3]
    centres = _centres(size, field)
    width = jnp.sqrt(_seeing(latents) ** 2 + (field / size) ** 2 / 12.0)
    dimmer = (_seeing(latents) / width) ** 2
    columns = bump(centres[None, :] - across[:, None], width)
    rows = bump(-centres[None, :] - up[:, None], width)
    return dimmer * jnp.einsum("s,sb,sy,sx->byx", light, colours, rows, columns)


def _noise(latents: Latents, key: jax.Array, size: int, field: ArrayLike) -> jax.Array:
    """float32[3, size, size]: the night sky's noise, correlated over the camera's pixels."""
    grain = CAMERA_PIXEL / latents.view
    pixel = field / size
    centres = _centres(size, field)
    weights = bump(centres[:, None] - centres[None, :], jnp.maximum(0.7 * grain, 0.3 * pixel))
    weights /= jnp.sqrt(jnp.sum(weights**2, axis=1, keepdims=True))
    white = jax.random.normal(key, (3, size, size), jnp.float32)
    # A pixel of the picture that is larger than the camera's averages over several of those.
    level = jnp.asarray(SKY_NOISE)[:, None, None] / jnp.sqrt(1.0 + (pixel / grain) ** 2)
    noise = level * jnp.einsum("yh,bhw,xw->byx", weights, white, weights)
    return noise + jnp.asarray(SKY_LEFT)[:, None, None]
