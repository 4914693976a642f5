"""An exported model: opened again, as StableHLO and as ONNX; and what its card says."""

import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.export
import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import load_file

import gzjax
from gzjax import trees
from gzjax.data.framing import Framing
from gzjax.errors import UserError
from gzjax.models import Conventions, Weights, pretrained
from gzjax.run import build, checkpoint, export, exported, opened, recorder
from gzjax.run import config as configs
from gzjax.run.checkpoint import Best
from gzjax.run.galaxies import load_tree
from gzjax.run.origin import find_origin
from gzjax.run.places import without_places

# Real networks of two stages: traced in a second.
LITE = Conventions(mean=(0.4, 0.5, 0.6))
SCORES = {
    "split": "test", "step": 7, "views": 3, "networks": 1, "data": "real", "galaxies": 10,
    "training_galaxies": 29, "rmse": 0.1234, "rmse_interval": [0.11, 0.13],
    "baseline_rmse": 0.2345, "q1_accuracy": 0.75,
}  # fmt: skip


def best_of(world, **options):
    """The checkpoint of a run, with random weights and statistics."""
    config = tiny.config(world, evaluate__views=3, **options)
    typed = configs.typed(config)
    tree = load_tree(typed.data)
    network = build.build_network(typed, tree, LITE)
    generator = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) > 1:
            values = generator.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        else:
            values = generator.uniform(0.5, 1.5, leaf.shape)
        return values.astype(np.float32)

    shapes = jax.eval_shape(network.init, jax.random.key(0))
    weights = Weights(*jax.tree.map(draw, tuple(shapes)))
    about = {
        "config": config.to_dict(),
        "tree": tree.to_dict(),
        "conventions": LITE._asdict(),
        "data": {},
        "held_out": "0123",
        "label": "real galaxies",
    }
    raw = jax.tree.map(lambda array: array + 1, weights)  # before averaging
    return Best(7, json.loads(json.dumps(about)), raw, weights)


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        tiny.shorten(patch, "efficientnet-lite0")
        yield patch


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp("world") / "galaxies")


@pytest.fixture(scope="module")
def run(patched, galaxies, tmp_path_factory):
    """A workdir, whose model is trained by likelihood, and the folder of its export."""
    workdir = tmp_path_factory.mktemp("run")
    best = best_of(
        galaxies, model__name="efficientnet-lite0", loss__terms=("dirichlet",),
        loss__activation="softmax", data__crop=0.8,
    )  # fmt: skip
    patched.setattr(checkpoint, "read_best", lambda folder: best)
    (workdir / "evaluate_test_3_views.json").write_text(json.dumps(SCORES))
    recorder.write_temperatures(workdir, 7, {3: 1.7})
    output = workdir / "exported"
    gzjax.export(workdir, output)
    return workdir, output


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 255, (5, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(run, images):
    """What the run itself predicts: fractions, and the ends of the intervals."""
    model = gzjax.load(run[0])._replace(framing=Framing(1.0, 16))
    fractions = model.predict(images)[list(model.tree.columns)].to_numpy()
    assert model.temperature(3) == 1.7
    believed = model.posterior(images)
    assert np.ptp(fractions) > 0.3
    return fractions, *believed.interval(0.9)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_export_opens_like_the_run(run, galaxies):
    models = [gzjax.load(folder) for folder in run]
    assert models[0].identity == models[1].identity
    assert len(models[0].digest) == 16
    assert models[1].temperatures == {3: 1.7}
    assert models[1].raw is None
    assert jax.tree.structure(models[0].raw) == jax.tree.structure(models[0].weights)
    given = zip(*map(jax.tree.leaves, (models[0].raw, models[0].weights)), strict=True)
    assert all((raw != average).any() for raw, average in given)
    tables = [model.predict(galaxies / "images") for model in models]
    np.testing.assert_array_equal(*(table.to_numpy() for table in tables))
    features = [model.embed(galaxies / "images").features for model in models]
    np.testing.assert_array_equal(*features)


def test_stablehlo_gives_the_same(run, images, expected):
    made = jax.export.deserialize(bytearray((run[1] / "predict.stablehlo").read_bytes()))
    assert made.platforms == ("cpu", "cuda", "tpu")
    for number in (1, 5):
        found = made.call(images[:number])
        parts = [found[name] for name in ("fractions", "lower", "upper")]
        assert_same(parts, [each[:number] for each in expected])
    # On a GPU or TPU, convolutions are left to the libraries there.
    assert "feature_group_count = 32" in made.mlir_module()


def test_onnx_gives_the_same(run, images, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(run[1] / "predict.onnx")
    assert [each.name for each in session.get_outputs()] == ["fractions", "lower", "upper"]
    for number in (1, 5):
        found = session.run(None, {"images": images[:number]})
        assert_same(found, [each[:number] for each in expected])


def test_the_lines_of_the_card_run_without_jax(run, tmp_path):
    for needed in ("jax2onnx", "onnxruntime"):  # the lines are of the ONNX program
        pytest.importorskip(needed)
    workdir, folder = run[0], shutil.copytree(run[1], tmp_path / "exported")
    pixels = np.random.default_rng(2).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "galaxy.jpg", format="PNG")
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    blocked = "import sys; sys.modules.update(jax=None, gzjax=None, flax=None)\n"
    asked = "\nprint(json.dumps([fractions[0].tolist(), *(end[0].tolist() for end in interval)]))"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code + asked],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    named, found = done.stdout.splitlines()[-2:]
    assert "shape_round" in named
    model = gzjax.load(workdir)
    fractions = model.predict([str(folder / "galaxy.jpg")])[list(model.tree.columns)].to_numpy()
    believed = model.posterior([str(folder / "galaxy.jpg")]).interval(0.9)
    assert_same(json.loads(found), [fractions[0], *(end[0] for end in believed)])


