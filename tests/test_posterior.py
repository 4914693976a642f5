"""Mixtures of Dirichlet distributions: means, intervals, coverage, temperature."""

import numpy as np
import pytest
from scipy import stats

from gzjax import posterior, tree
from gzjax.posterior import Posterior

SMALL = tree.Tree.from_dict(
    {
        "name": "small",
        "questions": [
            {"name": "kind", "answers": ["disk", "smooth", "star"]},
            {"name": "odd", "answers": ["yes", "no"], "asked_after": ["kind_disk"]},
        ],
    }
)
SHARES = np.array([0.2, 0.5, 0.3])


@pytest.fixture(scope="module")
def believed():
    """300 galaxies: more than are in memory at a time."""
    generator = np.random.default_rng(0)
    base = np.exp(generator.normal(1, 1, (300, 1, SMALL.size)))
    spread = np.exp(generator.normal(0, 0.5, (300, 3, SMALL.size)))
    return Posterior((base * spread).astype(np.float32), SHARES, SMALL)


def drawn(believed, volunteers, seed=1):
    """Votes as the posterior has it: a component, fractions, counts."""
    generator = np.random.default_rng(seed)
    votes = np.zeros((len(believed.concentrations), SMALL.size), np.float32)
    for row, components in zip(votes, believed.concentrations, strict=True):
        for question in SMALL.questions:
            alpha = components[generator.choice(3, p=SHARES)][question.columns].astype(float)
            row[question.columns] = generator.multinomial(
                generator.integers(0, volunteers + 1), generator.dirichlet(alpha)
            )
    return votes


def marginal(believed, galaxy, answer):
    """Parameters of the components' beta distributions."""
    question = SMALL.questions[SMALL.question_of[answer]]
    alpha = believed.concentrations[galaxy].astype(float)
    return alpha[:, answer], alpha[:, question.columns].sum(axis=1) - alpha[:, answer]


