from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl import flags
from PIL import Image

from gzjax.data import catalog, dataset, pipeline, sources
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


# A mid-grey of every mode that Pillow can write, and what it is in eight bits.
@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (90, 60, 30), (90, 60, 30)),
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("P", (90, 60, 30), (90, 60, 30)),
        ("CMYK", (165, 195, 225, 0), (90, 60, 30)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (0, 0, 0)),
        ("RGBA", (90, 60, 30, 255), (90, 60, 30)),
        ("RGBA", (90, 60, 30, 51), (18, 12, 6)),
        ("RGBA", (90, 60, 30, 0), (0, 0, 0)),
        ("I;16", 90 * 257, (90, 90, 90)),
        ("I;16B", 65535, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value, expected):
    file = str(tmp_path / "a.tif")
    palette = mode == "P"
    image = Image.new("RGB" if palette else mode, (32, 24), value)
    (image.quantize(2) if palette else image).save(file)
    found = sources.read_image(file, 1.0, 16)
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8(expected), (16, 16, 3)))
    assert catalog.check_image(Path(file), decode=True) == ""


def test_16_bit_grey_of_png_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 32).astype(np.uint16)
    Image.fromarray(np.tile(ramp, (32, 1))).save(tmp_path / "a.png")
    found = sources.read_image(str(tmp_path / "a.png"), 1.0, 32)
    np.testing.assert_array_equal(found[5, :, 1], np.rint(ramp / 65535 * 255))


def test_transparent_parts_are_black_sky(tmp_path):
    pixels = np.full((32, 32, 4), 200, np.uint8)
    pixels[:, 16:, 3] = 0
    pixels[:, :16, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    two = Image.fromarray(np.uint8([[1] * 16 + [0] * 16] * 32)).convert("P")
    two.putpalette([255, 255, 255, 200, 200, 200])
    two.save(tmp_path / "palette.png", transparency=0)
    for name in ("alpha.png", "palette.png"):
        found = sources.read_image(str(tmp_path / name), 1.0, 32)
        np.testing.assert_array_equal(found[:, :16], 200)
        np.testing.assert_array_equal(found[:, 16:], 0)


@pytest.mark.parametrize(
    ("pixels", "named"),
    [
        (np.zeros((32, 32), np.float32), "floating-point numbers .mode F., expected"),
        (np.zeros((32, 32), np.int32), "32-bit integers .mode I., expected"),
    ],
)
def test_pixels_of_unknown_scale_are_refused_by_name(tmp_path, pixels, named):
    file = tmp_path / "a.tif"
    Image.fromarray(pixels).save(file)
    with pytest.raises(OSError, match=rf"a\.tif: its pixels are {named}"):
        sources.read_image(str(file), 1.0, 16)
    assert catalog.check_image(file).startswith("not usable: its pixels are")


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 17), (1200, 900)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("crop", [0.01, 0.7, 1.0])
def test_images_of_any_size_are_read(tmp_path, size, suffix, crop):
    file = str(tmp_path / f"a.{suffix}")
    Image.new("RGB", size, (90, 90, 90)).save(file)
    found = sources.read_image(file, crop, 16)
    np.testing.assert_allclose(found, np.full((16, 16, 3), 90), atol=1)


@pytest.mark.parametrize("size", [424, 425, 431])
@pytest.mark.parametrize(("crop", "canvas"), [(0.7, 128), (1.0, 64), (0.5, 27)])
def test_a_jpeg_decoded_at_a_part_of_its_size_is_the_same_galaxy(tmp_path, size, crop, canvas):
    y, x = np.mgrid[:size, :size] - size / 2
    light = 230 * np.exp(-np.hypot((x + 0.5 * y) / 40, (y + 9) / 20)) + 20 * (x > 0)
    light += np.random.default_rng(0).normal(0, 3, light.shape)
    colours = light[..., None] * [1.0, 0.8, 0.6]
    image = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    image.save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as decoded:
        decoded.save(tmp_path / "a.png")
    whole, part = (
        sources.read_image(str(tmp_path / name), crop, canvas).astype(float)
        for name in ("a.png", "a.jpg")
    )
    assert 0 < np.abs(whole - part).mean() < 1


def test_an_image_that_turns_out_broken_is_masked_and_named(tmp_path, caplog):
    files = []
    for number in range(3):
        file = tmp_path / f"{number}.jpg"
        Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(file)
        files.append(str(file))
    (tmp_path / "1.jpg").write_bytes(b"no image")
    source = Galaxies(
        sources.ImageFiles(files, 1.0, 16), np.ones((3, 37), np.float32), np.arange(3)
    )
    batch = source.batch(np.arange(4))  # the fourth is past the end
    assert batch["mask"].tolist() == [1, 0, 1, 0]
    assert batch["row"].tolist() == [0, 1, 2, -1]
    assert batch["image"].max(axis=(1, 2, 3)).tolist() == [99, 0, 99, 0]
    assert batch["fractions"].max(axis=1).tolist() == [1, 0, 1, 0]
    assert "1.jpg" in caplog.text


def test_the_order_of_a_seed_stays_what_it_was(galaxies):
    """As the first runs had it: a checkpoint's place in the data has to keep its meaning."""
    batches = take(pipeline.training_batches(galaxies, 8, 3), 7)
    assert batches[0]["row"].tolist() == [40, 52, 46, 20, 45, 39, 38, 17]
    assert batches[6]["row"].tolist() == [34, 6, 49, 52, 10, 53, 27, 23]


def test_fewer_galaxies_to_train_on_are_among_more():
    ids = tuple(str(number) for number in range(200))
    images, fractions = np.zeros((200, 2, 2, 3), np.uint8), np.zeros((200, 37), np.float32)
    whole = dataset.Data(
        ids, images, fractions, catalog.split(ids), pd.DataFrame(), "synthetic sky"
    )
    few, more = (whole.with_fewer(number, 5).splits for number in (10, 50))
    assert len(few["train"]) == 10
    assert set(few["train"]) < set(more["train"]) < set(whole.splits["train"])
    assert few["train"].tolist() == sorted(few["train"])
    np.testing.assert_array_equal(few["test"], whole.splits["test"])
    np.testing.assert_array_equal(
        whole.with_fewer(10_000, 5).splits["train"], whole.splits["train"]
    )
