"""Many images in parts: what is done of them stays done, whatever interrupts the rest.

Images are taken in ranges of their listing. Each range becomes a Parquet file in the folder
`OUTPUT.parts`, whole or not there, so an interrupted command resumes with the first range that is
missing. At the end they are joined into the output and, if any image could not be read,
`OUTPUT.unreadable.csv`. No table is ever in memory as a whole.

Several processes may share the work, each with every n-th range; whichever is last joins them. An
output without a suffix is a folder whose parts stay as they are: a dataset for pandas, Arrow,
DuckDB and others, which skip files that begin with an underscore.
"""

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet

from gzjax import files, remote
from gzjax.data.listing import Listing
from gzjax.errors import UserError, one_line
from gzjax.run.model import Model
from gzjax.run.report import Report

# Published fractions have six digits; more would be noise.
FORMAT = "%.6f"
RANGE = 4096  # images per part file
JOB, LOCK = "_job.json", "_lock"
SUFFIXES = (".csv", ".parquet")  # of tables that are written
WITH_FOLDERS = (*SUFFIXES, "")


class Parts:
    """The part files of a prediction, tables with a column `fault`.

    Args:
      output: of the prediction.
      job: what is predicted, and by what; parts of another job are refused.
      number: of images.
      size: images per part.
      share: which of the parts are this process's: (2, 8) is the second of eight shares.

    Where the output is there already, joined by another share, nothing is made.

    Raises:
      UserError: parts of another job, or an output of another.
    """

    def __init__(
        self,
        output: Path,
        job: Mapping[str, Any],
        number: int,
        size: int = RANGE,
        share: tuple[int, int] = (1, 1),
    ):
        self.output, self.stay = output, not output.suffix
        self.folder = output if self.stay else output.with_name(f"{output.name}.parts")
        self.ranges = [range(n, min(n + size, number)) for n in range(0, number, size)]
        self.share = share
        # As JSON has it, which knows no tuples.
        self.job: dict[str, Any] = json.loads(json.dumps({**job, "range": size}))
        if self.joined:
            if files.read_json(self.joined_job) != self.job:
                raise there_already(output)
            return
        self.folder.mkdir(exist_ok=True)
        file = self.folder / JOB
        try:
            before = dict(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            files.write_json(file, self.job)
            before = self.job
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}: damaged ({one_line(error)}); delete the folder") from None
        names = self.job | before
        if changed := [name for name in names if before.get(name) != self.job.get(name)]:
            raise UserError(
                f"{self.folder} was left by a command with different {', '.join(changed)}; give "
                "that one again, delete the folder, or name another output"
            )

    @property
    def joined(self) -> bool:
        """Whether the output is there, as a whole."""
        return not self.stay and self.output.exists()

    @property
    def joined_job(self) -> Path:
        """What shares that come after the join know the output by."""
        return self.output.with_name(f"{self.output.name}.job.json")

    def file(self, rows: range) -> Path:
        """The part file of a range."""
        return self.folder / f"{rows.start:09}.parquet"

    @property
    def lock(self) -> Path:
        """Of this share."""
        number, shares = self.share
        return self.folder / (LOCK if shares == 1 else f"{LOCK}-{number}-of-{shares}")

    @property
    def mine(self) -> list[range]:
        """The ranges of this share."""
        number, shares = self.share
        return self.ranges[number - 1 :: shares]

    def missing(self, ranges: Sequence[range]) -> list[range]:
        """Those of some ranges that are not done yet; a part that is damaged is not."""
        return [rows for rows in ranges if self._rows_in(rows) != len(rows)]

    def _rows_in(self, rows: range) -> int:
        try:
            with self.file(rows).open("rb") as file:
                return pyarrow.parquet.read_metadata(file).num_rows
        except (OSError, pyarrow.ArrowInvalid):
            return 0

    def write(self, rows: range, table: pyarrow.Table) -> None:
        """Writes the part file of a range."""
        with files.replacing(self.file(rows)) as unfinished:
            pyarrow.parquet.write_table(table, unfinished, write_page_checksum=True)

    def tables(self) -> Iterator[pyarrow.Table]:
        """The part files in order.

        Raises:
          UserError: one is damaged.
        """
        for rows in self.ranges:
            with self.file(rows).open("rb") as file:
                try:
                    table = pyarrow.parquet.read_table(file, page_checksum_verification=True)
                except (OSError, pyarrow.ArrowInvalid) as error:
                    raise UserError(
                        f"{self.file(rows)}: damaged ({one_line(error)}); delete it, and the same "
                        "command makes it again"
                    ) from None
            yield table


def check_output(
    output: Path, suffixes: Sequence[str] = SUFFIXES, share: tuple[int, int] = (1, 1)
) -> None:
    """Checks that predictions can be written there, before any long work.

    Raises:
      UserError: another suffix, no such folder, or something there that is neither an unfinished
        dataset nor, of one share of several, what the others may have joined by now.
    """
    if output.suffix not in suffixes:
        named = " or ".join(suffix for suffix in suffixes if suffix)
        folder = ", or one without a suffix for a folder of parts" * ("" in suffixes)
        raise UserError(f"output {output}: expected a name that ends with {named}{folder}")
    if remote.is_remote(output):
        remote.check([str(output)])
    elif not output.parent.is_dir():
        raise UserError(f"output {output}: there is no folder {output.parent}")
    joined = output.is_file() and share != (1, 1)
    if output.exists() and not (output / JOB).exists() and not joined:
        raise there_already(output)


def there_already(output: Path) -> UserError:
    """What to raise where an output is there that is not this command's."""
    return UserError(f"output {output} is already there; delete it, or name another")


