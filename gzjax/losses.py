"""What training reduces: MSE, focal loss and KL divergence, and their dynamic weighting.

Each loss returns one value per galaxy, so that padding can be masked out before averaging.
Fractions go in as float32, whatever the network computed in.

To add a loss: write a function (predicted, observed, ...) -> float32[batch], and give it a name
in `per_galaxy`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gzjax import tree
from gzjax.tree import GALAXY_ZOO_2, Tree

TERMS = ("mse", "focal", "kl")
WEIGHTINGS = ("dynamic", "fixed")
TARGETS = ("cumulative", "conditional")

# Keeps logarithms finite; a fraction below one part in ten million is none.
TINY = 1e-7


def mean_squared_error(
    predicted: jax.Array, observed: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """The mean over the answers of the squared error.

    Args:
      predicted: float[batch, answers] vote fractions.
      observed: float[batch, answers] vote fractions.
      mask: float[batch, answers] or None; answers with 0 do not count. A galaxy without any
        answer that counts has loss 0.

    Returns:
      float32[batch].
    """
    squared = jnp.square(predicted - observed)
    if mask is None:
        return jnp.mean(squared, axis=-1)
    return jnp.sum(squared * mask, axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1.0)


def focal_loss(
    predicted: jax.Array,
    observed: jax.Array,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
) -> jax.Array:
    """Focal loss of one question with soft targets: -sum w p (1 - q)^gamma log q.

    Lin et al. 2017 (arXiv:1708.02002), eq. 5, summed over the answers with the observed fraction
    p in place of the one-hot label; q is the predicted fraction. With gamma = 0 and no class
    weights it is the cross-entropy.

    Args:
      predicted: float[batch, answers], summing to 1.
      observed: float[batch, answers], summing to 1.
      gamma: how strongly answers already predicted with confidence are left aside, >= 0.
      class_weights: one weight per answer (alpha in the paper), to balance rare answers.

    Returns:
      float32[batch].
    """
    predicted = jnp.clip(predicted, TINY, 1.0)
    # 1 - q reaches 0, where a power below 1 has no finite gradient.
    unsure = jnp.maximum(1.0 - predicted, TINY) ** gamma
    terms = -observed * unsure * jnp.log(predicted)
    if class_weights is not None:
        terms = terms * jnp.asarray(class_weights, jnp.float32)
    return jnp.sum(terms, axis=-1)


def kl_divergence(predicted: jax.Array, observed: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of one question: sum p log(p / q), in nats.

    Args:
      predicted: float[batch, answers], summing to 1 (q).
      observed: float[batch, answers], summing to 1 (p); an answer with p = 0 contributes 0.

    Returns:
      float32[batch], 0 where both agree.
    """
    predicted = jnp.clip(predicted, TINY, 1.0)
    observed_log = jnp.log(jnp.clip(observed, TINY, 1.0))
    return jnp.sum(observed * (observed_log - jnp.log(predicted)), axis=-1)


def per_galaxy(
    predicted: jax.Array,
    observed: jax.Array,
    first_question: slice,
    *,
    terms: Sequence[str] = TERMS,
    mask: jax.Array | None = None,
    gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
) -> dict[str, jax.Array]:
    """Each asked-for loss of each galaxy: MSE over all answers, focal and KL over question 1.

    Args:
      predicted: float[batch, answers] vote fractions.
      observed: float[batch, answers] vote fractions.
      first_question: the columns of the question that focal and KL look at.
      terms: which of `TERMS`.
      mask: float[batch, answers] for the MSE, or None.
      gamma: see `focal_loss`.
      class_weights: see `focal_loss`.

    Returns:
      {term: float32[batch]}.

    Raises:
      ValueError: no term, or an unknown one.
    """
    if not terms or not set(terms) <= set(TERMS):
        raise ValueError(f"loss terms {tuple(terms)}: expected some of {', '.join(TERMS)}")
    predicted_first, observed_first = predicted[:, first_question], observed[:, first_question]
    losses = {
        "mse": lambda: mean_squared_error(predicted, observed, mask),
        "focal": lambda: focal_loss(predicted_first, observed_first, gamma, class_weights),
        "kl": lambda: kl_divergence(predicted_first, observed_first),
    }
    return {term: losses[term]() for term in terms}


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of values[batch] over the galaxies with mask 1; 0 if there is none."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


class RunningMeans(NamedTuple):
    """Exponentially decaying sums of each loss, and of 1; their ratio is the unbiased mean."""

    sums: dict[str, jax.Array]
    total: jax.Array


