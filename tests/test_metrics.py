import numpy as np
import pytest

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
