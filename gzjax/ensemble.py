"""Several networks' vote fractions as one: their mean, or the mixture that fits best."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import optimize

from gzjax.errors import UserError

Fractions = Float[np.ndarray, "galaxies answers"]
Weights = Float[np.ndarray, " networks"]


def mix(predictions: Sequence[Fractions], weights: Weights) -> Fractions:
    """The weighted mean, float32, of each network's predictions; it obeys the tree if they do."""
    return np.tensordot(weights, np.stack(predictions), axes=1).astype(np.float32)


def uniform_weights(networks: int) -> Weights:
    """The same weight for all; they sum to 1."""
    return np.full(networks, 1 / networks)


def weights_of(shares: Sequence[float] | np.ndarray | None, networks: int) -> Weights:
    """Shares of networks in a mixture as weights that sum to 1; None: all alike.

    Raises:
      UserError: not as many as networks, one below 0, or all 0.
    """
    if shares is None:
        return uniform_weights(networks)
    weights = np.asarray(shares, np.float64)
    if weights.shape != (networks,) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        expected = f"expected {networks} of 0 or more, not all 0"
        raise UserError(f"shares: {expected}, found {', '.join(map(str, np.atleast_1d(shares)))}")
    return weights / weights.sum()


def fit_weights(predictions: Sequence[Fractions], observed: Fractions) -> Weights:
    """The weights, of 0 or more, of the mixture with the lowest RMSE; they sum to 1.

    To be fitted on galaxies that no network was trained on, and not scored on the same ones.

    As the weights sum to 1, the mixture's error is the mixture of the errors, and its mean square
    a quadratic form in the weights with one minimum over the simplex (Breiman 1996, Stacked
    regressions).
    """
    # What nobody knows, NaN, is no error of anybody's.
    errors = np.nan_to_num([(p.astype(np.float64) - observed).ravel() for p in predictions])
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
