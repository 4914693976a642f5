import dataclasses
import functools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from gzjax import losses, tree
from gzjax.errors import UserError
from gzjax.losses import Objective

TERMS = Objective().terms

# The first question has two answers; the second is asked after either.
SMALL = tree.Tree.from_dict(
    {
        "name": "small",
        "questions": [
            {"name": "kind", "answers": ["galaxy", "star"]},
            {
                "name": "colour",
                "answers": ["red", "green", "blue"],
                "asked_after": ["kind_galaxy", "kind_star"],
            },
            {"name": "arms", "answers": ["yes", "no"], "asked_after": ["kind_galaxy"]},
        ],
    }
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relU"}, "activation: expected one of relu, softplus, softmax, sigmoid, "
         "found 'relU'; did you mean 'relu'?"),
        ({"targets": "raw"}, "targets: expected one of cumulative, conditional, found 'raw'"),
        ({"weighting": "none"}, "weighting: expected one of dynamic, fixed, found 'none'"),
        ({"terms": ()}, "terms: expected some of mse, focal, kl, dirichlet, each once, found ()"),
        ({"terms": ("mse", "mse")}, "terms: expected some of mse, focal, kl, dirichlet, each"),
        ({"terms": ("mse", "huber")}, "terms: expected some of mse, focal, kl, dirichlet, each"),
        ({"terms": "mse"}, "terms: expected some of mse, focal, kl, dirichlet, each once"),
        ({"terms": (["mse"],)}, "terms: expected some of mse, focal, kl, dirichlet, each"),
        ({"weights": (1.0,)}, "weights: expected 4 weights of 0 or more, for mse, focal, kl, "
         "dirichlet, found (1.0,)"),
        ({"weights": ("a", "b", "c", "d")}, "weights: expected 4 weights of 0 or more"),
        ({"weights": (1.0, 1.0, 1.0, -1.0)}, "weights: expected 4 weights of 0 or more"),
        ({"weights": (1.0, 1.0, 1.0, math.inf)}, "weights: expected 4 weights of 0 or more"),
        ({"weights": (1.0, 1.0, 1.0, math.nan)}, "weights: expected 4 weights of 0 or more"),
        ({"weights": 1.0}, "weights: expected 4 weights of 0 or more"),
        ({"weights": (0, 0, 0, 5), "weighting": "fixed"},
         "weights: expected one above 0 among those of mse, focal, kl, found only 0"),
        ({"weights": (1, 1, 0, 0), "weighting": "fixed", "terms": ("kl",)},
         "weights: expected one above 0 among those of kl, found only 0"),
        ({"decay": 1.0}, "decay: expected a number from 0 to 0.999999, found 1.0"),
        ({"decay": -0.1}, "decay: expected a number from 0 to 0.999999, found -0.1"),
        ({"gamma": -1.0}, "gamma: expected a number at least 0, found -1.0"),
        ({"gamma": math.inf}, "gamma: expected a number at least 0, found inf"),
        ({"class_weights": (1.0, -1.0, 1.0)}, "class_weights: expected none, or weights of 0 or"),
        ({"class_weights": ("a", "b", "c")}, "class_weights: expected none, or weights of 0 or"),
        ({"class_weights": (1, 1, math.inf)}, "class_weights: expected none, or weights of 0 or"),
        ({"class_weights": (0, 0, 0)}, "class_weights: expected none, or weights of 0 or more, not "
         "all 0, found (0, 0, 0)"),
        ({"class_weights": 2.0}, "class_weights: expected none, or weights of 0 or more, not all"),
        ({"activation": "sigmoid", "targets": "conditional", "terms": ("mse",)},
         "targets: expected cumulative with the activation sigmoid, found conditional"),
        ({"activation": "sigmoid"}, "terms: expected mse alone with the activation sigmoid, as the "
         "others need fractions that sum to 1, found mse, focal, kl"),
        ({"activation": "sigmoid", "terms": ("kl",)}, "terms: expected mse alone"),
        ({"activation": "sigmoid", "terms": ("mse", "focal")}, "terms: expected mse alone"),
        ({"activation": "relu", "terms": ("dirichlet",)},
         "activation: expected softplus or softmax with the term dirichlet, found relu"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_are_refused(changes, message):
    with pytest.raises(UserError) as raised:
        Objective(**changes)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_settings_that_are_allowed_and_the_defaults():
    assert Objective() == Objective(
        activation="relu",
        targets="cumulative",
        terms=["mse", "focal", "kl"],
        weighting="dynamic",
        weights=(1, 1, 1, 1),
        decay=0.99,
        gamma=2,
        class_weights=[],
    )
    Objective(terms=("kl", "mse"), weights=(0, 0, 0, 0))  # dynamic: the weights do not matter
    Objective(weighting="fixed", weights=(0, 0, 1, 0), terms=("kl",), decay=0, gamma=0)
    Objective(activation="sigmoid", terms=("mse",), weighting="fixed")
    assert hash(Objective(class_weights=[1, 2, 0])) == hash(Objective(class_weights=(1, 2, 0)))


def test_class_weights_are_as_many_as_answers_of_question_1(gz2):
    Objective().check_tree(gz2)
    Objective(class_weights=(1, 2, 3)).check_tree(gz2)
    Objective(class_weights=(1, 2)).check_tree(SMALL)
    for weights, some_tree, count in [((1, 2), gz2, 3), ((1, 2, 3), SMALL, 2)]:
        with pytest.raises(
            UserError,
            match=f"^class_weights: expected none or {count}, one for each answer of .*, "
            f"found {len(weights)}$",
        ):
            Objective(class_weights=weights).check_tree(some_tree)


@pytest.fixture(scope="module")
def fractions(crowd, gz2):
    """float32[8, 37] pairs: what a network might predict, and what the crowd said."""
    outputs = np.random.default_rng(5).uniform(0.2, 2, (8, 37)).astype(np.float32)
    return tree.fractions(outputs, gz2, "relu"), jnp.asarray(crowd[:8], jnp.float32)


def reference(name, predicted, observed, gamma=2.0, weights=(), answers=3, mask=None):
    """A loss of each galaxy, in float64, one number after another."""
    predicted, observed = np.asarray(predicted, np.float64), np.asarray(observed, np.float64)
    if name == "mse":
        mask = np.ones_like(observed) if mask is None else np.asarray(mask)
        return ((predicted - observed) ** 2 * mask).sum(1) / mask.shape[1]
    result = np.zeros(len(observed))
    for row in range(len(observed)):
        for answer in range(answers):
            p, q = observed[row, answer], predicted[row, answer]
            if p == 0:
                continue
            if name == "focal":
                term = -p * (1 - q) ** gamma * np.log(q)
                result[row] += term * (weights[answer] if weights else 1)
            else:
                result[row] += p * np.log(p / q)
    return result


@pytest.mark.parametrize(
    ("compiled", "gamma", "class_weights"),
    [(False, 0.5, (0.5, 1.0, 4.0)), (True, 3.0, (0.5, 1.0, 4.0)), (True, 0.0, ()), (True, 2.0, ())],
)
def test_each_loss_matches_numpy(fractions, compiled, gamma, class_weights):
    def function(predicted, observed):
        q, p = predicted[:, :3], observed[:, :3]
        return {
            "mse": losses.mean_squared_error(predicted, observed, jnp.ones_like(observed)),
            "focal": losses.focal_loss(q, p, gamma, class_weights),
            "kl": losses.kl_divergence(q, p),
        }

    found = (jax.jit(function) if compiled else function)(*fractions)
    for term, values in found.items():
        expected = reference(term, *fractions, gamma, class_weights)
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-6, err_msg=term)


