"""What the commands share: options that fail in one line, and the user's cache folder."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags


def define_recipe(default: Path) -> None:
    """Defines --config, a recipe whose every option can be overridden.

    Where a command line names no recipe, the default one's options are looked up here already.
    """
    with _faults_in_one_line():
        config_flags.DEFINE_config_file("config", str(default), "The recipe.")


def parse(arguments: list[str]) -> list[str]:
    """Parses a command line with a recipe; the recipe's own options, too, fail in one line.

    Args:
      arguments: the command and what stands behind it.

    Returns:
      What of them is no flag, the command first.
    """
    with _faults_in_one_line():
        rest = app.parse_flags_with_usage(arguments)
        flags.FLAGS.config.to_dict()  # a recipe that is missing fails at its first use
    return rest


@contextlib.contextmanager
def _faults_in_one_line() -> Iterator[None]:
    """Tells what ml_collections raises of recipes and their options as people expect it."""
    try:
        yield
    except (AttributeError, KeyError) as error:  # of an option, and of a group of options
        text = str(error.args[0])
        found = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
        names = found.groups() if found else (None, text.strip("'\""))
        fail(f"--config: no option {names[1]!r}" + f"; did you mean {names[0]!r}?" * bool(found))
    except OSError:
        recipe = config_flags.get_config_filename(flags.FLAGS["config"])
        fail(f"--config: {recipe}: no such recipe; expected a file such as configs/sky.py")
    except (TypeError, ValueError) as error:
        fail(f"--config: {' '.join(str(error).split())}")


def fail(message: str) -> NoReturn:
    """Ends the program with one line."""
    print(f"gzjax: {message}", file=sys.stderr)
    sys.exit(2)


def cache_folder() -> Path:
    """`gzjax` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gzjax"
