"""What training minimises: MSE, focal loss, KL divergence, likelihood, and their weighting.

Each loss returns one value per galaxy, so that padding can be masked out before averaging; a
question that nobody knows adds nothing to it. Fractions are float32, whatever the network computed
in.

To add a loss: write a function (predicted, observed, ...) -> float32[batch], give it a name in
`TERMS`, and call it in `objective`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gzjax.settings import Settings, choice, is_number, number, setting
from gzjax.tree import (
    ACTIVATIONS,
    CONCENTRATED,
    UNTIED,
    Tree,
    concentrations,
    conditional_fractions,
    fractions,
)
from gzjax.votes import conditional, cumulative, negative_log_likelihood

TERMS = ("mse", "focal", "kl", "dirichlet")

# Keeps logarithms finite; a fraction below one part in ten million is none.
TINY = 1e-7

Fractions = Float[Array, "batch answers"]
Galaxies = Float[Array, " batch"]
Scalar = Float[Array, ""]
Scalars = dict[str, Scalar]


def _are_weights(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_number(w) and w >= 0 for w in value)


@dataclasses.dataclass(frozen=True)
class Objective(Settings):
    """What is minimised, and how.

    activation: of the outputs, on their way to fractions; see `tree.fractions`.
    targets: `cumulative` compares cumulative vote fractions; `conditional` stops one step
      earlier, before the gates: it compares each question's fractions among those who answered
      it, where anybody did.
    terms: the losses: MSE over all answers; focal loss and KL divergence of question 1; the
      Dirichlet-multinomial likelihood of the votes, see `votes.negative_log_likelihood`, from
      which predictions have intervals.
    weighting: `dynamic`, see `dynamic_weights`, or `fixed`.
    weights: of MSE, focal loss, KL divergence and likelihood where the weighting is fixed.
    decay: of the losses' running means, a step.
    gamma: see `focal_loss`.
    class_weights: see `focal_loss`; one per answer of question 1, or none.
    """

    activation: str = choice("relu", (*ACTIVATIONS, UNTIED))
    targets: str = choice("cumulative", ("cumulative", "conditional"))
    terms: tuple[str, ...] = setting(
        TERMS[:3],
        f"some of {', '.join(TERMS)}, each once",
        lambda value: isinstance(value, tuple) and 0 < len(value) == len(set(value) & set(TERMS)),
    )
    weighting: str = choice("dynamic", ("dynamic", "fixed"))
    weights: tuple[float, ...] = setting(
        (1.0,) * len(TERMS),
        f"{len(TERMS)} weights of 0 or more, for {', '.join(TERMS)}",
        lambda value: _are_weights(value) and len(value) == len(TERMS),
    )
    # In float32, a running mean over more than 10^6 steps would never move.
    decay: float = number(0.99, least=0, most=0.999999)
    gamma: float = number(2.0, least=0)
    class_weights: tuple[float, ...] = setting(
        (),
        "none, or weights of 0 or more, not all 0",
        lambda value: _are_weights(value) and (not value or any(value)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = dict(zip(TERMS, self.weights, strict=True))
        if self.weighting == "fixed" and not any(weights[term] for term in self.terms):
            self.fail("weights", f"one above 0 among those of {', '.join(self.terms)}", "only 0")
        untied = f"with the activation {UNTIED}"
        if self.activation == UNTIED and self.targets == "conditional":
            self.fail("targets", f"cumulative {untied}", self.targets)
        if self.activation == UNTIED and self.terms != ("mse",):
            expected = f"mse alone {untied}, as the others need fractions that sum to 1"
            self.fail("terms", expected, ", ".join(self.terms))
        if self.has_intervals and self.activation not in CONCENTRATED:
            expected = f"{' or '.join(CONCENTRATED)} with the term dirichlet"
            self.fail("activation", expected, self.activation)

    @property
    def has_intervals(self) -> bool:
        """Whether the outputs become concentrations, from which predictions have intervals."""
        return "dirichlet" in self.terms

    def check_tree(self, tree: Tree) -> None:
        """Raises a UserError if the class weights are not as many as question 1's answers."""
        first, given = tree.questions[0], len(self.class_weights)
        if given not in (0, len(first.answers)):
            expected = f"none or {len(first.answers)}, one for each answer of {first.name}"
            self.fail("class_weights", expected, str(given))


