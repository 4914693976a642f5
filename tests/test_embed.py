"""Embeddings: written in parts, compared exactly, and worth comparing."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as pq
import pytest
import tiny
from PIL import Image

import gzjax
from gzjax import augment, models, steps
from gzjax import tree as trees
from gzjax.data import dataset, embeddings, images
from gzjax.data.framing import Framing
from gzjax.errors import UserError
from gzjax.run import build, embed, galaxies, parts
from gzjax.run import config as configs


@pytest.fixture(scope="module")
def model(world):
    """A model that has not learnt anything."""
    typed = configs.typed(tiny.config(world, evaluate__views=4))
    tree = galaxies.load_tree(typed.data)
    network = build.build_network(typed, tree, None)
    made = build.build_model(typed, tree, network, build.place(typed, training=False))
    return made._replace(weights=network.init(jax.random.key(1)), about={"config": {"seed": 1}})


@pytest.fixture(scope="module")
def written(world, model, tmp_path_factory):
    """Embeddings of the world, a file."""
    output = tmp_path_factory.mktemp("embeddings") / "e.parquet"
    embed.embed_to_file(model, str(world / "images"), output, size=20)
    return output


def test_shares_of_several_processes_are_one_file(world, model, written, tmp_path):
    output = tmp_path / "e.parquet"
    for share in ((2, 2), (1, 2)):
        assert not output.exists()
        embed.embed_to_file(model, str(world / "images"), output, size=20, share=share)
    assert output.read_bytes() == written.read_bytes()


def file_of(path, features, ids=None):
    """Embeddings on disk."""
    ids = [str(n) for n in range(len(features))] if ids is None else ids
    some = embeddings.table(ids, features.astype(np.float16), [""] * len(ids))
    parts.write_parquet([some.drop_columns("fault")], path, embeddings.metadata({}))
    return path


def test_embeddings_may_come_from_pandas(tmp_path):
    """Filtered by another table, for example; its lists may be of any length."""
    features = np.random.default_rng(0).normal(size=(9, 4))
    file = file_of(tmp_path / "e.parquet", features)
    pd.read_parquet(file).to_parquet(tmp_path / "p.parquet")
    for read in (embeddings.raw_blocks, embeddings.blocks):
        for own, its in zip(read(file), read(tmp_path / "p.parquet"), strict=True):
            np.testing.assert_array_equal(own, its)
    ids = ["7", "none", "2"]
    np.testing.assert_array_equal(
        embeddings.read_of(tmp_path / "p.parquet", ids), embeddings.read_of(file, ids)
    )
    np.testing.assert_array_equal(
        embeddings.read_row(tmp_path / "p.parquet", 5), embeddings.read_row(file, 5)
    )
    ragged = pyarrow.table({"GalaxyID": ["a", "b"], "features": [[1.0, 2.0], [3.0]]})
    pq.write_table(ragged, tmp_path / "r.parquet")
    with pytest.raises(UserError, match=r"r\.parquet: features: .* of one length, found \[2, 1\]"):
        list(embeddings.blocks(tmp_path / "r.parquet"))
    pq.write_table(pq.read_table(tmp_path / "p.parquet")[:0], tmp_path / "none.parquet")
    assert sum(map(len, embeddings.blocks(tmp_path / "none.parquet"))) == 0


def test_features_that_are_no_numbers_are_named(tmp_path):
    """As `model.embed` gives of an image that cannot be read."""
    features = np.ones((9, 4))
    features[6, 1] = np.nan
    file = file_of(tmp_path / "e.parquet", features)
    for compare in (lambda: embed.anomalies(file, 2), lambda: embed.similar("0", file, 3)):
        with pytest.raises(UserError, match=r"e\.parquet: row 7: expected features, found NaN"):
            compare()


def cosines(features):
    """float64[n, n]: by brute force, of what is on disk."""
    features = features.astype(np.float16).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features @ features.T


def blobs(number=60, width=5, seed=0):
    """float64[number, width]: a few groups of vectors."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(4, width))[np.arange(number) % 4] + 0.3 * generator.normal(
        size=(number, width)
    )


