"""How the error falls with the number of training galaxies: a power law above a floor."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

Points = Sequence[tuple[int, float]]  # training galaxies, RMSE


def fit_law(points: Points, floor: float) -> tuple[float, float]:
    """(a, b) of RMSE^2 = floor^2 + (a n^-b)^2, by least squares in the logarithms."""
    fit = stats.linregress(*_logarithms(points, floor))
    return float(np.exp(fit.intercept)), float(-fit.slope)


def forecast(points: Points, floor: float, galaxies: int) -> tuple[float, float, float]:
    """The RMSE that `fit_law` gives, with the ends of its 95 % interval.

    That of a regression's mean (Draper & Smith 1998, Applied Regression Analysis, section 1.4):
    it knows the scatter of the runs, and not whether the law holds.
    """
    x, y = _logarithms(points, floor)
    fit, at = stats.linregress(x, y), np.log(galaxies)
    degrees = len(x) - 2
    scatter = np.sqrt(np.square(y - fit.intercept - fit.slope * x).sum() / degrees)
    error = scatter * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / np.square(x - x.mean()).sum())
    ends = fit.intercept + fit.slope * at + error * stats.t.ppf([0.5, 0.025, 0.975], degrees)
    value, low, high = np.sqrt(floor**2 + np.exp(ends) ** 2)
    return float(value), float(low), float(high)


def _logarithms(points: Points, floor: float) -> tuple[np.ndarray, np.ndarray]:
    sizes, rmses = np.array(points, float).T
    return np.log(sizes), 0.5 * np.log(rmses**2 - floor**2)
