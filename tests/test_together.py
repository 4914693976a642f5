"""Several catalogues as one: what is scored, dropped and drawn, and how often."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

import gzjax
from gzjax import metrics, votes
from gzjax.data import batches, dataset, packing
from gzjax.data.batches import Source
from gzjax.data.images import JoinedImages
from gzjax.errors import UserError
from gzjax.run import build, exported, galaxies, loop, pack
from gzjax.run import config as configs
from gzjax.trees import campaigns


def shifted(table, by):
    """The same galaxies under other names, but for the first ten."""
    ids = table["GalaxyID"].astype(int)
    return table.assign(GalaxyID=ids.where(np.arange(len(ids)) < 10, ids + by))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A root, and an extra folder of 48 galaxies, ten of which the root has, too."""
    root = tiny.folder(tmp_path_factory.mktemp("sky") / "root")
    extra = root.parent / "extra"
    shutil.copytree(root, extra)
    table = pd.read_csv(extra / "votes.csv")
    new = shifted(table, 100_000)
    for before, after in zip(table["GalaxyID"], new["GalaxyID"], strict=True):
        (extra / "images" / f"{before}.png").rename(extra / "images" / f"{after}.png")
    new.drop(columns=["arms_none", "arms_one", "arms_two"]).to_csv(extra / "votes.csv", index=False)
    return root


