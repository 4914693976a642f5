import dataclasses
import functools

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings

from gzjax import tree
from gzjax.tree import ACTIVATIONS, GALAXY_ZOO_2, Question, Tree

# The tree once more, by hand: (columns, gate), to check the one in the code against.
BY_HAND = [
    (range(0, 3), None),
    (range(3, 5), 1),
    (range(5, 7), 4),
    (range(7, 9), 4),
    (range(9, 13), 4),
    (range(13, 15), None),
    (range(15, 18), 0),
    (range(18, 25), 13),
    (range(25, 28), 3),
    (range(28, 31), 7),
    (range(31, 37), 7),
]
RELU, SOFTPLUS, SOFTMAX = ACTIVATIONS


def reference_conditional(outputs: np.ndarray, activation: str) -> np.ndarray:
    outputs = outputs.astype(np.float64)
    result = np.empty_like(outputs)
    for row in range(len(outputs)):
        for columns, _ in BY_HAND:
            values = outputs[row, list(columns)]
            if activation == RELU:
                values = np.where(values > 0, values, 0)
            elif activation == SOFTPLUS:
                values = np.logaddexp(values, 0)
            else:
                values = np.exp(values - values.max())
            total = values.sum()
            share = (
                values / total if total > tree.EPSILON else np.full(len(values), 1 / len(values))
            )
            result[row, list(columns)] = share
    return result


def reference_cumulative(conditional: np.ndarray) -> np.ndarray:
    def chance(row: np.ndarray, column: int) -> float:
        gate = next(gate for columns, gate in BY_HAND if column in columns)
        return row[column] * (1.0 if gate is None else chance(row, gate))

    return np.array([[chance(row, column) for column in range(37)] for row in conditional])


outputs_strategy = arrays.arrays(
    np.float32,
    (4, 37),
    elements=st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1e-30, -1e4, 1e4]),
)
jitted = {
    activation: jax.jit(
        lambda outputs, activation=activation: tree.cumulative_fractions(
            tree.conditional_fractions(outputs, activation)
        )
    )
    for activation in ACTIVATIONS
}


def test_the_tree_is_the_documented_one():
    found = [(range(q.columns.start, q.columns.stop), q.gate) for q in GALAXY_ZOO_2.questions]
    assert found == BY_HAND
    assert GALAXY_ZOO_2.size == 37
    assert GALAXY_ZOO_2.columns[:4] == ("Class1.1", "Class1.2", "Class1.3", "Class2.1")
    assert GALAXY_ZOO_2.columns[-1] == "Class11.6"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("compiled", [False, True])
def test_fractions_match_an_independent_walk(activation, compiled):
    outputs = np.random.default_rng(1).normal(0, 3, (16, 37)).astype(np.float32)
    function = (
        jitted[activation]
        if compiled
        else lambda x: tree.cumulative_fractions(tree.conditional_fractions(x, activation))
    )
    expected = reference_cumulative(reference_conditional(outputs, activation))
    np.testing.assert_allclose(function(outputs), expected, atol=2e-6)


@given(outputs=outputs_strategy, activation=st.sampled_from(ACTIVATIONS))
@settings(max_examples=60, deadline=None)
def test_fractions_lie_in_the_unit_interval_and_sum_to_their_gates(outputs, activation):
    fractions = np.asarray(jitted[activation](outputs))
    assert fractions.min() >= 0
    assert fractions.max() <= 1 + 1e-6
    assert float(tree.violations(fractions).max()) <= 2e-6


