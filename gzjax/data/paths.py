"""What images are called, FITS files and the HDUs within among them; how a folder is searched."""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gzjax.errors import UserError

# What FITS files are called: as they are, compressed, and tile-compressed by fpack.
FITS = (".fits", ".fit", ".fits.gz", ".fits.fz")
# What files are called that a folder is searched for.
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", *FITS)
# A FITS file, and which of its HDUs, as in cfitsio: `cutouts.fits[3]`.
_HDU = re.compile(r"(.*\.(?:fits|fit|fits\.gz|fits\.fz))\[([^\[\]]+)\]", re.IGNORECASE | re.DOTALL)
NEEDS_ASTROPY = "reading FITS needs the extra fits: pip install 'gzjax[fits]', or astropy alone"
# A path, or what such a file holds.
Encoded = str | os.PathLike[str] | bytes


def split_hdu(file: Encoded) -> tuple[str | bytes, str]:
    """The path of `cutouts.fits[3]`, and its HDU, `3`; bytes and other paths without one."""
    if isinstance(file, bytes):
        return file, ""
    path = os.fspath(file)
    found = _HDU.fullmatch(path) if path.endswith("]") else None
    return (found[1], found[2]) if found else (path, "")


def path_of(file: str | os.PathLike[str]) -> str:
    """The path of an image's file, without an HDU."""
    return str(split_hdu(file)[0])


def name_of(file: str | os.PathLike[str]) -> str:
    """A file's name without its folder and its suffix; an HDU stays: `cutouts[3]`."""
    path, hdu = split_hdu(file)
    name = os.path.basename(str(path))
    suffix = next((each for each in FITS[::-1] if name.lower().endswith(each)), "")
    stem = name[: -len(suffix)] if suffix and len(name) > len(suffix) else Path(name).stem
    return f"{stem}[{hdu}]" if hdu else stem


GZIP = b"\x1f\x8b"  # how what gzip packed begins; of images, FITS files alone


def is_fits(file: Encoded) -> bool:
    """Whether an image is called like a FITS file, or its bytes begin like one."""
    if isinstance(file, bytes):
        return file.startswith((b"SIMPLE  =", GZIP))
    return path_of(file).lower().endswith(FITS)


def check_astropy(files: Iterable[str]) -> None:
    """Checks that FITS files can be read, if there are any.

    Raises:
      UserError: astropy is missing.
    """
    if importlib.util.find_spec("astropy") is None:
        for file in filter(is_fits, files):
            raise UserError(f"{file}: {NEEDS_ASTROPY}")


def find_files(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Paths of the images in a folder and in all folders within, in order; see `in_order`.

    Links to folders are followed, each folder is searched once. Hidden ones are skipped.

    Raises:
      UserError: a folder that cannot be searched.
    """
    searched: set[str] = set()

    def search(place: str) -> Iterator[str]:
        if os.path.realpath(place) in searched:
            return
        searched.add(os.path.realpath(place))
        try:
            with os.scandir(place) as entries:
                there = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be searched for images: {error.strerror}"
            ) from None
        for name, is_folder in there:
            if is_folder and not name.startswith("."):
                yield from search(os.path.join(place, name))
            elif not is_folder and is_image(name):
                yield os.path.join(place, name)

    return search(os.fspath(folder))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; whoever reads it says so
        return False


def in_order(files: Sequence[str]) -> list[str]:
    """Paths in the order of their folders' names, then their own."""
    return sorted(files, key=lambda file: file.split(os.sep))


def is_image(name: str) -> bool:
    """Whether a file is called like an image, and is not hidden."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
