"""Batches on the devices: the same wherever the images are held, on one device or eight."""

import hashlib
import operator

import jax
import numpy as np
import pandas as pd
import pytest
from jax.sharding import PartitionSpec

from gzjax import tree as trees
from gzjax.data import catalogue, devices
from gzjax.data.batches import OnDevices, ordered_batches, training_batches
from gzjax.data.dataset import Data
from gzjax.data.framing import Framing
from gzjax.data.images import Unusable
from gzjax.errors import UserError

TREE = trees.load("gz2")


class Pictures:
    """Noise; some of it is unreadable."""

    def __init__(self, number, unreadable=()):
        self.pixels = np.random.default_rng(0).integers(1, 256, (number, 5, 5, 3), np.uint8)
        self.shape, self.unreadable = self.pixels.shape, set(unreadable)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, position):
        if position in self.unreadable:
            raise Unusable(f"broken: {position}")
        return self.pixels[position]


def data_of(number, unreadable=()):
    return Data(
        ids=tuple(f"g{row}" for row in range(number)),
        images=Pictures(number, unreadable),
        votes=np.random.default_rng(1).random((number, 37), np.float32),
        splits={"train": np.arange(40), "test": np.arange(30, 43)},
        left_out=pd.DataFrame([("x", "", "no row")], columns=catalogue.LEFT_OUT_COLUMNS),
        label="",
        tree=TREE,
        framing=Framing(1.0, 5),
    )


def silent(done, of):
    pass


@pytest.fixture(scope="module", params=[1, 8])
def placement(request):
    return devices.place(jax.devices()[: request.param])


def test_a_placement_spreads_batches_and_repeats_the_rest(placement):
    assert placement.replicated.spec == PartitionSpec()
    assert placement.by_galaxy.spec == PartitionSpec("galaxies")
    assert placement.replicated.mesh == placement.by_galaxy.mesh
    assert devices.place(jax.devices()[3:5]).by_galaxy.mesh.devices.tolist() == jax.devices()[3:5]
    whole = devices.place()
    assert whole.by_galaxy.mesh.devices.tolist() == jax.devices()


def test_a_batch_lies_on_the_devices_and_its_faults_on_the_host(placement):
    data = data_of(300, [31, 35])
    (read, *_) = ordered_batches(data.source("test"), 8)
    ((host, placed),) = devices.on_devices([read], placement)
    assert host.keys() == {"row", "mask", "fault"}
    assert all(isinstance(array, np.ndarray) for array in host.values())
    assert host["fault"].tolist() == [b"", b"broken: 31", *[b""] * 3, b"broken: 35", b"", b""]
    assert placed.keys() == {"image", "row", "mask", "votes"}
    for name, array in placed.items():
        assert array.sharding.is_equivalent_to(placement.by_galaxy, array.ndim)
        np.testing.assert_array_equal(array, read[name])
    for name in ("row", "mask"):
        np.testing.assert_array_equal(host[name], read[name])


def test_images_held_on_the_devices_make_the_same_batches(placement):
    data = data_of(300, [33, 35])
    held = devices.hold_on_devices(data, placement, silent)
    assert held.canvases.shape == (300, 5, 5, 3)
    assert held.canvases.sharding.is_fully_replicated
    assert isinstance(held.images, OnDevices)
    for make in (
        lambda data: training_batches(data.source("train"), 16, 0),
        lambda data: ordered_batches(data.source("test"), 16),
    ):
        here = devices.on_devices(make(data), placement)
        there = devices.on_devices(make(held), placement, held.canvases)
        for number, (one, other) in enumerate(zip(here, there, strict=False)):
            assert number < 6
            for name in ("row", "mask", "fault"):
                np.testing.assert_array_equal(one[0][name], other[0][name])
            assert one[1].keys() == other[1].keys()
            assert other[1]["image"].sharding.is_equivalent_to(placement.by_galaxy, 4)
            for name in ("row", "mask", "votes"):
                np.testing.assert_array_equal(one[1][name], other[1][name])
            counts = one[0]["mask"] > 0
            for _, batch in (one, other):
                images = np.asarray(batch["image"])
                rows = one[0]["row"][counts]
                np.testing.assert_array_equal(images[counts], data.images.pixels[rows])
                assert images.max(axis=(1, 2, 3)).min() > 0  # no blanks, not even as padding
            if number == 5:
                break
    assert one[0]["mask"].sum() == 11  # of the 13 galaxies tested, two are unreadable


