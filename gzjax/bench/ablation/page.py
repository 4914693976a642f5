"""The page that an ablation writes: tables of scores, and of differences with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gzjax import files, metrics
from gzjax.bench.ablation import held_out
from gzjax.bench.ablation.held_out import Difference, HeldOut
from gzjax.bench.ablation.law import fit_law, fit_with_floor, forecast_of_runs
from gzjax.bench.ablation.runs import ALONE, SIZES, VIEWS, Run
from gzjax.errors import UserError

CHALLENGE_TRAINING = 55_420  # of the challenge's 61,578 galaxies, a tenth being held out
MARK = "<!-- What follows is written by launch/ablation. -->"
COVERED = ("plain", "tempered", "temperature")


def write_page(
    runs: Sequence[Run],
    kinds: Mapping[str, str],
    predictions: Mapping[str, Mapping[int, HeldOut]],
    about: str,
) -> str:
    """The whole page, of the runs that are finished.

    Args:
      runs: all of them.
      kinds: {variant: what it is about}, in the order of the table.
      predictions: {variant or number of galaxies: {seed: what the run predicts}}.
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

    recipe = predictions["recipe"]
    trained = found.index.unique("variant")
    variants = [
        [
            kind,
            name,
            shown(scores(name, "validation", VIEWS)),
            shown(scores(name, "test", 1)),
            shown(scores(name, "test", VIEWS)),
            "" if name == "recipe" else against(held_out.difference(predictions[name], recipe)),
        ]
        for name, kind in kinds.items()
        if name in trained
    ]
    averages = [
        ["weights", "moving average (recipe)", shown(scores("recipe", "validation", 1))],
        ["weights", "without averaging", shown(scores("recipe", "validation", 1, "raw_rmse"))],
        ["views", str(VIEWS), shown(scores("recipe", "validation", VIEWS))],
    ]
    intervals = [
        [
            name,
            str(views),
            *(shown(scores(name, "test", views, column), digits=3) for column in COVERED),
        ]
        for name in kinds
        if name in trained and scores(name, "test", 1, "plain").count()
        for views in (1, VIEWS)
    ]
    sizes = {str(size): size for size in SIZES if str(size) in trained}
    whole = ALONE if ALONE in kinds else "recipe"  # extra galaxies are not of the curve
    if whole in trained:
        sizes[whole] = int(scores(whole, "test", VIEWS, "training_galaxies").iloc[0])
    parts = [
        "# What each choice is worth",
        about,
        f"Validation: {validation['galaxies']} galaxies, predicting the training mean scores "
        f"{validation['baseline_rmse']:.4f}. Test: {test['galaxies']} galaxies, "
        f"{test['baseline_rmse']:.4f}. Trained on {test['training_galaxies']:,} galaxies. Data: "
        f"{validation['data']}. Scores are RMSE over all vote fractions; mean ± standard deviation "
        f"over {len(recipe)} seeds. The last column is the difference from the recipe's runs of "
        f"the same seeds, {VIEWS} views, on all {len(recipe[0].ids)} held-out galaxies, with its "
        "95 % interval, which holds the scatter of galaxies and, of several seeds, of seeds: above "
        "0 is worse.",
        table(
            [
                [
                    *("what", "variant", f"validation, {VIEWS} views", "test, 1 view"),
                    *(f"test, {VIEWS} views", "against the recipe"),
                ],
                *variants,
            ]
        ),
        "## Averages, of weights and of views\n\nOf the recipe's own runs, with one view unless "
        "said otherwise.",
        table([["what", "variant", "validation"], *averages]),
        "## Together\n\nThe mean of several networks' fractions, on the held-out galaxies, "
        f"{VIEWS} views; unlike networks are the best four by their scores on the same galaxies, "
        "which favours them a little.",
        table([["networks", "RMSE", "against the recipe"], *ensembles(predictions, kinds)]),
        "## Intervals\n\nHow often central 90 % intervals hold what the crowd said, over all "
        "answers of the test galaxies, as 40 volunteers each: as they are, and with the "
        "temperature that is fitted on validation.",
        table([["variant", "views", "as they are", "tempered", "temperature"], *intervals]),
        curve(sizes, predictions, noise_floor([validation, test])),
    ]
    return "\n\n".join(part for part in parts if part)


