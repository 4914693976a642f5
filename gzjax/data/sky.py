"""The embedded synthetic sky: galaxies with a known truth, a picture and a crowd's vote.

It needs no data and no network. A galaxy follows from (seed, index) alone, whatever it is drawn
together with: `sky_population` draws the truth about it, `sky_render` takes its picture, and
`sky_crowd` lets volunteers vote on it. This room draws many, keeps them on disk, and shows them:

    python -m gzjax.data.sky --sheet sky.png
"""

import argparse
import functools
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gzjax.data.sky_crowd import VOLUNTEERS, expected_fractions, vote
from gzjax.data.sky_population import Latents, sample
from gzjax.data.sky_render import render
from gzjax.tree import GALAXY_ZOO_2

__all__ = [
    "VOLUNTEERS",
    "Latents",
    "draw",
    "expected_fractions",
    "galaxy_key",
    "load_sky",
    "render",
    "sample",
    "vote",
]

# Part of a cached file's name: count up whenever the same seed would give another sky.
VERSION = 1
# Galaxies drawn by one call. Every call has this many, so one compilation serves any number.
CHUNK = 32


def galaxy_key(seed: jax.Array | int, index: jax.Array | int) -> jax.Array:
    """The PRNG key of one galaxy of a sky."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index)


def draw(
    seed: jax.Array | int, index: jax.Array | int, size: int, field: jax.Array | float = 1.0
) -> tuple[Latents, jax.Array, jax.Array]:
    """One galaxy of a sky: its truth, its picture uint8[size, size, 3], its votes float32[37]."""
    truth, crowd = jax.random.split(galaxy_key(seed, index))
    latents = sample(truth)
    return latents, render(latents, size, field), vote(crowd, latents)


@functools.partial(jax.jit, static_argnames="size")
def _draw_chunk(seed, indices, size, field):
    # One after the other, not vmapped: a galaxy's arrays stay in the processor's cache, and how it
    # is rounded cannot depend on its neighbours in the chunk.
    return jax.lax.map(lambda index: draw(seed, index, size, field)[1:], indices)


def draw_sky(
    galaxies: int, seed: int, size: int, field: float = 1.0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws the galaxies 0 ... galaxies - 1 of a sky, in order, a chunk at a time.

    Always on the CPU, so that a sky does not depend on the accelerator it is drawn beside.

    Yields:
      images uint8[chunk, size, size, 3] and vote fractions float32[chunk, 37].
    """
    device = _cpu()
    for first in range(0, galaxies, CHUNK):
        with jax.default_device(device):
            indices = jnp.arange(first, first + CHUNK, dtype=jnp.uint32)
            images, fractions = _draw_chunk(jnp.uint32(seed), indices, size, field)
        keep = min(CHUNK, galaxies - first)
        yield np.asarray(images)[:keep], np.asarray(fractions)[:keep]