def test_weights_are_named_as_timm_does(run):
    best, tensors = checkpoint.read_best(run[0]), load_file(run[1] / "model.safetensors")
    stem = best.average.params["stem"]["kernel"]
    np.testing.assert_array_equal(tensors["conv_stem.weight"], stem.transpose(3, 2, 0, 1))
    assert tensors["blocks.1.0.conv_pwl.weight"].shape == (24, 96, 1, 1)
    assert tensors["blocks.0.0.bn1.running_mean"].shape == (32,)
    assert tensors["classifier.weight"].shape == (8, tensors["conv_head.weight"].shape[0])
    described = json.loads((run[1] / "config.json").read_text())
    assert described["architecture"] == "tf_efficientnet_lite0"
    assert described["num_classes"] == 8
    # The file alone is a place to start from, too.
    published = pretrained.read(str(run[1] / "model.safetensors"), "efficientnet-lite0")
    assert published.conventions == LITE
    found = pretrained.convert(published, "efficientnet-lite0", best.average)
    jax.tree.map(np.testing.assert_array_equal, found, best.average)


def test_a_run_starts_from_an_export(run, galaxies):
    options = configs.typed(
        tiny.config(
            galaxies, model__name="efficientnet-lite0", loss__terms=("dirichlet",),
            loss__activation="softmax", model__weights=str(run[1]),
        )
    )  # fmt: skip
    origin = find_origin(options, load_tree(options.data))
    assert origin.conventions == LITE
    best = checkpoint.read_best(run[0])
    drawn = jax.tree.map(np.zeros_like, best.average)
    jax.tree.map(np.testing.assert_array_equal, origin.begin(drawn), best.average)


def test_the_tree_is_a_file_that_loads(run, gz2):
    # As a whole: its words and the survey's names for it, too, which two equal trees may differ in.
    assert trees.load(run[1] / "tree.toml").to_dict() == gzjax.load(run[0]).tree.to_dict()
    for name in trees.NAMES:
        tree = trees.load(name)
        again = trees.Tree.from_dict(trees.tomllib.loads(export.toml(tree)))
        assert again.to_dict() == tree.to_dict()


def test_the_card_says_what_a_score_needs(run):
    text = (run[1] / "README.md").read_text()
    row = "| test | 10 real | 3 | 0.1234 [0.1100, 0.1300] | 0.2345 | 75.0 % |"
    for part in (row, "central 80 %", "license:", "## Limits", "29 of them", "90 % intervals"):
        assert part in text
    assert "ynthetic" not in text


