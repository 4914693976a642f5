import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gzjax import metrics
from gzjax.tree import Tree


def test_rmse_by_hand():
    predicted = np.zeros((2, 37))
    observed = np.zeros((2, 37))
    observed[0, 0], observed[1, 3] = 0.3, 0.4
    assert metrics.rmse(predicted, observed) == pytest.approx(np.sqrt(0.25 / 74))


def test_the_baseline_is_that_of_the_training_mean(crowd):
    spread = np.sqrt(crowd.var(axis=0).mean())
    assert metrics.baseline_rmse(crowd.mean(axis=0), crowd) == pytest.approx(spread)
    mean = crowd[:5].mean(axis=0)
    expected = np.sqrt(np.mean([(mean - row) ** 2 for row in crowd]))
    assert metrics.baseline_rmse(mean, crowd) == pytest.approx(expected)


def test_rmse_per_question_adds_up_to_the_whole(crowd, gz2):
    predicted = np.clip(crowd + np.random.default_rng(0).normal(0, 0.1, crowd.shape), 0, 1)
    per_question = metrics.rmse_per_question(predicted, crowd, gz2)
    answers = [3, 2, 2, 2, 4, 2, 3, 7, 3, 3, 6]
    total = sum(n * score**2 for n, score in zip(answers, per_question.values(), strict=True))
    assert np.sqrt(total / 37) == pytest.approx(metrics.rmse(predicted, crowd))


def test_accuracy_counts_the_most_likely_answer():
    observed = np.zeros((3, 37))
    observed[:, :3] = [(0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.1, 0.2, 0.7)]
    predicted = observed.copy()
    predicted[2, :3] = (0.5, 0.4, 0.1)
    assert metrics.accuracy(predicted, observed, slice(0, 3)) == pytest.approx(2 / 3)


def test_summary_of_the_mean_row_equals_its_baseline(crowd, gz2):
    mean = crowd[:9].mean(axis=0)
    result = metrics.summary(np.broadcast_to(mean, crowd.shape), crowd, mean, gz2)
    for name in ("rmse", "rmse_per_question", "rmse_per_answer"):
        assert result[name] == result[f"baseline_{name}"]
    assert result["q1_accuracy"] == result["q1_baseline_accuracy"]
    for question in result["accuracies"].values():
        assert question["accuracy"] == question["baseline"]
        assert question["agreed_accuracy"] == question["agreed_baseline"]


def test_a_summary_is_of_its_parts(crowd, gz2):
    """Predictions, labels and the training mean all differ, and each is where it belongs."""
    generator = np.random.default_rng(1)
    predicted = (0.7 * crowd + 0.3 * generator.permutation(crowd)).astype(np.float32)
    mean = np.roll(crowd[:9].mean(axis=0), 1)
    constant = np.broadcast_to(mean, crowd.shape)
    found = metrics.summary(predicted, crowd, mean, gz2)
    answered = metrics.accuracies(predicted, crowd, mean, gz2)
    assert found == {
        "rmse": metrics.rmse(predicted, crowd),
        "rmse_interval": metrics.rmse_interval(predicted, crowd),
        "baseline_rmse": metrics.rmse(constant, crowd),
        "q1_accuracy": metrics.accuracy(predicted, crowd, slice(0, 3)),
        "q1_baseline_accuracy": metrics.accuracy(constant, crowd, slice(0, 3)),
        "galaxies": 64,
        "rmse_per_question": metrics.rmse_per_question(predicted, crowd, gz2),
        "baseline_rmse_per_question": metrics.rmse_per_question(constant, crowd, gz2),
        "rmse_per_answer": metrics.rmse_per_answer(predicted, crowd, gz2),
        "baseline_rmse_per_answer": metrics.rmse_per_answer(constant, crowd, gz2),
        "accuracies": answered,
        "calibration": metrics.calibration(predicted, crowd, gz2),
    }
    assert found["q1_accuracy"] != found["q1_baseline_accuracy"]
    assert list(found["rmse_per_question"]) == [question.name for question in gz2.questions]


def test_float32_labels_lose_nothing(crowd):
    assert metrics.rmse(crowd.astype(np.float32), crowd) < 1e-7
    # Differences are taken in float64, where float32 would see none.
    assert metrics.rmse(crowd + 1e-9, crowd) == pytest.approx(1e-9, rel=1e-3)