def test_outputs_are_linear_in_features_of_every_network():
    """Of a real one, and of that of these tests."""
    real = models.build("efficientnet-nano", outputs=3, image_size=32)
    for network in (real, tiny.network(outputs=3)):
        shapes = jax.eval_shape(network.init, jax.random.key(0))
        weights = jax.tree.map(
            lambda leaf: np.random.default_rng(leaf.size).uniform(0, 1, leaf.shape), shapes
        )

        @jax.jit
        def both(pictures, network=network, weights=weights):
            outputs, _ = network.apply(*weights, pictures, train=False)
            return network.features(*weights, pictures), outputs

        features, outputs = both(jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)))
        assert features.dtype == np.float32
        last = weights.params["classifier"]
        np.testing.assert_allclose(features @ last["kernel"] + last["bias"], outputs, rtol=1e-4)
        assert features.shape == (2, len(last["kernel"]))


def test_views_are_averaged(model):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    canvases = jnp.asarray(pixels)
    views = augment.TestViews(field=0.9, zoom=1.2, at_once=2)
    options = {"network": model.network, "image_size": 16, "test_views": views}
    found = steps.embed_step(model.weights, {"image": canvases}, **options, views=5)
    maps = augment.grid_maps(5, 0.9, 1.2)
    widest = float(np.hypot(maps[:, 0, 0], maps[:, 0, 1]).max())
    seen = [augment.mapped(canvases, jnp.stack([one] * 3), 16, widest) for one in jnp.asarray(maps)]
    expected = np.mean([model.network.features(*model.weights, each) for each in seen], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_notebook_gets_what_the_file_holds(world, model, written):
    found = model.embed(world / "images")
    assert found.ids == [str(1000 + 7 * n) for n in range(tiny.GALAXIES)]
    assert found.features.dtype == np.float16
    assert found.features.shape == (tiny.GALAXIES, 6)
    assert found.faults == [""] * tiny.GALAXIES
    table = pq.read_table(written)
    assert table.schema.field("features").type.list_size == 6
    assert str(table.schema.field("features").type.value_type) == "halffloat"
    assert table["GalaxyID"].to_pylist() == found.ids
    np.testing.assert_array_equal(np.array(table["features"].to_pylist()), found.features)
    assert json.loads(table.schema.metadata[b"gzjax"]) == {
        "network": model.identity, "views": 4, "framing": str(model.framing)
    }  # fmt: skip
    one = model.embed(world / "images", views=1)
    assert (one.features != found.features).any()
    assert pq.read_metadata(written).num_row_groups == 3
    assert [path.name for path in written.parent.iterdir()] == ["e.parquet"]
    with pytest.raises(UserError, match="views: expected 1 or more, found 0"):
        model.embed(world / "images", views=0)


def test_predictions_are_of_these_features(world, model):
    """Average outputs of all views, before anything that is not linear."""
    seen = model.embed(world / "images", views=1).features.astype(np.float32)
    last = model.weights.params["classifier"]
    outputs = seen @ last["kernel"] + last["bias"]
    expected = trees.fractions(outputs, model.tree, model.activation)
    found = model.predict(world / "images", views=1)[tiny.COLUMNS]
    np.testing.assert_allclose(found, expected, atol=4e-3)


def test_an_interrupted_file_resumes_with_what_is_missing(
    world, model, written, tmp_path, monkeypatch, capsys
):
    def embed_all(views=4):
        embed.embed_to_file(
            model, str(world / "images"), tmp_path / "e.parquet",
            views=views, report=gzjax.Report(), size=20,
        )  # fmt: skip

    read, left, again = images.read_image, iter(range(33)), []

    def failing(file, framing):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(file, framing)

    def counted(file, framing):
        again.append(file)
        return read(file, framing)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read_image", failing)
        with pytest.raises(BaseException):  # noqa: B017, PT011
            embed_all()
    assert len(list((tmp_path / "e.parquet.parts").glob("*.parquet"))) == 1
    with pytest.raises(UserError, match="was left by a command with different views;"):
        embed_all(views=1)
    other = tmp_path / "moved"
    shutil.copytree(world / "images", other)
    smaller = model._replace(framing=model.framing._replace(crop=0.9))
    for changed, network, images_ in (
        ("network", model._replace(step=9), world / "images"),
        ("framing", smaller, world / "images"),
        ("images", model, other),
    ):
        with pytest.raises(UserError, match=f"was left by a command with different {changed};"):
            embed.embed_to_file(
                network, str(images_), tmp_path / "e.parquet", views=4, size=20,
            )  # fmt: skip
    capsys.readouterr()
    monkeypatch.setattr(images, "read_image", counted)
    embed_all()
    assert "resuming after 20 images that are done" in capsys.readouterr().out
    everything = sorted(str(path) for path in (world / "images").iterdir())
    assert sorted({str(file) for file in again}) == everything[20:]
    assert (tmp_path / "e.parquet").read_bytes() == written.read_bytes()
    assert not (tmp_path / "e.parquet.parts").exists()


def test_bad_files_are_listed_with_a_reason(world, model, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(world / "images", folder)
    (folder / "1007.png").write_text("no image")
    Image.new("RGB", (3, 400)).save(folder / "1021.png")
    seen = model.embed(folder)
    assert [seen.ids[n] for n, fault in enumerate(seen.faults) if fault] == ["1007", "1021"]
    broken = np.array([bool(fault) for fault in seen.faults])
    np.testing.assert_array_equal(np.isnan(seen.features).all(axis=1), broken)
    assert not np.isnan(seen.features[~broken]).any()
    output = tmp_path / "e.parquet"
    embed.embed_to_file(model, str(folder), output, size=9)
    assert embeddings.read_ids(output) == [n for n in seen.ids if n not in ("1007", "1021")]
    listed = pd.read_csv(tmp_path / "e.parquet.unreadable.csv", dtype=str)
    assert listed["GalaxyID"].tolist() == ["1007", "1021"]
    assert listed["fault"][1].startswith("too small")
    with pytest.raises(UserError, match=r"output \S*e\.csv: expected a name that ends with \.pa"):
        embed.embed_to_file(model, str(folder), tmp_path / "e.csv")


@pytest.mark.parametrize("block", [7, 4096])
def test_the_nearest_are_those_of_brute_force(tmp_path, monkeypatch, block):
    monkeypatch.setattr(embeddings, "BLOCK", block)
    features = blobs()
    file = file_of(tmp_path / "e.parquet", features)
    expected = cosines(features)
    order = np.argsort(-expected, axis=1, kind="stable")
    for query in ("0", "13", "59"):
        found = embed.similar(query, file, k=9)
        assert found["GalaxyID"].tolist() == [str(n) for n in order[int(query), :9]]
        assert found["GalaxyID"][0] == query
        np.testing.assert_allclose(
            found["similarity"], np.sort(expected[int(query)])[::-1][:9], atol=1e-5
        )
    assert len(embed.similar("3", file, k=1000)) == 60
    for k in (1, 5, 59):
        scores = embed.anomalies(file, k)
        others = [np.delete(row, n) for n, row in enumerate(expected)]
        kth = np.array([1 - np.sort(row)[::-1][k - 1] for row in others])
        by_id = scores.set_index("GalaxyID")["distance"].loc[[str(n) for n in range(60)]]
        np.testing.assert_allclose(by_id, kth, atol=1e-5)
        assert scores["distance"].is_monotonic_decreasing


def test_row_groups_may_be_smaller_or_larger_than_blocks(tmp_path, monkeypatch):
    features = blobs(50)
    file = file_of(tmp_path / "e.parquet", features)
    table = pq.read_table(file)
    pq.write_table(table, tmp_path / "small.parquet", row_group_size=3)
    expected = embed.similar("17", file, 8)
    for block in (1, 5, 20):
        monkeypatch.setattr(embeddings, "BLOCK", block)
        for name in ("e.parquet", "small.parquet"):
            assert sum(map(len, embeddings.blocks(tmp_path / name))) == 50
            found = embed.similar("17", tmp_path / name, 8)
            pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    for row in range(50):  # in whatever row group
        alone = embeddings.read_row(tmp_path / "small.parquet", row)
        np.testing.assert_allclose(
            alone[0], features[row] / np.linalg.norm(features[row]), atol=1e-3
        )


def test_a_file_is_read_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 100)
    table = pq.read_table(file_of(tmp_path / "e.parquet", np.ones((3000, 1024))))
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=100, use_dictionary=False)
    del table
    before, most = pyarrow.total_allocated_bytes(), 0
    for _ in embeddings.blocks(tmp_path / "groups.parquet"):
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert 0 < most < 3000 * 1024 * 2 / 4


