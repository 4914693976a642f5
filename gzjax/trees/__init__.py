"""Decision trees as data: those that Galaxy Zoo published, and any that a user writes down.

Volunteers walk through questions. The answers after which a question is asked are its *gates*: a
set, of which a volunteer has to give one. A user's own tree is a TOML file:

    name = "my-rings"

    [[questions]]
    name = "smooth-or-featured"
    answers = ["smooth", "featured", "artifact"]

    [[questions]]
    name = "ring"
    answers = ["yes", "no"]
    asked_after = ["smooth-or-featured_smooth", "smooth-or-featured_featured"]

Without `asked_after` a question is always asked. Everything else is optional; the published files,
beside this one, show it. `phrases`, `replaces` and `described` are for descriptions in words, see
`gzjax.describe`. `[columns]` says how catalogues name the answers: for each family of names a
pattern such as `{question}_{answer}`, the default, or a list of all names, with "" for answers that
the family lacks. The first family names the columns of tables of vote fractions. The family
`survey` has names such as `bar-dr5_yes`; its suffix, `-dr5`, stands for the campaign.

The trees of several campaigns are one tree, too, see `gzjax.trees.campaigns`.
"""

import dataclasses
import functools
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gzjax.errors import UserError, named
from gzjax.trees import checks

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a tree. What only descriptions need is not compared."""

    number: int  # its place in the tree, from 1
    name: str  # such as `has-spiral-arms`
    answers: tuple[str, ...]  # their names, such as `more-than-4`
    first: int  # the column of its first answer among all answers of the tree
    gates: tuple[int, ...] = ()  # the columns of the answers after which it is asked; () if always
    text: str = dataclasses.field(default="", compare=False)  # as volunteers read it
    # What a description says for each answer, () if undefined; and whether that takes the place of
    # what it said for the gate.
    phrases: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    replaces: bool = dataclasses.field(default=False, compare=False)

    @property
    def columns(self) -> slice:
        """The columns of this question's answers among all answers of the tree."""
        return slice(self.first, self.first + len(self.answers))


