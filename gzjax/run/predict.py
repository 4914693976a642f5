"""What nobody voted on: vote fractions of images in memory, or in a file of any size.

To a file, images are predicted in ranges of their listing. Each range becomes a Parquet file in
the folder `OUTPUT.parts`, whole or not there, so an interrupted prediction resumes with the first
range that is missing. At the end they are joined into the output and, if any image could not be
read, `OUTPUT.unreadable.csv`. No table is ever in memory as a whole.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from gzjax import describe, ensemble, files
from gzjax import tree as trees
from gzjax.data import batches, listing
from gzjax.data.batches import Source
from gzjax.data.images import UNREACHABLE
from gzjax.data.listing import Listing
from gzjax.errors import UserError, one_line
from gzjax.posterior import Posterior
from gzjax.run.evaluate import check_same_tree, mixed_posterior, stream
from gzjax.run.model import Model
from gzjax.run.report import Report
from gzjax.tree import Question, Tree

# Published fractions have six digits; more would be noise.
FORMAT = "%.6f"
RANGE = 4096  # images a part file
SUFFIXES = (".csv", ".parquet")  # of tables that are written
# A batch of at least so many images, none of which can be opened, is an outage, not bad luck.
OUTAGE = 32


COLUMNS = ("challenge", "survey", "both")


class Predicted(NamedTuple):
    """What is predicted for some images.

    fractions: float32[galaxies, answers], cumulative.
    posterior: of models with intervals.
    faults: why an image could not be read, "" where it could; the rest is NaN there.
    """

    fractions: np.ndarray
    posterior: Posterior | None
    faults: list[str]


class Wanted(NamedTuple):
    """Which columns predictions have.

    columns: `challenge`, cumulative fractions under the tree's own names; `survey`, those that
      `survey_columns` gives; `both`; "": both if there are intervals, else the challenge's.
    volunteers: intervals of what so many would say; None: of the underlying fractions.
    campaigns: of a tree of several, those wanted, such as `dr5`; none: all.
    """

    columns: str = ""
    volunteers: int | None = None
    campaigns: tuple[str, ...] = ()

    def of(self, models: Sequence[Model]) -> "Wanted":
        """The same for some models, checked.

        Raises:
          UserError: columns or campaigns that there are not, or volunteers without intervals.
        """
        likely = all(model.likely for model in models)
        if self.columns not in ("", *COLUMNS):
            expected = f"expected one of {', '.join(COLUMNS)}"
            raise UserError(f"columns: {expected}, found {self.columns!r}")
        if self.volunteers is not None and (self.volunteers < 1 or not likely):
            expected = "1 or more" if likely else "a model with the loss term dirichlet"
            raise UserError(f"volunteers: expected {expected}, found {self.volunteers}")
        names = [question.name for question in models[0].tree.questions]
        for campaign in self.campaigns:
            if not any(name.endswith(f"-{campaign}") for name in names):
                raise UserError(f"campaigns: no question ends with -{campaign}: {', '.join(names)}")
        return self._replace(columns=self.columns or ("both" if likely else "challenge"))

    def takes(self, question: Question) -> bool:
        """Whether a question is of the campaigns."""
        return not self.campaigns or question.name.endswith(tuple(f"-{c}" for c in self.campaigns))


CHALLENGE = Wanted("challenge")


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
        column of files; or uint8[n, height, width, 3].
      views: test-time views averaged; None: as many as the recipe says.
      shares: of each model in the mixture; None: all alike.
      columns: `challenge`, the tree's columns, cumulative vote fractions; `survey`, see
        `survey_columns`; or `both`, the default for models with intervals.
      volunteers: intervals of what so many would say; None: of the underlying fractions.
      campaigns: of a tree of several, those wanted, such as `dr5`; none: all.

    Returns:
      A row for each image, indexed by GalaxyID, float32 columns; and `fault`, why an image could
      not be read, else ''. The rest is NaN then.

    Raises:
      UserError: nothing to predict, models that cannot be mixed, or columns they do not have.
    """
    models = [models] if isinstance(models, Model) else list(models)
    check_same_tree(models)
    wanted = Wanted(columns, volunteers, tuple(campaigns)).of(models)
    listed = listing.list_images(images)
    some = batches_of(models, listed, range(len(listed.ids)), views, shares)
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
    models = [models] if isinstance(models, Model) else list(models)
    check_same_tree(models)
    if not all(model.likely for model in models):
        raise UserError("posterior: expected models trained with the loss term dirichlet")
    listed = listing.list_images(images)
    some = list(batches_of(models, listed, range(len(listed.ids)), views, shares))
    found = [each.posterior for each in some if each.posterior is not None]
    faults = [fault for each in some for fault in each.faults]
    concentrations = np.concatenate([each.concentrations for each in found])
    concentrations[[bool(fault) for fault in faults]] = np.nan
    return found[0]._replace(concentrations=concentrations, ids=listed.ids, faults=faults)


