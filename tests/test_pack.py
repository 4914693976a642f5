"""Packs: written whole or gone on with, read bit for bit, refused by name if they do not fit."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image
from test_main import EPOCHS, assert_identical, final_state, run

from gzjax import experiment
from gzjax.data import dataset, pack, packing, pipeline
from gzjax.data.catalog import LEFT_OUT_COLUMNS
from gzjax.data.sources import Galaxies, ImageFiles, read_image
from gzjax.errors import UserError
from gzjax.report import Report

CROP, CANVAS, SHARD = 0.8, 17, 16  # 17: records of an odd length


def write(folder, files, crowd, **changes):
    arguments = {
        "ids": [str(100 + number) for number in range(len(files))],
        "images": ImageFiles(files, CROP, CANVAS),
        "fractions": crowd[: len(files)].astype(np.float32),
        "left_out": pd.DataFrame([("7", "", "row without image")], columns=LEFT_OUT_COLUMNS),
        "label": "real galaxies",
        "crop": CROP,
        "canvas": CANVAS,
        "shard": SHARD,
    }
    packing.write(folder, **arguments | changes)


@pytest.fixture
def files(tmp_path):
    """Sixty-four noisy pictures, of two sizes and kinds."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    names = []
    for number in range(64):
        size, suffix = ((40, 40, 3), "jpg") if number % 3 else ((24, 36, 3), "png")
        names.append(str(tmp_path / "images" / f"{100 + number}.{suffix}"))
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(names[-1])
    return names


@pytest.fixture
def packed(tmp_path, files, crowd):
    """A pack of them, in four shards."""
    write(tmp_path / "pack", files, crowd)
    return tmp_path / "pack"


class Counted(ImageFiles):
    """Images that remember which were read; one of them may never come."""

    def __init__(self, files, stuck=-1):
        super().__init__(files, CROP, CANVAS)
        self.read, self.stuck = set(), stuck

    def __getitem__(self, position):
        while position == self.stuck:
            time.sleep(1)
        self.read.add(position)
        return super().__getitem__(position)


def test_what_was_packed_is_read_bit_for_bit(packed, files, crowd):
    found = pack.read(packed, crop=CROP, canvas=CANVAS)
    assert found.ids == tuple(str(100 + number) for number in range(64))
    assert found.label == "real galaxies"
    assert found.left_out["reason"].tolist() == ["row without image"]
    assert found.fractions.dtype == np.float32
    np.testing.assert_array_equal(found.fractions, crowd.astype(np.float32))
    assert found.images.shape == (64, CANVAS, CANVAS, 3)
    for row in np.random.default_rng(1).permutation(64):
        np.testing.assert_array_equal(found.images[row], read_image(files[row], CROP, CANVAS))


def test_a_record_alone_tells_all_of_its_galaxy(packed, files, crowd):
    reader = ArrayRecordReader(str(packed / "00002-of-00004.arecord"))
    image, fractions, galaxy = pack.from_record(reader.read([5])[0], CANVAS)
    assert galaxy == "137"
    np.testing.assert_array_equal(fractions, crowd[37].astype(np.float32))
    np.testing.assert_array_equal(image, read_image(files[37], CROP, CANVAS))


