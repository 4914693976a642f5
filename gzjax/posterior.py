"""What a model believes of vote fractions, how sure it is, and whether it is right to be.

A network that was trained by the votes' likelihood gives each question a Dirichlet distribution of
the fractions of its answers. Test-time views, and networks of an ensemble, are components of a
mixture, whose marginals are mixtures of beta distributions. Nothing is sampled: intervals are the
exact quantiles of those, to 1e-5.

Fractions are conditional here: of those who are asked the question. All is NumPy, in
float64, but for the likelihood, which is `votes.negative_log_likelihood`, in float32.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy import optimize, special
from scipy.optimize import elementwise

from gzjax.tree import Tree
from gzjax.votes import negative_log_likelihood

LEVELS = (0.5, 0.8, 0.9, 0.95)
# Galaxies whose marginals are in memory at a time.
CHUNK = 256

Answers = Float[np.ndarray, "galaxies answers"]


class Posterior(NamedTuple):
    """A mixture of Dirichlet distributions for each galaxy and question.

    concentrations: of each component, a view of a network, and each answer.
    shares: of the components in the mixture; they sum to 1.
    tree: of the answers.
    ids: GalaxyIDs, where they are known.
    faults: why an image could not be read, "" where it could; its concentrations are NaN.
    """

    concentrations: Float[np.ndarray, "galaxies components answers"]
    shares: Float[np.ndarray, " components"]
    tree: Tree
    ids: Sequence[str] = ()
    faults: Sequence[str] = ()

    def tempered(self, temperature: float) -> "Posterior":
        """The same means; above 1 broader, as if of fewer volunteers, below 1 narrower."""
        return self._replace(concentrations=self.concentrations / temperature)

    def mean(self) -> Answers:
        """The expected fractions."""
        first, second = self._beta()
        return _mixed(first / (first + second), self.shares)

    def interval(
        self, level: float = 0.9, volunteers: int | None = None
    ) -> tuple[Answers, Answers]:
        """The ends of the central interval of each answer's fraction.

        Of the underlying fraction, or of what this many volunteers, asked the question, would say.
        """
        if not 0 < level < 1 or (volunteers is not None and volunteers < 1):
            expected = "a level between 0 and 1, and at least one volunteer"
            raise ValueError(f"expected {expected}, found {level} and {volunteers}")
        ends = ((1 - level) / 2, (1 + level) / 2)
        if volunteers is None:
            low, high = (self._by_galaxy(functools.partial(_beta_quantile, p=end)) for end in ends)
        else:
            found = functools.partial(_binomial_quantiles, number=volunteers, ends=ends)
            both = self._by_galaxy(found)
            low, high = both[..., 0], both[..., 1]
        return low, high

    def pit(self, votes: Answers, seed: int = 0) -> Answers:
        """The probability integral transform of votes, randomised; NaN where there are none.

        Of k of N volunteers it is P(less than k) + u P(k), u uniform (Czado, Gneiting & Held 2009,
        Biometrics 65, 1254, eq. 2): uniform itself, if votes are drawn from the posterior. Votes
        are rounded to whole ones.
        """
        counts = np.rint(np.nan_to_num(votes)).astype(int)
        numbers = counts @ self.tree.membership.astype(int)[:, self.tree.question_of]
        uniform = np.random.default_rng(seed).random(counts.shape)
        below, at = np.moveaxis(self._by_galaxy(_binomial, counts, numbers), -1, 0)
        return np.where(numbers > 0, below + uniform * at, np.nan)

    def log_likelihood(self, votes: Answers) -> float:
        """Of all galaxies' votes; the mixture of each question's Dirichlet-multinomials.

        Galaxies of which nothing is known, whose images could not be read, do not count.
        """
        each = -np.asarray(
            _negative_log_likelihood(self.concentrations, votes[:, None], self.tree), np.float64
        )
        known = ~np.isnan(self.concentrations).any(axis=(1, 2))
        return float(special.logsumexp(each[known], axis=1, b=self.shares[:, None]).sum())

    def _beta(self) -> tuple[np.ndarray, np.ndarray]:
        """Parameters of the marginals, beta distributions: of an answer, and of all others."""
        first = self.concentrations.astype(np.float64)
        whole = (first @ self.tree.membership)[..., self.tree.question_of]
        return first, np.maximum(whole - first, 1e-9)

    def _by_galaxy(self, function: Callable[..., np.ndarray], *others: np.ndarray) -> np.ndarray:
        """A function of the marginals and their shares, some galaxies at a time."""
        found = [
            function(*self._replace(concentrations=self.concentrations[some])._beta(),
                     self.shares, *(other[some] for other in others))
            for first in range(0, len(self.concentrations), CHUNK)
            for some in [slice(first, first + CHUNK)]
        ]  # fmt: skip
        return np.concatenate(found)


_negative_log_likelihood = jax.jit(negative_log_likelihood, static_argnames="tree")


def _mixed(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    return np.einsum("gc...,c->g...", values, shares)


def _beta_quantile(
    first: np.ndarray, second: np.ndarray, shares: np.ndarray, p: float
) -> np.ndarray:
    def excess(x: np.ndarray, galaxy: np.ndarray, answer: np.ndarray) -> np.ndarray:
        below = special.betainc(first[galaxy, :, answer], second[galaxy, :, answer], x[..., None])
        return below @ shares - p

    galaxy, answer = np.indices((len(first), first.shape[-1]))
    found = elementwise.find_root(
        excess, (np.zeros(galaxy.shape), np.ones(galaxy.shape)), args=(galaxy, answer),
        tolerances={"xatol": 1e-5, "xrtol": 1e-5},
    )  # fmt: skip
    return np.where(np.isnan(first).any(axis=1), np.nan, found.x)


def _steps(first: np.ndarray, second: np.ndarray, numbers: np.ndarray, most: int) -> Any:
    """Yields k and the beta-binomial probabilities of k of `numbers` volunteers, k = 0 ... most."""
    n = numbers[:, None, :].astype(np.float64)
    # In logarithms: the probability of none may be too small a number, and others are made of it.
    logarithm = special.betaln(first, second + n) - special.betaln(first, second)
    for k in range(most + 1):
        yield k, np.exp(logarithm)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (n - k) * (first + k) / ((k + 1) * (second + n - k - 1))
            logarithm = np.where(k < n, logarithm + np.log(ratio), -np.inf)


def _binomial(
    first: np.ndarray,
    second: np.ndarray,
    shares: np.ndarray,
    counts: np.ndarray,
    numbers: np.ndarray,
) -> np.ndarray:
    """The probabilities of fewer than `counts` of `numbers`, and of just as many."""
    below, at = np.zeros(counts.shape), np.zeros(counts.shape)
    for k, each in _steps(first, second, numbers, int(counts.max(initial=0))):
        probability = _mixed(each, shares)
        below += np.where(k < counts, probability, 0.0)
        at += np.where(k == counts, probability, 0.0)
    return np.stack([below, at], axis=-1)


def _binomial_quantiles(
    first: np.ndarray, second: np.ndarray, shares: np.ndarray, number: int, ends: Sequence[float]
) -> np.ndarray:
    """The smallest fractions of `number` volunteers that are reached with the probabilities."""
    below = np.zeros((len(first), first.shape[-1], 1))
    found = np.zeros((*below.shape[:2], len(ends)))
    numbers = np.full(below.shape[:2], number)
    for _, each in _steps(first, second, numbers, number):
        below += _mixed(each, shares)[..., None]
        found += below < np.asarray(ends) - 1e-12
    found = np.minimum(found, number) / number
    return np.where(np.isnan(first).any(axis=1)[..., None], np.nan, found)


def fit_temperature(posterior: Posterior, votes: Answers) -> float:
    """The temperature under which votes that were not trained on are most likely.

    It is 1 where they cannot tell, as no question of a predicted galaxy has two votes: the
    likelihood of one goes by the mean alone.
    """
    numbers = np.nan_to_num(votes) @ posterior.tree.membership
    known = ~np.isnan(posterior.concentrations).any(axis=(1, 2))
    if not (numbers[known] >= 2).any():
        return 1.0
    found = optimize.minimize_scalar(
        lambda log: -posterior.tempered(np.exp(log)).log_likelihood(votes),
        bounds=(-4.0, 4.0),
        method="bounded",
        options={"xatol": 1e-2},
    )
    return float(np.exp(found.x))


def coverage(posterior: Posterior, votes: Answers, seed: int = 0) -> dict[str, Any]:
    """How often central intervals hold what the crowd said, by the randomised PIT.

    Returns:
      `levels`: {"50" | "80" | "90" | "95": `covered`, over all answers of all galaxies, and its
      standard `error`, for which the answers of one galaxy count as one}; `questions` and
      `answers`: {name: `galaxies`, and `covered` at 90 % with its binomial `error`, that of as
      many galaxies}; `pit`: what part of all falls into each tenth.
    """
    values = posterior.pit(votes, seed)
    there = ~np.isnan(values)
    number = int(there.sum())
    distance = np.abs(values - 0.5)
    levels: dict[str, Any] = {}
    for level in LEVELS:
        inside = there & (distance <= level / 2)
        share = float(inside.sum() / number) if number else None
        error = None
        if share is not None:
            residuals = inside.sum(axis=1) - share * there.sum(axis=1)
            error = float(np.sqrt(np.square(residuals).sum()) / number)
        levels[f"{level:.0%}".rstrip("%")] = {"covered": share, "error": error}
    tree = posterior.tree
    answers = {column: _share(distance[:, [place]]) for place, column in enumerate(tree.columns)}
    questions = {each.name: _share(distance[:, each.columns]) for each in tree.questions}
    tenths = np.histogram(values[there], 10, (0.0, 1.0))[0] / max(number, 1)
    return {
        "levels": levels,
        "questions": questions,
        "answers": answers,
        "pit": tenths.tolist(),
    }


def _share(distance: np.ndarray) -> dict[str, Any]:
    """How often 90 % intervals hold some answers of the galaxies that have votes on them."""
    there = ~np.isnan(distance).all(axis=1)
    galaxies = int(there.sum())
    if not galaxies:
        return {"galaxies": 0, "covered": None, "error": None}
    share = float((distance[there] <= 0.45).mean())
    return {
        "galaxies": galaxies,
        "covered": share,
        "error": float(np.sqrt(share * (1 - share) / galaxies)),
    }
