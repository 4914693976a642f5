"""Settings: frozen dataclasses whose fields own their defaults and check their values.

    @dataclasses.dataclass(frozen=True)
    class Blur(Settings):
        radius: float = number(1.0, above=0)
        kind: str = choice("gauss", ("gauss", "box"))

    Blur(radius=-1)  # UserError: radius: expected a number above 0, found -1

Only names and values are in the message; the command line adds the flag before it.
"""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gzjax.errors import UserError, hint


def setting(
    default: Any, expected: str, allowed: Callable[[Any], bool], names: Sequence[str] = ()
) -> Any:
    """A field of `Settings`: `allowed` says whether a value is what `expected` says in words.

    A TypeError or ValueError means that it is not. Of `names`, one close to a wrong value is
    suggested.
    """
    metadata = {"expected": expected, "allowed": allowed, "names": names}
    return dataclasses.field(default=default, metadata=metadata)


def number(
    default: float,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    unit: str = "",
) -> Any:
    """A finite number, whole where the default is whole, within bounds, of a `unit` in words."""
    whole = isinstance(default, int)
    bounds = {"above": above, "at least": least, "at most": most, "below": below}
    described = [f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound)]
    if math.isfinite(least) and math.isfinite(most):
        described = [f"from {least:g} to {most:g}"]
    parts = ("a whole number" if whole else "a number", unit and f"of {unit}")
    expected = " ".join(filter(None, (*parts, " and ".join(described))))

    def allowed(value: Any) -> bool:
        return is_number(value, whole) and above < value < below and least <= value <= most

    return setting(default, expected, allowed)


def is_number(value: Any, whole: bool = False) -> bool:
    """Whether a value is a finite real number, or a whole one; booleans are not."""
    kind = numbers.Integral if whole else numbers.Real
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def choice(default: str, names: Sequence[str]) -> Any:
    """One of several names."""
    return setting(default, f"one of {', '.join(names)}", lambda value: value in names, names)


def text(default: str, expected: str = "text") -> Any:
    """Text; `expected` says what it is, in words."""
    return setting(default, expected, lambda value: isinstance(value, str))


def switch(default: bool) -> Any:
    """True or False."""
    return setting(default, "True or False", lambda value: isinstance(value, bool))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base class: checks every field made by `setting`, `number`, `choice`, `text` or `switch`.

    Lists become tuples, and whole numbers become floats where the default is one, since JSON and
    config files do not distinguish them.

    Raises:
      UserError: a value that is not allowed.
    """

    # To run-time type checkers: these check themselves.
    __no_type_check__ = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
            if field.metadata:
                self._check(field, value)
            if isinstance(field.default, float):
                value = float(value)
            object.__setattr__(self, field.name, value)

    def _check(self, field: "dataclasses.Field[Any]", value: Any) -> None:
        about = field.metadata
        with contextlib.suppress(TypeError, ValueError):
            if about["allowed"](value):
                return
        self.fail(field.name, about["expected"], f"{value!r}{hint(value, about['names'])}")

    def fail(self, name: str, expected: str, found: str) -> NoReturn:
        """Raises the `UserError` of one field."""
        raise UserError(f"{name}: expected {expected}, found {found}")
