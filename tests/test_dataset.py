"""The galaxies of a run: every option counts, wherever they come from."""

import io
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gzjax import tree as trees
from gzjax import votes
from gzjax.data import catalogue, dataset, packing
from gzjax.data.dataset import Data, Split
from gzjax.data.framing import Framing
from gzjax.data.images import ImageFiles, read_image
from gzjax.errors import UserError

GZ2 = trees.load("gz2")
FRAMING = Framing(0.8, 17)
VOTES = np.random.default_rng(2).integers(1, 9, 37).astype(np.float32)
OPTIONS = {"tree": GZ2, "table": "votes.csv", "images": "cutouts", "framing": FRAMING}


def data_of(galaxies, **changes):
    """Galaxies of which each has its own votes."""
    ids = tuple(map(str, range(galaxies)))
    return Data(
        ids=ids,
        images=np.zeros((galaxies, 2, 2, 3), np.uint8),
        votes=VOTES + np.arange(galaxies, dtype=np.float32)[:, None],
        splits=catalogue.split(ids, 0, 0.1, 0.1),
        left_out=pd.DataFrame([("7", "", "no row")], columns=catalogue.LEFT_OUT_COLUMNS),
        label="synthetic sky",
        tree=GZ2,
        framing=FRAMING,
    )._replace(**changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, crowd):
    """A folder of 100 galaxies, each of one grey of its own."""
    root = tmp_path_factory.mktemp("galaxies")
    (root / "cutouts").mkdir()
    table = pd.DataFrame(np.concatenate([crowd, crowd])[:100], columns=list(GZ2.columns))
    table.insert(0, "GalaxyID", [f"g{number}" for number in range(100)])
    table.to_csv(root / "votes.csv", index=False)
    for number, galaxy in enumerate(table["GalaxyID"]):
        stream = io.BytesIO()
        Image.new("RGB", (20, 20), (number,) * 3).save(stream, "PNG")
        (root / "cutouts" / f"{galaxy}.png").write_bytes(stream.getvalue())
    return root


def of_folder(folder, split):
    return dataset.from_folder(folder, split=split, **OPTIONS)


@pytest.fixture(scope="module")
def of_pack(folder):
    """Reads a pack of the folder, with a split."""
    target = folder.parent / f"{folder.name}-packed"
    packing.write(target, of_folder(folder, Split()))
    return lambda split: dataset.from_pack(target, tree=GZ2, framing=FRAMING, split=split)


def fake_sky(galaxies, **options):
    images = np.zeros((galaxies, options["size"], options["size"], 3), np.uint8)
    return images, np.full((galaxies, options["tree"].size), 0.5, np.float32)


def of_sky(monkeypatch, split, load_sky=fake_sky, **options):
    monkeypatch.setitem(sys.modules, "gzjax.sky", types.SimpleNamespace(load_sky=load_sky))
    monkeypatch.setattr("gzjax.sky", sys.modules["gzjax.sky"], raising=False)
    options = {"tree": GZ2, "sky_seed": 3, "framing": FRAMING, "cache": None} | options
    return dataset.from_sky(100, split=split, **options)


@pytest.mark.parametrize("kind", ["folder", "sky", "pack"])
def test_the_split_is_the_one_asked_for(folder, of_pack, monkeypatch, kind):
    read = {
        "folder": lambda split: of_folder(folder, split),
        "sky": lambda split: of_sky(monkeypatch, split),
        "pack": of_pack,
    }[kind]
    for options in ((0, 0.1, 0.1), (5, 0.1, 0.1), (0, 0.3, 0.1), (0, 0.1, 0.3)):
        data = read(Split(*options))
        expected = catalogue.split(data.ids, *options)
        assert data.splits.keys() == expected.keys()
        for name, rows in expected.items():
            np.testing.assert_array_equal(data.splits[name], rows)


def test_a_folder_gives_galaxies_with_their_own_votes(folder, crowd):
    data = of_folder(folder, Split(1))
    assert data.ids == tuple(f"g{number}" for number in range(100))
    assert (data.tree, data.framing, data.label) == (GZ2, FRAMING, "real galaxies")
    assert data.votes.dtype == np.float32
    assert isinstance(data.images, ImageFiles)
    batch = data.source("validation").batch(np.arange(2))
    rows = data.splits["validation"][:2]
    np.testing.assert_array_equal(batch["row"], rows)
    np.testing.assert_array_equal(batch["image"][:, 3, 4, 1], rows)
    assert batch["image"].shape == (2, 17, 17, 3)
    expected = 40 * crowd[rows % 64]  # volunteers, as the challenge has no counts
    np.testing.assert_allclose(batch["votes"], expected, rtol=1e-6)