# Models, some images -> their table; the last argument is told of each batch how many it has.
See = Callable[[Sequence[Model], Listing, Callable[[int], None]], pyarrow.Table]
# What has others see parts of a whole: (see, ranges and their parts) -> tables, in any order. It is
# also used to pack, whose parts are shards and whose tables are lists of faults.
Engine = Callable[
    [Callable[..., Any], Iterable[tuple[range, Any]]], Generator[tuple[range, Any], None, None]
]


def write_in_parts(
    parts: Parts,
    models: Sequence[Model],
    listed: Listing,
    see: See,
    join: Callable[[Iterable[pyarrow.Table], Path], None],
    report: Report,
    doing: str,
    engine: Engine | None = None,
) -> None:
    """Writes the parts of this share that are missing; if all are there then, joins them.

    Args:
      parts: of the output that is written in the end.
      models: that see the images.
      listed: all images.
      see: gives the table of a range, with the columns `GalaxyID` and `fault`; to be pickled, if
        there is an engine.
      join: writes the output of the tables of all ranges, without images that have a fault.
      report: says how it goes.
      doing: what, in words.
      engine: has other processes do it, with models of their own; None: this one does.
    """
    if parts.joined:
        report.say(f"{parts.output}: is there already, joined by another process; nothing is done")
        return
    number = sum(map(len, parts.mine))
    with files.locked(parts.lock):
        missing = parts.missing(parts.mine)
        new = sum(map(len, missing))
        if new < number:
            report.say(f"resuming after {number - new} images that are done")
        done, began = number - new, time.perf_counter()
        tasks = ((rows, listed.part(rows)) for rows in missing)
        with report.task(doing) as progress:

            def seen(images: int) -> None:
                nonlocal done
                done += images
                progress(done, number)

            if engine is None:
                for rows, part in tasks:
                    parts.write(rows, see(models, part, seen))
            else:
                for rows, table in engine(see, tasks):
                    parts.write(rows, table)
                    seen(len(rows))
        seconds = time.perf_counter() - began
        if new:
            report.say(f"{new} images in {seconds:.0f} s: {new / seconds:.1f} images/s")
    if parts.joined:
        report.say(f"{parts.output}: joined by another process")
    elif others := len(parts.missing(parts.ranges)):
        number, shares = parts.share
        report.say(f"share {number} of {shares} is done; {others} parts of others are missing")
    elif parts.stay:
        report.say(f"{parts.output}: {len(listed.ids)} galaxies in {len(parts.ranges)} parts")
    else:
        _finish(parts, len(listed.ids), join, report)


def _finish(
    parts: Parts,
    number: int,
    join: Callable[[Iterable[pyarrow.Table], Path], None],
    report: Report,
) -> None:
    """Joins the parts, and deletes them, unless another process does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.locked(parts.folder / LOCK))
        except (UserError, FileNotFoundError):
            if parts.share == (1, 1):
                raise
            report.say("the parts are joined by another process")
            return
        if parts.joined:
            report.say(f"{parts.output}: joined by another process")
            return
        if all(pc.all(pc.not_equal(table["fault"], "")).as_py() for table in parts.tables()):
            first = next(parts.tables())["fault"][0].as_py()
            raise UserError(
                f"{parts.output}: none of {number} images could be read, the first because: "
                f"{first}; delete {parts.folder} to try again"
            )
        parts.joined_job.unlink(missing_ok=True)  # of an earlier prediction
        if parts.share != (1, 1):
            files.write_json(parts.joined_job, parts.job)
        unreadable = join_parts(parts, join)
    report.say(f"{parts.output}: {number - unreadable} galaxies")
    if unreadable:
        report.say(f"unreadable images: {unreadable}; see {parts.output}.unreadable.csv")
    try:  # after its lock was released: NFS keeps a file that somebody has open
        files.remove_folder(parts.folder)
    except OSError as error:
        report.say(f"{parts.folder}: no longer needed, but not deleted ({one_line(error)})")


def join_parts(parts: Parts, join: Callable[[Iterable[pyarrow.Table], Path], None]) -> int:
    """Joins all parts into the output, and lists the images that could not be read beside it.

    Returns:
      How many images could not be read.
    """
    output, unreadable = parts.output, 0
    listed = output.with_name(f"{output.name}.unreadable.csv")
    listed.unlink(missing_ok=True)  # of an earlier prediction
    with contextlib.ExitStack() as stack:

        def whole() -> Iterator[pyarrow.Table]:
            nonlocal unreadable
            for table in parts.tables():
                broken = pc.not_equal(table["fault"], "")
                faults = table.select(["GalaxyID", "fault"]).filter(broken).to_pandas()
                if len(faults):
                    if not unreadable:
                        unfinished = stack.enter_context(files.replacing(listed))
                    faults.to_csv(unfinished, mode="a", header=not unreadable, index=False)
                unreadable += len(faults)
                yield table.filter(pc.invert(broken)).drop_columns("fault")

        with files.replacing(output) as unfinished_output:
            join(whole(), unfinished_output)
    return unreadable


def write_parquet(
    tables: Iterable[pyarrow.Table], file: Path, metadata: Mapping[bytes, bytes] | None = None
) -> None:
    """Writes tables below each other, a row group each."""
    writer = None
    for table in tables:
        if metadata is not None:
            table = table.replace_schema_metadata(metadata)
        writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def write_table(table: pd.DataFrame, output: Path) -> None:
    """Writes a table that fits into memory, CSV or Parquet by the suffix."""
    with files.replacing(output) as unfinished:
        if output.suffix == ".csv":
            table.to_csv(unfinished, index=False, float_format=FORMAT)
        else:
            table.to_parquet(unfinished, index=False)
