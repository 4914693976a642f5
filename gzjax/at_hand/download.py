"""Files over HTTP that resume where they broke off, checked before they are called by their name.

pooch checks the sum, names a file only when it is whole and knows those that are there; what it
lacks, resuming, is the downloader below, which it calls.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from gzjax.errors import UserError, one_line

EXTRA = "this needs the extra data: pip install 'gzjax[data]', or start it as launch/data"
TRIES = 5  # in a row, without a byte in between
PAUSE = 1.0  # seconds before the second try, twice as long before each further one
TIMEOUT = (30, 120)  # seconds to connect, and between two pieces
CHUNK = 2**20
AGAIN = "the same command resumes"


class File(NamedTuple):
    """A file to fetch.

    name: its path below the folder of the set.
    size: in bytes; None if nobody says.
    checksum: `md5:...` or `sha256:...` as published; "" if none is.
    url: "" where another package fetches it.
    """

    name: str
    size: int | None = None
    checksum: str = ""
    url: str = ""


class Offer(NamedTuple):
    """What can be downloaded.

    files: with size and checksum where an archive says them.
    licence, citation: for people.
    """

    files: list[File]
    licence: str
    citation: str


def select(files: Sequence[File], patterns: Sequence[str], where: str) -> list[File]:
    """The files of some names.

    Raises:
      UserError: a pattern fits none; names what there is.
    """
    for pattern in patterns:
        if not any(fnmatchcase(file.name, pattern) for file in files):
            there = ", ".join(sorted(file.name for file in files)) or "no files"
            raise UserError(f"{where}: expected a file {pattern}, found {one_line(there)}")
    return [file for file in files if any(fnmatchcase(file.name, each) for each in patterns)]


class Broken(Exception):
    """A download that may work when tried again."""


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Says which extra is missing where a package cannot be imported.

    Raises:
      UserError: instead of an `ImportError`.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error.name or one_line(error)}: {EXTRA}") from error


def json_of(url: str) -> dict[str, Any]:
    """The JSON object at a URL, tried several times.

    Raises:
      UserError: it cannot be had, or is no JSON object.
    """
    with needed():
        import requests
    fault = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            answer = requests.get(url, timeout=TIMEOUT)
            if not _passes(answer.status_code):
                _check_status(url, answer.status_code)
                content = answer.json()
                if isinstance(content, dict):
                    return content
                raise UserError(f"{url}: expected a JSON object, found {type(content).__name__}")
            fault = f"status {answer.status_code}"
        except requests.exceptions.JSONDecodeError:
            raise UserError(f"{url}: expected JSON, found something else") from None
        except requests.exceptions.RequestException as error:
            fault = one_line(error)
    raise UserError(f"{url}: {fault}, {TRIES} times; try again later")


def fetch(file: File, folder: Path) -> Path:
    """Downloads a file, or what is missing of it; one that is there and right stays.

    Raises:
      UserError: it cannot be had, or its checksum is another than the published one.
    """
    with needed():
        import pooch
    pooch.get_logger().setLevel("ERROR")
    path = folder / file.name
    if path.exists() and file.size is not None and path.stat().st_size != file.size:
        path.unlink()  # of another version
    try:
        pooch.retrieve(
            file.url,
            known_hash=file.checksum or None,
            fname=file.name,
            path=folder,
            downloader=Resuming(file, part_of(path)),
        )
    except ValueError as error:  # the only one that pooch raises for a wrong sum
        raise UserError(
            f"{file.url}: what came has another checksum than the published {file.checksum}; it is "
            "deleted, and the same command downloads it again"
        ) from error
    return path


def part_of(path: Path) -> Path:
    """Where the beginning of a file is kept until the rest has come."""
    return path.with_name(path.name + ".part")


class Resuming:
    """Downloads for pooch into a file `part`, which stays when the connection breaks."""

    def __init__(self, file: File, part: Path):
        self.file, self.part = file, part
        self.mark = part.with_name(part.name + ".etag")

    def __call__(self, url: str, output: Any, pooch: Any) -> None:
        """Leaves the whole file at `output`; the other arguments are pooch's custom."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        left = TRIES
        while True:
            before = self._size()
            try:
                self._go_on(url)
                break
            except Broken as error:
                left = TRIES if self._size() > before else left - 1
                if not left:
                    raise UserError(
                        f"{url}: {error}; {self._size():,} bytes are kept, and {AGAIN}"
                    ) from error
                time.sleep(PAUSE * 2 ** (TRIES - 1 - left) if left < TRIES else PAUSE)
        self.mark.unlink(missing_ok=True)
        os.replace(self.part, output)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _go_on(self, url: str) -> None:
        """Appends what is missing.

        Raises:
          Broken: the connection broke, or the server is busy.
          UserError: the server has no such file, or a file of another size.
        """
        import requests
        import urllib3

        have = self._size()
        if self.file.size is not None and have == self.file.size:
            return
        mark = self.mark.read_text() if self.mark.exists() else ""
        too_long = self.file.size is not None and have > self.file.size
        if have and (too_long or not (mark or self.file.checksum)):
            self.part.unlink()  # nobody would see that the rest is of another version
            have = 0
        headers = {"Accept-Encoding": "identity"}  # the bytes that the checksum is of
        if have:
            headers["Range"] = f"bytes={have}-"
            if mark:
                headers["If-Range"] = mark  # the whole file, if it is another one by now
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if answer.status_code == 416:  # nothing is left, or it is another file
                    self.part.unlink(missing_ok=True)
                    raise Broken("the server has less than was kept")
                if _passes(answer.status_code):
                    raise Broken(f"the server answers with status {answer.status_code}")
                _check_status(url, answer.status_code)
                if answer.status_code != 206:
                    have = 0
                self.mark.write_text(_mark(answer.headers))
                self._write(answer, have)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError) as error:
            raise Broken(f"the connection broke ({type(error).__name__})") from error

    def _write(self, answer: Any, have: int) -> None:
        from tqdm import tqdm

        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else self.file.size
        if self.file.size is not None and total != self.file.size:
            raise UserError(
                f"{self.file.url}: expected {self.file.size:,} bytes, the server has {total:,}"
            )
        with (
            self.part.open("ab" if have else "wb") as stream,
            tqdm(
                desc=self.file.name,
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None,  # where nobody looks
            ) as bar,
        ):
            for piece in answer.raw.stream(CHUNK, decode_content=False):
                try:
                    stream.write(piece)
                except OSError as error:
                    raise UserError(f"{self.part}: {one_line(error)}; {AGAIN}") from error
                bar.update(len(piece))
        if total is not None and self._size() < total:
            raise Broken("the connection broke")


def _mark(headers: Any) -> str:
    """What tells one version of a file from another: a strong ETag, or a date."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _passes(status: int) -> bool:
    """Whether another try may help."""
    return status in (408, 425, 429) or status >= 500


def _check_status(url: str, status: int) -> None:
    if status not in (200, 206):
        raise UserError(f"{url}: the server answers with status {status}")
