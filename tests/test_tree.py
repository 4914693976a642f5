"""The tree as functions on arrays; the data has its tests in test_trees.py."""

import functools
import itertools

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
from gzjax.errors import UserError
from gzjax.tree import ACTIVATIONS, Tree

GZ2 = tree.load("gz2")
# The tree of Galaxy Zoo 2 once more, by hand: (columns, gate).
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


def make(*questions: tuple[int, tuple[int, ...]], name: str = "small") -> Tree:
    """A tree from (number of answers, gates) of each question."""
    answers = [
        f"q{number}_a{answer}"
        for number, (size, _) in enumerate(questions, 1)
        for answer in range(size)
    ]
    tables = [
        {
            "name": f"q{number}",
            "answers": [f"a{answer}" for answer in range(size)],
            "asked_after": [answers[gate] for gate in gates],
        }
        for number, (size, gates) in enumerate(questions, 1)
    ]
    return Tree.from_dict({"name": name, "questions": tables})


# A root, a question with two gates of it, one whose gates are of two questions, another root.
SMALL = make((2, (4, 6)), (4, ()), (2, (2, 3)), (3, ()), (2, (0, 5)))


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
            share = values / total if total > 1e-6 else np.full(len(values), 1 / len(values))
            result[row, list(columns)] = share
    return result


def reference_cumulative(conditional: np.ndarray) -> np.ndarray:
    def part(row: np.ndarray, column: int) -> float:
        gate = next(gate for columns, gate in BY_HAND if column in columns)
        return row[column] * (1.0 if gate is None else part(row, gate))

    return np.array([[part(row, column) for column in range(37)] for row in conditional])


def volunteers(tree: Tree, opinions: np.ndarray) -> np.ndarray:
    """float64[answers]: cumulative fractions of a crowd that walks the tree, one by one.

    opinions: int[volunteers, questions], the answer that each would give if asked.
    """
    votes = np.zeros(tree.size)
    question_of = [q for q in tree.questions for _ in q.answers]

    def gives(mind: np.ndarray, column: int) -> bool:
        question = question_of[column]
        asked = not question.gates or any(gives(mind, gate) for gate in question.gates)
        return asked and question.first + mind[question.number - 1] == column

    for mind in opinions:
        votes += [gives(mind, column) for column in range(tree.size)]
    return votes / len(opinions)


@st.composite
def trees(draw) -> Tree:
    """Random trees: roots, sets of gates of one or several questions, columns in any order."""
    answers = draw(st.lists(st.integers(2, 4), min_size=1, max_size=5))
    order = draw(st.permutations(range(len(answers))))
    first = np.cumsum([0, *answers])
    gates: dict[int, tuple[int, ...]] = {}
    earlier: list[int] = []
    for position in order:
        drawn = draw(st.sets(st.sampled_from(earlier), max_size=4)) if earlier else set()
        gates[position] = tuple(sorted(drawn))
        try:
            make(*((answers[p], gates.get(p, ())) for p in range(len(answers))))
        except UserError:  # two of them do not exclude each other
            gates[position] = gates[position][:1]
        earlier += range(first[position], first[position + 1])
    return make(*((answers[p], gates[p]) for p in range(len(answers))))


outputs_strategy = arrays.arrays(
    np.float32,
    (4, 37),
    elements=st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1e-30, -1e4, 1e4]),
)
jitted = {
    activation: jax.jit(functools.partial(tree.fractions, tree=GZ2, activation=activation))
    for activation in ACTIVATIONS
}
violations = jax.jit(functools.partial(tree.violations, tree=GZ2))
to_labels = jax.jit(functools.partial(tree.normalise, tree=GZ2))
to_cumulative = jax.jit(functools.partial(tree.cumulative_fractions, tree=GZ2))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("compiled", [False, True])
def test_fractions_match_an_independent_walk(activation, compiled):
    outputs = np.random.default_rng(1).normal(0, 3, (16, 37)).astype(np.float32)
    conditional = reference_conditional(outputs, activation)
    if compiled:
        found = jitted[activation](outputs)
    else:
        found = tree.conditional_fractions(outputs, GZ2, activation)
        np.testing.assert_allclose(found, conditional, atol=2e-6)
        found = tree.cumulative_fractions(found, GZ2)
    np.testing.assert_allclose(found, reference_cumulative(conditional), atol=2e-6)


