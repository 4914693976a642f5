"""How good predicted vote fractions are, and how sure that is: pure NumPy functions.

Predictions of a whole split are small (37 numbers a galaxy), so every metric is computed from
all of them at once, in float64, and is exact however they were batched.
"""

from typing import Any

import numpy as np

from gzjax.tree import GALAXY_ZOO_2, Tree


def rmse(predicted: np.ndarray, observed: np.ndarray) -> float:
    """Root of the mean squared error over all galaxies and answers: the challenge's score.

    Args:
      predicted: float[galaxies, answers].
      observed: float[galaxies, answers].

    Raises:
      ValueError: different shapes, or no galaxy.
    """
    if predicted.shape != observed.shape or predicted.size == 0:
        raise ValueError(
            f"expected predictions and labels of one shape with at least one galaxy, found "
            f"{predicted.shape} and {observed.shape}"
        )
    error = predicted.astype(np.float64) - observed.astype(np.float64)
    return float(np.sqrt(np.mean(np.square(error))))


def baseline_rmse(training_mean: np.ndarray, observed: np.ndarray) -> float:
    """RMSE of predicting the training set's mean row for every galaxy.

    Args:
      training_mean: float[answers].
      observed: float[galaxies, answers].
    """
    return rmse(np.broadcast_to(training_mean, observed.shape), observed)


def rmse_per_question(
    predicted: np.ndarray, observed: np.ndarray, tree: Tree = GALAXY_ZOO_2
) -> dict[str, float]:
    """{question name: RMSE over its answers}; float[galaxies, answers] each."""
    return {
        question.name: rmse(predicted[:, question.columns], observed[:, question.columns])
        for question in tree.questions
    }


def rmse_per_answer(
    predicted: np.ndarray, observed: np.ndarray, tree: Tree = GALAXY_ZOO_2
) -> dict[str, float]:
    """{column name, such as Class1.1: RMSE}; float[galaxies, answers] each."""
    error = predicted.astype(np.float64) - observed.astype(np.float64)
    values = np.sqrt(np.mean(np.square(error), axis=0))
    return dict(zip(tree.columns, values.tolist(), strict=True))


