"""What each choice of the recipe is worth: trains every variant, and writes the table.

    launch/ablation --data FOLDER --workdir runs/ablation --report docs/ablation.md [OPTION=VALUE]

FOLDER is in the challenge's layout; options, such as data.on_device=True, are set for all runs.
Runs that were interrupted resume, and those that are done are not repeated, so the same command
may be given as often as it takes. With several devices, give each a share of the runs
(--share 1/8 to --share 8/8), then write the page with --only_report.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from absl import app, flags
from ml_collections import ConfigDict

from gzjax import files
from gzjax.errors import UserError, one_line
from gzjax.run import build, command_line, recipes
from gzjax.run import config as configs
from gzjax.run.recorder import result_name
from gzjax.run.report import SILENT

RECIPE = recipes.find("gz2")
CHALLENGE_TRAINING = 55_420  # of the challenge's 61,578 galaxies, a tenth being held out
VIEWS = 16
MARK = "<!-- What follows is written by launch/ablation. -->"


class Variant(NamedTuple):
    """One thing done differently from the recipe."""

    name: str
    question: str
    options: Mapping[str, Any] = {}


TERMS = "('mse', 'focal', 'kl')"
FIXED = {"loss.terms": TERMS, "loss.weighting": "fixed"}
NO_VIEWS = {"views.rotate": 0.0, "views.zoom": 1.0, "views.shift": 0.0, "views.flip": False}
VARIANTS = (
    Variant("recipe", "the recipe itself"),
    Variant("relu", "tree head", {"loss.activation": "relu"}),
    Variant("softplus", "tree head", {"loss.activation": "softplus"}),
    Variant("softmax", "tree head", {"loss.activation": "softmax"}),
    Variant("sigmoid, no tree", "tree head", {"loss.activation": "sigmoid"}),
    Variant("MSE, focal, KL, dynamic weights", "loss", {"loss.terms": TERMS}),
    Variant(
        "MSE, focal, KL, fixed weights", "loss", {"loss.terms": TERMS, "loss.weighting": "fixed"}
    ),
    Variant("conditional targets", "targets", {"loss.targets": "conditional"}),
    Variant("from scratch", "start", {"model.weights": ""}),
    Variant("no augmentation", "views in training", NO_VIEWS),
    Variant("the central 56 % of an image", "what is seen", {"data.crop": 0.7}),
    Variant("half the rate", "learning rate", {"optim.learning_rate": 1e-3}),
)
SIZES = (500, 1000, 2000)
# Options in epochs, of which fewer galaxies need more for as many steps.
LENGTHS = ("optim.warmup", "optim.head_warmup", "optim.decay_every")


class Run(NamedTuple):
    """One training of a variant, or on a number of galaxies."""

    name: str
    seed: int
    options: Mapping[str, Any]
    workdir: Path

    def result(self, split: str, views: int) -> dict[str, Any] | None:
        """A score as the run wrote it; None if it has not got there, or the file is damaged."""
        file = self.workdir / f"{result_name({'split': split, 'views': views})}.json"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):
            return None

    @property
    def is_done(self) -> bool:
        """Whether it has reached its end: this is the last that it writes."""
        return self.result("test", VIEWS) is not None

    def train(self) -> None:
        """Trains, in a process of its own, unless it is done.

        Raises:
          UserError: it failed or was stopped, or the folder holds a run with other options.
        """
        file = self.workdir / "ablation.json"
        try:
            before = json.loads(file.read_text())
        except (OSError, ValueError):  # none yet, or of a full disk
            before = dict(self.options)
        names = sorted(before.keys() | self.options.keys())
        changed = [name for name in names if before.get(name) != self.options.get(name)]
        if changed:
            raise UserError(
                f"{file}: a run with other options ({', '.join(changed)}); name another --workdir"
            )
        if self.is_done:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(file, self.options)
        print(f"ablation: {self.workdir.name}", flush=True)
        command = [sys.executable, "-m", "gzjax.main", "--config", str(RECIPE)]
        command += ["--workdir", str(self.workdir)]
        command += [f"--config.{name}={value}" for name, value in self.options.items()]
        done = subprocess.run(command, env=os.environ | _path(), check=False)
        if done.returncode:
            raise UserError(f"{self.workdir}: training ended with status {done.returncode}")
        if not self.is_done:
            raise UserError(f"{self.workdir}: training was stopped; the same command resumes")


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])}


def planned_runs(
    common: Mapping[str, Any], config: ConfigDict, seeds: int, training_galaxies: int, root: Path
) -> list[Run]:
    """All runs, seed by seed, so that a table of all variants is there as soon as possible.

    Args:
      common: options of all of them.
      config: the recipe with these; variants that it is itself are not trained again.
      seeds: how many times each variant is trained.
      training_galaxies: how many there are; fewer are trained on for as many steps.
      root: folder for all runs.
    """
    recipe, runs = dict(configs.flatten(config)), []
    for seed in range(seeds):
        for name, _, options in VARIANTS:
            if options and all(recipe[option] == value for option, value in options.items()):
                continue
            folder = "".join(c if c.isalnum() else "-" for c in name)
            runs.append(
                Run(name, seed, {**common, "seed": seed, **options}, root / f"{folder}_{seed}")
            )
        for size in (size for size in SIZES if size < training_galaxies):
            longer = training_galaxies / size
            epochs = round(common["epochs"] * longer)
            options = {
                **common,
                "seed": seed,
                "data.training_galaxies": size,
                "epochs": epochs,
                **{name: recipe[name] * longer for name in LENGTHS},
                "evaluate.every": max(1, epochs // 2),
            }
            runs.append(Run(str(size), seed, options, root / f"{size}_{seed}"))
    return runs


def recipe_with(common: Mapping[str, Any]) -> ConfigDict:
    """The recipe's config, with options for all runs.

    Raises:
      UserError: options that do not exist.
    """
    config = recipes.recipe(RECIPE)
    unknown = common.keys() - dict(configs.flatten(config)).keys()
    if unknown:
        raise UserError(f"{', '.join(sorted(unknown))}: {RECIPE.name} has no such option")
    try:
        config.update_from_flattened_dict(common)
    except TypeError as error:
        raise UserError(f"options of {RECIPE.name}: {one_line(error)}") from error
    configs.typed(config)
    return config


def count_training_galaxies(config: ConfigDict) -> int:
    """How many galaxies a recipe trains on.

    Raises:
      UserError: there is something wrong with them.
    """
    settings = configs.typed(config).data
    data = build.build_data(settings, build.load_tree(settings), None, False, SILENT)
    return len(data.splits["train"])


def share(text: str) -> tuple[int, int]:
    """(which, of how many) from such as 2/8.

    Raises:
      UserError: something else.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--share: expected such as 2/8, found {text}")
    return int(part), int(parts)


