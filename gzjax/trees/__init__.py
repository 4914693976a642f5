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
beside this one, show it. `text` is what volunteers read. `phrases`, `replaces` and `described` are
for descriptions in words, see `gzjax.describe`. `[columns]` says how catalogues name the answers:
a pattern for each family of names, or "" where each question lists its own (an empty list: the
family lacks the question). The first family names the columns of tables of vote fractions. Without
any, they are `QUESTION_ANSWER`, or `QUESTION-dr5_ANSWER` with `suffix = "-dr5"`.
"""

import contextlib
import dataclasses
import difflib
import functools
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gzjax.errors import UserError, named

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.toml")))

_TREE_KEYS = ("name", "title", "source", "suffix", "described", "columns", "questions")
_QUESTION_KEYS = ("name", "text", "answers", "asked_after", "phrases", "replaces", "columns")
_SLUG = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class Question:
    """One question of a tree. What only descriptions need is not compared.

    Attributes:
      number: its place in the tree, from 1.
      name: such as `has-spiral-arms`.
      answers: their names, such as `more-than-4`.
      first: the column of its first answer among all answers of the tree.
      gates: the columns of the answers after which it is asked, ascending; () if always.
      text: as volunteers read it.
      phrases: what a description says for each answer; () if undefined.
      replaces: a phrase replaces that of the question before it.
    """

    number: int
    name: str
    answers: tuple[str, ...]
    first: int
    gates: tuple[int, ...] = ()
    text: str = dataclasses.field(default="", compare=False)
    phrases: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    replaces: bool = dataclasses.field(default=False, compare=False)

    @property
    def columns(self) -> slice:
        """The columns of this question's answers among all answers of the tree."""
        return slice(self.first, self.first + len(self.answers))


@dataclasses.dataclass(frozen=True)
class Tree:
    """A decision tree. Equal ones ask the same questions and name their columns alike.

    Attributes:
      name: such as `gz2`.
      questions: in the order of the columns.
      columns: a name for each answer, such as `Class1.1`, in tables of vote fractions.
      families: {family: a name for each answer, None where it has none}, how catalogues name the
        answers; the first names them as `columns` does.
      described: the questions that a description in words takes, in its order; () = all.
      title, source: the project, and where the tree is published.

    Raises:
      UserError: a tree that makes no sense: which question, what was expected.
    """

    name: str
    questions: tuple[Question, ...]
    columns: tuple[str, ...]
    families: Mapping[str, tuple[str | None, ...]] = dataclasses.field(
        default_factory=dict, compare=False
    )
    described: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    title: str = dataclasses.field(default="", compare=False)
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.families:
            object.__setattr__(self, "families", {"survey": self.columns})
        _check(self)

    def __hash__(self) -> int:
        return hash((self.name, self.columns))  # cheap: each call of a jitted function asks for it

    @property
    def size(self) -> int:
        """Number of answers, over all questions."""
        return sum(len(question.answers) for question in self.questions)

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
        """The questions in such an order that each comes after those of its gates."""
        ordered: list[Question] = []
        waiting = list(self.questions)
        while waiting:
            reached = {question.number - 1 for question in ordered}
            ready = [q for q in waiting if reached.issuperset(self.question_of[list(q.gates)])]
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

        Args:
          fractions: cumulative vote fractions.

        Returns:
          float64.
        """
        result = np.ones((*fractions.shape[:-1], len(self.questions)))
        for position, question in enumerate(self.questions):
            if question.gates:
                gates = fractions[..., list(question.gates)]
                result[..., position] = gates.sum(axis=-1, dtype=np.float64)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON has it: what `from_dict` takes, with every column written out."""
        answers = _answers(self.questions)
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "described": list(self.described),
            "columns": dict.fromkeys(self.families, ""),
            "questions": [
                {
                    "name": question.name,
                    "text": question.text,
                    "answers": list(question.answers),
                    "asked_after": [answers[gate] for gate in question.gates],
                    "phrases": list(question.phrases),
                    "replaces": question.replaces,
                    "columns": {
                        family: [name or "" for name in names[question.columns]]
                        for family, names in self.families.items()
                    },
                }
                for question in self.questions
            ],
        }

    @staticmethod
    def from_dict(content: Any) -> "Tree":
        """What a TOML file holds -> the tree.

        Raises:
          UserError: which question, what was expected, what was found.
        """
        _keys(content, _TREE_KEYS)
        questions: list[Question] = []
        tables = _get(content, "questions", list)
        for number, table in enumerate(tables, 1):
            with _question_named(number, table):
                _keys(table, _QUESTION_KEYS)
                questions.append(
                    Question(
                        number,
                        _get(table, "name", str),
                        _texts(table, "answers"),
                        first=questions[-1].columns.stop if questions else 0,
                        text=_get(table, "text", str, ""),
                        phrases=_texts(table, "phrases", ()),
                        replaces=_get(table, "replaces", bool, False),
                    )
                )
        answers = _answers(questions)
        for number, table in enumerate(tables, 1):
            with _question_named(number, table):
                gates = _texts(table, "asked_after", ())
                _among(gates, answers, "asked_after")
                questions[number - 1] = dataclasses.replace(
                    questions[number - 1], gates=tuple(sorted(map(answers.index, gates)))
                )
        families = _families(content, questions)
        return Tree(
            _get(content, "name", str),
            tuple(questions),
            next(iter(families.values())),  # type: ignore[arg-type]  # None is refused by Tree
            families,
            described=_texts(content, "described", ()),
            title=_get(content, "title", str, ""),
            source=_get(content, "source", str, ""),
        )


