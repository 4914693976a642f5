import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gzjax import ablation, report
from gzjax.errors import UserError


def finish(workdir, validation, test, views=(1, 16)):
    """What a finished run leaves behind, as far as the report reads it."""
    workdir.mkdir(parents=True)
    for split, rmse in (("validation", validation), ("test", test)):
        for number in views:
            result = {
                "split": split,
                "views": number,
                "rmse": rmse - 0.001 * (number > 1),
                "raw_rmse": rmse + 0.002,
                "baseline_rmse": 0.16,
                "galaxies": 300,
                "training_galaxies": 4000,
                "data": "synthetic sky",
            }
            name = f"{report.result_name(result)}.json"
            assert name == ablation.result_file(split, number)
            (workdir / name).write_text(json.dumps(result))


def test_the_power_law_is_found():
    sizes = [500, 1000, 2000, 4000]
    a, b = ablation.fit_power_law(sizes, [0.3 * n**-0.12 for n in sizes])
    assert a == pytest.approx(0.3)
    assert b == pytest.approx(0.12)


def test_the_page_says_what_was_found(tmp_path):
    workdirs = {}
    for variant in ablation.VARIANTS:
        worse = 0.0 if variant.name == "recipe" else 0.01
        workdirs[variant.name] = [tmp_path / f"{variant.name}_{seed}" for seed in range(2)]
        for seed, workdir in enumerate(workdirs[variant.name]):
            finish(workdir, 0.100 + 0.002 * seed + worse, 0.09 + worse)
    for size in ablation.SIZES:
        workdirs[str(size)] = [tmp_path / f"{size}_0"]
        finish(workdirs[str(size)][0], 0.1, 0.089 * (size / 4000) ** -0.1 + 0.001)
    page = ablation.write_report(workdirs, "Command: `x`")
    assert "| the recipe itself | recipe | 0.1010 ± 0.0014 |  | 0.1000 ± 0.0014 |" in page
    # Paired by seed, the difference has no scatter.
    assert "| tree head | relu | 0.1110 ± 0.0014 | +0.0100 ± 0.0000 |" in page
    assert "| weights | as they are after the last step | 0.1030 ± 0.0014 | +0.0020" in page
    assert "synthetic sky" in page
    (extrapolated,) = re.findall(r"that says (\d\.\d+), an extrapolation", page)
    assert float(extrapolated) == pytest.approx(0.089 * (55_420 / 4000) ** -0.1, abs=1e-4)
    assert "predicting the training mean scores 0.1600" in page


def test_two_numbers_of_galaxies_make_no_law(tmp_path):
    finish(tmp_path / "recipe_0", 0.1, 0.09)
    finish(tmp_path / "500_0", 0.12, 0.11)
    page = ablation.write_report(
        {"recipe": [tmp_path / "recipe_0"], "500": [tmp_path / "500_0"]}, "Command: `x`"
    )
    assert "| 500 | 0.1090 |" in page
    assert "Fitted" not in page


def test_runs_that_are_not_done_do_not_count_and_seeds_are_paired(tmp_path):
    for name, validation in (("a_0", 0.1), ("a_1", 0.2), ("b_1", 0.25)):
        finish(tmp_path / name, validation, 0.3)
    (tmp_path / "a_0" / "evaluate_test_16_views.json").unlink()
    a, b = ([tmp_path / f"{name}_{seed}" for seed in range(3)] for name in "ab")
    a, b = (ablation.scores(workdirs, "validation", 1) for workdirs in (a, b))
    assert a == {1: 0.2}
    assert ablation.differences(b, a) == {1: pytest.approx(0.05)}


def test_a_finished_run_is_not_taken_for_one_with_other_options(tmp_path):
    workdir = tmp_path / "recipe_0"
    finish(workdir, 0.1, 0.1)
    (workdir / "ablation.json").write_text(json.dumps({"epochs": 4}, indent=2))
    ablation.train({"epochs": 4}, workdir)
    with pytest.raises(UserError, match=r"a run with other options \(epochs, seed\); name another"):
        ablation.train({"epochs": 5, "seed": 0}, workdir)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected --data"),
        (["--data", "x", "--report", "no-folder/x.md"], "--report no-folder/x.md: there is no"),
        (["--data", "x", "epochs"], "expected OPTION=VALUE, found epochs"),
        (["--data", "x", "evaluate.views=8"], "evaluate.views: the table is of 16 views"),
        (["--data", "no-folder"], "no-folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_any_training(tmp_path, arguments, expected):
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.ablation", "--workdir", str(tmp_path / "runs"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_what_is_missing_is_a_dash_and_no_recipe_an_error(tmp_path):
    assert ablation.shown({}) == "-"
    assert ablation.shown({2: 0.1}) == "0.1000"
    nothing = {variant.name: [tmp_path] for variant in ablation.VARIANTS}
    with pytest.raises(UserError, match="is not done yet"):
        ablation.write_report(nothing, "")


def test_every_run_belongs_to_one_share():
    common = {"epochs": 4, "data.root": "x", "loss.activation": "softmax"}
    config = ablation.recipe_with(common)
    runs = ablation.planned_runs(common, config, 2, 3000, Path("runs"))
    names = {run.name for run in runs}
    assert "softplus" in names
    assert "softmax" not in names  # the recipe itself
    assert len({run.workdir for run in runs}) == len(runs) == 2 * (len(ablation.VARIANTS) - 1 + 3)
    (fewer,) = [run for run in runs if run.workdir.name == "500_1"]
    assert fewer.options["epochs"] == 24  # as many steps
    assert fewer.options["data.training_galaxies"] == 500
    assert fewer.options["optim.warmup"] == 6.0
    assert ablation.share("2/8") == (2, 8)
    for mistake in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(UserError, match="--share: expected such as 2/8"):
            ablation.share(mistake)


def test_training_galaxies_are_counted_and_options_checked():
    sky = {"data.kind": "sky", "data.galaxies": 40, "data.canvas": 16}
    assert 20 < ablation.count_training_galaxies(ablation.recipe_with(sky)) <= 40
    with pytest.raises(UserError, match=r"data.canvass: gz2\.py has no such option"):
        ablation.recipe_with(sky | {"data.canvass": 16})
    with pytest.raises(UserError, match=r"options of gz2\.py: .*str"):
        ablation.recipe_with(sky | {"data.canvas": "wide"})


def test_what_people_wrote_above_the_report_stays(tmp_path):
    file = tmp_path / "ablation.md"
    ablation.update(file, "first")
    file.write_text("Conclusions.\n\n" + file.read_text())
    ablation.update(file, "second")
    assert file.read_text() == f"Conclusions.\n\n{ablation.MARK}\n\nsecond\n"
