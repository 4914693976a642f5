import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from gzjax import losses, tree
from gzjax.losses import TERMS, Objective


@pytest.fixture(scope="module")
def fractions(crowd):
    """float32[8, 37] pairs: what a network might predict, and what the crowd said."""
    outputs = np.random.default_rng(5).uniform(0.2, 2, (8, 37)).astype(np.float32)
    predicted = tree.cumulative_fractions(tree.conditional_fractions(outputs))
    return np.asarray(predicted), crowd[:8].astype(np.float32)


def reference(name, predicted, observed, gamma=2.0, weights=None):
    predicted, observed = predicted.astype(np.float64), observed.astype(np.float64)
    if name == "mse":
        return ((predicted - observed) ** 2).sum(1) / 37
    p, q = observed[:, :3], predicted[:, :3]
    result = np.zeros(len(p))
    for row in range(len(p)):
        for answer in range(3):
            if p[row, answer] == 0:
                continue
            if name == "focal":
                term = -p[row, answer] * (1 - q[row, answer]) ** gamma * np.log(q[row, answer])
                result[row] += term * (1 if weights is None else weights[answer])
            else:
                result[row] += p[row, answer] * np.log(p[row, answer] / q[row, answer])
    return result


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("class_weights", [None, (0.5, 1.0, 4.0)])
def test_each_loss_matches_numpy(fractions, compiled, gamma, class_weights):
    function = functools.partial(
        losses.per_galaxy, first_question=slice(0, 3), gamma=gamma, class_weights=class_weights
    )
    found = (jax.jit(function) if compiled else function)(*fractions)
    assert set(found) == set(TERMS)
    for term, values in found.items():
        expected = reference(term, *fractions, gamma, class_weights)
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-6, err_msg=term)


def test_focal_with_gamma_zero_is_cross_entropy_and_kl_lacks_the_entropy(fractions):
    predicted, observed = (jnp.asarray(side[:, :3]) for side in fractions)
    entropy = -np.sum(np.where(observed > 0, observed * np.log(observed + 1e-30), 0), axis=1)
    np.testing.assert_allclose(
        losses.focal_loss(predicted, observed, 0.0) - entropy,
        losses.kl_divergence(predicted, observed),
        atol=2e-6,
    )


def test_agreement_costs_nothing(fractions):
    _, observed = fractions
    np.testing.assert_allclose(losses.mean_squared_error(observed, observed), 0)
    np.testing.assert_allclose(losses.kl_divergence(observed[:, :3], observed[:, :3]), 0, atol=1e-6)


@pytest.mark.parametrize("predicted", [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1 / 3, 1 / 3, 1 / 3)])
@pytest.mark.parametrize("observed", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.0)])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_values_and_gradients_are_finite_at_zero_and_one(predicted, observed, gamma):
    predicted, observed = jnp.asarray([predicted]), jnp.asarray([observed])
    for function in (
        losses.kl_divergence,
        functools.partial(losses.focal_loss, gamma=gamma),
        losses.mean_squared_error,
    ):
        value, gradient = jax.value_and_grad(lambda q, f=function: f(q, observed).sum())(predicted)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def settings_of(**changes):
    return Objective(**({"activation": "softplus"} | changes))


def loss_of(settings, outputs, observed, mask, means):
    return losses.objective(settings, outputs, observed, mask, means)


@pytest.fixture(scope="module")
def batch(crowd):
    outputs = np.random.default_rng(6).normal(0.5, 1, (8, 37)).astype(np.float32)
    return outputs, crowd[:8].astype(np.float32), np.ones(8, np.float32)


@pytest.mark.parametrize("activation", tree.ACTIVATIONS)
@pytest.mark.parametrize("targets", losses.TARGETS)
@pytest.mark.parametrize("weighting", losses.WEIGHTINGS)
def test_gradient_of_the_jitted_objective_matches_finite_differences(
    batch, activation, targets, weighting
):
    outputs, observed, mask = batch
    settings = settings_of(activation=activation, targets=targets, weighting=weighting)
    outputs = np.abs(outputs) + 0.2  # away from the kink of relu
    # Means that have already seen something: their own change with the batch carries no gradient.
    means = losses.update_means(
        losses.init_means(TERMS), {term: jnp.asarray(0.3) for term in TERMS}
    )
    function = jax.jit(functools.partial(loss_of, settings))
    weights = function(outputs, observed, mask, means)[1][1]

    def frozen(outputs):
        record = function(outputs, observed, mask, means)[1][1]
        return sum(float(weights[f"weight_{term}"]) * float(record[term]) for term in TERMS)

    gradient = jax.grad(lambda o: function(o, observed, mask, means)[0])(outputs)
    generator = np.random.default_rng(7)
    for _ in range(3):
        direction = generator.normal(size=outputs.shape).astype(np.float32)
        step = 1e-2
        slope = (frozen(outputs + step * direction) - frozen(outputs - step * direction)) / (
            2 * step
        )
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=1e-4)


