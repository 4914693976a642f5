"""The Galaxy Zoo 2 decision tree: as data, and as pure functions on arrays.

Volunteers walk 11 questions; which question comes next depends on the answer before it. The
Kaggle Galaxy Zoo challenge publishes, for each of the 37 answers, its *cumulative* vote fraction:
the fraction of this answer among the volunteers who saw the question, times the cumulative
fraction of the answer that led to the question (its *gate*). So the answers of a question sum to
its gate, and the answers of questions 1 and 6, which everybody sees, sum to 1.

Sources: Willett et al. 2013 (arXiv:1308.3496), table 2 for the questions; Dieleman, Willett &
Dambre 2015 (arXiv:1503.07077), section 7.3, for the normalisation of a network's outputs.

All functions take any leading batch shape, compute in float32 whatever they are given, are
differentiable and finite everywhere, and may be jitted. To use another tree, build another `Tree`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = ("relu", "softplus", "softmax")

# Without the tree: each answer by itself, held to [0, 1] and nothing else.
UNTIED = "sigmoid"

# A question whose answers sum to less than this counts as not answered: published fractions are
# rounded to 1e-6, and dividing by less would blow up rounding errors and gradients.
EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Question:
    """One question. `gate` is the column of the answer that leads here, None if all see it."""

    number: int
    name: str
    text: str
    answers: tuple[str, ...]
    first: int
    gate: int | None = None

    @property
    def columns(self) -> slice:
        """The columns of this question's answers among all answers of the tree."""
        return slice(self.first, self.first + len(self.answers))


@dataclasses.dataclass(frozen=True)
class Tree:
    """A decision tree: questions in column order, every gate before the question it opens."""

    questions: tuple[Question, ...]

    def __post_init__(self):
        column = 0
        for question in self.questions:
            if question.first != column:
                raise ValueError(
                    f"question {question.number} ({question.name}) starts at column "
                    f"{question.first}, expected {column}: columns must be contiguous"
                )
            column += len(question.answers)
        for question in self.questions:
            if question.gate is not None and not 0 <= question.gate < column:
                raise ValueError(f"question {question.number}: gate {question.gate} is no column")
        _ = self.by_depth  # raises for a tree with a cycle

    @property
    def size(self) -> int:
        """Number of answers, over all questions."""
        return sum(len(question.answers) for question in self.questions)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The challenge's column names, `Class1.1` ... `Class11.6`."""
        return tuple(
            f"Class{question.number}.{answer}"
            for question in self.questions
            for answer in range(1, len(question.answers) + 1)
        )

    @functools.cached_property
    def question_of(self) -> np.ndarray:
        """int[answers]: the position in `questions` of each answer's question."""
        return np.repeat(
            np.arange(len(self.questions)), [len(question.answers) for question in self.questions]
        )

    @functools.cached_property
    def membership(self) -> np.ndarray:
        """float32[answers, questions]: 1 where the answer belongs to the question.

        A product with it sums the answers of each question; with its transpose, it gives each
        answer its question's value.
        """
        return np.eye(len(self.questions), dtype=np.float32)[self.question_of]

    @functools.cached_property
    def by_depth(self) -> tuple[Question, ...]:
        """The questions so ordered that each comes after the question of its gate."""
        ordered: list[Question] = []
        waiting = list(self.questions)
        while waiting:
            reached = {q.number for q in ordered}
            ready = [
                question
                for question in waiting
                if question.gate is None
                or self.questions[self.question_of[question.gate]].number in reached
            ]
            if not ready:
                names = ", ".join(question.name for question in waiting)
                raise ValueError(f"these questions open each other in a circle: {names}")
            ordered += ready
            waiting = [question for question in waiting if question not in ready]
        return tuple(ordered)


GALAXY_ZOO_2 = Tree(
    (
        Question(
            1,
            "smooth-or-featured",
            "Is the object a smooth galaxy, a galaxy with features or disk, or a star?",
            ("smooth", "features or disk", "star or artifact"),
            first=0,
        ),
        Question(2, "edge-on", "Is it edge-on?", ("yes", "no"), first=3, gate=1),
        Question(3, "bar", "Is there a bar?", ("yes", "no"), first=5, gate=4),
        Question(4, "spiral", "Is there a spiral pattern?", ("yes", "no"), first=7, gate=4),
        Question(
            5,
            "bulge",
            "How prominent is the central bulge?",
            ("none", "just noticeable", "obvious", "dominant"),
            first=9,
            gate=4,
        ),
        Question(6, "odd", "Is there anything odd?", ("yes", "no"), first=13),
        Question(
            7,
            "roundness",
            "How round is the smooth galaxy?",
            ("completely round", "in between", "cigar-shaped"),
            first=15,
            gate=0,
        ),
        Question(
            8,
            "odd-feature",
            "What is the odd feature?",
            (
                "ring",
                "lens or arc",
                "disturbed",
                "irregular",
                "other",
                "merger",
                "dust lane",
            ),
            first=18,
            gate=13,
        ),
        Question(
            9,
            "edge-on-bulge",
            "What shape is the bulge of the edge-on galaxy?",
            ("rounded", "boxy", "none"),
            first=25,
            gate=3,
        ),
        Question(
            10,
            "winding",
            "How tightly wound are the spiral arms?",
            ("tight", "medium", "loose"),
            first=28,
            gate=7,
        ),
        Question(
            11,
            "arms",
            "How many spiral arms are there?",
            ("1", "2", "3", "4", "more than 4", "can't tell"),
            first=31,
            gate=7,
        ),
    )
)