def scores_of(runs: Sequence[Run]) -> pd.DataFrame:
    """RMSE of the runs that are done, indexed by name and seed: (split, views), and `raw`."""
    rows = {}
    for run in (run for run in runs if run.is_done):
        found = {
            (split, views): run.result(split, views)
            for split in ("validation", "test")
            for views in (1, VIEWS)
        }
        row = {place: result["rmse"] for place, result in found.items() if result}
        raw = found["validation", 1] or {}
        rows[run.name, run.seed] = {**row, ("raw", 1): raw.get("raw_rmse", np.nan)}
    return pd.DataFrame.from_dict(rows, orient="index")


def shown(values: pd.Series, sign: str = "") -> str:
    """Mean and standard deviation over seeds, or a dash."""
    values = values.dropna()
    if values.empty:
        return "-"
    spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.4f}{spread}"


def fit_power_law(sizes: Sequence[int], rmses: Sequence[float]) -> tuple[float, float]:
    """(a, b) of RMSE = a n^-b, by least squares in the logarithms."""
    slope, offset = np.polyfit(np.log(sizes), np.log(rmses), 1)
    return float(np.exp(offset)), float(-slope)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first the header, as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_report(runs: Sequence[Run], about: str) -> str:
    """The whole page, of what runs are done.

    Args:
      runs: all of them.
      about: what was trained, and by which command.

    Raises:
      UserError: the first run of the recipe is not done.
    """
    first = next((run for run in runs if run.name == "recipe" and run.is_done), None)
    if first is None or first.seed:
        raise UserError("the recipe's first run is not done yet; everything is compared with it")
    scores = scores_of(runs)
    base = scores.loc["recipe"]
    one, many, test = ("validation", 1), ("validation", VIEWS), ("test", VIEWS)
    rows = [["what", "variant", "validation", "against the recipe", "16 views", "test, 16 views"]]
    for name, question, _ in VARIANTS:
        if name in scores.index:
            found = scores.loc[name]
            difference = "" if name == "recipe" else shown(found[one] - base[one], "+")
            rest = [difference, shown(found[many]), shown(found[test])]
            rows.append([question, name, shown(found[one]), *rest])
    raw, last = base["raw", 1], "as they are after the last step"
    free = [
        ["what", "variant", "validation", "against the recipe"],
        ["weights", "moving average (recipe)", shown(base[one]), ""],
        ["weights", last, shown(raw), shown(raw - base[one], "+")],
        ["views", "1", shown(base[one]), ""],
        ["views", f"{VIEWS}", shown(base[many]), shown(base[many] - base[one], "+")],
    ]
    validation, tested = (first.result(split, 1) or {} for split in ("validation", "test"))
    everything = tested["training_galaxies"]
    by_size = {size: scores.loc[str(size)][test] for size in SIZES if str(size) in scores.index}
    by_size[everything] = base[test]
    lines = [["training galaxies", "test RMSE, 16 views"]]
    lines += [[f"{size:,}", shown(values)] for size, values in by_size.items()]
    law = ""
    if len(by_size) > 2:  # fewer would fit any law
        a, b = fit_power_law(list(by_size), [values.mean() for values in by_size.values()])
        law = (
            f"Fitted: RMSE = {a:.3f} n^-{b:.3f}. For the {CHALLENGE_TRAINING:,} training galaxies "
            f"of the whole challenge that says {a * CHALLENGE_TRAINING**-b:.4f}, an extrapolation "
            f"by a factor of {CHALLENGE_TRAINING / everything:.0f} at this network, size and "
            "number of steps, and without the floor that the votes' own noise sets."
        )
    return "\n\n".join(
        part
        for part in [
            "# What each choice is worth",
            about,
            f"Validation: {validation['galaxies']} galaxies, predicting the training mean scores "
            f"{validation['baseline_rmse']:.4f}. Test: {tested['galaxies']} galaxies, "
            f"{tested['baseline_rmse']:.4f}. Data: {validation['data']}. Scores are RMSE over the "
            "37 vote fractions, with one view unless said otherwise; mean ± standard deviation "
            f"over {len(base)} seeds. The second figure is the difference to the recipe with the "
            "same seed: more than 0 is worse. Choices are made on validation; the test column is "
            "there to see whether it agrees.",
            table(rows),
            "## Averages, of weights and of views\n\nOf the recipe's own runs.",
            table(free),
            "## More galaxies\n\nAll with about as many steps; nested subsets of one training set.",
            table(lines),
            law,
        ]
        if part
    )


