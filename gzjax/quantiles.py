"""Intervals of a `Posterior` as a jitted function of arrays, for programs that are exported.

`posterior` finds the exact ones by SciPy in float64. This finds the same to 2e-4, of
concentrations of up to 1e7, by bisection in float32, with nothing but elementary operations, which
every runtime has.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from gzjax.tree import Tree, sums
from gzjax.votes import stirling_series

HALVINGS = 18  # of [0, 1]
TERMS = 48  # of the continued fraction; its convergence needs about the square root of the votes
TINY = 1e-30


def interval(
    concentrations: Float32[Array, "batch views answers"], tree: Tree, level: float = 0.9
) -> tuple[Float32[Array, "batch answers"], Float32[Array, "batch answers"]]:
    """The ends of the central interval of each answer's conditional fraction.

    Views are components of a mixture, all alike; see `posterior.Posterior.interval`.
    """
    first = concentrations[..., None, :, :]
    second = jnp.maximum(sums(first, tree)[..., tree.question_of] - first, 1e-9)
    whole = first + second
    height = 0.5 * jnp.log(2 * jnp.pi * (whole / first) / second)
    height = height + _stirling(first) + _stirling(second) - _stirling(whole)
    ends = jnp.asarray([(1 - level) / 2, (1 + level) / 2], jnp.float32)[:, None]
    low = jnp.zeros_like(first[..., 0, :]) * ends  # batch, ends, answers

    def halve(_, state):
        low, high, ends, *beta = state
        middle = (low + high) / 2
        below = _beta_distribution(middle[..., None, :], *beta).mean(axis=-2)
        return (
            jnp.where(below < ends, middle, low),
            jnp.where(below < ends, high, middle),
            *state[2:],
        )

    state = (low, low + 1, ends, first, second, height)
    low, high, *_ = lax.fori_loop(0, HALVINGS, halve, state)
    middle = (low + high) / 2
    return middle[..., 0, :], middle[..., 1, :]


def _stirling(z: Array) -> Array:
    """The logarithm of the gamma function, less Stirling's formula for it (DLMF 5.11.1)."""
    small = jnp.minimum(z, 8.0)  # of which the difference loses no digits
    formula = (small - 0.5) * jnp.log(small) - small + 0.5 * math.log(2 * math.pi)
    return jnp.where(z < 8, lax.lgamma(small) - formula, stirling_series(z))


def _beta_distribution(x: Array, first: Array, second: Array, height: Array) -> Float[Array, "..."]:
    """The regularised incomplete beta function of 0 < x < 1 (DLMF 8.17.22, by Lentz's method).

    Where concentrations are large, logarithms of gamma functions would cancel: `height` is the
    logarithm of the beta function, less what the density has at its mean.
    """
    upper = x > (first + 1) / (first + second + 2)
    a, b = jnp.where(upper, second, first), jnp.where(upper, first, second)
    y = jnp.where(upper, 1 - x, x)
    whole = a + b
    density = a * jnp.log(y * (whole / a)) + b * jnp.log((1 - y) * (whole / b))
    factor = jnp.exp(density - height) / a

    def nonzero(values: Array) -> Array:
        return jnp.where(jnp.abs(values) < TINY, TINY, values)

    def term(number, state):
        a, b, y, c, d, fraction = state
        m = jnp.asarray(number, jnp.float32)
        for numerator in (
            m * (b - m) * y / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * y / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / nonzero(1 + numerator * d)
            c = nonzero(1 + numerator / c)
            fraction = fraction * c * d
        return a, b, y, c, d, fraction

    d = 1 / nonzero(1 - (a + b) * y / (a + 1))
    state = (a, b, y, jnp.ones_like(d), d, d)
    *_, fraction = lax.fori_loop(1, TERMS, term, state)
    tail = factor * fraction
    return jnp.where(upper, 1 - tail, tail)
