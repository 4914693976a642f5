"""Many galaxies of the synthetic sky: drawn in chunks, kept on disk.

A galaxy follows from (seed, index) alone: `population` draws the truth about it, `camera` takes its
picture, and `crowd` lets volunteers vote on it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, UInt8

from gzjax.errors import UserError
from gzjax.files import replacing
from gzjax.settings import Settings, number
from gzjax.sky.camera import render
from gzjax.sky.crowd import vote
from gzjax.sky.population import Latents, sample
from gzjax.tree import Tree

# Part of a cached file's name: count up whenever the same seed would give another sky.
VERSION = 1
# Galaxies drawn by one call. Every call has this many, so one compilation serves any number.
CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Sky(Settings):
    """All that the content of a sky depends on; its galaxies have the indices from 0."""

    tree: Tree  # which the crowd walks
    galaxies: int = number(1, least=1)
    seed: int = number(0, least=0, most=2**32 - 1)
    size: int = number(64, least=1)  # side of the pictures in pixels
    field: float = number(1.0, above=0.0, most=1.0)  # see `render`

    @property
    def name(self) -> str:
        """Of its files: differs wherever the content does."""
        questions = [(each.name, each.answers, each.gates) for each in self.tree.questions]
        digest = hashlib.sha256(repr(questions).encode()).hexdigest()[:12]
        return (
            f"sky-v{VERSION}-seed{self.seed}-{self.galaxies}x{self.size}px"
            f"-field{float(self.field)!r}-tree{digest}"
        )


class Pictures:
    """uint8[galaxies, size, size, 3] in a .npy file: memory-mapped, read-only, indexed as an array.

    Another process gets the path instead of the pixels, and maps the file itself.
    """

    def __init__(self, file: Path):
        self.file = file.absolute()
        self._pixels = np.load(self.file, mmap_mode="r")
        self.shape = self._pixels.shape

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._pixels[index]

    def __reduce__(self) -> tuple[type["Pictures"], tuple[Path]]:
        return Pictures, (self.file,)


def draw(
    seed: ArrayLike, index: ArrayLike, tree: Tree, size: int, field: ArrayLike = 1.0
) -> tuple[Latents, UInt8[Array, "{size} {size} 3"], Float32[Array, " answers"]]:
    """One galaxy of a sky: its truth, its picture, its votes; see `crowd.vote`."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index)
    truth, crowd = jax.random.split(key)
    latents = sample(truth)
    return latents, render(latents, size, field), vote(crowd, latents, tree)


@functools.partial(jax.jit, static_argnames=("tree", "size"))
def _draw_chunk(seed, indices, tree, size, field):
    # One after another, not vmapped: a galaxy's arrays stay in the processor's cache, and how it is
    # rounded cannot depend on its neighbours in the chunk.
    return jax.lax.map(lambda index: draw(seed, index, tree, size, field)[1:], indices)


def draw_sky(
    sky: Sky,
) -> Iterator[tuple[UInt8[np.ndarray, "n size size 3"], Float32[np.ndarray, "n answers"]]]:
    """Draws a sky in order, a chunk at a time: images, and votes as counts; see `crowd.vote`.

    Always on the CPU, so that a sky does not depend on the accelerator beside it.

    Raises:
      UserError: JAX may not use the CPU.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        allowed = getattr(jax.config, "jax_platforms", "")
        raise UserError(
            f"JAX_PLATFORMS={allowed}: the sky is drawn by the CPU; expected cpu among them, such "
            f"as {allowed},cpu"
        ) from None
    for first in range(0, sky.galaxies, CHUNK):
        with jax.default_device(cpu):
            indices = jnp.arange(first, first + CHUNK, dtype=jnp.uint32)
            chunk = _draw_chunk(jnp.uint32(sky.seed), indices, sky.tree, sky.size, sky.field)
        images, votes = (np.asarray(array)[: sky.galaxies - first] for array in chunk)
        yield images, votes


def load_sky(
    galaxies: int,
    *,
    tree: Tree,
    seed: int,
    size: int,
    field: float = 1.0,
    cache: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Pictures | UInt8[np.ndarray, "n size size 3"], Float32[np.ndarray, "n answers"]]:
    """The first galaxies of a sky, from the cache; drawn and cached if they are not there yet.

    Their votes are whole numbers: how many of `crowd.VOLUNTEERS` gave each answer.
    Without a `cache`, a folder, it is drawn each time.
    `progress` is called with (galaxies drawn, galaxies) while drawing; for the rest see `Sky`.

    Raises:
      UserError: no such sky, the crowd cannot answer the tree's questions, or the cache cannot be
        written.
    """
    sky = Sky(tree, galaxies, seed, size, field)
    if cache is None:
        return _draw_all(sky, progress)
    images_file, votes_file = (cache / f"{sky.name}.{kind}.npy" for kind in ("images", "votes"))
    if not (
        _holds(images_file, (galaxies, size, size, 3), np.uint8)
        and _holds(votes_file, (galaxies, tree.size), np.float32)
    ):
        images, votes = _draw_all(sky, progress)
        try:
            cache.mkdir(parents=True, exist_ok=True)
            for file, array in ((votes_file, votes), (images_file, images)):
                with replacing(file) as unfinished, unfinished.open("wb") as stream:
                    np.save(stream, array)
        except OSError as error:
            raise UserError(
                f"{cache}: expected a folder to keep the synthetic sky in, found: {error}"
            ) from error
    return Pictures(images_file), np.load(votes_file)


def _draw_all(
    sky: Sky, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((sky.galaxies, sky.size, sky.size, 3), np.uint8)
    votes = np.empty((sky.galaxies, sky.tree.size), np.float32)
    done = 0
    for some_images, some_votes in draw_sky(sky):
        first, done = done, done + len(some_images)
        images[first:done], votes[first:done] = some_images, some_votes
        if progress is not None:
            progress(done, sky.galaxies)
    return images, votes


def _holds(file: Path, shape: tuple[int, ...], dtype: type) -> bool:
    """Whether a file is there and holds such an array: neither truncated nor something else."""
    try:
        array = np.load(file, mmap_mode="r")
        return array.shape == shape and array.dtype == dtype
    except Exception:  # NumPy raises all sorts of errors; whatever is wrong, it is drawn again
        return False
