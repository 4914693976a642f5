"""Images through networks, a batch at a time, while the next ones are read."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gzjax.data import batches
from gzjax.data.batches import Source
from gzjax.data.framing import Framing
from gzjax.data.images import UNREACHABLE
from gzjax.data.listing import Listing
from gzjax.errors import UserError
from gzjax.run.model import Reading

# Whole batches of at least this many images, none of which can be opened, are an outage, not bad
# luck.
OUTAGE = 32
# Batches that are with the device at a time, so that it never waits.
AHEAD = 2


def stream(step: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results of all items, on the host, while the device works on the next ones."""
    pending: collections.deque = collections.deque()
    for item in items:
        pending.append(step(item))
        if len(pending) > AHEAD:
            yield jax.device_get(pending.popleft())
    yield from map(jax.device_get, pending)


def batches_of(
    listed: Listing,
    framings: Sequence[Framing],
    reading: Reading,
    see: Callable[[Mapping[Framing, np.ndarray]], Any],
) -> Iterator[tuple[Any, np.ndarray, list[str]]]:
    """What is seen in images, a batch at a time, in order.

    Args:
      listed: the images.
      framings: in which they are read.
      reading: how they are read.
      see: {framing: uint8[batch, canvas, canvas, 3]} -> results on the devices.

    Yields:
      The results on the host; bool[batch], where they are of a galaxy, as the last batch is filled
      up; and of these why an image could not be read, "" where it could.

    Raises:
      UserError: none of the images of whole batches can be opened.
    """
    read = [
        batches.ordered_batches(
            Source(listed.framed(framing), np.arange(len(listed.ids))),
            reading.batch_size,
            threads=reading.threads,
            processes=reading.processes,
        )
        for framing in framings
    ]

    def step(canvases: Sequence[dict[str, np.ndarray]]) -> tuple[Any, ...]:
        images = [batch["image"] for batch in canvases]
        seen = see(dict(zip(framings, images, strict=True)))
        # An image may be unreadable in one framing alone, which asks for a band that it lacks.
        found = zip(*(batch["fault"] for batch in canvases), strict=True)
        fault = np.array([next(filter(None, reasons), b"") for reasons in found])
        return canvases[0]["row"], fault, seen

    gone = 0  # images of whole batches that cannot be opened, one batch after the other
    for row, fault, seen in stream(step, zip(*read, strict=True)):
        there = row >= 0
        faults = [reason.decode() for reason in fault[there]]
        gone = gone + len(faults) if are_unreachable(faults) else 0
        if gone >= OUTAGE:
            first = listed.ids[row[there][-1] + 1 - gone]
            raise UserError(f"none of {gone} images from {first} on can be opened: {faults[0]}")
        yield seen, there, faults


def are_unreachable(faults: Sequence[str]) -> bool:
    """Whether no image could be opened, as if the disk or the network were gone."""
    return all(fault.startswith(UNREACHABLE) for fault in faults)
