import importlib.util
from pathlib import Path

import pytest

from gzjax import config as configs
from gzjax.errors import UserError

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_says_how_it_is_started(path):
    module = load(path)
    recipe = module.get_config()
    if recipe.data.kind == "folder":
        recipe.data.root = "somewhere"
    configs.check(recipe)
    assert "launch/run" in module.__doc__


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("seed", -1),
        ("data.crop", 1.5),
        ("data.kind", "disk"),
        ("model.name", "resnet"),
        ("views.rotate", 400.0),
        ("views.zoom", 0.5),
        ("loss.terms", ()),
        ("loss.terms", ("mse", "mse")),
        ("loss.weights", (1.0,)),
        ("loss.class_weights", (1.0, 2.0)),
        ("loss.decay", 1.0),
        ("optim.learning_rate", 0.0),
        ("optim.schedule", "linear"),
        ("checkpoint.keep", 0),
    ],
)
def test_what_is_not_allowed_is_named(option, value):
    recipe = configs.default()
    recipe.data.root = "somewhere"
    recipe.update_from_flattened_dict({option: value})
    with pytest.raises(UserError, match=f"--config.{option}: expected") as raised:
        configs.check(recipe)
    assert "found" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_all_fixed_weights_zero_is_refused():
    recipe = configs.default()
    recipe.data.root = "somewhere"
    recipe.loss.weighting = "fixed"
    recipe.loss.terms = ("kl",)
    recipe.loss.weights = (1.0, 1.0, 0.0)
    with pytest.raises(UserError, match="all of kl have weight 0"):
        configs.check(recipe)


@pytest.mark.parametrize("kind", ["folder", "pack"])
def test_data_on_disk_need_a_place(kind):
    recipe = configs.default()
    recipe.data.kind = kind
    with pytest.raises(UserError, match=r"--config\.data\.root: expected the folder"):
        configs.check(recipe)


def test_differences_know_what_may_change():
    before = configs.default().to_dict()
    now = configs.default()
    assert configs.differences(before, now) == {}
    now.epochs, now.log.every, now.data.root, now.data.kind = 99, 1, "moved", "pack"
    assert configs.differences(before, now) == {}
    now.model.name, now.data.split_seed = "efficientnet-b3", 5
    assert configs.differences(before, now) == {
        "data.split_seed": (0, 5),
        "model.name": ("efficientnet-b0", "efficientnet-b3"),
    }


def test_differences_survive_json_and_see_options_of_another_version():
    before = configs.default().to_dict()
    before["loss"]["terms"] = list(before["loss"]["terms"])
    del before["loss"]["gamma"]
    assert configs.differences(before, configs.default()) == {"loss.gamma": (None, 2.0)}


def test_a_run_from_before_an_option_goes_on(tmp_path):
    before = configs.default().to_dict()
    del before["loss"]["gamma"]
    configs.check_same_run(before, configs.default(), tmp_path)
    now = configs.default()
    now.loss.gamma = 3.0
    with pytest.raises(UserError, match=r"loss\.gamma was 2\.0, now 3\.0"):
        configs.check_same_run(before, now, tmp_path)
