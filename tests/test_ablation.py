"""The ablation, with runs that are written down instead of trained."""

import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny

import gzjax
from gzjax import metrics
from gzjax.augment import Augmentation
from gzjax.bench.ablation import __main__ as command
from gzjax.bench.ablation import held_out, law
from gzjax.bench.ablation import page as pages
from gzjax.bench.ablation import runs as planning
from gzjax.bench.ablation.held_out import HeldOut
from gzjax.bench.ablation.runs import Run
from gzjax.errors import UserError
from gzjax.run import config as configs
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
                "noise_floor": 0.04 if split == "test" else 0.03,
                **({"raw_rmse": rmse + 0.002} if views == 1 else {}),
                **others,
            }
            if split == "validation" and "intervals" in others:
                result["intervals"] = intervals(0.5)  # the temperature was fitted on these
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
    a, b = law.fit_law(points, 0.04)
    assert a == pytest.approx(0.3)
    assert b == pytest.approx(0.12)
    value, low, high = law.forecast(points, 0.04, 50_000)
    assert value == pytest.approx(np.hypot(0.04, 0.3 * 50_000**-0.12))
    assert low == pytest.approx(value)
    assert high == pytest.approx(value)


@pytest.mark.parametrize(("floor", "a", "b"), [(0.08, 2.0, 0.6), (0.03, 0.5, 0.3)])
def test_a_floor_is_fitted(floor, a, b):
    points = [(n, np.hypot(floor, a * n**-b)) for n in (500, 1000, 2000, 4000) for _ in range(2)]
    assert law.fit_with_floor(points) == pytest.approx((floor, a, b), rel=0.02)
    # Of a straight line there is none.
    line = [(n, 0.5 * n**-0.2) for n in (500, 1000, 2000, 4000)]
    assert law.fit_with_floor(line) == pytest.approx((0, 0.5, 0.2), abs=0.005)


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
        _, low, high = law.forecast(points, 0.04, 50_000)
        held += low <= truth <= high
        widths.append(high - low)
    assert 0.91 < held / 400 < 0.98
    assert 0.001 < np.mean(widths) < 0.02


def test_a_forecast_from_scored_galaxies_holds_the_truth_as_often_as_it_says():
    # Runs that fit the law exactly, but for which galaxies there are: some are harder for all runs.
    truth, sizes = float(np.hypot(0.04, 0.3 * 50_000**-0.12)), (500, 1000, 2000, 4000)
    held, lows, highs = 0, [], []
    for trial in range(60):
        generator = np.random.default_rng(trial)
        hard = generator.uniform(0, 3**0.5, (300, 1))  # of mean square 1
        signs = generator.choice([-1, 1], (300, 2))
        runs = [
            (n, HeldOut(np.arange(300), 0.5 + 0 * signs, 0.5 + hard * signs * rmse))
            for n, rmse in ((n, np.hypot(0.04, 0.3 * n**-0.12)) for n in sizes)
        ]
        value, low, high = law.forecast_of_runs(runs, 0.04, 50_000)
        points = [(n, metrics.rmse(run.predicted, run.observed)) for n, run in runs]
        assert value == pytest.approx(law.forecast(points, 0.04, 50_000)[0])
        held += low <= truth <= high
        lows.append(value - low)
        highs.append(high - value)
    assert 53 <= held <= 60
    assert 0.001 < np.mean(lows) < 0.01
    assert 0.001 < np.mean(highs) < 0.01
    # What the runs' scatter adds.
    runs[1] = (1000, runs[1][1]._replace(predicted=0.5 + hard * signs * 0.115))
    points[1] = (1000, metrics.rmse(runs[1][1].predicted, runs[1][1].observed))
    fit = law.forecast(points, 0.04, 50_000)
    value, low, high = law.forecast_of_runs(runs, 0.04, 50_000)
    assert low < fit[1] < value < fit[2] < high
    other = runs[0][1]._replace(ids=np.arange(1, 301))
    with pytest.raises(UserError, match="different galaxies"):
        law.forecast_of_runs([(500, other), *runs[1:]], 0.04, 50_000)


def lines_of(page, heading):
    """{first cells: the others} of the table below a heading."""
    _, _, rest = page.partition(heading)
    rows = re.findall(r"^\| (.*) \|$", rest.partition("\n\n#")[0], re.MULTILINE)
    return [row.split(" | ") for row in rows]