def survey_columns(predicted: Predicted, tree: Tree, wanted: Wanted) -> dict[str, np.ndarray]:
    """Columns as surveys publish them, float[galaxies] each; all but the last are conditional.

    For each question and answer the `_fraction`, of models with intervals the mean of their
    mixture; its `_90pc-lower` and `_90pc-upper`, the ends of the mixture's central interval, exact;
    and for each question `_proportion-asked`, the part of the crowd that is asked.
    """
    believed, asked = predicted.posterior, tree.asked(predicted.fractions)
    if believed is None:
        fractions = np.asarray(trees.normalise(predicted.fractions, tree)[0])
        ends: tuple[tuple[str, np.ndarray], ...] = ()
    else:
        low, high = believed.interval(0.9, wanted.volunteers)
        fractions, ends = believed.mean(), (("90pc-lower", low), ("90pc-upper", high))
    columns = {}
    for question, reached in zip(tree.questions, asked.T, strict=True):
        if not wanted.takes(question):
            continue
        for answer in range(question.columns.start, question.columns.stop):
            name = tree.survey_columns[answer]
            for kind, values in (("fraction", fractions), *ends):
                columns[f"{name}_{kind}"] = values[:, answer]
        columns[f"{name.rpartition('_')[0]}_proportion-asked"] = reached
    return columns


def table_of(
    tree: Tree, ids: Sequence[str], some: Sequence[Predicted], wanted: Wanted
) -> pd.DataFrame:
    """GalaxyID, the tree's columns, wanted or not, the others, and `fault`."""
    tables = []
    for predicted in some:
        table = pd.DataFrame(predicted.fractions, columns=list(tree.columns))
        if wanted.columns != "challenge":
            more = pd.DataFrame(survey_columns(predicted, tree, wanted), dtype=np.float32)
            table = pd.concat([table, more], axis=1)
        table[[bool(fault) for fault in predicted.faults]] = np.nan
        tables.append(table.assign(fault=predicted.faults))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "GalaxyID", list(ids))
    return table


def unwanted(tree: Tree, wanted: Wanted) -> list[str]:
    """The tree's columns that are not asked for."""
    return [
        column
        for question in tree.questions
        for column in tree.columns[question.columns]
        if wanted.columns == "survey" or not wanted.takes(question)
    ]


def batches_of(
    models: Sequence[Model],
    listed: Listing,
    rows: range,
    views: int | None,
    shares: Sequence[float] | np.ndarray | None,
) -> Iterator[Predicted]:
    """Predicts a range of a listing, a batch at a time, in order.

    Raises:
      UserError: none of the images of a whole batch can be opened.
    """
    count = models[0].views if views is None else check_views(views)
    weights = ensemble.uniform_weights(len(models)) if shares is None else np.asarray(shares)
    reading = models[0].reading
    # Models that cut out and rescale images alike share them.
    framings = list(dict.fromkeys(model.framing for model in models))
    read = [
        batches.ordered_batches(
            Source(listed.framed(framing), np.arange(rows.start, rows.stop)),
            reading.batch_size,
            threads=reading.threads,
            processes=reading.processes,
        )
        for framing in framings
    ]

    def step(canvases: Sequence[dict[str, np.ndarray]]) -> tuple[Any, ...]:
        batch_of = dict(zip(framings, canvases, strict=True))
        results = []
        for model in models:
            image = jax.device_put(batch_of[model.framing]["image"], model.placement.by_galaxy)
            results.append(model.predict_step(count)(model.weights, {"image": image}))
        return canvases[0]["row"], canvases[0]["fault"], results

    for row, fault, results in stream(step, zip(*read, strict=True)):
        there = row >= 0  # the last batch is filled up
        faults = [reason.decode() for reason in fault[there]]
        check_no_outage(faults, listed.ids[row[0]])
        fractions = ensemble.mix([result["fractions"] for result in results], weights)[there]
        believed = None
        if all(model.likely for model in models):
            concentrations = [result["concentrations"][there] for result in results]
            temperatures = [model.temperature(count) for model in models]
            believed = mixed_posterior(models, concentrations, weights, temperatures)
        yield Predicted(fractions, believed, faults)


