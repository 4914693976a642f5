"""Batches: each galaxy with its own votes, once an epoch, in an order that a seed fixes."""

import pickle
import signal

import grain
import numpy as np
import pytest
from absl import flags
from PIL import Image

from gzjax.data import batches
from gzjax.data.batches import OnDevices, Source, ordered_batches, training_batches
from gzjax.data.framing import Framing
from gzjax.data.images import ImageFiles
from gzjax.errors import UserError


@pytest.fixture(scope="module")
def galaxies():
    """Fifty galaxies of a catalogue of sixty, each image filled with its row's number."""
    images = np.broadcast_to(
        np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 4, 4, 3)
    ).copy()
    fractions = np.arange(60, dtype=np.float32)[:, None].repeat(37, 1) / 60
    return Source(images, np.arange(5, 55), fractions)


class Broken:
    """Images of which some cannot be read, for reasons of any kind; others show their position."""

    def __init__(self, length, faults):
        self.shape, self.faults = (length, 4, 4, 3), faults

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, position):
        if position in self.faults:
            raise self.faults[position]
        return np.full((4, 4, 3), 100 + position, np.uint8)


def take(dataset, number):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(number)]


def rows_of(some):
    return np.concatenate([batch["row"] for batch in some])


def test_catalogues_are_shuffled_each_in_an_order_of_its_own(galaxies):
    both = Source(galaxies.images, np.arange(40), galaxies.votes, parts=((20, 1.0), (40, 2.0)))
    rows = rows_of(take(training_batches(both, 8, 0), 8))
    first, second = rows[rows < 20][:20], rows[rows >= 20][:20] - 20
    assert sorted(first) == sorted(second) == list(range(20))
    assert first.tolist() != second.tolist()


def test_records_belong_together(galaxies):
    for batch in take(training_batches(galaxies, 8, 0), 12):
        assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {
            "image": (np.uint8, (8, 4, 4, 3)),
            "votes": (np.float32, (8, 37)),
            "row": (np.int32, (8,)),
            "mask": (np.float32, (8,)),
            "fault": (np.dtype("S200"), (8,)),
        }
        np.testing.assert_array_equal(batch["image"][:, 3, 3, 2], batch["row"])
        np.testing.assert_allclose(batch["votes"][:, 36], batch["row"] / 60, rtol=1e-6)
        np.testing.assert_array_equal(batch["mask"], 1)
        np.testing.assert_array_equal(batch["fault"], b"")


def test_every_epoch_is_another_order_without_repeats(galaxies):
    rows = rows_of(take(training_batches(galaxies, 8, 0), 12))
    first, second = rows[:48], rows[48:]
    assert len(set(first)) == len(set(second)) == 48
    assert not np.array_equal(first, second)
    assert set(first) | set(second) <= set(range(5, 55))


def test_the_seed_decides_the_order_and_no_seed_is_another_ones_later_epoch(galaxies):
    def rows(seed, number):
        return rows_of(take(training_batches(galaxies, 8, seed), number))

    np.testing.assert_array_equal(rows(0, 6), rows(0, 6))
    assert not np.array_equal(rows(0, 12)[48:], rows(1, 6))


def test_the_order_of_a_seed_stays_what_it_was(galaxies):
    """As the first runs had it: a checkpoint's place in the data has to keep its meaning."""
    some = take(training_batches(galaxies, 8, 3), 7)
    assert some[0]["row"].tolist() == [40, 52, 46, 20, 45, 39, 38, 17]
    assert some[6]["row"].tolist() == [34, 6, 49, 52, 10, 53, 27, 23]


def test_the_order_of_a_seed_and_of_several_catalogues_stays_what_it_was():
    parts = ((20, 1.0), (30, 3.0))
    source = Source(np.zeros((30, 2, 2, 3), np.uint8), np.arange(30), None, parts)
    some = take(training_batches(source, 10, 3), 3)
    assert some[0]["row"].tolist() == [18, 23, 9, 21, 26, 19, 24, 15, 25, 27]
    assert some[2]["row"].tolist() == [1, 26, 3, 21, 24, 8, 29, 10, 27, 22]


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_restored_iterator_resumes_where_it_was(galaxies, taken):
    dataset = training_batches(galaxies, 8, 3)
    iterator = iter(dataset)
    for _ in range(taken):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator)["row"] for _ in range(8)]
    resumed = iter(dataset)
    next(resumed)
    resumed.set_state(state)
    np.testing.assert_array_equal(expected, [next(resumed)["row"] for _ in range(8)])