@pytest.fixture(scope="module", autouse=True)
def linear(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield


def data_of(root, **options):
    typed = configs.typed(tiny.config(root, **options))
    tree = galaxies.load_tree(typed.data)
    return galaxies.build_data(typed, tree, None, False, gzjax.Report(loud=False))


def test_extra_galaxies_are_trained_on_alone_and_held_out_ones_are_not(world):
    plain, data = data_of(world), data_of(world, data__extra=f"{world.parent / 'extra'}, ")
    for split in ("validation", "test"):
        np.testing.assert_array_equal(data.splits[split], plain.splits[split])
    held_out = {plain.ids[row] for name in ("validation", "test") for row in plain.splits[name]}
    first_ten = [str(1000 + 7 * number) for number in range(10)]
    dropped = sorted(held_out & set(first_ten))
    assert 0 < len(dropped) < 10
    listed = data.left_out[data.left_out["reason"] == "held out of root"]
    assert sorted(listed["GalaxyID"]) == dropped
    assert all(str(world.parent / "extra") in file for file in listed["file"])
    assert len(data.ids) == 96 - len(dropped)
    assert not held_out & {data.ids[row] for row in data.splits["train"]}
    assert len(data.splits["train"]) == len(plain.splits["train"]) + 48 - len(dropped)
    root, extra = data.members
    assert (root.name, root.first, root.stop, root.scored) == ("root", 0, 48, True)
    assert (extra.name, extra.first, extra.stop, extra.scored) == (
        "extra",
        48,
        len(data.ids),
        False,
    )
    # Votes and pictures stay together, and the extra ones lack a question.
    for row in (0, 47, 48, len(data.ids) - 1):
        number = (int(data.ids[row]) % 100_000 - 1000) // 7
        np.testing.assert_array_equal(data.images[row], plain.images[number])
        np.testing.assert_allclose(data.votes[row, :5], plain.votes[number, :5])
        assert np.isnan(data.votes[row, 5:]).all() == (row >= 48)
    assert str(data.images.place(48)).startswith(str(world.parent / "extra"))


def test_fewer_training_galaxies_are_fewer_of_the_scored_catalogue(world):
    data = data_of(world, data__extra=str(world.parent / "extra"), data__training_galaxies=8)
    rows = data.splits["train"]
    assert (rows < 48).sum() == 8
    assert (rows >= 48).sum() > 30


def test_galaxies_are_drawn_by_the_weights_of_their_catalogues(world):
    data = data_of(world, data__extra=str(world.parent / "extra"), data__extra_weight=3.0)
    source = data.source("train")
    ours = int((source.rows < 48).sum())
    theirs = len(source) - ours
    assert source.drawn == ours + 3 * theirs
    counts = np.zeros(len(data.ids), int)
    read = iter(batches.training_batches(source, 8, 0))
    for _ in range(10 * source.drawn // 8):
        np.add.at(counts, next(read)["row"], 1)
    assert abs(counts[source.rows[:ours]] - 10).max() <= 1
    assert abs(counts[source.rows[ours:]] - 30).max() <= 3
    state = read.get_state()
    after = [next(read)["row"].tolist() for _ in range(3)]
    again = iter(batches.training_batches(source, 8, 0))
    again.set_state(state)
    assert [next(again)["row"].tolist() for _ in range(3)] == after
    other = iter(batches.training_batches(source, 8, 1))
    first = iter(batches.training_batches(source, 8, 0))
    assert next(other)["row"].tolist() != next(first)["row"].tolist()
    # Evaluation takes each galaxy once.
    assert data.source("test").drawn == len(data.splits["test"])


def test_as_many_galaxies_may_be_lost_as_a_hundredth_of_those_drawn(world, tmp_path, monkeypatch):
    options = {"data__extra": str(world.parent / "extra"), "data__extra_weight": 3.0}
    drawn = data_of(world, **options).source("train").drawn

    def noted(galaxies, processes):
        raise UserError(f"{galaxies} drawn by {processes}")

    monkeypatch.setattr(loop, "most_lost", noted)
    with pytest.raises(UserError, match=f"^{drawn} drawn by 1$"):
        gzjax.train(tiny.config(world, epochs=1, **options), tmp_path / "run")


def test_parts_of_a_source_are_shared_by_processes():
    source = Source(np.zeros((30, 2, 2, 3), np.uint8), np.arange(30), None, ((20, 1.0), (30, 3.0)))
    whole = next(iter(batches.training_batches(source, 10, 0)))["row"]
    halves = [
        next(iter(batches.training_batches(source, 10, 0, shard=k, shards=2))) for k in (0, 1)
    ]
    assert sorted(np.concatenate([half["row"] for half in halves])) == sorted(whole)


def test_joined_images_are_those_of_their_parts():
    ramp = np.arange(4, dtype=np.uint8)[:, None, None, None] + np.zeros((4, 2, 2, 3), np.uint8)
    one, two = ramp + 10, ramp + 20
    joined = JoinedImages([(one, np.array([3, 0])), (two, np.array([], int)), (two, np.array([1]))])
    assert joined.shape == (3, 2, 2, 3)
    assert [int(joined[row].min()) for row in range(len(joined))] == [13, 10, 21]
    assert joined.place(0) == ""


def test_a_run_with_extra_galaxies_is_scored_on_the_root_and_resumes(world, tmp_path):
    options = {"data__extra": str(world.parent / "extra"), "epochs": 1}
    options |= {"optim__schedule": "constant", "optim__warmup": 0.0}
    gzjax.train(tiny.config(world, **options), tmp_path / "run")
    more = gzjax.train(tiny.config(world, **options | {"epochs": 2}), tmp_path / "run")
    result = json.loads((tmp_path / "run" / "evaluate_test.json").read_text())
    plain = data_of(world)
    assert result["galaxies"] == len(plain.splits["test"])
    assert result["training_galaxies"] > len(plain.splits["train"])
    assert "catalogues" not in result
    again = gzjax.evaluate(gzjax.load(tmp_path / "run"), gzjax.load_data(tmp_path / "run"), views=1)
    assert again == result
    straight = gzjax.train(tiny.config(world, **options | {"epochs": 2}), tmp_path / "straight")
    np.testing.assert_array_equal(
        more.weights.params["stem"]["kernel"], straight.weights.params["stem"]["kernel"]
    )


def test_weights_that_saw_an_extra_catalogue_may_have_seen_what_is_held_out_here(world, tmp_path):
    extra = world.parent / "extra"
    gzjax.train(tiny.config(world, data__extra=str(extra), epochs=1), tmp_path / "run")
    start = {"model__weights": str(tmp_path / "run"), "epochs": 1}
    gzjax.train(tiny.config(world, **start), tmp_path / "finish")  # the same are held out
    with pytest.raises(UserError, match="also trained on catalogues that are not split"):
        gzjax.train(tiny.config(extra, **start), tmp_path / "leak")
    gzjax.train(tiny.config(extra, **start, model__weights_overlap=False), tmp_path / "others")
    gzjax.train(tiny.config(world, epochs=1), tmp_path / "alone")
    # However many runs lie between.
    after = tiny.config(world, model__weights=str(tmp_path / "finish"), epochs=1)
    after.model.weights = str(tmp_path / "finish")
    gzjax.train(after, tmp_path / "third")
    third = {"model__weights": str(tmp_path / "third"), "epochs": 1}
    for about in (tmp_path / "finish", tmp_path / "third", tmp_path / "others"):
        assert exported.open_best(about).about["unsplit"]
    with pytest.raises(UserError, match="also trained on catalogues that are not split"):
        gzjax.train(tiny.config(extra, **third), tmp_path / "leak")
    alone = {"model__weights": str(tmp_path / "alone"), "epochs": 1}
    gzjax.train(tiny.config(extra, **alone), tmp_path / "other")
    assert not exported.open_best(tmp_path / "other").about["unsplit"]
    gzjax.train(tiny.config(extra, **alone, model__weights_overlap=False), tmp_path / "said")
    assert exported.open_best(tmp_path / "said").about["unsplit"]


def test_an_extra_catalogue_of_more_weight_makes_another_run(world, tmp_path):
    found = []
    for weight in (1.0, 2.0):
        options = {"data__extra": str(world.parent / "extra"), "data__extra_weight": weight}
        model = gzjax.train(tiny.config(world, epochs=1, **options), tmp_path / f"run{weight}")
        found.append(np.asarray(model.weights.params["stem"]["kernel"]))
        assert model.step == data_of(world, **options).source("train").drawn // 8
    assert not np.array_equal(*found)


def test_a_pack_of_several_catalogues_is_them(world, tmp_path):
    config = tiny.config(world, data__extra=str(world.parent / "extra"), data__extra_weight=2.0)
    before = data_of(world, data__extra=str(world.parent / "extra"), data__extra_weight=2.0)
    report = gzjax.Report(loud=False)
    pack.pack(config, tmp_path / "pack", cache=None, check_images=False, report=report)
    after = data_of(tmp_path / "pack", data__kind="pack", data__tree=str(world / "toy.toml"))
    assert after.fingerprint == before.fingerprint
    assert after.members == before.members
    assert after.source("train").parts == before.source("train").parts
    for split, rows in before.splits.items():
        np.testing.assert_array_equal(after.splits[split], rows)


@pytest.mark.parametrize("change", [{"data__split_seed": 3}, {"data__test": 0.4}])
def test_a_pack_of_several_catalogues_splits_as_its_folders_do(world, tmp_path, change):
    """A galaxy that another split holds out is not trained on by its copy in the extra folder."""
    extra = {"data__extra": str(world.parent / "extra")}
    packed = tiny.config(world, **extra)
    silent = gzjax.Report(loud=False)
    pack.pack(packed, tmp_path / "pack", cache=None, check_images=False, report=silent)
    options = {"data__kind": "pack", "data__tree": str(world / "toy.toml"), **change}
    data = data_of(tmp_path / "pack", **options)
    held_out = {data.ids[row] for name in ("validation", "test") for row in data.splits[name]}
    plain = data_of(world, **change)
    assert held_out == {
        plain.ids[row] for name in ("validation", "test") for row in plain.splits[name]
    }
    assert not held_out & {data.ids[row] for row in data.splits["train"]}
    assert (data.left_out["reason"] == "held out of the pack").any()
    # Beside another catalogue the pack's own extra one is still trained on only.
    both = ({"root": str(tmp_path / "pack"), "kind": "pack"}, {"root": str(world)})
    data = data_of(world, data__catalogues=both, **change)
    assert not held_out & {data.ids[row] for row in data.splits["train"]}


def test_fewer_training_galaxies_of_a_pack_are_those_of_its_folders(world, tmp_path):
    extra = {"data__extra": str(world.parent / "extra")}
    silent = gzjax.Report(loud=False)
    config = tiny.config(world, **extra)
    pack.pack(config, tmp_path / "pack", cache=None, check_images=False, report=silent)
    fewer = {"data__training_galaxies": 8}
    packed = {"data__kind": "pack", "data__tree": str(world / "toy.toml")}
    np.testing.assert_array_equal(
        data_of(tmp_path / "pack", **packed, **fewer).splits["train"],
        data_of(world, **extra, **fewer).splits["train"],
    )


def test_two_tables_of_one_folder_are_two_catalogues():
    assert galaxies.distinct_names(["a/b", "c/b"]) == ["a/b", "c/b"]
    assert galaxies.distinct_names(["a/b", "a/b"])[0].endswith("b (1)")
    assert len(set(galaxies.distinct_names(["a/b", "a/b", "c/b"]))) == 3


def test_a_pack_without_an_unreadable_galaxy_knows_where_its_catalogues_end(world, tmp_path):
    data = data_of(world, data__extra=str(world.parent / "extra"))

    class Broken(JoinedImages):
        def __getitem__(self, position):
            if position in (5, 50):
                raise OSError("gone")
            return super().__getitem__(position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing.catalogue, "MOST_LEFT_OUT", 0.1)
        packing.write(tmp_path / "pack", data._replace(images=Broken(data.images.parts)))
    after = data_of(tmp_path / "pack", data__kind="pack", data__tree=str(world / "toy.toml"))
    root, extra = after.members
    assert (root.first, root.stop, extra.first, extra.stop) == (0, 47, 47, len(data.ids) - 2)
    assert after.ids[46:48] == data.ids[47:49]
    assert set(after.ids[:47]) >= {after.ids[row] for row in after.splits["test"]}


def test_several_scored_catalogues_are_scored_apart(world, tmp_path):
    catalogues = ({"root": str(world)}, {"root": str(world.parent / "extra"), "weight": 0.5})
    options = {"data__catalogues": catalogues, "epochs": 1}
    data = data_of(world, **options)
    assert [member.weight for member in data.members] == [1.0, 0.5]
    for change in ({"weight": 2.0}, {"weight": 0.5, "scored": False}):
        other = (catalogues[0], catalogues[1] | change)
        assert (
            data_of(world, **options | {"data__catalogues": other}).fingerprint != data.fingerprint
        )
    assert all(member.scored for member in data.members)
    model = gzjax.train(tiny.config(world, **options), tmp_path / "run")
    result = gzjax.evaluate(model, data, views=1)
    assert list(result["catalogues"]) == ["root", "extra"]
    assert sum(one["galaxies"] for one in result["catalogues"].values()) == result["galaxies"]
    for member in data.members:
        rows = data.splits["test"]
        its = data.observed(rows[(rows >= member.first) & (rows < member.stop)])
        expected = metrics.baseline_rmse(data.training_mean, its)
        assert result["catalogues"][member.name]["baseline_rmse"] == pytest.approx(expected)
    rows = data.splits["test"]
    assert result["noise_floor"] == pytest.approx(votes.noise_floor(data.votes[rows], data.tree))
    rmse = [one["rmse"] for one in result["catalogues"].values()]
    assert min(rmse) < result["rmse"] < max(rmse)
    # A galaxy that is held out of one is held out of all.
    held_out = {data.ids[row] for name in ("validation", "test") for row in data.splits[name]}
    assert not held_out & {data.ids[row] for row in data.splits["train"]}


@pytest.mark.parametrize(
    ("catalogues", "message"),
    [
        (({"root": "x", "wieght": 2},), "catalogues[0]: expected some of root, kind, tree"),
        (({"root": "x", "weight": 0},), "catalogues[0]: weight: expected a number above 0"),
        (({"root": "x", "scored": False},), "catalogues: expected at least one that is scored"),
        (("x",), "catalogues: expected mappings such as {'root': FOLDER, 'tree': 'gz2'}"),
        (({"tree": "gz2"},), "catalogues[0]: root: expected the folder of a catalogue, found"),
        (({"root": 5},), "catalogues[0]: root: expected a folder, found 5"),
        (({"root": "x", "table": None},), "catalogues[0]: table: expected text, found None"),
    ],
)
def test_wrong_catalogues_are_named(world, catalogues, message):
    with pytest.raises(UserError) as raised:
        configs.typed(tiny.config(world, data__catalogues=catalogues))
    assert str(raised.value).startswith(f"--config.data.{message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data__kind": "sky", "data__root": "A"}, "root: expected none beside the sky"),
        ({"data__kind": "sky", "data__extra": "B"}, "extra: expected none beside the sky"),
        ({"data__root": "B", "data__catalogues": ({"root": "a"},)}, "root: expected none beside"),
        ({"data__kind": "sky", "data__catalogues": ({"root": "a"},)}, "catalogues: expected none"),
        ({"data__extra": "B", "data__catalogues": ({"root": "a"},)}, "extra: expected none beside"),
    ],
)
def test_options_that_exclude_each_other_are_named(world, options, message):
    with pytest.raises(UserError) as raised:
        configs.typed(tiny.config(world, **options))
    assert str(raised.value).startswith(f"--config.data.{message}")


