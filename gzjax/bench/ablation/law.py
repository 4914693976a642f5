"""How the error falls with the number of training galaxies: a power law above a floor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from scipy import optimize, stats

from gzjax import metrics
from gzjax.bench.ablation import held_out
from gzjax.bench.ablation.held_out import HeldOut

Points = Sequence[tuple[int, float]]  # training galaxies, RMSE


def fit_law(points: Points, floor: float) -> tuple[float, float]:
    """(a, b) of RMSE^2 = floor^2 + (a n^-b)^2, by least squares in the logarithms."""
    a, b = _fit(*_columns(points), floor)
    return float(a), float(b)


def fit_with_floor(points: Points) -> tuple[float, float, float]:
    """(floor, a, b) of the same law, whose floor is fitted, too; by least squares in RMSE^2."""
    sizes, rmses = _columns(points)
    relative = sizes / sizes.min()

    def solve(b: float) -> tuple[np.ndarray, float]:
        return optimize.nnls(np.stack([np.ones(len(sizes)), relative ** (-2 * b)], 1), rmses**2)

    b = optimize.minimize_scalar(lambda b: solve(b)[1], bounds=(0.01, 2), method="bounded").x
    floor, scale = np.sqrt(solve(b)[0])
    return float(floor), float(scale * sizes.min() ** b), float(b)


def forecast(points: Points, floor: float, galaxies: int) -> tuple[float, float, float]:
    """The RMSE that `fit_law` gives, with the ends of its 95 % interval.

    That of a regression's mean (Draper & Smith 1998, Applied Regression Analysis, section 1.4):
    it knows the scatter of the runs, and not whether the law holds.
    """
    x, y = _logarithms(*_columns(points), floor)
    fit, at = stats.linregress(x, y), np.log(galaxies)
    degrees = len(x) - 2
    scatter = np.sqrt(np.square(y - fit.intercept - fit.slope * x).sum() / degrees)
    error = scatter * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / np.square(x - x.mean()).sum())
    ends = fit.intercept + fit.slope * at + error * stats.t.ppf([0.5, 0.025, 0.975], degrees)
    value, low, high = np.sqrt(floor**2 + np.exp(ends) ** 2)
    return float(value), float(low), float(high)


def forecast_of_runs(
    runs: Sequence[tuple[int, HeldOut]], floor: float, galaxies: int
) -> tuple[float, float, float]:
    """`forecast`, whose interval holds the scatter of the galaxies that were scored, too.

    All runs are scored on the same galaxies: if these are easier than most, the whole curve is too
    low, which the scatter about it does not show. Both kinds of chance are added in quadrature.

    Args:
      runs: the number of training galaxies of each, and what it predicts.
      floor: the noise of the votes.
      galaxies: how many training galaxies to say it for.

    Raises:
      UserError: different galaxies were held out from some of them.
    """
    sizes, found = zip(*runs, strict=True)
    held_out.check_same_galaxies(found)

    def value_of(rmses: np.ndarray) -> Any:  # (runs,) -> a number, (runs, many) -> (many,)
        a, b = _fit(np.array(sizes), rmses, floor)
        return np.hypot(floor, a * galaxies**-b)

    predictions, observed = [run.predicted for run in found], found[0].observed
    value, low, high = metrics.rmse_statistic(value_of, predictions, observed)
    rmses = [metrics.rmse(each, observed) for each in predictions]
    _, fit_low, fit_high = forecast(list(zip(sizes, rmses, strict=True)), floor, galaxies)
    return (
        value,
        value - float(np.hypot(value - low, value - fit_low)),
        value + float(np.hypot(high - value, fit_high - value)),
    )


def _fit(sizes: np.ndarray, rmses: np.ndarray, floor: float) -> tuple[Any, Any]:
    """(a, b) of `fit_law`; of rmses (runs, many) as many of each."""
    intercept, slope = polynomial.polyfit(*_logarithms(sizes, rmses, floor), 1)
    return np.exp(intercept), -slope


def _columns(points: Points) -> tuple[np.ndarray, np.ndarray]:
    sizes, rmses = np.array(points, float).T
    return sizes, rmses


def _logarithms(
    sizes: np.ndarray, rmses: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    return np.log(sizes), 0.5 * np.log(rmses**2 - floor**2)
