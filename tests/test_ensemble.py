import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gzjax import ensemble, metrics
from gzjax.errors import UserError
from gzjax.tree import violations


def noisy(crowd, deviation, seed):
    """Predictions that obey the tree: what another crowd of that quality might say."""
    generator = np.random.default_rng(seed)
    return crowd * (1 - deviation) + deviation * generator.permutation(crowd)


def test_a_mixture_is_the_weighted_mean_and_obeys_the_tree(crowd, gz2):
    members = [noisy(crowd, 0.2, 0), noisy(crowd, 0.5, 1)]
    mixed = ensemble.mix(members, np.array([0.25, 0.75]))
    np.testing.assert_allclose(mixed, 0.25 * members[0] + 0.75 * members[1], rtol=1e-5)
    assert mixed.dtype == np.float32
    assert float(violations(mixed, gz2).max()) < 1e-5


def test_shares_are_weights_whatever_their_sum(crowd):
    np.testing.assert_allclose(ensemble.weights_of([2, 1], 2), [2 / 3, 1 / 3])
    np.testing.assert_array_equal(ensemble.weights_of(None, 4), [0.25] * 4)
    for wrong in ([1], [1, 2, 3], [2, -1], [0, 0], [np.nan, 1], [np.inf, 1]):
        with pytest.raises(UserError, match="shares: expected 2 of 0 or more, not all 0, found "):
            ensemble.weights_of(wrong, 2)


def test_fitted_weights_match_a_fine_grid(crowd):
    members = [crowd + np.random.default_rng(n).normal(0, s, crowd.shape) for n, s in
               enumerate((0.05, 0.1))]  # fmt: skip
    shares = np.linspace(0, 1, 2001)
    scores = [metrics.rmse(w * members[0] + (1 - w) * members[1], crowd) for w in shares]
    expected = shares[int(np.argmin(scores))]
    found = ensemble.fit_weights(members, crowd)
    assert found[0] == pytest.approx(expected, abs=2e-3)
    assert 0.7 < found[0] < 0.9  # inverse variances would say 0.8


def test_a_useless_member_gets_nothing(crowd):
    good = crowd + np.random.default_rng(0).normal(0, 0.05, crowd.shape)
    found = ensemble.fit_weights([good, np.ones_like(crowd)], crowd)
    np.testing.assert_allclose(found, [1, 0], atol=5e-3)


def test_equal_weights_sum_to_1():
    np.testing.assert_allclose(ensemble.uniform_weights(4), [0.25] * 4)


def test_perfect_members_do_not_divide_by_zero(crowd):
    with np.errstate(all="raise"):
        found = ensemble.fit_weights([crowd, crowd], crowd)
    np.testing.assert_allclose(found, [0.5, 0.5])


def test_three_correlated_members_match_a_grid_of_weights_of_0_or_more():
    """The second repeats the errors of the first and adds its own: best would be less than none."""
    generator = np.random.default_rng(0)
    observed = generator.uniform(0, 1, (40, 37))
    one, two, three = generator.normal(0, 0.1, (3, 40, 37))
    members = [observed + error for error in (one, 1.3 * one + 0.3 * two, three - 0.4 * two)]
    grid = [
        np.array([first, second, 50 - first - second]) / 50
        for first in range(51)
        for second in range(51 - first)
    ]
    scores = [metrics.rmse(np.tensordot(w, members, axes=1), observed) for w in grid]
    expected = grid[int(np.argmin(scores))]
    found = ensemble.fit_weights(members, observed)
    np.testing.assert_allclose(found, expected, atol=0.015)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 0.5), min_size=1, max_size=5))
def test_no_member_is_better_than_the_fitted_mixture(deviations):
    observed = np.random.default_rng(9).uniform(0, 1, (40, 37))
    members = [
        observed + np.random.default_rng(n).normal(0, deviation, observed.shape)
        for n, deviation in enumerate(deviations)
    ]
    weights = ensemble.fit_weights(members, observed)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    mixed = np.tensordot(weights, np.stack(members), axes=1)
    best = min(metrics.rmse(member, observed) for member in members)
    assert metrics.rmse(mixed, observed) <= best + 1e-4


def test_what_nobody_knows_weighs_nothing(crowd):
    generator = np.random.default_rng(4)
    observed = crowd[:30].astype(np.float32)
    members = [observed + generator.normal(0, s, observed.shape) for s in (0.1, 0.2)]
    unknown = observed.copy()
    unknown[10:] = np.nan
    some = ensemble.fit_weights([each[:10] for each in members], observed[:10])
    np.testing.assert_allclose(ensemble.fit_weights(members, unknown), some, atol=1e-6)
