"""Files that are not on this machine: `s3://`, `gs://`, `https://`, `hf://` and others of fsspec.

Local paths never come here. Credentials and endpoints are those of fsspec's drivers: the usual
variables of the clouds, or fsspec's own configuration.
"""

import contextlib
import fnmatch
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gzjax.errors import UserError, one_line

PATTERN = r"^[a-z][a-z0-9+.-]*://"
_URL = re.compile(PATTERN)
# Packages that fsspec needs for them, beside itself; `pip install 'gzjax[s3]'` and so on.
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "abfs": "adlfs"}
# Of a run, what predicting does not need.
_NOT_NEEDED = ("checkpoints/*/training/*", "checkpoints/*/batches/*", "tensorboard/*", "*.html")


def is_remote(path: object) -> bool:
    """Whether a path is a URL."""
    return _URL.match(str(path)) is not None


def check(paths: Iterable[str]) -> None:
    """Checks that files can be read, as far as packages go.

    Raises:
      UserError: a protocol that there is not, or whose package is missing.
    """
    for protocol in {path.partition("://")[0] for path in paths if is_remote(path)}:
        filesystem(f"{protocol}://")


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL.

    Raises:
      UserError: a protocol that there is not, or whose package is missing.
    """
    import fsspec

    protocol = url.partition("://")[0]
    # Other processes write there, too.
    options = {"use_listings_cache": False} if protocol in ("s3", "gs") else {}
    try:
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = _DRIVERS.get(protocol)
        needed = f"pip install {package}" if package else one_line(error)
        raise UserError(f"{protocol}:// needs another package: {needed}") from None
    except ValueError as error:
        raise UserError(f"{url}: {one_line(error)}") from None


def read(url: str) -> bytes:
    """All that a file holds.

    Raises:
      OSError: it cannot be opened; whatever the driver raised.
    """
    try:
        return filesystem(url).cat_file(url)
    except UserError:
        raise
    except FileNotFoundError:
        raise OSError(2, "No such file", url) from None
    except Exception as error:  # drivers raise many kinds
        raise OSError(5, one_line(error), url) from error


def find(url: str) -> list[str]:
    """Files of a folder and of all folders within, or that fit a pattern.

    Raises:
      UserError: it cannot be searched.
    """
    there = filesystem(url)
    try:
        found = there.glob(url) if "*" in url else there.find(url)
    except Exception as error:  # drivers raise many kinds
        raise UserError(f"{url}: cannot be searched: {one_line(error)}") from None
    return [there.unstrip_protocol(name) for name in found]


@contextlib.contextmanager
def copied(url: str) -> Iterator[Path]:
    """A copy of a file on this machine.

    Raises:
      UserError: it cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="gzjax-") as folder:
        copy = Path(folder) / os.path.basename(url)
        _copy(url, copy)
        yield copy


def _copy(url: str, copy: Path) -> None:
    try:
        filesystem(url).get_file(url, str(copy))
    except UserError:
        raise
    except Exception as error:  # drivers raise many kinds
        text = "no such file" if isinstance(error, FileNotFoundError) else one_line(error)
        raise UserError(f"{url}: {text}") from None


def write(copy: Path, url: str) -> None:
    """Uploads a file, which is then whole or not there.

    Raises:
      UserError: it cannot be written.
    """
    try:
        filesystem(url).put_file(str(copy), url)
    except UserError:
        raise
    except Exception as error:  # drivers raise many kinds
        raise UserError(f"{url}: cannot be written: {one_line(error)}") from None


@contextlib.contextmanager
def run_copied(url: str) -> Iterator[Path]:
    """A copy of what predicting needs of a run's folder.

    Raises:
      UserError: it cannot be read.
    """
    strip = filesystem(url)._strip_protocol  # some write memory:///a, some s3://a
    root = strip(url).rstrip("/")
    with tempfile.TemporaryDirectory(prefix="gzjax-") as folder:
        for file in find(url):
            name = strip(file).removeprefix(f"{root}/")
            if not any(fnmatch.fnmatch(name, each) for each in _NOT_NEEDED):
                copy = Path(folder) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                _copy(file, copy)
        yield Path(folder)