OBSERVED = np.random.default_rng(0).uniform(0, 1, (610, 37))


def predictions_of(runs, off):
    """What runs predict: each value is off by as much, up or down by chance."""
    generator, found = np.random.default_rng(1), {}
    ids = np.arange(len(OBSERVED)).astype(str)
    for run in runs:
        errors = generator.choice([-1, 1], OBSERVED.shape) * off(run)
        held = HeldOut(ids, OBSERVED, OBSERVED + errors)
        found.setdefault(run.name, {})[run.seed] = held
    return found


KINDS = {name: kind for name, (kind, _) in planning.VARIANTS.items()}


def page_of(runs, off=lambda run: 0.1):
    return pages.write_page(runs, KINDS, predictions_of(runs, off), "Command: `x`")


def test_the_page_says_what_was_found(tmp_path):
    runs = []
    for name in KINDS:
        worse = 0.0 if name == "recipe" else 0.01
        for seed in range(2):
            runs.append(run_of(tmp_path, name, seed))
            likely = {"intervals": intervals(0.85 + seed / 10)} if name == "recipe" else {}
            rmse = 0.100 + 0.002 * seed + worse, 0.09 + 0.004 * seed + worse
            finish(runs[-1].workdir, *rmse, **likely)
    for size in planning.SIZES:
        runs.append(run_of(tmp_path, str(size)))
        finish(runs[-1].workdir, 0.1, 0.091 * (size / 4000) ** -0.1 + 0.001)
    # One of another kind is not among the networks, however good it is alone.
    better = ("recipe", "192 pixels", "Lite2", "128 pixels", "from scratch")

    def off(run):
        if run.name.isdigit():
            return 0.1 * (int(run.name) / 4000) ** -0.1
        return 0.1 if run.name == "recipe" else 0.12 - (run.name in better) / 100

    page = page_of(runs, off)
    assert page.startswith("# What each choice is worth\n\nCommand: `x`\n\n")
    variants = lines_of(page, "# What each choice is worth")
    assert variants[0] == [
        "what", "variant", "validation, 16 views", "test, 1 view", "test, 16 views",
        "against the recipe",
    ]  # fmt: skip
    assert [row[:2] for row in variants[1:]] == [[kind, name] for name, kind in KINDS.items()]
    assert variants[1][2:5] == ["0.1000 ± 0.0014", "0.0920 ± 0.0028", "0.0910 ± 0.0028"]
    assert variants[1][5] == ""
    assert variants[2][2:] == [
        "0.1100 ± 0.0014", "0.1020 ± 0.0028", "0.1010 ± 0.0028",
        "+0.0200 [+0.0200, +0.0200], 2 seeds",
    ]  # fmt: skip
    assert lines_of(page, "## Averages") == [
        ["what", "variant", "validation"],
        ["weights", "moving average (recipe)", "0.1010 ± 0.0014"],
        ["weights", "without averaging", "0.1030 ± 0.0014"],
        ["views", "16", "0.1000 ± 0.0014"],
    ]
    together = lines_of(page, "## Together")
    assert [row[:2] for row in together[:2]] == [
        ["networks", "RMSE"], ["the recipe's first", "0.1000"]
    ]  # fmt: skip
    # Errors that are independent average out.
    assert together[2][0] == "the recipe's 2 seeds"
    assert float(together[2][1]) == pytest.approx(0.1 / 2**0.5, rel=0.02)
    assert together[2][2].startswith("-0.02")
    assert together[3][0].startswith("recipe; ")  # the best four
    assert set(together[3][0].split("; ")) == set(better[:4])
    assert lines_of(page, "## Intervals") == [
        ["variant", "views", "as they are", "tempered", "temperature"],
        ["recipe", "1", "0.900 ± 0.071", "0.910 ± 0.071", "1.200 ± 0.000"],
        ["recipe", "16", "0.900 ± 0.071", "0.910 ± 0.071", "1.200 ± 0.000"],
    ]
    assert lines_of(page, "## More galaxies") == [
        ["training galaxies", "RMSE, 16 views"],
        ["500", f"{0.1 * 8**0.1:.4f}"],
        ["1,000", f"{0.1 * 4**0.1:.4f}"],
        ["2,000", f"{0.1 * 2**0.1:.4f}"],
        ["4,000", "0.1000 ± 0.0000"],
    ]
    (found,) = re.findall(r"that gives (\d\.\d+), with the 95 % interval \[(\S+), (\S+)\]", page)
    value, low, high = map(float, found)
    assert low < value < high
    points = [(n, 0.1 * (n / 4000) ** -0.1) for n in (500, 1000, 2000, 4000, 4000)]
    floor = ((300 * 0.03**2 + 310 * 0.04**2) / 610) ** 0.5
    a, b = law.fit_law(points, floor)
    assert value == pytest.approx(np.hypot(floor, a * 55_420**-b), abs=1e-4)
    assert f"({a:.3f} n^-{b:.3f})^2" in page
    without = law.fit_law(points[1:], floor)
    expected = np.hypot(floor, without[0] * 55_420 ** -without[1])
    (found,) = re.findall(r"Without the 500, it gives (\S+) \[", page)
    assert float(found) == pytest.approx(expected, abs=2e-4)
    own, a, b = law.fit_with_floor(points)
    (found,) = re.findall(r"fitted, too, (\S+), it gives (\S+)\. If", page)
    assert float(found[0]) == pytest.approx(own, abs=1e-3)
    assert float(found[1]) == pytest.approx(np.hypot(own, a * 55_420**-b), abs=1e-3)
    assert "an extrapolation by a factor of 14" in page
    assert "0.0354 is the noise of the votes themselves" in page
    assert "Validation: 300 galaxies, predicting the training mean scores 0.1600." in page
    assert "Test: 310 galaxies, 0.1700. Trained on 4,000 galaxies. Data: synthetic sky." in page
    assert "standard deviation over 2 seeds" in page
    assert "on all 610 held-out galaxies" in page


