"""What each choice of the recipe is worth: trains every variant, and writes the table.

    launch/ablation --data FOLDER --workdir runs/ablation --report docs/ablation.md [OPTION=VALUE]

FOLDER is in the challenge's layout; options, such as data.on_device=True, are set for all runs.
Every run goes on where it was interrupted, and those that are done are not repeated, so the same
command may be given as often as it takes. With several devices, give each a part of the runs
(--share 1/8 to --share 8/8), then write the page with --only_report.
"""

import ast
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from gzjax import command_line, experiment
from gzjax import config as configs
from gzjax.errors import UserError
from gzjax.report import Report, result_name

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "gz2.py"
CHALLENGE_TRAINING = 55_420  # of the challenge's 61,578 galaxies, a tenth being kept apart
VIEWS = 16
MARK = "<!-- What follows is written by launch/ablation. -->"

flags.DEFINE_string("data", None, "Folder of real galaxies in the challenge's layout.")
flags.DEFINE_string("workdir", "runs/ablation", "Folder for all runs.")
flags.DEFINE_string("report", "docs/ablation.md", "The table to write.")
flags.DEFINE_integer("seeds", 3, "How many times each variant is trained.", 1)
flags.DEFINE_integer("image_size", 128, "Pixels a side of what the network sees.", 16)
flags.DEFINE_integer("epochs", 20, "Passes over all training galaxies.", 1)
flags.DEFINE_list("only", [], "Variants and numbers of galaxies to train; default: all.")
flags.DEFINE_string("share", "1/1", "Which runs to do: 2/8 is the second of eight parts.")
flags.DEFINE_bool("only_report", False, "Train nothing; write of what there is.")


class Variant(NamedTuple):
    """One thing done differently from the recipe."""

    name: str
    question: str
    options: Mapping[str, Any] = {}


TERMS = "('mse', 'focal', 'kl')"
NO_VIEWS = {"views.rotate": 0.0, "views.zoom": 1.0, "views.shift": 0.0, "views.flip": False}
VARIANTS = (
    Variant("recipe", "the recipe itself"),
    Variant("relu", "tree head", {"loss.activation": "relu"}),
    Variant("softplus", "tree head", {"loss.activation": "softplus"}),
    Variant("softmax", "tree head", {"loss.activation": "softmax"}),
    Variant("sigmoid, no tree", "tree head", {"loss.activation": "sigmoid"}),
    Variant(
        "MSE, focal, KL, dynamic weights",
        "loss",
        {"loss.terms": TERMS, "loss.weighting": "dynamic"},
    ),
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
# Options in epochs, which are shorter on fewer galaxies.
LENGTHS = ("optim.warmup", "optim.head_warmup", "optim.decay_every")


def train(options: Mapping[str, Any], workdir: Path) -> None:
    """One run, as a process of its own, unless it is done.

    Raises:
      UserError: it failed or was stopped, or the folder holds a run with other options.
    """
    file, written = workdir / "ablation.json", json.dumps(options, indent=2, sort_keys=True)
    if file.exists() and file.read_text() != written:
        before = json.loads(file.read_text())
        names = sorted(before.keys() | options.keys())
        changed = ", ".join(name for name in names if before.get(name) != options.get(name))
        raise UserError(f"{file}: a run with other options ({changed}); name another --workdir")
    if is_done(workdir):
        return
    workdir.mkdir(parents=True, exist_ok=True)
    file.write_text(written)
    print(f"ablation: {workdir.name}", flush=True)
    arguments = [f"--config.{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.main", "--config", str(RECIPE)]
        + ["--workdir", str(workdir), *arguments],
        env=os.environ | {"PYTHONPATH": str(RECIPE.parent.parent)},
        check=False,
    )
    if done.returncode:
        raise UserError(f"{workdir}: training ended with status {done.returncode}, see above")
    if not is_done(workdir):
        raise UserError(f"{workdir}: training was stopped; the same command goes on from there")


def is_done(workdir: Path) -> bool:
    """Whether a run has reached its end: this is the last that it writes."""
    return (workdir / result_file("test", VIEWS)).exists()


