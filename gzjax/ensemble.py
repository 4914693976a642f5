"""Several networks' vote fractions as one: their mean, or the mixture that fits best."""

from collections.abc import Sequence

import numpy as np
from scipy import optimize


def mix(predictions: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted mean of predictions; where each obeys the tree, so does it.

    Args:
      predictions: float[galaxies, answers] of each network.
      weights: float[networks], 0 or more, summing to 1.
    """
    return np.tensordot(weights, np.stack(predictions), axes=1).astype(np.float32)


def uniform_weights(networks: int) -> np.ndarray:
    """float64[networks], all alike."""
    return np.full(networks, 1 / networks)


def fit_weights(predictions: Sequence[np.ndarray], observed: np.ndarray) -> np.ndarray:
    """The weights of the mixture with the lowest RMSE on galaxies that no network learnt from.

    As the weights sum to 1, the mixture's error is the mixture of the errors, and its mean square
    a quadratic form in the weights with one minimum over the simplex (Breiman 1996, Stacked
    regressions).

    Args:
      predictions: float[galaxies, answers] of each network, on validation.
      observed: float[galaxies, answers], the crowd's.

    Returns:
      float64[networks], 0 or more, summing to 1.
    """
    errors = np.stack([(p.astype(np.float64) - observed).ravel() for p in predictions])
    products = errors @ errors.T
    products /= products.diagonal().max() or 1.0
    found = optimize.minimize(
        lambda weights: weights @ products @ weights,
        uniform_weights(len(predictions)),
        jac=lambda weights: 2 * products @ weights,
        bounds=[(0, 1)] * len(predictions),
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12},
    )
    weights = np.clip(found.x, 0, None)
    return weights / weights.sum()
