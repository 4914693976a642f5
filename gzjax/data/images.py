"""One image: from a file or an array to its canvas, or the reason why it has none.

Training and prediction read images by the same `read_image`, so what one refuses, the other does,
too. Images of a catalogue look like an array uint8[galaxies, canvas, canvas, 3] that is read one
by one: `ImageFiles` decodes files, `ImageArrays` rescales arrays; the rendered sky, packs and what
the devices hold have classes of their own.
"""

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, UnidentifiedImageError

from gzjax import remote
from gzjax.data.framing import FitsSettings, Framing
from gzjax.data.paths import NEEDS_ASTROPY, Encoded, is_fits, path_of
from gzjax.errors import one_line

# Those that Pillow decodes itself. Of others, some start a program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM")
SMALLEST = 16  # pixels a side; nobody can see a galaxy's shape in less

# A fault beside an image, as bytes of one length, since batches are arrays; b"" is none.
LONGEST_FAULT = 200
FAULT = f"S{LONGEST_FAULT}"
# A fault of the disk or the network, or a file that is not there, begins so.
UNREACHABLE = "cannot be opened"


class Unusable(Exception):
    """An image that is not used; the message is the whole reason."""


@runtime_checkable
class Images(Protocol):
    """uint8[canvas, canvas, 3] by position; `shape` is that of all together."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, position: int) -> np.ndarray: ...


def place_of(images: Images, position: int) -> str:
    """Where an image is, for people; "" of those in memory."""
    return images.place(position) if hasattr(images, "place") else ""


def paths_of(images: Images) -> Sequence[str]:
    """All files that images are read from; none of those in memory."""
    return images.paths if hasattr(images, "paths") else ()


def some_of(images: Images, rows: Int[np.ndarray, " rows"]) -> Images:
    """Images of some rows, ascending; files of others are forgotten, as another process needs."""
    return images.some(rows) if hasattr(images, "some") else JoinedImages([(images, rows)])


def _fits() -> Any:
    """`gzjax.data.fits`, which is imported where there is a FITS file."""
    try:
        from gzjax.data import fits
    except ImportError:
        raise Unusable(NEEDS_ASTROPY) from None
    return fits


def read_image(file: Encoded, framing: Framing) -> UInt8[np.ndarray, "n n 3"]:
    """Decodes an image, cuts out its centre and rescales that to the canvas, antialiased.

    FITS files are read by `gzjax.data.fits`, as `framing` says; all others by Pillow. A JPEG much
    larger than the canvas is decoded at a half, a quarter or an eighth of its size, whichever is
    still no smaller than the canvas asks for.

    Raises:
      Exception: of many kinds, as decoders raise them; `fault_text` says why. Every file that
        `check_image` refuses is refused for the same reason.
    """
    refuse_pipe(file)
    if is_fits(file):
        return frame(Image.fromarray(_fits().read(file, framing.fits)), framing)
    with _opened(file) as image:
        return frame(image, framing)


def check_image(
    file: Encoded,
    decode: bool = False,
    fits: FitsSettings = FitsSettings(),  # noqa: B008
) -> str:
    """Why an image cannot be used; an empty string if nothing is wrong.

    Always reads the header and, of a JPEG, the end-of-image marker that a truncated file lacks;
    every pixel, too, if asked to `decode`.
    """
    try:
        refuse_pipe(file)
        if decode:
            read_image(file, Framing(fits=fits))
        elif is_fits(file):
            _fits().check(file, fits)
        else:
            with _opened(file):
                pass
    except Exception as error:
        return fault_text(error)
    return ""


def fault_text(error: Exception) -> str:
    """Why an image cannot be used: one line of printable ASCII, at most `LONGEST_FAULT` long."""
    text = one_line(error)
    if isinstance(error, FileNotFoundError) and _is_merely_missing(error.filename):
        text = "there is no such file"
    elif isinstance(error, OSError) and error.strerror:
        text = f"{UNREACHABLE}: {error.strerror}"
    elif not isinstance(error, Unusable):
        text = f"not readable as an image: {text}"
    return text.encode("ascii", "backslashreplace")[:LONGEST_FAULT].decode()


def _is_merely_missing(file: Any) -> bool:
    """Whether the disk is there: its folder holds other files, or a server says it has no such."""
    try:
        name = os.fspath(file)
        if remote.is_remote(name):
            return True
        with os.scandir(os.path.dirname(name) or ".") as entries:
            return next(entries, None) is not None
    except (OSError, TypeError):
        return False


def refuse_pipe(file: Encoded) -> None:
    """Raises Unusable for what is not a file but would be waited for, such as a named pipe."""
    if isinstance(file, str) and "://" not in file:
        mode = os.stat(path_of(file)).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise Unusable("expected a file, found a pipe, a socket or a device")


@contextlib.contextmanager
def _opened(file: Encoded) -> Iterator[Image.Image]:
    """An image of which all is known to be usable but its pixels."""
    file = remote.read(file) if isinstance(file, str) and "://" in file else file
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as stream:
        try:
            image = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError:
            raise Unusable(
                f"not readable as an image: expected one of {', '.join(FORMATS)}"
            ) from None
        with image:
            if fault := size_fault(*image.size) or _mode_fault(image):
                raise Unusable(fault)
            if image.format == "JPEG":
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1024))
                if b"\xff\xd9" not in stream.read():
                    raise Unusable("truncated: no end-of-image marker")
            yield image


def frame(image: Image.Image, framing: Framing) -> UInt8[np.ndarray, "n n 3"]:
    """The centre of an image, rescaled to the canvas; see `read_image`."""
    crop, canvas = framing.crop, framing.canvas
    width, height = image.size
    side = crop * min(width, height)
    # Twice as fast or more, and hardly to be seen: on 600 of the challenge's images canvases
    # differ by 0.6 of 255 grey levels or less in the mean, by less than 1 in the worst.
    enough = canvas / side
    draft = image.draft(None, (math.ceil(enough * width), math.ceil(enough * height)))
    # Of a JPEG, it says how large the original is on the new scale; 1, 1/2, 1/4 or 1/8.
    scale = draft[1][2] / width if draft else 1.0
    left, top = (scale * (length - side) / 2 for length in (width, height))
    rescaled = to_rgb(image).resize(
        (canvas, canvas),
        # Pillow widens the filter where it shrinks, so fine structure does not alias.
        Image.Resampling.BICUBIC,
        box=(left, top, left + scale * side, top + scale * side),
    )
    return np.asarray(rescaled)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of 8-bit colours: what is transparent is black sky, 16 bits are scaled to 8."""
    if _is_16_bit_grey(image):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        sky = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(sky, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def size_fault(width: int, height: int) -> str:
    """Why an image of this size is not used; an empty string if it is."""
    if min(width, height) < SMALLEST:
        return f"too small: {width} x {height} pixels, expected {SMALLEST} a side or more"
    return ""


def _mode_fault(image: Image.Image) -> str:
    kind = {"F": "floating-point numbers", "I": "32-bit integers"}.get(image.mode)
    if kind is None or _is_16_bit_grey(image):
        return ""
    return (
        f"not usable: its pixels are {kind} (mode {image.mode}), expected colour or grey of 8 or "
        "16 bits"
    )


def _is_16_bit_grey(image: Image.Image) -> bool:
    """Whether pixels are grey from 0 to 65535; some formats have Pillow keep them in 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


class ImageFiles(Images):
    """Images on disk, decoded when asked for; one path a galaxy."""

    def __init__(self, files: Sequence[str], framing: Framing):
        self.files, self.framing = list(files), framing
        self.shape = (len(self.files), framing.canvas, framing.canvas, 3)

    def __getitem__(self, position: int) -> np.ndarray:
        return read_image(self.files[position], self.framing)

    def place(self, position: int) -> str:
        """The path of an image."""
        return self.files[position]

    @property
    def paths(self) -> Sequence[str]:
        """The paths of all images."""
        return self.files

    def some(self, rows: Int[np.ndarray, " rows"]) -> "ImageFiles":
        """Those of some rows alone."""
        return ImageFiles([self.files[row] for row in rows.tolist()], self.framing)


class ImageArrays(Images):
    """Images in memory, cut out and rescaled as files are, when asked for."""

    def __init__(self, pixels: UInt8[np.ndarray, "galaxies height width 3"], framing: Framing):
        self.pixels, self.framing = pixels, framing
        self.shape = (len(pixels), framing.canvas, framing.canvas, 3)

    def __getitem__(self, position: int) -> np.ndarray:
        image = Image.fromarray(self.pixels[position])
        if fault := size_fault(*image.size):
            raise Unusable(fault)
        return frame(image, self.framing)


class JoinedImages(Images):
    """Images of several catalogues, one after the other; of each only some rows."""

    def __init__(self, parts: Sequence[tuple[Any, Int[np.ndarray, " rows"]]]):
        self.parts = list(parts)
        self.ends = np.cumsum([len(rows) for _, rows in parts])
        self.shape = (int(self.ends[-1]), *parts[0][0].shape[1:])

    def _find(self, position: int) -> tuple[Any, int]:
        part = int(np.searchsorted(self.ends, position, side="right"))
        images, rows = self.parts[part]
        return images, int(rows[position - self.ends[part]])  # counted from the part's end

    def __getitem__(self, position: int) -> np.ndarray:
        images, row = self._find(position)
        return images[row]

    def place(self, position: int) -> str:
        """Where an image is, for people."""
        return place_of(*self._find(position))

    @property
    def paths(self) -> Sequence[str]:
        """The files of all parts."""
        return [path for images, _ in self.parts for path in paths_of(images)]

    def some(self, rows: Int[np.ndarray, " rows"]) -> "JoinedImages":
        """Those of some rows alone, ascending."""
        edges, found = np.searchsorted(rows, [0, *self.ends]), []
        for (images, own), end, start, stop in zip(
            self.parts, self.ends, edges, edges[1:], strict=False
        ):
            if start < stop:
                here = own[rows[start:stop] - (end - len(own))]
                found.append((some_of(images, here), np.arange(len(here))))
        return JoinedImages(found)
