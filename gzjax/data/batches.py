"""Batches: a source puts them together; grain shuffles, shards, decodes ahead, keeps its place.

Every batch is decided by (source, seed, position), so an iterator's state is a few numbers, and
a run that resumes gets the very batches that it would have got.
"""

import re
import signal
from collections.abc import Sequence
from multiprocessing import resource_tracker
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float32, Int, UInt8

from gzjax.data.images import FAULT, Images, fault_text
from gzjax.errors import UserError


class OnDevices(Images):
    """Stands for images that the devices hold; here is only known which of them there are.

    Args:
      shape: that of all images together.
      faults: S200[galaxies], why an image turned out unreadable, b"" if it did not.
    """

    def __init__(self, shape: tuple[int, ...], faults: np.ndarray):
        self.shape, self.faults = shape, faults

    def __getitem__(self, position: int) -> np.ndarray:
        raise TypeError("the devices hold the images; batches have rows alone")


class Source:
    """Galaxies from which batches are put together: those of a split, or images to predict.

    Args:
      images: of the whole catalogue.
      rows: positions in the catalogue.
      votes: of the whole catalogue, where there are any; see `gzjax.votes`.
      parts: where each of several catalogues ends among the rows, and how often its galaxies are
        drawn in training, compared with others.
    """

    def __init__(
        self,
        images: Images,
        rows: Int[np.ndarray, " galaxies"],
        votes: Float32[np.ndarray, "catalogue answers"] | None = None,
        parts: tuple[tuple[int, float], ...] = (),
    ):
        if votes is not None and len(images) != len(votes):
            raise ValueError(f"{len(images)} images, but {len(votes)} rows of votes")
        self.images, self.rows, self.votes, self.parts = images, rows, votes, parts

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def drawn(self) -> int:
        """Galaxies drawn in an epoch: all, those of each catalogue as often as its weight says."""
        if not self.parts:
            return len(self)
        ends, weights = zip(*self.parts, strict=True)
        return int(np.diff(ends, prepend=0) @ np.asarray(weights))

    def batch(self, positions: Int[np.ndarray, " batch"]) -> dict[str, np.ndarray]:
        """Puts a batch together.

        Positions past the last galaxy of the source are padding, so that a last batch can be full
        without a galaxy that counts twice.

        Returns:
          row: int32[batch], positions in the catalogue; -1 is padding.
          mask: float32[batch], 1 for a galaxy that counts: neither padding nor unreadable.
          fault: S200[batch], why the image is unreadable; b"" where nothing is wrong.
          image: uint8[batch, canvas, canvas, 3], unless the devices hold the images; see
            `fill_in` for what does not count.
          votes: float32[batch, answers], if the source has any; 0 where the mask is.
        """
        row = np.full(len(positions), -1, np.int32)
        there = positions < len(self.rows)
        row[there] = self.rows[positions[there]]
        batch = {"row": row}
        if isinstance(self.images, OnDevices):
            batch["fault"] = np.where(there, self.images.faults[row], np.bytes_())
        else:
            batch["image"], batch["fault"] = read_images(self.images, row)
        counts = there & (batch["fault"] == b"")
        batch["mask"] = counts.astype(np.float32)
        if "image" in batch:
            fill_in(batch["image"], counts)
        if self.votes is not None:
            batch["votes"] = np.where(counts[:, None], self.votes[row], np.float32(0))
        return batch


def read_images(
    images: Images, rows: Int[np.ndarray, " batch"]
) -> tuple[UInt8[np.ndarray, "batch canvas canvas 3"], np.ndarray]:
    """The pixels of some images, and why they are unreadable: S200[batch], b"" if they are not.

    Pixels of padding, -1, and of unreadable images are undefined.
    """
    pixels = np.empty((len(rows), *images.shape[1:]), np.uint8)
    faults = np.zeros(len(rows), FAULT)
    for place in np.flatnonzero(rows >= 0):
        try:
            pixels[place] = images[int(rows[place])]
        except Exception as error:  # a damaged file may raise anything
            faults[place] = fault_text(error)
    return pixels, faults


def fill_in(
    pixels: UInt8[np.ndarray, "batch canvas canvas 3"], readable: Bool[np.ndarray, " batch"]
) -> None:
    """Puts copies of the readable images, in turn, in the places of the others.

    Blanks would spoil the statistics of batch norm; there are zeros only if no image is readable.
    """
    kept, others = np.flatnonzero(readable), np.flatnonzero(~readable)
    pixels[others] = pixels[np.resize(kept, len(others))] if len(kept) else 0