def test_the_floor_of_two_splits_is_that_of_all_their_galaxies():
    splits = [{"galaxies": 100, "noise_floor": 0.03}, {"galaxies": 300, "noise_floor": 0.05}]
    assert pages.noise_floor(splits) == pytest.approx(((0.03**2 + 3 * 0.05**2) / 4) ** 0.5)


def test_two_numbers_of_galaxies_make_no_law_and_extra_galaxies_are_not_on_the_curve(tmp_path):
    runs = [run_of(tmp_path, name) for name in ("recipe", "500", planning.ALONE)]
    finish(runs[0].workdir, 0.1, 0.09)
    finish(runs[1].workdir, 0.12, 0.11)

    def off(run):
        return 0.11 if run.name == "500" else 0.1

    assert lines_of(page_of(runs[:2], off), "## More galaxies")[1:] == [
        ["500", "0.1100"], ["4,000", "0.1000"]
    ]  # fmt: skip
    # Of a recipe with extra galaxies only what was trained without them is of the curve.
    extra = KINDS | {planning.ALONE: "extra galaxies"}
    page = pages.write_page(runs[:2], extra, predictions_of(runs[:2], off), "")
    assert lines_of(page, "## More galaxies")[1:] == [["500", "0.1100"]]
    finish(runs[2].workdir, 0.12, 0.10, training_galaxies=3000)
    page = pages.write_page(runs, extra, predictions_of(runs, off), "")
    assert lines_of(page, "## More galaxies")[1:] == [["500", "0.1100"], ["3,000", "0.1000"]]
    assert "Fitted" not in page
    assert "| MSE |" not in page


def test_runs_that_are_not_done_do_not_count(tmp_path):
    runs = [run_of(tmp_path, name, seed) for name in ("recipe", "MSE") for seed in range(3)]
    for run, validation in zip(runs, (0.1, 0.2, 0.3, 0.5, 0.25, 0.5), strict=True):
        finish(run.workdir, validation, 0.3)
    (runs[2].workdir / "evaluate_test_16_views.json").unlink()
    (runs[3].workdir / "evaluate_validation.json").write_text("")
    (runs[5].workdir / "evaluate_test.json").write_text('{"rmse": 0.')
    page = pages.write_page(
        runs, KINDS, predictions_of([runs[0], runs[1], runs[4]], off=lambda run: 0.1), ""
    )
    assert "| recipe | 0.1490 ± 0.0707 |" in page
    assert "| loss | MSE | 0.2490 | 0.3000 | 0.2990 | +0.0000 [+0.0000, +0.0000], 1 seed |" in page


