"""Batches on the devices: where they lie, and images that the devices hold."""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, UInt8

from gzjax.data import catalogue
from gzjax.data.batches import OnDevices, fill_in, read_images
from gzjax.data.dataset import Data
from gzjax.data.images import FAULT, Images
from gzjax.errors import UserError

# What of a batch stays on the host, too; faults are text, which no device takes.
HOST = ("row", "mask", "fault")
PIECE = 256  # images read by one thread at a time


class Placement(NamedTuple):
    """How arrays lie on the devices: the same on all, or a batch spread over them."""

    replicated: NamedSharding
    by_galaxy: NamedSharding


def place(devices: Sequence[jax.Device] | None = None) -> Placement:
    """The placement on some devices; on all there are, unless given."""
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh(
        (len(devices),), ("galaxies",), axis_types=(AxisType.Auto,), devices=devices
    )
    return Placement(
        NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("galaxies"))
    )


def on_devices(
    batches: Iterable[Mapping[str, np.ndarray]],
    placement: Placement,
    canvases: UInt8[Array, "galaxies canvas canvas 3"] | None = None,
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array]]]:
    """Each process's part of each batch, put together on the devices.

    Args:
      batches: of this process, see `batches.Source.batch`.
      placement: where they go.
      canvases: all images, if the devices hold them; gives the batches their `image`.

    Yields:
      Of each batch `row`, `mask` and `fault` of this process, as they are on the host; and, on
      the devices, all of it but `fault`, from all processes.
    """
    for batch in batches:
        placed = {
            name: jax.make_array_from_process_local_data(placement.by_galaxy, array)
            for name, array in batch.items()
            if name != "fault"
        }
        if canvases is not None:
            placed["image"] = _gather(placement)(canvases, placed["row"])
        yield {name: batch[name] for name in HOST}, placed


@functools.cache
def _gather(placement: Placement) -> Callable[[Array, Array], Array]:
    """The jitted (canvases, rows) -> uint8[batch, canvas, canvas, 3]; padding shows the last."""

    def gather(
        canvases: UInt8[Array, "galaxies canvas canvas 3"], rows: Int[Array, " batch"]
    ) -> UInt8[Array, "batch canvas canvas 3"]:
        return canvases[rows]

    return jax.jit(
        gather,
        in_shardings=(placement.replicated, placement.by_galaxy),
        out_shardings=placement.by_galaxy,
    )


def hold_on_devices(data: Data, placement: Placement, progress: Callable[[int, int], None]) -> Data:
    """Puts all images into the memory of every device, where batches are gathered from them.

    `progress` is called with (images read, images).

    Returns:
      `data` with `canvases`; its batches are of rows, without images. Those that turned out
      unreadable are added to `left_out`; they keep their rows, with mask 0.

    Raises:
      UserError: the images do not fit; more than one per cent of them are unreadable; or other
        processes cannot read the same ones.
    """
    size = math.prod(data.images.shape)
    for device in jax.local_devices():
        memory = device.memory_stats() or {}  # CPUs do not say
        free = memory.get("bytes_limit", math.inf) - memory.get("bytes_in_use", 0)
        if size > free:
            raise UserError(
                f"the images are {size / 1e9:.1f} GB, but {device} has {free / 1e9:.1f} GB free; "
                "expected room for all, or images that are not held on the devices"
            )
    images, faults = _read_all(data.images, progress)
    unreadable = {int(row): faults[row].decode() for row in np.flatnonzero(faults != b"")}
    skipped = {data.ids[row]: reason for row, reason in unreadable.items()}
    catalogue.check_left_out(skipped, len(data.ids), "images for the devices to hold")
    check_same_in_all_processes("readable images", repr(sorted(unreadable)))
    fill_in(images, faults == b"")
    canvases = jax.make_array_from_callback(
        images.shape, placement.replicated, lambda index: images[index]
    )
    return data._replace(
        images=OnDevices(images.shape, faults),
        canvases=canvases,
        left_out=data.left_out_with(unreadable),
    )


def _read_all(
    images: Images, progress: Callable[[int, int], None]
) -> tuple[UInt8[np.ndarray, "galaxies canvas canvas 3"], np.ndarray]:
    """Reads all images, by as many threads as the machine runs well; see `read_images`."""
    pixels, faults = np.empty(images.shape, np.uint8), np.zeros(len(images), FAULT)

    def read(first: int) -> int:
        piece = slice(first, min(first + PIECE, len(images)))
        rows = np.arange(piece.start, piece.stop)
        pixels[piece], faults[piece] = read_images(images, rows)
        return len(rows)

    done = 0
    with ThreadPoolExecutor() as pool:
        for count in pool.map(read, range(0, len(images), PIECE)):
            done += count
            progress(done, len(images))
    return pixels, faults


def check_same_in_all_processes(what: str, value: str) -> None:
    """Checks that all processes of a run found the same value; called by all of them at once.

    Raises:
      UserError: another process found something else, as when one machine could not read a file.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    found = multihost_utils.process_allgather(digest)
    others = np.flatnonzero((np.asarray(found) != digest).any(axis=-1))
    if len(others):
        raise UserError(
            f"{what}: expected the same in all {jax.process_count()} processes, but process "
            f"{others[0]} found others than process {jax.process_index()}; their machines do not "
            "see the same files"
        )


def describe_devices() -> str:
    """Such as `8 gpu devices (NVIDIA H100)`."""
    devices = jax.devices()
    plural = "s" * (len(devices) > 1)
    return f"{len(devices)} {devices[0].platform} device{plural} ({devices[0].device_kind})"