def batches_per_epoch(galaxies: int, batch_size: int) -> int:
    """Whole batches in one pass; the few galaxies beyond them differ from epoch to epoch.

    Raises:
      UserError: fewer galaxies than one batch.
    """
    if galaxies < batch_size:
        raise UserError(
            f"batch_size: expected at most the {galaxies} training galaxies, found {batch_size}"
        )
    return galaxies // batch_size


def training_batches(
    source: Source,
    batch_size: int,
    seed: int,
    *,
    threads: int = 4,
    processes: int = 0,
    shard: int = 0,
    shards: int = 1,
) -> grain.IterDataset:
    """Endless shuffled batches; every epoch is another order of all galaxies.

    Args:
      source: the training galaxies.
      batch_size: over all shards together, which it has to be a multiple of.
      seed: of the shuffling.
      threads: batches decoded at a time, by as many threads.
      processes: worker processes, each with as many threads; 0 stays in this process.
      shard: which part of each batch to deliver.
      shards: into how many parts, one for each JAX process, each batch is cut.

    Returns:
      A dataset whose iterator gives the dicts of `Source.batch`, of batch_size / shards galaxies,
      and has a state.

    Raises:
      UserError: fewer galaxies than one batch.
    """
    # grain counts a dataset's seed up from epoch to epoch; spread seeds far apart, so that seed 1
    # is not seed 0 an epoch later.
    seed = (seed * 0x9E3779B1) % 2**32
    if len({weight for _, weight in source.parts}) > 1:
        order, stop = _mixed(source.parts, seed), None
    else:
        order = grain.MapDataset.range(len(source)).shuffle(seed=seed)
        stop = batches_per_epoch(len(source), batch_size) * batch_size
    # Positions are shuffled, cut and batched; galaxies are read when a batch is known.
    dataset = (
        order.slice(slice(shard, stop, shards))
        .batch(batch_size // shards, drop_remainder=True, batch_fn=np.array)
        .map(source.batch)
    )
    return _ahead(dataset.repeat() if stop else dataset, threads, processes)


def _mixed(parts: Sequence[tuple[int, float]], seed: int) -> grain.MapDataset:
    """Positions of several catalogues, endless, each drawn as often as its weight says."""
    firsts = [0, *(end for end, _ in parts)]
    drawn = [
        (grain.MapDataset.range(first, end).shuffle(seed=seed + n).repeat(), weight * (end - first))
        for n, (first, (end, weight)) in enumerate(zip(firsts, parts, strict=False))
        if end > first and weight
    ]
    return grain.MapDataset.mix([each for each, _ in drawn], [share for _, share in drawn])


def ordered_batches(
    source: Source,
    batch_size: int,
    *,
    threads: int = 4,
    processes: int = 0,
    shard: int = 0,
    shards: int = 1,
) -> grain.IterDataset:
    """Each galaxy once, in order; the last batch is filled up with padding.

    For the arguments see `training_batches`.
    """
    padded_to = -(-len(source) // batch_size) * batch_size
    dataset = (
        grain.MapDataset.range(padded_to)
        .slice(slice(shard, padded_to, shards))
        .batch(batch_size // shards, drop_remainder=True, batch_fn=np.array)
        .map(source.batch)
    )
    return _ahead(dataset, threads, processes)


def _ahead(dataset: grain.MapDataset, threads: int, processes: int) -> grain.IterDataset:
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if not processes:
        return iterable
    if not flags.FLAGS.is_parsed():  # which grain's workers ask; a notebook has none to parse
        flags.FLAGS.mark_as_parsed()
    return _Shielded(iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes)))


class _Shielded(grain.IterDataset):
    """Batches of worker processes that neither Ctrl-C nor SIGTERM ends.

    The run needs them until all is saved. They start in here, and inherit what is blocked.
    """

    def __iter__(self) -> grain.DatasetIterator:
        resource_tracker.ensure_running()  # which unblocks signals, if it has to be started
        return _ShieldedIterator(iter(self._parent))


class _ShieldedIterator(grain.DatasetIterator):
    def __next__(self) -> dict[str, np.ndarray]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            return next(self._parent)
        except RuntimeError as error:
            if not (ended := re.search(r"exit code (-?\d+)", str(error))):
                raise
            raise UserError(
                f"data.processes: a worker process ended (exit code {ended[1]}; -9 usually means "
                "that memory ran out); the same command resumes"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state)
