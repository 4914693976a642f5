"""What images are called: files, FITS files among them, and the HDUs within."""

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path

from gzjax.errors import UserError

# What FITS files are called: as they are, compressed, and tile-compressed by fpack.
FITS = (".fits", ".fit", ".fits.gz", ".fits.fz")
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