def test_the_defaults_of_the_focal_loss_are_those_of_the_objective(fractions):
    q, p = (side[:, :3] for side in fractions)
    np.testing.assert_array_equal(losses.focal_loss(q, p), losses.focal_loss(q, p, 2.0))


def test_a_mask_leaves_some_answers_alone(fractions):
    predicted, observed = fractions
    mask = jnp.asarray(np.random.default_rng(3).integers(0, 2, observed.shape), jnp.float32)
    mask = mask.at[0].set(0)
    found = losses.mean_squared_error(predicted, observed, mask)
    expected = reference("mse", predicted, observed, mask=mask)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    assert found[0] == 0


def test_focal_with_gamma_zero_is_cross_entropy_and_kl_lacks_the_entropy(fractions):
    predicted, observed = (side[:, :3] for side in fractions)
    entropy = -np.sum(np.where(observed > 0, observed * np.log(observed + 1e-30), 0), axis=1)
    np.testing.assert_allclose(
        losses.focal_loss(predicted, observed, 0.0) - entropy,
        losses.kl_divergence(predicted, observed),
        atol=2e-6,
    )


def test_agreement_costs_nothing(fractions):
    _, observed = fractions
    np.testing.assert_allclose(losses.mean_squared_error(observed, observed, observed), 0)
    np.testing.assert_allclose(losses.kl_divergence(observed[:, :3], observed[:, :3]), 0, atol=1e-6)


