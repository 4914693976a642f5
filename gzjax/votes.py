"""What the crowd said: votes as counts, the fractions that follow from them, and their likelihood.

Votes are float32[..., answers]: how many volunteers gave each answer, perhaps weighted and so no
whole numbers. NaN means that nobody knows: the catalogue lacks the question, all of whose answers
are NaN together. Such a question contributes to no loss, gradient or score. That is not the same
as a question that nobody was asked, whose votes are 0.

Pure functions of arrays, as those of `gzjax.tree`; `gzjax.posterior` has what follows for
predictions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from gzjax.tree import Tree, cumulative_fractions, normalise, sums

# A question with fewer votes counts as not asked. Fractions of 40 volunteers, rounded to 1e-6,
# leave 4e-5 votes behind where there was none.
FEWEST = 1e-3
# A question that a smaller part of the crowd reaches has fractions of 0, voted on or not.
UNREACHED = 1e-5

Votes = Float[ArrayLike, "*batch answers"]
Fractions = Float[Array, "*batch answers"]


def conditional(votes: Votes, tree: Tree) -> tuple[Fractions, Fractions]:
    """Votes -> each question's fractions among those who answered it, and where they are known.

    The answers of a question without votes are uniform, and 0 in the second array.
    """
    return normalise(_counted(votes), tree, FEWEST)


def cumulative(votes: Votes, tree: Tree) -> tuple[Fractions, Fractions]:
    """Votes -> cumulative vote fractions, and where they are known: 1 or 0.

    A question's are known if those of its gates are, and if it has votes, or none because the
    crowd did not reach it. In votes that come from walking the tree, they are votes / volunteers.
    """
    fractions, voted = conditional(votes, tree)
    fractions = cumulative_fractions(fractions, tree)
    given = ~jnp.isnan(jnp.asarray(votes))
    known: dict[int, Array] = {}  # by the question's position
    for question in tree.by_depth:
        first, gates = question.first, list(question.gates)
        mine = voted[..., first] > 0
        if gates:
            mine |= fractions[..., gates].sum(axis=-1) < UNREACHED
            for position in set(tree.question_of[gates].tolist()):
                mine &= known[position]
        known[question.number - 1] = mine & given[..., first]
    of_answers = jnp.stack([known[n] for n in range(len(known))], axis=-1)[..., tree.question_of]
    return fractions, of_answers.astype(jnp.float32)


def observed(
    votes: Float[np.ndarray, "galaxies answers"], tree: Tree
) -> Float[np.ndarray, "galaxies answers"]:
    """Cumulative vote fractions on the host, float32; NaN where they are not known.

    Examples:
      Of 40 volunteers 32 see a disk, and 24 of these were asked about a bar and say no.

      >>> shape = {"name": "shape", "answers": ["smooth", "disk"]}
      >>> bar = {"name": "bar", "answers": ["yes", "no"], "asked_after": ["shape_disk"]}
      >>> tree = Tree.from_dict({"name": "two-questions", "questions": [shape, bar]})
      >>> print(observed(np.array([[8.0, 32.0, 8.0, 24.0]]), tree))
      [[0.2 0.8 0.2 0.6]]
    """
    fractions, known = map(np.asarray, _cumulative(votes, tree))
    return np.where(known > 0, fractions, np.float32(np.nan))


# One program: by themselves, its operations would be a hundred to compile.
_cumulative = jax.jit(cumulative, static_argnames="tree")


def mean_fractions(
    votes: Float[np.ndarray, "galaxies answers"], tree: Tree
) -> Float[np.ndarray, " answers"]:
    """The mean cumulative fractions, float64, of those galaxies that know them.

    Answers to a question that nobody knows share what reaches it evenly.
    """
    fractions = observed(votes, tree).astype(np.float64)
    known = ~np.isnan(fractions)
    mean = np.nansum(fractions, axis=0) / np.maximum(known.sum(axis=0), 1)
    for question in tree.by_depth:
        if not known[:, question.first].any():
            reached = tree.asked(mean)[question.number - 1]
            mean[question.columns] = reached / len(question.answers)
    return mean


def noise_floor(votes: Float[np.ndarray, "galaxies answers"], tree: Tree) -> float | None:
    """The RMSE of an infinite crowd's fractions against this crowd's: nothing can score less.

    A cumulative fraction f = g c is the part g of the crowd that is asked, times the fraction c of
    the n who answer: var f = c^2 var g + g^2 var c, with var c = c (1 - c) / (n - g). If all N
    volunteers walk the tree, n = g N, and this is f (1 - f) / (N - 1), the unbiased estimate; if
    some leave early, or two questions are always asked, each question has its own n. Questions
    that not even two volunteers answered do not count; None if there are no others.
    """
    fractions = observed(votes, tree).astype(np.float64)
    parts = tree.asked(fractions)
    variances, shares = np.full(fractions.shape, np.nan), np.zeros(fractions.shape)
    reached: dict[int, tuple[np.ndarray, ...]] = {}  # by the question's position
    for question in tree.by_depth:
        counts = np.nan_to_num(votes[:, question.columns]).astype(np.float64)
        number = counts.sum(axis=1)
        shares[:, question.columns] = counts / np.maximum(number, FEWEST)[:, None]
        asked, spread = parts[:, question.number - 1], np.zeros(len(votes))
        gates = np.asarray(question.gates, int)
        for position in sorted(set(tree.question_of[gates].tolist())):
            share = shares[:, gates[tree.question_of[gates] == position]].sum(axis=1)
            spread += _variance(share, *reached[position])
        # Weighted votes of one may be somewhat more than 1.
        enough = np.where(number >= 2 * asked, number, np.nan)
        number = np.where(number < FEWEST, np.inf, enough)  # nobody, whose fractions are all 0
        reached[question.number - 1] = asked, spread, number
        mine = shares[:, question.columns].T
        variances[:, question.columns] = _variance(mine, asked, spread, number).T
    known = ~np.isnan(fractions + variances)
    return float(np.sqrt(variances[known].mean())) if known.any() else None


def _variance(
    share: np.ndarray, asked: np.ndarray, spread: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """That of a cumulative fraction: a share of `number` answers of the part `asked` of a crowd."""
    return share**2 * spread + asked**2 * share * (1 - share) / (number - asked)


def negative_log_likelihood(
    concentrations: Float[ArrayLike, "*#batch answers"],
    votes: Float[ArrayLike, "*#batch answers"],
    tree: Tree,
) -> Float[Array, "*#batch questions"]:
    """-log of the Dirichlet-multinomial probability of each question's votes; 0 where unknown.

    Votes k of N volunteers, whose answers' fractions are Dirichlet with concentrations a, of sum A:

        P(k) = N! / (k_1! k_2! ...)  G(A) / G(N + A)  prod G(k_i + a_i) / G(a_i)

    with the gamma function G (Walmsley et al. 2022, arXiv:2102.08414, section 4.2); fractional
    votes are allowed. No votes have probability 1, exactly. In float32 it is right to 1e-4 for
    N up to 200 and concentrations from 0.01 to 1000: large logarithms that cancel are not formed.

    Examples:
      With concentrations of 1, three votes on two answers fall in four ways, all as likely.

      >>> tree = Tree.from_dict(
      ...     {"name": "one-question", "questions": [{"name": "bar", "answers": ["yes", "no"]}]}
      ... )
      >>> found = negative_log_likelihood(np.ones((1, 2)), np.array([[2.0, 1.0]]), tree)
      >>> print(jnp.exp(-found).round(5))
      [[0.25]]
    """
    counts, concentrations = _counted(votes), jnp.asarray(concentrations)
    numbers, totals = sums(counts, tree), sums(concentrations, tree)
    ones = jnp.ones_like(counts)
    number, total = numbers[..., tree.question_of], totals[..., tree.question_of]
    likely = (concentrations + counts + _SHIFT) / (total + number + _SHIFT)
    found = (counts + 1 + _SHIFT) / (number + 1 + _SHIFT)
    each = counts * jnp.log(found / likely) + _rest(ones, counts) - _rest(concentrations, counts)
    whole = _rest(totals, numbers) - _rest(jnp.ones_like(numbers), numbers)
    return jnp.where(numbers > 0, sums(each, tree) + whole, 0.0)


_SHIFT = 8  # beyond it three terms of Stirling's series are exact to 3e-10


def _rest(x: Array, k: Array) -> Array:
    """All of log G(x + k) - log G(x) but k log(x + k + _SHIFT) - k, by Stirling's series."""
    y = x + _SHIFT
    rest = (y - 0.5) * jnp.log1p(k / y) + stirling_series(y + k) - stirling_series(y)
    return rest - sum(jnp.log1p(k / (x + step)) for step in range(_SHIFT))


def stirling_series(x: Array) -> Array:
    """The logarithm of the gamma function of x >= 8, less Stirling's formula (DLMF 5.11.1)."""
    return (1 / 12 - (1 / 360 - 1 / (1260 * x * x)) / (x * x)) / x


def _counted(votes: Votes) -> Array:
    return jnp.nan_to_num(jnp.asarray(votes, jnp.float32))
