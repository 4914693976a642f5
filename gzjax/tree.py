"""A decision tree as pure functions on arrays: outputs <-> conditional <-> cumulative fractions.

The *conditional* vote fraction of an answer is its fraction among the volunteers who were asked
its question. The *cumulative* one is that times the part of the crowd that was asked: the sum of
the cumulative fractions of the question's gates. So the answers of a question sum to its gates,
and those of a question that is always asked sum to 1. The tree itself is data, see `gzjax.trees`.

The functions take any leading batch shape, compute in float32 whatever they are given, are
differentiable and finite everywhere, and may be jitted; a `Tree` is a static argument. They raise
a ValueError where the last axis is not the tree's.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gzjax.trees import NAMES as NAMES
from gzjax.trees import Question as Question
from gzjax.trees import Tree
from gzjax.trees import load as load

ACTIVATIONS = ("relu", "softplus", "softmax")
CONCENTRATED = ("softplus", "softmax")  # those that are never 0

# Without the tree: each answer by itself, held to [0, 1] and nothing else.
UNTIED = "sigmoid"

# A question whose answers sum to less than this counts as not answered: published fractions are
# rounded to 1e-6, and dividing by less would blow up rounding errors and gradients.
EPSILON = 1e-6
# Of outputs that are exponentiated: beyond, float32 would give 0 or, at minus this, infinity.
LOWEST = -30.0


def conditional_fractions(
    outputs: Float[ArrayLike, "*batch answers"], tree: Tree, activation: str
) -> Float[Array, "*batch answers"]:
    """A network's outputs -> the fractions of each question's answers, given that it is asked.

    `relu` and `softplus` divide the activated outputs by their sum over the question (Dieleman,
    Willett & Dambre 2015, arXiv:1503.07077, eq. 2, is the `relu`); `softmax` is the softmax over
    the question's outputs. A question whose outputs are all negative has no opinion under `relu`:
    its answers become uniform, and no gradient passes, so start from a positive output bias.

    Raises:
      ValueError: the activation is none of `ACTIVATIONS`.
    """
    values = _last_axis(outputs, tree)
    if activation == "softmax":
        largest = jnp.stack(
            [jnp.max(values[..., question.columns], axis=-1) for question in tree.questions], -1
        )
        # The shift leaves the ratio as it is, so the gradient need not pass through it.
        positive = jnp.exp(values - jax.lax.stop_gradient(largest[..., tree.question_of]))
    elif activation == "relu":
        positive = jax.nn.relu(values)
    elif activation == "softplus":
        positive = jax.nn.softplus(jnp.maximum(values, LOWEST))
    else:
        raise ValueError(f"activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    # Only relu may leave a question without an opinion.
    return normalise(positive, tree, EPSILON if activation == "relu" else 0.0)[0]


def concentrations(
    outputs: Float[ArrayLike, "*batch answers"], tree: Tree, activation: str
) -> Float[Array, "*batch answers"]:
    """A network's outputs -> the concentrations of a Dirichlet distribution for each question.

    Their ratios are the `conditional_fractions`, their mean; the larger their sum, the narrower is
    the distribution. They are the outputs exponentiated (`softmax`) or after `softplus`: about 1
    for outputs about 0, so a network that has learnt nothing is sure of nothing.

    Raises:
      ValueError: another activation, under which they could be 0.
    """
    highest = -LOWEST if activation == "softmax" else None
    values = jnp.clip(_last_axis(outputs, tree), LOWEST, highest)
    if activation not in CONCENTRATED:
        raise ValueError(f"activation {activation!r}: expected one of {', '.join(CONCENTRATED)}")
    return jnp.exp(values) if activation == "softmax" else jax.nn.softplus(values)


def cumulative_fractions(
    conditional: Float[ArrayLike, "*batch answers"], tree: Tree
) -> Float[Array, "*batch answers"]:
    """Conditional fractions -> cumulative ones: each answer times the sum of its gates."""
    values = _last_axis(conditional, tree)
    cumulative: dict[int, Array] = {}  # by the question's position

    def column(gate: int) -> Array:
        position = tree.question_of[gate]
        return cumulative[position][..., gate - tree.questions[position].first, None]

    for question in tree.by_depth:
        answers = values[..., question.columns]
        if question.gates:
            answers = answers * sum(column(gate) for gate in question.gates)
        cumulative[question.number - 1] = answers
    return jnp.concatenate([part for _, part in sorted(cumulative.items())], axis=-1)


def fractions(
    outputs: Float[ArrayLike, "*batch answers"], tree: Tree, activation: str
) -> Float[Array, "*batch answers"]:
    """A network's outputs -> cumulative vote fractions, the whole way down the tree.

    The activation is one of `ACTIVATIONS`; or `UNTIED`, to see what the tree is worth.

    Examples:
      Without an opinion, a third of the crowd is asked whether a disk is edge-on, and a half of
      these say yes.

      >>> tree = load("gz2")
      >>> found = fractions(jnp.ones(tree.size), tree, "relu")
      >>> print(found[tree.questions[1].columns])
      [0.16666667 0.16666667]
    """
    if activation == UNTIED:
        return jax.nn.sigmoid(_last_axis(outputs, tree))
    return cumulative_fractions(conditional_fractions(outputs, tree, activation), tree)


def normalise(
    values: Float[ArrayLike, "*batch answers"], tree: Tree, least: float = EPSILON
) -> tuple[Float[Array, "*batch answers"], Float[Array, "*batch answers"]]:
    """Non-negative values / their question's sum, and 1 where that sum is above `least`.

    Where it is not, the answers are uniform. Both branches of the `where` are kept finite, so that
    the gradient is, too.
    """
    values = _last_axis(values, tree)
    total = sums(values, tree)[..., tree.question_of]
    asked = total > least
    uniform = 1.0 / tree.membership.sum(axis=0)[tree.question_of]
    fractions = jnp.where(asked, values / jnp.where(asked, total, 1.0), uniform)
    return fractions, asked.astype(jnp.float32)


def sums(
    values: Float[ArrayLike, "*batch answers"], tree: Tree
) -> Float[Array, "*batch questions"]:
    """The sum over each question's answers."""
    # Exact float32: on accelerators a matrix product would otherwise round to bfloat16 or TF32.
    return jnp.matmul(
        _last_axis(values, tree), tree.membership, precision=jax.lax.Precision.HIGHEST
    )


def violations(
    fractions: Float[ArrayLike, "*batch answers"], tree: Tree
) -> Float[Array, "*batch questions"]:
    """|sum of the answers - sum of the gates| of each question; 0 for rows that obey the tree.

    Examples:
      The answers to the first question sum to 1.5, not to 1.

      >>> tree = load("gz2")
      >>> print(violations(jnp.full(tree.size, 0.5), tree)[0])
      0.5
    """
    values = _last_axis(fractions, tree)
    asked = [
        values[..., list(question.gates)].sum(axis=-1)
        if question.gates
        else jnp.ones(values.shape[:-1])
        for question in tree.questions
    ]
    return jnp.abs(sums(values, tree) - jnp.stack(asked, axis=-1))


def _last_axis(values: ArrayLike, tree: Tree) -> Array:
    values = jnp.asarray(values, jnp.float32)
    if values.ndim == 0 or values.shape[-1] != tree.size:
        raise ValueError(
            f"expected a last axis of {tree.size} answers, found an array of shape {values.shape}"
        )
    return values