def conditional_fractions(
    outputs: jax.Array, activation: str = "relu", tree: Tree = GALAXY_ZOO_2
) -> jax.Array:
    """A network's outputs -> the fractions of each question's answers, given that it is asked.

    `relu` and `softplus` divide the activated outputs by their sum over the question
    (arXiv:1503.07077, eq. 2, is the `relu`); `softmax` is the softmax over the question's
    outputs. A question whose outputs are all negative has no opinion under `relu`: its answers
    become uniform, and no gradient passes, so start from a positive output bias.

    Args:
      outputs: float[..., answers], any real values.
      activation: one of `ACTIVATIONS`.
      tree: the decision tree.

    Returns:
      float32[..., answers] in [0, 1]; each question's answers sum to 1.

    Raises:
      ValueError: unknown activation, or a last axis that is not the tree's.
    """
    outputs = _last_axis(outputs, tree)
    if activation == "softmax":
        largest = jnp.stack(
            [jnp.max(outputs[..., question.columns], axis=-1) for question in tree.questions], -1
        )
        # The shift leaves the ratio as it is, so the gradient need not pass through it.
        positive = jnp.exp(outputs - jax.lax.stop_gradient(_spread(largest, tree)))
    elif activation == "relu":
        positive = jax.nn.relu(outputs)
    elif activation == "softplus":
        positive = jax.nn.softplus(outputs)
    else:
        raise ValueError(f"activation {activation!r}: expected one of {', '.join(ACTIVATIONS)}")
    return _divide_by_question(positive, tree)[0]


def cumulative_fractions(conditional: jax.Array, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """Conditional fractions -> the cumulative vote fractions that the challenge asks for.

    Args:
      conditional: float[..., answers] in [0, 1], each question's answers summing to 1.
      tree: the decision tree.

    Returns:
      float32[..., answers]: each answer times its gate, which is cumulative itself.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    conditional = _last_axis(conditional, tree)
    questions: dict[int, jax.Array] = {}
    for question in tree.by_depth:
        answers = conditional[..., question.columns]
        if question.gate is not None:
            parent = tree.questions[tree.question_of[question.gate]]
            column = question.gate - parent.first
            answers = answers * questions[parent.number][..., column, None]
        questions[question.number] = answers
    return jnp.concatenate([questions[question.number] for question in tree.questions], axis=-1)


def fractions(outputs: jax.Array, activation: str = "relu", tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """A network's outputs -> cumulative vote fractions, the whole way down the tree.

    Args:
      outputs: float[..., answers], any real values.
      activation: one of `ACTIVATIONS`; or `UNTIED`, to see what the tree is worth.
      tree: the decision tree.

    Returns:
      float32[..., answers] in [0, 1]; unless untied, each question's answers sum to its gate.
    """
    if activation == UNTIED:
        return jax.nn.sigmoid(_last_axis(outputs, tree))
    return cumulative_fractions(conditional_fractions(outputs, activation, tree), tree)


def conditional_labels(
    fractions: jax.Array, tree: Tree = GALAXY_ZOO_2
) -> tuple[jax.Array, jax.Array]:
    """Cumulative vote fractions -> conditional fractions, with a mask of the questions asked.

    Args:
      fractions: float[..., answers], cumulative.
      tree: the decision tree.

    Returns:
      conditional: float32[..., answers]; uniform for a question nobody reached.
      mask: float32[..., answers]; 0 for the answers of a question that nobody reached.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    return _divide_by_question(_last_axis(fractions, tree), tree)


def violations(fractions: jax.Array, tree: Tree = GALAXY_ZOO_2) -> jax.Array:
    """How far each question's answers are from summing to their gate.

    Args:
      fractions: float[..., answers], cumulative.
      tree: the decision tree.

    Returns:
      float32[..., questions]: |sum of the answers - gate|, 0 for a row that obeys the tree.

    Raises:
      ValueError: a last axis that is not the tree's.
    """
    fractions = _last_axis(fractions, tree)
    gates = jnp.stack(
        [
            jnp.ones_like(fractions[..., 0])
            if question.gate is None
            else fractions[..., question.gate]
            for question in tree.questions
        ],
        axis=-1,
    )
    return jnp.abs(_question_sums(fractions, tree) - gates)


def _last_axis(values: jax.Array, tree: Tree) -> jax.Array:
    values = jnp.asarray(values, jnp.float32)
    if values.ndim == 0 or values.shape[-1] != tree.size:
        raise ValueError(
            f"expected a last axis of {tree.size} answers, found an array of shape {values.shape}"
        )
    return values


def _question_sums(values: jax.Array, tree: Tree) -> jax.Array:
    # Exact float32: on accelerators a matrix product would otherwise round to bfloat16 or TF32.
    return jnp.matmul(values, tree.membership, precision=jax.lax.Precision.HIGHEST)


def _spread(per_question: jax.typing.ArrayLike, tree: Tree) -> jax.Array:
    return jnp.asarray(per_question)[..., tree.question_of]


def _divide_by_question(values: jax.Array, tree: Tree) -> tuple[jax.Array, jax.Array]:
    """Non-negative values / their question's sum, and 1 where that sum is not zero.

    Where it is zero the answers are uniform. Both branches of the `where` are kept finite, so
    that the gradient is, too.
    """
    sums = _question_sums(values, tree)
    asked = sums > EPSILON
    fractions = values / _spread(jnp.where(asked, sums, 1.0), tree)
    counts = np.asarray([len(question.answers) for question in tree.questions], np.float32)
    mask = _spread(asked, tree)
    return jnp.where(mask, fractions, _spread(1.0 / counts, tree)), mask.astype(jnp.float32)
