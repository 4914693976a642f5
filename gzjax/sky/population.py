"""The synthetic sky's population: the latent truth about each galaxy, drawn from its seed.

The shares are chosen so that the crowd's mean vote fractions are close to those of the Galaxy Zoo
challenge's table. Sizes, brightness, seeing and colours are roughly those of the SDSS main galaxy
sample. The challenge scales its cut-outs to the galaxy: one that is small on the sky fills as much
of its picture as a large one, but with coarser seeing and noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# `kind`, in the order of GZ2's answers to `smooth-or-featured`.
SMOOTH, DISK, STAR = range(3)
# `odd`: 0 for nothing odd, else 1 + the position among GZ2's answers to `odd-feature`.
PLAIN, RING, LENS, DISTURBED, IRREGULAR, OTHER, MERGER, DUST_LANE = range(8)
# `bulge_shape`, in the order of GZ2's answers to `bulge-shape`.
ROUNDED, BOXY, NO_BULGE = range(3)
# `arms`: 0 for none, 1 to 4, 5 for more than four, 6 for patches that cannot be counted.
MANY_ARMS, FLOCCULENT = 5, 6

# A disk seen exactly edge-on still has this axis ratio.
THICKNESS = 0.11
# Below this axis ratio a disk shows the shape of its bulge.
EDGE_ON = 0.35

_STAR_SHARE = 0.013
_ODD_SHARES = (0.785, 0.043, 0.014, 0.038, 0.043, 0.028, 0.042, 0.007)
_DISK_GIVEN_ODD = (0.62, 0.90, 0.10, 0.60, 0.97, 0.40, 0.35, 0.90)
_ARM_SHARES = (0.27, 0.038, 0.32, 0.065, 0.027, 0.030, 0.25)


class Latents(NamedTuple):
    """The truth about one galaxy: scalars, or arrays of one shape for many galaxies.

    Lengths are in units of the whole picture's side (the challenge's 424 pixels) unless they are
    said to be in half-light radii; angles are in radians, counter-clockwise from the picture's
    horizontal axis.
    """

    seed: jax.Array  # uint32, of all that is random in the picture: noise, patches, neighbours
    kind: jax.Array  # int32: SMOOTH, DISK or STAR
    radius: jax.Array  # half-light radius along the major axis
    axis_ratio: jax.Array  # apparent minor / major axis, THICKNESS to 1
    angle: jax.Array  # position angle of the major axis
    surface_brightness: jax.Array  # r magnitudes per square arcsecond within the half-light radius
    redness: jax.Array  # 0: blue, young stars; 1: red, old ones
    sersic: jax.Array  # Sersic index of the bulge, or of the whole smooth galaxy
    bulge: jax.Array  # fraction of the light in the bulge
    bulge_shape: jax.Array  # int32: ROUNDED, BOXY or NO_BULGE, as an edge-on disk shows it
    bar: jax.Array  # strength, 0: no bar, to 1
    bar_length: jax.Array  # semi-major axis, half-light radii
    bar_angle: jax.Array  # within the disk, from the major axis
    arms: jax.Array  # int32: how many; 0 to MANY_ARMS, or FLOCCULENT
    arm_contrast: jax.Array  # 0 to 1
    arm_phase: jax.Array  # where an arm crosses the half-light radius, within the disk
    pitch: jax.Array  # angle between arm and circle; small: tightly wound
    winding: jax.Array  # +1 or -1, the sense in which the arms turn
    odd: jax.Array  # int32: PLAIN, or what is odd
    odd_strength: jax.Array  # 0 to 1
    odd_angle: jax.Array  # where the arc, the companion or the tail is
    trail: jax.Array  # 1: a satellite's trail instead of a star (where `kind` is STAR), else 0
    view: jax.Array  # side of the whole picture in arcseconds
    seeing: jax.Array  # full width at half maximum of a point source, arcseconds


def sample(key: jax.Array) -> Latents:
    """Draws one galaxy: scalars, float32 where `Latents` names no other type."""
    # All random numbers are drawn at once and used one by one: the order of the lines below is part
    # of what a seed means.
    of_seed, of_uniforms, of_normals = jax.random.split(key, 3)
    uniforms = iter(jax.random.uniform(of_uniforms, (32,)))
    normals = iter(jax.random.normal(of_normals, (16,)))

    def uniform(low: float, high: float) -> jax.Array:
        return low + (high - low) * next(uniforms)

    def normal(mean: float, deviation: float) -> jax.Array:
        return mean + deviation * next(normals)

    def happens(probability: ArrayLike) -> jax.Array:
        return next(uniforms) < probability

    def choice(shares: tuple[float, ...]) -> jax.Array:
        return jnp.sum(next(uniforms) > jnp.cumsum(jnp.asarray(shares))[:-1]).astype(jnp.int32)

    seed = jax.random.bits(of_seed, (), jnp.uint32)
    star = happens(_STAR_SHARE)
    odd = jnp.where(star, PLAIN, choice(_ODD_SHARES))
    disk = happens(jnp.asarray(_DISK_GIVEN_ODD)[odd])
    kind = jnp.where(star, STAR, jnp.where(disk, DISK, SMOOTH)).astype(jnp.int32)

    # Disks have random orientations; rings and patches show closer to face-on, dust lanes closer to
    # edge-on.
    face_on = uniform(0.0, 1.0)
    face_on = jnp.where((odd == RING) | (odd == IRREGULAR), 0.4 + 0.6 * face_on, face_on)
    face_on = jnp.where(odd == DUST_LANE, 0.12 + 0.12 * face_on, face_on)
    disk_ratio = jnp.sqrt(face_on**2 * (1.0 - THICKNESS**2) + THICKNESS**2)
    elongated = happens(0.11)
    smooth_ratio = jnp.where(elongated, uniform(0.22, 0.45), 1.0 - jnp.abs(normal(0.0, 0.24)))
    smooth_ratio = jnp.clip(smooth_ratio, 0.22, 1.0)
    axis_ratio = jnp.where(disk, disk_ratio, smooth_ratio)

    # From no bulge to a dominant one; early-type spirals are redder and have larger bulges.
    bulge = jax.nn.sigmoid(normal(-1.7, 0.95))
    bulge_shape = choice((0.58, 0.14, 0.28))
    edge_on = disk & (disk_ratio < EDGE_ON)
    shown = jnp.where(odd == DUST_LANE, 0.45, jnp.asarray((0.26, 0.36, 0.0))[bulge_shape])
    bulge = jnp.where(edge_on, jnp.where(shown > 0, jnp.maximum(bulge, shown), 0.01), bulge)
    bulge = jnp.where(odd == IRREGULAR, 0.02, bulge)
    redness = jnp.where(disk, 0.25 + 1.1 * bulge + normal(0.0, 0.18), normal(0.85, 0.16))
    redness = jnp.where(odd == IRREGULAR, 0.05, redness)

    barred = disk & happens(0.30) & (odd != IRREGULAR)
    arms = jnp.where(disk & (odd != IRREGULAR), choice(_ARM_SHARES), 0).astype(jnp.int32)
    arm_contrast = jnp.where(arms > 0, jnp.sqrt(uniform(0.03, 1.0)), 0.0)
    arm_contrast = jnp.where(arms == FLOCCULENT, 0.7 * arm_contrast, arm_contrast)

    pitch = jnp.clip(16.5 * jnp.exp(normal(0.0, 0.42)), 7.0, 45.0)
    # Many tightly wound arms would run into each other.
    pitch = jnp.maximum(pitch, jnp.where(arms < FLOCCULENT, 3.2 * arms, 0.0))

    # R90 in arcseconds; a cut-out is 8.48 R90 wide (424 pixels of 0.02 R90).
    apparent_size = 10.0 * jnp.exp(normal(0.0, 0.4))
    faintness = jnp.where(disk, 21.1, 20.3) + normal(0.0, 0.55) + 0.4 * (odd == IRREGULAR)
    return Latents(
        seed=seed,
        kind=kind,
        radius=jnp.where(disk, 0.064, 0.051) * jnp.exp(jnp.clip(normal(0.0, 0.2), -0.45, 0.35)),
        axis_ratio=axis_ratio,
        angle=uniform(0.0, jnp.pi),
        surface_brightness=faintness,
        redness=jnp.clip(redness, -0.05, 1.15),
        sersic=jnp.where(disk, uniform(1.0, 2.5), uniform(1.5, 4.0)),
        bulge=jnp.where(disk, bulge, 1.0),
        bulge_shape=bulge_shape,
        bar=jnp.where(barred, uniform(0.35, 1.0), 0.0),
        bar_length=uniform(0.75, 1.25),
        bar_angle=uniform(0.0, jnp.pi),
        arms=arms,
        arm_contrast=arm_contrast,
        arm_phase=uniform(0.0, 2.0 * jnp.pi),
        pitch=jnp.deg2rad(pitch),
        winding=jnp.where(happens(0.5), 1.0, -1.0),
        odd=odd.astype(jnp.int32),
        odd_strength=jnp.where(odd == PLAIN, 0.0, jnp.sqrt(uniform(0.1, 1.0))),
        odd_angle=uniform(0.0, 2.0 * jnp.pi),
        trail=(star & happens(0.35)).astype(jnp.float32),
        view=8.48 * jnp.clip(apparent_size, 5.0, 32.0),
        seeing=jnp.clip(normal(1.25, 0.12), 0.95, 1.7),
    )


def face_on(axis_ratio: jax.Array) -> jax.Array:
    """How visible the pattern of a disk is: 0 edge-on, 1 from well above the plane."""
    return jnp.clip((axis_ratio - 0.15) / 0.3, 0.0, 1.0)