@pytest.mark.parametrize("shapes", [((2, 37), (3, 37)), ((0, 37), (0, 37))])
def test_shapes_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(ValueError, match="one shape"):
        metrics.rmse(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_rmse_per_answer_by_hand(gz2):
    observed = np.zeros((2, 37))
    predicted = observed.copy()
    predicted[:, 4] = (0.3, -0.4)
    found = metrics.rmse_per_answer(predicted, observed, gz2)
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


def test_the_interval_is_the_percentile_bootstrap_of_galaxies(crowd):
    predicted = crowd + np.random.default_rng(0).normal(0, 0.1, crowd.shape)
    generator = np.random.default_rng(3)
    draws = [generator.integers(0, 64, 64) for _ in range(200)]
    scores = [metrics.rmse(predicted[drawn], crowd[drawn]) for drawn in draws]
    found = metrics.rmse_interval(predicted, crowd, resamples=200, seed=3)
    assert found == pytest.approx(np.percentile(scores, [2.5, 97.5]))
    other = np.roll(predicted, 1, axis=1)
    differences = [
        score - metrics.rmse(other[drawn], crowd[drawn])
        for score, drawn in zip(scores, draws, strict=True)
    ]
    found = metrics.rmse_difference(predicted, other, crowd, resamples=200, seed=3)
    assert found[1:] == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert metrics.rmse_interval(predicted, crowd, seed=4) != metrics.rmse_interval(
        predicted, crowd
    )


def test_the_interval_is_of_the_resamples_in_which_something_is_known(crowd):
    observed = crowd[:20].copy()
    observed[2:] = np.nan
    low, high = metrics.rmse_interval(crowd[20:40], observed)
    each = [metrics.rmse(crowd[20 + n : 21 + n], observed[n : n + 1]) for n in range(2)]
    assert [low, high] == pytest.approx(sorted(each))
    assert np.isnan(metrics.rmse_interval(crowd[20:40], np.full_like(observed, np.nan))).all()


def test_the_interval_of_a_single_galaxy_is_its_rmse(crowd):
    one, other = crowd[:1], crowd[1:2]
    rmse = metrics.rmse(one, other)
    assert metrics.rmse_interval(one, other) == pytest.approx([rmse, rmse])
    assert metrics.rmse_difference(one, other, other) == pytest.approx((rmse, rmse, rmse))


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


def test_calibration_is_of_the_answers_of_each_question(crowd, gz2):
    predicted = np.clip(crowd * 0.8 + 0.05, 0, 1)
    found = metrics.calibration(predicted, crowd, gz2)
    for question in gz2.questions:
        columns = question.columns
        curve = metrics.reliability(predicted[:, columns], crowd[:, columns])
        error = metrics.expected_calibration_error(curve)
        assert found[question.name] == {"error": error, "curve": curve}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_laws_of_a_summary(gz2, seed, galaxies):
    generator = np.random.default_rng(seed)
    observed = generator.dirichlet(np.ones(37), galaxies)
    predicted = generator.dirichlet(np.ones(37), galaxies)
    mean = generator.dirichlet(np.ones(37))
    result = metrics.summary(predicted, observed, mean, gz2)
    low, high = result["rmse_interval"]
    assert 0 < low <= high
    order = generator.permutation(galaxies)
    turned = metrics.summary(predicted[order], observed[order], mean, gz2)
    assert turned["rmse"] == pytest.approx(result["rmse"])
    for name, question in result["accuracies"].items():
        assert turned["accuracies"][name] == pytest.approx(question)
        assert question["agreed_galaxies"] <= question["galaxies"] <= galaxies
        assert (question["accuracy"] is None) == (question["galaxies"] == 0)
    perfect = metrics.summary(observed, observed, mean, gz2)
    assert perfect["rmse"] == 0
    assert all(value["error"] < 1e-12 for value in perfect["calibration"].values())
    assert all(q["accuracy"] in (None, 1.0) for q in perfect["accuracies"].values())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_who_was_asked_and_who_agreed_by_hand(gz2, dtype):
    observed = np.zeros((6, 37), dtype)
    observed[:, 0] = (1.0, 0.6, 0.6, 0.3, 0.5, 0.5)  # smooth
    # How round: of those who were asked all, nine tenths, half; the fourth was hardly asked; of
    # the fifth's, asked of just enough, just not enough agreed, and of the sixth's just enough.
    observed[:, 15] = (1.0, 0.54, 0.3, 0.3, 0.4, 0.41)
    observed[:, 16] = (0.0, 0.06, 0.25, 0.0, 0.1, 0.09)
    observed[:, 17] = (0.0, 0.0, 0.05, 0.0, 0.0, 0.0)
    predicted = observed.copy()
    predicted[1, 15:18] = (0.1, 0.5, 0.0)
    mean = np.zeros(37)
    mean[16] = 1
    found = metrics.accuracies(predicted, observed, mean, gz2)["how-rounded"]
    assert found == {
        "galaxies": 5,
        "accuracy": pytest.approx(4 / 5),
        "baseline": 0,
        "agreed_galaxies": 3,
        "agreed_accuracy": pytest.approx(2 / 3),
        "agreed_baseline": 0,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_four_of_five_are_not_more_than_four_fifths(gz2, dtype):
    """Of a question that everybody is asked, too."""
    observed = np.zeros((4, 37), dtype)
    observed[:, 0] = np.array([36 / 45, 32 / 40, 4 / 5, 37 / 45]).astype(dtype)
    observed[:, 1] = 1 - observed[:, 0]
    found = metrics.accuracies(observed, observed, np.zeros(37), gz2)["smooth-or-featured"]
    assert (found["galaxies"], found["agreed_galaxies"]) == (4, 1)


def test_a_question_asked_after_any_of_two_answers():
    tree = Tree.from_dict(
        {
            "name": "small",
            "questions": [
                {"name": "kind", "answers": ["smooth", "disk", "star"]},
                {"name": "merger", "answers": ["yes", "no"],
                 "asked_after": ["kind_smooth", "kind_disk"]},
            ],
        }
    )  # fmt: skip
    # 0.6, 0.5 and 0.4 of the volunteers were asked; of the first two's, all and 0.6 said yes.
    observed = np.array([(0.3, 0.3, 0.4, 0.6, 0), (0.1, 0.4, 0.5, 0.3, 0.2), (0.4, 0, 0.6, 0.4, 0)])
    found = metrics.accuracies(observed, observed, observed[0], tree)["merger"]
    assert (found["galaxies"], found["agreed_galaxies"]) == (2, 1)
    assert list(metrics.summary(observed, observed, observed[0], tree)["calibration"]) == [
        "kind",
        "merger",
    ]


def numbers(value):
    """All numbers of a nested result, in order."""
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(parts, list | tuple) and parts is value:
        return [-1.0 if value is None else value]
    return [number for part in parts for number in numbers(part)]


def test_what_nobody_knows_counts_for_nothing(crowd, gz2):
    """Galaxies of which nothing is known are as good as not there, and so are questions."""
    generator = np.random.default_rng(3)
    observed = crowd[:40].astype(np.float32)
    predicted = np.clip(observed + generator.normal(0, 0.1, observed.shape), 0, 1)
    predicted = predicted.astype(np.float32)
    mean = crowd.mean(axis=0)
    some = observed.copy()
    some[25:] = np.nan
    known = metrics.summary(predicted[:25], observed[:25], mean, gz2)
    found = metrics.summary(predicted, some, mean, gz2)
    for name in known.keys() - {"galaxies", "rmse_interval"}:
        assert numbers(found[name]) == pytest.approx(numbers(known[name])), name
    bar = gz2.questions[2]
    some = observed.copy()
    some[:, bar.columns] = np.nan
    found = metrics.summary(predicted, some, mean, gz2)
    others = np.delete(np.arange(37), np.arange(37)[bar.columns])
    assert found["rmse"] == pytest.approx(metrics.rmse(predicted[:, others], observed[:, others]))
    expected = metrics.rmse(np.broadcast_to(mean, observed.shape)[:, others], observed[:, others])
    assert found["baseline_rmse"] == pytest.approx(expected)
    low, high = found["rmse_interval"]
    assert low < found["rmse"] < high
    assert found["rmse_per_question"]["bar"] is None
    assert found["baseline_rmse_per_question"]["bar"] is None
    assert found["rmse_per_answer"]["Class3.1"] is None
    assert found["calibration"]["bar"] == {"error": None, "curve": []}
    assert found["accuracies"]["bar"]["galaxies"] == 0
    whole = metrics.summary(predicted, observed, mean, gz2)
    assert found["rmse_per_question"]["disk-edge-on"] == whole["rmse_per_question"]["disk-edge-on"]
    for name in ("accuracies", "calibration"):
        assert found[name]["has-spiral-arms"] == whole[name]["has-spiral-arms"]