def ensembles(
    predictions: Mapping[str, Mapping[int, HeldOut]], kinds: Mapping[str, str]
) -> list[list[str]]:
    """Rows: the recipe's seeds, and the networks of the first seed that suit one together."""
    recipe = predictions["recipe"]
    unlike = [
        name
        for name, kind in kinds.items()
        if kind in ("network", "image size", "loss", "the recipe itself")
        and 0 in predictions.get(name, {})
    ]
    # The best four: a poor network is no help.
    unlike.sort(key=lambda name: _score(predictions[name][0]))
    sets = {
        "the recipe's first": [recipe[0]],
        f"the recipe's {len(recipe)} seeds": list(recipe.values()),
        "; ".join(unlike[:4]): [predictions[name][0] for name in unlike[:4]],
    }
    rows = []
    for name, runs in sets.items():
        if len(runs) > 1 or name == "the recipe's first":
            together = held_out.mixture(runs)
            found = held_out.difference({0: together}, recipe) if len(runs) > 1 else None
            rows.append([name, f"{_score(together):.4f}", against(found) if found else ""])
    return rows


def _score(run: HeldOut) -> float:
    return metrics.rmse(run.predicted, run.observed)


def curve(
    sizes: Mapping[str, int], predictions: Mapping[str, Mapping[int, HeldOut]], floor: float
) -> str:
    """The section on more galaxies.

    Args:
      sizes: {variant: its number of training galaxies}, of those that are on the curve.
      predictions: {variant: {seed: what the run predicts}}.
      floor: the noise of the votes themselves.
    """
    rows, runs = [], []
    for name, size in sizes.items():
        by_seed = predictions[name]
        rows.append([f"{size:,}", shown(pd.Series([_score(run) for run in by_seed.values()]))])
        runs += [(size, run) for run in by_seed.values()]
    law = ""
    if len(sizes) > 2:  # fewer would fit any law
        points = [(size, _score(run)) for size, run in runs]
        a, b = fit_law(points, floor)
        value, low, high = forecast_of_runs(runs, floor, CHALLENGE_TRAINING)
        law = (
            f"\n\nFitted: RMSE^2 = {floor:.4f}^2 + ({a:.3f} n^-{b:.3f})^2, where {floor:.4f} is "
            f"the noise of the votes themselves. For the {CHALLENGE_TRAINING:,} training galaxies "
            f"of the whole challenge that gives {value:.4f}, with the 95 % interval [{low:.4f}, "
            f"{high:.4f}], which holds the scatter of the runs about the law and that of the "
            "galaxies scored, and not whether the law holds: an extrapolation by a factor of "
            f"{CHALLENGE_TRAINING / max(sizes.values()):.0f} at this network, size and number of "
            "steps."
        )
    if len(sizes) > 3:
        smallest = min(sizes.values())
        fewer = [(size, run) for size, run in runs if size > smallest]
        value, low, high = forecast_of_runs(fewer, floor, CHALLENGE_TRAINING)
        own, a, b = fit_with_floor(points)
        law += (
            f" Without the {smallest:,}, it gives {value:.4f} [{low:.4f}, {high:.4f}]; with a "
            f"floor that is fitted, too, {own:.4f}, it gives "
            f"{np.hypot(own, a * CHALLENGE_TRAINING**-b):.4f}. If the law holds, they agree."
        )
    return (
        "## More galaxies\n\nAll with about as many steps; nested subsets of one training set, "
        "without extra galaxies. Scored on all held-out galaxies.\n\n"
        + table([["training galaxies", f"RMSE, {VIEWS} views"], *rows])
        + law
    )


def noise_floor(results: Sequence[Mapping[str, Any]]) -> float:
    """Of the galaxies of several splits together."""
    galaxies = [result["galaxies"] for result in results]
    squares = [result["noise_floor"] ** 2 for result in results]
    return float(np.average(squares, weights=galaxies) ** 0.5)


def covered(result: Mapping[str, Any]) -> dict[str, float]:
    """The coverage at 90 %, and the temperature, of a model with intervals."""
    found = result.get("intervals")
    if not found:
        return dict.fromkeys(COVERED, np.nan)
    shares = {kind: found[kind]["levels"]["90"]["covered"] for kind in ("plain", "tempered")}
    return shares | {"temperature": found["temperatures"][0]}


def shown(by_seed: pd.Series, digits: int = 4) -> str:
    """Mean and standard deviation of the scores there are; a dash for none."""
    if not by_seed.count():
        return "-"
    spread = f" ± {by_seed.std():.{digits}f}" if by_seed.count() > 1 else ""
    return f"{by_seed.mean():.{digits}f}{spread}"


def against(found: Difference | None) -> str:
    """A difference, its interval, and how many seeds it is of; a dash for none."""
    if found is None:
        return "-"
    seeds = f"{found.seeds} seed" + "s" * (found.seeds > 1)
    return f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}], {seeds}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first the header, as Markdown."""
    header, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others])


def update(file: Path, page: str) -> None:
    """Writes the page below what people have written, if anything, in place of an earlier one."""
    before = file.read_text().partition(MARK)[0].rstrip() if file.exists() else ""
    files.write_text(file, f"{before}\n\n{MARK}\n\n{page}\n".lstrip())