def test_scores_that_only_one_seed_has_are_paired_with_none(tmp_path):
    runs = [run_of(tmp_path, "recipe", 0), run_of(tmp_path, "MSE", 1)]
    for run in runs:
        finish(run.workdir, 0.2, 0.3)
    assert "| loss | MSE | 0.1990 | 0.3000 | 0.2990 | - |" in page_of(runs)


# Differences, galaxy by galaxy.


def noisy(generator, shared, own=0.02):
    """A run whose errors are partly those of all runs, as those of real ones are."""
    errors = shared + generator.normal(0, own, OBSERVED.shape)
    return HeldOut(np.arange(len(OBSERVED)).astype(str), OBSERVED, OBSERVED + errors)


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says():
    generator, held = np.random.default_rng(0), 0
    truth = np.hypot(0.1, 0.03) - np.hypot(0.1, 0.02)
    for _ in range(60):
        shared = generator.normal(0, 0.1, OBSERVED.shape)
        ours = {seed: noisy(generator, shared, 0.03) for seed in range(3)}
        theirs = {seed: noisy(generator, shared) for seed in range(3)}
        found = held_out.difference(ours, theirs, resamples=100)
        assert found.seeds == 3
        held += found.low <= truth <= found.high
    assert held >= 54


def test_seeds_that_scatter_widen_the_interval_and_others_are_left_out():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.1, OBSERVED.shape)
    one, worse = noisy(generator, shared), noisy(generator, shared, 0.06)
    alone = held_out.difference({0: worse, 7: one}, {0: one, 1: one})
    assert alone.seeds == 1
    assert alone.value == pytest.approx(
        metrics.rmse(worse.predicted, OBSERVED) - metrics.rmse(one.predicted, OBSERVED)
    )
    assert 0 < alone.low < alone.value < alone.high
    both = held_out.difference({0: worse, 1: one}, {0: one, 1: one})
    assert both.value == pytest.approx(alone.value / 2)
    # Student's t of one degree of freedom: two seeds say little.
    assert both.high - both.value > 6 * alone.value
    assert held_out.difference({0: one}, {1: one}) is None
    # A question that the table lacks is unknown in all of them.
    unknown = OBSERVED.copy()
    unknown[:, -1] = np.nan
    pair = [run._replace(observed=unknown.copy()) for run in (worse, one)]
    assert held_out.difference({0: pair[0]}, {0: pair[1]}).value > 0
    other = one._replace(ids=one.ids[::-1])
    with pytest.raises(UserError, match="held out different galaxies"):
        held_out.difference({0: one}, {0: other})
    for observed in (OBSERVED[:, :-1], OBSERVED + 0.01):
        with pytest.raises(UserError, match="saw different votes of the same galaxies cannot be"):
            held_out.mixture([one, one._replace(observed=observed)])


def test_what_a_run_predicts_is_kept_until_the_run_is_another(world, tmp_path, monkeypatch, capsys):
    workdirs = [tmp_path / name for name in ("one", "two")]
    for seed, workdir in enumerate(workdirs):
        gzjax.train(tiny.config(world, seed=seed, epochs=1), workdir)
    first = held_out.read(workdirs[0], 4)
    data = gzjax.load_data(workdirs[0])
    rows = np.concatenate([data.splits["validation"], data.splits["test"]])
    np.testing.assert_array_equal(first.ids, [str(data.ids[row]) for row in rows])
    np.testing.assert_array_equal(first.observed, data.observed(rows))
    model = gzjax.load(workdirs[0])
    scores = gzjax.evaluate(model, data, "test", views=4)
    test = slice(len(data.splits["validation"]), None)
    found = metrics.rmse(first.predicted[test], first.observed[test])
    assert found == pytest.approx(scores["rmse"], abs=1e-6)
    capsys.readouterr()
    command.main(["--compare", ",".join(map(str, workdirs))])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{len(rows)} held-out galaxies of validation and test, 16 views"
    again, other = (held_out.read(workdir, 16) for workdir in workdirs)
    one, two, both = (
        metrics.rmse(predicted, again.observed)
        for predicted in (again.predicted, other.predicted, (again.predicted + other.predicted) / 2)
    )
    # Those of 4 views, which are there, are no predictions with 16.
    sixteen = gzjax.evaluate(model, data, "test", views=16)["rmse"]
    found = metrics.rmse(again.predicted[test], again.observed[test])
    assert found == pytest.approx(sixteen, abs=1e-6)
    assert not np.array_equal(again.predicted, first.predicted)
    assert lines[1] == f"{workdirs[0]}: RMSE {one:.4f}"
    assert lines[2].startswith(f"{workdirs[1]}: RMSE {two:.4f}, {two - one:+.4f} [")
    assert lines[2].endswith("] to the first")
    assert lines[3].startswith(f"all 2 together: RMSE {both:.4f}, {both - one:+.4f} [")
    monkeypatch.setattr(held_out.evaluate, "predict_split", lambda *_: pytest.fail("predicted"))
    np.testing.assert_array_equal(held_out.read(workdirs[0], 16).predicted, again.predicted)
    for damage in (b"", b"PK\x03\x04"):
        (workdirs[0] / held_out.FILE).write_bytes(damage)
        with pytest.raises(pytest.fail.Exception, match="predicted"):
            held_out.read(workdirs[0], 16)
    # Nor are the predictions of other weights taken over.
    shutil.copy(workdirs[1] / held_out.FILE, workdirs[0] / held_out.FILE)
    with pytest.raises(pytest.fail.Exception, match="predicted"):
        held_out.read(workdirs[0], 16)


