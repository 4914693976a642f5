"""What each choice of the recipe is worth: trains every variant, and writes the table.

    launch/ablation --data FOLDER --workdir runs/ablation --report docs/ablation.md [OPTION=VALUE]

FOLDER is in the challenge's layout; options, such as data.on_device=True, are set for all runs.
Every run resumes where it was interrupted, and finished ones are not repeated, so the same
command may be given as often as it takes. With several devices, give each a part of the runs
(--share 1/8 to --share 8/8), then write the page with --only_report.
"""

import argparse
import ast
import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict
from scipy import stats

from gzjax import files
from gzjax.errors import UserError
from gzjax.run import build, command_line, recipes, recorder
from gzjax.run import config as configs
from gzjax.run.report import Report

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "gz2"
CHALLENGE_TRAINING = 55_420  # of the challenge's 61,578 galaxies, a tenth being held out
VIEWS = 16
MARK = "<!-- What follows is written by launch/ablation. -->"

TERMS = ("mse", "focal", "kl")
NO_VIEWS = {"views.rotate": 0.0, "views.zoom": 1.0, "views.shift": 0.0, "views.flip": False}
# What is done differently from the recipe: {variant: (what it is about, options)}.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("the recipe itself", {}),
    "relu": ("tree head", {"loss.activation": "relu"}),
    "softplus": ("tree head", {"loss.activation": "softplus"}),
    "softmax": ("tree head", {"loss.activation": "softmax"}),
    "sigmoid, no tree": ("tree head", {"loss.activation": "sigmoid"}),
    "MSE, focal, KL, dynamic weights": (
        "loss",
        {"loss.terms": TERMS, "loss.weighting": "dynamic"},
    ),
    "MSE, focal, KL, fixed weights": ("loss", {"loss.terms": TERMS, "loss.weighting": "fixed"}),
    "likelihood": ("loss", {"loss.terms": ("dirichlet",)}),
    "MSE and likelihood, dynamic weights": (
        "loss",
        {"loss.terms": ("mse", "dirichlet")},
    ),
    "conditional targets": ("targets", {"loss.targets": "conditional"}),
    "from scratch": ("start", {"model.weights": ""}),
    "no augmentation": ("views in training", NO_VIEWS),
    "the central 56 % of an image": ("what is seen", {"data.crop": 0.7}),
    "half the rate": ("learning rate", {"optim.learning_rate": 1e-3}),
}
SIZES = (500, 1000, 2000)
# Options in epochs, which are shorter on fewer galaxies.
LENGTHS = ("optim.warmup", "optim.head_warmup", "optim.decay_every")


class Run(NamedTuple):
    """One training of one variant, or on one number of galaxies."""

    name: str
    seed: int
    options: Mapping[str, Any]
    workdir: Path

    def results(self) -> list[dict[str, Any]]:
        """Of validation and test, with one view and many; nothing until the run is finished."""
        found = [
            files.read_json(
                self.workdir / f"{recorder.result_name({'split': split, 'views': views})}.json"
            )
            for split in ("validation", "test")
            for views in (1, VIEWS)
        ]
        return found if all(found) else []


def train(run: Run) -> None:
    """Trains in a process of its own, unless that is done.

    Raises:
      UserError: it failed or was stopped, or the folder holds a run with other options.
    """
    file, options = run.workdir / "ablation.json", json.loads(json.dumps(run.options))
    # Without it, or with a damaged one, the command below compares the options itself.
    if before := files.read_json(file):
        names = sorted(before.keys() | options.keys())
        if changed := [name for name in names if before.get(name) != options.get(name)]:
            raise UserError(
                f"{file}: a run with other options ({', '.join(changed)}); name another --workdir"
            )
        if run.results():
            return
    run.workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(file, options)
    print(f"ablation: {run.workdir.name}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.main", "--config", RECIPE, "--workdir", str(run.workdir)]
        + [f"--config.{name}={value}" for name, value in run.options.items()],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    if done.returncode:
        raise UserError(f"{run.workdir}: training ended with status {done.returncode}, see above")
    if not run.results():
        raise UserError(f"{run.workdir}: training was stopped; the same command resumes it")


