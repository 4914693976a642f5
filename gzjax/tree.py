"""A decision tree as pure functions on arrays: outputs <-> conditional <-> cumulative fractions.

The *conditional* vote fraction of an answer is its fraction among the volunteers who were asked
its question. The *cumulative* one is that times the part of the crowd that was asked: the sum of
the cumulative fractions of the question's gates. So the answers of a question sum to its gates,
and those of a question that is always asked sum to 1. The tree itself is data, see `gzjax.trees`.

Source: Dieleman, Willett & Dambre 2015 (arXiv:1503.07077), section 7.3, for the normalisation of
a network's outputs.

The functions take any leading batch shape, compute in float32 whatever they are given, are
differentiable and finite everywhere, and may be jitted; a `Tree` is a static argument.
"""

import functools
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gzjax.trees import NAMES, Question, Tree, load

__all__ = [
    "ACTIVATIONS",
    "EPSILON",
    "NAMES",
    "UNTIED",
    "Question",
    "Tree",
    "conditional_fractions",
    "conditional_labels",
    "cumulative_fractions",
    "fractions",
    "load",
    "violations",
]

ACTIVATIONS = ("relu", "softplus", "softmax")

# Without the tree: each answer by itself, held to [0, 1] and nothing else.
UNTIED = "sigmoid"

# A question whose answers sum to less than this counts as not answered: published fractions are
# rounded to 1e-6, and dividing by less would blow up rounding errors and gradients.
EPSILON = 1e-6


def conditional_fractions(
    outputs: Float[ArrayLike, "*batch answers"], tree: Tree, activation: str
) -> Float[Array, "*batch answers"]:
    """A network's outputs -> the fractions of each question's answers, given that it is asked.

    `relu` and `softplus` divide the activated outputs by their sum over the question
    (arXiv:1503.07077, eq. 2, is the `relu`); `softmax` is the softmax over the question's
    outputs. A question whose outputs are all negative has no opinion under `relu`: its answers
    become uniform, and no gradient passes, so start from a positive output bias.

    Args:
      outputs: any real values.
      tree: the decision tree.
      activation: one of `ACTIVATIONS`.

    Returns:
      float32 in [0, 1]; each question's answers sum to 1.

    Raises:
      ValueError: unknown activation, or a last axis that is not the tree's.
    """
    values = _last_axis(outputs, tree)
    if activation == "softmax":
        largest = jnp.stack(
            [jnp.max(values[..., question.columns], axis=-1) for question in tree.questions], -1
        )
        # The shift leaves the ratio as it is, so the gradient need not pass through it.
        positive = jnp.exp(values - jax.lax.stop_gradient(_spread(largest, tree)))
    elif activation == "relu":
        positive = jax.nn.relu(values)
    elif activation == "softplus":
        positive = jax.nn.softplus(values)
    else:
        raise ValueError(f"activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    return _divide_by_question(positive, tree)[0]


def cumulative_fractions(
    conditional: Float[ArrayLike, "*batch answers"], tree: Tree
) -> Float[Array, "*batch answers"]:
    """Conditional fractions -> cumulative vote fractions.

    Args:
      conditional: in [0, 1], each question's answers summing to 1.
      tree: the decision tree.

    Returns:
      float32: each answer times the sum of its question's gates, which are cumulative themselves.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    values = _last_axis(conditional, tree)
    questions: dict[int, Array] = {}

    def column(gate: int) -> Array:
        parent = tree.questions[tree.question_of[gate]]
        return questions[parent.number][..., gate - parent.first, None]

    for question in tree.by_depth:
        answers = values[..., question.columns]
        if question.gates:
            answers = answers * _sum(column(gate) for gate in question.gates)
        questions[question.number] = answers
    return jnp.concatenate([questions[question.number] for question in tree.questions], axis=-1)


def fractions(
    outputs: Float[ArrayLike, "*batch answers"], tree: Tree, activation: str
) -> Float[Array, "*batch answers"]:
    """A network's outputs -> cumulative vote fractions, the whole way down the tree.

    Args:
      outputs: any real values.
      tree: the decision tree.
      activation: one of `ACTIVATIONS`; or `UNTIED`, to see what the tree is worth.

    Returns:
      float32 in [0, 1]; unless untied, each question's answers sum to its gates.
    """
    if activation == UNTIED:
        return jax.nn.sigmoid(_last_axis(outputs, tree))
    return cumulative_fractions(conditional_fractions(outputs, tree, activation), tree)


def conditional_labels(
    fractions: Float[ArrayLike, "*batch answers"], tree: Tree
) -> tuple[Float[Array, "*batch answers"], Float[Array, "*batch answers"]]:
    """Cumulative vote fractions -> conditional fractions, with a mask of the questions asked.

    Args:
      fractions: cumulative.
      tree: the decision tree.

    Returns:
      conditional: float32; uniform for a question nobody reached.
      mask: float32; 0 for the answers of a question that nobody reached, 1 elsewhere.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    return _divide_by_question(_last_axis(fractions, tree), tree)


def violations(
    fractions: Float[ArrayLike, "*batch answers"], tree: Tree
) -> Float[Array, "*batch questions"]:
    """How far each question's answers are from summing to their gates.

    Args:
      fractions: cumulative.
      tree: the decision tree.

    Returns:
      float32: |sum of the answers - sum of the gates|, 0 for a row that obeys the tree.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    values = _last_axis(fractions, tree)
    gates = [
        _sum(values[..., gate] for gate in question.gates)
        if question.gates
        else jnp.ones_like(values[..., 0])
        for question in tree.questions
    ]
    return jnp.abs(_question_sums(values, tree) - jnp.stack(gates, axis=-1))


def _sum(terms: Iterator[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _last_axis(values: ArrayLike, tree: Tree) -> Array:
    values = jnp.asarray(values, jnp.float32)
    if values.ndim == 0 or values.shape[-1] != tree.size:
        raise ValueError(
            f"expected a last axis of {tree.size} answers, found an array of shape {values.shape}"
        )
    return values


def _question_sums(values: Array, tree: Tree) -> Array:
    # Exact float32: on accelerators a matrix product would otherwise round to bfloat16 or TF32.
    return jnp.matmul(values, tree.membership, precision=jax.lax.Precision.HIGHEST)


def _spread(per_question: ArrayLike, tree: Tree) -> Array:
    return jnp.asarray(per_question)[..., tree.question_of]


def _divide_by_question(values: Array, tree: Tree) -> tuple[Array, Array]:
    """Non-negative values / their question's sum, and 1 where that sum is not zero.

    Where it is zero the answers are uniform. Both branches of the `where` are kept finite, so
    that the gradient is, too.
    """
    sums = _question_sums(values, tree)
    asked = sums > EPSILON
    fractions = values / _spread(jnp.where(asked, sums, 1.0), tree)
    counts = np.asarray([len(question.answers) for question in tree.questions], np.float32)
    mask = _spread(asked, tree)
    return jnp.where(mask, fractions, _spread(1.0 / counts, tree)), mask.astype(jnp.float32)
