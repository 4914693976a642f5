"""How good predicted vote fractions are: pure NumPy functions of predictions and labels.

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


def accuracy(predicted: np.ndarray, observed: np.ndarray, columns: slice) -> float:
    """How often the most likely answer of one question is the crowd's most frequent one.

    A tie goes to the answer that comes first, in both.
    """
    return float(
        np.mean(predicted[:, columns].argmax(axis=1) == observed[:, columns].argmax(axis=1))
    )


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
      `rmse`, `baseline_rmse`, `q1_accuracy`, `q1_baseline_accuracy` (always answering the training
      set's most frequent answer), `galaxies`, `rmse_per_question` and
      `baseline_rmse_per_question`.
    """
    first = tree.questions[0].columns
    mean_row = np.broadcast_to(training_mean, observed.shape)
    return {
        "rmse": rmse(predicted, observed),
        "baseline_rmse": baseline_rmse(training_mean, observed),
        "q1_accuracy": accuracy(predicted, observed, first),
        "q1_baseline_accuracy": accuracy(mean_row, observed, first),
        "galaxies": len(observed),
        "rmse_per_question": rmse_per_question(predicted, observed, tree),
        "baseline_rmse_per_question": rmse_per_question(mean_row, observed, tree),
    }