def test_the_hub_is_asked_for_what_gzjax_reads(run, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        if repository == "nobody/nothing":
            raise OSError("offline")
        return str(run[1])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert gzjax.load("hf://owner/name").identity == gzjax.load(run[1]).identity
    assert asked[0] == ("owner/name", ["*.json", "gzjax.safetensors"])
    with pytest.raises(UserError, match=r"hf://nobody/nothing: could not be fetched: offline"):
        gzjax.load("hf://nobody/nothing")


def test_an_export_of_the_hub_is_exported_again_and_stays_as_it_is(
    run, invoke, tmp_path, monkeypatch
):
    import huggingface_hub

    cached = shutil.copytree(run[1], tmp_path / "cached")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(cached))
    monkeypatch.setattr(export, "stablehlo", lambda *_: b"")
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    before = {file: file.stat().st_mtime_ns for file in cached.iterdir()}
    arguments = "--mode", "export", "--workdir", "hf://owner/name", "--output", tmp_path / "e"
    status, said, wrong = invoke(*arguments)
    assert (status, wrong) == (0, "")
    assert "predict.stablehlo" in said
    for name in ("gzjax.safetensors", "model.safetensors", "tree.toml", "config.json"):
        assert (tmp_path / "e" / name).read_bytes() == (run[1] / name).read_bytes()
    assert {file: file.stat().st_mtime_ns for file in cached.iterdir()} == before


