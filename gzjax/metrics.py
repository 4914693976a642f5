"""How good predicted vote fractions are, and how certain that is: pure NumPy functions.

Predictions of a whole split are small (37 numbers a galaxy for Galaxy Zoo 2), so every metric is
computed from all of them at once, in float64, and does not depend on how they were batched.
Observed fractions that nobody knows are NaN, and count for nothing.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from gzjax.tree import Question, Tree

Fractions = Float[np.ndarray, "galaxies answers"]
Row = Float[np.ndarray, " answers"]


def rmse(predicted: Float[np.ndarray, "..."], observed: Float[np.ndarray, "..."]) -> float:
    """Root of the mean squared error over all galaxies and answers: the challenge's score.

    NaN if nothing is known.

    Examples:
      >>> rmse(np.array([[0.5, 0.5]]), np.array([[0.8, 0.1]]))
      0.3535533905932738
      >>> rmse(np.array([[0.5, 0.5]]), np.array([[0.8, np.nan]]))
      0.30000000000000004
    """
    if predicted.shape != observed.shape or predicted.size == 0:
        shapes = f"{predicted.shape} and {observed.shape}"
        raise ValueError(f"expected one shape with at least one galaxy, found {shapes}")
    return float(_root_mean(*_square_errors(predicted.ravel(), observed.ravel()), axis=0))


def baseline_rmse(training_mean: Row, observed: Fractions) -> float:
    """RMSE of predicting the mean of the training set for every galaxy.

    Examples:
      >>> baseline_rmse(np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]]))
      0.5
    """
    return rmse(np.broadcast_to(training_mean, observed.shape), observed)


def rmse_per_question(predicted: Fractions, observed: Fractions, tree: Tree) -> dict[str, float]:
    """{question name: RMSE over its answers}."""
    return {
        question.name: rmse(predicted[:, question.columns], observed[:, question.columns])
        for question in tree.questions
    }


def rmse_per_galaxy(predicted: Fractions, observed: Fractions) -> Float[np.ndarray, " galaxies"]:
    """The RMSE of each galaxy over its known answers; NaN where none is."""
    return _root_mean(*_square_errors(predicted, observed), axis=1)


def rmse_per_answer(predicted: Fractions, observed: Fractions, tree: Tree) -> dict[str, float]:
    """{column name, such as Class1.1: RMSE}."""
    values = _root_mean(*_square_errors(predicted, observed), axis=0)
    return dict(zip(tree.columns, values.tolist(), strict=True))


def _square_errors(predicted: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The square errors, 0 where nothing is known, and 1.0 where it is."""
    known = ~np.isnan(observed)
    errors = predicted.astype(np.float64) - observed.astype(np.float64)
    return np.where(known, np.square(errors), 0.0), known.astype(np.float64)


def _root_mean(errors: np.ndarray, known: np.ndarray, axis: int) -> Any:
    with np.errstate(invalid="ignore"):
        return np.sqrt(errors.sum(axis=axis) / known.sum(axis=axis))


def _interval(
    statistic: Callable[..., np.ndarray],
    predictions: Sequence[np.ndarray],
    observed: np.ndarray,
    resamples: int,
    seed: int,
) -> list[float]:
    """The 95 % interval of a statistic of each prediction's errors and of what is known.

    Of each galaxy they are summed over its answers.
    """
    pairs = [_square_errors(predicted, observed) for predicted in predictions]
    sums = [*(errors.sum(axis=1) for errors, _ in pairs), pairs[0][1].sum(axis=1)]
    # Of a single galaxy, which scipy refuses, every resample is that galaxy.
    sums = [np.resize(each, max(2, len(each))) for each in sums]
    with warnings.catch_warnings():
        # Of few galaxies that are known, some resamples have none.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            sums,
            statistic,
            paired=True,
            method="percentile",
            n_resamples=resamples,
            batch=10,  # the memory for 100,000 galaxies stays below 100 MB
            rng=seed,
        )
    known = found.bootstrap_distribution[np.isfinite(found.bootstrap_distribution)]
    return [float(end) for end in np.percentile(known, (2.5, 97.5))] if len(known) else [np.nan] * 2


def rmse_interval(
    predicted: Fractions, observed: Fractions, resamples: int = 1000, seed: int = 0
) -> list[float]:
    """The ends of the 95 % interval of the RMSE over galaxies: the percentile bootstrap.

    Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    return _interval(_root_mean, [predicted], observed, resamples, seed)


def rmse_difference(
    predicted: Float[np.ndarray, "*runs galaxies answers"],
    other: Float[np.ndarray, "*runs galaxies answers"],
    observed: Fractions,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """RMSE of one set of predictions less that of another, with the ends of its 95 % interval.

    Of several runs each, their mean RMSE. Both are resampled together, so what makes a galaxy hard
    for either does not widen the interval: differences far smaller than `rmse_interval` may be
    certain.
    """
    ours, theirs = (each.reshape(-1, *observed.shape) for each in (predicted, other))

    def difference(rmses: np.ndarray) -> Any:  # or a number
        return rmses[: len(ours)].mean(axis=0) - rmses[len(ours) :].mean(axis=0)

    return rmse_statistic(difference, [*ours, *theirs], observed, resamples, seed)


def rmse_statistic(
    statistic: Callable[[np.ndarray], Any],
    predictions: Sequence[Fractions],
    observed: Fractions,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of several runs' RMSEs, with the ends of its 95 % interval over galaxies.

    All runs are resampled together, as they were scored on the same galaxies.

    Args:
      statistic: of RMSEs, (runs,) -> a number or (runs, resamples) -> (resamples,).
      predictions: one for each run.
      observed: the crowd's, of the same galaxies.
      resamples: of the galaxies.
      seed: of the resamples.
    """

    def of_sums(*sums: np.ndarray, axis: int) -> np.ndarray:
        *errors, known = sums
        return statistic(np.stack([_root_mean(each, known, axis) for each in errors]))

    low, high = _interval(of_sums, predictions, observed, resamples, seed)
    return float(statistic(np.array([rmse(each, observed) for each in predictions]))), low, high


