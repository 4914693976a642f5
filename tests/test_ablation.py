"""The ablation, with runs that are written down instead of trained."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gzjax.bench import ablation
from gzjax.bench.ablation import Run
from gzjax.errors import UserError
from gzjax.run import recorder

ROOT = Path(__file__).parent.parent


def finish(workdir, validation, test, **others):
    """What a finished run leaves behind, as far as the page reads it."""
    workdir.mkdir(parents=True, exist_ok=True)
    for split, rmse, baseline in (("validation", validation, 0.16), ("test", test, 0.17)):
        for views in (1, 16):
            result = {
                "split": split,
                "views": views,
                "networks": 1,
                "rmse": rmse - 0.001 * (views > 1),
                "baseline_rmse": baseline,
                "galaxies": 300 if split == "validation" else 310,
                "training_galaxies": 4000,
                "data": "synthetic sky",
                "noise_floor": 0.04,
                **({"raw_rmse": rmse + 0.002} if views == 1 else {}),
                **others,
            }
            (workdir / f"{recorder.result_name(result)}.json").write_text(json.dumps(result))


def run_of(root, name, seed=0, options=None):
    return Run(name, seed, options or {}, root / f"{name}_{seed}")


def intervals(covered):
    """Of an evaluation, as far as the page reads it."""
    kinds = {"plain": covered, "tempered": covered + 0.01}
    levels = {
        kind: {"levels": {"50": {"covered": 0.1}, "90": {"covered": share}}}
        for kind, share in kinds.items()
    }
    return {"temperatures": [1.2], **levels}


def test_the_law_is_found_above_the_floor():
    points = [(n, np.hypot(0.04, 0.3 * n**-0.12)) for n in (500, 1000, 2000, 4000)]
    a, b = ablation.fit_law(points, 0.04)
    assert a == pytest.approx(0.3)
    assert b == pytest.approx(0.12)
    value, low, high = ablation.forecast(points, 0.04, 50_000)
    assert value == pytest.approx(np.hypot(0.04, 0.3 * 50_000**-0.12))
    assert low == pytest.approx(value)
    assert high == pytest.approx(value)


def test_the_interval_of_a_forecast_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truth = float(np.hypot(0.04, 0.3 * 50_000**-0.12))
    held, widths = 0, []
    for _ in range(400):
        points = [
            (n, float(np.hypot(0.04, 0.3 * n**-0.12 * np.exp(generator.normal(0, 0.01)))))
            for n in (500, 1000, 2000, 4000)
            for _ in range(2)
        ]
        _, low, high = ablation.forecast(points, 0.04, 50_000)
        held += low <= truth <= high
        widths.append(high - low)
    assert 0.91 < held / 400 < 0.98
    assert 0.001 < np.mean(widths) < 0.02


def lines_of(page, heading):
    """{first cells: the others} of the table below a heading."""
    _, _, rest = page.partition(heading)
    rows = re.findall(r"^\| (.*) \|$", rest.partition("\n\n#")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_the_page_says_what_was_found(tmp_path):
    runs = []
    for name in ablation.VARIANTS:
        worse = 0.0 if name == "recipe" else 0.01
        for seed in range(2):
            runs.append(run_of(tmp_path, name, seed))
            likely = {"intervals": intervals(0.85 + seed / 10)} if name == "likelihood" else {}
            rmse = 0.100 + 0.002 * seed + worse, 0.09 + 0.004 * seed + worse
            finish(runs[-1].workdir, *rmse, **likely)
    for size in ablation.SIZES:
        runs.append(run_of(tmp_path, str(size)))
        finish(runs[-1].workdir, 0.1, 0.091 * (size / 4000) ** -0.1 + 0.001)
    page = ablation.write_page(runs, "Command: `x`")
    assert page.startswith("# What each choice is worth\n\nCommand: `x`\n\n")
    variants = lines_of(page, "# What each choice is worth")
    assert variants[0] == [
        "what", "variant", "validation", "against the recipe", "16 views", "test, 16 views"
    ]  # fmt: skip
    assert [row[:2] for row in variants[1:]] == [
        [what, name] for name, (what, _) in ablation.VARIANTS.items()
    ]
    assert variants[1][2:] == ["0.1010 ± 0.0014", "", "0.1000 ± 0.0014", "0.0910 ± 0.0028"]
    # Paired by seed, the difference has no scatter.
    assert variants[2][2:] == [
        "0.1110 ± 0.0014", "+0.0100 ± 0.0000", "0.1100 ± 0.0014", "0.1010 ± 0.0028"
    ]  # fmt: skip
    assert lines_of(page, "## Averages") == [
        ["what", "variant", "validation", "against the recipe"],
        ["weights", "moving average (recipe)", "0.1010 ± 0.0014", ""],
        ["weights", "as after the last step", "0.1030 ± 0.0014", "+0.0020 ± 0.0000"],
        ["views", "1", "0.1010 ± 0.0014", ""],
        ["views", "16", "0.1000 ± 0.0014", "-0.0010 ± 0.0000"],
    ]
    assert lines_of(page, "## Intervals") == [
        ["variant", "views", "as they are", "tempered", "temperature"],
        ["likelihood", "1", "0.900 ± 0.071", "0.910 ± 0.071", "1.200 ± 0.000"],
        ["likelihood", "16", "0.900 ± 0.071", "0.910 ± 0.071", "1.200 ± 0.000"],
    ]
    assert lines_of(page, "## More galaxies") == [
        ["training galaxies", "test RMSE, 16 views"],
        ["500", f"{0.091 * 8**0.1:.4f}"],
        ["1,000", f"{0.091 * 4**0.1:.4f}"],
        ["2,000", f"{0.091 * 2**0.1:.4f}"],
        ["4,000", "0.0910 ± 0.0028"],
    ]
    (found,) = re.findall(r"that gives (\d\.\d+), with the 95 % interval \[(\S+), (\S+)\]", page)
    value, low, high = map(float, found)
    assert low < value < high
    law = ablation.fit_law([(500, 0.112), (1000, 0.1045), (2000, 0.0975), (4000, 0.091)], 0.04)
    assert value == pytest.approx(np.hypot(0.04, law[0] * 55_420 ** -law[1]), abs=0.002)
    assert "an extrapolation by a factor of 14" in page
    assert "0.0400 is the noise of the votes themselves" in page
    assert "Validation: 300 galaxies, predicting the training mean scores 0.1600." in page
    assert "Test: 310 galaxies, 0.1700. Data: synthetic sky." in page
    assert "standard deviation over 2 seeds" in page


def test_two_numbers_of_galaxies_make_no_law(tmp_path):
    runs = [run_of(tmp_path, "recipe"), run_of(tmp_path, "500")]
    finish(runs[0].workdir, 0.1, 0.09)
    finish(runs[1].workdir, 0.12, 0.11)
    page = ablation.write_page(runs, "Command: `x`")
    assert "| 500 | 0.1090 |" in page
    assert "Fitted" not in page
    assert "| relu |" not in page


def test_runs_that_are_not_done_do_not_count_and_seeds_are_paired(tmp_path):
    runs = [run_of(tmp_path, name, seed) for name in ("recipe", "relu") for seed in range(3)]
    for run, validation in zip(runs, (0.1, 0.2, 0.3, 0.5, 0.25, 0.5), strict=True):
        finish(run.workdir, validation, 0.3)
    (runs[2].workdir / "evaluate_test_16_views.json").unlink()
    (runs[3].workdir / "evaluate_validation.json").write_text("")
    (runs[5].workdir / "evaluate_test.json").write_text('{"rmse": 0.')
    page = ablation.write_page(runs, "")
    assert "| recipe | 0.1500 ± 0.0707 |" in page
    assert "| tree head | relu | 0.2500 | +0.0500 | 0.2490 |" in page


def test_scores_that_only_one_seed_has_are_paired_with_none(tmp_path):
    runs = [run_of(tmp_path, "recipe", 0), run_of(tmp_path, "relu", 1)]
    for run in runs:
        finish(run.workdir, 0.2, 0.3)
    assert "| tree head | relu | 0.2000 | - | 0.1990 | 0.2990 |" in ablation.write_page(runs, "")


def test_without_an_average_there_is_no_score_beside_it(tmp_path):
    run = run_of(tmp_path, "recipe")
    finish(run.workdir, 0.1, 0.1)
    for file in run.workdir.glob("*.json"):
        result = json.loads(file.read_text())
        result.pop("raw_rmse", None)
        file.write_text(json.dumps(result))
    assert "| as after the last step | - | - |" in ablation.write_page([run], "")


def test_no_recipe_is_an_error(tmp_path):
    runs = [run_of(tmp_path, "recipe", 0), run_of(tmp_path, "recipe", 1)]
    finish(runs[1].workdir, 0.1, 0.1)
    for some in (runs, []):
        with pytest.raises(UserError, match="the recipe's first run is not done yet"):
            ablation.write_page(some, "")


# Training.


@pytest.fixture
def started(monkeypatch):
    """The commands that were started; each finishes its run at once."""
    commands = []

    def start(command, env, check):
        assert env == os.environ | {"PYTHONPATH": str(ROOT)}
        commands.append(command)
        finish(Path(command[command.index("--workdir") + 1]), 0.1, 0.1)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(ablation.subprocess, "run", start)
    return commands


def test_a_run_is_trained_once(tmp_path, started, capsys):
    run = run_of(tmp_path, "recipe", 0, {"epochs": 4, "loss.terms": ("mse", "kl"), "seed": 0})
    ablation.train(run)
    ablation.train(run)
    assert started == [
        [sys.executable, "-m", "gzjax.main", "--config", "gz2", "--workdir", str(run.workdir)]
        + ["--config.epochs=4", "--config.loss.terms=('mse', 'kl')", "--config.seed=0"]
    ]
    assert json.loads((run.workdir / "ablation.json").read_text()) == {
        "epochs": 4, "loss.terms": ["mse", "kl"], "seed": 0
    }  # fmt: skip
    assert capsys.readouterr().out == "ablation: recipe_0\n"


def test_a_finished_run_is_not_taken_for_one_with_other_options(tmp_path, started):
    run = run_of(tmp_path, "recipe", 0, {"epochs": 4, "seed": 0})
    ablation.train(run)
    other = run._replace(options={"epochs": 5, "seed": 0, "data.canvas": 64})
    expected = r"a run with other options \(data.canvas, epochs\); name another --workdir"
    with pytest.raises(UserError, match=expected):
        ablation.train(other)
    assert len(started) == 1


@pytest.mark.parametrize("name", ["ablation.json", "evaluate_test_16_views.json"])
@pytest.mark.parametrize("damaged", ["", '{"epochs": 4', "[]"])
def test_a_run_with_a_damaged_file_is_not_done(tmp_path, started, name, damaged):
    run = run_of(tmp_path, "recipe", 0, {"epochs": 4})
    ablation.train(run)
    (run.workdir / name).write_text(damaged)
    ablation.train(run)
    assert len(started) == 2
    assert json.loads((run.workdir / "ablation.json").read_text()) == {"epochs": 4}


def test_the_options_are_written_whole(tmp_path, started, monkeypatch):
    def full(file, content):
        raise OSError("no space")

    run = run_of(tmp_path, "recipe", 0, {"epochs": 4})
    monkeypatch.setattr(ablation.files, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        ablation.train(run)
    assert list(run.workdir.iterdir()) == []
    assert started == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [(3, "ended with status 3, see above"), (0, "was stopped; the same command resumes it")],
)
def test_a_run_that_ends_early_is_said(tmp_path, monkeypatch, status, expected):
    done = types.SimpleNamespace(returncode=status)
    monkeypatch.setattr(ablation.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match=f"recipe_0: training {expected}"):
        ablation.train(run_of(tmp_path, "recipe"))


# What is planned.


def test_every_variant_is_planned_for_every_seed():
    common = {"epochs": 5, "data.root": "x", "loss.activation": "softmax", "optim.warmup": 0.5}
    config = ablation.recipe_with(common)
    runs = ablation.planned_runs(common, config, 2, 2500, Path("runs"))
    names = list(dict.fromkeys(run.name for run in runs))
    expected = [name for name in ablation.VARIANTS if name != "softmax"]  # the recipe itself
    assert names == [*expected, "500", "1000", "2000"]
    assert [(run.name, run.seed) for run in runs] == [(n, s) for s in range(2) for n in names]
    assert len({run.workdir for run in runs}) == len(runs)
    by_folder = {run.workdir.name: run for run in runs}
    assert by_folder["recipe_1"].options == {**common, "seed": 1}
    relu = by_folder["relu_0"]
    assert relu.workdir == Path("runs/relu_0")
    assert relu.options == {**common, "seed": 0, "loss.activation": "relu"}
    assert "MSE--focal--KL--fixed-weights_1" in by_folder
    # As many steps on fewer galaxies.
    assert by_folder["500_1"].options == {
        **common,
        "seed": 1,
        "data.training_galaxies": 500,
        "epochs": 25,
        "optim.warmup": 2.5,
        "optim.head_warmup": 5 * config.optim.head_warmup,
        "optim.decay_every": 5 * config.optim.decay_every,
        "evaluate.every": 12,
    }
    fewer = ablation.planned_runs(common, config, 1, 1000, Path("runs"))
    assert [run.name for run in fewer if run.name.isdigit()] == ["500"]


def test_a_variant_that_differs_in_one_option_of_two_is_planned():
    terms = {"loss.terms": ("mse", "focal", "kl"), "loss.weighting": "fixed"}
    common = {"epochs": 2, "data.root": "x", **terms}
    runs = ablation.planned_runs(common, ablation.recipe_with(common), 1, 100, Path("runs"))
    names = {run.name for run in runs}
    assert "MSE, focal, KL, dynamic weights" in names
    assert "MSE, focal, KL, fixed weights" not in names


def test_every_variant_is_one_that_the_recipe_may_have():
    for _, options in ablation.VARIANTS.values():
        ablation.recipe_with({"data.root": "x", **options})


def test_training_galaxies_are_counted_and_options_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sky = {"data.kind": "sky", "data.galaxies": 40, "data.canvas": 16}
    galaxies = ablation.count_training_galaxies(ablation.recipe_with(sky))
    assert 20 < galaxies < 40
    fewer = ablation.recipe_with(sky | {"data.training_galaxies": 10})
    assert ablation.count_training_galaxies(fewer) == 10
    with pytest.raises(UserError, match=r"data.canvass: gz2 has no such option"):
        ablation.recipe_with(sky | {"data.canvass": 16})
    with pytest.raises(UserError, match=r"options of gz2: .*str"):
        ablation.recipe_with(sky | {"data.canvas": "wide"})
    with pytest.raises(UserError, match=r"model.image_size: expected"):
        ablation.recipe_with(sky | {"model.image_size": -1})


# The command.


def ablate(root, *arguments):
    """The command, of 16 x 16 galaxies of the sky; the page is returned if one was written."""
    page = root / "page.md"
    sky = ["data.kind=sky", "data.galaxies=20", "data.canvas=16"]
    given = ["--data", "x", "--workdir", str(root / "runs"), "--report", str(page)]
    ablation.main([*given, *sky, *arguments])
    return page.read_text() if page.exists() else None


def test_the_command_trains_what_is_missing_then_writes_the_page(tmp_path, started, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = ablate(
        tmp_path, "--seeds", "2", "--epochs=9", "--image_size=32",
        "--only", 'recipe, relu, "MSE, focal, KL, dynamic weights"', "data.table=votes.csv",
    )  # fmt: skip
    names = ["recipe", "relu", "MSE--focal--KL--dynamic-weights"]
    folders = [Path(command[command.index("--workdir") + 1]).name for command in started]
    assert folders == [f"{name}_{seed}" for seed in range(2) for name in names]
    for option in (
        "data.root=x", "data.galaxies=20", "data.table=votes.csv", "epochs=9",
        "model.image_size=32", "evaluate.views=16", "evaluate.every=4", "seed=0",
    ):  # fmt: skip
        assert f"--config.{option}" in started[0]
    assert page.startswith(f"{ablation.MARK}\n\n# What each")
    assert "Command: `launch/ablation --data x --workdir" in page
    assert "| relu | 0.1000 ± 0.0000 | +0.0000 ± 0.0000 |" in page
    again = ablate(tmp_path, "--seeds", "2", "--epochs=9", "--image_size=32", "--only_report",
                   "data.table=votes.csv")  # fmt: skip
    assert len(started) == 6
    assert "--only_report" not in again


def test_shares_are_all_runs_each_once(tmp_path, started, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in (1, 2, 3):
        before = len(started)
        assert ablate(tmp_path, "--seeds=1", "--epochs=1", "--share", f"{number}/3") is None
        assert len(started) - before == (5 if number == 1 else 4)
    workdirs = [command[command.index("--workdir") + 1] for command in started]
    assert len(set(workdirs)) == len(started) == len(ablation.VARIANTS) - 1  # softplus has it all
    assert workdirs[0].endswith("recipe_0")
    assert workdirs[1].endswith("sigmoid--no-tree_0")
    page = ablate(tmp_path, "--seeds=1", "--epochs=1", "--share=1/3", "--only_report")
    assert "| relu | 0.1000 | +0.0000 |" in page
    assert len(started) == len(workdirs)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected --data, the folder"),
        (["--data", "x", "--report", "no-folder/x.md"], "--report no-folder/x.md: there is no"),
        (["--data", "x", "epochs"], "expected OPTION=VALUE, found epochs"),
        (["--data", "x", "evaluate.views=8"], "evaluate.views: the table is of 16 views"),
        (["--data", "no-folder"], "no-folder"),
        (["--data", "x", "--seeds", "0"], "--seeds: expected at least 1, found 0"),
        (["--data", "x", "--seeds", "few"], "argument --seeds: invalid int value: 'few'"),
        (["--data", "x", "--epochs", "0"], "epochs: expected a whole number at least 1, found 0"),
        (["--data", "x", "--seed", "1"], "--seed"),
        (["--data", "x", "--share", "0/2"], "--share: expected such as 2/8, found 0/2"),
        (["--data", "x", "--share", "3/2"], "--share: expected such as 2/8, found 3/2"),
        (["--data", "x", "--share", "2"], "--share: expected such as 2/8, found 2"),
        (["--data", "x", "--share", "a/b"], "--share: expected such as 2/8, found a/b"),
        (
            ["--data=x", "data.kind=sky", "data.galaxies=20", "data.canvas=16", "--only=rellu"],
            "--only: there is no variant rellu",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_training(
    tmp_path, started, monkeypatch, capsys, arguments, expected
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        ablation.main(["--workdir", str(tmp_path / "runs"), *arguments])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.startswith("gzjax: ")
    assert len(printed.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    assert started == []


def test_the_command_is_there():
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.bench.ablation"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gzjax: expected --data, the folder with the table and images of galaxies"
    ]


def test_what_people_wrote_above_the_page_stays(tmp_path):
    file = tmp_path / "ablation.md"
    ablation.update(file, "first")
    file.write_text("Conclusions.\n\n" + file.read_text())
    ablation.update(file, "second")
    assert file.read_text() == f"Conclusions.\n\n{ablation.MARK}\n\nsecond\n"
    file.write_text("A page without the mark.")
    ablation.update(file, "third")
    assert file.read_text() == f"{ablation.MARK}\n\nthird\n"


def test_scores_are_shown_with_their_scatter():
    import pandas as pd

    assert ablation.shown(pd.Series([], dtype=float)) == "-"
    assert ablation.shown(pd.Series([np.nan, 0.1])) == "0.1000"
    assert ablation.shown(pd.Series([0.1, 0.3]), "+") == "+0.2000 ± 0.1414"