def init_means(terms: Sequence[str]) -> RunningMeans:
    """Running means of `terms` that have seen nothing yet."""
    return RunningMeans({term: jnp.zeros(()) for term in terms}, jnp.zeros(()))


def update_means(
    means: RunningMeans, losses: Mapping[str, jax.Array], decay: float = 0.99
) -> RunningMeans:
    """One step of the running means.

    Dividing by the total weight is the bias correction of Adam (Kingma & Ba 2015,
    arXiv:1412.6980, section 3). No gradient passes.
    """
    return RunningMeans(
        {
            term: decay * total + (1 - decay) * jax.lax.stop_gradient(losses[term])
            for term, total in means.sums.items()
        },
        decay * means.total + (1 - decay),
    )


def dynamic_weights(means: RunningMeans) -> dict[str, jax.Array]:
    """Weights inversely proportional to each loss's running mean, summing to 1.

    So each weighted loss is, in the running mean, as large as every other: equal attention is
    paid to reduce all of them. A loss that has fallen to zero is held at a millionth.
    """
    inverse = {
        term: 1.0 / jnp.maximum(total / jnp.maximum(means.total, TINY), 1e-6)
        for term, total in means.sums.items()
    }
    whole = sum(inverse.values())
    return {term: jax.lax.stop_gradient(value / whole) for term, value in inverse.items()}


def fixed_weights(weights: Mapping[str, float], terms: Sequence[str]) -> dict[str, jax.Array]:
    """The given weights of `terms`, scaled to sum to 1."""
    whole = sum(weights[term] for term in terms)
    return {term: jnp.asarray(weights[term] / whole, jnp.float32) for term in terms}


def weighted_sum(losses: Mapping[str, jax.Array], weights: Mapping[str, jax.Array]) -> jax.Array:
    """The one number whose gradient training follows."""
    return sum((weights[term] * losses[term] for term in losses), jnp.zeros(()))


class Objective(NamedTuple):
    """What is reduced, and how: the settings of `objective`."""

    activation: str = "relu"
    targets: str = "cumulative"
    terms: tuple[str, ...] = TERMS
    weighting: str = "dynamic"
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    decay: float = 0.99
    gamma: float = 2.0
    class_weights: tuple[float, ...] | None = None
    tree: Tree = GALAXY_ZOO_2


def objective(
    settings: Objective,
    outputs: jax.Array,
    fractions: jax.Array,
    mask: jax.Array,
    means: RunningMeans,
) -> tuple[jax.Array, tuple[RunningMeans, dict[str, jax.Array]]]:
    """From the network's outputs to the loss, through the tree.

    With `cumulative` targets the outputs go the whole way down the tree and are compared with the
    vote fractions. With `conditional` targets the last step, the gates, is left out: each
    question is compared with the fractions among those who answered it, where anybody did.

    Args:
      settings: which fractions are compared, by which losses, in what mixture.
      outputs: float[batch, answers], of the network.
      fractions: float32[batch, answers], the crowd's cumulative vote fractions.
      mask: float32[batch]; 0 for padding.
      means: the losses' running means, before this batch.

    Returns:
      The loss, float32[]; and beside it the running means after this batch, and for the record
      each term's mean (`mse`, ...) and weight (`weight_mse`, ...).

    Raises:
      ValueError: an unknown setting.
    """
    if settings.targets == "conditional":
        predicted = tree.conditional_fractions(outputs, settings.activation, settings.tree)
        observed, asked = tree.conditional_labels(fractions, settings.tree)
    elif settings.targets == "cumulative":
        predicted = tree.fractions(outputs, settings.activation, settings.tree)
        observed, asked = fractions, None
    else:
        raise ValueError(f"targets {settings.targets!r}: expected one of {', '.join(TARGETS)}")
    each = per_galaxy(
        predicted,
        observed,
        settings.tree.questions[0].columns,
        terms=settings.terms,
        mask=asked,
        gamma=settings.gamma,
        class_weights=settings.class_weights,
    )
    losses = {term: masked_mean(values, mask) for term, values in each.items()}
    means = update_means(means, losses, settings.decay)
    if settings.weighting == "dynamic":
        weights = dynamic_weights(means)
    elif settings.weighting == "fixed":
        weights = fixed_weights(dict(zip(TERMS, settings.weights, strict=True)), settings.terms)
    else:
        raise ValueError(
            f"weighting {settings.weighting!r}: expected one of {', '.join(WEIGHTINGS)}"
        )
    record = losses | {f"weight_{term}": weight for term, weight in weights.items()}
    return weighted_sum(losses, weights), (means, record)
