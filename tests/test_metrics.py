import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gzjax import metrics


def test_rmse_by_hand():
    predicted = np.zeros((2, 37))
    observed = np.zeros((2, 37))
    observed[0, 0], observed[1, 3] = 0.3, 0.4
    assert metrics.rmse(predicted, observed) == pytest.approx(np.sqrt(0.25 / 74))


def test_baseline_of_the_set_itself_is_its_spread(crowd):
    spread = np.sqrt(crowd.var(axis=0).mean())
    assert metrics.baseline_rmse(crowd.mean(axis=0), crowd) == pytest.approx(spread)


def test_rmse_per_question_adds_up_to_the_whole(crowd):
    predicted = np.clip(crowd + np.random.default_rng(0).normal(0, 0.1, crowd.shape), 0, 1)
    per_question = metrics.rmse_per_question(predicted, crowd)
    answers = [3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6]
    total = sum(n * score**2 for n, score in zip(answers, per_question.values(), strict=True))
    assert np.sqrt(total / 37) == pytest.approx(metrics.rmse(predicted, crowd))


def test_accuracy_counts_the_most_likely_answer():
    observed = np.zeros((3, 37))
    observed[:, :3] = [(0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.1, 0.2, 0.7)]
    predicted = observed.copy()
    predicted[2, :3] = (0.5, 0.4, 0.1)
    assert metrics.accuracy(predicted, observed, slice(0, 3)) == pytest.approx(2 / 3)


def test_summary_of_the_mean_row_equals_its_baseline(crowd):
    mean = crowd.mean(axis=0)
    result = metrics.summary(np.broadcast_to(mean, crowd.shape), crowd, mean)
    assert result["rmse"] == result["baseline_rmse"]
    assert result["q1_accuracy"] == result["q1_baseline_accuracy"]
    assert result["galaxies"] == 64
    assert list(result["rmse_per_question"])[:2] == ["smooth-or-featured", "edge-on"]


def test_float32_labels_lose_nothing(crowd):
    assert metrics.rmse(crowd.astype(np.float32), crowd) < 1e-7


@pytest.mark.parametrize("shapes", [((2, 37), (3, 37)), ((0, 37), (0, 37))])
def test_shapes_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match="one shape"):
        metrics.rmse(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_rmse_per_answer_by_hand():
    observed = np.zeros((2, 37))
    predicted = observed.copy()
    predicted[:, 4] = (0.3, -0.4)
    found = metrics.rmse_per_answer(predicted, observed)
    assert found["Class2.2"] == pytest.approx(np.sqrt((0.09 + 0.16) / 2))
    assert sum(found.values()) == found["Class2.2"]
    assert next(iter(found)) == "Class1.1"


def test_the_interval_is_as_wide_as_theory_says():
    """Of many galaxies with independent errors: 1.96 standard errors to both sides."""
    observed = np.zeros((3000, 37))
    predicted = np.random.default_rng(0).normal(0, 0.1, observed.shape)
    squares = np.mean(predicted**2, axis=1)
    error = squares.std() / np.sqrt(3000) / (2 * np.sqrt(squares.mean()))
    low, high = metrics.rmse_interval(predicted, observed)
    assert low == pytest.approx(metrics.rmse(predicted, observed) - 1.96 * error, abs=error / 4)
    assert high == pytest.approx(metrics.rmse(predicted, observed) + 1.96 * error, abs=error / 4)


def test_paired_differences_are_sure_of_what_single_intervals_are_not():
    generator = np.random.default_rng(0)
    observed = generator.uniform(0, 1, (200, 37))
    # Some galaxies are far harder than others, for both alike.
    error = generator.normal(0, 1, observed.shape) * generator.gamma(0.5, 0.1, (200, 1))
    one, other = observed + error, observed + 1.05 * error
    difference, low, high = metrics.rmse_difference(one, other, observed)
    assert difference == pytest.approx(metrics.rmse(one, observed) - metrics.rmse(other, observed))
    assert low < difference < high < 0
    assert metrics.rmse_interval(one, observed)[1] > metrics.rmse(other, observed)
    assert metrics.rmse_difference(one, one, observed) == (0, 0, 0)


def test_calibration_of_a_constant_by_hand():
    predicted = np.full((4, 2), 0.35)
    observed = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    curve = metrics.reliability(predicted, observed)
    assert len(curve) == 1
    assert curve[0]["bin"] == 3
    assert curve[0]["count"] == 8
    assert curve[0]["predicted"] == pytest.approx(0.35)
    assert curve[0]["observed"] == pytest.approx(0.45)
    assert metrics.expected_calibration_error(curve) == pytest.approx(0.1)


def test_reliability_matches_a_slow_loop(crowd):
    predicted = np.random.default_rng(0).uniform(0, 1, crowd.shape)
    predicted[0, 0], predicted[0, 1] = 0.0, 1.0
    expected = 0.0
    curve = {row["bin"]: row for row in metrics.reliability(predicted, crowd)}
    for number in range(10):
        last = number == 9
        inside = (predicted >= number / 10) & ((predicted < (number + 1) / 10) | last)
        row = curve[number]
        assert row["count"] == inside.sum()
        assert row["predicted"] == pytest.approx(predicted[inside].mean())
        assert row["observed"] == pytest.approx(crowd[inside].mean())
        expected += inside.mean() * abs(predicted[inside].mean() - crowd[inside].mean())
    assert metrics.expected_calibration_error(list(curve.values())) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_laws_of_a_summary(seed, galaxies):
    generator = np.random.default_rng(seed)
    observed = generator.dirichlet(np.ones(37), galaxies)
    predicted = generator.dirichlet(np.ones(37), galaxies)
    mean = generator.dirichlet(np.ones(37))
    result = metrics.summary(predicted, observed, mean)
    low, high = result["rmse_interval"]
    assert 0 < low <= high
    order = generator.permutation(galaxies)
    turned = metrics.summary(predicted[order], observed[order], mean)
    assert turned["rmse"] == pytest.approx(result["rmse"])
    for name, question in result["accuracies"].items():
        assert turned["accuracies"][name] == pytest.approx(question)
        assert question["agreed_galaxies"] <= question["galaxies"] <= galaxies
        assert (question["accuracy"] is None) == (question["galaxies"] == 0)
    perfect = metrics.summary(observed, observed, mean)
    assert perfect["rmse"] == 0
    assert all(value["error"] < 1e-12 for value in perfect["calibration"].values())
    assert all(q["accuracy"] in (None, 1.0) for q in perfect["accuracies"].values())


def test_who_was_asked_and_who_agreed_by_hand():
    observed = np.zeros((4, 37))
    observed[:, 0] = (1.0, 0.6, 0.6, 0.3)  # smooth
    # How round: of those who were asked, all, nine tenths, half; the last was hardly asked.
    observed[:, 15] = (1.0, 0.54, 0.3, 0.3)
    observed[:, 16] = (0.0, 0.06, 0.25, 0.0)
    observed[:, 17] = (0.0, 0.0, 0.05, 0.0)
    predicted = observed.copy()
    predicted[1, 15:18] = (0.1, 0.5, 0.0)
    found = metrics.accuracies(predicted, observed, np.eye(37)[16])["roundness"]
    assert found["galaxies"] == 3
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["baseline"] == 0
    assert found["agreed_galaxies"] == 2
    assert found["agreed_accuracy"] == pytest.approx(1 / 2)