def accuracy(predicted: Fractions, observed: Fractions, columns: slice) -> float:
    """How often the most likely answer of one question is the crowd's most frequent one.

    A tie goes to the answer that comes first, in both.
    """
    likely, frequent = (votes[:, columns].argmax(axis=1) for votes in (predicted, observed))
    return float(np.mean(likely == frequent))


# A question counts for the galaxies for which at least this part of the volunteers were asked it,
# and they agree where more than that part of those gave one answer.
ASKED, AGREED = 0.5, 0.8


def accuracies(
    predicted: Fractions, observed: Fractions, training_mean: Row, tree: Tree
) -> dict[str, dict[str, Any]]:
    """`accuracy` of each question, over the galaxies for which it was asked.

    Returns:
      {question: {`galaxies`, `accuracy`, `baseline` (always giving the training mean's most
      frequent answer), and the same where the crowd agrees, `agreed_galaxies`,
      `agreed_accuracy`, `agreed_baseline`}}; None where there is no galaxy.
    """
    constant = np.broadcast_to(training_mean, observed.shape)
    result = {}
    for question, reached, asked in _asked(observed, tree):
        columns = question.columns
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


def _asked(observed: Fractions, tree: Tree) -> Iterator[tuple[Question, np.ndarray, np.ndarray]]:
    """Each question, what part of the crowd was asked it, and the galaxies for which it counts."""
    for question, reached in zip(tree.questions, tree.asked(observed).T, strict=True):
        reached = reached.astype(observed.dtype)  # the labels', in which 4 of 5 votes are a tie
        yield question, reached, (reached >= ASKED) & ~np.isnan(observed[:, question.first])


def confusions(predicted: Fractions, observed: Fractions, tree: Tree) -> dict[str, np.ndarray]:
    """{question: int[answers, answers]}, over the galaxies that `accuracies` counts.

    How many have the crowd's most frequent answer (row) and the most likely one (column).
    """
    result = {}
    for question, _, asked in _asked(observed, tree):
        size = len(question.answers)
        frequent, likely = (
            votes[asked, question.columns].argmax(axis=1) for votes in (observed, predicted)
        )
        counts = np.bincount(frequent * size + likely, minlength=size * size)
        result[question.name] = counts.reshape(size, size)
    return result


BINS = 10


def reliability(
    predicted: Float[np.ndarray, "..."], observed: Float[np.ndarray, "..."]
) -> list[dict[str, Any]]:
    """Whether the crowd's fractions are what was predicted: by predicted value, in ten bins.

    The reliability diagram (Guo et al. 2017, arXiv:1706.04599, section 2), with fractions of
    votes in place of hits. Of each bin that is not empty, its number, its count and the mean of
    what was predicted and observed.
    """
    known = ~np.isnan(observed)
    predicted, observed = predicted[known], observed[known]
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
    """The mean of |predicted - observed| over the bins of a `reliability`, by their counts.

    Examples:
      >>> curve = reliability(np.array([0.95, 0.95, 0.15, 0.15]), np.array([1.0, 0.5, 0.0, 0.3]))
      >>> round(expected_calibration_error(curve), 3)
      0.1
    """
    total = sum(row["count"] for row in curve)
    return sum(row["count"] * abs(row["predicted"] - row["observed"]) for row in curve) / (
        total or math.nan
    )


def calibration(predicted: Fractions, observed: Fractions, tree: Tree) -> dict[str, dict[str, Any]]:
    """{question: `error`, the expected one, and `curve`, its `reliability`}, of all its answers."""
    result = {}
    for question in tree.questions:
        curve = reliability(predicted[:, question.columns], observed[:, question.columns])
        result[question.name] = {"error": expected_calibration_error(curve), "curve": curve}
    return result


def summary(
    predicted: Fractions, observed: Fractions, training_mean: Row, tree: Tree
) -> dict[str, Any]:
    """All of the above, of cumulative vote fractions; baselines predict the training mean.

    None where nothing is known.
    """
    mean_row = np.broadcast_to(training_mean, observed.shape)
    answered = accuracies(predicted, observed, training_mean, tree)
    first = answered[tree.questions[0].name]
    return without_nan(
        {
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
    )


def without_nan(result: Any) -> Any:
    """None in place of NaN, which JSON does not have."""
    if isinstance(result, dict):
        return {name: without_nan(value) for name, value in result.items()}
    if isinstance(result, list):
        return [without_nan(value) for value in result]
    return None if isinstance(result, float) and math.isnan(result) else result