def test_copies_and_zeros_are_no_surprise(tmp_path):
    features = blobs(8)
    features[5] = features[1]
    features[6] = 3 * features[1]
    features[7] = 0
    file = file_of(tmp_path / "e.parquet", features)
    for query in ("1", "5", "6", "7"):
        found = embed.similar(query, file, 8)
        assert found["GalaxyID"][0] == query
    assert {*embed.similar("5", file, 3)["GalaxyID"]} == {"1", "5", "6"}
    scores = embed.anomalies(file, 2).set_index("GalaxyID")["distance"]
    assert scores["7"] == 1  # at a right angle to all
    assert scores.loc[["1", "5", "6"]].max() < 1e-3


def test_an_odd_one_stands_alone(tmp_path):
    features = np.abs(np.random.default_rng(0).normal(5, 1, (40, 6)))
    features[22] *= [-1, 1, -1, 1, -1, 1]
    scores = embed.anomalies(file_of(tmp_path / "e.parquet", features), 3)
    assert scores["GalaxyID"][0] == "22"
    assert scores["distance"][0] > 5 * scores["distance"][1]


def test_an_image_finds_its_galaxy(world, model, written, tmp_path):
    shutil.copy(world / "images" / "1035.png", tmp_path / "new.png")
    # By as many views as those that it is compared with, whatever the recipe says.
    found = embed.similar(str(tmp_path / "new.png"), written, 3, model._replace(views=1))
    assert found["GalaxyID"][0] == "1035"
    assert found["similarity"][0] == pytest.approx(1, abs=2e-6)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image"):
        embed.similar(str(tmp_path / "bad.png"), written, 3, model)
    other = model._replace(step=9, name="runs/other")
    for one, said in ((None, "found none"), (other, "found runs/other, another one")):
        with pytest.raises(UserError, match=f"expected the run that .*e.parquet is of, {said}"):
            embed.similar(str(tmp_path / "new.png"), written, 3, one)
    fits = model.framing.fits
    other = model._replace(framing=model.framing._replace(fits=dataclasses.replace(fits, low=9.0)))
    with pytest.raises(UserError, match=r"query: expected the options fits\.\* with wh"):
        embed.similar(str(tmp_path / "new.png"), written, 3, other)