def update(file: Path, report: str) -> None:
    """Writes the report below what people have written, if anything, above `MARK`."""
    before, mark, _ = file.read_text().partition(MARK) if file.exists() else ("", "", "")
    files.write_text(file, (before if mark else "") + f"{MARK}\n\n{report}\n")


def define_flags() -> None:
    """Defines the options of the command."""
    flags.DEFINE_string("data", None, "Folder of real galaxies in the challenge's layout.")
    flags.DEFINE_string("workdir", "runs/ablation", "Folder for all runs.")
    flags.DEFINE_string("report", "docs/ablation.md", "The table to write.")
    flags.DEFINE_integer("seeds", 3, "How many times each variant is trained.", 1)
    flags.DEFINE_integer("image_size", 128, "Pixels a side of what the network sees.", 16)
    flags.DEFINE_integer("epochs", 20, "Passes over all training galaxies.", 1)
    flags.DEFINE_list("only", [], "Variants and numbers of galaxies to train; default: all.")
    flags.DEFINE_string("share", "1/1", "Which runs to do: 2/8 is the second of eight shares.")
    flags.DEFINE_bool("only_report", False, "Train nothing; write of what there is.")


def main(arguments: Sequence[str]) -> None:
    """Trains what is not trained yet, then writes the report."""
    try:
        run(arguments[1:], flags.FLAGS)
    except UserError as error:
        command_line.fail(str(error))


def run(arguments: Sequence[str], options: Any) -> None:
    """Does what the command line says.

    Args:
      arguments: OPTION=VALUE of all runs.
      options: values of the flags.

    Raises:
      UserError: a mistake in any of these, or a run that failed.
    """
    if not options.data:
        raise UserError("expected --data, the folder with the table and images of galaxies")
    if not Path(options.report).parent.is_dir():
        raise UserError(f"--report {options.report}: there is no such folder to write to")
    part, parts = share(options.share)
    common: dict[str, Any] = {
        "data.root": options.data,
        "model.image_size": options.image_size,
        "epochs": options.epochs,
        "evaluate.views": VIEWS,
        "evaluate.every": max(1, options.epochs // 2),
    }
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"expected OPTION=VALUE, found {argument}")
        try:
            common[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):  # a word
            common[name] = value
    if common["evaluate.views"] != VIEWS:
        raise UserError(f"evaluate.views: the table is of {VIEWS} views")
    config = recipe_with(common)
    galaxies = count_training_galaxies(config)
    runs = planned_runs(common, config, options.seeds, galaxies, Path(options.workdir))
    if unknown := set(options.only) - {run.name for run in runs}:
        raise UserError(f"--only: there is no variant {', '.join(sorted(unknown))}")
    if not options.only_report:
        chosen = [run for run in runs if not options.only or run.name in options.only]
        for chosen_run in chosen[part - 1 :: parts]:
            chosen_run.train()
        if parts > 1:
            return
    given = [argument for argument in sys.argv[1:] if argument != "--only_report"]
    about = f"Command: `launch/ablation {' '.join(given)}`"
    update(Path(options.report), write_report(runs, about))


if __name__ == "__main__":
    define_flags()
    app.run(main)