def planned_runs(
    common: Mapping[str, Any], config: ConfigDict, seeds: int, training_galaxies: int, root: Path
) -> list[Run]:
    """All runs, seed by seed, so that there is a table of all variants as soon as possible.

    Args:
      common: options of all of them.
      config: the recipe with these; variants that are the same as it are skipped.
      seeds: how many times each variant is trained.
      training_galaxies: how many there are; fewer are trained on for as many steps.
      root: folder for all runs.
    """
    recipe = dict(configs.flatten(config))
    variants = {
        name: options
        for name, (_, options) in VARIANTS.items()
        if not options or any(recipe[option] != value for option, value in options.items())
    }
    for size in SIZES:
        longer = training_galaxies / size
        epochs = round(common["epochs"] * longer)
        if longer > 1:
            variants[str(size)] = {
                "data.training_galaxies": size,
                "epochs": epochs,
                **{name: recipe[name] * longer for name in LENGTHS},
                "evaluate.every": max(1, epochs // 2),
            }

    def folder(name: str, seed: int) -> Path:  # without what shells trip over
        return root / f"{re.sub(r'[^a-zA-Z0-9]', '-', name)}_{seed}"

    return [
        Run(name, seed, {**common, "seed": seed, **options}, folder(name, seed))
        for seed in range(seeds)
        for name, options in variants.items()
    ]


def recipe_with(common: Mapping[str, Any]) -> ConfigDict:
    """The recipe's config, with options for all runs.

    Raises:
      UserError: options that do not exist, or values that are not allowed.
    """
    config = recipes.recipe(RECIPE)
    unknown = common.keys() - dict(configs.flatten(config)).keys()
    if unknown:
        raise UserError(f"{', '.join(sorted(unknown))}: {RECIPE} has no such option")
    try:
        config.update_from_flattened_dict(common)
    except TypeError as error:
        raise UserError(f"options of {RECIPE}: {error}") from error
    configs.typed(config)
    return config


def count_training_galaxies(config: ConfigDict) -> int:
    """How many galaxies a recipe trains on.

    Raises:
      UserError: something is wrong with them.
    """
    options = configs.typed(config)
    tree = build.load_tree(options.data)
    data = build.build_data(options, tree, files.cache_folder(), False, Report(loud=False))
    return len(data.splits["train"])


def write_page(runs: Sequence[Run], about: str) -> str:
    """The whole page, of the runs that are finished.

    Args:
      runs: all of them.
      about: what was trained, and by which command.

    Raises:
      UserError: the first run of the recipe is not finished.
    """
    first = next((run.results() for run in runs if (run.name, run.seed) == ("recipe", 0)), None)
    if not first:
        raise UserError("the recipe's first run is not done yet; all others are compared with it")
    validation, _, test, _ = first
    rows = [
        {"variant": run.name, "seed": run.seed, "raw_rmse": np.nan, **covered(result), **result}
        for run in runs
        for result in run.results()
    ]
    found = pd.DataFrame(rows).set_index(["variant", "split", "views", "seed"]).sort_index()

    def scores(variant: str, split: str, views: int, column: str = "rmse") -> pd.Series:
        return found[column].loc[variant, split, views]

    def row(what: str, variant: str, by_seed: pd.Series) -> list[str]:
        against = "" if by_seed is recipe else shown(by_seed - recipe, "+")
        return [what, variant, shown(by_seed), against]

    recipe, trained = scores("recipe", "validation", 1), found.index.unique("variant")
    variants = [
        [
            *row(what, name, scores(name, "validation", 1) if options else recipe),
            shown(scores(name, "validation", VIEWS)),
            shown(scores(name, "test", VIEWS)),
        ]
        for name, (what, options) in VARIANTS.items()
        if name in trained
    ]
    averages = [
        row("weights", "moving average (recipe)", recipe),
        row("weights", "as after the last step", scores("recipe", "validation", 1, "raw_rmse")),
        row("views", "1", recipe),
        row("views", str(VIEWS), scores("recipe", "validation", VIEWS)),
    ]
    intervals = [
        [
            name,
            str(views),
            *(shown(scores(name, "test", views, column), digits=3) for column in COVERED),
        ]
        for name in VARIANTS
        if name in trained and scores(name, "test", 1, "plain").count()
        for views in (1, VIEWS)
    ]
    everything = test["training_galaxies"]
    by_size = {n: scores(str(n), "test", VIEWS) for n in SIZES if str(n) in trained}
    by_size[everything] = scores("recipe", "test", VIEWS)
    points = [(n, float(rmse)) for n, by_seed in by_size.items() for rmse in by_seed]
    floor, law = test["noise_floor"], ""
    if len(by_size) > 2:  # fewer would fit any law
        a, b = fit_law(points, floor)
        value, low, high = forecast(points, floor, CHALLENGE_TRAINING)
        law = (
            f"Fitted: RMSE^2 = {floor:.4f}^2 + ({a:.3f} n^-{b:.3f})^2, where {floor:.4f} is the "
            f"noise of the votes themselves. For the {CHALLENGE_TRAINING:,} training galaxies of "
            f"the whole challenge that gives {value:.4f}, with the 95 % interval [{low:.4f}, "
            f"{high:.4f}] of the fit: an extrapolation by a factor of "
            f"{CHALLENGE_TRAINING / everything:.0f} at this network, size and number of steps."
        )
    heading = ["what", "variant", "validation", "against the recipe"]
    parts = [
        "# What each choice is worth",
        about,
        f"Validation: {validation['galaxies']} galaxies, predicting the training mean scores "
        f"{validation['baseline_rmse']:.4f}. Test: {test['galaxies']} galaxies, "
        f"{test['baseline_rmse']:.4f}. Data: {validation['data']}. Scores are RMSE over all vote "
        f"fractions, with one view unless said otherwise; mean ± standard deviation over "
        f"{len(recipe)} seeds. The second figure is the difference from the recipe's run with the "
        "same seed: above 0 is worse. Choices are made on validation; the test column shows "
        "whether it agrees.",
        table([[*heading, f"{VIEWS} views", f"test, {VIEWS} views"], *variants]),
        "## Averages, of weights and of views\n\nOf the recipe's own runs.",
        table([heading, *averages]),
        "## Intervals\n\nHow often central 90 % intervals hold what the crowd said, over all "
        "answers of the test galaxies, as 40 volunteers each: as they are, and with the "
        "temperature that is fitted on validation.",
        table([["variant", "views", "as they are", "tempered", "temperature"], *intervals]),
        "## More galaxies\n\nAll with about as many steps; nested subsets of one training set.",
        table(
            [["training galaxies", f"test RMSE, {VIEWS} views"]]
            + [[f"{size:,}", shown(by_seed)] for size, by_seed in by_size.items()]
        ),
        law,
    ]
    return "\n\n".join(part for part in parts if part)


COVERED = ("plain", "tempered", "temperature")


def covered(result: Mapping[str, Any]) -> dict[str, float]:
    """The coverage at 90 %, and the temperature, of a model with intervals."""
    found = result.get("intervals")
    if not found:
        return dict.fromkeys(COVERED, np.nan)
    shares = {kind: found[kind]["levels"]["90"]["covered"] for kind in ("plain", "tempered")}
    return shares | {"temperature": found["temperatures"][0]}


def shown(by_seed: pd.Series, sign: str = "", digits: int = 4) -> str:
    """Mean and standard deviation of the scores there are; a dash for none."""
    if not by_seed.count():
        return "-"
    spread = f" ± {by_seed.std():.{digits}f}" if by_seed.count() > 1 else ""
    return f"{by_seed.mean():{sign}.{digits}f}{spread}"


Points = Sequence[tuple[int, float]]  # training galaxies, RMSE


def fit_law(points: Points, floor: float) -> tuple[float, float]:
    """(a, b) of RMSE^2 = floor^2 + (a n^-b)^2, by least squares in the logarithms."""
    fit = stats.linregress(*_logarithms(points, floor))
    return float(np.exp(fit.intercept)), float(-fit.slope)


def forecast(points: Points, floor: float, galaxies: int) -> tuple[float, float, float]:
    """The RMSE that `fit_law` gives, with the ends of its 95 % interval.

    That of a regression's mean (Draper & Smith 1998, Applied Regression Analysis, section 1.4):
    it knows the scatter of the runs, and not whether the law holds.
    """
    x, y = _logarithms(points, floor)
    fit, at = stats.linregress(x, y), np.log(galaxies)
    degrees = len(x) - 2
    scatter = np.sqrt(np.square(y - fit.intercept - fit.slope * x).sum() / degrees)
    error = scatter * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / np.square(x - x.mean()).sum())
    ends = fit.intercept + fit.slope * at + error * stats.t.ppf([0.5, 0.025, 0.975], degrees)
    value, low, high = np.sqrt(floor**2 + np.exp(ends) ** 2)
    return float(value), float(low), float(high)