@given(outputs=outputs_strategy, activation=st.sampled_from(ACTIVATIONS))
@settings(max_examples=60, deadline=None)
def test_fractions_lie_in_the_unit_interval_and_sum_to_their_gates(outputs, activation):
    fractions = np.asarray(jitted[activation](outputs))
    assert fractions.min() >= 0
    assert fractions.max() <= 1 + 1e-6
    assert float(violations(fractions).max()) <= 2e-6


@given(outputs=outputs_strategy, activation=st.sampled_from(ACTIVATIONS), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_permuting_the_batch_permutes_the_fractions(outputs, activation, seed):
    order = np.random.default_rng(seed).permutation(len(outputs))
    np.testing.assert_array_equal(
        jitted[activation](outputs)[order], jitted[activation](outputs[order])
    )


@given(some=trees(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_laws_of_any_tree(some, seed):
    random = np.random.default_rng(seed)
    outputs = random.normal(0, 3, (3, some.size)).astype(np.float32)
    conditional = np.asarray(tree.conditional_fractions(outputs, some, RELU))
    cumulative = np.asarray(tree.cumulative_fractions(conditional, some))
    np.testing.assert_array_equal(tree.fractions(outputs, some, RELU), cumulative)
    assert cumulative.min() >= 0
    assert cumulative.max() <= 1 + 1e-6
    for question in some.questions:
        gates = sum((cumulative[:, gate] for gate in question.gates), np.zeros(3))
        expected = gates if question.gates else np.ones(3)
        np.testing.assert_allclose(conditional[:, question.columns].sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(cumulative[:, question.columns].sum(1), expected, atol=2e-6)
    assert float(tree.violations(cumulative, some).max()) <= 2e-6

    # A crowd that walks it, one by one.
    sizes = [len(question.answers) for question in some.questions]
    crowds = [volunteers(some, random.integers(0, sizes, (7, len(sizes)))) for _ in range(3)]
    fractions = np.stack(crowds)
    assert float(tree.violations(fractions, some).max()) <= 2e-6
    conditional, mask = map(np.asarray, tree.normalise(fractions, some))
    np.testing.assert_allclose(tree.cumulative_fractions(conditional, some), fractions, atol=2e-6)
    asked = some.asked(fractions)
    for question in some.questions:
        part, own = asked[:, question.number - 1], question.columns
        np.testing.assert_allclose(part, fractions[:, own].sum(axis=1), atol=1e-9)
        np.testing.assert_array_equal(mask[:, own].T, [part > 0] * len(question.answers))
        uniform = np.float32(1 / len(question.answers))
        np.testing.assert_array_equal(conditional[part == 0, own], uniform)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_tree_with_sets_of_gates_by_hand(compiled):
    # Columns: 0-1 after 4 or 6; 2-5 always; 6-7 after 2 or 3; 8-10 always; 11-12 after 0 or 5.
    conditional = [0.25, 0.75, 0.1, 0.2, 0.3, 0.4, 0.6, 0.4, 0.5, 0.3, 0.2, 0.9, 0.1]
    six = (0.1 + 0.2) * 0.6
    zero = (0.3 + six) * 0.25
    eleven = (zero + 0.4) * 0.9
    expected = [zero, zero * 3, 0.1, 0.2, 0.3, 0.4, six, six / 0.6 * 0.4, 0.5, 0.3, 0.2, eleven]
    function = functools.partial(tree.cumulative_fractions, tree=SMALL)
    found = (jax.jit(function) if compiled else function)(np.float32(conditional))
    np.testing.assert_allclose(found, [*expected, eleven / 9], rtol=1e-6)
    back, mask = tree.normalise(found, SMALL)
    np.testing.assert_allclose(back, conditional, rtol=1e-5)
    assert mask.all()
    asked = SMALL.asked(np.asarray(found))
    np.testing.assert_allclose(asked, [zero * 4, 1, 0.3, 1, zero + 0.4], rtol=1e-6)
    assert asked.dtype == np.float64
    broken = np.asarray(found) + np.float32([0, 0, 0, 0, 0, 0, 0.125] + [0] * 6)
    # Column 6 is an answer of question 3 and a gate of question 1.
    np.testing.assert_allclose(tree.violations(broken, SMALL), [0.125, 0, 0.125, 0, 0], atol=1e-6)


def test_the_part_that_is_asked_is_summed_in_float64():
    fractions = np.zeros((1, 13), np.float16)
    fractions[0, 4], fractions[0, 6] = 0.0004, 1
    expected = float(np.float16(0.0004)) + 1
    assert SMALL.asked(fractions)[0, 0] == expected


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_labels_survive_the_way_to_conditional_and_back(seed):
    from conftest import walk

    labels = walk(np.random.default_rng(seed), 4)
    conditional, mask = to_labels(labels)
    np.testing.assert_allclose(to_cumulative(conditional), labels, atol=2e-6)
    for columns, gate in BY_HAND:
        asked = np.ones(4) if gate is None else labels[:, gate] > 0
        for column in columns:
            np.testing.assert_array_equal(mask[:, column], asked)


def test_rounding_errors_are_not_answers():
    labels = np.zeros((2, 37))
    labels[:, 0], labels[:, 14] = 1, 1
    labels[:, 3] = 0.9e-6, 1.1e-6
    conditional, mask = tree.normalise(labels, GZ2)
    np.testing.assert_array_equal(mask[:, 3], [0, 1])
    np.testing.assert_allclose(conditional[:, 3:5], [[0.5, 0.5], [1, 0]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("fill", [0.0, -5.0, 1.0, 1e4, -1e4, 1e-30])
def test_gradients_are_finite_at_hard_places(activation, fill):
    outputs = jnp.full((2, 37), fill)
    weights = jnp.arange(37.0)
    gradient = jax.grad(lambda x: jnp.vdot(jitted[activation](x)[0], weights))(outputs)
    assert np.isfinite(gradient).all()


def test_gradients_of_labels_are_finite_where_nobody_was_asked():
    gradient = jax.grad(lambda x: tree.normalise(x, GZ2)[0].sum())(jnp.zeros((1, 37)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_match_finite_differences(activation):
    outputs = np.random.default_rng(2).uniform(0.5, 2, (1, SMALL.size))
    weights = jnp.asarray(np.random.default_rng(3).normal(size=SMALL.size), jnp.float32)
    function = jax.jit(lambda x: jnp.sum(tree.fractions(x, SMALL, activation) * weights))
    jax.test_util.check_grads(function, (jnp.float32(outputs),), 1, ["rev"], 5e-3, 5e-3)


def test_all_negative_question_is_uniform_under_relu():
    fractions = np.asarray(tree.conditional_fractions(-np.ones((1, 37), np.float32), GZ2, RELU))
    for columns, _ in BY_HAND:
        np.testing.assert_allclose(fractions[0, list(columns)], 1 / len(columns), rtol=1e-6)


@pytest.mark.parametrize("shape", [(37,), (2, 3, 37), (0, 37)])
def test_any_leading_shape_and_any_dtype(shape):
    outputs = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    for function in (
        functools.partial(tree.fractions, activation=SOFTPLUS),
        functools.partial(tree.fractions, activation=tree.UNTIED),
        tree.cumulative_fractions,
        tree.normalise,
    ):
        for result in jax.tree.leaves(
            jax.eval_shape(functools.partial(function, tree=GZ2), outputs)
        ):
            assert result.shape == shape
            assert result.dtype == jnp.float32
    found = jax.eval_shape(functools.partial(tree.violations, tree=GZ2), outputs)
    assert found.shape == (*shape[:-1], 11)
    assert GZ2.asked(np.ones(shape)).shape == (*shape[:-1], 11)


def test_without_the_tree_each_answer_is_by_itself():
    outputs = np.random.default_rng(0).normal(0, 3, (5, 37)).astype(np.float32)
    expected = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    for function in (tree.fractions, jax.jit(tree.fractions, static_argnums=(1, 2))):
        np.testing.assert_allclose(function(outputs, GZ2, tree.UNTIED), expected, rtol=1e-5)


def test_a_tree_is_a_static_argument():
    traced = []

    @functools.partial(jax.jit, static_argnums=1)
    def function(x, chosen):
        traced.append(chosen.name)
        return tree.cumulative_fractions(x, chosen)

    for chosen in (GZ2, tree.load("gz2"), SMALL, Tree.from_dict(SMALL.to_dict())):
        function(jnp.ones((1, chosen.size)), chosen)
    assert traced == ["gz2", "small"]


def test_violations_are_measured_per_question(crowd):
    broken = crowd.copy()
    broken[0, 15] -= 0.25
    found = np.asarray(tree.violations(broken, GZ2))
    assert found[0, 6] == pytest.approx(0.25, abs=1e-6)
    assert np.delete(found, 6, axis=1).max() < 2e-6
    assert found[1:].max() < 2e-6
    broken = crowd.copy()
    broken[1, 0] += 0.5  # an answer of question 1, and the gate of question 7
    found = np.asarray(tree.violations(broken, GZ2))
    np.testing.assert_allclose(found[1, [0, 6]], 0.5, atol=1e-6)
    assert np.delete(found, [0, 6], axis=1).max() < 2e-6


@pytest.mark.parametrize("activation", tree.CONCENTRATED)
def test_fractions_are_the_ratios_of_concentrations_however_small(activation):
    lowest = {"softplus": -35.0, "softmax": -29.0}[activation]
    outputs = jnp.linspace(lowest, -12.0, GZ2.size)[None, ::-1]

    def found(outputs):
        return tree.conditional_fractions(outputs, GZ2, activation)

    ratios = tree.normalise(1e9 * tree.concentrations(outputs, GZ2, activation), GZ2)[0]
    np.testing.assert_allclose(found(outputs), ratios, rtol=1e-4)
    slope = jax.grad(lambda outputs: found(outputs)[0, 1])(outputs)
    assert jnp.isfinite(slope).all()
    assert slope[0, 1] > 0.01
    # Beyond what float32 has, too.
    far = jnp.full((1, GZ2.size), -1e4)
    np.testing.assert_allclose(found(far), tree.normalise(jnp.zeros_like(far), GZ2)[0], rtol=1e-5)
    assert jnp.isfinite(jax.grad(lambda outputs: found(outputs)[0, 1])(far)).all()


def test_wrong_width_and_unknown_activation_are_refused():
    for function in (
        functools.partial(tree.fractions, activation=RELU),
        functools.partial(tree.fractions, activation=tree.UNTIED),
        tree.cumulative_fractions,
        tree.normalise,
        tree.sums,
        tree.violations,
    ):
        with pytest.raises(ValueError, match=r"37 answers, found an array of shape \(2, 36\)"):
            function(jnp.ones((2, 36)), tree=GZ2)
    with pytest.raises(ValueError, match="'tanh': expected one of relu, softplus, softmax"):
        tree.conditional_fractions(jnp.ones((2, 37)), GZ2, "tanh")
    with pytest.raises(ValueError, match="'sigmoid'"):
        tree.conditional_fractions(jnp.ones((2, 37)), GZ2, tree.UNTIED)


def test_gates_are_summed_only_where_no_volunteer_gives_two():
    """Against all volunteers there can be, for every pair of gates of a last question."""
    accepted = 0
    base = [(2, ()), (2, (0,)), (2, (1,)), (2, (2, 5)), (2, ())]
    whole = make(*base)
    minds = np.array(list(itertools.product(range(2), repeat=5)))
    given_by = np.stack([volunteers(whole, mind[None]) for mind in minds]) > 0
    for pair in itertools.combinations(range(10), 2):
        both = given_by[:, pair].all(axis=1).any()
        if both:
            with pytest.raises(UserError, match=r"question 'q6': asked_after: .* exclude"):
                make(*base, (2, pair))
        else:
            make(*base, (2, pair))
            accepted += 1
    assert accepted == 5 + 12


def test_sums_are_exact_on_accelerators_too():
    """Whose matrix products would round to bfloat16 or TF32, unseen on a CPU."""
    assert "Precision.HIGHEST" in str(jax.make_jaxpr(lambda v: tree.sums(v, GZ2))(jnp.ones(37)))


def test_all_real_rows_obey_the_tree(real_data):
    for name in ("training_solutions_rev1.csv", "labels_without_images.csv"):
        rows = pd.read_csv(real_data / name)[list(GZ2.columns)].to_numpy()
        assert len(rows) > 3000
        assert float(tree.violations(rows, GZ2).max()) <= 2e-6
        conditional, _ = tree.normalise(rows, GZ2)
        assert abs(np.asarray(tree.cumulative_fractions(conditional, GZ2)) - rows).max() <= 2e-6