@dataclasses.dataclass(frozen=True)
class Tree:
    """A decision tree. Equal ones ask the same questions and name their columns alike.

    `from_dict` checks that a tree makes sense; one that is made by hand is taken as it is.
    """

    name: str
    questions: tuple[Question, ...]  # in the order of the columns
    columns: tuple[str, ...]  # a name for each answer in tables of vote fractions: `Class1.1`
    # How catalogues name the answers, None where they lack one. The first is `columns`.
    families: Mapping[str, tuple[str | None, ...]] = dataclasses.field(
        default_factory=dict, compare=False
    )
    # The questions that a description in words takes, in its order; () = all.
    described: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __hash__(self) -> int:
        return hash((self.name, self.columns))  # cheap: each call of a jitted function asks for it

    @property
    def size(self) -> int:
        """Number of answers, over all questions."""
        return len(self.columns)

    @functools.cached_property
    def question_of(self) -> np.ndarray:
        """int[answers]: the position in `questions` of each answer's question."""
        sizes = [len(question.answers) for question in self.questions]
        return np.repeat(np.arange(len(sizes)), sizes)

    @functools.cached_property
    def membership(self) -> np.ndarray:
        """float32[answers, questions]: 1 where the answer belongs to the question.

        A product with it sums the answers of each question.
        """
        return np.eye(len(self.questions), dtype=np.float32)[self.question_of]

    @functools.cached_property
    def suffix(self) -> str:
        """What survey tables put behind a question's name, such as `-dr5`; "" if nothing."""
        found = set()
        for name, question, answer in self._survey:
            if name is not None:
                match = re.fullmatch(f"{re.escape(question)}(.*)_{re.escape(answer)}", name)
                found.add(match[1] if match else "")
        suffix = found.pop() if len(found) == 1 else ""
        return suffix if re.fullmatch("(-[A-Za-z0-9]+)+", suffix) else ""

    @functools.cached_property
    def survey_columns(self) -> tuple[str, ...]:
        """What survey tables call each answer, such as `bar-dr5_strong`.

        As the family `survey` has it; where that lacks a name, made in the same way.
        """
        return tuple(
            name or f"{question}{self.suffix}_{answer}" for name, question, answer in self._survey
        )

    @property
    def _survey(self) -> list[tuple[str | None, str, str]]:
        """For each answer: its name in the family `survey`, its question, itself."""
        names = self.families.get("survey", [None] * self.size)
        answers = [(each.name, answer) for each in self.questions for answer in each.answers]
        return [(name, *answer) for name, answer in zip(names, answers, strict=True)]

    @functools.cached_property
    def by_depth(self) -> tuple[Question, ...]:
        """The questions in such an order that each comes after those of its gates."""
        ordered: list[Question] = []
        waiting = list(self.questions)
        while waiting:
            unknown = {question.number - 1 for question in waiting}
            ready = [q for q in waiting if unknown.isdisjoint(self.question_of[list(q.gates)])]
            if not ready:
                names = ", ".join(question.name for question in waiting)
                raise UserError(f"asked_after: expected no cycle, found one among {names}")
            ordered += ready
            waiting = [question for question in waiting if question not in ready]
        return tuple(ordered)

    def asked(
        self, fractions: Float[np.ndarray, "*batch answers"]
    ) -> Float[np.ndarray, "*batch questions"]:
        """The part of the crowd that is asked each question: the sum of its gates, 1 if always.

        From cumulative vote fractions, in float64.
        """
        parts = [
            fractions[..., list(question.gates)].sum(axis=-1, dtype=np.float64)
            if question.gates
            else np.ones(fractions.shape[:-1])
            for question in self.questions
        ]
        return np.stack(parts, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON has it: what `from_dict` takes, with every column written out."""
        answers = _answers((question.name, question.answers) for question in self.questions)
        return {
            "name": self.name,
            "described": self.described,
            "columns": {
                family: [column or "" for column in columns]
                for family, columns in (self.families or {"votes": self.columns}).items()
            },
            "questions": [
                {
                    "name": question.name,
                    "text": question.text,
                    "answers": question.answers,
                    "asked_after": [answers[gate] for gate in question.gates],
                    "phrases": question.phrases,
                    "replaces": question.replaces,
                }
                for question in self.questions
            ],
        }

    @staticmethod
    def from_dict(content: Any) -> "Tree":
        """What a TOML file holds -> the tree.

        Raises:
          UserError: a tree that makes no sense: which question, what was expected.
        """
        table = checks.read(content, _TREE)
        for name in table["name"].split("+"):  # of a union
            checks.slug("name", name)
        tables = [_read_question(*each) for each in enumerate(table["questions"], 1)]
        if not tables:
            raise checks.wrong("questions", "at least one", tables)
        names = [each["name"] for each in tables]
        checks.distinct("questions", names)
        checks.among("described", table["described"], names)
        answers = _answers((each["name"], each["answers"]) for each in tables)
        questions: list[Question] = []
        for number, each in enumerate(tables, 1):
            asked_after = each.pop("asked_after")
            with named(f"question {each['name']!r}: "):
                checks.among("asked_after", asked_after, answers)
            gates = tuple(sorted({answers.index(gate) for gate in asked_after}))
            first = questions[-1].columns.stop if questions else 0
            questions.append(Question(number, first=first, gates=gates, **each))
        families = {
            family: _columns(f"columns of {family}", given, questions)
            for family, given in (table["columns"] or {"survey": "{question}_{answer}"}).items()
        }
        first = next(iter(families.values()))
        columns = tuple(column for column in first if column)
        if columns != first:
            raise checks.wrong("columns", "a name for each answer in the first family", first)
        tree = Tree(table["name"], tuple(questions), columns, families, table["described"])
        _check_gates(tree, answers)
        return tree


def load(name: str | Path) -> Tree:
    """A published tree by its name, one of `NAMES`; or a user's own by the path of a TOML file.

    Raises:
      UserError: no such tree or file, or a wrong one: which question, what was expected.

    Examples:
      >>> tree = load("decals-dr5")
      >>> tree.questions[0].answers
      ('smooth', 'featured-or-disk', 'artifact')
      >>> tree.columns[0]
      'smooth-or-featured-dr5_smooth'
    """
    file = Path(name).expanduser()
    if name in NAMES:
        file = _FOLDER / f"{name}.toml"
    elif name == file.stem:  # a word, neither in a folder nor with an ending
        expected = f"the path of a .toml file or one of {', '.join(NAMES)}"
        raise checks.wrong("", expected, name, NAMES)
    with named(f"{file}: "):
        try:
            content = tomllib.loads(file.read_bytes().decode())
        except OSError as error:
            raise UserError(f"expected a TOML file, found: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"expected TOML in UTF-8, found: {error}") from error
        return Tree.from_dict(content)


# What the keys of a tree and of a question hold.
_TREE = dict(name=str, described=tuple, columns=dict, questions=list)
_QUESTION = dict(name=str, text=str, answers=tuple, asked_after=tuple, phrases=tuple, replaces=bool)


def _read_question(number: int, table: Any) -> dict[str, Any]:
    name = table.get("name", number) if isinstance(table, dict) else number
    with named(f"question {name!r}: "):
        question = checks.read(table, _QUESTION)
        answers, phrases = question["answers"], question["phrases"]
        checks.slug("name", question["name"])
        for answer in answers:
            checks.slug("answers", answer)
        checks.distinct("answers", answers)
        if len(answers) < 2:
            raise checks.wrong("answers", "at least two", answers)
        if len(phrases) not in (0, len(answers)):
            raise checks.wrong("phrases", f"one for each of {len(answers)} answers", phrases)
        return question


def _columns(what: str, given: Any, questions: Sequence[Question]) -> tuple[str | None, ...]:
    """A family's names of the answers, from its pattern or its list."""
    if isinstance(given, str):
        try:
            given = [
                given.format(question=each.name, number=each.number, answer=answer, index=index)
                for each in questions
                for index, answer in enumerate(each.answers, 1)
            ]
        except (LookupError, ValueError, AttributeError, TypeError):
            expected = "a pattern of {question}, {answer}, {number}, {index}"
            raise checks.wrong(what, expected, given) from None
    names, answers = checks.texts(what, given), questions[-1].columns.stop
    if len(names) != answers:
        raise checks.wrong(what, f"{answers} names, one for each answer", names)
    checks.distinct(what, [name for name in names if name])
    return tuple(name or None for name in names)


def _check_gates(tree: Tree, answers: Sequence[str]) -> None:
    """Raises a `UserError` if a volunteer can give two gates of a question: sums would exceed 1."""
    exclude = np.zeros((tree.size, tree.size), bool)  # pairs of answers that exclude each other
    for question in tree.by_depth:
        gates, own = list(question.gates), question.columns
        for pair in itertools.combinations(gates, 2):
            if not exclude[pair]:
                found = [answers[gate] for gate in pair]
                what = f"question {question.name!r}: asked_after"
                raise checks.wrong(what, "answers that exclude each other", found)
        if gates:
            others = np.all(exclude[gates], axis=0)
            exclude[own], exclude[:, own] = others, others[:, None]
        exclude[own, own] = ~np.eye(len(question.answers), dtype=bool)


def _answers(questions: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    return [f"{name}_{answer}" for name, answers in questions for answer in answers]