def load(name: str | Path) -> Tree:
    """A published tree by its name, one of `NAMES`; or a user's own by the path of a TOML file.

    Raises:
      UserError: no such tree or file, or a wrong one: which question, what was expected.
    """
    text = str(name)
    is_path = isinstance(name, Path) or text.endswith(".toml") or "/" in text or "\\" in text
    if not is_path and text not in NAMES:
        raise _wrong("", f"the path of a .toml file or one of {', '.join(NAMES)}", text, NAMES)
    file = Path(text).expanduser() if is_path else _FOLDER / f"{text}.toml"
    with named(f"{file}: "):
        try:
            content = tomllib.loads(file.read_bytes().decode())
        except OSError as error:
            raise UserError(f"expected a TOML file, found: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"expected TOML in UTF-8, found: {error}") from error
        return Tree.from_dict(content)


def _families(
    content: Mapping[str, Any], questions: Sequence[Question]
) -> dict[str, tuple[str | None, ...]]:
    patterns = _get(content, "columns", dict, {}) or {"survey": "{question}{suffix}_{answer}"}
    families: dict[str, tuple[str | None, ...]] = {}
    for family in patterns:
        pattern = _get(patterns, family, str)
        names: list[str | None] = []
        for question, table in zip(questions, content["questions"], strict=True):
            with _question_named(question.number, table):
                own = _get(table, "columns", dict, {})
                _keys(own, tuple(patterns))
                if family in own:
                    listed = _texts(own, family)
                    if len(listed) not in (0, len(question.answers)):
                        expected = f"{len(question.answers)} columns or none"
                        raise _wrong(f"columns of {family}", expected, list(listed))
                    names += [name or None for name in listed or [""] * len(question.answers)]
                    continue
            parts: dict[str, str | int] = {
                "question": question.name,
                "suffix": _get(content, "suffix", str, ""),
                "number": question.number,
            }
            for index, answer in enumerate(question.answers, 1):
                names.append(_fill(family, pattern, parts | {"answer": answer, "index": index}))
        families[family] = tuple(names)
    return families


def _fill(family: str, pattern: str, parts: Mapping[str, str | int]) -> str | None:
    try:
        return pattern.format_map(parts) or None
    except (LookupError, ValueError, AttributeError, TypeError):
        raise _wrong(
            f"columns of {family}", f"a pattern of {{{'}, {'.join(parts)}}}", pattern
        ) from None


def _check(tree: Tree) -> None:
    """Raises a `UserError` if the tree makes no sense."""
    _slugs((tree.name,), "name")
    if not tree.questions:
        raise _wrong("questions", "at least one", None)
    answers = _answers(tree.questions)
    names = [question.name for question in tree.questions]
    _distinct(names, "questions")
    _among(tree.described, names, "described")
    column = 0
    for number, question in enumerate(tree.questions, 1):
        with named(f"question {question.name!r}: "):
            _slugs((question.name,), "name")
            _slugs(question.answers, "answers")
            if len(question.answers) < 2:
                raise _wrong("answers", "at least two", list(question.answers))
            if question.phrases and len(question.phrases) != len(question.answers):
                expected = f"one for each of {len(question.answers)} answers"
                raise _wrong("phrases", expected, list(question.phrases))
            if (question.number, question.first) != (number, column):
                found = (question.number, question.first)
                raise _wrong("number and first column", str((number, column)), found)
            if list(question.gates) != sorted(set(question.gates)):
                raise _wrong("gates", "ascending columns", question.gates)
            for gate in question.gates:
                if not 0 <= gate < len(answers):
                    raise _wrong("gates", f"columns below {len(answers)}", gate)
                if answers[gate] in answers[question.columns]:
                    raise _wrong("asked_after", "answers of other questions", answers[gate])
        column += len(question.answers)
    for family, columns in tree.families.items():
        _distinct([name for name in columns if name is not None], f"columns of {family}")
        if len(columns) != column:
            raise _wrong(f"columns of {family}", f"{column}, one for each answer", len(columns))
    if None in tree.columns or tree.columns != next(iter(tree.families.values())):
        raise _wrong("columns", "a column for each answer in the first family", list(tree.columns))
    _check_gates(tree, answers)


def _check_gates(tree: Tree, answers: Sequence[str]) -> None:
    """Raises a `UserError` if a volunteer can give two gates of a question: sums would exceed 1."""
    exclude = np.zeros((tree.size, tree.size), bool)  # pairs of answers that exclude each other
    for question in tree.by_depth:
        own = question.columns
        for pair in itertools.combinations(question.gates, 2):
            if not exclude[pair]:
                with named(f"question {question.name!r}: "):
                    found = [answers[gate] for gate in pair]
                    raise _wrong("asked_after", "answers that exclude each other", found)
        if question.gates:
            others = np.asarray(exclude[list(question.gates)].all(axis=0))
            exclude[own], exclude[:, own] = others, others[:, None]
        exclude[own, own] = ~np.eye(len(question.answers), dtype=bool)


def _answers(questions: Sequence[Question]) -> list[str]:
    return [f"{question.name}_{answer}" for question in questions for answer in question.answers]


def _question_named(number: int, table: Any) -> contextlib.AbstractContextManager[None]:
    name = table.get("name", number) if isinstance(table, dict) else number
    return named(f"question {name!r}: ")


def _slugs(names: Sequence[str], what: str) -> None:
    for name in names:
        if not _SLUG.fullmatch(name):
            raise _wrong(what, "letters and digits, joined by hyphens", name)
    _distinct(names, what)


def _distinct(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _wrong(what, "different names", [name] * names.count(name))


def _among(names: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise _wrong(what, f"names such as {known[0]!r}", name, known)
    _distinct(names, what)


def _keys(table: Any, known: Sequence[str]) -> None:
    if not isinstance(table, Mapping):
        raise _wrong("content", "a table", table)
    for key in table:
        if key not in known:
            raise _wrong("key", f"one of {', '.join(known)}", key, known)


def _get(table: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        words = {str: "text", bool: "true or false", list: "a list", dict: "a table"}
        raise _wrong(key, words[kind], value)
    return value


def _texts(table: Mapping[str, Any], key: str, default: Any = None) -> tuple[str, ...]:
    value = table.get(key, default)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _wrong(key, "a list of texts", value)
    return tuple(value)


def _wrong(what: str, expected: str, found: Any, known: Sequence[str] = ()) -> UserError:
    shown = "nothing" if found is None else repr(found)
    close = difflib.get_close_matches(str(found), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    prefix = f"{what}: " if what else ""
    return UserError(f"{prefix}expected {expected}, found {shown[:200]}{hint}")