@pytest.mark.parametrize("number", [50, 15])  # of 15, one part has enough for a batch more
def test_shards_together_are_the_whole_batch(galaxies, number):
    source = Source(galaxies.images, galaxies.rows[:number], galaxies.votes)
    whole = take(training_batches(source, 8, 1), 12)
    parts = [take(training_batches(source, 8, 1, shard=n, shards=4), 12) for n in range(4)]
    for number, batch in enumerate(whole):
        together = np.concatenate([part[number]["row"] for part in parts])
        assert sorted(together) == sorted(batch["row"])
        assert parts[0][number]["row"].shape == (2,)


@pytest.mark.parametrize("number", [1, 33, 49, 50])
@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("batch_size", [6, 50, 64])
def test_ordered_batches_see_each_galaxy_once_in_order(galaxies, batch_size, shards, number):
    some = Source(galaxies.images, galaxies.rows[:number], galaxies.votes)
    parts = [
        list(ordered_batches(some, batch_size, shard=shard, shards=shards))
        for shard in range(shards)
    ]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) == -(-number // batch_size)
    seen = []
    for together in zip(*parts, strict=True):
        for batch in together:
            assert len(batch["row"]) == batch_size // shards
            np.testing.assert_array_equal(batch["mask"], batch["row"] >= 0)
        # Of each batch, shards take turns.
        seen += np.stack([batch["row"] for batch in together], 1).ravel().tolist()
    padding = len(parts[0]) * batch_size - number
    assert seen == [*range(5, 5 + number), *[-1] * padding]


def test_padding_is_masked_and_shows_no_blanks(galaxies):
    last = Source(galaxies.images, galaxies.rows[40:], galaxies.votes)
    (batch,) = ordered_batches(last, 16)
    assert batch["row"].tolist() == [*range(45, 55), *[-1] * 6]
    assert batch["mask"].tolist() == [1] * 10 + [0] * 6
    assert batch["fault"].tolist() == [b""] * 16
    assert batch["image"][:, 0, 0, 0].tolist() == [*range(45, 55), *range(45, 51)]
    np.testing.assert_array_equal(batch["votes"][10:], 0)


def test_sources_of_different_framings_are_zipped():
    sources = [Source(np.full((4, side, side, 3), side, np.uint8), np.arange(4)) for side in (2, 3)]
    both = zip(*(ordered_batches(source, 2) for source in sources), strict=True)
    for number, (one, other) in enumerate(both):
        np.testing.assert_array_equal(one["row"], other["row"])
        assert one["row"].tolist() == [2 * number, 2 * number + 1]
        assert (one["image"].shape[1], other["image"].shape[1]) == (2, 3)
        assert "votes" not in one
    assert number == 1


def test_unreadable_images_are_masked_named_and_no_blanks():
    faults = {
        1: OSError("broken\nfile"),
        2: RuntimeError("avif"),
        5: MemoryError(),
        7: FileNotFoundError(2, "No such file", "/a/b"),
    }
    source = Source(Broken(8, faults), np.arange(8), np.ones((8, 5), np.float32))
    batch = source.batch(np.array([1, 0, 5, 2, 3, 7, 9]))
    assert batch["row"].tolist() == [1, 0, 5, 2, 3, 7, -1]
    assert batch["mask"].tolist() == [0, 1, 0, 0, 1, 0, 0]
    assert batch["fault"].tolist() == [
        b"not readable as an image: broken file",
        b"",
        b"not readable as an image: MemoryError",
        b"not readable as an image: avif",
        b"",
        b"cannot be opened: No such file",
        b"",
    ]
    # Copies of the two that are readable, in turn.
    assert batch["image"][:, 0, 0, 0].tolist() == [100, 100, 103, 100, 103, 103, 100]
    assert batch["votes"].tolist() == (np.ones((7, 5)) * batch["mask"][:, None]).tolist()


def test_a_batch_without_any_readable_image_is_zeros():
    batch = Source(Broken(2, {0: OSError("a"), 1: OSError("b")}), np.arange(2)).batch(np.arange(3))
    assert batch["mask"].tolist() == [0, 0, 0]
    assert batch["image"].max() == 0
    assert [bool(fault) for fault in batch["fault"]] == [True, True, False]


def test_a_file_that_is_damaged_later_is_a_fault_of_its_row(tmp_path):
    files = [str(tmp_path / f"{number}.jpg") for number in range(3)]
    for file in files:
        Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(file)
    (tmp_path / "1.jpg").write_bytes(b"no image")
    batch = Source(ImageFiles(files, Framing(1.0, 16)), np.arange(3)).batch(np.arange(3))
    assert batch["mask"].tolist() == [1, 0, 1]
    assert batch["fault"][1].startswith(b"not readable as an image: expected one of JPEG")


def test_what_the_devices_hold_is_not_read_but_its_faults_are_known():
    faults = np.array([b"", b"broken", b"", b"gone"], "S200")
    images = OnDevices((4, 8, 8, 3), faults)
    assert len(images) == 4
    with pytest.raises(TypeError, match="the devices hold the images"):
        images[0]
    source = Source(images, np.array([3, 2, 1]), np.ones((4, 5), np.float32))
    batch = source.batch(np.array([0, 1, 2, 3]))
    assert batch.keys() == {"row", "mask", "fault", "votes"}
    assert batch["row"].tolist() == [3, 2, 1, -1]
    assert batch["fault"].tolist() == [b"gone", b"", b"broken", b""]
    assert batch["fault"].dtype == "S200"
    assert batch["mask"].tolist() == [0, 1, 0, 0]
    assert batch["votes"][:, 0].tolist() == [0, 1, 0, 0]


def test_images_and_votes_have_to_be_as_many():
    with pytest.raises(ValueError, match="4 images, but 3 rows of votes"):
        Source(np.zeros((4, 2, 2, 3), np.uint8), np.arange(3), np.zeros((3, 5), np.float32))


def test_worker_processes_deliver_the_same_batches(galaxies):
    flags.FLAGS.mark_as_parsed()  # grain's workers ask for its flags; gzjax.main parses them
    source = Source(Broken(8, {3: OSError("broken")}), np.arange(8), np.ones((8, 2), np.float32))
    here, there = (list(ordered_batches(source, 5, processes=workers)) for workers in (0, 1))
    assert len(here) == len(there) == 2
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
    assert here[0]["fault"][3] == b"not readable as an image: broken"
    assert len(pickle.dumps(Source(OnDevices((1, 1, 1, 3), np.zeros(1, "S200")), np.arange(1))))


def test_workers_and_threads_are_as_many_as_asked(galaxies, monkeypatch):
    seen = []
    for name in ("ReadOptions", "MultiprocessingOptions"):
        real = getattr(batches.grain, name)

        def options(real=real, **given):
            seen.append(given)
            return real(**given)

        monkeypatch.setattr(batches.grain, name, options)
    for make in (
        lambda **given: ordered_batches(galaxies, 8, **given),
        lambda **given: training_batches(galaxies, 8, 0, **given),
    ):
        make(threads=3, processes=2)
        make(threads=5)
        assert seen == [
            {"num_threads": 3, "prefetch_buffer_size": 6},
            {"num_workers": 2},
            {"num_threads": 5, "prefetch_buffer_size": 10},
        ]
        seen.clear()


def test_an_epoch_is_its_whole_batches():
    assert [batches.batches_per_epoch(50, size) for size in (1, 8, 25, 49, 50)] == [50, 6, 2, 1, 1]


def test_too_few_galaxies_for_a_batch_is_an_error(galaxies):
    with pytest.raises(UserError, match=r"^batch_size: expected at most the 50 training galaxies"):
        training_batches(galaxies, 51, 0)


def test_a_worker_that_was_killed_is_said_in_one_line():
    class Lost(grain.DatasetIterator):
        said = "Worker process was terminated unexpectedly with exit code -9. Search the logs."

        def __next__(self):
            raise RuntimeError(self.said)

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    lost = batches._ShieldedIterator(Lost())
    with pytest.raises(UserError, match=r"data.processes: a worker process ended .*code -9;"):
        next(lost)
    Lost.said = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        next(lost)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