HARD = np.array([(1, 0, 0), (0, 0, 1), (1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0)], np.float32)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_values_and_gradients_are_finite_at_zero_and_one(gamma):
    predicted, observed = (jnp.asarray(side) for side in (HARD.repeat(4, 0), np.tile(HARD, (4, 1))))
    for function in (
        losses.kl_divergence,
        functools.partial(losses.focal_loss, gamma=gamma),
        lambda q, p: losses.mean_squared_error(q, p, jnp.ones_like(p)),
    ):
        values = function(predicted, observed)
        gradient = jax.grad(lambda q, f=function: f(q, observed).sum())(predicted)
        assert np.isfinite(values).all()
        assert np.isfinite(gradient).all()
        # The worst mistake costs the most, but no more than a fraction of TINY would.
        assert values.max() < 17


@pytest.mark.parametrize(
    ("activation", "targets"),
    [("relu", "cumulative"), ("relu", "conditional"), ("softmax", "cumulative")],
)
def test_gradients_are_finite_where_nothing_is_asked_or_answered(gz2, activation, targets):
    """Questions whose outputs are all negative, huge outputs, questions that nobody was asked."""
    outputs = np.full((4, 37), -3, np.float32)
    outputs[1] = 90 * np.where(np.arange(37) % 2, -1, 1)
    outputs[2] = 0
    observed = np.zeros((4, 37), np.float32)
    observed[:, [0, 14, 15]] = 1  # smooth, nothing odd, completely round
    observed[3] = 0  # an unreadable row
    settings = Objective(activation=activation, targets=targets, gamma=0.5)
    (loss, (means, record)), gradient = jax.jit(
        jax.value_and_grad(functools.partial(losses.objective, settings, gz2), has_aux=True)
    )(
        jnp.asarray(outputs),
        jnp.asarray(observed),
        jnp.asarray([1.0, 1.0, 1.0, 0.0]),
        losses.init_means(TERMS),
    )
    for leaf in jax.tree.leaves((loss, means, record, gradient)):
        assert np.isfinite(leaf).all()
    assert (np.asarray(gradient)[3] == 0).all()


@pytest.mark.parametrize("activation", tree.CONCENTRATED)
@pytest.mark.parametrize("far", [-1000.0, -100.0, 100.0, 1000.0])
def test_the_likelihood_of_far_outputs_is_finite(gz2, batch, activation, far):
    outputs = batch[0].at[:2].set(far).at[2:, ::2].add(far)
    settings = Objective(activation=activation, terms=("dirichlet",))
    (loss, _), gradient = jax.value_and_grad(
        functools.partial(losses.objective, settings, gz2), has_aux=True
    )(outputs, 40 * batch[1], jnp.ones_like(batch[2]), losses.init_means(("dirichlet",)))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_a_batch_without_a_galaxy_has_loss_zero_and_no_gradient(gz2, batch):
    outputs, observed, mask = batch
    function = functools.partial(losses.objective, Objective(), gz2)
    (loss, _), gradient = jax.jit(jax.value_and_grad(function, has_aux=True))(
        outputs, observed, 0 * mask, losses.init_means(TERMS)
    )
    assert loss == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.fixture(scope="module")
def batch(crowd):
    outputs = np.random.default_rng(6).normal(0.5, 1, (8, 37)).astype(np.float32)
    return jnp.asarray(outputs), jnp.asarray(crowd[:8], jnp.float32), jnp.ones(8)


