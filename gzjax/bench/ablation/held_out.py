"""What finished runs predict for the galaxies that were held out, to be compared galaxy by galaxy.

Two runs of one recipe differ by more than most choices are worth, and so do two samples of a few
hundred galaxies. Differences are therefore taken on the same galaxies and between runs of the same
seed, and their intervals hold both kinds of chance.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from gzjax import files, metrics
from gzjax.errors import UserError
from gzjax.run import evaluate, opened

FILE = "held_out.npz"


class HeldOut(NamedTuple):
    """Of one run, the galaxies of both splits that were held out from training.

    ids: of the galaxies.
    observed: the crowd's vote fractions, NaN where they are not known.
    predicted: the run's, averaged over as many views as were asked for.
    """

    ids: np.ndarray
    observed: Float[np.ndarray, "galaxies answers"]
    predicted: Float[np.ndarray, "galaxies answers"]


class Difference(NamedTuple):
    """An RMSE less another one, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    seeds: int


def read(workdir: Path, views: int) -> HeldOut:
    """What a run predicts; predicted once, and kept beside its scores.

    Raises:
      UserError: something is wrong with the run or its galaxies.
    """
    file, model = workdir / FILE, opened.load(workdir)
    about = json.dumps([model.identity, views])
    try:
        with np.load(file) as saved:
            if str(saved["about"]) == about:
                return HeldOut(*(saved[name] for name in HeldOut._fields))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there, damaged, or of something else
    data = opened.load_data(workdir)
    found = [
        evaluate.predict_split(model, data, split, views, model.weights)
        for split in ("validation", "test")
    ]
    rows = np.concatenate([each["row"] for each in found])
    predicted = np.concatenate([each["fractions"] for each in found])
    ids = np.asarray([str(data.ids[row]) for row in rows])
    made = HeldOut(ids, data.observed(rows), predicted)
    with files.replacing(file) as partial, partial.open("wb") as stream:
        np.savez(stream, about=about, **made._asdict())
    return made


def difference(
    runs: Mapping[int, HeldOut], others: Mapping[int, HeldOut], resamples: int = 1000
) -> Difference | None:
    """How much higher the RMSE of some runs is than that of others with the same seeds.

    Of one seed the interval is that of the galaxies alone; of several, the seeds' scatter is added
    in quadrature, by Student's t.

    Args:
      runs: by seed.
      others: by seed.
      resamples: of the galaxies.

    Returns:
      None if there is no seed of both.

    Raises:
      UserError: other galaxies were held out from some of them.
    """
    seeds = sorted(runs.keys() & others.keys())
    if not seeds:
        return None
    check_same_galaxies([*(runs[seed] for seed in seeds), *(others[seed] for seed in seeds)])
    observed = runs[seeds[0]].observed
    ours, theirs = (np.stack([each[seed].predicted for seed in seeds]) for each in (runs, others))
    value, low, high = metrics.rmse_difference(ours, theirs, observed, resamples)
    if len(seeds) == 1:
        return Difference(value, low, high, 1)
    each = [
        metrics.rmse(one, observed) - metrics.rmse(other, observed)
        for one, other in zip(ours, theirs, strict=True)
    ]
    error = float(np.std(each, ddof=1)) / len(seeds) ** 0.5
    by_seed = float(stats.t.ppf(0.975, len(seeds) - 1)) * error
    return Difference(
        value,
        value - float(np.hypot(value - low, by_seed)),
        value + float(np.hypot(high - value, by_seed)),
        len(seeds),
    )


def mixture(runs: Sequence[HeldOut]) -> HeldOut:
    """What several networks predict together: the mean of their fractions."""
    check_same_galaxies(runs)
    return runs[0]._replace(predicted=np.mean([run.predicted for run in runs], axis=0))


def check_same_galaxies(runs: Sequence[HeldOut]) -> None:
    """Raises a UserError if some runs held out other galaxies than the first, or other votes."""
    for run in runs:
        if not np.array_equal(run.ids, runs[0].ids):
            raise UserError(
                "runs that held out different galaxies cannot be compared; expected the same data, "
                "data.split_seed, data.validation and data.test"
            )
        if not np.array_equal(run.observed, runs[0].observed, equal_nan=True):
            raise UserError(
                "runs that saw different votes of the same galaxies cannot be compared; expected "
                "one tree, one table, one kind of votes and, of skies, one data.sky_seed"
            )


def compare(workdirs: Sequence[Path], views: int) -> list[str]:
    """Lines that say how runs differ from the first, and what all of them score together."""
    runs = [read(workdir, views) for workdir in workdirs]
    check_same_galaxies(runs)
    observed = runs[0].observed
    lines = [f"{len(observed)} held-out galaxies of validation and test, {views} views"]
    named = [(str(folder), run) for folder, run in zip(workdirs, runs, strict=True)]
    if len(runs) > 1:
        named.append((f"all {len(runs)} together", mixture(runs)))
    for name, run in named:
        line = f"{name}: RMSE {metrics.rmse(run.predicted, observed):.4f}"
        if run is not runs[0] and (found := difference({0: run}, {0: runs[0]})):
            line += f", {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] to the first"
        lines.append(line)
    return lines
