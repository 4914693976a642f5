import dataclasses
import inspect
import json

import pytest

from gzjax.errors import UserError
from gzjax.run import config as configs
from gzjax.run import recipes


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_valid_and_says_how_it_is_started(name):
    file = recipes.find(name)
    recipe = recipes.recipe(file)
    if recipe.data.kind == "folder":
        recipe.data.root = "somewhere"
    configs.typed(recipe)
    assert "launch/run" in file.read_text().split('"""')[1]


def sky():
    config = configs.default()
    config.data.kind = "sky"
    return config


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("seed", -1),
        ("data.crop", 1.5),
        ("data.kind", "disk"),
        ("data.test", 0.41),
        ("data.test", 0.0),
        ("data.validation", 0.0),
        ("data.validation", 0.41),
        ("data.split_seed", -1),
        ("data.split_seed", 2**32),
        ("data.split_seed", True),
        ("model.name", "resnet"),
        ("views.rotate", 400.0),
        ("views.zoom", 0.5),
        ("loss.terms", ()),
        ("loss.terms", ("mse", "mse")),
        ("loss.weights", (1.0,)),
        ("loss.weights", ("a", "b", "c")),
        ("loss.class_weights", (-1.0, 2.0, 1.0)),
        ("loss.decay", 1.0),
        ("optim.learning_rate", 0.0),
        ("optim.learning_rate", float("inf")),
        ("optim.schedule", "linear"),
        ("checkpoint.keep", 0),
        ("average.decay", 1.0),
        ("evaluate.views", 0),
        ("log.every", 0),
    ],
)
def test_what_is_not_allowed_is_named(option, value):
    config = sky()
    with config.ignore_type():
        config.update_from_flattened_dict({option: value})
    with pytest.raises(UserError, match=f"^--config.{option}: expected") as raised:
        configs.typed(config)
    assert "found" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_option_arrives_where_it_belongs():
    options = configs.typed(sky())
    for group in configs.Options._fields:
        settings = getattr(options, group)
        for field in dataclasses.fields(settings):
            option = field.name if group == "run" else f"{group}.{field.name}"
            found = dict(configs.flatten(sky()))[option]
            assert getattr(settings, field.name) == found


def test_every_option_is_explained():
    for group in configs.GROUPS:
        for field in dataclasses.fields(configs.TYPES[group]):
            assert f"{field.name}:" in inspect.getdoc(configs.TYPES[group]), (group, field.name)


def test_a_misspelt_option_of_a_recipe_is_an_error():
    config = sky()
    with pytest.raises(AttributeError, match="lerning_rate"):
        config.optim.lerning_rate = 1.0
    with pytest.raises(AttributeError, match="epoch"):
        config.epoch = 3
    with config.unlocked():
        config.optim.lerning_rate = 1.0
    with pytest.raises(UserError, match=r"no option 'optim.lerning_rate'; did you mean 'optim.lea"):
        configs.typed(config)
    with config.unlocked():
        del config.optim["lerning_rate"], config.optim["warmup"]
    with pytest.raises(UserError, match=r"the option 'optim.warmup' is missing"):
        configs.typed(config)


@pytest.mark.parametrize("kind", ["folder", "pack"])
def test_data_on_disk_need_a_place(kind):
    config = configs.default()
    config.data.kind = kind
    with pytest.raises(UserError, match=r"--config\.data\.root: expected the folder"):
        configs.typed(config)


def test_differences_know_what_may_change():
    before, now = sky().to_dict(), sky()
    assert configs.differences(before, now) == {}
    now.epochs, now.log.every, now.data.root, now.data.kind = 99, 1, "moved", "pack"
    now.data.tree, now.evaluate.views, now.checkpoint.keep = "other.toml", 3, 9
    assert configs.differences(before, now) == {}
    now.model.name, now.data.split_seed, now.seed = "efficientnet-b3", 5, 2
    now.optim.weight_decay = 0.5
    assert configs.differences(before, now) == {
        "data.split_seed": (0, 5),
        "model.name": ("efficientnet-b0", "efficientnet-b3"),
        "optim.weight_decay": (0.01, 0.5),
        "seed": (0, 2),
    }


def test_differences_survive_json_and_see_options_of_another_version():
    before = sky().to_dict()
    before["loss"]["terms"] = list(before["loss"]["terms"])
    del before["loss"]["gamma"]
    assert configs.differences(before, sky()) == {"loss.gamma": (None, 2.0)}


def test_fits_files_to_predict_may_be_others_than_those_to_train_on(tmp_path):
    before, now = sky().to_dict(), sky()
    now.fits.bands = "0,1,2"
    configs.check_same_run(before, now, tmp_path, resumes=False)
    with pytest.raises(UserError, match=r"fits\.bands was 'auto', now '0,1,2'"):
        configs.check_same_run(before, now, tmp_path)
    now.data.crop = 0.3
    with pytest.raises(UserError, match=r"different options: data\.crop was"):
        configs.check_same_run(before, now, tmp_path, resumes=False)


def test_a_run_from_before_a_loss_term_is_the_same():
    before = json.loads(json.dumps(configs.default().to_dict()))
    before["loss"]["weights"] = [1.0, 3.0]
    now = configs.with_defaults(before)
    assert now.loss.weights == (1.0, 3.0, *configs.default().loss.weights[2:])
    assert configs.differences(now, now) == {}
    configs.check_same_run(before, now, "w")


def test_a_run_from_before_an_option_resumes(tmp_path):
    before = sky().to_dict()
    del before["loss"]["gamma"]
    configs.check_same_run(before, sky(), tmp_path)
    now = sky()
    now.loss.gamma = 3.0
    with pytest.raises(UserError, match=r"loss\.gamma was 2\.0, now 3\.0"):
        configs.check_same_run(before, now, tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def get_config(:", "line 1: "),
        ("x = 1\n\nraise ValueError('no\\nway')", "line 3: ValueError: no way"),
        ("import nowhere", "line 1: ModuleNotFoundError"),
        ("x = 1", "expected a function get_config that returns a config"),
        ("def get_config(): return 3", "expected a function get_config that returns a config"),
        (
            "from gzjax.run.config import default\n\n\ndef get_config():\n"
            "    config = default()\n    config.epoch = 3\n    return config",
            "line 6: AttributeError",
        ),
    ],
)
def test_recipes_that_cannot_be_run_are_named(tmp_path, text, expected):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=r"mine.py: ") as raised:
        recipes.recipe(tmp_path / "mine.py")
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_recipes_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert set(recipes.names()) >= {"sky", "gz2", "seed", "test"}
    assert recipes.find("sky") == recipes.FOLDER / "sky.py"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("")
    assert recipes.find("~/mine.py") == tmp_path / "mine.py"
    with pytest.raises(UserError, match=r"skye: no such recipe; .*did you mean 'sky'"):
        recipes.find("skye")
    with pytest.raises(UserError, match=r"configs/none.py: no such recipe"):
        recipes.find("configs/none.py")
