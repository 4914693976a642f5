"""Votes as counts: fractions that follow from them, what nobody knows, and their likelihood."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import digamma, gammaln

from gzjax import losses, tree, votes
from gzjax.losses import Objective

GZ2 = tree.load("gz2")
# The second question is asked after either of two answers, the third after one of the second's.
SMALL = tree.Tree.from_dict(
    {
        "name": "small",
        "questions": [
            {"name": "kind", "answers": ["disk", "smooth", "star"]},
            {
                "name": "odd",
                "answers": ["yes", "no"],
                "asked_after": ["kind_disk", "kind_smooth"],
            },
            {"name": "ring", "answers": ["red", "blue"], "asked_after": ["odd_yes"]},
        ],
    }
)


def walk(some_tree, volunteers, generator):
    """Counts of volunteers who walk the tree one by one."""
    counts = np.zeros(some_tree.size, np.float32)
    for _ in range(volunteers):
        given_answers = set()
        for question in some_tree.by_depth:
            if not question.gates or given_answers & set(question.gates):
                given_answers.add(question.first + generator.integers(len(question.answers)))
        counts[list(given_answers)] += 1
    return counts


@given(volunteers=st.integers(1, 60), seed=st.integers(0, 10**6), weight=st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_votes_that_walked_the_tree_are_cumulative_fractions(volunteers, seed, weight):
    counts = walk(GZ2, volunteers, np.random.default_rng(seed))
    for some in (counts, weight * counts):  # only ratios matter
        fractions, known = votes.cumulative(some, GZ2)
        np.testing.assert_allclose(fractions, counts / volunteers, atol=2e-6)
        np.testing.assert_array_equal(known, 1)
    conditional, asked = votes.conditional(counts, GZ2)
    for question in GZ2.questions:
        total = counts[question.columns].sum()
        np.testing.assert_array_equal(asked[question.columns], total > 0)
        if total:
            np.testing.assert_allclose(
                conditional[question.columns], counts[question.columns] / total, rtol=1e-6
            )


def test_early_leavers_do_not_lower_the_fractions():
    """Ten reach the second question, of whom four answer; the gates decide what was asked."""
    counts = np.float32([6, 4, 10, 3, 1, 0, 0])
    fractions, known = votes.cumulative(counts, SMALL)
    np.testing.assert_allclose(fractions[:5], [0.3, 0.2, 0.5, 0.375, 0.125], rtol=1e-6)
    # Three said yes, but none of them answered what came then.
    np.testing.assert_array_equal(known, [1, 1, 1, 1, 1, 0, 0])
    # Ten reach the second question by its other gate alone, and leave.
    _, known = votes.cumulative(np.float32([0, 10, 10, 0, 0, 0, 0]), SMALL)
    np.testing.assert_array_equal(known[:5], [1, 1, 1, 0, 0])


def test_what_nobody_knows_is_unknown_and_so_is_what_depends_on_it():
    counts = np.float32([[6, 4, 10, np.nan, np.nan, 2, 1], [0, 0, 9, 0, 0, np.nan, np.nan]])
    fractions, known = votes.cumulative(counts, SMALL)
    np.testing.assert_array_equal(known, [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]])
    assert np.isfinite(fractions).all()
    _, asked = votes.conditional(counts, SMALL)
    np.testing.assert_array_equal(asked, [[1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0, 0]])
    found = votes.observed(counts, SMALL)
    np.testing.assert_array_equal(np.isnan(found), np.asarray(known) == 0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :3], [0.3, 0.2, 0.5])


@pytest.mark.parametrize("unknown", [2, 4])
def test_a_question_is_unknown_if_any_of_its_gates_is(unknown):
    questions = [
        {"name": "kind", "answers": ["smooth", "disk"]},
        {"name": "bar", "answers": ["yes", "no"], "asked_after": ["kind_disk"]},
        {"name": "round", "answers": ["yes", "no"], "asked_after": ["kind_smooth"]},
        {"name": "tilt", "answers": ["yes", "no"], "asked_after": ["bar_yes", "round_no"]},
    ]
    several = tree.Tree.from_dict({"name": "several", "questions": questions})
    counts = np.float32([4, 6, 3, 3, 2, 2, 4, 1])
    _, known = votes.cumulative(counts, several)
    np.testing.assert_array_equal(known, 1)
    counts[unknown : unknown + 2] = np.nan
    _, known = votes.cumulative(counts, several)
    np.testing.assert_array_equal(known[6:], 0)


def test_what_rounding_leaves_is_no_vote_and_a_question_few_reach_is_not_known():
    # Forty volunteers, of whose fractions 1e-6 are left where nobody answered.
    counts = np.float32([6, 4, 30, 2, 8, 4e-5, 0])
    _, asked = votes.conditional(counts, SMALL)
    np.testing.assert_array_equal(asked, [1, 1, 1, 1, 1, 0, 0])
    # Two of forty came as far as the last question, and nobody answered it.
    _, known = votes.cumulative(counts, SMALL)
    np.testing.assert_array_equal(known, [1, 1, 1, 1, 1, 0, 0])
    # Nor if it was one of a thousand; and a hundredth of a weighted vote is one.
    _, known = votes.cumulative(np.float32([1, 0, 999, 0, 0, 0, 0]), SMALL)
    np.testing.assert_array_equal(known[3:5], 0)
    _, asked = votes.conditional(np.float32([6, 4, 30, 0.006, 0.004, 0, 0]), SMALL)
    np.testing.assert_array_equal(asked[3:5], 1)


def test_galaxies_without_a_vote_know_nothing():
    _, known = votes.cumulative(np.zeros((1, SMALL.size), np.float32), SMALL)
    np.testing.assert_array_equal(known[0, :3], 0)


def test_mean_fractions_are_of_those_who_know():
    nan = np.nan
    some = np.float32([[5, 5, 0, 5, 5, nan, nan], [8, 0, 2, nan, nan, nan, nan]])
    mean = votes.mean_fractions(some, SMALL)
    np.testing.assert_allclose(mean[:3], [0.65, 0.25, 0.1], rtol=1e-6)
    np.testing.assert_allclose(mean[3:5], [0.5, 0.5], rtol=1e-6)  # the first galaxy's
    np.testing.assert_allclose(mean[5:], [0.25, 0.25], rtol=1e-6)  # nobody's: halves of "yes"
    assert mean.dtype == np.float64


def test_the_noise_floor_is_the_error_of_the_truth():
    """Of crowds whose fractions are known; some answers nobody of a crowd is asked for."""
    generator = np.random.default_rng(7)
    truth = np.array([0.3, 0.2, 0.5, 0.15, 0.35, 0.05, 0.1])
    crowds = []
    for volunteers in generator.integers(20, 60, 4000):
        counts = np.zeros(7)
        counts[:3] = generator.multinomial(volunteers, truth[:3])
        counts[3:5] = generator.multinomial(counts[0] + counts[1], [0.3, 0.7])
        counts[5:] = generator.multinomial(counts[3], [1 / 3, 2 / 3])
        crowds.append(counts)
    crowds = np.float32(crowds)
    error = np.sqrt(np.nanmean((votes.observed(crowds, SMALL) - truth) ** 2))
    assert votes.noise_floor(crowds, SMALL) == pytest.approx(error, rel=0.02)
    crowds[2000:, 5:] = np.nan
    error = np.sqrt(np.nanmean((votes.observed(crowds, SMALL) - truth) ** 2))
    assert votes.noise_floor(crowds, SMALL) == pytest.approx(error, rel=0.02)
    assert votes.noise_floor(crowds[:0], SMALL) is None
    assert votes.noise_floor(np.full((3, 7), np.nan, np.float32), SMALL) is None


def test_the_noise_floor_of_volunteers_who_walk_the_tree_is_the_unbiased_estimate():
    """Few of them, of whom fewer still come to the last question."""
    crowd = np.float32([[3, 1, 2, 3, 1, 1, 2], [2, 0, 0, 2, 0, 1, 1], [1, 1, 5, 1, 1, 1, 0]])
    volunteers = crowd[:, :3].sum(axis=1, keepdims=True)
    fractions = crowd / volunteers
    expected = np.sqrt(np.mean(fractions * (1 - fractions) / (volunteers - 1)))
    assert votes.noise_floor(crowd, SMALL) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gates", [["odd_yes"], ["odd_yes", "odd_perhaps"], ["odd_yes", "far_no"]])
def test_the_noise_floor_holds_where_volunteers_leave_early(gates):
    """Three of ten of those who are asked the last question answer it."""
    questions = [
        {"name": "odd", "answers": ["yes", "perhaps", "no"]},
        {"name": "far", "answers": ["yes", "no"], "asked_after": ["odd_no"]},
        {"name": "kind", "answers": ["ring", "lens", "other"], "asked_after": gates},
    ]
    leaving = tree.Tree.from_dict({"name": "leaving", "questions": questions})
    generator = np.random.default_rng(3)
    crowds = np.zeros((20_000, 8))
    crowds[:, :3] = generator.multinomial(60, [0.5, 0.2, 0.3], len(crowds))
    crowds[:, 3:5] = generator.multinomial(crowds[:, 2].astype(int), [0.4, 0.6])
    columns = [list(leaving.columns).index(name) for name in leaving.columns if name in gates]
    asked = crowds[:, columns].sum(axis=1).astype(int)
    crowds[:, 5:] = generator.multinomial(generator.binomial(asked, 0.3), [0.6, 0.1, 0.3])
    truth = np.array([0.5, 0.2, 0.3, 0.12, 0.18, 0.6, 0.1, 0.3])
    truth[5:] *= truth[columns].sum()
    error = np.sqrt(np.nanmean((votes.observed(np.float32(crowds), leaving) - truth) ** 2, axis=0))
    found = [
        votes.noise_floor(np.float32(np.where(np.isin(range(8), some), crowds, np.nan)), leaving)
        for some in ([0, 1, 2], range(8))
    ]
    assert found[0] == pytest.approx(np.sqrt(np.mean(error[:3] ** 2)), rel=0.02)
    assert found[1] == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.03)


def test_the_noise_floor_goes_by_the_volunteers_of_each_question():
    questions = [{"name": name, "answers": ["yes", "no"]} for name in ("kind", "odd")]
    two = tree.Tree.from_dict({"name": "two", "questions": questions})
    crowd = np.float32([[20, 20, 3, 1]])
    expected = np.sqrt(np.mean([0.25 / 39, 0.25 / 39, 0.1875 / 3, 0.1875 / 3]))
    assert votes.noise_floor(crowd, two) == pytest.approx(expected, rel=1e-6)
    for few in ([0, 0], [1, 0]):  # not even two answered
        crowd[:, 2:] = few
        assert votes.noise_floor(crowd, two) == pytest.approx(np.sqrt(0.25 / 39), rel=1e-6)
    # One person's votes, weighted, tell nothing of how far two would differ.
    lone = np.float32([*[[20, 20, 3, 1]] * 9, [0.51, 0.5, 0, 0]])
    assert votes.noise_floor(lone, two) == pytest.approx(expected, rel=1e-6)
    pair = np.float32([[1, 1, 0, 0]])  # which differ as much as two can
    assert votes.noise_floor(pair, two) == pytest.approx(0.5, rel=1e-6)


def reference(alpha, counts, some_tree):
    """-log probability of each question in float64, from the formula, and its gradient."""
    alpha, counts = alpha.astype(np.float64), counts.astype(np.float64)
    values, gradient = [], np.zeros_like(alpha)
    for question in some_tree.questions:
        a, k = alpha[:, question.columns], counts[:, question.columns]
        total, number = a.sum(1), k.sum(1)
        values.append(
            -(
                gammaln(number + 1) - gammaln(k + 1).sum(1)
                + gammaln(total) - gammaln(number + total)
                + (gammaln(k + a) - gammaln(a)).sum(1)
            )
        )  # fmt: skip
        whole = digamma(total) - digamma(number + total)
        gradient[:, question.columns] = -(whole[:, None] + digamma(k + a) - digamma(a))
    return np.stack(values, 1), gradient


LIKELIHOOD = jax.jit(functools.partial(votes.negative_log_likelihood, tree=SMALL))
SLOPE = jax.jit(jax.grad(lambda a, k: LIKELIHOOD(a, k).sum()))


@given(
    log_alpha=st.tuples(st.floats(-2, 3), st.floats(-2, 3)),
    numbers=st.lists(st.integers(0, 200), min_size=3, max_size=3),
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_the_likelihood_is_that_of_float64(log_alpha, numbers, whole, seed):
    generator = np.random.default_rng(seed)
    alpha = 10 ** generator.uniform(min(log_alpha), max(log_alpha), (4, SMALL.size))
    alpha = alpha.astype(np.float32)
    counts = np.zeros_like(alpha)
    for question, number in zip(SMALL.questions, numbers, strict=True):
        shares = generator.dirichlet(np.full(len(question.answers), 0.5), 4)
        counts[:, question.columns] = generator.multinomial(number, shares)
    if not whole:
        counts *= generator.uniform(0, 1, counts.shape).astype(np.float32)
    expected, slope = reference(alpha, counts, SMALL)
    np.testing.assert_allclose(LIKELIHOOD(alpha, counts), expected, atol=2e-4, rtol=2e-5)
    np.testing.assert_allclose(SLOPE(alpha, counts), slope, rtol=2e-3, atol=2e-5)


def test_eager_and_compiled_agree():
    generator = np.random.default_rng(0)
    alpha = generator.uniform(0.1, 50, (3, SMALL.size)).astype(np.float32)
    counts = generator.integers(0, 20, alpha.shape).astype(np.float32)
    eager = votes.negative_log_likelihood(alpha, counts, SMALL)
    np.testing.assert_allclose(eager, LIKELIHOOD(alpha, counts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1e-13, 1e-3, 1.0, 1e5])
@pytest.mark.parametrize("nothing", [0.0, np.nan])
def test_no_votes_and_unknown_ones_are_certain_and_pull_at_nothing(alpha, nothing):
    concentrations = np.full((2, SMALL.size), alpha, np.float32)
    counts = np.full((2, SMALL.size), nothing, np.float32)
    np.testing.assert_array_equal(LIKELIHOOD(concentrations, counts), 0.0)
    np.testing.assert_array_equal(SLOPE(concentrations, counts), 0.0)
    counts[:, 0], counts[:, 1:3] = 200, 0
    assert np.isfinite(LIKELIHOOD(concentrations, counts)).all()
    assert np.isfinite(SLOPE(concentrations, counts)).all()


def test_probabilities_of_all_outcomes_sum_to_one():
    alpha = np.float32([[0.7, 2.0, 5.0, 3.0, 0.2, 1, 1]])
    total = 0.0
    for first in range(7):
        for second in range(7 - first):
            counts = np.float32([[first, second, 6 - first - second, 0, 0, 0, 0]])
            total += float(np.exp(-LIKELIHOOD(alpha, counts)[0, 0]))
    assert total == pytest.approx(1, abs=1e-4)


# The whole objective: terms with votes that are partly unknown.
EVERY = {
    "mse": Objective(activation="softmax", terms=("mse",)),
    "conditional": Objective(activation="softmax", terms=("mse",), targets="conditional"),
    "focal": Objective(activation="softmax", terms=("focal",)),
    "kl": Objective(activation="softmax", terms=("kl",)),
    "dirichlet": Objective(activation="softmax", terms=("dirichlet",)),
    "all": Objective(activation="softplus", terms=losses.TERMS),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(settings, some_tree, outputs, counts, mask):
    def loss_of(values):
        means = losses.init_means(settings.terms)
        return losses.objective(settings, some_tree, values, counts, mask, means)[0]

    return jax.value_and_grad(loss_of)(outputs)


@pytest.fixture(scope="module")
def batch():
    generator = np.random.default_rng(1)
    counts = np.stack([walk(SMALL, 30, generator) for _ in range(4)])
    return generator.normal(0, 1, counts.shape).astype(np.float32), counts, np.ones(4, np.float32)


@pytest.mark.parametrize("name", EVERY)
def test_unknown_questions_contribute_nothing(batch, name):
    outputs, counts, mask = batch
    unknown = counts.copy()
    unknown[1, :3] = np.nan  # and so all cumulative fractions of this galaxy
    unknown[2, 3:5] = np.nan
    loss, gradient = value_and_gradient(EVERY[name], SMALL, outputs, unknown, mask)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1, :3], 0)
    np.testing.assert_array_equal(gradient[2, 3:5], 0)
    other = outputs.copy()
    other[1, :3], other[2, 3:5] = other[1, :3] + 1, other[2, 3:5][::-1]
    assert value_and_gradient(EVERY[name], SMALL, other, unknown, mask)[0] == pytest.approx(
        float(loss), rel=1e-6
    )
    known, pulls = value_and_gradient(EVERY[name], SMALL, outputs, counts, mask)
    assert known != loss  # they would have counted
    assert (np.asarray(pulls)[1, :3] != 0).any()


@pytest.mark.parametrize("name", EVERY)
def test_a_galaxy_without_votes_costs_nothing(batch, name):
    outputs, counts, mask = batch
    loss, gradient = value_and_gradient(EVERY[name], SMALL, outputs, 0 * counts, mask)
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_galaxies_and_of_answers_does_not_matter(batch, name):
    outputs, counts, mask = batch
    loss, _ = value_and_gradient(EVERY[name], SMALL, outputs, counts, mask)
    galaxies, answers = (
        [2, 0, 3, 1],
        [0, 1, 2, 3, 4, 6, 5],
    )  # of the last question, which gates none
    for some in ((galaxies, slice(None)), (slice(None), answers)):
        again, _ = value_and_gradient(EVERY[name], SMALL, outputs[some], counts[some], mask)
        assert float(again) == pytest.approx(float(loss), rel=2e-6)


def test_the_dirichlet_term_is_the_sum_over_questions_of_concentrations(batch):
    outputs, counts, _ = batch
    mask = np.float32([1, 0, 1, 1])
    for activation, alpha in (
        ("softmax", np.exp(outputs)),
        ("softplus", np.log1p(np.exp(outputs))),
    ):
        chosen = Objective(activation=activation, terms=("dirichlet",))
        loss, _ = value_and_gradient(chosen, SMALL, outputs, counts, mask)
        each = reference(alpha, counts, SMALL)[0].sum(axis=1)
        assert float(loss) == pytest.approx((each * mask).sum() / 3, rel=1e-4)


@pytest.mark.parametrize("activation", tree.CONCENTRATED)
def test_concentrations_belong_to_the_fractions_and_begin_unsure(activation):
    outputs = np.random.default_rng(2).normal(0, 2, (5, 37)).astype(np.float32)
    alpha = tree.concentrations(outputs, GZ2, activation)
    ratio, _ = tree.normalise(alpha, GZ2)
    expected = tree.conditional_fractions(outputs, GZ2, activation)
    np.testing.assert_allclose(ratio, expected, rtol=1e-5, atol=1e-7)
    start = tree.concentrations(np.zeros((1, 37), np.float32), GZ2, activation)
    assert (np.asarray(start) <= 1).all()  # one volunteer an answer at most
    extreme = tree.concentrations(np.float32([[-1e4] * 18 + [1e4] * 19]), GZ2, activation)
    assert (np.asarray(extreme) > 0).all()
    assert np.isfinite(extreme).all()
    large = tree.concentrations(np.full((1, 37), 20.0, np.float32), GZ2, activation)
    np.testing.assert_allclose(large, np.exp(20) if activation == "softmax" else 20, rtol=1e-5)
    if activation == "softplus":  # which needs no upper bound
        large = tree.concentrations(np.full((1, 37), 500.0, np.float32), GZ2, activation)
        np.testing.assert_allclose(large, 500, rtol=1e-6)


def test_other_activations_have_no_concentrations():
    with pytest.raises(ValueError, match="activation 'relu': expected one of softplus, softmax"):
        tree.concentrations(jnp.zeros(37), GZ2, "relu")
