import numpy as np
import pytest
from absl import flags
from PIL import Image

from gzjax.data import pipeline, sources
from gzjax.data.sources import Galaxies
from gzjax.errors import UserError


@pytest.fixture(scope="module")
def galaxies():
    """Fifty galaxies of a catalogue of sixty, each image filled with its row's number."""
    images = np.broadcast_to(
        np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 4, 4, 3)
    ).copy()
    fractions = np.arange(60, dtype=np.float32)[:, None].repeat(37, 1) / 60
    return Galaxies(images, fractions, np.arange(5, 55))


def take(dataset, batches):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(batches)]


def test_records_belong_together(galaxies):
    for batch in take(pipeline.training_batches(galaxies, 8, 0), 12):
        assert batch["image"].shape == (8, 4, 4, 3)
        assert batch["image"].dtype == np.uint8
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["row"])
        np.testing.assert_allclose(batch["fractions"][:, 0], batch["row"] / 60, rtol=1e-6)
        np.testing.assert_array_equal(batch["mask"], 1)


def test_every_epoch_is_another_order_without_repeats(galaxies):
    rows = [batch["row"] for batch in take(pipeline.training_batches(galaxies, 8, 0), 12)]
    first, second = np.concatenate(rows[:6]), np.concatenate(rows[6:])
    assert len(set(first)) == len(set(second)) == 48
    assert not np.array_equal(first, second)
    assert set(first) <= set(range(5, 55))


def test_the_seed_decides_the_order_and_no_seed_is_another_ones_later_epoch(galaxies):
    def rows(seed, batches):
        taken = take(pipeline.training_batches(galaxies, 8, seed), batches)
        return np.concatenate([batch["row"] for batch in taken])

    np.testing.assert_array_equal(rows(0, 6), rows(0, 6))
    assert not np.array_equal(rows(0, 12)[48:], rows(1, 6))


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_restored_iterator_goes_on_where_it_was(galaxies, taken):
    dataset = pipeline.training_batches(galaxies, 8, 3)
    iterator = iter(dataset)
    for _ in range(taken):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator)["row"] for _ in range(8)]
    resumed = iter(dataset)
    next(resumed)
    resumed.set_state(state)
    np.testing.assert_array_equal(expected, [next(resumed)["row"] for _ in range(8)])


def test_shards_together_are_the_whole_batch(galaxies):
    whole = take(pipeline.training_batches(galaxies, 8, 1), 12)
    parts = [
        take(pipeline.training_batches(galaxies, 8, 1, shard=shard, shards=4), 12)
        for shard in range(4)
    ]
    for number, batch in enumerate(whole):
        together = np.concatenate([part[number]["row"] for part in parts])
        assert sorted(together) == sorted(batch["row"])
        assert parts[0][number]["row"].shape == (2,)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("batch_size", [6, 50, 64])
def test_evaluation_sees_each_galaxy_once(galaxies, batch_size, shards):
    seen = []
    for shard in range(shards):
        for batch in pipeline.evaluation_batches(galaxies, batch_size, shard=shard, shards=shards):
            assert len(batch["row"]) == batch_size // shards
            seen += list(batch["row"][batch["mask"] > 0])
    assert sorted(seen) == list(range(5, 55))


def test_worker_processes_deliver_the_same_batches(galaxies):
    flags.FLAGS.mark_as_parsed()  # grain's workers ask for its flags; gzjax.main parses them
    threads = take(pipeline.training_batches(galaxies, 8, 0), 3)
    processes = take(pipeline.training_batches(galaxies, 8, 0, processes=1), 3)
    for one, other in zip(threads, processes, strict=True):
        np.testing.assert_array_equal(one["row"], other["row"])


def test_too_few_galaxies_for_a_batch_is_an_error(galaxies):
    with pytest.raises(UserError, match="batch_size is 64, but there are only 50"):
        pipeline.training_batches(galaxies, 64, 0)


def test_the_centre_is_cut_out_and_rescaled(tmp_path):
    pixels = np.zeros((100, 120, 3), np.uint8)
    pixels[25:75, 35:85] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = sources.read_image(str(tmp_path / "a.png"), 0.5, 10)
    assert found.shape == (10, 10, 3)
    assert found.dtype == np.uint8
    # Bicubic weights overshoot a little at the border, where the black outside begins.
    np.testing.assert_allclose(
        found[1:-1, 1:-1], np.broadcast_to([200, 100, 50], (8, 8, 3)), atol=8
    )
    whole = sources.read_image(str(tmp_path / "a.png"), 1.0, 10)
    assert whole[0, 0].max() < 10


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((424, 424, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    found = sources.read_image(str(tmp_path / "stripes.png"), 1.0, 64)
    assert abs(found.astype(float) - 127.5).max() < 12


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_other_image_modes_become_rgb(tmp_path, mode):
    Image.new("RGB", (32, 32), (90, 90, 90)).convert(mode).save(tmp_path / "a.tif")
    assert sources.read_image(str(tmp_path / "a.tif"), 1.0, 16).shape == (16, 16, 3)


def test_an_image_that_turns_out_broken_is_masked_and_named(tmp_path, caplog):
    files = []
    for number in range(3):
        file = tmp_path / f"{number}.jpg"
        Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(file)
        files.append(str(file))
    (tmp_path / "1.jpg").write_bytes(b"no image")
    source = Galaxies(
        sources.ImageFiles(files, 1.0, 16), np.zeros((3, 37), np.float32), np.arange(3)
    )
    assert [float(source[n]["mask"]) for n in range(3)] == [1, 0, 1]
    assert source[1]["image"].max() == 0
    assert "1.jpg" in caplog.text


def test_positions_outside_are_refused(galaxies):
    with pytest.raises(IndexError):
        galaxies[50]
