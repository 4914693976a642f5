"""The one kind of error that is the user's to fix."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """A mistake in an option, a table, an image or a checkpoint, in one line.

    The message names the file or setting, what was expected and what was found. The command line
    prints it without a traceback and exits with status 2.
    """


@contextlib.contextmanager
def named(what: str) -> Iterator[None]:
    """Puts `what`, such as `--config.model.weights: `, before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}{error}") from error.__cause__


@contextlib.contextmanager
def renamed(copy: object, original: str) -> Iterator[None]:
    """Names the original instead of its copy in the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(str(copy), original)) from error.__cause__


def hint(found: object, known: Iterable[str]) -> str:
    """`; did you mean 'sky'?` where a known name is much like what was found, else nothing."""
    close = difflib.get_close_matches(str(found), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def one_line(text: object) -> str:
    """A text as one printable line of at most 300 characters; of a silent exception, its type."""
    words = "".join(c if c.isprintable() else " " for c in str(text)).split()
    return " ".join(words)[:300] or type(text).__name__
