"""The synthetic sky's crowd: volunteers who look at a galaxy and walk the decision tree.

What a volunteer answers depends on the latent truth and on how well the picture shows it: how far
the galaxy is resolved, how bright it is, and from which side it is seen. Nobody is always
attentive: a small part of all answers is given at random.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gzjax.data import sky_population as population
from gzjax.data.sky_population import Latents
from gzjax.tree import GALAXY_ZOO_2, cumulative_fractions

VOLUNTEERS = 45
# The share of answers that are given without looking.
LAPSE = 0.02
# By `odd`, PLAIN first: how much it strikes the eye, and how surely it is called by its name.
STRIKING = (0.0, 3.3, 3.3, 3.4, 3.4, 3.6, 4.6, 4.3)
NAMED = (0.0, 0.95, 0.75, 0.65, 0.85, 0.75, 0.9, 0.85)
# What is named otherwise: most often "other".
VAGUE = (0.07, 0.055, 0.14, 0.18, 0.44, 0.105, 0.01)
# The answers to question 11, a row for each value of `arms`: none, 1, 2, 3, 4, many, flocculent.
ARM_COUNTS = (
    (0.05, 0.27, 0.04, 0.02, 0.02, 0.60),
    (0.68, 0.16, 0.02, 0.01, 0.01, 0.12),
    (0.03, 0.86, 0.02, 0.01, 0.01, 0.07),
    (0.02, 0.15, 0.63, 0.05, 0.01, 0.14),
    (0.01, 0.12, 0.11, 0.54, 0.06, 0.16),
    (0.01, 0.04, 0.05, 0.13, 0.52, 0.25),
    (0.03, 0.12, 0.05, 0.03, 0.07, 0.70),
)
# The answers to question 9, a row for each value of `bulge_shape`.
BULGE_SHAPES = ((0.84, 0.05, 0.11), (0.33, 0.57, 0.10), (0.14, 0.03, 0.83))


class Seen(NamedTuple):
    """What the picture lets a volunteer see, each from 0 to 1: scalars."""

    details: jax.Array  # how clear anything small is
    arms: jax.Array
    bar: jax.Array


def seen(latents: Latents) -> Seen:
    """How well a galaxy's features can be made out.

    Details need resolution elements across the half-light radius, and a surface brightness that
    stands out from the noise of the night sky; patterns of the disk need a view from above, too.
    """
    resolved = latents.radius * latents.view / latents.seeing
    details = jax.nn.sigmoid(2.0 * jnp.log(resolved / 1.6))
    details *= jax.nn.sigmoid(1.6 * (22.8 - latents.surface_brightness))
    pattern = details * population.face_on(latents.axis_ratio)
    return Seen(details, latents.arm_contrast * pattern, latents.bar * pattern)


def expected_conditional(latents: Latents) -> jax.Array:
    """The probability of each answer, given that its question is asked.

    Args:
      latents: of one galaxy, scalars.

    Returns:
      float32[37], each question's answers summing to 1.
    """
    see = seen(latents)
    ratio = latents.axis_ratio
    star, disk = latents.kind == population.STAR, latents.kind == population.DISK
    # Arms hard to make out are hard to count, and their winding is anybody's guess.
    countable = jax.nn.sigmoid(9.0 * (see.arms - 0.33))
    pitch = countable * jnp.log(jnp.rad2deg(latents.pitch)) + (1.0 - countable) * 2.85
    bulge = jnp.where(disk, jax.scipy.special.logit(jnp.minimum(latents.bulge, 0.99)), -0.4)
    answers = {
        "smooth-or-featured": jax.nn.softmax(
            jnp.stack(
                [
                    jnp.zeros(()),
                    jnp.where(star, 0.0, _features(latents, see)),
                    jnp.where(star, 2.4, -3.6),
                ]
            )
        ),
        "edge-on": _yes_or_no((0.25 - ratio) / 0.05 - jnp.where(disk, 0.0, 0.5)),
        "bar": _yes_or_no(-2.3 + 6.0 * see.bar),
        "spiral": _yes_or_no(-1.65 + 7.5 * see.arms - jnp.where(disk, 0.0, 1.0)),
        "bulge": _ordered(bulge, (-3.85, -1.5, 0.45), 0.55),
        "odd": _yes_or_no(
            -2.1
            + jnp.where(star, 1.2, 0.0)
            + jnp.where(disk, 0.5 * (1.0 - see.details), 0.0)
            + latents.odd_strength * jnp.asarray(STRIKING)[latents.odd]
        ),
        "roundness": _ordered(1.0 - ratio, (0.195, 0.66), 0.06),
        "odd-feature": _odd_feature(latents),
        "edge-on-bulge": jnp.where(
            disk & (ratio < population.EDGE_ON),
            jnp.asarray(BULGE_SHAPES)[latents.bulge_shape],
            jnp.asarray((0.60, 0.10, 0.30)),
        ),
        "winding": _ordered(pitch, (2.76, 3.25), 0.19),
        "arms": (
            countable * jnp.asarray(ARM_COUNTS)[latents.arms]
            + (1.0 - countable) * jnp.asarray(ARM_COUNTS[0])
        ),
    }
    return jnp.concatenate(
        [
            (1.0 - LAPSE) * answers[question.name] + LAPSE / len(question.answers)
            for question in GALAXY_ZOO_2.questions
        ]
    )


def expected_fractions(latents: Latents) -> jax.Array:
    """The vote fractions of one galaxy that an endless crowd would give: float32[37]."""
    return cumulative_fractions(expected_conditional(latents))


def vote(key: jax.Array, latents: Latents, volunteers: int = VOLUNTEERS) -> jax.Array:
    """Lets a crowd vote on one galaxy.

    Every volunteer walks the tree alone. A vote fraction is the share of all volunteers who came
    by the question and chose the answer; that is the product of shares along the way that the
    challenge publishes, as whoever gives an answer goes on to the question it opens.

    Args:
      key: a PRNG key.
      latents: of the galaxy, scalars.
      volunteers: how many vote, static.

    Returns:
      float32[37], cumulative vote fractions; a question that nobody reached has zeros.
    """
    tree = GALAXY_ZOO_2
    opinions = jnp.log(expected_conditional(latents)) + jax.random.gumbel(
        key, (volunteers, tree.size), jnp.float32
    )
    chosen: dict[int, jax.Array] = {}  # column -> bool[volunteers]
    for question in tree.by_depth:
        answer = jnp.argmax(opinions[:, question.columns], axis=1)
        asked = chosen[question.gate] if question.gate is not None else True
        for position in range(len(question.answers)):
            chosen[question.first + position] = (answer == position) & asked
    walks = jnp.stack([chosen[column] for column in range(tree.size)])
    return jnp.mean(walks, axis=1, dtype=jnp.float32)


def _features(latents: Latents, see: Seen) -> jax.Array:
    """The logit of "features or disk" against "smooth"."""
    odd, ratio = latents.odd, latents.axis_ratio
    edge_on = jax.nn.sigmoid((0.3 - ratio) / 0.035)
    disk = 3.6 * see.arms + 1.7 * see.bar + 1.7 * edge_on - 0.8 * latents.redness
    smooth = -0.4 - 0.32 * latents.sersic - 0.7 * (1.0 - ratio)
    # By `odd`: PLAIN, RING, LENS, DISTURBED, IRREGULAR, OTHER, MERGER, DUST_LANE.
    odd_too = jnp.asarray((0.0, 1.9, 0.8, 1.4, 1.9, 1.4, 0.8, 1.9))[odd] * latents.odd_strength
    return jnp.where(latents.kind == population.DISK, disk, smooth) + odd_too


def _odd_feature(latents: Latents) -> jax.Array:
    """The answers to question 8: the true name, or a vague one."""
    named = jnp.asarray(NAMED)[latents.odd] * jnp.sqrt(latents.odd_strength)
    return named * jax.nn.one_hot(latents.odd - 1, 7) + (1.0 - named) * jnp.asarray(VAGUE)


def _yes_or_no(logit: jax.Array) -> jax.Array:
    yes = jax.nn.sigmoid(logit)
    return jnp.stack([yes, 1.0 - yes])


def _ordered(value: jax.Array, thresholds: tuple[float, ...], softness: float) -> jax.Array:
    """Probabilities of ordered answers, by a cumulative logit model (McCullagh 1980)."""
    above = jax.nn.sigmoid((value - jnp.asarray(thresholds)) / softness)
    above = jnp.concatenate([jnp.ones(1), above, jnp.zeros(1)])
    return above[:-1] - above[1:]
