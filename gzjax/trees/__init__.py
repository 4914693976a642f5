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

The trees of several campaigns are one tree, too: their `union`.
"""

import dataclasses
import difflib
import functools
import itertools
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gzjax.errors import UserError, named

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
                raise UserError(f"asked_after: expected no circle, found one among {names}")
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
        table = _read(content, _TREE)
        for name in table["name"].split("+"):  # of a union
            _slug("name", name)
        tables = [_read_question(*each) for each in enumerate(table["questions"], 1)]
        if not tables:
            raise _wrong("questions", "at least one", tables)
        names = [each["name"] for each in tables]
        _distinct("questions", names)
        _among("described", table["described"], names)
        answers = _answers((each["name"], each["answers"]) for each in tables)
        questions: list[Question] = []
        for number, each in enumerate(tables, 1):
            asked_after = each.pop("asked_after")
            with named(f"question {each['name']!r}: "):
                _among("asked_after", asked_after, answers)
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
            raise _wrong("columns", "a name for each answer in the first family", first)
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
        raise _wrong("", f"the path of a .toml file or one of {', '.join(NAMES)}", name, NAMES)
    with named(f"{file}: "):
        try:
            content = tomllib.loads(file.read_bytes().decode())
        except OSError as error:
            raise UserError(f"expected a TOML file, found: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"expected TOML in UTF-8, found: {error}") from error
        return Tree.from_dict(content)


def union(trees: Sequence[Tree]) -> Tree:
    """The trees of several campaigns as one, in their order; a single one as it is.

    Each question has the suffix of its campaign, `bar-dr5`, or the name of a tree that has none,
    `bar-desi`; so its only family, `survey`, has columns such as `bar-dr5_strong`. A description in
    words takes the questions of the first tree.

    Raises:
      UserError: no tree, or two whose questions would be called the same.

    Examples:
      >>> both = union([load("gz2"), load("decals-dr5")])
      >>> both.size == load("gz2").size + load("decals-dr5").size
      True
    """
    if len(trees) == 1:
        return trees[0]
    if not trees:
        raise _wrong("trees", "at least one", trees)
    for one, other in itertools.combinations(trees, 2):
        if _campaign(one) == _campaign(other):
            found = f"{_campaign(one)} for {one.name} and for {other.name}"
            raise UserError(f"trees: expected a suffix of its own for each, found {found}")
    members = [
        dataclasses.replace(
            tree,
            questions=tuple(
                dataclasses.replace(question, name=question.name + _campaign(tree))
                for question in tree.questions
            ),
        )
        for tree in trees
    ]
    first = trees[0].described or [question.name for question in trees[0].questions]
    return Tree.from_dict(
        {
            "name": "+".join(tree.name for tree in trees),
            "described": [name + _campaign(trees[0]) for name in first],
            "questions": [each for tree in members for each in tree.to_dict()["questions"]],
        }
    )


def part(whole: Tree, tree: Tree) -> slice:
    """The columns of a tree's answers within a union; all of them if it is that tree itself.

    Raises:
      UserError: the union has no such questions.
    """
    if tree == whole:
        return slice(0, whole.size)
    for position, question in enumerate(whole.questions):
        place = slice(question.first, question.first + tree.size)
        moved = tuple(
            dataclasses.replace(
                each,
                number=each.number + position,
                name=each.name + _campaign(tree),
                first=each.first + place.start,
                gates=tuple(gate + place.start for gate in each.gates),
            )
            for each in tree.questions
        )
        if whole.questions[position:][: len(moved)] == moved:
            return place
    raise _wrong("tree", f"one that is part of {whole.name}", tree.name)


def _campaign(tree: Tree) -> str:
    """What tells its questions from those of other campaigns."""
    return tree.suffix or f"-{tree.name}"


# What the keys of a tree and of a question hold; a tuple stands for a list of texts.
_TREE = dict(name=str, described=tuple, columns=dict, questions=list)
_QUESTION = dict(name=str, text=str, answers=tuple, asked_after=tuple, phrases=tuple, replaces=bool)
_WORDS = {str: "text", bool: "true or false", list: "a list", dict: "a table"}


def _read(table: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The values of a table, each of its kind; those that it lacks are empty."""
    if not isinstance(table, dict):
        raise _wrong("content", "a table", table)
    _among("key", table, [*kinds])
    values = {key: kind() for key, kind in kinds.items()} | table
    for key, kind in kinds.items():
        if kind is tuple:
            values[key] = _texts(key, values[key])
        elif not isinstance(values[key], kind):
            raise _wrong(key, _WORDS[kind], values[key])
    return values


def _texts(what: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise _wrong(what, "a list of texts", value)
    return tuple(value)


def _read_question(number: int, table: Any) -> dict[str, Any]:
    name = table.get("name", number) if isinstance(table, dict) else number
    with named(f"question {name!r}: "):
        question = _read(table, _QUESTION)
        answers, phrases = question["answers"], question["phrases"]
        _slug("name", question["name"])
        for answer in answers:
            _slug("answers", answer)
        _distinct("answers", answers)
        if len(answers) < 2:
            raise _wrong("answers", "at least two", answers)
        if len(phrases) not in (0, len(answers)):
            raise _wrong("phrases", f"one for each of {len(answers)} answers", phrases)
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
            raise _wrong(what, expected, given) from None
    names, answers = _texts(what, given), questions[-1].columns.stop
    if len(names) != answers:
        raise _wrong(what, f"{answers} names, one for each answer", names)
    _distinct(what, [name for name in names if name])
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
                raise _wrong(what, "answers that exclude each other", found)
        if gates:
            others = np.all(exclude[gates], axis=0)
            exclude[own], exclude[:, own] = others, others[:, None]
        exclude[own, own] = ~np.eye(len(question.answers), dtype=bool)


def _answers(questions: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    return [f"{name}_{answer}" for name, answers in questions for answer in answers]


def _slug(what: str, name: str) -> None:
    if not re.fullmatch("[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name):
        raise _wrong(what, "letters and digits, joined by hyphens", name)


def _distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _wrong(what, "different names", [name] * names.count(name))


def _among(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            shown = textwrap.shorten(", ".join(known), 200, placeholder=" ...")
            raise _wrong(what, f"one of {shown}", name, known)


def _wrong(what: str, expected: str, found: Any, known: Sequence[str] = ()) -> UserError:
    shown = repr(found)[:200] if found not in ("", (), []) else "nothing"
    close = difflib.get_close_matches(str(found), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return UserError(f"{what}{': ' * bool(what)}expected {expected}, found {shown}{hint}")
