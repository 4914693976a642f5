"""Packs: written whole or resumed, read bit for bit, refused by name if they do not fit."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl import flags
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from gzjax import tree as trees
from gzjax.data import catalogue, dataset, packing, packs, shards
from gzjax.data.batches import Source, training_batches
from gzjax.data.dataset import Data, Split
from gzjax.data.framing import Framing
from gzjax.data.images import ImageFiles, JoinedImages, read_image
from gzjax.errors import UserError
from gzjax.files import locked

GZ2 = trees.load("gz2")
FRAMING, SHARD = Framing(0.8, 17), 16  # 17: records of an odd length


def data_of(files, crowd, **changes):
    return Data(
        ids=tuple(str(100 + number) for number in range(len(files))),
        images=ImageFiles(files, FRAMING),
        votes=crowd[: len(files)].astype(np.float32),
        splits={},
        left_out=pd.DataFrame([("7", "", "row without image")], columns=catalogue.LEFT_OUT_COLUMNS),
        label="real galaxies",
        tree=GZ2,
        framing=FRAMING,
    )._replace(**changes)


def write(folder, files, crowd, progress=lambda done, of: None, shard=SHARD, **changes):
    packing.write(folder, data_of(files, crowd, **changes), shard=shard, progress=progress)


def read(folder, tree=GZ2, framing=FRAMING):
    return packs.read(folder, tree=tree, framing=framing)


@pytest.fixture(scope="module")
def template(tmp_path_factory, crowd):
    """Sixty-four noisy pictures, of two sizes and kinds, and a pack of them in four shards."""
    root = tmp_path_factory.mktemp("template")
    generator = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(64):
        size, suffix = ((40, 40, 3), "jpg") if number % 3 else ((24, 36, 3), "png")
        pixels = generator.integers(0, 256, size, np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{100 + number}.{suffix}")
    write(root / "pack", sorted(map(str, (root / "images").iterdir())), crowd)
    return root


@pytest.fixture
def files(template, tmp_path):
    """Copies of the pictures, with the times of the originals."""
    shutil.copytree(template / "images", tmp_path / "images")
    return sorted(map(str, (tmp_path / "images").iterdir()))


@pytest.fixture
def packed(template, files, tmp_path):
    """A copy of the pack of those pictures."""
    return shutil.copytree(template / "pack", tmp_path / "pack")


class Counted(ImageFiles):
    """Images that remember which were read; one of them may never come."""

    def __init__(self, files, stuck=-1):
        super().__init__(files, FRAMING)
        self.read, self.stuck = set(), stuck

    def __getitem__(self, position):
        while position == self.stuck:
            time.sleep(1)
        self.read.add(position)
        return super().__getitem__(position)


def test_what_was_packed_is_read_bit_for_bit(packed, files, crowd):
    found = read(packed)
    assert found.ids == tuple(str(100 + number) for number in range(64))
    assert found.label == "real galaxies"
    assert found.left_out.to_numpy().tolist() == [["7", "", "row without image"]]
    assert found.votes.dtype == np.float32
    np.testing.assert_array_equal(found.votes, crowd.astype(np.float32))
    assert found.images.shape == (64, 17, 17, 3)
    assert len(found.images) == 64
    for images in (found.images, read(packed, tree=None).images):
        for row in np.random.default_rng(1).permutation(64).tolist():
            np.testing.assert_array_equal(images[row], read_image(files[row], FRAMING))


def test_a_record_alone_tells_all_of_its_galaxy(packed, files, crowd):
    record = ArrayRecordReader(str(packed / "00002-of-00004.arecord")).read([5])[0]
    pixels = 17 * 17 * 3
    assert record[:pixels] == read_image(files[37], FRAMING).tobytes()
    assert record[pixels:-3] == crowd[37].astype("<f4").tobytes()
    assert record[-3:] == b"137"


def test_the_manifest_says_what_is_there(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    assert manifest["galaxies"] == 64
    assert [shard["galaxies"] for shard in manifest["shards"]] == [16] * 4
    assert manifest["bytes"] == sum(file.stat().st_size for file in packed.glob("*.arecord"))
    assert trees.Tree.from_dict(manifest["tree"]) == GZ2
    assert {name: manifest[name] for name in FRAMING.options} == FRAMING.options
    assert {file.suffix for file in packed.iterdir()} == {".json", ".npz", ".arecord"}
    assert not (packed / "unfinished.json").exists()


def test_a_shard_holds_a_thousand_galaxies_unless_told(tmp_path, files, crowd):
    packing.write(tmp_path / "pack", data_of(files, crowd))
    assert json.loads((tmp_path / "pack" / "manifest.json").read_text())["shards"][0] == {
        "file": "00000-of-00001.arecord",
        "galaxies": 64,
        "bytes": (tmp_path / "pack" / "00000-of-00001.arecord").stat().st_size,
    }
    assert packing.SHARD == 1024


def test_a_pack_keeps_the_fingerprint_and_the_splits_of_its_source(packed, files, crowd):
    data = dataset.from_pack(packed, tree=GZ2, framing=FRAMING, split=Split(3))
    assert data.fingerprint == data_of(files, crowd).fingerprint
    for split, rows in catalogue.split(data.ids, 3, 0.1, 0.1).items():
        np.testing.assert_array_equal(data.splits[split], rows)


def test_packing_that_was_killed_resumes_from_whole_shards(tmp_path, packed, files, crowd):
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
        with pytest.raises(UserError, match="another process is writing there"):
            write(folder, files, crowd)
        process.send_signal(signal.SIGKILL)
    assert list(folder.glob("*.partial"))
    with pytest.raises(UserError, match=r"is half-written; pack the galaxies again, .* to resume"):
        read(folder)

    images, steps = Counted(files), []
    write(folder, files, crowd, images=images, progress=lambda *step: steps.append(step))
    assert images.read == set(range(32, 48))
    assert steps == [(48, 64), (64, 64)]
    assert {file.name for file in folder.iterdir()} == {file.name for file in packed.iterdir()}
    for file in packed.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def same(folder, other):
    return {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in other.iterdir()
    }


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shares_are_together_the_pack_of_one_process(tmp_path, files, crowd, order):
    files, crowd = [*files, *files[1:44]], np.concatenate([crowd, crowd])
    Path(files[0]).write_bytes(b"no image")  # whose reason another process knows
    write(tmp_path / "one", files, crowd)
    folder, seen = tmp_path / "three", []
    for place, number in enumerate(order):
        images, data = Counted(files), data_of(files, crowd)
        left = packing.write(
            folder, data._replace(images=images), shard=SHARD, share=(number, 3),
            progress=lambda *step: seen.append(step),
        )  # fmt: skip
        mine = [row for row in range(107) if row // SHARD % 3 == number - 1]
        assert images.read == set(mine)
        assert seen[-1] == (len(mine), len(mine))
        if place < 2:
            others = 7 - sum(len(range(each - 1, 7, 3)) for each in order[: place + 1])
            assert left == f"share {number} of 3 is done; {others} shards of others are missing"
            with pytest.raises(UserError, match="this pack is half-written"):
                read(folder)
            again = Counted(files)
            assert (
                packing.write(folder, data._replace(images=again), shard=SHARD, share=(number, 3))
                == left
            )
            assert not again.read  # nor is the shard that lacks an image
    assert left == ""
    assert same(folder, tmp_path / "one")


def test_of_two_that_are_last_one_completes_the_pack(tmp_path, packed, files, crowd):
    folder, data = tmp_path / "two", data_of(files, crowd)
    options = {"shard": SHARD, "share": (2, 2)}
    packing.write(folder, data, shard=SHARD, share=(1, 2))
    with locked(folder / "lock"):
        assert packing.write(folder, data, **options) == "another process completes the pack"
    with locked(folder / "lock-2-of-2"), pytest.raises(UserError, match="another process is wri"):
        packing.write(folder, data, **options)
    assert packing.write(folder, data, **options) == ""
    assert same(folder, packed)
    assert packing.write(folder, data, **options) == ""  # though it begins only now
    assert same(folder, packed)
    (packed / "galaxies.npz").unlink()
    with pytest.raises(UserError, match=r"pack: expected one process to repair it, found 2$"):
        packing.write(packed, data, **options)


def test_a_share_that_begins_as_another_completes_the_pack_changes_nothing(
    tmp_path, files, crowd, monkeypatch
):
    files, crowd = [*files, *files[1:44]], np.concatenate([crowd, crowd])
    Path(files[0]).write_bytes(b"no image")  # whose note is gone once the pack is whole
    write(tmp_path / "one", files, crowd)
    folder, data, check = tmp_path / "late", data_of(files, crowd), packing._check_folder

    def slow(*arguments):
        found = check(*arguments)
        shutil.copytree(tmp_path / "one", folder)
        return found

    monkeypatch.setattr(packing, "_check_folder", slow)
    images = Counted(files)
    assert packing.write(folder, data._replace(images=images), shard=SHARD, share=(1, 2)) == ""
    assert not images.read
    assert same(folder, tmp_path / "one")


def test_a_shard_whose_image_came_back_forgets_its_fault(tmp_path, files, crowd):
    many, rows = [*files, *files[1:44]], np.concatenate([crowd, crowd])
    flaky = [OSError(5, "outage")]

    class Flaky(ImageFiles):
        def __getitem__(self, position):
            if position == 3 and flaky:
                raise flaky[0]
            return super().__getitem__(position)

    data = data_of(many, rows, images=Flaky(many, FRAMING))
    packing.write(tmp_path / "pack", data, shard=SHARD, share=(1, 2))
    note = tmp_path / "pack" / "00000-of-00007.arecord.unreadable.json"
    assert json.loads(note.read_text()) == {"3": "cannot be opened: outage"}
    (tmp_path / "pack" / "00000-of-00007.arecord").unlink()
    flaky.clear()
    for number in (1, 2):
        packing.write(tmp_path / "pack", data, shard=SHARD, share=(number, 2))
    assert len(read(tmp_path / "pack").ids) == 107


def test_other_processes_get_what_their_shard_takes_and_no_more(tmp_path, packed, files, crowd):
    folder, sent = tmp_path / "engine", []

    def engine(see, tasks):
        for rows, shard in tasks:
            sent.append(pickle.dumps(shard))
            yield rows, see([], pickle.loads(sent[-1]), None)

    joined = JoinedImages(
        [(ImageFiles(files, FRAMING), np.arange(30)), (read(packed).images, np.arange(30, 64))]
    )
    write_with = data_of(files, crowd, images=joined)
    packing.write(folder, write_with, shard=SHARD, engine=engine)
    assert [pickle.loads(each).images.paths for each in sent[:2]] == [files[:16], files[16:30]]
    assert len(sent) == 4
    np.testing.assert_array_equal(read(folder).images[31], read_image(files[31], FRAMING))
    for number in range(4):
        name = f"0000{number}-of-00004.arecord"
        assert (folder / name).read_bytes() == (packed / name).read_bytes()


def test_a_whole_pack_stays_as_it_is(packed, files, crowd):
    images = Counted(files)
    before = (packed / "manifest.json").stat().st_mtime_ns
    write(packed, files, crowd, images=images)
    assert not images.read
    assert (packed / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("spoil", "named", "again"),
    [
        (
            lambda folder: (folder / "00001-of-00004.arecord").unlink(),
            r"00001-of-00004\.arecord: expected \d+ bytes, found 0; .* to repair it",
            16,
        ),
        (
            lambda folder: os.truncate(folder / "00003-of-00004.arecord", 5000),
            r"00003-of-00004\.arecord: expected \d+ bytes, found 5000; .* to repair it",
            16,
        ),
        (
            lambda folder: (folder / "00002-of-00004.arecord").open("ab").write(b"more"),
            r"00002-of-00004\.arecord: expected \d+ bytes, found \d+; .* to repair it",
            16,
        ),
        (lambda folder: (folder / "galaxies.npz").write_bytes(b""), "npz: not readable: ", 0),
        (lambda folder: (folder / "galaxies.npz").write_bytes(b"PK"), "npz: not readable: ", 0),
        (lambda folder: os.truncate(folder / "galaxies.npz", 2000), "npz: not readable: ", 0),
        (lambda folder: (folder / "galaxies.npz").unlink(), "npz: not readable: .* to repair", 0),
        (
            lambda folder: np.savez(
                folder / "galaxies.npz", ids=["1"], votes=np.zeros((1, 37), np.float32)
            ),
            r"galaxies\.npz: different galaxies than when it was written; .* to repair it",
            0,
        ),
    ],
)
def test_a_damaged_pack_is_refused_by_name_and_repaired(packed, files, crowd, spoil, named, again):
    spoil(packed)
    for tree in (GZ2, None):
        with pytest.raises(UserError, match=named) as raised:
            read(packed, tree)
        assert "\n" not in str(raised.value)
    images = Counted(files)
    write(packed, files, crowd, images=images)
    assert len(images.read) == again
    np.testing.assert_array_equal(read(packed).images[17], read_image(files[17], FRAMING))


def test_a_pack_without_its_manifest_is_none(packed, files, crowd):
    (packed / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"manifest\.json: no such file; expected the folder of a pa"
    ):
        read(packed)
    with pytest.raises(UserError, match="expected a new or empty folder, or that of a pack"):
        write(packed, files, crowd)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"canvas": 32}, "^canvas: 32, but .* was packed with 17; set it so, or"),
        ({"crop": 1.0}, r"^crop: 1\.0, but .* was packed with 0\.8; set it so, or"),
    ],
)
def test_a_pack_of_another_framing_is_refused(packed, changes, named):
    for tree in (GZ2, None):
        with pytest.raises(UserError, match=named):
            read(packed, tree, FRAMING._replace(**changes))


def another_tree(name):
    content = json.loads(json.dumps(GZ2.to_dict() | {"name": name}))
    content["questions"][-1]["answers"][-1] = "other"
    return trees.Tree.from_dict(content)


def test_a_pack_saves_its_tree(tmp_path, files, crowd):
    write(tmp_path / "pack", files, crowd, tree=another_tree("mine"))
    assert len(read(tmp_path / "pack", tree=another_tree("mine")).ids) == 64


def test_a_pack_of_another_tree_is_refused_by_name(packed, files, crowd):
    with pytest.raises(UserError, match="expected a pack of the tree mine, found one of gz2; "):
        read(packed, tree=another_tree("mine"))
    with pytest.raises(UserError, match="found one of another tree of that name"):
        read(packed, tree=another_tree("gz2"))
    with pytest.raises(UserError, match=r"something else: tree was gz2, now mine\. Use"):
        write(packed, files, crowd, tree=another_tree("mine"))
    with pytest.raises(UserError, match=r"something else: tree was gz2, now gz2\. Use"):
        write(packed, files, crowd, tree=another_tree("gz2"))


def test_a_bit_of_the_manifest_is_not_overlooked_and_is_repaired(packed, files, crowd):
    file = packed / "manifest.json"
    whole = file.read_text()
    for before, after in (('"galaxies": 16', '"galaxies": 14'), ('"galaxies"', '"galaxier"')):
        file.write_text(whole.replace(before, after, 1))
        with pytest.raises(UserError, match=r"manifest\.json: damaged, its checksum does not hold"):
            read(packed)
        write(packed, files, crowd)
        assert file.read_text() == whole
    old = json.loads(whole)
    del old["checksum"]
    file.write_text(json.dumps(old))
    assert len(read(packed).ids) == 64
    # From before FITS files had options: they had the defaults.
    old = {name: value for name, value in old.items() if not name.startswith("fits.")}
    assert len(old) < len(json.loads(whole)) - 1
    file.write_text(json.dumps(old))
    assert len(read(packed).ids) == 64
    assert packs.framing_of(packed) == FRAMING
    write(packed, files, crowd)


def test_what_is_no_manifest_is_refused_in_one_line(packed, tmp_path):
    manifest = json.loads((packed / "manifest.json").read_text())
    for content, named in (
        (
            json.dumps(manifest | {"format": 1}),
            "expected a pack of format 3, found 1; pack the gal",
        ),
        ("{}", "expected a pack of format 3, found None"),
        ("[]", "expected a JSON object"),
        ("{", "not readable: "),
        ("\xff", "not readable: "),
    ):
        (packed / "manifest.json").write_text(content, encoding="latin-1")
        with pytest.raises(UserError, match=rf"manifest\.json: {named}"):
            read(packed)
    with pytest.raises(UserError, match=r"manifest\.json: no such file; expected the folder of a"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"manifest\.json: no such file"):
        read(packed / "galaxies.npz")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"votes": 1}, r"a pack of something else: the galaxies\. Use"),
        ({"ids": tuple(map(str, range(64)))}, r"a pack of something else: the galaxies\. Use"),
        (
            {"framing": Framing(0.8, 20)},
            "something else: canvas was 17, now 20, the|canvas was 17, now 20",
        ),
        ({"framing": Framing(0.9, 17)}, "crop was 0.8, now 0.9"),
        ({"label": "synthetic sky"}, "label was 'real galaxies', now 'synthetic sky'"),
        ({"shard": 17}, "galaxies_per_shard was 16, now 17"),
    ],
)
def test_another_source_is_not_packed_over_a_pack(packed, files, crowd, changes, named):
    before = sorted((file.name, file.stat().st_mtime_ns) for file in packed.iterdir())
    if "votes" in changes:
        changes = {"votes": crowd[::-1].astype(np.float32)}
    with pytest.raises(UserError, match=named):
        write(packed, files, crowd, **changes)
    assert before == sorted((file.name, file.stat().st_mtime_ns) for file in packed.iterdir())


def test_another_file_makes_another_source(packed, files, crowd):
    os.utime(files[8])  # as if another picture had been saved there
    with pytest.raises(UserError, match=r"something else: the galaxies\. Use"):
        write(packed, files, crowd)
    os.remove(files[8])
    with pytest.raises(UserError, match=r"something else: the galaxies\. Use"):
        write(packed, files, crowd)


def test_a_half_written_pack_of_something_else_is_not_resumed(packed, files, crowd):
    (packed / "manifest.json").rename(packed / "unfinished.json")
    with pytest.raises(UserError, match=r"crop was 0\.8, now 0\.5"):
        write(packed, files, crowd, framing=Framing(0.5, 17))
    write(packed, files, crowd)
    assert len(read(packed).ids) == 64


def test_an_unreadable_image_is_skipped_and_listed(tmp_path, files, crowd):
    many, rows = [*files, *files[1:44]], np.concatenate([crowd, crowd])
    Path(files[0]).write_bytes(b"no image")
    write(tmp_path / "pack", many, rows)
    found = read(tmp_path / "pack")
    assert len(found.ids) == len(found.images) == len(found.votes) == 106
    assert found.ids[0] == "101"
    np.testing.assert_array_equal(found.votes, rows[1:107].astype(np.float32))
    for row in (0, 14, 15, 16, 105):
        np.testing.assert_array_equal(found.images[row], read_image(many[row + 1], FRAMING))
    assert found.left_out["GalaxyID"].tolist() == ["7", "100"]
    assert found.left_out["file"].tolist() == ["", files[0]]
    assert found.left_out["reason"].iloc[1].startswith("not readable as an image: ")
    # Repaired from the shards that are there: that one is read again, as it lacks a galaxy.
    (tmp_path / "pack" / "galaxies.npz").unlink()
    images = Counted(many)
    write(tmp_path / "pack", many, rows, images=images)
    assert images.read == set(range(16))
    again = read(tmp_path / "pack")
    assert again.ids == found.ids
    assert again.left_out.equals(found.left_out)


def test_whatever_an_image_raises_it_is_skipped(tmp_path, files, crowd):
    class Odd(ImageFiles):
        def __getitem__(self, position):
            if position == 3:
                raise RuntimeError("odd")
            return super().__getitem__(position)

    many, rows = [*files, *files[:40]], np.concatenate([crowd, crowd])
    write(tmp_path / "pack", many, rows, images=Odd(many, FRAMING))
    assert read(tmp_path / "pack").left_out["reason"].iloc[1] == "not readable as an image: odd"


def test_losing_more_than_a_hundredth_stops_packing(tmp_path, files, crowd):
    Path(files[33]).write_bytes(b"no image")
    for _ in range(2):  # the second time the shards are whole
        with pytest.raises(
            UserError, match=r"pack: 1 of 64 galaxies .* than 1%: .* first is 133 \(not"
        ):
            write(tmp_path / "pack", files, crowd)
    assert not (tmp_path / "pack" / "manifest.json").exists()


def test_a_folder_of_something_else_stays_as_it_is(tmp_path, files, crowd):
    with pytest.raises(
        UserError, match="images: expected a new or empty folder, or that of a pack"
    ):
        write(tmp_path / "images", files, crowd)
    assert len(list((tmp_path / "images").iterdir())) == 64
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty" / "lock"):
        pass  # left by packing that was killed at once
    write(tmp_path / "empty", files, crowd)
    assert len(read(tmp_path / "empty").ids) == 64


def test_a_pack_that_cannot_be_written_is_told_in_one_line(tmp_path, files, crowd, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/pack: the pack cannot be written: .*Not a directory"
    ):
        write(tmp_path / "file" / "pack", files, crowd)

    class Full:
        def __init__(self, *_):
            pass

        def write(self, _):
            raise RuntimeError("no space\nleft")

    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(UserError, match=r"pack: the pack cannot be written: no space left$"):
        write(tmp_path / "pack", files, crowd)


def test_a_pack_needs_room(tmp_path, files, crowd, monkeypatch):
    needed = 64 * 17 * 17 * 3
    for free, fits in ((needed - 1, False), (needed, True)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder, usage=usage: usage)
        if fits:
            write(tmp_path / "pack", files, crowd)
        else:
            with pytest.raises(UserError, match=r"the pack needs 0\.0 GB, only 0\.0 GB are free"):
                write(tmp_path / "pack", files, crowd)


def test_a_pack_that_is_repaired_needs_room_for_what_is_missing_alone(
    packed, files, crowd, monkeypatch
):
    (packed / "00001-of-00004.arecord").unlink()
    usage = shutil.disk_usage(packed)._replace(free=16 * 17 * 17 * 3)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder: usage)
    write(packed, files, crowd)
    assert len(read(packed).ids) == 64


def test_a_pack_whose_repair_is_interrupted_is_half_written(packed, files, crowd, monkeypatch):
    def full(*_):
        raise RuntimeError("no space left")

    (packed / "00001-of-00004.arecord").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(shards, "ArrayRecordWriter", full)
        with pytest.raises(UserError, match="no space left"):
            write(packed, files, crowd)
    with pytest.raises(UserError, match="this pack is half-written"):
        read(packed)
    write(packed, files, crowd)
    assert len(read(packed).ids) == 64


def test_a_rotten_record_is_masked_and_named(packed):
    shard = packed / "00001-of-00004.arecord"
    content = bytearray(shard.read_bytes())
    for row in (16, 31):  # its first and its last
        content[content.index(read(packed).images[row].tobytes()) + 40] ^= 1
    shard.write_bytes(content)
    batch = Source(read(packed).images, np.arange(64)).batch(np.arange(64))
    assert np.flatnonzero(batch["mask"] == 0).tolist() == [16, 31]
    for row in (16, 31):
        assert batch["fault"][row].startswith(b"damaged in the pack: 00001-of-00004.arecord: ")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_pack_gives_the_batches_of_its_source(packed, files, processes):
    flags.FLAGS.mark_as_parsed()  # grain's workers ask for its flags; gzjax.main parses them
    data = dataset.from_pack(packed, tree=GZ2, framing=FRAMING, split=Split())
    source = data._replace(images=ImageFiles(files, FRAMING))
    one, other = (
        iter(training_batches(some.source("train"), 8, 0, processes=workers))
        for some, workers in ((source, 0), (data, processes))
    )
    for _ in range(9):
        expected, found = next(one), next(other)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_a_pack_is_known_by_its_files(packed, tmp_path):
    assert packs.is_pack(packed)
    assert packs.read_ids(packed) == tuple(str(100 + number) for number in range(64))
    assert not packs.is_pack(tmp_path / "images")
    (packed / "manifest.json").rename(packed / "unfinished.json")
    assert packs.is_pack(packed)
    (packed / "unfinished.json").rename(packed / "manifest.json")
    (packed / "galaxies.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"galaxies\.npz: not readable"):
        packs.read_ids(packed)
    (packed / "galaxies.npz").unlink()
    assert not packs.is_pack(packed)
