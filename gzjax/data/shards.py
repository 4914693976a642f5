"""Shards of a pack, written in whatever process; see `gzjax.data.packing`."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from gzjax.data import packs
from gzjax.data.images import Images, fault_text
from gzjax.files import read_json, replacing, write_json

NOTE = ".unreadable.json"  # follows the name of a shard; lists the images that it lacks


class Shard(NamedTuple):
    """What it takes to write a shard, in whatever process.

    file: of the shard.
    images, votes, ids: of its galaxies.
    """

    file: Path
    images: Images
    votes: np.ndarray
    ids: tuple[str, ...]


# Has others write shards: (what they do, ranges and their shards) -> {row: reason}, in any order.
Engine = Callable[
    [Callable[..., Any], Iterable[tuple[range, Shard]]],
    Generator[tuple[range, dict[int, str]], None, None],
]


def in_threads(
    see: Callable[..., dict[int, str]], tasks: Iterable[tuple[range, Shard]]
) -> Generator[tuple[range, dict[int, str]], None, None]:
    """The `Engine` of this process: as many threads as the machine runs well."""
    with ThreadPoolExecutor() as pool:
        written = {pool.submit(see, None, shard, None): rows for rows, shard in tasks}
        try:
            for future in as_completed(written):
                yield written[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_shard(_: object, shard: Shard, __: object = None) -> dict[int, str]:
    """Writes one shard, and the list of images that it lacks, if there are any.

    Takes what `See` of `gzjax.run.parts` takes: models, a part, and who is told of progress.

    Returns:
      Which of its images are unreadable, from 0, and why.
    """
    unreadable = {}
    with replacing(shard.file) as partial:
        writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
        for place, galaxy in enumerate(shard.ids):
            try:
                image = np.asarray(shard.images[place])
            except Exception as error:  # a damaged file may raise anything
                unreadable[place] = fault_text(error)
                continue
            writer.write(packs.to_record(image, shard.votes[place], galaxy))
        writer.close()
        # Before the shard takes its place: without it, the shard would not be whole.
        if unreadable:
            write_json(_note(shard.file), {str(place): why for place, why in unreadable.items()})
        else:
            _note(shard.file).unlink(missing_ok=True)
    return unreadable


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}{NOTE}")


def lacks(file: Path) -> dict[int, str]:
    """The unreadable images of a shard, from 0, and why."""
    return {int(place): reason for place, reason in read_json(_note(file)).items()}


def is_whole(file: Path, rows: range) -> bool:
    """Whether a shard is there, and which images it lacks is known."""
    if not file.exists():
        return False
    reader = ArrayRecordReader(str(file))
    return reader.ok() and reader.num_records() + len(lacks(file)) == len(rows)
