"""ZIP archives: unpacked whole or not at all, and nowhere else than asked for."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from gzjax.errors import UserError, one_line
from gzjax.files import remove_folder

# What zipfile raises for an archive that is damaged, or that it cannot read.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def unpacked_size(archive: Path) -> int:
    """Bytes that the members take, by the archive's directory.

    Raises:
      UserError: it is not a ZIP archive.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(_blocks(member.file_size) for member in _members(opened))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: {one_line(error)}; delete it and start again") from error


def _blocks(size: int) -> int:
    return -(-size // 4096) * 4096  # what file systems give it


def unpack(archive: Path) -> Path:
    """Unpacks an archive beside it; the archive stays.

    The sums inside the archive are checked. A folder that encloses everything is dropped.

    Returns:
      The one file that it holds, or else a folder called like the archive.

    Raises:
      UserError: it is damaged, empty, or a member would lie outside.
    """
    folder = archive.with_name(f".{archive.stem}.unpacking")
    if folder.exists():
        remove_folder(folder)  # of a process that died
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            for member in members:
                _check_inside(member, archive)
            for member in members:
                opened.extract(member, folder)
        if not members:
            raise UserError(f"{archive}: expected files, found an empty archive")
        inner = folder
        while (entries := list(inner.iterdir())) and len(entries) == 1 and entries[0].is_dir():
            inner = entries[0]
        if len(entries) == 1:
            target = archive.with_name(entries[0].name)
            os.replace(entries[0], target)
            return target
        target = archive.with_suffix("")
        if target.is_dir():
            remove_folder(target)
        os.replace(inner, target)
        return target
    except DAMAGED as error:
        raise UserError(
            f"{archive}: cannot be unpacked: {one_line(error)}; delete it and start again"
        ) from error
    except OSError as error:  # no fault of the archive, such as a full disk
        raise UserError(f"{archive}: cannot be unpacked: {one_line(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _members(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Its files, without what macOS adds."""
    return [
        member
        for member in opened.infolist()
        if not member.is_dir()
        and "__MACOSX" not in PurePosixPath(member.filename).parts
        and not PurePosixPath(member.filename).name.startswith("._")
    ]


def _check_inside(member: zipfile.ZipInfo, archive: Path) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    link = stat.S_ISLNK(member.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or link:
        raise UserError(f"{archive}: expected files inside it, found {member.filename!a}")