def mean_squared_error(predicted: Fractions, observed: Fractions, known: Fractions) -> Galaxies:
    """The squared errors of known answers (1; else 0), over the number of all the tree's.

    So each answer has the weight that it has in the score, however many others are known.

    Examples:
      The second answer is not known.

      >>> predicted, observed = jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]])
      >>> print(mean_squared_error(predicted, observed, jnp.array([[1.0, 0.0]])))
      [0.125]
    """
    return jnp.mean(jnp.square(predicted - observed) * known, axis=-1)


def focal_loss(
    predicted: Fractions,
    observed: Fractions,
    gamma: float = 2.0,
    class_weights: Sequence[float] = (),
) -> Galaxies:
    """Focal loss of one question with soft targets: -sum w p (1 - q)^gamma log q.

    Lin et al. 2017 (arXiv:1708.02002), eq. 5, summed over the answers with the observed fraction
    p in place of the one-hot label; q is the predicted fraction. Both sum to 1. Gamma is how
    strongly answers that are already predicted with confidence are down-weighted; the class
    weights w (alpha in the paper), one per answer or none, balance rare answers. With gamma = 0
    and no class weights it is the cross-entropy.

    Examples:
      An answer that is predicted with confidence counts for little.

      >>> predicted, observed = jnp.array([[0.5, 0.5], [0.9, 0.1]]), jnp.array([[1.0, 0.0]] * 2)
      >>> print(focal_loss(predicted, observed).round(4))
      [0.1733 0.0011]
    """
    predicted = jnp.clip(predicted, TINY, 1.0)
    # 1 - q reaches 0, where a power below 1 has no finite gradient.
    unsure = jnp.maximum(1.0 - predicted, TINY) ** gamma
    terms = -observed * unsure * jnp.log(predicted)
    if class_weights:
        terms = terms * jnp.asarray(class_weights, jnp.float32)
    return jnp.sum(terms, axis=-1)


def kl_divergence(predicted: Fractions, observed: Fractions) -> Galaxies:
    """Kullback-Leibler divergence of one question: sum p log(p / q), in nats.

    The observed fractions p and the predicted ones q sum to 1. An answer with p = 0 adds nothing.

    Examples:
      >>> print(kl_divergence(jnp.array([[0.5, 0.5]]), jnp.array([[1.0, 0.0]])).round(4))
      [0.6931]
    """
    predicted = jnp.clip(predicted, TINY, 1.0)
    observed_log = jnp.log(jnp.clip(observed, TINY, 1.0))
    return jnp.sum(observed * (observed_log - jnp.log(predicted)), axis=-1)


