"""Files that are whole or not there, and folders that one process writes at a time."""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gzjax import remote
from gzjax.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `file` when the block ends without an error.

    Whatever happens, `file` is either as it was or complete: after a power cut, a full disk, or
    where another process replaces the same file.
    """
    if remote.is_remote(file):
        with tempfile.TemporaryDirectory(prefix="gzjax-") as folder:
            yield (copy := Path(folder) / file.name)
            remote.write(copy, str(file))
        return
    # What a killed process leaves behind is skipped by readers of the folder, for its first letter.
    unfinished = file.with_name(f"_{file.name}.{uuid.uuid4().hex}.partial")
    try:
        yield unfinished
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Writes a whole text file; see `replacing`."""
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Writes a whole JSON file; see `replacing`."""
    write_text(file, json.dumps(content, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds; nothing if there is no such file, or a damaged one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Holds the lock `file` within the block; the system releases it if the process dies.

    File systems without locks (some network ones, and URLs) are not protected.

    Raises:
      UserError: another process holds it.
    """
    if remote.is_remote(file):
        yield
        return
    with file.open("a") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{file.parent}: another process is writing there; wait until it ends, or "
                    "name another folder"
                ) from None
            except OSError:  # no locks on this file system
                pass
        yield


def remove_folder(folder: Path) -> None:
    """Deletes a folder with all in it."""
    if remote.is_remote(folder):
        remote.filesystem(str(folder)).rm(str(folder), recursive=True)
    else:
        shutil.rmtree(folder)


def cache_folder() -> Path:
    """`gzjax` in the user's cache folder; where nobody has one, in the system's temporary one."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(chosen or Path.home() / ".cache") / "gzjax"
    except RuntimeError:  # no HOME, and no entry in passwd
        return Path(tempfile.gettempdir()) / "gzjax"