def test_without_an_average_there_is_no_score_beside_it(tmp_path):
    run = run_of(tmp_path, "recipe")
    finish(run.workdir, 0.1, 0.1)
    for file in run.workdir.glob("*.json"):
        result = json.loads(file.read_text())
        result.pop("raw_rmse", None)
        file.write_text(json.dumps(result))
    assert "| without averaging | - |" in page_of([run])


def test_no_recipe_is_an_error(tmp_path):
    runs = [run_of(tmp_path, "recipe", 0), run_of(tmp_path, "recipe", 1)]
    finish(runs[1].workdir, 0.1, 0.1)
    for some in (runs, []):
        with pytest.raises(UserError, match="the recipe's first run is not done yet"):
            pages.write_page(some, KINDS, predictions_of(some, lambda run: 0.1), "")


# Training.


@pytest.fixture
def started(monkeypatch):
    """The commands that were started; each finishes its run at once."""
    commands = []

    def start(command, check):
        commands.append(command)
        finish(Path(command[command.index("--workdir") + 1]), 0.1, 0.1)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(planning.subprocess, "run", start)
    ids = np.arange(len(OBSERVED)).astype(str)
    held = HeldOut(ids, OBSERVED, OBSERVED + 0.1)
    monkeypatch.setattr(held_out, "read", lambda workdir, views: held)
    return commands


def test_a_run_is_trained_once(tmp_path, started, capsys):
    run = run_of(tmp_path, "recipe", 0, {"epochs": 4, "loss.terms": ("mse", "kl"), "seed": 0})
    planning.train(run)
    planning.train(run)
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
    planning.train(run)
    other = run._replace(options={"epochs": 5, "seed": 0, "data.canvas": 64})
    expected = r"a run with different options \(data.canvas, epochs\); name another --workdir"
    with pytest.raises(UserError, match=expected):
        planning.train(other)
    assert len(started) == 1


@pytest.mark.parametrize("name", ["ablation.json", "evaluate_test_16_views.json"])
@pytest.mark.parametrize("damaged", ["", '{"epochs": 4', "[]"])
def test_a_run_with_a_damaged_file_is_not_done(tmp_path, started, name, damaged):
    run = run_of(tmp_path, "recipe", 0, {"epochs": 4})
    planning.train(run)
    (run.workdir / name).write_text(damaged)
    planning.train(run)
    assert len(started) == 2
    assert json.loads((run.workdir / "ablation.json").read_text()) == {"epochs": 4}


def test_the_options_are_written_whole(tmp_path, started, monkeypatch):
    def full(file, content):
        raise OSError("no space")

    run = run_of(tmp_path, "recipe", 0, {"epochs": 4})
    monkeypatch.setattr(planning.files, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        planning.train(run)
    assert list(run.workdir.iterdir()) == []
    assert started == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [(3, "ended with status 3, see above"), (0, "was stopped; the same command resumes it")],
)
def test_a_run_that_ends_early_is_said(tmp_path, monkeypatch, status, expected):
    done = types.SimpleNamespace(returncode=status)
    monkeypatch.setattr(planning.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match=f"recipe_0: training {expected}"):
        planning.train(run_of(tmp_path, "recipe"))


# What is planned.


