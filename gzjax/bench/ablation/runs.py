"""The runs of an ablation: what they do differently from the recipe, and their training."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gzjax import files
from gzjax.errors import UserError
from gzjax.run import config as configs
from gzjax.run import galaxies, recipes, recorder
from gzjax.run.report import Report

RECIPE = "gz2"
VIEWS = 16

TERMS = ("mse", "focal", "kl")
NO_VIEWS = {"views.rotate": 0.0, "views.zoom": 1.0, "views.shift": 0.0, "views.flip": False}
# What is done differently from the recipe: {variant: (what it is about, options)}. "extra" and
# "length" are completed by `variants`.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe": ("the recipe itself", {}),
    "softmax": ("tree head", {"loss.activation": "softmax"}),
    "MSE": ("loss", {"loss.terms": ("mse",)}),
    "MSE, relu": ("loss", {"loss.terms": ("mse",), "loss.activation": "relu"}),
    "MSE, sigmoid, no tree": ("loss", {"loss.terms": ("mse",), "loss.activation": "sigmoid"}),
    "MSE and likelihood, dynamic weights": ("loss", {"loss.terms": ("mse", "dirichlet")}),
    "MSE, focal, KL, dynamic weights": (
        "loss",
        {"loss.terms": TERMS, "loss.weighting": "dynamic"},
    ),
    "MSE, focal, KL, fixed weights": ("loss", {"loss.terms": TERMS, "loss.weighting": "fixed"}),
    "from scratch": ("start", {"model.weights": ""}),
    "Lite1": ("network", {"model.name": "efficientnet-lite1"}),
    "Lite2": ("network", {"model.name": "efficientnet-lite2"}),
    "128 pixels": ("image size", {"model.image_size": 128}),
    "192 pixels": ("image size", {"model.image_size": 192, "data.canvas": 256}),
    "the central 56 % of an image": ("what is seen", {"data.crop": 0.7}),
    "no augmentation": ("views in training", NO_VIEWS),
    "more zoom": ("views in training", {"views.zoom": 1.4}),
    "stochastic depth 0.2": ("regularisation", {"model.stochastic_depth": 0.2}),
    "weight decay 0.3": ("regularisation", {"optim.weight_decay": 0.3}),
    "half the rate": ("learning rate", {"optim.learning_rate": 1e-3}),
    "lower rates for early layers": ("learning rate", {"optim.layer_decay": 0.8}),
}
SIZES = (500, 1000, 2000)
# Options in epochs, which are shorter on fewer galaxies.
LENGTHS = ("optim.warmup", "optim.head_warmup", "optim.decay_every")
ALONE = "without extra galaxies"


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
      UserError: it failed or was stopped, or the folder holds a run with different options.
    """
    file, options = run.workdir / "ablation.json", json.loads(json.dumps(run.options))
    # Without it, or with a damaged one, the command below compares the options itself.
    if before := files.read_json(file):
        names = sorted(before.keys() | options.keys())
        if changed := [name for name in names if before.get(name) != options.get(name)]:
            raise UserError(
                f"{file}: a run with different options ({', '.join(changed)}); "
                "name another --workdir"
            )
        if run.results():
            return
    run.workdir.mkdir(parents=True, exist_ok=True)
    files.write_json(file, options)
    print(f"ablation: {run.workdir.name}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.main", "--config", RECIPE, "--workdir", str(run.workdir)]
        + [f"--config.{name}={value}" for name, value in run.options.items()],
        check=False,
    )
    if done.returncode:
        raise UserError(f"{run.workdir}: training ended with status {done.returncode}, see above")
    if not run.results():
        raise UserError(f"{run.workdir}: training was stopped; the same command resumes it")


def variants(common: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """`VARIANTS`, with those of the length and of extra galaxies, if `common` has any."""
    half = {"epochs": max(1, common["epochs"] // 2)}
    made = {**VARIANTS, "half as long": ("length", half)}
    roots = [root for root in common.get("data.extra", "").split(",") if root]
    if roots:
        made[ALONE] = ("extra galaxies", {"data.extra": ""})
        made["extra galaxies half as often"] = ("extra galaxies", {"data.extra_weight": 0.5})
    if len(roots) > 1:
        for root in roots:
            others = ",".join(other for other in roots if other != root)
            made[f"without {Path(root).name}"] = ("extra galaxies", {"data.extra": others})
    return made


def planned_runs(
    common: Mapping[str, Any], config: ConfigDict, seeds: int, training_galaxies: int, root: Path
) -> list[Run]:
    """All runs, seed by seed, so that there is a table of all variants as soon as possible.

    Args:
      common: options of all of them.
      config: the recipe with these; variants that are the same as it are skipped.
      seeds: how many times each variant is trained.
      training_galaxies: how many there are without extra ones; fewer are trained on for as many
        steps.
      root: folder for all runs.
    """
    recipe = dict(configs.flatten(config))
    chosen = {
        name: options
        for name, (_, options) in variants(common).items()
        if not options or any(recipe[option] != value for option, value in options.items())
    }
    for size in SIZES:
        longer = training_galaxies / size
        epochs = round(common["epochs"] * longer)
        if longer > 1:
            chosen[str(size)] = {
                "data.extra": "",
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
        for name, options in chosen.items()
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
    """How many galaxies a recipe trains on, but for extra ones.

    Raises:
      UserError: something is wrong with them.
    """
    config = config.copy_and_resolve_references()
    config.data.extra = ""
    options = configs.typed(config)
    tree = galaxies.load_tree(options.data)
    data = galaxies.build_data(options, tree, files.cache_folder(), False, Report(loud=False))
    return len(data.splits["train"])