def result_file(split: str, views: int) -> str:
    """Where a run writes a score."""
    return f"{result_name({'split': split, 'views': views})}.json"


class Run(NamedTuple):
    """One training of one variant, or on one number of galaxies."""

    name: str
    options: Mapping[str, Any]
    workdir: Path


def planned_runs(
    common: Mapping[str, Any], config: ConfigDict, seeds: int, training_galaxies: int, root: Path
) -> list[Run]:
    """All runs, seed by seed, so that a table can be had of all variants as soon as possible.

    Args:
      common: options of all of them.
      config: the recipe with these; variants that it is itself are left out.
      seeds: how many times each variant is trained.
      training_galaxies: how many there are; fewer are trained on for as many steps.
      root: folder for all runs.
    """
    runs = []
    recipe = dict(configs.flatten(config))
    for seed in range(seeds):
        for variant in VARIANTS:
            if variant.options and all(recipe[k] == v for k, v in variant.options.items()):
                continue
            folder = "".join(c if c.isalnum() else "-" for c in variant.name)
            options = {**common, "seed": seed, **variant.options}
            runs.append(Run(variant.name, options, root / f"{folder}_{seed}"))
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
            runs.append(Run(str(size), options, root / f"{size}_{seed}"))
    return runs


def recipe_with(common: Mapping[str, Any]) -> ConfigDict:
    """The recipe's config, with options for all runs.

    Raises:
      UserError: options that there are not.
    """
    config = runpy.run_path(str(RECIPE))["get_config"]()
    unknown = common.keys() - dict(configs.flatten(config)).keys()
    if unknown:
        raise UserError(f"{', '.join(sorted(unknown))}: {RECIPE.name} has no such option")
    try:
        config.update_from_flattened_dict(common)
    except TypeError as error:
        raise UserError(f"options of {RECIPE.name}: {error}") from error
    configs.check(config)
    return config


def count_training_galaxies(config: ConfigDict) -> int:
    """How many galaxies a recipe trains on.

    Raises:
      UserError: there is something wrong with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Report(Path(folder), loud=False)
        return len(experiment.load_data(config, Path(folder), False, report).splits["train"])


def share(text: str) -> tuple[int, int]:
    """(which, of how many) from such as 2/8.

    Raises:
      UserError: something else.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--share: expected such as 2/8, found {text}")
    return int(part), int(parts)


def scores(workdirs: Sequence[Path], split: str, views: int, key: str = "rmse") -> dict[int, float]:
    """{seed: one score} of the runs that are done."""
    return {
        seed: json.loads((workdir / result_file(split, views)).read_text())[key]
        for seed, workdir in enumerate(workdirs)
        if is_done(workdir)
    }


def differences(some: Mapping[int, float], others: Mapping[int, float]) -> dict[int, float]:
    """{seed: how much more} for the seeds that both have."""
    return {seed: some[seed] - others[seed] for seed in some.keys() & others.keys()}


def shown(by_seed: Mapping[int, float], sign: str = "") -> str:
    """Mean and standard deviation over seeds, or a dash."""
    values = np.array(list(by_seed.values()))
    if len(values) == 0:
        return "-"
    spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.4f}{spread}"