def test_the_manifest_says_what_is_there(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["galaxies"] == 64
    assert [shard["galaxies"] for shard in manifest["shards"]] == [16] * 4
    assert manifest["bytes"] == sum(file.stat().st_size for file in packed.glob("*.arecord"))
    assert manifest["columns"][0] == "Class1.1"
    assert {file.suffix for file in packed.iterdir()} == {".json", ".npz", ".arecord"}
    assert not (packed / "unfinished.json").exists()


def test_a_pack_keeps_the_fingerprint_and_the_splits_of_its_source(packed, files, crowd):
    data = dataset.from_pack(packed, crop=CROP, canvas=CANVAS, split=dataset.Split(3))
    source = dataset.Data(
        data.ids, ImageFiles(files, CROP, CANVAS), crowd.astype(np.float32), {}, data.left_out, ""
    )
    assert data.fingerprint == source.fingerprint
    for split, rows in dataset.catalog.split(data.ids, 3).items():
        np.testing.assert_array_equal(data.splits[split], rows)


def test_packing_that_was_killed_goes_on_from_whole_shards(tmp_path, packed, files, crowd):
    folder = tmp_path / "killed"
    program = (
        "import sys, pickle\n"
        "from test_pack import Counted, write\n"
        "folder, files, crowd = pickle.load(sys.stdin.buffer)\n"
        "write(folder, files, crowd, images=Counted(files, stuck=40))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
    ) as process:
        process.stdin.write(pickle.dumps((folder, files, crowd)))
        process.stdin.close()
        whole = [folder / f"0000{number}-of-00004.arecord" for number in (0, 1, 3)]
        deadline = time.monotonic() + 120
        while not all(file.exists() for file in whole):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert list(folder.glob("*.partial"))
    with pytest.raises(UserError, match=r"is half-written; --mode pack --pack .* goes on"):
        pack.read(folder, crop=CROP, canvas=CANVAS)

    images, steps = Counted(files), []
    write(folder, files, crowd, images=images, progress=lambda *step: steps.append(step))
    assert images.read == set(range(32, 48))
    assert steps == [(48, 64), (64, 64)]
    assert {file.name for file in folder.iterdir()} == {file.name for file in packed.iterdir()}
    for file in packed.iterdir():
        if file.suffix != ".npz":  # a zip archive tells the time
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_whole_pack_is_left_as_it_is(packed, files, crowd):
    images = Counted(files)
    write(packed, files, crowd, images=images)
    assert not images.read


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "00001-of-00004.arecord").unlink(), "00001.*, found 0; .* mends"),
        (
            lambda folder: os.truncate(folder / "00003-of-00004.arecord", 5000),
            r"00003-of-00004\.arecord: expected \d+ bytes, found 5000; --mode pack .* mends",
        ),
        (lambda folder: (folder / "galaxies.npz").write_bytes(b"PK"), "galaxies.npz: not readable"),
        (
            lambda folder: np.savez(
                folder / "galaxies.npz", ids=["1"], fractions=np.zeros((1, 37))
            ),
            "galaxies.npz: other galaxies than when it was written",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: no such file"),
    ],
)
def test_a_damaged_pack_is_refused_by_name_and_mended(packed, files, crowd, spoil, named):
    spoil(packed)
    with pytest.raises(UserError, match=named) as raised:
        pack.read(packed, crop=CROP, canvas=CANVAS)
    assert "\n" not in str(raised.value)
    if "manifest" in named:
        with pytest.raises(UserError, match="expected a new or empty folder, or that of a pack"):
            write(packed, files, crowd)
        return
    images = Counted(files)
    write(packed, files, crowd, images=images)
    assert len(images.read) == (16 if "arecord" in named or "00001" in named else 0)
    np.testing.assert_array_equal(
        pack.read(packed, crop=CROP, canvas=CANVAS).images[17],
        read_image(files[17], CROP, CANVAS),
    )


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("canvas", 32, "--config.data.canvas: 32, but .* was packed with 17; set it so"),
        ("crop", 1.0, "--config.data.crop: 1.0, but .* was packed with 0.8; set it so"),
    ],
)
def test_a_pack_of_another_canvas_is_refused(packed, option, value, named):
    with pytest.raises(UserError, match=named):
        pack.read(packed, **{"crop": CROP, "canvas": CANVAS} | {option: value})


def test_a_pack_of_another_format_or_none_at_all_is_refused(packed, tmp_path):
    manifest = json.loads((packed / "manifest.json").read_text())
    (packed / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))
    with pytest.raises(UserError, match=r"manifest\.json: expected a pack of format 1, found 0"):
        pack.read(packed, crop=CROP, canvas=CANVAS)
    (packed / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not readable"):
        pack.read(packed, crop=CROP, canvas=CANVAS)
    with pytest.raises(UserError, match=r"manifest\.json: no such file; --config\.data\.root"):
        pack.read(tmp_path / "nowhere", crop=CROP, canvas=CANVAS)


def test_another_source_is_not_packed_over_a_pack(packed, files, crowd):
    before = sorted((file.name, file.stat().st_mtime_ns) for file in packed.iterdir())
    other = crowd[::-1].astype(np.float32)
    with pytest.raises(UserError, match=r"a pack of something else: the galaxies\. Use"):
        write(packed, files, crowd, fractions=other)
    with pytest.raises(UserError, match="canvas was 17, now 20"):
        write(packed, files, crowd, canvas=20)
    os.utime(files[8])  # as if another picture had been saved there
    with pytest.raises(UserError, match="something else: the galaxies"):
        write(packed, files, crowd)
    assert before == sorted((file.name, file.stat().st_mtime_ns) for file in packed.iterdir())


def test_an_unreadable_image_is_left_out_and_listed(tmp_path, files, crowd):
    many, rows = [*files, *files[1:44]], np.concatenate([crowd, crowd])
    Path(files[0]).write_bytes(b"no image")
    write(tmp_path / "pack", many, rows)
    found = pack.read(tmp_path / "pack", crop=CROP, canvas=CANVAS)
    assert len(found.ids) == len(found.images) == len(found.fractions) == 106
    assert found.ids[0] == "101"
    np.testing.assert_array_equal(found.fractions, rows[1:107].astype(np.float32))
    for row in (0, 14, 15, 16, 105):
        np.testing.assert_array_equal(found.images[row], read_image(many[row + 1], CROP, CANVAS))
    assert found.left_out["GalaxyID"].tolist() == ["7", "100"]
    assert found.left_out["reason"].iloc[1].startswith("not readable as an image: ")


def test_losing_more_than_a_hundredth_stops_packing(tmp_path, files, crowd):
    Path(files[33]).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"more than 1% of 64 galaxies .* them is 133 \(not"):
        write(tmp_path / "pack", files, crowd)