def check_views(views: int) -> int:
    """The same number of views, if it is one; else a `UserError`."""
    if views < 1:
        raise UserError(f"views: expected 1 or more, found {views}")
    return views


def check_no_outage(faults: Sequence[str], first: str) -> None:
    """Checks that the disk or network is still there, damaged images aside.

    Raises:
      UserError: none of a batch, which begins with the galaxy `first`, could be opened.
    """
    if len(faults) >= OUTAGE and all(fault.startswith(UNREACHABLE) for fault in faults):
        raise UserError(f"none of {len(faults)} images from {first} on can be opened: {faults[0]}")


class Parts:
    """The part files of a prediction, tables with a column `fault`.

    Args:
      output: of the prediction.
      job: what is predicted, and by what; parts of another job are refused.
      number: of images.
      size: images a part.

    Raises:
      UserError: parts of another job.
    """

    def __init__(self, output: Path, job: Mapping[str, Any], number: int, size: int = RANGE):
        self.folder = output.with_name(f"{output.name}.parts")
        self.ranges = [range(n, min(n + size, number)) for n in range(0, number, size)]
        self.folder.mkdir(exist_ok=True)
        file, job = self.folder / "job.json", {**job, "images_a_part": size}
        try:
            before = json.loads(file.read_text())
        except FileNotFoundError:
            files.write_json(file, job)
            before = job
        except ValueError as error:
            raise UserError(f"{file}: damaged ({one_line(error)}); delete the folder") from None
        if before != job:
            raise UserError(
                f"{self.folder} was left by a prediction of other images or by other networks; "
                "delete it, or name another output"
            )

    def file(self, rows: range) -> Path:
        """The part file of a range."""
        return self.folder / f"{rows.start:09}.parquet"

    def missing(self) -> list[range]:
        """The ranges that are not done yet; a part that is damaged is not."""
        return [rows for rows in self.ranges if self._rows_in(rows) != len(rows)]

    def _rows_in(self, rows: range) -> int:
        try:
            return pyarrow.parquet.read_metadata(self.file(rows)).num_rows
        except (OSError, pyarrow.ArrowInvalid):
            return 0

    def write(self, rows: range, table: pyarrow.Table) -> None:
        """Writes the part file of a range."""
        with files.replacing(self.file(rows)) as unfinished:
            pyarrow.parquet.write_table(table, unfinished)

    def tables(self) -> Iterator[pyarrow.Table]:
        """The part files in order."""
        for rows in self.ranges:
            yield pyarrow.parquet.read_table(self.file(rows))


