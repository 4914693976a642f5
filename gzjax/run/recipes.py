"""Recipes: Python files whose `get_config` says what differs from the defaults."""

import runpy
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from gzjax.errors import UserError, hint, one_line

_PACKAGE = Path(__file__).resolve().parent.parent
# Beside the package in a checkout of the repository, within it where it is installed.
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
FOLDER = next(filter(Path.is_dir, FOLDERS), FOLDERS[0])


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")


def find(name: str | Path) -> Path:
    """The file of a recipe, by a shipped one's name or by its path.

    Raises:
      UserError: there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(name) in names():
        return FOLDER / f"{name}.py"
    raise UserError(
        f"{name}: no such recipe; expected one of {', '.join(names())}, or a file such as "
        f"configs/sky.py{hint(name, names())}"
    )


def recipe(name: str | Path) -> ConfigDict:
    """The config of a recipe, to be changed and trained with.

    Args:
      name: of a shipped recipe, such as `sky`, or the path of a recipe file.

    Raises:
      UserError: no such recipe, or one that cannot be run.
    """
    file = find(name)
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        config = get_config() if get_config is not None else None
    except SyntaxError as error:
        raise UserError(f"{file}: line {error.lineno}: {error.msg}") from None
    except Exception as error:
        # The last line of the recipe that was reached; below it the fault may be anywhere.
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(file)), "?")
        fault = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{file}: line {line}: {fault}") from None
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: expected a function get_config that returns a config")
    return config