def test_every_variant_is_planned_for_every_seed():
    common = {"epochs": 5, "data.root": "x", "loss.activation": "softmax", "optim.warmup": 0.5}
    config = planning.recipe_with(common)
    runs = planning.planned_runs(common, config, 2, 2500, Path("runs"))
    names = list(dict.fromkeys(run.name for run in runs))
    expected = [name for name in planning.VARIANTS if name != "softmax"]  # the recipe itself
    assert names == [*expected, "half as long", "500", "1000", "2000"]
    assert [(run.name, run.seed) for run in runs] == [(n, s) for s in range(2) for n in names]
    assert len({run.workdir for run in runs}) == len(runs)
    by_folder = {run.workdir.name: run for run in runs}
    assert by_folder["recipe_1"].options == {**common, "seed": 1}
    relu = by_folder["MSE--relu_0"]
    assert relu.workdir == Path("runs/MSE--relu_0")
    assert relu.options == {
        **common, "seed": 0, "loss.terms": ("mse",), "loss.activation": "relu"
    }  # fmt: skip
    assert by_folder["half-as-long_0"].options == {**common, "seed": 0, "epochs": 2}
    assert "MSE--focal--KL--fixed-weights_1" in by_folder
    # As many steps on fewer galaxies.
    assert by_folder["500_1"].options == {
        **common,
        "seed": 1,
        "data.extra": "",
        "data.training_galaxies": 500,
        "epochs": 25,
        "optim.warmup": 2.5,
        "optim.head_warmup": 5 * config.optim.head_warmup,
        "optim.decay_every": 5 * config.optim.decay_every,
        "evaluate.every": 12,
    }
    fewer = planning.planned_runs(common, config, 1, 1000, Path("runs"))
    assert [run.name for run in fewer if run.name.isdigit()] == ["500"]


def test_extra_galaxies_are_left_out_one_folder_at_a_time():
    def made(extra):
        found = planning.variants({"epochs": 4, "data.extra": extra})
        return {name: options for name, (kind, options) in found.items() if "extra" in kind}

    half = {"extra galaxies half as often": {"data.extra_weight": 0.5}}
    assert made("") == {}
    assert made("some/clean") == {planning.ALONE: {"data.extra": ""}} | half
    assert made("some/clean,partial") == {planning.ALONE: {"data.extra": ""}} | half | {
        "without clean": {"data.extra": "partial"},
        "without partial": {"data.extra": "some/clean"},
    }
    config = planning.recipe_with({"data.root": "x", "data.extra": "y"})
    runs = planning.planned_runs({"epochs": 4, "data.extra": "y"}, config, 1, 1000, Path("runs"))
    assert {run.name for run in runs if "extra" in run.name} == {planning.ALONE, *half}


def test_a_variant_that_differs_in_one_option_of_two_is_planned():
    terms = {"loss.terms": ("mse", "focal", "kl"), "loss.weighting": "fixed"}
    common = {"epochs": 2, "data.root": "x", **terms}
    runs = planning.planned_runs(common, planning.recipe_with(common), 1, 100, Path("runs"))
    names = {run.name for run in runs}
    assert "MSE, focal, KL, dynamic weights" in names
    assert "MSE, focal, KL, fixed weights" not in names


def test_every_variant_is_one_that_the_recipe_may_have():
    given = {"epochs": 4, "data.extra": "y,z"}
    config = planning.recipe_with({"data.root": "x", **planning.NO_VIEWS})
    plain = Augmentation(field=config.views.field)
    assert configs.typed(config).views == plain
    for _, options in planning.variants(given).values():
        planning.recipe_with({"data.root": "x", **options})


def test_training_galaxies_are_counted_and_options_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sky = {"data.kind": "sky", "data.galaxies": 40, "data.canvas": 16}
    galaxies = planning.count_training_galaxies(planning.recipe_with(sky))
    assert 20 < galaxies < 40
    fewer = planning.recipe_with(sky | {"data.training_galaxies": 10})
    assert planning.count_training_galaxies(fewer) == 10
    with pytest.raises(UserError, match=r"data.canvass: gz2 has no such option"):
        planning.recipe_with(sky | {"data.canvass": 16})
    with pytest.raises(UserError, match=r"options of gz2: .*str"):
        planning.recipe_with(sky | {"data.canvas": "wide"})
    with pytest.raises(UserError, match=r"model.image_size: expected"):
        planning.recipe_with(sky | {"model.image_size": -1})