def _logarithms(points: Points, floor: float) -> tuple[np.ndarray, np.ndarray]:
    sizes, rmses = np.array(points, float).T
    return np.log(sizes), 0.5 * np.log(rmses**2 - floor**2)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first the header, as Markdown."""
    header, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others])


def update(file: Path, page: str) -> None:
    """Writes the page below what people have written, if anything, above `MARK`."""
    before, mark, _ = file.read_text().partition(MARK) if file.exists() else ("", "", "")
    files.write_text(file, (before if mark else "") + f"{MARK}\n\n{page}\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; its `options` become {option: value} for all runs.

    Raises:
      UserError: a mistake in it.
    """
    parser = argparse.ArgumentParser(
        "launch/ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = command_line.fail  # type: ignore[method-assign]
    add = parser.add_argument
    add("--data", help="folder of real galaxies in the challenge's layout")
    add("--workdir", type=command_line.path, default="runs/ablation", help="folder for all runs")
    add("--report", type=command_line.path, default="docs/ablation.md", help="the page to write")
    add("--seeds", type=int, default=3, help="how many times each variant is trained")
    add("--image_size", type=int, default=128, help="pixels a side of what the network sees")
    add("--epochs", type=int, default=20, help="passes over all training galaxies")
    add("--only", default="", help="variants and numbers of galaxies to train; default: all")
    add("--share", default="1/1", help="which runs to do: 2/8 is the second of eight parts")
    add("--only_report", action="store_true", help="train nothing; write of what there is")
    add("options", nargs="*", metavar="OPTION=VALUE", help="for all runs")
    given = parser.parse_intermixed_args(arguments)
    if not given.data:
        raise UserError("expected --data, the folder with the table and images of galaxies")
    given.share = command_line.share(given.share, "--share")
    if given.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, found {given.seeds}")
    if not given.report.parent.is_dir():
        raise UserError(f"--report {given.report}: there is no such folder to write to")
    common = {
        "data.root": given.data,
        "model.image_size": given.image_size,
        "epochs": given.epochs,
        "evaluate.views": VIEWS,
        "evaluate.every": max(1, given.epochs // 2),
    }
    for option in given.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"expected OPTION=VALUE, found {option}")
        try:
            common[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):  # a word
            common[name] = value
    if common["evaluate.views"] != VIEWS:
        raise UserError(f"evaluate.views: the table is of {VIEWS} views")
    given.options = common
    # A variant's name may have commas, in quotes.
    given.only = [
        name.strip() for row in csv.reader([given.only], skipinitialspace=True) for name in row
    ]
    return given


def ablate(arguments: Sequence[str]) -> None:
    """Trains what is not trained yet, then writes the page.

    Raises:
      UserError: a mistake in the command line, or a run that failed.
    """
    given = parse(arguments)
    config = recipe_with(given.options)
    galaxies = count_training_galaxies(config)
    runs = planned_runs(given.options, config, given.seeds, galaxies, given.workdir)
    if unknown := set(given.only) - {run.name for run in runs}:
        raise UserError(f"--only: there is no variant {', '.join(sorted(unknown))}")
    if not given.only_report:
        part, parts = given.share
        chosen = [run for run in runs if not given.only or run.name in given.only]
        for run in chosen[part - 1 :: parts]:
            train(run)
        if parts > 1:
            return
    command = " ".join(argument for argument in arguments if argument != "--only_report")
    page = write_page(runs, f"Command: `launch/ablation {command}`")
    update(given.report, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; says mistakes in one line."""
    try:
        ablate(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        command_line.fail(str(error))


if __name__ == "__main__":
    main()