def test_a_rotten_record_is_masked_and_named(packed, caplog):
    shard = packed / "00000-of-00004.arecord"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    data = dataset.from_pack(packed, crop=CROP, canvas=CANVAS)
    batch = Galaxies(data.images, data.fractions, np.arange(64)).batch(np.arange(64))
    assert batch["mask"].sum() == 63
    assert "00000-of-00004.arecord: " in caplog.text


@pytest.mark.parametrize("processes", [0, 1])
def test_a_pack_gives_the_batches_of_its_source(packed, files, crowd, processes):
    flags.FLAGS.mark_as_parsed()  # grain's workers ask for its flags; gzjax.main parses them
    data = dataset.from_pack(packed, crop=CROP, canvas=CANVAS)
    source = data._replace(images=ImageFiles(files, CROP, CANVAS))
    one, other = (
        iter(pipeline.training_batches(some.split("train"), 8, 0, processes=workers))
        for some, workers in ((source, 0), (data, processes))
    )
    for _ in range(9):
        assert_same_batch(next(one), next(other))


def assert_same_batch(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize("devices", [1, 8])
def test_images_held_on_the_devices_make_the_same_batches(packed, files, tmp_path, devices):
    Path(files[2]).write_bytes(b"no image")
    data = dataset.from_pack(packed, crop=CROP, canvas=CANVAS)
    data = data._replace(
        images=ImageFiles(files, CROP, CANVAS), splits={"train": np.arange(60), "test": np.r_[2:5]}
    )
    mesh = jax.make_mesh(
        (devices,), ("galaxies",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )
    by_galaxy = NamedSharding(mesh, PartitionSpec("galaxies"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    held = experiment.hold_on_devices(data, everywhere, Report(tmp_path, loud=False))
    assert held.canvases.shape == (64, CANVAS, CANVAS, 3)
    assert held.canvases.sharding.is_fully_replicated
    for make in (
        lambda data: pipeline.training_batches(data.split("train"), 16, 0),
        lambda data: pipeline.evaluation_batches(data.split("test"), 16),
    ):
        here = experiment.on_devices(iter(make(data)), by_galaxy)
        there = experiment.on_devices(iter(make(held)), by_galaxy, held.canvases)
        for _, one, other in zip(range(6), here, there, strict=False):
            assert other["image"].sharding.is_equivalent_to(by_galaxy, 4)
            assert_same_batch(one, other)
    assert one["mask"].sum() == 2  # of the three galaxies tested, one is unreadable


def test_images_that_do_not_fit_are_refused(packed, tmp_path, monkeypatch):
    class Small:
        def memory_stats(self):
            return {"bytes_limit": 50_000, "bytes_in_use": 10_000}

        def __str__(self):
            return "gpu:0"

    monkeypatch.setattr(jax, "local_devices", lambda: [Small()])
    data = dataset.from_pack(packed, crop=CROP, canvas=CANVAS)
    with pytest.raises(UserError, match=r"on_device: the images are 0\.0 GB, but gpu:0 has"):
        experiment.hold_on_devices(data, None, Report(tmp_path, loud=False))


def test_training_from_a_pack_is_training_from_its_source(cache, tmp_path):
    """As people start it; the pack is held on the device, too, and takes over a run."""
    folder = tmp_path / "pack"
    source, from_pack = tmp_path / "source", tmp_path / "from_pack"
    reads_pack = ("--config.data.kind=pack", f"--config.data.root={folder}")

    def done(*arguments):
        result = run(cache, *arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    printed = done("--mode", "pack", "--pack", folder)
    assert f"packing galaxies into {folder}: 160" in printed
    assert "160 galaxies (synthetic sky)" in printed
    done("--workdir", source, EPOCHS)
    done("--workdir", from_pack, EPOCHS, "--config.data.on_device=True", *reads_pack)
    assert_identical(final_state(source), final_state(from_pack))
    before = json.loads((source / "evaluate_test.json").read_text())
    assert before["data"] == "synthetic sky"
    (source / "evaluate_test.json").unlink()
    assert json.loads((from_pack / "evaluate_test.json").read_text()) == before
    assert "going on from step 32 of 32" in done("--workdir", source, EPOCHS, *reads_pack)
    assert json.loads((source / "evaluate_test.json").read_text()) == before
