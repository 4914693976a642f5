"""Vote fractions of images that nobody voted on, in memory or in a file of any size."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd
import pyarrow

from gzjax import __version__, describe, ensemble
from gzjax.data import listing
from gzjax.data.framing import Framing
from gzjax.data.listing import Listing
from gzjax.data.rows import PREDICTED
from gzjax.errors import UserError
from gzjax.posterior import Posterior
from gzjax.run import inference
from gzjax.run import parts as in_parts
from gzjax.run.evaluate import check_same_tree, mixed_posterior
from gzjax.run.model import Model, as_models
from gzjax.run.parts import FORMAT, RANGE, Engine, Parts
from gzjax.run.prediction_columns import CHALLENGE, Predicted, Wanted, table_of, unwanted
from gzjax.run.report import Report
from gzjax.tree import Tree


def predict(
    models: Model | Sequence[Model],
    images: Any,
    *,
    views: int | None = None,
    shares: Sequence[float] | None = None,
    columns: str = "",
    volunteers: int | None = None,
    campaigns: Sequence[str] = (),
) -> pd.DataFrame:
    """Predicts the vote fractions of images, in memory.

    Args:
      models: one, or several of one tree, whose predictions are mixed.
      images: a folder, a pattern, a table of files, a pack; a list of files; a DataFrame with a
        column of files; uint8[n, height, width, 3], which is cut out as files are; or galaxies of a
        run, `data.listed(rows)`.
      views: test-time views averaged; None: as many as the recipe says.
      shares: of each model in the mixture, whatever their sum is; None: all alike.
      columns: `challenge`, the tree's columns, cumulative vote fractions; `survey`, see
        `survey_columns`; or `both`, the default for models with intervals.
      volunteers: intervals of what this many volunteers would say; None: of the underlying
        fractions.
      campaigns: of a tree of several, those wanted, such as `dr5`; none: all.

    Returns:
      A row for each image, indexed by GalaxyID, float32 columns; and `fault`, why an image could
      not be read, else ''. The rest is NaN then.

    Raises:
      UserError: nothing to predict, models that cannot be mixed, or columns they do not have.
    """
    models = as_models(models)
    check_same_tree(models)
    campaigns = (campaigns,) if isinstance(campaigns, str) else tuple(campaigns)
    wanted = Wanted(columns, volunteers, campaigns).of(models)
    listed = listing.list_images(images)
    some = batches_of(models, listed, views, shares)
    table = table_of(models[0].tree, listed.ids, list(some), wanted)
    return table.set_index("GalaxyID").drop(columns=unwanted(models[0].tree, wanted))


def posterior(
    models: Model | Sequence[Model],
    images: Any,
    *,
    views: int | None = None,
    shares: Sequence[float] | None = None,
) -> Posterior:
    """What models believe of images, as distributions; for the arguments see `predict`.

    Raises:
      UserError: nothing to predict, or a model without the loss term `dirichlet`.
    """
    models = as_models(models)
    check_same_tree(models)
    if not all(model.has_intervals for model in models):
        raise UserError("posterior: expected models trained with the loss term dirichlet")
    listed = listing.list_images(images)
    some = list(batches_of(models, listed, views, shares))
    found = [each.posterior for each in some if each.posterior is not None]
    faults = [fault for each in some for fault in each.faults]
    concentrations = np.concatenate([each.concentrations for each in found])
    concentrations[[bool(fault) for fault in faults]] = np.nan
    return found[0]._replace(concentrations=concentrations, ids=list(listed.ids), faults=faults)


def batches_of(
    models: Sequence[Model],
    listed: Listing,
    views: int | None,
    shares: Sequence[float] | np.ndarray | None,
) -> Iterator[Predicted]:
    """Predicts images, a batch at a time, in order.

    Raises:
      UserError: none of the images of a whole batch can be opened.
    """
    count = models[0].views_or(views)
    weights = ensemble.weights_of(shares, len(models))
    # Models that cut out and rescale images alike share them.
    framings = list(dict.fromkeys(model.framing for model in models))

    def see(images: Mapping[Framing, np.ndarray]) -> list[dict[str, jax.Array]]:
        results = []
        for model in models:
            image = jax.device_put(images[model.framing], model.placement.by_galaxy)
            results.append(model.predict_step(count)(model.weights, {"image": image}))
        return results

    seen = inference.batches_of(listed, framings, models[0].reading, see)
    for results, there, faults in seen:
        fractions = ensemble.mix([result["fractions"] for result in results], weights)[there]
        believed = None
        if all(model.has_intervals for model in models):
            concentrations = [result["concentrations"][there] for result in results]
            temperatures = [model.temperature(count) for model in models]
            believed = mixed_posterior(models, concentrations, weights, temperatures)
        yield Predicted(fractions, believed, faults)


def predict_to_file(
    models: Sequence[Model],
    images: Any,
    output: Path,
    *,
    views: int,
    shares: np.ndarray,
    readable: bool,
    report: Report,
    wanted: Wanted = CHALLENGE,
    size: int = RANGE,
    share: tuple[int, int] = (1, 1),
    engine: Engine | None = None,
) -> None:
    """Predicts images into a file, or resumes where that was interrupted.

    Args:
      models: one, or several of one tree.
      images: see `listing.list_images`.
      output: CSV or Parquet, by its suffix; without one, a folder of Parquet parts.
      views: test-time views averaged.
      shares: of each model in the mixture.
      readable: adds the columns of `describe.readable`.
      report: says how it goes.
      wanted: which columns.
      size: images per part file.
      share: of the parts that this process predicts, see `parts.Parts`.
      engine: has other processes predict, see `parts.write_in_parts`.

    Raises:
      UserError: nothing to predict, or nowhere to write.
    """
    in_parts.check_output(output, in_parts.WITH_FOLDERS, share)
    check_same_tree(models)
    wanted = wanted.of(models)
    listed = listing.list_images(images)
    number = len(listed.ids)
    report.say(f"{number} images, {views} view{'s' * (views != 1)} each")
    job = {
        "images": listed.digest,
        "networks": [model.identity for model in models],
        "weights": [round(float(share), 4) for share in shares],
        "views": views,
        "framings": [str(model.framing) for model in models],
        "temperatures": [model.temperature(views) for model in models],
        "columns": [wanted.columns, wanted.volunteers, list(wanted.campaigns), readable],
    }
    see = functools.partial(
        table_of_part, views=views, shares=shares, wanted=wanted, readable=readable
    )
    in_parts.write_in_parts(
        Parts(output, job, number, size, share),
        models,
        listed,
        see,
        write_csv if output.suffix == ".csv" else in_parts.write_parquet,
        report,
        "predicting images",
        engine,
    )


def table_of_part(
    models: Sequence[Model],
    part: Listing,
    seen: Callable[[int], None],
    *,
    views: int,
    shares: np.ndarray,
    wanted: Wanted,
    readable: bool,
) -> pyarrow.Table:
    """Predicts some images; see `parts.See`."""
    some = []
    for predicted in batches_of(models, part, views, shares):
        some.append(predicted)
        seen(len(predicted.faults))
    tree = models[0].tree
    return published(table_of(tree, part.ids, some, wanted), tree, wanted, readable)


def published(table: pd.DataFrame, tree: Tree, wanted: Wanted, readable: bool) -> pyarrow.Table:
    """The columns that are asked for, with words or without, of `prediction_columns.table_of`."""
    numbers = list(table.columns.drop(["GalaxyID", "fault"]))
    if readable:
        fractions = table[list(tree.columns)].to_numpy(np.float32, copy=True)
        others = [question for question in tree.questions if not wanted.takes(question)]
        for question in others:
            fractions[:, question.columns] = np.nan
        words = describe.readable(fractions, tree).drop(columns=[each.name for each in others])
        words[(table["fault"] != "").to_numpy()] = ""
        table = pd.concat([table, words], axis=1)
    table = table.drop(columns=unwanted(tree, wanted))
    # All others are words, though a part may have none.
    schema = pyarrow.schema(
        [(name, pyarrow.float32() if name in numbers else pyarrow.string()) for name in table],
        {PREDICTED: __version__.encode()},
    )
    return pyarrow.Table.from_pandas(table, schema, preserve_index=False)


def write_csv(tables: Iterable[pyarrow.Table], file: Path) -> None:
    """Writes tables below each other, numbers with six digits."""
    for number, table in enumerate(tables):
        mode: Literal["a", "w"] = "a" if number else "w"
        table.to_pandas().to_csv(
            file, mode=mode, header=not number, index=False, float_format=FORMAT
        )