def _mean_square_errors(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """float64[galaxies]; RMSE is the root of their mean."""
    error = predicted.astype(np.float64) - observed.astype(np.float64)
    return np.mean(np.square(error), axis=1)


def _resampled_roots(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """float64[resamples, ...]: roots of the means of as many galaxies, drawn with replacement."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(0, len(values), len(values)) for _ in range(resamples))
    return np.sqrt(np.stack([values[drawn].mean(axis=0) for drawn in draws]))


def rmse_interval(
    predicted: np.ndarray, observed: np.ndarray, resamples: int = 1000, seed: int = 0
) -> list[float]:
    """The 95 % interval of the RMSE over galaxies: the percentile bootstrap.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.

    Args:
      predicted: float[galaxies, answers].
      observed: float[galaxies, answers].
      resamples: how often as many galaxies are drawn from these.
      seed: of the draws.
    """
    roots = _resampled_roots(_mean_square_errors(predicted, observed), resamples, seed)
    return np.percentile(roots, [2.5, 97.5]).tolist()


def rmse_difference(
    predicted: np.ndarray,
    other: np.ndarray,
    observed: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """RMSE of one set of predictions less that of another, with its 95 % interval.

    Both are resampled together, so what makes a galaxy hard for either does not widen the
    interval: differences far smaller than `rmse_interval` may be certain.

    Args:
      predicted: float[galaxies, answers].
      other: float[galaxies, answers], of the same galaxies.
      observed: float[galaxies, answers].
      resamples: see `rmse_interval`.
      seed: see `rmse_interval`.

    Returns:
      The difference, and the interval's ends.
    """
    errors = [_mean_square_errors(values, observed) for values in (predicted, other)]
    roots = _resampled_roots(np.stack(errors, axis=1), resamples, seed)
    low, high = np.percentile(roots[:, 0] - roots[:, 1], [2.5, 97.5])
    return rmse(predicted, observed) - rmse(other, observed), float(low), float(high)


def accuracy(predicted: np.ndarray, observed: np.ndarray, columns: slice) -> float:
    """How often the most likely answer of one question is the crowd's most frequent one.

    A tie goes to the answer that comes first, in both.
    """
    return float(
        np.mean(predicted[:, columns].argmax(axis=1) == observed[:, columns].argmax(axis=1))
    )


# A question counts for the galaxies of which at least this part of the volunteers were asked it;
# and they agree where more than that part of those gave one answer.
ASKED, AGREED = 0.5, 0.8


def accuracies(
    predicted: np.ndarray,
    observed: np.ndarray,
    training_mean: np.ndarray,
    tree: Tree = GALAXY_ZOO_2,
) -> dict[str, dict[str, Any]]:
    """`accuracy` of each question, of the galaxies it was asked of.

    Args:
      predicted: float[galaxies, answers].
      observed: float[galaxies, answers].
      training_mean: float[answers]; its most frequent answer, always given, is the baseline.
      tree: the decision tree.

    Returns:
      {question: {`galaxies`, `accuracy`, `baseline`, and the same where the crowd agrees,
      `agreed_galaxies`, `agreed_accuracy`, `agreed_baseline`}}; None where there is no galaxy.
    """
    constant = np.broadcast_to(training_mean, observed.shape)
    result = {}
    for question in tree.questions:
        columns = question.columns
        reached = np.ones(len(observed)) if question.gate is None else observed[:, question.gate]
        asked = reached >= ASKED
        most = observed[:, columns].max(axis=1)
        found: dict[str, Any] = {}
        for prefix, chosen in (("", asked), ("agreed_", asked & (most > AGREED * reached))):
            some = bool(chosen.any())
            found[f"{prefix}galaxies"] = int(chosen.sum())
            for name, answers in (("accuracy", predicted), ("baseline", constant)):
                value = accuracy(answers[chosen], observed[chosen], columns) if some else None
                found[f"{prefix}{name}"] = value
        result[question.name] = found
    return result


BINS = 10


def reliability(predicted: np.ndarray, observed: np.ndarray) -> list[dict[str, Any]]:
    """Whether predicted fractions are what the crowd says: by predicted value, in ten bins.

    The reliability diagram (Guo et al. 2017, arXiv:1706.04599, section 2), with fractions of
    votes in place of hits.

    Args:
      predicted: float[...] in [0, 1].
      observed: float[...] of the same shape.

    Returns:
      A dict for each bin that is not empty: `bin`, `count`, and the means `predicted` and
      `observed`.
    """
    predicted, observed = predicted.ravel(), observed.ravel()
    bins = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
    counts, sums, truths = (
        np.bincount(bins, weights, BINS)
        for weights in (None, predicted.astype(np.float64), observed.astype(np.float64))
    )
    return [
        {
            "bin": number,
            "count": int(counts[number]),
            "predicted": float(sums[number] / counts[number]),
            "observed": float(truths[number] / counts[number]),
        }
        for number in np.flatnonzero(counts).tolist()
    ]


def expected_calibration_error(curve: list[dict[str, Any]]) -> float:
    """The mean of |predicted - observed| over the bins of a `reliability`, by their counts."""
    total = sum(row["count"] for row in curve)
    return sum(row["count"] * abs(row["predicted"] - row["observed"]) for row in curve) / total


def calibration(
    predicted: np.ndarray, observed: np.ndarray, tree: Tree = GALAXY_ZOO_2
) -> dict[str, dict[str, Any]]:
    """{question: `error`, the expected one, and `curve`, its `reliability`}, of all its answers.

    Args:
      predicted: float[galaxies, answers], cumulative.
      observed: float[galaxies, answers], cumulative.
      tree: the decision tree.
    """
    result = {}
    for question in tree.questions:
        curve = reliability(predicted[:, question.columns], observed[:, question.columns])
        result[question.name] = {"error": expected_calibration_error(curve), "curve": curve}
    return result


def summary(
    predicted: np.ndarray,
    observed: np.ndarray,
    training_mean: np.ndarray,
    tree: Tree = GALAXY_ZOO_2,
) -> dict[str, Any]:
    """All of the above, for a report.

    Args:
      predicted: float[galaxies, answers].
      observed: float[galaxies, answers].
      training_mean: float[answers], of the training split.
      tree: the decision tree.

    Returns:
      `rmse`, `rmse_interval`, `baseline_rmse`, `q1_accuracy`, `q1_baseline_accuracy` (always
      answering the training set's most frequent answer), `galaxies`, `rmse_per_question`,
      `baseline_rmse_per_question`, `rmse_per_answer`, `baseline_rmse_per_answer`, `accuracies`
      and `calibration`.
    """
    mean_row = np.broadcast_to(training_mean, observed.shape)
    answered = accuracies(predicted, observed, training_mean, tree)
    first = answered[tree.questions[0].name]
    return {
        "rmse": rmse(predicted, observed),
        "rmse_interval": rmse_interval(predicted, observed),
        "baseline_rmse": baseline_rmse(training_mean, observed),
        "q1_accuracy": first["accuracy"],
        "q1_baseline_accuracy": first["baseline"],
        "galaxies": len(observed),
        "rmse_per_question": rmse_per_question(predicted, observed, tree),
        "baseline_rmse_per_question": rmse_per_question(mean_row, observed, tree),
        "rmse_per_answer": rmse_per_answer(predicted, observed, tree),
        "baseline_rmse_per_answer": rmse_per_answer(mean_row, observed, tree),
        "accuracies": answered,
        "calibration": calibration(predicted, observed, tree),
    }