def test_the_mean_is_the_mixtures(believed):
    mean = believed.mean()
    assert mean.shape == (300, SMALL.size)
    for galaxy, answer in [(0, 0), (7, 4), (299, 2)]:
        a, b = marginal(believed, galaxy, answer)
        assert mean[galaxy, answer] == pytest.approx(SHARES @ (a / (a + b)), rel=1e-6)
    np.testing.assert_allclose(mean[:, :3].sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("level", [0.9, 0.5])
def test_intervals_are_quantiles_of_the_mixture(believed, level):
    low, high = believed.interval(level)
    for galaxy in (0, 100, 299):
        for answer in range(SMALL.size):
            a, b = marginal(believed, galaxy, answer)
            for end, p in ((low, (1 - level) / 2), (high, (1 + level) / 2)):
                below = SHARES @ stats.beta.cdf(end[galaxy, answer], a, b)
                assert below == pytest.approx(p, abs=2e-4)
    assert (low < high).all()
    assert low[:, 3] + high[:, 4] == pytest.approx(np.ones(300), abs=1e-4)  # yes is not no


def test_intervals_of_what_volunteers_would_say(believed):
    low, high = believed.interval(0.9, volunteers=12)
    for galaxy in (0, 100, 299):
        for answer in range(SMALL.size):
            a, b = marginal(believed, galaxy, answer)
            below = np.array([SHARES @ stats.betabinom.cdf(k, 12, a, b) for k in range(13)])
            assert low[galaxy, answer] * 12 == np.argmax(below >= 0.05 - 1e-12)
            assert high[galaxy, answer] * 12 == np.argmax(below >= 0.95 - 1e-12)
    few, many = (np.subtract(*believed.interval(volunteers=n)[::-1]).mean() for n in (5, 500))
    underlying = np.subtract(*believed.interval()[::-1]).mean()
    assert few > many == pytest.approx(underlying, rel=0.02)


@pytest.mark.parametrize(
    ("alpha", "volunteers"),
    [((900, 100), 700), ((450, 50), 1000), ((2000, 2), 300), ((1, 1), 2000)],
)
def test_intervals_of_many_volunteers_are_exact_where_few_votes_are_next_to_impossible(
    alpha, volunteers
):
    concentrations = np.array([[[*alpha, 1e-9, 1, 1]]])
    sure = Posterior(concentrations, np.ones(1), SMALL)
    low, high = sure.interval(volunteers=volunteers)
    exact = stats.betabinom(volunteers, *alpha)
    for found, share in ((low, 0.05), (high, 0.95)):
        assert found[0, 0] == pytest.approx(exact.ppf(share) / volunteers, abs=1e-9)
    votes = np.array([[*(np.rint(volunteers * np.array(alpha) / sum(alpha))), 0, 0, 0]])
    k = votes[0, 0]
    below = exact.cdf(k - 1)
    assert below - 1e-9 <= sure.pit(votes)[0, 0] <= below + exact.pmf(k) + 1e-9


def test_the_transform_of_votes_is_theirs(believed):
    votes = drawn(believed, 20)
    votes[3, :3] = np.nan
    values = believed.pit(votes, seed=5)
    uniform = np.random.default_rng(5).random(votes.shape)
    for galaxy in (0, 3, 280, 299):
        for answer in range(SMALL.size):
            columns = SMALL.questions[SMALL.question_of[answer]].columns
            number, k = np.nansum(votes[galaxy, columns]), votes[galaxy, answer]
            if number == 0 or np.isnan(k):
                assert np.isnan(values[galaxy, answer])
                continue
            a, b = marginal(believed, galaxy, answer)
            below = SHARES @ stats.betabinom.cdf(k - 1, number, a, b)
            at = SHARES @ stats.betabinom.pmf(k, number, a, b)
            expected = below + uniform[galaxy, answer] * at
            assert values[galaxy, answer] == pytest.approx(expected, abs=1e-6)
    assert not np.array_equal(values, believed.pit(votes, seed=6), equal_nan=True)


def test_votes_drawn_from_the_posterior_are_covered_as_often_as_said(believed):
    found = posterior.coverage(believed, drawn(believed, 45))
    assert list(found["levels"]) == ["50", "80", "90", "95"]
    for level, each in found["levels"].items():
        assert 0.002 < each["error"] < 0.03
        assert abs(each["covered"] - int(level) / 100) < 3 * each["error"]
    assert list(found["answers"]) == list(SMALL.columns)
    for each in found["answers"].values():
        assert abs(each["covered"] - 0.9) < 4 * each["error"]
        assert 200 < each["galaxies"] <= 300
    kind = [found["answers"][column]["covered"] for column in SMALL.columns[:3]]
    assert found["questions"]["kind"]["covered"] == pytest.approx(np.mean(kind))
    assert list(found["questions"]) == ["kind", "odd"]
    assert sum(found["pit"]) == pytest.approx(1)
    assert max(found["pit"]) < 0.15


def test_too_sure_too_unsure_and_the_temperature_that_makes_it_right(believed):
    votes = drawn(believed, 45)
    sure = believed.tempered(0.2)
    covered = [
        posterior.coverage(one, votes)["levels"]["90"]["covered"]
        for one in (sure, believed.tempered(5.0))
    ]
    assert covered[0] < 0.85 < 0.95 < covered[1]
    assert posterior.fit_temperature(believed, votes) == pytest.approx(1, abs=0.2)
    assert posterior.fit_temperature(sure, votes) == pytest.approx(5, rel=0.2)
    np.testing.assert_allclose(sure.mean(), believed.mean(), rtol=1e-5)


def test_votes_are_rounded_not_cut_off(believed):
    """Of the challenge, whose votes are fractions times 40."""
    votes = drawn(believed, 30)
    off = votes - np.float32(0.4) * (votes > 0)
    np.testing.assert_array_equal(believed.pit(off, 5), believed.pit(votes, 5))


def test_the_errors_of_coverage_are_those_of_independent_galaxies(believed):
    votes = drawn(believed, 30)
    found = posterior.coverage(believed, votes, 5)
    for each in (*found["answers"].values(), *found["questions"].values()):
        share = each["covered"]
        assert each["error"] == pytest.approx(np.sqrt(share * (1 - share) / each["galaxies"]))
    values = believed.pit(votes, 5)
    there = ~np.isnan(values)
    for column, each in enumerate(found["answers"].values()):
        inside = np.abs(values[there[:, column], column] - 0.5) <= 0.45
        assert each["covered"] == pytest.approx(inside.mean())
    for level, name in ((0.5, "50"), (0.9, "90")):
        share = found["levels"][name]["covered"]
        squares = 0.0
        for galaxy, known in zip(values, there, strict=True):
            hits = sum(abs(value - 0.5) <= level / 2 for value in galaxy[known])
            squares += (hits - share * known.sum()) ** 2
        assert found["levels"][name]["error"] == pytest.approx(np.sqrt(squares) / there.sum())


def test_what_makes_no_interval_is_refused(believed):
    for options in ({"level": 90}, {"level": 0.0}, {"volunteers": 0}):
        with pytest.raises(ValueError, match="expected a level between 0 and 1, and at least one"):
            believed.interval(**options)


def test_votes_that_cannot_tell_give_no_temperature(believed):
    assert posterior.fit_temperature(believed, np.zeros((300, SMALL.size), np.float32)) == 1.0
    assert posterior.fit_temperature(believed, drawn(believed, 1)) == 1.0
    assert posterior.fit_temperature(believed, drawn(believed, 2)) != 1.0
    unread = believed._replace(concentrations=np.full_like(believed.concentrations, np.nan))
    assert posterior.fit_temperature(unread, drawn(believed, 45)) == 1.0


def test_unknown_votes_change_no_temperature_and_no_coverage(believed):
    votes = drawn(believed, 45)
    fewer = votes.copy()
    fewer[150:] = np.nan
    half = believed._replace(concentrations=believed.concentrations[:150])
    assert posterior.fit_temperature(believed, fewer) == pytest.approx(
        posterior.fit_temperature(half, votes[:150]), rel=1e-3
    )
    levels = posterior.coverage(believed, fewer)["levels"]
    assert levels == posterior.coverage(half, votes[:150])["levels"]
    nothing = posterior.coverage(believed, np.full_like(votes, np.nan))
    assert nothing["levels"]["90"] == {"covered": None, "error": None}


def test_the_mixture_is_more_likely_than_its_mean_component(believed):
    votes = drawn(believed, 45)
    one = believed._replace(
        concentrations=believed.concentrations.mean(axis=1, keepdims=True), shares=np.ones(1)
    )
    assert believed.log_likelihood(votes) > one.log_likelihood(votes)
    expected = 0.0
    for row, components in zip(votes.astype(int), believed.concentrations, strict=True):
        for question in SMALL.questions:
            k, alpha = row[question.columns], components[:, question.columns].astype(float)
            each = [stats.dirichlet_multinomial.pmf(k, a, k.sum()) for a in alpha]
            expected += np.log(SHARES @ each)
    assert believed.log_likelihood(votes) == pytest.approx(expected, rel=1e-5)


def test_images_that_cannot_be_read_change_no_temperature(believed):
    votes = drawn(believed, 45)
    some = believed._replace(concentrations=believed.concentrations.copy())
    some.concentrations[7] = np.nan
    others = np.arange(300) != 7
    without = believed._replace(concentrations=believed.concentrations[others])
    assert some.log_likelihood(votes) == pytest.approx(without.log_likelihood(votes[others]))
    assert posterior.fit_temperature(some, votes) == pytest.approx(
        posterior.fit_temperature(without, votes[others]), rel=1e-6
    )


def test_images_that_cannot_be_read_have_no_intervals(believed):
    some = believed._replace(concentrations=believed.concentrations[:3].copy())
    some.concentrations[1] = np.nan
    for ends in (some.interval(), some.interval(volunteers=10)):
        for end in ends:
            np.testing.assert_array_equal(np.isnan(end).all(axis=1), [False, True, False])
            assert np.isfinite(end[[0, 2]]).all()