def test_what_is_there_is_not_overwritten_and_damage_is_named(run, tmp_path):
    with pytest.raises(UserError, match="already there"):
        gzjax.export(*run)
    with pytest.raises(UserError, match="there is no folder"):
        gzjax.export(run[0], tmp_path / "no" / "folder")
    for name in (exported.CONFIG, exported.OURS):
        (tmp_path / name).write_bytes((run[1] / name).read_bytes())
    config = json.loads((tmp_path / exported.CONFIG).read_text())
    config["gzjax"]["format"] = 99
    (tmp_path / exported.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"format 1, found 99"):
        gzjax.load(tmp_path)
    (tmp_path / exported.CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config.json: expected what gzjax exports"):
        gzjax.load(tmp_path)


def test_places_on_this_machine_are_not_exported(run, galaxies):
    about = checkpoint.read_best(run[0]).about
    assert about["config"]["data"]["root"] == str(galaxies)
    for file in run[1].iterdir():
        content = file.read_bytes()
        assert str(galaxies.parent).encode() not in content, file.name
    kept = json.loads((run[1] / exported.CONFIG).read_text())["gzjax"]["about"]
    assert kept["config"]["data"]["root"] == galaxies.name
    assert kept["config"]["data"]["tree"] == "toy.toml"
    assert kept["tree"] == about["tree"]
    places = {"extra": "/a/b,c/d,/e/f/", "weights": "hf://a/b", "n": [1, None, "~/x", ("/y/z",)]}
    assert without_places(places) == {
        "extra": "b,c/d,f", "weights": "hf://a/b", "n": [1, None, "x", ["z"]],
    }  # fmt: skip
    assert without_places("/") == ""


def test_the_command_exports_what_the_function_does(run, invoke, tmp_path):
    status, said, wrong = invoke(
        "--mode", "export", "--workdir", run[0], "--output", tmp_path / "e", "--views", 2
    )
    assert (status, wrong) == (0, "")
    *skipped, made = said.splitlines()
    assert made.startswith(f"{tmp_path / 'e'}: README.md, config.json, ")
    assert ["jax2onnx" in line for line in skipped] == [True] * (find_spec("jax2onnx") is None)
    names = [{each.name for each in folder.iterdir()} for folder in (run[1], tmp_path / "e")]
    assert names[0] == names[1]
    assert json.loads((tmp_path / "e/config.json").read_text())["gzjax"]["views"] == 2
    again = "--mode", "export", "--workdir", run[0], "--output"
    for output, words in (
        (tmp_path / "e", "is already there"),
        (tmp_path / "no/e", "there is no folder"),
    ):
        status, _, wrong = invoke(*again, output)
        assert (status, wrong.count("\n")) == (2, 1)
        assert words in wrong
    other = invoke(*again, tmp_path / "f", "--config.data.canvas=20")
    assert other[0] == 2
    assert "data.canvas" in other[2]
    again = "--mode", "export", "--workdir", f"{run[0]},{run[0]}", "--output"
    two = invoke(*again, tmp_path / "f")
    assert two[0] == 2
    assert "--workdir: expected one run to export, found 2" in two[2]
    assert not (tmp_path / "f").exists()
    assert "needs --output" in invoke("--mode", "export", "--workdir", run[0])[2]


def test_predictions_are_explored_with_a_model_of_the_hub(run, invoke, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(run[1]))
    table = gzjax.load(run[1]).predict(np.zeros((3, 16, 16, 3), np.uint8))
    table.to_csv(tmp_path / "p.csv")
    explore = "--mode", "explore", "--predictions", tmp_path / "p.csv", "--output"
    status, said, wrong = invoke(*explore, tmp_path / "x.html", "--workdir", "hf://owner/name")
    assert (status, wrong) == (0, "")
    assert "3 galaxies, tree toy" in said
    both = "--workdir", f"{run[0]},{run[1]}"
    status, _, wrong = invoke(*explore, tmp_path / "y.html", *both)
    assert (status, wrong.count("\n")) == (2, 1)
    assert "--workdir: expected one run, whose tree the predictions have, found 2" in wrong
    assert not (tmp_path / "y.html").exists()


def test_programs_average_the_views_that_are_asked_for(run, tmp_path, monkeypatch):
    asked = []
    for name in ("stablehlo", "onnx"):
        monkeypatch.setattr(export, name, lambda _, views: asked.append(views) or b"")
    monkeypatch.setattr(export, "find_spec", lambda name: True)
    gzjax.export(run[0], tmp_path / "e", views=2)
    assert asked == [2, 2]


def test_without_jax2onnx_the_rest_is_written_and_it_is_said(
    run, galaxies, images, tmp_path, monkeypatch
):
    """Of a model without intervals, too, drawn ones: the card says so."""
    best = best_of(galaxies, model__name="efficientnet-nano")
    best.about["config"]["data"]["kind"] = "pack"  # of a sky
    best.about["label"] = "synthetic sky"
    monkeypatch.setattr(checkpoint, "read_best", lambda folder: best)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    said = []
    report = export.SILENT
    monkeypatch.setattr(report, "say", said.append)
    gzjax.export(tmp_path, tmp_path / "e", views=1, report=report)
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [
        "README.md", "config.json", "gzjax.safetensors", "model.safetensors", "predict.stablehlo",
        "tree.toml",
    ]  # fmt: skip
    assert "pip install 'gzjax[onnx]'" in said[0]
    text = (tmp_path / "e" / "README.md").read_text()
    assert "**Synthetic:**" in text
    assert "None were recorded" in text
    assert "onnx" not in text
    del best.about["label"]  # as of runs before it was recorded
    for kind, synthetic in (("sky", True), ("folder", False)):
        best.about["config"]["data"] |= {"kind": kind, "root": "" if synthetic else "galaxies"}
        model = opened.load(tmp_path, alone=True)
        assert ("**Synthetic:**" in export.card(model, 1, [], False)) == synthetic
    program = (tmp_path / "e" / "predict.stablehlo").read_bytes()
    found = jax.export.deserialize(bytearray(program)).call(images)
    assert list(found) == ["fractions"]
    model = gzjax.load(tmp_path / "e")._replace(framing=Framing(1.0, 16))
    expected = model.predict(images, views=1)[list(model.tree.columns)].to_numpy()
    assert_same([found["fractions"]], [expected])
    onnxruntime = pytest.importorskip("onnxruntime")
    made = export.onnx(gzjax.load(tmp_path / "e", depthwise="plain"), 1)
    session = onnxruntime.InferenceSession(made)
    assert_same(session.run(None, {"images": images}), [expected])


def test_a_model_of_bfloat16_is_float32_in_onnx(galaxies, images, tmp_path, monkeypatch):
    """ONNX Runtime has no convolutions of bfloat16 on a CPU."""
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    best = best_of(galaxies, model__name="efficientnet-nano", model__dtype="bfloat16")
    monkeypatch.setattr(checkpoint, "read_best", lambda folder: best)
    gzjax.export(tmp_path, tmp_path / "e", views=1)
    session = onnxruntime.InferenceSession(tmp_path / "e" / "predict.onnx")
    program = (tmp_path / "e" / "predict.stablehlo").read_bytes()
    found = jax.export.deserialize(bytearray(program)).call(images)
    np.testing.assert_allclose(
        session.run(None, {"images": images})[0], found["fractions"], atol=0.05
    )


def test_a_network_that_timm_does_not_know_is_exported_without_its_file(galaxies, tmp_path):
    best = best_of(galaxies, model__name="efficientnet-nano")
    best.about["config"]["model"]["name"] = "mine"
    exported.write(tmp_path, best, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "gzjax.safetensors"]
    assert exported.read(tmp_path).step == 7
