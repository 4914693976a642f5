import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from absl import flags

from gzjax.bench import ablation
from gzjax.bench.ablation import Run
from gzjax.errors import UserError
from gzjax.run import recorder


def finish(workdir, validation, test, name="recipe", seed=0, views=(1, 16)):
    """What a finished run leaves behind, as far as the report reads it."""
    workdir.mkdir(parents=True)
    for split, rmse in (("validation", validation), ("test", test)):
        for number in views:
            result = {
                "split": split,
                "views": number,
                "rmse": rmse - 0.001 * (number > 1),
                "raw_rmse": rmse + 0.002,
                "baseline_rmse": 0.16 if split == "validation" else 0.17,
                "galaxies": 300,
                "training_galaxies": 4000,
                "data": "synthetic sky",
            }
            file = workdir / f"{recorder.result_name(result)}.json"
            file.write_text(json.dumps(result))
    return Run(name, seed, {}, workdir)


def test_the_power_law_is_found():
    sizes = [500, 1000, 2000, 4000]
    a, b = ablation.fit_power_law(sizes, [0.3 * n**-0.12 for n in sizes])
    assert a == pytest.approx(0.3)
    assert b == pytest.approx(0.12)


def test_the_page_says_what_was_found(tmp_path):
    runs = []
    for variant in ablation.VARIANTS:
        worse = 0.0 if variant.name == "recipe" else 0.01
        for seed in range(2):
            workdir = tmp_path / f"{variant.name}_{seed}"
            scores = 0.100 + 0.002 * seed + worse, 0.09 + worse
            runs.append(finish(workdir, *scores, variant.name, seed))
    for size in ablation.SIZES:
        scores = 0.1, 0.089 * (size / 4000) ** -0.1 + 0.001
        runs.append(finish(tmp_path / f"{size}_0", *scores, str(size)))
    page = ablation.write_report(runs, "Command: `x`")
    row = "| the recipe itself | recipe | 0.1010 ± 0.0014 |  | 0.1000 ± 0.0014 | 0.0890 ± 0.0000 |"
    assert row in page
    # Paired by seed, the difference has no scatter.
    assert "| tree head | relu | 0.1110 ± 0.0014 | +0.0100 ± 0.0000 |" in page
    assert "| weights | as they are after the last step | 0.1030 ± 0.0014 | +0.0020" in page
    assert "| views | 16 | 0.1000 ± 0.0014 | -0.0010 ± 0.0000 |" in page
    assert "| 500 | 0.1096 |" in page
    assert "synthetic sky" in page
    assert "over 2 seeds" in page
    (extrapolated,) = re.findall(r"that says (\d\.\d+), an extrapolation", page)
    assert float(extrapolated) == pytest.approx(0.089 * (55_420 / 4000) ** -0.1, abs=1e-4)
    assert "predicting the training mean scores 0.1600. Test: 300 galaxies, 0.1700" in page


def test_two_numbers_of_galaxies_make_no_law(tmp_path):
    runs = [
        finish(tmp_path / "recipe_0", 0.1, 0.09),
        finish(tmp_path / "500_0", 0.12, 0.11, "500"),
    ]
    page = ablation.write_report(runs, "Command: `x`")
    assert "| 500 | 0.1090 |" in page
    assert "Fitted" not in page


def test_runs_that_are_not_done_do_not_count_and_seeds_are_paired(tmp_path):
    runs = [
        finish(tmp_path / f"{name}_{seed}", rmse, 0.3, name, seed)
        for name, seed, rmse in (("a", 0, 0.1), ("a", 1, 0.2), ("b", 1, 0.25))
    ]
    # An empty file, as a full disk left it, is no result.
    (tmp_path / "a_0" / "evaluate_test_16_views.json").write_text("")
    assert [run.is_done for run in runs] == [False, True, True]
    scores = ablation.scores_of(runs)["validation", 1]
    assert scores.to_dict() == {("a", 1): 0.2, ("b", 1): 0.25}
    assert ablation.shown(scores["b"] - scores["a"], "+") == "+0.0500"


def test_a_finished_run_is_not_taken_for_one_with_other_options(tmp_path):
    finish(tmp_path / "recipe_0", 0.1, 0.1)
    (tmp_path / "recipe_0" / "ablation.json").write_text(json.dumps({"epochs": 4}))
    Run("recipe", 0, {"epochs": 4}, tmp_path / "recipe_0").train()
    with pytest.raises(UserError, match=r"a run with other options \(epochs, seed\); name another"):
        Run("recipe", 0, {"epochs": 5, "seed": 0}, tmp_path / "recipe_0").train()


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("raise SystemExit(3)", "training ended with status 3"),
        ("pass", "training was stopped; the same command resumes"),
    ],
)
def test_a_run_that_did_not_end_is_said(tmp_path, monkeypatch, program, expected):
    started = []

    def run(command, env, check):
        started.append(command)
        return SimpleNamespace(returncode=3 if "3" in program else 0)

    monkeypatch.setattr(ablation.subprocess, "run", run)
    with pytest.raises(UserError, match=expected):
        Run("relu", 1, {"seed": 1}, tmp_path / "relu_1").train()
    assert started[0][1:3] == ["-m", "gzjax.main"]
    assert started[0][-1] == "--config.seed=1"
    assert json.loads((tmp_path / "relu_1" / "ablation.json").read_text()) == {"seed": 1}


