"""What the commands share: a recipe whose every option is a flag, and mistakes in one line."""

import contextlib
import errno
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from etils import epath
from ml_collections import config_flags

from gzjax import remote
from gzjax.errors import UserError, hint, one_line
from gzjax.run import config as configs
from gzjax.run import recipes

DEFAULT = "sky"


def define_recipe() -> None:
    """Defines --config, a recipe whose every option can be overridden."""
    with _faults_in_one_line():
        # ml_collections looks the command line's options up here already.
        resolved(sys.argv[1:])
        config_flags.DEFINE_config_file("config", str(recipes.find(DEFAULT)), "The recipe.")


def parse(arguments: Sequence[str]) -> list[str]:
    """Parses a command line with a recipe.

    Args:
      arguments: the command and what follows it.

    Returns:
      Those that are not flags, the command first.
    """
    with _faults_in_one_line():
        rest = flags.FLAGS([arguments[0], *resolved(arguments[1:])])
    return rest


def resolved(arguments: Sequence[str]) -> list[str]:
    """The same, with the file of the recipe in place of its name.

    Raises:
      UserError: no such recipe, one that cannot be run, or an option that it does not have.
    """
    arguments, file = list(arguments), recipes.find(DEFAULT)
    for place, argument in enumerate(arguments):
        name = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if name is not None and name[1] is not None:
            file = recipes.find(name[1])
            arguments[place] = f"--config={file}"
        elif name is not None and place + 1 < len(arguments):
            file = recipes.find(arguments[place + 1])
            arguments[place + 1] = str(file)
    options = dict(configs.flatten(recipes.recipe(file)))
    for argument in arguments:
        option = re.match(r"--?config\.([^=]*)", argument)
        if option is not None and option[1] not in options:
            raise UserError(f"no option {option[1]!r}{hint(option[1], options)}")
    return arguments


def recipe_name() -> str:
    """Name of the recipe that the command line gives."""
    return Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem


def overrides() -> dict[str, Any]:
    """{dotted option: value} of the options that the command line gives."""
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def share(text: str, flag: str) -> tuple[int, int]:
    """(2, 8) of `2/8`, the second of eight.

    Raises:
      UserError: something else.
    """
    return _two_numbers(text, "/", flag, "2/8")


def steps(text: str, flag: str) -> tuple[int, int]:
    """(10, 15) of `10:15`, the first and the last.

    Raises:
      UserError: something else.
    """
    return _two_numbers(text, ":", flag, "10:15")


def _two_numbers(text: str, between: str, flag: str, example: str) -> tuple[int, int]:
    """Two whole numbers from 1 on, the second not below the first."""
    first, _, second = text.partition(between)
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise UserError(f"{flag}: expected something like {example}, found {text}")
    return int(first), int(second)


def path(text: str) -> Path:
    """A path or a URL that the command line gives; shells expand ~ only where a word begins.

    Raises:
      UserError: a URL that nothing can be written to as to a folder, or without its package.
    """
    if remote.is_remote(text):
        remote.check([text])
        try:
            return epath.Path(text)  # which does what a Path does
        except KeyError:
            raise UserError(f"{text}: expected a path, or a URL of gs, s3, az or hf") from None
    return Path(text).expanduser()


@contextlib.contextmanager
def _faults_in_one_line() -> Iterator[None]:
    """Says mistakes in flags and recipes as people expect it."""
    try:
        yield
    except UserError as error:
        fail(f"--config: {error}")
    except flags.Error as error:
        fail(str(error))
    except (TypeError, ValueError) as error:
        fail(f"--config: {one_line(error)}")


@contextlib.contextmanager
def ended_in_one_line() -> Iterator[None]:
    """Ends the program with one line where someone made a mistake, or interrupts it."""
    try:
        yield
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("gzjax: interrupted; nothing that was finished is lost", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # A folder that cannot be written; a fault of ours has no file's name, nor has a full disk.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        room = "; free some space, and give the same command again" * (error.filename is None)
        fail(f"{error.filename or 'writing'}: {error.strerror}{room}")


def fail(message: str) -> NoReturn:
    """Ends the program with one line."""
    print("gzjax:", *message.split(), file=sys.stderr)
    sys.exit(2)