def load_sky(
    galaxies: int,
    *,
    seed: int,
    size: int,
    field: float = 1.0,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The first galaxies of a sky, from the cache; drawn and cached if they are not there yet.

    Args:
      galaxies: how many, 1 or more.
      seed: another seed is another sky, 0 to 2^32 - 1.
      size: side of the pictures in pixels.
      field: side of the central square that they show, as a fraction of the whole; see `render`.
      cache: folder for the files, made if need be.
      progress: called with (galaxies drawn, galaxies) while drawing.

    Returns:
      images uint8[galaxies, size, size, 3], memory-mapped, read-only; and vote fractions
      float32[galaxies, 37].

    Raises:
      ValueError: no galaxies asked for, or a size or field that is not positive.
      OSError: the cache cannot be written.
    """
    if galaxies < 1 or size < 1 or not 0.0 < field <= 1.0:
        raise ValueError(f"galaxies {galaxies}, size {size}, field {field}: no such sky")
    name = f"sky-v{VERSION}-seed{seed}-{galaxies}x{size}px-field{field:g}"
    digest = hashlib.sha256(repr((VERSION, seed, galaxies, size, float(field))).encode())
    stem = f"{name}-{digest.hexdigest()[:8]}"
    images_file, fractions_file = cache / f"{stem}.images.npy", cache / f"{stem}.fractions.npy"
    shapes = (galaxies, size, size, 3), (galaxies, GALAXY_ZOO_2.size)
    images = _read(images_file, shapes[0], np.uint8)
    fractions = _read(fractions_file, shapes[1], np.float32)
    if images is not None and fractions is not None:
        return images, np.array(fractions)

    cache.mkdir(parents=True, exist_ok=True)
    drawn_images, drawn_fractions = np.empty(shapes[0], np.uint8), np.empty(shapes[1], np.float32)
    done = 0
    for some_images, some_fractions in draw_sky(galaxies, seed, size, field):
        drawn_images[done : done + len(some_images)] = some_images
        drawn_fractions[done : done + len(some_images)] = some_fractions
        done += len(some_images)
        if progress is not None:
            progress(done, galaxies)
    _write(fractions_file, drawn_fractions)
    _write(images_file, drawn_images)
    return np.load(images_file, mmap_mode="r"), drawn_fractions


def draw_sheet(
    galaxies: int, seed: int, size: int, field: float, columns: int, captions: bool
) -> np.ndarray:
    """A page of galaxies: uint8[height, width, 3]; a page is filled up with black."""
    from PIL import Image, ImageDraw

    tiles = []
    for images, fractions in draw_sky(galaxies, seed, size, field):
        for image, row in zip(images, fractions, strict=True):
            tile = Image.fromarray(image)
            if captions:
                ImageDraw.Draw(tile).text((3, 2), caption(row), fill=(200, 200, 200), font_size=10)
            tiles.append(np.asarray(tile))
    return tile_page(tiles, columns)


def tile_page(tiles: Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """Squares of one size in rows: uint8[height, width, 3]."""
    size = len(tiles[0]) + gap
    page = np.zeros((-(-len(tiles) // columns) * size - gap, columns * size - gap, 3), np.uint8)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        page[row * size :, column * size :][: len(tile), : len(tile)] = tile
    return page


def caption(fractions: np.ndarray) -> str:
    """The most likely morphology: the majority's way through the tree, and what is odd."""
    questions = {question.name: question for question in GALAXY_ZOO_2.questions}

    def majority(name: str) -> str:
        question = questions[name]
        return question.answers[int(np.argmax(fractions[question.columns]))]

    def yes(name: str) -> bool:
        return majority(name) == "yes"

    words = majority("smooth-or-featured")
    if words == "smooth":
        words = majority("roundness")
    elif words == "features or disk" and yes("edge-on"):
        words = "edge-on"
    elif words == "features or disk":
        words = "barred disk" if yes("bar") else "disk"
        arms = majority("arms")
        if yes("spiral"):
            words += ", spiral" if arms == "can't tell" else f", {arms} arm{'s' * (arms != '1')}"
    return f"{words}, {majority('odd-feature')}" if yes("odd") else words


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.local_devices()[0]


def _read(file: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    """The array in a file, memory-mapped; None if there is none, or it is truncated or foreign."""
    try:
        array = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(array, np.ndarray) and array.shape == shape and array.dtype == dtype
    return array if fits else None


def _write(file: Path, array: np.ndarray) -> None:
    """Writes all of a file or nothing, also where another process writes the same one."""
    unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with unfinished.open("wb") as stream:
            np.save(stream, array)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws a page of galaxies; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m gzjax.data.sky", description=main.__doc__)
    parser.add_argument("--sheet", type=Path, required=True, help="the picture to write")
    parser.add_argument("--galaxies", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=108, help="pixels a side of a galaxy")
    parser.add_argument("--field", type=float, default=0.5, help="central part that is shown")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--captions", action="store_true", help="write what the crowd says")
    parser.add_argument("--beside", type=Path, help="a folder of real cut-outs to set below")
    options = parser.parse_args(arguments)

    from PIL import Image

    from gzjax.data.sources import read_image

    page = draw_sheet(
        options.galaxies,
        options.seed,
        options.size,
        options.field,
        options.columns,
        options.captions,
    )
    if options.beside:
        files = sorted(options.beside.glob("*.jpg"))[: options.galaxies]
        real = [read_image(str(file), options.field, options.size) for file in files]
        line = np.full((6, page.shape[1], 3), 90, np.uint8)
        page = np.concatenate([page, line, tile_page(real, options.columns)])
    options.sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(options.sheet, quality=92)


if __name__ == "__main__":
    main()
