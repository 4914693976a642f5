"""Intervals in float32 are those that SciPy finds in float64."""

import jax
import numpy as np
import pytest

from gzjax import quantiles
from gzjax.posterior import Posterior


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_are_the_exact_ones_of_the_mixture(gz2, level):
    """From volunteers who know nothing to thousands who agree; views that agree and that do not."""
    generator = np.random.default_rng(0)
    sure = generator.uniform(-6, 8, (12, 1, 1))
    views = generator.normal(0, generator.choice([0.1, 2.0], (12, 1, 1)), (12, 3, 37))
    concentrations = np.exp(sure + generator.normal(0, 1, (12, 1, 37)) + views, dtype=np.float32)
    assert concentrations.min() < 1e-3
    assert concentrations.max() > 1e3
    find = jax.jit(lambda values: quantiles.interval(values, gz2, level))
    exact = Posterior(concentrations, np.full(3, 1 / 3), gz2).interval(level)
    for found, expected in zip(find(concentrations), exact, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_answer_that_is_nearly_sure_has_an_interval(gz2):
    """Of the others so little is left that float32 sees nothing of it."""
    concentrations = np.full((2, 1, 37), 1.0, np.float32)
    concentrations[0, 0, 3:5] = 1e4, 1e-4
    concentrations[1, 0, 3:5] = 1e13, 1e-13
    for ends in (
        quantiles.interval(jax.numpy.asarray(concentrations), gz2),
        Posterior(concentrations, np.ones(1), gz2).interval(0.9),
    ):
        for end in ends:
            np.testing.assert_allclose(end[:, 3], 1, atol=1e-4)
            np.testing.assert_allclose(end[:, 4], 0, atol=1e-4)
    votes = np.full((2, 37), 5, np.float32)
    votes[:, 4] = 0
    assert np.isfinite(Posterior(concentrations, np.ones(1), gz2).pit(votes)).all()


def test_of_the_uniform_distribution_the_ends_are_the_levels(gz2):
    ones = jax.numpy.ones((1, 1, 37))
    low, high = quantiles.interval(ones, gz2)
    # The other answers of a question of three are 2, of beta(1, 2): 1 - sqrt(1 - p).
    np.testing.assert_allclose(low[0, 3:5], 0.05, atol=1e-5)
    np.testing.assert_allclose(high[0, :3], 1 - np.sqrt(0.05), atol=1e-5)