def test_catalogues_need_no_root(world):
    catalogues = ({"root": str(world), "kind": "folder", "votes_per_galaxy": 10.0},)
    options = {"data__kind": "pack", "data__root": "", "data__catalogues": catalogues}
    data = data_of(world, **options)  # fmt: skip
    np.testing.assert_allclose(data.votes, data_of(world).votes / 4, rtol=1e-6)


def test_catalogues_of_one_name_are_scored_apart(world, tmp_path):
    shutil.copytree(world, tmp_path / "root")
    catalogues = ({"root": str(world)}, {"root": str(tmp_path / "root")})
    data = data_of(world, data__catalogues=catalogues)
    names = [member.name for member in data.members]
    assert names == [f"{world.parent.name}/root", f"{tmp_path.name}/root"]


def test_how_many_were_dropped_is_said(world):
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append
    options = configs.typed(tiny.config(world, data__extra=str(world.parent / "extra")))
    data = galaxies.build_data(options, galaxies.load_tree(options.data), None, False, report)
    dropped = int((data.left_out["reason"] == "held out of root").sum())
    assert said[-1].endswith(f"dropped, since another catalogue holds them out: {dropped}")


def test_a_pack_of_several_keeps_its_weights_among_others(world, tmp_path):
    extra = str(world.parent / "extra")
    report = gzjax.Report(loud=False)
    config = tiny.config(world, data__extra=extra, data__extra_weight=3.0)
    pack.pack(config, tmp_path / "pack", cache=None, check_images=False, report=report)
    catalogues = (
        {"root": str(tmp_path / "pack"), "kind": "pack", "weight": 2.0},
        {"root": extra, "weight": 0.5, "scored": False},
    )
    data = data_of(world, data__catalogues=catalogues)
    members = [(member.weight, member.scored) for member in data.members]
    assert members == [(2.0, True), (6.0, False), (0.5, False)]
    assert [member.first for member in data.members][1:] == [m.stop for m in data.members][:-1]
    assert data.members[-1].stop == len(data.ids)


def test_images_of_several_catalogues_are_all_known_by_their_files(world):
    """A pack notices by them that it is not of these any more."""
    paths = data_of(world, data__extra=str(world.parent / "extra")).images.paths
    assert {Path(path).parent.parent for path in paths} == {world, world.parent / "extra"}


def test_a_missing_extra_folder_is_named(world):
    with pytest.raises(UserError, match=r"^--config\.data\.extra: .*nowhere: no such folder"):
        data_of(world, data__extra="nowhere")


def test_union_of_trees_places_votes(world):
    """Galaxies of one campaign have no votes on the questions of another."""
    data = data_of(world)
    other = data._replace(tree=gzjax.load_tree("rings"), votes=np.float32([[3, 4]] * 48))
    tree = campaigns.union([data.tree, other.tree])
    member = dataset.Member("a", 0, 0)
    both = dataset.together([(data, member), (other, member._replace(name="b"))], tree)
    assert both.tree == tree
    assert np.isnan(both.votes[:48, 8:]).all()
    assert np.isnan(both.votes[48:, :8]).all()
    np.testing.assert_array_equal(both.votes[:48, :8], data.votes)
    np.testing.assert_array_equal(both.votes[48:, 8:], other.votes)