def test_extra_galaxies_are_not_counted(world, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny.config(world)
    galaxies = planning.count_training_galaxies(config)
    config.data.extra = "no-folder"
    assert planning.count_training_galaxies(config) == galaxies
    assert config.data.extra == "no-folder"


# The command.


def ablate(root, *arguments):
    """The command, of 16 x 16 galaxies of the sky; the page is returned if one was written."""
    page = root / "page.md"
    sky = ["data.kind=sky", "data.root=", "data.galaxies=20", "data.canvas=16"]
    given = ["--data", "x", "--workdir", str(root / "runs"), "--report", str(page)]
    command.main([*given, *sky, *arguments])
    return page.read_text() if page.exists() else None


def test_the_command_trains_what_is_missing_then_writes_the_page(tmp_path, started, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = ablate(
        tmp_path, "--seeds", "2", "--epochs=9", "--image_size=32",
        "--only", 'recipe, MSE, "MSE, focal, KL, dynamic weights"', "data.table=votes.csv",
    )  # fmt: skip
    names = ["recipe", "MSE", "MSE--focal--KL--dynamic-weights"]
    folders = [Path(command[command.index("--workdir") + 1]).name for command in started]
    assert folders == [f"{name}_{seed}" for seed in range(2) for name in names]
    for option in (
        "data.root=", "data.galaxies=20", "data.table=votes.csv", "epochs=9",
        "model.image_size=32", "evaluate.views=16", "evaluate.every=4", "seed=0",
    ):  # fmt: skip
        assert f"--config.{option}" in started[0]
    assert page.startswith(f"{pages.MARK}\n\n# What each")
    assert "Command: `launch/ablation --data x --workdir" in page
    assert "| MSE | 0.0990 ± 0.0000 | 0.1000 ± 0.0000 | 0.0990 ± 0.0000 | +0.0000 [" in page
    again = ablate(tmp_path, "--seeds", "2", "--epochs=9", "--image_size=32", "--only_report",
                   "data.table=votes.csv")  # fmt: skip
    assert len(started) == 6
    assert "--only_report" not in again


def test_shares_are_all_runs_each_once(tmp_path, started, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in (1, 2, 3):
        before = len(started)
        assert ablate(tmp_path, "--seeds=1", "--epochs=1", "--share", f"{number}/3") is None
        assert len(started) - before == (6 if number == 3 else 7)
    workdirs = [command[command.index("--workdir") + 1] for command in started]
    assert len(set(workdirs)) == len(started) == len(planning.VARIANTS)
    assert workdirs[0].endswith("recipe_0")
    assert workdirs[1].endswith("MSE--relu_0")
    page = ablate(tmp_path, "--seeds=1", "--epochs=1", "--share=1/3", "--only_report")
    assert "| MSE | 0.0990 | 0.1000 | 0.0990 | +0.0000 [+0.0000, +0.0000], 1 seed |" in page
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
        (["--data", "x", "--share", "0/2"], "--share: expected something like 2/8, found 0/2"),
        (["--data", "x", "--share", "3/2"], "--share: expected something like 2/8, found 3/2"),
        (["--data", "x", "--share", "2"], "--share: expected something like 2/8, found 2"),
        (["--data", "x", "--share", "a/b"], "--share: expected something like 2/8, found a/b"),
        (
            [
                "--data=x",
                "data.kind=sky",
                "data.root=",
                "data.galaxies=20",
                "data.canvas=16",
                "--only=rellu",
            ],
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
        command.main(["--workdir", str(tmp_path / "runs"), *arguments])
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
    pages.update(file, "first")
    file.write_text("Conclusions.\n\n" + file.read_text())
    pages.update(file, "second")
    assert file.read_text() == f"Conclusions.\n\n{pages.MARK}\n\nsecond\n"
    file.write_text("A page without the mark.")
    pages.update(file, "third")
    assert file.read_text() == f"A page without the mark.\n\n{pages.MARK}\n\nthird\n"


def test_scores_are_shown_with_their_scatter():
    import pandas as pd

    assert pages.shown(pd.Series([], dtype=float)) == "-"
    assert pages.shown(pd.Series([np.nan, 0.1])) == "0.1000"
    assert pages.shown(pd.Series([0.1, 0.3])) == "0.2000 ± 0.1414"