@given(padding=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_padding_changes_nothing(crowd, padding, seed):
    generator = np.random.default_rng(seed)
    outputs = generator.normal(0.5, 1, (4, 37)).astype(np.float32)
    observed = crowd[:4].astype(np.float32)
    noise = generator.normal(0, 9, (padding, 37)).astype(np.float32)
    means = losses.init_means(TERMS)
    plain, (_, record) = losses.objective(settings_of(), outputs, observed, np.ones(4), means)
    padded, (_, padded_record) = losses.objective(
        settings_of(),
        np.concatenate([outputs, noise]),
        np.concatenate([observed, np.zeros_like(noise)]),
        np.concatenate([np.ones(4), np.zeros(padding)]),
        means,
    )
    assert float(plain) == pytest.approx(float(padded), rel=1e-5)
    for name in record:
        assert float(record[name]) == pytest.approx(float(padded_record[name]), rel=1e-5)


def test_dynamic_weights_make_the_contributions_equal():
    means = losses.init_means(TERMS)
    sizes = {"mse": 0.01, "focal": 0.4, "kl": 3.0}
    for _ in range(5):
        means = losses.update_means(means, {k: jnp.asarray(v) for k, v in sizes.items()})
    weights = losses.dynamic_weights(means)
    assert sum(float(weight) for weight in weights.values()) == pytest.approx(1, abs=1e-6)
    contributions = [float(weights[term]) * sizes[term] for term in TERMS]
    np.testing.assert_allclose(contributions, contributions[0], rtol=1e-4)


def test_running_means_are_unbiased_from_the_first_step_and_follow():
    means = losses.init_means(("mse",))
    means = losses.update_means(means, {"mse": jnp.asarray(2.0)}, 0.9)
    assert float(means.sums["mse"] / means.total) == pytest.approx(2.0, rel=1e-5)
    means = losses.update_means(means, {"mse": jnp.asarray(4.0)}, 0.9)
    expected = (0.9 * 2 + 4) / (0.9 + 1)
    assert float(means.sums["mse"] / means.total) == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_zero_gives_finite_weights():
    means = losses.update_means(
        losses.init_means(("mse", "kl")), {"mse": jnp.zeros(()), "kl": jnp.ones(())}
    )
    weights = losses.dynamic_weights(means)
    assert all(np.isfinite(weight) for weight in weights.values())


def test_fixed_weights_and_a_single_term(batch):
    outputs, observed, mask = batch
    fixed = settings_of(weighting="fixed", weights=(2.0, 1.0, 1.0))
    loss, (_, record) = losses.objective(fixed, outputs, observed, mask, losses.init_means(TERMS))
    expected = (2 * record["mse"] + record["focal"] + record["kl"]) / 4
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    alone = settings_of(terms=("mse",))
    loss, (_, record) = losses.objective(
        alone, outputs, observed, mask, losses.init_means(("mse",))
    )
    assert float(loss) == pytest.approx(float(record["mse"]), rel=1e-6)
    assert set(record) == {"mse", "weight_mse"}


def test_conditional_targets_leave_out_who_was_not_asked(crowd):
    # Nobody said "odd": question 8 has no say, whatever is predicted there.
    row = np.flatnonzero((crowd[:, 13] == 0) & (crowd[:, 0] > 0))[:1]
    if not len(row):
        crowd = crowd.copy()
        row = np.array([0])
        crowd[0, 13:15], crowd[0, 18:25] = (0, 1), 0
    observed = crowd[row].astype(np.float32)
    settings = settings_of(targets="conditional", terms=("mse",))
    one, other = np.ones((1, 37), np.float32), np.ones((1, 37), np.float32)
    other[:, 18] = 7
    values = [
        float(losses.objective(settings, o, observed, np.ones(1), losses.init_means(("mse",)))[0])
        for o in (one, other)
    ]
    assert values[0] == values[1]
    conditional, asked = tree.conditional_labels(observed)
    error = (tree.conditional_fractions(one, "softplus") - conditional) ** 2
    assert values[0] == pytest.approx(float((error * asked).sum() / asked.sum()), rel=1e-5)


def test_unknown_settings_are_refused(batch):
    outputs, observed, mask = batch
    for changes, pattern in [
        ({"terms": ()}, "loss terms"),
        ({"terms": ("mse", "huber")}, "huber"),
        ({"targets": "raw"}, "'raw'"),
        ({"weighting": "none"}, "'none'"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            losses.objective(
                settings_of(**changes), outputs, observed, mask, losses.init_means(TERMS)
            )
