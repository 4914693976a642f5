"""The synthetic sky's crowd: volunteers who look at a galaxy and walk a decision tree.

What a volunteer answers depends on the latent truth and on how well the picture shows it: how well
the galaxy is resolved, how bright it is, and from which side it is seen. Nobody is always
attentive: a small fraction of the answers is random.

The crowd walks any tree whose questions it knows: see `opinions`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from gzjax.errors import UserError
from gzjax.sky import population
from gzjax.sky.population import Latents
from gzjax.tree import Tree

VOLUNTEERS = 45
# The fraction of answers that are given without looking.
LAPSE = 0.02
# By `odd`, PLAIN first: how striking it is, and how often it is called by its name.
STRIKING = (0.0, 3.3, 3.3, 3.4, 3.4, 3.6, 4.6, 4.3)
NAMED = (0.0, 0.95, 0.75, 0.65, 0.85, 0.75, 0.9, 0.85)
ODD_FEATURES = ("ring", "lens-or-arc", "disturbed", "irregular", "other", "merger", "dust-lane")
# What it is called otherwise: most often "other".
VAGUE = (0.07, 0.055, 0.14, 0.18, 0.44, 0.105, 0.01)
# The answers to `spiral-arm-count`, a row for each value of `arms`: 0 to MANY_ARMS, FLOCCULENT.
ARM_COUNTS = (
    (0.05, 0.27, 0.04, 0.02, 0.02, 0.60),
    (0.68, 0.16, 0.02, 0.01, 0.01, 0.12),
    (0.03, 0.86, 0.02, 0.01, 0.01, 0.07),
    (0.02, 0.15, 0.63, 0.05, 0.01, 0.14),
    (0.01, 0.12, 0.11, 0.54, 0.06, 0.16),
    (0.01, 0.04, 0.05, 0.13, 0.52, 0.25),
    (0.03, 0.12, 0.05, 0.03, 0.07, 0.70),
)
# The answers to `bulge-shape` and `edge-on-bulge`, a row for each value of `bulge_shape`.
BULGE_SHAPES = ((0.84, 0.05, 0.11), (0.33, 0.57, 0.10), (0.14, 0.03, 0.83))
# By `odd`: how disturbed a galaxy is, and how often it is called a merger.
DISTURBANCE = (0.0, 0.15, 0.2, 0.9, 0.5, 0.35, 0.6, 0.1)
CALLED_MERGER = (0.0, 0.01, 0.06, 0.12, 0.03, 0.08, 0.8, 0.01)


class Seen(NamedTuple):
    """How visible things are in the picture, from 0 to 1: scalars."""

    details: jax.Array  # anything small
    arms: jax.Array
    bar: jax.Array


def seen(latents: Latents) -> Seen:
    """How well a galaxy's features can be made out.

    Details need resolution elements across the half-light radius, and a surface brightness well
    above the noise of the night sky; patterns of the disk also need a view from above.
    """
    resolved = latents.radius * latents.view / latents.seeing
    details = jax.nn.sigmoid(2.0 * jnp.log(resolved / 1.6))
    details *= jax.nn.sigmoid(1.6 * (22.8 - latents.surface_brightness))
    pattern = details * population.face_on(latents.axis_ratio)
    return Seen(details, latents.arm_contrast * pattern, latents.bar * pattern)


def opinions(latents: Latents) -> dict[tuple[str, ...], jax.Array]:
    """What attentive volunteers would answer to every question that they know.

    To teach them another question, or other answers to a question, add an entry here.

    Returns:
      {(question, answer, answer, ...): float32[answers]}, the probabilities of the answers.
    """
    see = seen(latents)
    ratio = latents.axis_ratio
    star, disk = latents.kind == population.STAR, latents.kind == population.DISK
    # Arms that are barely visible are hard to count, and their winding is a guess.
    countable = jax.nn.sigmoid(9.0 * (see.arms - 0.33))
    counts = jnp.asarray(ARM_COUNTS)
    pitch = countable * jnp.log(jnp.rad2deg(latents.pitch)) + (1.0 - countable) * 2.85
    bulge = jnp.where(disk, jax.scipy.special.logit(jnp.minimum(latents.bulge, 0.99)), -0.4)
    features = jnp.where(star, 0.0, _features(latents, see))
    striking = latents.odd_strength * jnp.asarray(STRIKING)[latents.odd]
    unclear = jnp.where(disk, 0.5 * (1.0 - see.details), 0.0)
    # The true name, or a vague one.
    named = jnp.asarray(NAMED)[latents.odd] * jnp.sqrt(latents.odd_strength)
    odd_feature = named * jax.nn.one_hot(latents.odd - 1, 7) + (1.0 - named) * jnp.asarray(VAGUE)
    bulge_shape = jnp.where(
        disk & (ratio < population.EDGE_ON),
        jnp.asarray(BULGE_SHAPES)[latents.bulge_shape],
        jnp.asarray((0.60, 0.10, 0.30)),
    )
    count = countable * counts[latents.arms] + (1.0 - countable) * counts[0]
    kind = jax.nn.softmax(jnp.stack([jnp.zeros(()), features, jnp.where(star, 2.4, -3.6)]))
    edge_on = (0.25 - ratio) / 0.05 - jnp.where(disk, 0.0, 0.5)
    spiral = -1.65 + 7.5 * see.arms - jnp.where(disk, 0.0, 1.0)
    odd = -2.1 + jnp.where(star, 1.2, 0.0) + unclear + striking
    size = _ordered(bulge, (-3.85, -1.5, 0.45), 0.55)
    rounded = _ordered(1.0 - ratio, (0.195, 0.66), 0.06)
    # Tidal debris is fainter than what else is odd.
    odd_seen = latents.odd_strength * (0.4 + 0.6 * see.details)
    disturbance = odd_seen * jnp.asarray(DISTURBANCE)[latents.odd]
    debris = _yes_or_no((disturbance - 0.5) / 0.1)
    merger = 0.015 + odd_seen * jnp.asarray(CALLED_MERGER)[latents.odd]
    merging = jnp.append((1.0 - merger) * _ordered(disturbance, (0.3, 0.7), 0.1), merger)
    torn = jnp.outer(debris, jnp.stack([merger, 1.0 - merger])).ravel()
    ring = -3.2 + 6.5 * odd_seen * (latents.odd == population.RING)
    return {
        ("smooth-or-featured", "smooth", "featured-or-disk", "artifact"): kind,
        ("disk-edge-on", "yes", "no"): _yes_or_no(edge_on),
        ("bar", "yes", "no"): _yes_or_no(-2.3 + 6.0 * see.bar),
        ("has-spiral-arms", "yes", "no"): _yes_or_no(spiral),
        ("bulge-size", "no", "just-noticeable", "obvious", "dominant"): size,
        ("something-odd", "yes", "no"): _yes_or_no(odd),
        ("how-rounded", "round", "in-between", "cigar"): rounded,
        ("odd-feature", *ODD_FEATURES): odd_feature,
        ("bulge-shape", "round", "boxy", "no-bulge"): bulge_shape,
        ("spiral-winding", "tight", "medium", "loose"): _ordered(pitch, (2.76, 3.25), 0.19),
        ("spiral-arm-count", "1", "2", "3", "4", "more-than-4", "cant-tell"): count,
        # What later trees ask in other words, of the same truth: the answers that two trees share
        # have the same probability where they mean the same.
        ("bar", "no", "weak", "strong"): _ordered(see.bar, (2.3 / 6.0, 0.62), 1.0 / 6.0),
        ("bulge-size", "none", "small", "moderate", "large", "dominant"): _ordered(
            bulge, (-3.85, -2.0, -0.7, 0.45), 0.55
        ),
        ("bulge-size", "none", "obvious", "dominant"): _ordered(bulge, (-2.6, 0.45), 0.55),
        ("how-rounded", "round", "in-between", "cigar-shaped"): rounded,
        ("how-rounded", "completely", "in-between", "cigar-shaped"): rounded,
        ("edge-on-bulge", "rounded", "boxy", "none"): bulge_shape,
        # Whoever cannot tell has to guess.
        ("spiral-arm-count", "1", "2", "3", "4", "more-than-4"): count[:5] / jnp.sum(count[:5]),
        ("merging", "none", "minor-disturbance", "major-disturbance", "merger"): merging,
        ("merging", "both", "tidal-debris", "merger", "neither"): torn,
        ("ring", "yes", "no"): _yes_or_no(ring),
    }


def expected_conditional(latents: Latents, tree: Tree) -> Float[Array, " answers"]:
    """The probability of each answer, given that its question is asked.

    Raises:
      UserError: the tree has questions that the crowd cannot answer.
    """
    known = opinions(latents)
    found, unknown = [], []
    for question in tree.questions:
        for (name, *answers), probabilities in known.items():
            if name == question.name and sorted(answers) == sorted(question.answers):
                order = np.asarray([answers.index(answer) for answer in question.answers])
                found.append((1.0 - LAPSE) * probabilities[order] + LAPSE / len(order))
                break
        else:
            unknown.append(f"{question.name} ({', '.join(question.answers)})")
    if unknown:
        raise UserError(
            f"tree {tree.name}: expected questions that the synthetic sky's volunteers can answer, "
            f"found {', '.join(unknown)}"
        )
    return jnp.concatenate(found)


def vote(
    key: jax.Array, latents: Latents, tree: Tree, volunteers: int = VOLUNTEERS
) -> Float32[Array, " answers"]:
    """Lets a crowd vote on one galaxy: every volunteer walks the tree alone.

    Whoever gives an answer is asked the questions it leads to, so the votes of a question sum to
    those of its gates; those of a question that is always asked, to `volunteers`.

    Returns:
      float32[answers]: how many of the volunteers reached the question and gave the answer.

    Raises:
      UserError: the tree has questions that the crowd cannot answer.
    """
    liked = jnp.log(expected_conditional(latents, tree)) + jax.random.gumbel(
        key, (volunteers, tree.size), jnp.float32
    )
    chosen = jnp.zeros((volunteers, tree.size), bool)
    for question in tree.by_depth:
        answer = jnp.argmax(liked[:, question.columns], axis=1, keepdims=True)
        asked = chosen[:, question.gates].any(axis=1, keepdims=True) if question.gates else True
        walks = (answer == np.arange(len(question.answers))) & asked
        chosen = chosen.at[:, question.columns].set(walks)
    return jnp.sum(chosen, axis=0, dtype=jnp.float32)


def _features(latents: Latents, see: Seen) -> jax.Array:
    """The logit of `featured-or-disk` against `smooth`."""
    odd, ratio = latents.odd, latents.axis_ratio
    edge_on = jax.nn.sigmoid((0.3 - ratio) / 0.035)
    disk = 3.6 * see.arms + 1.7 * see.bar + 1.7 * edge_on - 0.8 * latents.redness
    smooth = -0.4 - 0.32 * latents.sersic - 0.7 * (1.0 - ratio)
    # By `odd`: PLAIN, RING, LENS, DISTURBED, IRREGULAR, OTHER, MERGER, DUST_LANE.
    odd_too = jnp.asarray((0.0, 1.9, 0.8, 1.4, 1.9, 1.4, 0.8, 1.9))[odd] * latents.odd_strength
    return jnp.where(latents.kind == population.DISK, disk, smooth) + odd_too


def _yes_or_no(logit: jax.Array) -> jax.Array:
    yes = jax.nn.sigmoid(logit)
    return jnp.stack([yes, 1.0 - yes])


def _ordered(value: jax.Array, thresholds: tuple[float, ...], softness: float) -> jax.Array:
    """Probabilities of ordered answers, by a cumulative logit model (McCullagh 1980)."""
    above = jax.nn.sigmoid((value - jnp.asarray(thresholds)) / softness)
    above = jnp.concatenate([jnp.ones(1), above, jnp.zeros(1)])
    return above[:-1] - above[1:]