def fit_power_law(sizes: Sequence[int], rmses: Sequence[float]) -> tuple[float, float]:
    """(a, b) of RMSE = a n^-b, by least squares in the logarithms."""
    slope, offset = np.polyfit(np.log(sizes), np.log(rmses), 1)
    return float(np.exp(offset)), float(-slope)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first the header, as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_report(workdirs: Mapping[str, Sequence[Path]], about: str) -> str:
    """The whole page, of what runs there are.

    Args:
      workdirs: {variant or number of galaxies: its runs, a seed each, the recipe's first}.
      about: what was trained, and by which command.

    Raises:
      UserError: the first run of the recipe is not done.
    """
    recipe = workdirs.get("recipe", [])
    if not recipe or not is_done(recipe[0]):
        raise UserError("the recipe's first run is not done yet; everything is compared with it")
    base = scores(recipe, "validation", 1)
    rows = [["what", "variant", "validation", "against the recipe", "16 views", "test, 16 views"]]
    for variant in (variant for variant in VARIANTS if variant.name in workdirs):
        found = scores(workdirs[variant.name], "validation", 1)
        rows.append(
            [
                variant.question,
                variant.name,
                shown(found),
                "" if variant.name == "recipe" else shown(differences(found, base), "+"),
                shown(scores(workdirs[variant.name], "validation", VIEWS)),
                shown(scores(workdirs[variant.name], "test", VIEWS)),
            ]
        )
    raw = scores(recipe, "validation", 1, "raw_rmse")
    many = scores(recipe, "validation", VIEWS)
    free = [
        ["what", "variant", "validation", "against the recipe"],
        ["weights", "moving average (recipe)", shown(base), ""],
        [
            "weights",
            "as they are after the last step",
            shown(raw),
            shown(differences(raw, base), "+"),
        ],
        ["views", "1", shown(base), ""],
        ["views", f"{VIEWS}", shown(many), shown(differences(many, base), "+")],
    ]
    first = recipe[0] / result_file("validation", 1)
    result = json.loads(first.read_text())
    test = json.loads((recipe[0] / result_file("test", 1)).read_text())
    everything = test["training_galaxies"]
    sizes = [
        (size, scores(workdirs[str(size)], "test", VIEWS))
        for size in SIZES
        if len(scores(workdirs.get(str(size), ()), "test", VIEWS))
    ] + [(everything, scores(recipe, "test", VIEWS))]
    lines = [["training galaxies", "test RMSE, 16 views"]]
    lines += [[f"{size:,}", shown(values)] for size, values in sizes]
    law = ""
    if len(sizes) > 2:  # fewer would fit any law
        a, b = fit_power_law(
            [size for size, _ in sizes],
            [statistics.mean(by_seed.values()) for _, by_seed in sizes],
        )
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
            f"Validation: {result['galaxies']} galaxies, predicting the training mean scores "
            f"{result['baseline_rmse']:.4f}. Test: {test['galaxies']} galaxies, "
            f"{test['baseline_rmse']:.4f}. Data: {result['data']}. Scores are RMSE over the 37 "
            f"vote fractions, with one view unless said otherwise; mean ± standard deviation over "
            f"{len(base)} seeds. The second figure is the difference to the recipe with the same "
            "seed: more than 0 is worse. Choices are made on validation; the test column is there "
            "to see whether it agrees.",
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
    file.write_text((before if mark else "") + f"{MARK}\n\n{report}\n")


def main(arguments: Sequence[str]) -> None:
    """Trains what is not trained yet, then writes the report."""
    options = flags.FLAGS
    try:
        if not options.data:
            raise UserError("expected --data, the folder with the table and images of galaxies")
        if not Path(options.report).parent.is_dir():
            raise UserError(f"--report {options.report}: there is no such folder to write to")
        root = Path(options.workdir)
        common = {
            "data.root": options.data,
            "model.image_size": options.image_size,
            "epochs": options.epochs,
            "evaluate.views": VIEWS,
            "evaluate.every": max(1, options.epochs // 2),
        }
        for argument in arguments[1:]:
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
        runs = planned_runs(common, config, options.seeds, galaxies, root)
        unknown = set(options.only) - {run.name for run in runs}
        if unknown:
            raise UserError(f"--only: there is no variant {', '.join(sorted(unknown))}")
        chosen = [run for run in runs if not options.only or run.name in options.only]
        part, parts = share(options.share)
        if not options.only_report:
            for run in chosen[part - 1 :: parts]:
                train(run.options, run.workdir)
        if parts > 1 and not options.only_report:
            return
        workdirs: dict[str, list[Path]] = {}
        for run in runs:
            workdirs.setdefault(run.name, []).append(run.workdir)
        workdirs = {name: some for name, some in workdirs.items() if any(map(is_done, some))}
        arguments = [argument for argument in sys.argv[1:] if argument != "--only_report"]
        about = f"Command: `launch/ablation {' '.join(arguments)}`"
        update(Path(options.report), write_report(workdirs, about))
    except UserError as error:
        command_line.fail(str(error))


if __name__ == "__main__":
    app.run(main)