def test_what_cannot_be_read_is_listed_and_a_copy_stands_for_it():
    data = data_of(300, [7, 299])
    steps = []
    held = devices.hold_on_devices(data, devices.place(), lambda *step: steps.append(step))
    assert steps == [(256, 300), (300, 300)]
    assert held.left_out.to_numpy().tolist() == [
        ["x", "", "no row"],
        ["g7", "", "broken: 7"],
        ["g299", "", "broken: 299"],
    ]
    assert held.images.faults[7] == b"broken: 7"
    assert (held.images.faults != b"").sum() == 2
    canvases = np.asarray(held.canvases)
    np.testing.assert_array_equal(canvases[[7, 299]], data.images.pixels[[0, 1]])
    readable = np.setdiff1d(np.arange(300), [7, 299])
    np.testing.assert_array_equal(canvases[readable], data.images.pixels[readable])
    for untouched in ("ids", "label", "tree", "framing", "splits"):
        assert getattr(held, untouched) is getattr(data, untouched)
    assert held.fingerprint == data.fingerprint


def test_losing_more_than_a_hundredth_is_refused():
    devices.hold_on_devices(data_of(300, [1, 2, 3]), devices.place(), silent)
    with pytest.raises(UserError, match=r"4 of 300 galaxies .* more than 1%: 4 broken; .* is g1 "):
        devices.hold_on_devices(data_of(300, [1, 2, 3, 4]), devices.place(), silent)


@pytest.mark.parametrize(("used", "fits"), [(0, True), (28_000, False)])
def test_images_that_do_not_fit_are_refused(monkeypatch, used, fits):
    class Small:
        def memory_stats(self):
            return {"bytes_limit": 50_000, "bytes_in_use": used}

        def __str__(self):
            return "gpu:0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Small()])
    data = data_of(300)  # of 75 bytes each
    if fits:
        assert devices.hold_on_devices(data, devices.place(), silent).canvases is not None
    else:
        with pytest.raises(UserError, match=r"^the images are 0\.0 GB, but gpu:0 has 0\.0 GB free"):
            devices.hold_on_devices(data, devices.place(), silent)


# Two texts whose digests have a byte in common.
ALIKE = next(
    text
    for text in map(str, range(10_000))
    if any(map(operator.eq, hashlib.sha256(text.encode()).digest(), hashlib.sha256(b"a").digest()))
)


@pytest.mark.parametrize(
    ("found", "other"),
    [("aaa", None), ("aab", 2), ("bab", 0), (("a", "a", ALIKE), 2)],
)
def test_processes_that_read_other_files_are_told(monkeypatch, found, other):
    devices.check_same_in_all_processes("galaxies", "alone")

    def gather(mine):
        assert mine.tolist() == list(hashlib.sha256(b"a").digest())
        return np.stack([np.uint8(list(hashlib.sha256(x.encode()).digest())) for x in found])

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(devices.multihost_utils, "process_allgather", gather)
    if other is None:
        devices.check_same_in_all_processes("galaxies", "a")
    else:
        named = f"^galaxies: expected the same in all 3 processes, but process {other} found others"
        with pytest.raises(UserError, match=named):
            devices.check_same_in_all_processes("galaxies", "a")


def test_held_images_are_compared_between_processes(monkeypatch):
    seen = []
    monkeypatch.setattr(devices, "check_same_in_all_processes", lambda *found: seen.append(found))
    devices.hold_on_devices(data_of(300, [7]), devices.place(), silent)
    assert seen == [("readable images", "[7]")]


def test_the_devices_are_described():
    assert devices.describe_devices() == "8 cpu devices (cpu)"
