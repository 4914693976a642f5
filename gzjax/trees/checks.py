"""Checks of what a user's file holds; all raise a `UserError`: what was expected and found."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gzjax.errors import UserError, hint

_WORDS = {str: "text", bool: "true or false", list: "a list", dict: "a table"}


def read(table: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """The values of a table, each of its kind; those that it lacks are empty.

    A tuple stands for a list of strings.
    """
    if not isinstance(table, dict):
        raise wrong("content", "a table", table)
    among("key", table, [*kinds])
    values = {key: kind() for key, kind in kinds.items()} | table
    for key, kind in kinds.items():
        if kind is tuple:
            values[key] = texts(key, values[key])
        elif not isinstance(values[key], kind):
            raise wrong(key, _WORDS[kind], values[key])
    return values


def texts(what: str, value: Any) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise wrong(what, "a list of strings", value)
    return tuple(value)


def slug(what: str, name: str) -> None:
    """A name that columns and files can have."""
    if not re.fullmatch("[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name):
        raise wrong(what, "letters and digits, joined by hyphens", name)


def distinct(what: str, names: Sequence[str]) -> None:
    """Names that differ."""
    for name in names:
        if names.count(name) > 1:
            raise wrong(what, "different names", [name] * names.count(name))


def among(what: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Names that are all known."""
    for name in names:
        if name not in known:
            shown = textwrap.shorten(", ".join(known), 200, placeholder=" ...")
            raise wrong(what, f"one of {shown}", name, known)


def wrong(what: str, expected: str, found: Any, known: Sequence[str] = ()) -> UserError:
    """The error itself, with the known name that is most like what was found."""
    shown = repr(found)[:200] if found not in ("", (), []) else "nothing"
    where = f"{what}: " if what else ""
    return UserError(f"{where}expected {expected}, found {shown}{hint(found, known)}")