def test_mistakes_are_said_in_one_line(written, tmp_path):
    file_of(tmp_path / "few.parquet", blobs(5))
    pd.DataFrame({"GalaxyID": ["1"], "smooth": [0.5]}).to_parquet(tmp_path / "votes.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    for act, expected in (
        (lambda: embed.similar("nobody", written), "query: expected a GalaxyID in .*'nobody'"),
        (lambda: embed.similar("1000", written, 0), "k: expected 1 or more, found 0"),
        (
            lambda: embed.anomalies(tmp_path / "few.parquet", 5),
            "k: .* fewer than the 5 galaxies, found 5",
        ),
        (lambda: embed.anomalies(tmp_path / "few.parquet", 0), "k: expected 1 or more, .* found 0"),
        (lambda: embed.anomalies(tmp_path / "gone.parquet"), "no such file; expected what --mode"),
        (lambda: embed.anomalies(tmp_path / "text.parquet"), "not readable as embeddings"),
        (lambda: embed.similar("1", tmp_path / "votes.parquet"), "features, .* found GalaxyID, sm"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            act()
        assert "\n" not in str(raised.value)


def test_tables_are_csv_or_parquet(tmp_path):
    table = pd.DataFrame({"GalaxyID": ["007"], "similarity": np.float32([0.123456789])})
    parts.write_table(table, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text() == "GalaxyID,similarity\n007,0.123457\n"
    parts.write_table(table, tmp_path / "s.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), table)


def test_neighbours_in_the_sky_agree_on_votes_better_than_chance(cache, tmp_path):
    """By nothing more than pixels: colours of the whole, and light in rings."""
    tree = trees.load("gz2")
    data = dataset.from_sky(
        64, tree=tree, sky_seed=0, framing=Framing(1.0, 32), cache=cache / "sky",
        split=dataset.Split(),
    )  # fmt: skip
    pixels = np.stack([data.images[n] for n in range(64)]).astype(np.float64)
    y, x = np.mgrid[:32, :32] - 15.5
    rings = (np.hypot(x, y) / 3).astype(int).ravel()
    light = pixels.reshape(64, -1, 3)
    features = np.stack([light[:, rings == ring].mean(axis=1) for ring in range(6)], axis=1)
    features = features.reshape(64, -1)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    file = file_of(tmp_path / "e.parquet", features, list(data.ids))
    observed = data.observed(np.arange(64))[:, :3]
    near, chance = [], []
    for row, name in enumerate(data.ids):
        others = [int(n) for n in embed.similar(name, file, 6)["GalaxyID"][1:]]
        near.append(observed[others].mean(axis=0) - observed[row])
        chance.append(np.delete(observed, row, axis=0).mean(axis=0) - observed[row])
    near, chance = (np.sqrt(np.mean(np.square(each))) for each in (near, chance))
    assert near < 0.85 * chance