def check_output(output: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Checks that predictions can be written there, before any long work.

    Raises:
      UserError: another suffix, no such folder, or a file already.
    """
    if output.suffix not in suffixes:
        raise UserError(
            f"--output {output}: expected a name that ends with {' or '.join(suffixes)}"
        )
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    if output.exists():
        raise UserError(f"--output {output} is already there; delete it, or name another")


def write_table(table: pd.DataFrame, output: Path) -> None:
    """Writes a table that fits into memory, CSV or Parquet by the suffix."""
    with files.replacing(output) as unfinished:
        if output.suffix == ".csv":
            table.to_csv(unfinished, index=False, float_format=FORMAT)
        else:
            table.to_parquet(unfinished, index=False)


def predict_to_file(
    models: Sequence[Model],
    images: str,
    output: Path,
    *,
    views: int,
    shares: np.ndarray,
    readable: bool,
    report: Report,
    wanted: Wanted = CHALLENGE,
    size: int = RANGE,
) -> None:
    """Predicts images into a file, or resumes where that was interrupted.

    Args:
      models: one, or several of one tree.
      images: see `listing.list_images`.
      output: CSV or Parquet, by its suffix.
      views: test-time views averaged.
      shares: of each model in the mixture.
      readable: adds the columns of `describe.readable`.
      report: says how it goes.
      wanted: which columns.
      size: images a part file.

    Raises:
      UserError: nothing to predict, or nowhere to write.
    """
    check_output(output)
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
        "columns": [wanted.columns, wanted.volunteers, list(wanted.campaigns)],
    }
    tree = models[0].tree

    def table(ids: Sequence[str], some: Sequence[Predicted]) -> pyarrow.Table:
        return pyarrow.Table.from_pandas(table_of(tree, ids, some, wanted), preserve_index=False)

    write_in_parts(
        Parts(output, job, number, size),
        output,
        listed.ids,
        lambda rows: batches_of(models, listed, rows, views, shares),
        table,
        lambda parts: join(parts, output, tree, wanted, readable),
        report,
        "predicting images",
    )


def write_in_parts(
    parts: Parts,
    output: Path,
    ids: Sequence[str],
    batches_of: Callable[[range], Iterable[Any]],
    table_of: Callable[[Sequence[str], Sequence[Any]], pyarrow.Table],
    join: Callable[[Parts], int],
    report: Report,
    doing: str,
) -> None:
    """Writes the parts that are missing, joins all, and deletes them.

    Args:
      parts: of the output.
      output: that is written in the end.
      ids: of all images.
      batches_of: results of a range, a batch at a time; they have `faults`, one an image.
      table_of: GalaxyIDs and results of a range -> its table.
      join: writes the output, and says how many images could not be read.
      report: says how it goes.
      doing: what, in words.
    """
    number = len(ids)
    with files.locked(parts.folder / "lock"):
        missing = parts.missing()
        new = sum(map(len, missing))
        if new < number:
            report.say(f"resuming after {number - new} images that are done")
        done, began = number - new, time.perf_counter()
        with report.task(doing) as progress:
            for rows in missing:
                some = []
                for batch in batches_of(rows):
                    some.append(batch)
                    done += len(batch.faults)
                    progress(done, number)
                parts.write(rows, table_of(ids[rows.start : rows.stop], some))
        seconds = time.perf_counter() - began
        if new:
            report.say(f"{new} images in {seconds:.0f} s: {new / seconds:.1f} images/s")
        unreadable = join(parts)
    shutil.rmtree(parts.folder)
    report.say(f"{output}: {number - unreadable} galaxies")
    if unreadable:
        report.say(f"unreadable images: {unreadable}; see {output}.unreadable.csv")


def join(parts: Parts, output: Path, tree: Tree, wanted: Wanted, readable: bool) -> int:
    """Joins all parts into the output, and lists the images that could not be read.

    Returns:
      How many images could not be read.
    """
    dropped, faults, parquet = unwanted(tree, wanted), [], None
    with files.replacing(output) as unfinished:
        for number, part in enumerate(map(pyarrow.Table.to_pandas, parts.tables())):
            broken = part["fault"] != ""
            faults.append(part.loc[broken, ["GalaxyID", "fault"]])
            table = part[~broken].drop(columns="fault").reset_index(drop=True)
            numbers = list(table.columns[1:])
            if readable:
                fractions = table[list(tree.columns)].to_numpy(np.float32)
                table = pd.concat([table, describe.readable(fractions, tree)], axis=1)
            table = table.drop(columns=dropped)
            if output.suffix == ".csv":
                mode: Literal["a", "w"] = "a" if number else "w"
                table.to_csv(
                    unfinished, mode=mode, header=not number, index=False, float_format=FORMAT
                )
                continue
            # Columns of words are the others; an empty part would not say so.
            schema = pyarrow.schema(
                (name, pyarrow.float32() if name in numbers else pyarrow.string())
                for name in table.columns
            )
            parquet = parquet or pyarrow.parquet.ParquetWriter(unfinished, schema)
            parquet.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))
        if parquet is not None:
            parquet.close()
    return list_unreadable(output, pd.concat(faults))


def list_unreadable(output: Path, unreadable: pd.DataFrame) -> int:
    """Lists the images that could not be read beside the output, if any; says how many."""
    listed = output.with_name(f"{output.name}.unreadable.csv")
    listed.unlink(missing_ok=True)  # of an earlier prediction
    if len(unreadable):
        files.write_text(listed, unreadable.to_csv(index=False))
    return len(unreadable)