@given(outputs=outputs_strategy, activation=st.sampled_from(ACTIVATIONS), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_permuting_the_batch_permutes_the_fractions(outputs, activation, seed):
    order = np.random.default_rng(seed).permutation(len(outputs))
    np.testing.assert_array_equal(
        jitted[activation](outputs)[order], jitted[activation](outputs[order])
    )


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_labels_survive_the_way_to_conditional_and_back(seed):
    from conftest import walk

    labels = walk(np.random.default_rng(seed), 4)
    conditional, mask = tree.conditional_labels(labels)
    np.testing.assert_allclose(tree.cumulative_fractions(conditional), labels, atol=2e-6)
    for columns, gate in BY_HAND:
        asked = np.ones(4) if gate is None else labels[:, gate] > 0
        np.testing.assert_array_equal(mask[:, columns.start], asked)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("fill", [0.0, -5.0, 1.0, 1e4, -1e4, 1e-30])
def test_gradients_are_finite_at_hard_places(activation, fill):
    outputs = jnp.full((2, 37), fill)
    weights = jnp.arange(37.0)
    gradient = jax.grad(lambda x: jnp.sum(jitted[activation](x) * weights))(outputs)
    assert np.isfinite(gradient).all()


def test_gradients_of_labels_are_finite_where_nobody_was_asked():
    gradient = jax.grad(lambda x: tree.conditional_labels(x)[0].sum())(jnp.zeros((1, 37)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_match_finite_differences(activation):
    outputs = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2, (1, 37)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=37), jnp.float32)
    jax.test_util.check_grads(
        lambda x: jnp.sum(jitted[activation](x) * weights), (outputs,), 1, ["rev"], 5e-3, 5e-3
    )


def test_all_negative_question_is_uniform_under_relu():
    fractions = np.asarray(tree.conditional_fractions(-np.ones((1, 37), np.float32)))
    np.testing.assert_allclose(fractions[0, :3], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(37,), (2, 37), (2, 3, 37), (0, 37)])
def test_any_leading_shape_and_any_dtype(shape):
    outputs = jnp.ones(shape, jnp.bfloat16)
    for function in (tree.conditional_fractions, tree.cumulative_fractions):
        result = function(outputs)
        assert result.shape == shape
        assert result.dtype == jnp.float32
    assert tree.violations(outputs).shape == (*shape[:-1], 11)


def test_without_the_tree_each_answer_is_by_itself():
    outputs = np.random.default_rng(0).normal(0, 3, (5, 37)).astype(np.float32)
    expected = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    for function in (tree.fractions, jax.jit(tree.fractions, static_argnums=1)):
        np.testing.assert_allclose(function(outputs, tree.UNTIED), expected, rtol=1e-5)
    tied = tree.cumulative_fractions(tree.conditional_fractions(outputs, "softmax"))
    np.testing.assert_array_equal(tree.fractions(outputs, "softmax"), tied)


def test_violations_are_measured_per_question(crowd):
    broken = crowd.copy()
    broken[0, 15] += 0.25
    found = np.asarray(tree.violations(broken))
    assert found[0, 6] == pytest.approx(0.25, abs=1e-6)
    assert np.delete(found, 6, axis=1).max() < 2e-6
    assert found[1:].max() < 2e-6


def test_wrong_width_and_unknown_activation_are_refused():
    with pytest.raises(ValueError, match="37 answers"):
        tree.conditional_fractions(jnp.ones((2, 36)))
    with pytest.raises(ValueError, match="'tanh'"):
        tree.conditional_fractions(jnp.ones((2, 37)), "tanh")


def test_another_tree_is_a_matter_of_data():
    small = Tree(
        (
            Question(1, "late", "?", ("a", "b"), first=0, gate=3),
            Question(2, "early", "?", ("c", "d", "e"), first=2),
        )
    )
    conditional = jnp.asarray([0.25, 0.75, 0.5, 0.4, 0.1])
    np.testing.assert_allclose(
        tree.cumulative_fractions(conditional, small), [0.1, 0.3, 0.5, 0.4, 0.1], rtol=1e-6
    )
    function = jax.jit(functools.partial(tree.conditional_fractions, tree=small))
    np.testing.assert_allclose(function(conditional), conditional, rtol=1e-6)


def test_a_tree_that_makes_no_sense_is_refused():
    question = Question(1, "one", "?", ("a", "b"), first=0)
    with pytest.raises(ValueError, match="contiguous"):
        Tree((question, dataclasses.replace(question, number=2, first=3)))
    with pytest.raises(ValueError, match="circle"):
        Tree((dataclasses.replace(question, gate=1),))


def test_all_real_rows_obey_the_tree(real_data):
    for name in ("training_solutions_rev1.csv", "labels_without_images.csv"):
        rows = pd.read_csv(real_data / name)[list(GALAXY_ZOO_2.columns)].to_numpy()
        assert len(rows) > 3000
        assert float(tree.violations(rows).max()) <= 2e-6
        conditional, _ = tree.conditional_labels(rows)
        assert abs(np.asarray(tree.cumulative_fractions(conditional)) - rows).max() <= 2e-6