def test_decode_finds_what_the_header_does_not_tell(folder, tmp_path):
    (tmp_path / "votes.csv").write_bytes((folder / "votes.csv").read_bytes())
    (tmp_path / "cutouts").mkdir()
    for file in (folder / "cutouts").iterdir():
        (tmp_path / "cutouts" / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / "cutouts" / "g5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert len(of_folder(tmp_path, Split()).ids) == 100
    data = dataset.from_folder(tmp_path, split=Split(), decode=True, **OPTIONS)
    assert len(data.ids) == 99
    assert data.left_out["GalaxyID"].tolist() == ["g5"]


def test_a_sky_is_drawn_as_asked(monkeypatch, tmp_path):
    asked = {}

    def load_sky(galaxies, **options):
        asked.update(options, galaxies=galaxies)
        return fake_sky(galaxies, **options)

    data = of_sky(monkeypatch, Split(), load_sky, cache=tmp_path, progress=print)
    assert asked == {
        "galaxies": 100,
        "tree": GZ2,
        "seed": 3,
        "size": 17,
        "field": 0.8,
        "cache": tmp_path,
        "progress": print,
    }
    assert (data.tree, data.framing, data.label) == (GZ2, FRAMING, "synthetic sky")
    assert data.ids == tuple(map(str, range(100)))
    assert data.images.shape == (100, 17, 17, 3)
    assert data.votes[3, 4] == 0.5
    assert list(data.left_out.columns) == list(catalogue.LEFT_OUT_COLUMNS)
    assert len(data.left_out) == 0


def test_a_pack_gives_the_galaxies_of_its_folder(folder, of_pack):
    source, packed = of_folder(folder, Split()), of_pack(Split())
    assert packed.fingerprint == source.fingerprint
    assert packed.ids == source.ids
    assert (packed.tree, packed.framing, packed.label) == (GZ2, FRAMING, "real galaxies")
    np.testing.assert_array_equal(packed.images[42], source.images[42])
    np.testing.assert_array_equal(
        packed.images[42], read_image(folder / "cutouts" / "g42.png", FRAMING)
    )


def test_too_few_galaxies_to_split_are_refused(folder):
    with pytest.raises(UserError, match=r"100 galaxies are too few to split, none fell to test"):
        of_folder(folder, Split(test=1e-9))


def test_a_tenth_each_is_held_out_unless_told():
    assert Split() == (0, 0.1, 0.1)


def test_fewer_galaxies_to_train_on_are_among_more():
    whole = data_of(200)
    few, more, all_of_them = (whole.with_fewer(n, 5).splits for n in (10, 50, 10_000))
    assert len(few["train"]) == 10
    assert set(few["train"]) < set(more["train"]) < set(whole.splits["train"])
    assert few["train"].tolist() == sorted(few["train"])
    for name in ("validation", "test"):
        np.testing.assert_array_equal(few[name], whole.splits[name])
    np.testing.assert_array_equal(all_of_them["train"], whole.splits["train"])
    assert set(few["train"]) != set(whole.with_fewer(10, 6).splits["train"])
    # As the first runs had it.
    expected = np.random.default_rng(5).permutation(len(whole.splits["train"]))[:10]
    np.testing.assert_array_equal(few["train"], whole.splits["train"][np.sort(expected)])


def test_the_training_mean_is_of_the_training_galaxies_alone():
    data = data_of(200)
    mean = data.training_mean
    assert mean.dtype == np.float64
    assert mean.shape == (37,)
    for some in (data, data.with_fewer(3, 0)):
        expected = votes.observed(some.votes[some.splits["train"]], GZ2).mean(axis=0)
        np.testing.assert_allclose(some.training_mean, expected, rtol=1e-6)
    assert np.ptp(data.votes[:, 0]) > 0


def test_a_source_has_the_rows_of_its_split():
    data = data_of(50)
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(data.source(name).rows, data.splits[name])


def test_other_galaxies_votes_or_trees_make_another_run():
    data = data_of(30)
    data.check_same(data.fingerprint, Path("runs/x"))
    with_fewer = data.with_fewer(3, 0)._replace(label="x", framing=Framing(), images=None)
    with_fewer.check_same(data.fingerprint, Path("runs/x"))  # that is not for it to see
    renamed = trees.Tree(GZ2.name, GZ2.questions, ("x", *GZ2.columns[1:]))
    for other in (
        data._replace(ids=data.ids[::-1]),
        data._replace(votes=data.votes + np.float32(1e-6)),
        data._replace(tree=renamed),
    ):
        with pytest.raises(UserError, match=r"^runs/x was started with different galaxies"):
            other.check_same(data.fingerprint, Path("runs/x"))


def test_what_turns_out_unreadable_is_listed_below_what_was_skipped(folder):
    data = of_folder(folder, Split())._replace(left_out=data_of(3).left_out)
    listed = data.left_out_with({9: "gone", 2: "broken"})
    assert listed.to_numpy().tolist() == [
        ["7", "", "no row"],
        ["g2", str(folder / "cutouts" / "g2.png"), "broken"],
        ["g9", str(folder / "cutouts" / "g9.png"), "gone"],
    ]
    assert data_of(3).left_out_with({1: "x"}).to_numpy().tolist()[1] == ["1", "", "x"]
    assert len(data.left_out) == 1