def softmax_down_the_tree(some_tree, outputs, conditional):
    """The fractions that a softmax head predicts, in numpy, one question after another."""
    result = np.zeros(outputs.shape, np.float64)
    for question in some_tree.by_depth:
        exponentials = np.exp(np.asarray(outputs, np.float64)[:, question.columns])
        result[:, question.columns] = exponentials / exponentials.sum(axis=1, keepdims=True)
        if question.gates and not conditional:
            result[:, question.columns] *= result[:, list(question.gates)].sum(1, keepdims=True)
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gamma": 0.5},
        {"class_weights": (0.2, 3.0)},
        {"decay": 0.5},
        {"decay": 0.0},
        {"targets": "conditional"},
        {"terms": ("kl", "mse")},
        {"terms": ("mse",)},
        {"weighting": "fixed", "weights": (1.0, 2.0, 5.0, 0.0)},
        {"weighting": "fixed", "weights": (1.0, 2.0, 5.0, 0.0), "terms": ("kl", "mse")},
    ],
    ids=str,
)
def test_three_batches_of_the_objective_match_numpy(changes):
    """Every setting of the objective changes what it is there for, and nothing else."""
    settings = Objective(**{"activation": "softmax", "class_weights": (2.0, 1.0)} | changes)
    generator = np.random.default_rng(8)
    means = losses.init_means(settings.terms)
    assert jax.tree.structure(means) == jax.tree.structure(losses.init_means(settings.terms))
    history: list[dict[str, float]] = []
    step = jax.jit(functools.partial(losses.objective, settings, SMALL))
    for number in range(3):
        outputs = generator.normal(0, 1, (5, 7)).astype(np.float32)
        truth = softmax_down_the_tree(SMALL, generator.normal(0, 1, (5, 7)), False)
        truth[1, :2], truth[1, 2:5], truth[1, 5:] = (0, 1), truth[1, 2:5], 0  # a star has no arms
        mask = np.array([1, 1, 0, 1, 1 - number % 2], np.float32)
        loss, (means, record) = step(*map(jnp.asarray, (outputs, truth.astype(np.float32), mask)),
                                     means)  # fmt: skip
        predicted = softmax_down_the_tree(SMALL, outputs, settings.targets == "conditional")
        observed, asked = truth, None
        if settings.targets == "conditional":
            sums = truth @ SMALL.membership
            observed = truth / np.where(sums > 0, sums, 1)[:, SMALL.question_of]
            asked = (sums > 0)[:, SMALL.question_of].astype(float)
        found = {
            term: (
                reference(
                    term, predicted, observed, settings.gamma, settings.class_weights, 2, asked
                )
                * mask
            ).sum()
            / mask.sum()
            for term in settings.terms
        }
        history.append(found)
        if settings.weighting == "dynamic":
            ages = [settings.decay**age for age in reversed(range(len(history)))]
            average = {
                term: np.average([one[term] for one in history], weights=ages) for term in found
            }
            weights = {term: 1 / value for term, value in average.items()}
        else:
            weights = {term: settings.weights[losses.TERMS.index(term)] for term in settings.terms}
        weights = {term: value / sum(weights.values()) for term, value in weights.items()}
        assert set(record) == {*found, *(f"weight_{term}" for term in found)}
        for term in found:
            assert float(record[term]) == pytest.approx(found[term], rel=1e-3)
            assert float(record[f"weight_{term}"]) == pytest.approx(weights[term], rel=1e-3)
        expected = sum(weights[term] * found[term] for term in found)
        assert float(loss) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("activation", "targets", "weighting"),
    [
        ("relu", "cumulative", "dynamic"),
        ("softmax", "conditional", "dynamic"),
        ("softplus", "cumulative", "fixed"),
    ],
)
def test_gradient_of_the_jitted_objective_matches_finite_differences(
    batch, gz2, activation, targets, weighting
):
    outputs, observed, mask = batch
    settings = Objective(activation=activation, targets=targets, weighting=weighting)
    outputs = abs(outputs) + 0.2  # away from the kink of relu
    function = jax.jit(
        jax.value_and_grad(functools.partial(losses.objective, settings, gz2), has_aux=True)
    )
    # Means that have already seen something: their own change with the batch carries no gradient.
    _, (means, _) = function(outputs * 0.7, observed, mask, losses.init_means(TERMS))[0]
    (_, (_, weights)), gradient = function(outputs, observed, mask, means)

    def frozen(outputs):
        record = function(outputs, observed, mask, means)[0][1][1]
        return sum(float(weights[f"weight_{term}"]) * float(record[term]) for term in TERMS)

    generator = np.random.default_rng(7)
    step = 1e-2
    for _ in range(3):
        direction = generator.normal(size=outputs.shape).astype(np.float32)
        slope = frozen(outputs + step * direction) - frozen(outputs - step * direction)
        assert float((gradient * direction).sum()) == pytest.approx(
            slope / (2 * step), rel=2e-2, abs=1e-4
        )


@functools.partial(jax.jit, static_argnums=0)
def padded_objective(some_tree, outputs, observed, mask, means):
    settings = Objective(activation="softplus")
    return losses.objective(settings, some_tree, outputs, observed, mask, means)


