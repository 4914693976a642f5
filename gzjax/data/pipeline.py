"""From random access to batches: grain shuffles, shards, decodes ahead and keeps its place.

Every batch is decided by (source, seed, position), so an iterator's state is a few numbers, and
a run that resumes gets the very batches that it would have got.
"""

from collections.abc import Sequence

import grain
import numpy as np

from gzjax.data.sources import Galaxies, Images, Pictures
from gzjax.errors import UserError


def batches_per_epoch(galaxies: int, batch_size: int) -> int:
    """Whole batches in one pass; the few galaxies beyond them differ from epoch to epoch.

    Raises:
      UserError: fewer galaxies than one batch.
    """
    if galaxies < batch_size:
        raise UserError(
            f"config.batch_size is {batch_size}, but there are only {galaxies} training galaxies"
        )
    return galaxies // batch_size


def training_batches(
    source: Galaxies,
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
      batch_size: over all shards together.
      seed: of the shuffling.
      threads: batches decoded at a time, by as many threads.
      processes: worker processes, each with as many threads; 0 stays in this process.
      shard: which part of each batch to deliver.
      shards: into how many parts, one for each JAX process, each batch is cut.

    Returns:
      A dataset whose iterator gives {name: array[batch_size / shards, ...]} and has a state.

    Raises:
      UserError: fewer galaxies than one batch.
    """
    whole_batches = batches_per_epoch(len(source), batch_size) * batch_size
    dataset = (
        grain.MapDataset.range(len(source))
        # grain counts a dataset's seed up from epoch to epoch; spread seeds far apart, so that
        # seed 1 is not seed 0 an epoch later.
        .shuffle(seed=(seed * 0x9E3779B1) % 2**32)
        .slice(slice(shard, whole_batches, shards))
        # Positions are shuffled, cut and batched; galaxies are read when a batch is known.
        .batch(batch_size // shards, drop_remainder=True, batch_fn=np.array)
        .map(source.batch)
        .repeat()
    )
    return _ahead(dataset, threads, processes)


def evaluation_batches(
    source: Galaxies,
    batch_size: int,
    *,
    threads: int = 4,
    processes: int = 0,
    shard: int = 0,
    shards: int = 1,
) -> grain.IterDataset:
    """Each galaxy once, in order; the last batch is filled up with masked blanks.

    Args:
      source: the galaxies.
      batch_size: over all shards together.
      threads: see `training_batches`.
      processes: see `training_batches`.
      shard: see `training_batches`.
      shards: see `training_batches`.
    """
    padded_to = -(-len(source) // batch_size) * batch_size
    dataset = (
        grain.MapDataset.range(padded_to)
        .slice(slice(shard, padded_to, shards))
        .batch(batch_size // shards, drop_remainder=True, batch_fn=np.array)
        .map(source.batch)
    )
    return _ahead(dataset, threads, processes)


def prediction_batches(
    framings: Sequence[Images], start: int, batch_size: int, *, threads: int = 4
) -> grain.IterDataset:
    """Images in order from `start` on, in every framing; the last batch is filled up.

    Args:
      framings: see `sources.Pictures`.
      start: how many images are left out at the beginning.
      batch_size: images a batch.
      threads: see `training_batches`.
    """
    remaining = len(framings[0]) - start
    padded_to = start + -(-remaining // batch_size) * batch_size
    dataset = (
        grain.MapDataset.source(Pictures(framings, padded_to))
        .slice(slice(start, padded_to))
        .batch(batch_size, drop_remainder=True)
    )
    return _ahead(dataset, threads, 0)


def _ahead(dataset: grain.MapDataset, threads: int, processes: int) -> grain.IterDataset:
    iterable = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    )
    if processes:
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
    return iterable
