"""Random access to galaxies: position -> what a batch is made of.

A source of images looks like an array uint8[galaxies, canvas, canvas, 3], read one by one: the
rendered sky is a NumPy array and needs nothing here, images on disk are `ImageFiles`, a pack has
`pack.PackedImages`. `Galaxies` puts images and their vote fractions together, a batch at a time.
"""

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, SupportsIndex

import numpy as np
from PIL import Image

from gzjax.data import catalog

# What Pillow's decoders raise of files that are damaged, or no images.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# A reason beside an image, as bytes of one length, since batches are arrays.
FAULT = "S200"


class Images(Protocol):
    """uint8[canvas, canvas, 3] by position; `shape` is that of all together."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> np.ndarray: ...


def read_image(file: str, crop: float, canvas: int) -> np.ndarray:
    """Decodes an image, cuts out its centre and rescales that to the canvas, antialiased.

    A JPEG much larger than the canvas is decoded at a half, a quarter or an eighth of its size,
    whichever is still no smaller than the canvas asks for.

    Args:
      file: path of an image, of any size, in colour or grey of 8 or 16 bits; see `to_rgb`.
      crop: side of the central square that is kept, as a fraction of the image's shorter side.
        The original student project kept all (1.0); a galaxy fills about half.
      canvas: side of the result in pixels.

    Returns:
      uint8[canvas, canvas, 3].

    Raises:
      OSError: not a readable image, or of pixels that cannot be used.
    """
    with Image.open(file) as image:
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
    """An image of 8-bit colours: what is transparent is black sky, 16 bits are scaled to 8.

    Raises:
      OSError: pixels of more than 16 bits, whose scale nobody knows.
    """
    if fault := catalog.check_mode(image):
        raise OSError(f"{getattr(image, 'filename', 'image')}: {fault}")
    if catalog.is_16_bit_grey(image):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        sky = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(sky, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


class ImageFiles:
    """Images on disk, decoded when asked for.

    Args:
      files: one path a galaxy.
      crop: see `read_image`.
      canvas: see `read_image`.
    """

    def __init__(self, files: Sequence[str], crop: float, canvas: int):
        self.files = list(files)
        self.crop = crop
        self.canvas = canvas

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all images together."""
        return len(self.files), self.canvas, self.canvas, 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> np.ndarray:
        return read_image(self.files[position], self.crop, self.canvas)


class Pictures:
    """Images without vote fractions as a grain source, in as many framings as networks want.

    Each record has `images`, a tuple of uint8[canvas, canvas, 3], one a framing; and `fault`,
    bytes, why it could not be read, if so. Positions past the last image are blank.

    Args:
      framings: the same images, cut out and rescaled in different ways.
      length: of the source, at least the number of images.
    """

    def __init__(self, framings: Sequence[Images], length: int):
        self.framings = tuple(framings)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"Pictures({len(self.framings[0])} images, padded to {self.length})"

    def __getitem__(self, position: SupportsIndex) -> dict[str, Any]:
        position = int(position)
        if not 0 <= position < self.length:
            raise IndexError(position)
        fault = "past the last image"
        if position < len(self.framings[0]):
            try:
                images = tuple(np.asarray(framing[position]) for framing in self.framings)
                return {"images": images, "fault": np.array(b"", FAULT)}
            except UNREADABLE as error:
                fault = " ".join(str(error).split()) or type(error).__name__
        blank = tuple(np.zeros(framing.shape[1:], np.uint8) for framing in self.framings)
        return {"images": blank, "fault": np.array(fault.encode("ascii", "replace"), FAULT)}


class OnDevices:
    """Stands for images that the devices hold; here is only known which of them there are.

    Args:
      shape: that of all images together.
      readable: bool[galaxies], False where an image turned out unreadable.
    """

    def __init__(self, shape: tuple[int, ...], readable: np.ndarray):
        self.shape = shape
        self.readable = readable

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, position: int) -> np.ndarray:
        raise TypeError("the devices hold the images; batches have rows alone")


class Galaxies:
    """The galaxies of one split, from which batches are put together.

    An image that turns out unreadable in the middle of a run is blank, with mask 0, and a warning
    names it.

    Args:
      images: images of the whole catalogue.
      fractions: float32[galaxies, answers] of the whole catalogue.
      rows: int[galaxies of the split], positions in the catalogue.
    """

    def __init__(self, images: Images, fractions: np.ndarray, rows: np.ndarray):
        if len(images) != len(fractions):
            raise ValueError(f"{len(images)} images, but {len(fractions)} rows of fractions")
        self.images = images
        self.fractions = fractions
        self.rows = np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Puts a batch together.

        Args:
          positions: int[batch], of galaxies in the split. Past the last of them are blanks with
            mask 0, so that a last batch can be full without a galaxy that counts twice.

        Returns:
          `image` uint8[batch, canvas, canvas, 3], but not where the devices hold the images;
          `fractions` float32[batch, answers]; `row` int32[batch], the galaxies' positions in the
          catalogue, -1 for a blank; `mask` float32[batch], 1 for a galaxy that counts.
        """
        row = np.full(len(positions), -1, np.int32)
        there = positions < len(self.rows)
        row[there] = self.rows[positions[there]]
        batch = {"row": row}
        if isinstance(self.images, OnDevices):
            readable = there & self.images.readable[row]
        else:
            batch["image"], readable = read_images(self.images, row)
        batch["fractions"] = np.where(readable[:, None], self.fractions[row], np.float32(0))
        batch["mask"] = readable.astype(np.float32)
        return batch


def read_images(images: Images, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads some images; what is unreadable is named in a warning.

    Args:
      images: of the whole catalogue.
      rows: int[batch], positions in the catalogue; -1 leaves a blank.

    Returns:
      uint8[batch, canvas, canvas, 3], and bool[batch], where there is an image.
    """
    pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    readable = rows >= 0
    for place in np.flatnonzero(readable):
        try:
            pixels[place] = images[int(rows[place])]
        except UNREADABLE as error:
            readable[place] = False
            logging.getLogger(__name__).warning("row %d is left out: %s", rows[place], error)
    pixels[~readable] = 0
    return pixels, readable


def read_all(
    images: Images, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads all images, by as many threads as the machine runs well; see `read_images`."""
    pixels, readable = np.empty(images.shape, np.uint8), np.empty(len(images), np.bool_)
    pieces = [slice(first, first + 256) for first in range(0, len(images), 256)]

    def read(piece: slice) -> int:
        rows = np.arange(len(images))[piece]
        pixels[piece], readable[piece] = read_images(images, rows)
        return len(rows)

    done = 0
    with ThreadPoolExecutor() as pool:
        for count in pool.map(read, pieces):
            done += count
            progress(done, len(images))
    return pixels, readable