@given(padding=st.integers(1, 2), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_padding_changes_nothing(crowd, gz2, padding, seed):
    generator = np.random.default_rng(seed)
    outputs = generator.normal(0.5, 1, (4, 37)).astype(np.float32)
    observed = crowd[:4].astype(np.float32)
    noise = generator.normal(0, 9, (padding, 37)).astype(np.float32)
    means = losses.init_means(TERMS)
    plain, padded = (
        padded_objective(gz2, *map(jnp.asarray, arrays), means)
        for arrays in (
            (outputs, observed, np.ones(4, np.float32)),
            (
                np.concatenate([outputs, noise]),
                np.concatenate([observed, np.zeros_like(noise)]),
                np.concatenate([np.ones(4), np.zeros(padding)]).astype(np.float32),
            ),
        )
    )
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
        assert float(one) == pytest.approx(float(other), rel=1e-5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_dynamic_weights_make_the_contributions_equal(sizes):
    means = {term: jnp.asarray(size) for term, size in zip(TERMS, sizes, strict=True)}
    weights = losses.dynamic_weights(means, dict.fromkeys(TERMS, jnp.ones(())))
    assert sum(float(weight) for weight in weights.values()) == pytest.approx(1, abs=1e-6)
    contributions = [float(weights[term] * means[term]) for term in TERMS]
    np.testing.assert_allclose(contributions, contributions[0], rtol=1e-4)


def test_a_loss_of_zero_counts_as_a_millionth():
    known = {"mse": jnp.ones(()), "kl": jnp.ones(())}
    weights = losses.dynamic_weights({"mse": jnp.zeros(()), "kl": jnp.asarray(1e-6)}, known)
    assert float(weights["mse"]) == pytest.approx(0.5)
    weights = losses.dynamic_weights({"mse": jnp.zeros(()), "kl": jnp.asarray(3e-6)}, known)
    assert float(weights["mse"]) == pytest.approx(0.75)


def unknown_first(votes, rows):
    """Votes of which nobody knows those on question 1, in some rows."""
    return jnp.asarray(np.where(rows[:, None] & (np.arange(SMALL.size) < 2), np.nan, votes))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_term_that_nobody_knows_anything_of_leaves_its_weight_to_others(batch, compiled):
    """Question 1 may be unknown to all: then the MSE of the others trains, at its full size."""
    outputs, mask = batch[0][:, : SMALL.size], batch[2]
    votes = np.asarray(tree.fractions(batch[0][:, -SMALL.size :], SMALL, "softmax"))
    settings = Objective(activation="softmax", targets="conditional")
    function = functools.partial(losses.objective, settings, SMALL)
    function = jax.jit(function) if compiled else function
    everybody = np.ones(len(votes), bool)
    means = losses.init_means(TERMS)
    for _ in range(2):
        loss, (means, record) = function(outputs, unknown_first(votes, everybody), mask, means)
        assert float(record["weight_mse"]) == pytest.approx(1)
        assert float(record["weight_kl"]) == float(record["weight_focal"]) == 0
        assert float(record["mse"]) > 0
        assert float(loss) == pytest.approx(float(record["mse"]))
    alone = dataclasses.replace(settings, terms=("kl",))
    nothing = losses.init_means(("kl",))
    step = functools.partial(losses.objective, alone, SMALL)
    assert float(step(outputs, unknown_first(votes, everybody), mask, nothing)[0]) == 0


def test_running_means_are_those_of_galaxies_that_a_term_is_known_of(batch):
    outputs, mask = batch[0][:, : SMALL.size], jnp.ones_like(batch[2])
    votes = np.asarray(tree.fractions(batch[0][:, -SMALL.size :], SMALL, "softmax"))
    settings = Objective(activation="softmax", targets="conditional", decay=0.9)
    some = np.arange(len(votes)) % 2 == 1
    start = losses.init_means(TERMS)

    def mean_of(means):
        return float(means.ema["kl"] / (1 - 0.9 ** float(means.count)))

    _, (half, record) = losses.objective(
        settings, SMALL, outputs, unknown_first(votes, some), mask, start
    )
    known = float(record["kl"]) * len(votes) / (~some).sum()
    assert mean_of(half) == pytest.approx(known, rel=1e-5)
    # Of a batch without any, the mean stays.
    _, (after, _) = losses.objective(
        settings, SMALL, outputs, unknown_first(votes, some | True), mask, half
    )
    assert int(after.count) == 2
    assert mean_of(after) == pytest.approx(known, rel=1e-5)


def test_galaxies_of_which_nothing_is_known_change_no_weight(batch):
    """Nor do padded ones."""
    outputs, mask = batch[0][:, : SMALL.size], np.ones(len(batch[2]), np.float32)
    votes = np.asarray(tree.fractions(batch[0][:, -SMALL.size :], SMALL, "softmax"))
    settings = Objective(activation="softmax", terms=("mse", "kl", "dirichlet"))
    start = losses.init_means(settings.terms)
    part = slice(0, 2)

    def step(outputs, votes, mask):
        votes, mask = jnp.asarray(votes), jnp.asarray(mask)
        return losses.objective(settings, SMALL, outputs, votes, mask, start)

    _, (_, alone) = step(outputs[part], votes[part], mask[part])
    for nothing in (np.nan, 0.0):
        fewer = np.full_like(votes, nothing)
        fewer[part] = votes[part]
        _, (_, among) = step(outputs, fewer, mask)
        padded = mask * 0
        padded[part] = 1
        _, (_, padding) = step(outputs, votes, padded)
        for term in settings.terms:
            for found in (among, padding):
                weight = float(found[f"weight_{term}"])
                assert weight == pytest.approx(float(alone[f"weight_{term}"]), rel=1e-4)


@pytest.mark.parametrize("without", [0, 1, 5])
def test_a_terms_first_mean_is_that_of_its_first_batch(batch, without):
    outputs, mask = batch[0][:, : SMALL.size], jnp.ones_like(batch[2])
    votes = np.asarray(tree.fractions(batch[0][:, -SMALL.size :], SMALL, "softmax"))
    settings = Objective(activation="softmax", targets="conditional", decay=0.99)
    means = losses.init_means(TERMS)
    nobody = unknown_first(votes, np.ones(len(votes), bool))
    for _ in range(without):
        _, (means, _) = losses.objective(settings, SMALL, outputs, nobody, mask, means)
    for _ in range(3):
        _, (means, record) = losses.objective(
            settings, SMALL, outputs, jnp.asarray(votes), mask, means
        )
        mean = float(means.ema["kl"] / (1 - 0.99 ** float(means.count)))
        assert mean == pytest.approx(float(record["kl"]), rel=1e-4)


def test_running_means_are_unbiased_from_the_first_batch(batch):
    """A hundredth of this MSE would be below the millionth."""
    outputs = batch[0][:, : SMALL.size]
    observed = tree.fractions(outputs + 0.02 * batch[0][:, -SMALL.size :], SMALL, "softmax")
    settings = Objective(activation="softmax", terms=("mse", "kl"), decay=0.99)
    _, (_, record) = losses.objective(
        settings, SMALL, outputs, observed, batch[2], losses.init_means(settings.terms)
    )
    assert 1e-6 < float(record["mse"]) < 1e-4
    ratio = float(record["weight_mse"] / record["weight_kl"])
    assert ratio == pytest.approx(float(record["kl"] / record["mse"]), rel=1e-3)


def test_conditional_targets_skip_questions_that_were_not_asked(crowd, gz2):
    # Nobody said "odd": question 8 does not count, whatever is predicted there.
    observed = np.array(crowd[:1], np.float32)
    observed[0, 13:15], observed[0, 18:25] = (0, 1), 0
    settings = Objective(activation="softplus", targets="conditional", terms=("mse",))
    one, other = np.ones((1, 37), np.float32), np.ones((1, 37), np.float32)
    other[:, 18] = 7
    values = [
        float(
            losses.objective(
                settings,
                gz2,
                *map(jnp.asarray, (outputs, observed, np.ones(1, np.float32))),
                losses.init_means(("mse",)),
            )[0]
        )
        for outputs in (one, other)
    ]
    assert values[0] == values[1]
    conditional, asked = tree.normalise(observed, gz2)
    error = (tree.conditional_fractions(one, gz2, "softplus") - conditional) ** 2
    assert values[0] == pytest.approx(float((error * asked).sum() / 37), rel=1e-5)


def test_an_untied_head_is_compared_answer_by_answer(batch, gz2):
    outputs, observed, mask = batch
    settings = Objective(activation="sigmoid", terms=("mse",))
    loss, _ = losses.objective(settings, gz2, outputs, observed, mask, losses.init_means(("mse",)))
    expected = np.mean((1 / (1 + np.exp(-np.asarray(outputs))) - np.asarray(observed)) ** 2)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