def masked_mean(values: Galaxies, mask: Galaxies) -> Scalar:
    """The mean over the galaxies with mask 1; 0 if there is none."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def init_means(terms: Sequence[str]) -> optax.EmaState:
    """Running means of `terms` that have seen nothing yet."""
    return optax.ema(0.0).init({term: jnp.zeros(()) for term in terms})


def dynamic_weights(means: Scalars, known: Scalars) -> Scalars:
    """Weights inversely proportional to each loss's running mean, summing to 1.

    So the weighted losses have, in the running mean over the galaxies of which they are known, the
    same size, and each gets the same attention. A loss that has fallen to zero counts as a
    millionth. One that is not `known` (0; else 1), as no galaxy of the batch tells anything of it,
    leaves its weight to the others.

    Examples:
      >>> means = {"mse": jnp.array(0.01), "kl": jnp.array(0.03)}
      >>> weights = dynamic_weights(means, {"mse": jnp.ones(()), "kl": jnp.ones(())})
      >>> {term: round(float(weight), 3) for term, weight in weights.items()}
      {'mse': 0.75, 'kl': 0.25}
    """
    inverse = {term: known[term] / jnp.maximum(mean, 1e-6) for term, mean in means.items()}
    whole = jnp.maximum(sum(inverse.values()), TINY)
    return {term: value / whole for term, value in inverse.items()}


def fixed_weights(settings: Objective) -> Scalars:
    """The weights of the objective's terms, scaled to sum to 1."""
    weights = {term: settings.weights[TERMS.index(term)] for term in settings.terms}
    whole = sum(weights.values())
    return {term: jnp.asarray(weight / whole, jnp.float32) for term, weight in weights.items()}


def objective(
    settings: Objective,
    tree: Tree,
    outputs: Fractions,
    votes: Fractions,
    mask: Galaxies,
    means: optax.EmaState,
) -> tuple[Scalar, tuple[optax.EmaState, Scalars]]:
    """From the network's outputs to the loss, through the tree.

    Args:
      settings: what is minimised.
      tree: of the answers.
      outputs: of the network.
      votes: of the crowd, NaN where nobody knows; see `gzjax.votes`.
      mask: 0 for padding.
      means: the terms' running means before this batch.

    Returns:
      The loss; the running means after this batch, through which no gradient passes; and for the
      record each term's mean (`mse`, ...) and weight (`weight_mse`, ...).
    """
    if settings.targets == "conditional":
        predicted = conditional_fractions(outputs, tree, settings.activation)
        observed, known = conditional(votes, tree)
    else:
        predicted = fractions(outputs, tree, settings.activation)
        observed, known = cumulative(votes, tree)
    first = tree.questions[0].columns
    q, p, asked = predicted[:, first], observed[:, first], known[:, first.start]

    def likelihood() -> Galaxies:
        believed = concentrations(outputs, tree, settings.activation)
        return negative_log_likelihood(believed, votes, tree).sum(axis=-1)

    terms = {
        "mse": lambda: mean_squared_error(predicted, observed, known),
        "focal": lambda: asked * focal_loss(q, p, settings.gamma, settings.class_weights),
        "kl": lambda: asked * kl_divergence(q, p),
        "dirichlet": likelihood,
    }
    values = {term: terms[term]() for term in settings.terms}
    losses = {term: masked_mean(values[term], mask) for term in values}
    # The running means are those of galaxies that a term is known of; without one they stay.
    voted = conditional(votes, tree)[1]
    of_terms = {"focal": asked, "kl": asked, "mse": known, "dirichlet": voted}
    knows = {term: mask * of_terms[term].reshape(len(mask), -1).max(axis=-1) for term in values}
    told = {term: jnp.minimum(jnp.sum(knows[term]), 1.0) for term in values}
    debias, debias_next = (1 - settings.decay ** jnp.maximum(means.count + n, 1) for n in (0, 1))

    def following(term: str, so_far: Scalar) -> Scalar:
        found = masked_mean(values[term], knows[term])
        # A term's first mean is that of its first batch, however many went before without it.
        first = found * debias_next / (1 - settings.decay)
        return jnp.where(told[term] > 0, jnp.where(so_far != 0, found, first), so_far / debias)

    followed = {term: following(term, so_far) for term, so_far in means.ema.items()}
    averaged, means = optax.ema(settings.decay).update(jax.lax.stop_gradient(followed), means)
    dynamic = settings.weighting == "dynamic"
    weights = dynamic_weights(averaged, told) if dynamic else fixed_weights(settings)
    loss = sum((weights[term] * losses[term] for term in losses), jnp.zeros(()))
    return loss, (means, losses | {f"weight_{term}": weights[term] for term in weights})