def options(**given):
    defaults = {
        "data": None, "workdir": "runs", "report": "docs/ablation.md", "seeds": 1,
        "image_size": 16, "epochs": 1, "only": [], "share": "1/1", "only_report": False,
    }  # fmt: skip
    return SimpleNamespace(**defaults | given)


@pytest.mark.parametrize(
    ("given", "arguments", "expected"),
    [
        ({}, [], "expected --data"),
        ({"data": "x", "report": "no-folder/x.md"}, [], "--report no-folder/x.md: there is no"),
        ({"data": "x"}, ["epochs"], "expected OPTION=VALUE, found epochs"),
        ({"data": "x"}, ["evaluate.views=8"], "evaluate.views: the table is of 16 views"),
        ({"data": "x", "share": "3/2"}, [], "--share: expected such as 2/8"),
        ({"data": "no-folder"}, [], "no-folder"),
    ],
)
def test_a_mistake_is_said_before_any_training(tmp_path, monkeypatch, given, arguments, expected):
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(UserError, match=re.escape(expected)):
        ablation.run(arguments, options(workdir=str(tmp_path / "runs"), **given))
    assert not (tmp_path / "runs").exists()


def test_runs_are_shared_trained_and_written_up(tmp_path, monkeypatch):
    world = tiny.folder(tmp_path / "galaxies")
    monkeypatch.setattr(
        ablation, "recipe_with", lambda common: tiny.config(world, loss__activation="softmax")
    )
    trained = []

    def train(run):
        trained.append(run.workdir.name)
        finish(run.workdir, 0.1, 0.1)

    monkeypatch.setattr(ablation.Run, "train", train)
    monkeypatch.setattr(sys, "argv", ["x", "--data", "y", "--only_report"])
    common = {"workdir": str(tmp_path / "runs"), "report": str(tmp_path / "page.md"), "data": "y"}
    ablation.run([], options(only=["recipe", "relu"], **common))
    assert trained == ["recipe_0", "relu_0"]
    assert "Command: `launch/ablation --data y`" in (tmp_path / "page.md").read_text()
    ablation.run([], options(only_report=True, **common))
    assert len(trained) == 2
    (tmp_path / "page.md").unlink()
    ablation.run([], options(share="2/2", only=["recipe", "conditional targets"], **common))
    assert trained[2:] == ["conditional-targets_0"]
    assert not (tmp_path / "page.md").exists()
    with pytest.raises(UserError, match="--only: there is no variant cubism"):
        ablation.run([], options(only=["cubism"], **common))


def test_what_is_missing_is_a_dash_and_no_recipe_an_error(tmp_path):
    import pandas as pd

    assert ablation.shown(pd.Series([], dtype=float)) == "-"
    assert ablation.shown(pd.Series([0.1])) == "0.1000"
    second = finish(tmp_path / "recipe_1", 0.1, 0.1, seed=1)
    for runs in ([], [Run("recipe", 0, {}, tmp_path)], [second]):
        with pytest.raises(UserError, match="is not done yet"):
            ablation.write_report(runs, "")


def test_every_run_belongs_to_one_share():
    common = {"epochs": 4, "data.root": "x", "loss.activation": "softmax"}
    config = ablation.recipe_with(common)
    runs = ablation.planned_runs(common, config, 2, 3000, Path("runs"))
    names = {run.name for run in runs}
    assert "softplus" in names
    assert "softmax" not in names  # the recipe itself
    assert len({run.workdir for run in runs}) == len(runs) == 2 * (len(ablation.VARIANTS) - 1 + 3)
    (fewer,) = [run for run in runs if run.workdir.name == "500_1"]
    assert (fewer.seed, fewer.options["seed"]) == (1, 1)
    assert fewer.options["epochs"] == 24  # as many steps
    assert fewer.options["data.training_galaxies"] == 500
    assert fewer.options["optim.warmup"] == 6.0
    assert fewer.options["evaluate.every"] == 12
    assert ablation.share("2/8") == (2, 8)
    for mistake in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(UserError, match="--share: expected such as 2/8"):
            ablation.share(mistake)


def test_training_galaxies_are_counted_and_options_checked(tmp_path):
    world = tiny.folder(tmp_path / "galaxies")
    assert ablation.count_training_galaxies(tiny.config(world, data__training_galaxies=9)) == 9
    here = {"data.root": "x"}
    with pytest.raises(UserError, match=r"data.canvass: gz2\.py has no such option"):
        ablation.recipe_with(here | {"data.canvass": 16})
    with pytest.raises(UserError, match=r"options of gz2\.py: .*str"):
        ablation.recipe_with(here | {"data.canvas": "wide"})
    for variant in ablation.VARIANTS:
        changed = {
            name: eval(value) if isinstance(value, str) and "(" in value else value
            for name, value in variant.options.items()
        }
        ablation.recipe_with(here | changed)


def test_what_people_wrote_above_the_report_stays(tmp_path):
    file = tmp_path / "ablation.md"
    ablation.update(file, "first")
    file.write_text("Conclusions.\n\n" + file.read_text())
    ablation.update(file, "second")
    assert file.read_text() == f"Conclusions.\n\n{ablation.MARK}\n\nsecond\n"


def test_a_mistake_is_said_in_one_line(capsys, monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", options())
    monkeypatch.setattr(ablation.flags, "FLAGS", options(), raising=False)
    with pytest.raises(SystemExit) as end:
        ablation.main(["ablation"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "gzjax: expected --data, the folder with the table and images of galaxies\n"
    )
