"""From a config to the parts of a run: every option arrives where it acts."""

import types

import numpy as np
import pytest
import tiny
from etils import epath

import gzjax
from gzjax.data import catalogue, dataset
from gzjax.models import Conventions, Weights, pretrained
from gzjax.run import build, galaxies, recipes
from gzjax.run import config as configs
from gzjax.run.origin import find_origin
from gzjax.run.report import SILENT


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp("world") / "galaxies")


def options_of(world, **options):
    return configs.typed(tiny.config(world, **options))


def test_the_network_is_built_as_the_options_say(world, monkeypatch):
    asked = {}
    monkeypatch.setattr(build.models, "build", lambda name, **rest: asked.update(rest, name=name))
    options = options_of(
        world, model__name="efficientnet-b0", model__image_size=24, model__dtype="bfloat16",
        model__stochastic_depth=0.25, model__norm_groups=2, optim__freeze=3,
    )  # fmt: skip
    conventions = Conventions(padding="tf")
    build.build_network(options, galaxies.load_tree(options.data), conventions)
    assert asked == {
        "name": "efficientnet-b0", "image_size": 24, "outputs": 8, "dtype": "bfloat16",
        "stochastic_depth": 0.25, "norm_groups": 2, "frozen": 3, "conventions": conventions,
        "folded": False, "depthwise": "auto",
    }  # fmt: skip


def test_the_model_predicts_as_the_options_say(world):
    options = options_of(
        world, loss__activation="softmax", loss__terms=("mse", "dirichlet"), evaluate__views=5,
        evaluate__views_at_once=2, views__field=0.7, views__zoom=1.3, data__crop=0.6,
        data__threads=2, data__processes=1,
    )  # fmt: skip
    tree = galaxies.load_tree(options.data)
    model = build.build_model(options, tree, None, None)
    assert (model.activation, model.has_intervals, model.views) == ("softmax", True, 5)
    views = model.test_views
    assert (views.field, views.zoom, views.at_once) == (0.7, 1.3, 2)
    assert views.piece == build.PIECE  # on a CPU
    assert (model.framing.crop, model.framing.canvas, model.image_size) == (0.6, 16, 16)
    assert tuple(model.reading) == (8, 2, 1)
    plain = options_of(world, loss__activation="softmax", loss__terms=("mse", "kl"))
    assert not build.build_model(plain, tree, None, None).has_intervals


@pytest.mark.parametrize("cache", [None, "gs://bucket/cache", "here"])
def test_skies_are_cached_on_this_machine(cache, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(dataset, "from_sky", lambda galaxies, **rest: asked.update(rest))
    options = configs.typed(recipes.recipe("sky"))
    tree = galaxies.load_tree(options.data)
    galaxies.build_data(options, tree, cache and epath.Path(cache), False, SILENT)
    expected = "here/sky" if cache == "here" else f"{tmp_path}/gzjax/sky"
    assert str(asked["cache"]) == expected


def test_galaxies_are_held_out_as_the_options_say(world):
    options = options_of(world, data__validation=0.3, data__test=0.1, data__split_seed=4)
    report = gzjax.Report(loud=False)
    data = galaxies.build_data(options, galaxies.load_tree(options.data), None, False, report)
    expected = catalogue.split(data.ids, 4, 0.3, 0.1)
    assert len(expected["validation"]) > len(expected["test"]) > 0
    for name, rows in expected.items():
        np.testing.assert_array_equal(data.splits[name], rows)


def test_a_sky_is_the_one_of_the_options(world, monkeypatch, tmp_path):
    asked = {}

    def from_sky(galaxies, **options):
        asked.update(options, galaxies=galaxies)

    monkeypatch.setattr(dataset, "from_sky", from_sky)
    options = options_of(world, data__kind="sky", data__galaxies=77, data__sky_seed=5)
    tree = galaxies.load_tree(options.data)
    galaxies.build_data(options, tree, tmp_path, False, gzjax.Report(loud=False))
    assert (asked["galaxies"], asked["sky_seed"], asked["tree"]) == (77, 5, tree)
    assert asked["cache"] == tmp_path / "sky"


def test_votes_are_read_as_the_options_say(world, monkeypatch):
    asked = {}

    def from_folder(root, **options):
        asked.update(options, root=root)
        return types.SimpleNamespace(about="as told")

    monkeypatch.setattr(dataset, "from_folder", from_folder)
    options = options_of(
        world, data__votes="weights", data__votes_per_galaxy=7.0, data__table="t.csv",
        data__images="there",
    )  # fmt: skip
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append
    galaxies.build_data(options, galaxies.load_tree(options.data), None, True, report)
    assert (asked["kind"], asked["votes_per_galaxy"], asked["decode"]) == ("weights", 7.0, True)
    assert (asked["table"], asked["images"], asked["root"]) == ("t.csv", "there", world)
    assert said == [f"{world}: as told"]


def test_public_weights_lend_no_outputs(world, monkeypatch):
    asked = {}
    published = types.SimpleNamespace(conventions=Conventions(padding="tf"))
    monkeypatch.setattr(pretrained, "read", lambda *args: published)
    monkeypatch.setattr(
        pretrained, "convert", lambda *args, **options: asked.update(options, args=args)
    )
    options = options_of(world, model__weights="some.safetensors")
    origin = find_origin(options, galaxies.load_tree(options.data))
    drawn = Weights({}, {})
    origin.begin(drawn)
    assert origin.conventions == published.conventions
    assert asked == {"args": (published, "efficientnet-nano", drawn), "keep": ("classifier",)}
