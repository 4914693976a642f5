"""Vote fractions of images that nobody voted on, written as they are computed.

Beside the output, `OUTPUT.partial` holds a line for every image that is done, in order, so that
an interrupted prediction goes on where it was; at the end it becomes the output and, if any image
could not be read, `OUTPUT.unreadable.csv`. No table is ever in memory as a whole.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from gzjax import words
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2, Tree

# Published fractions have six digits; more would be noise.
FORMAT = "%.6f"
CHUNK = 10_000  # rows in memory when the output is put together


def check_output(output: Path) -> None:
    """Checks that predictions can be written there, before any long work.

    Raises:
      UserError: a suffix that says neither CSV nor Parquet, no such folder, or a file already.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UserError(f"--output {output}: expected a name that ends with .csv or .parquet")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    if output.exists():
        raise UserError(f"--output {output} is already there; delete it, or name another")


class Partial:
    """The lines of a prediction that are done.

    Args:
      output: of the prediction.
      job: what is predicted, and by what; lines of another job are not gone on with.

    Raises:
      UserError: lines of another job.
    """

    def __init__(self, output: Path, job: Mapping[str, Any], tree: Tree = GALAXY_ZOO_2):
        self.path = output.with_name(f"{output.name}.partial")
        self.answers = tree.columns
        self.header = ["GalaxyID", *tree.columns, "fault"]
        self.done = 0
        first = json.dumps(job, sort_keys=True)
        if self.path.exists():
            with self.path.open("rb+") as file:
                if file.readline().decode().strip() != first:
                    raise UserError(
                        f"{self.path} was left by a prediction of other images or by other "
                        "networks; delete it, or name another --output"
                    )
                file.readline()
                end = file.tell()
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # what was being written when it was interrupted
                    end += len(line)
                    self.done += 1
                file.truncate(end)
        else:
            # Under its name only with both lines: half of them would be lines of another job.
            beginning = self.path.with_name(f"{self.path.name}.new")
            beginning.write_text(f"{first}\n{','.join(self.header)}\n")
            beginning.replace(self.path)

    def append(self, ids: Sequence[str], fractions: np.ndarray, faults: Sequence[str]) -> None:
        """Adds a batch: float[galaxies, answers], and why an image could not be read, or ''."""
        rows = [
            [galaxy, *([""] * len(values) if fault else [FORMAT % v for v in values]), fault]
            for galaxy, values, fault in zip(ids, fractions, faults, strict=True)
        ]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        self.done += len(rows)

    def chunks(self) -> Iterator[pd.DataFrame]:
        """All lines so far, some at a time; fractions float32, `fault` '' where there is none."""
        yield from pd.read_csv(
            self.path,
            skiprows=1,
            chunksize=CHUNK,
            dtype={"GalaxyID": str, "fault": str} | dict.fromkeys(self.answers, np.float32),
            keep_default_na=False,
            na_values={column: [""] for column in self.answers},
        )


def finish(partial: Partial, output: Path, readable: bool) -> int:
    """Puts the output together, and the list of images that could not be read.

    Args:
      partial: with a line for every image.
      output: CSV or Parquet, by its suffix; in the challenge's header.
      readable: adds the columns of `words.readable`.

    Returns:
      How many images could not be read.
    """
    unfinished = output.with_name(f"{output.name}.unfinished")
    faults: list[pd.DataFrame] = []
    parquet = None
    for number, chunk in enumerate(partial.chunks()):
        broken = chunk["fault"] != ""
        faults.append(chunk.loc[broken, ["GalaxyID", "fault"]])
        table = chunk[~broken].drop(columns="fault").reset_index(drop=True)
        if readable:
            fractions = table[table.columns[1:]].to_numpy()
            table = pd.concat([table, words.readable(fractions)], axis=1)
        if output.suffix == ".csv":
            table.to_csv(
                unfinished,
                mode="a" if number else "w",
                header=not number,
                index=False,
                float_format=FORMAT,
            )
        else:
            # Columns of words are the others; an empty chunk would not say so.
            schema = pyarrow.schema(
                (column, pyarrow.float32() if column in partial.answers else pyarrow.string())
                for column in table.columns
            )
            parquet = parquet or pyarrow.parquet.ParquetWriter(unfinished, schema)
            parquet.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))
    if parquet is not None:
        parquet.close()
    unreadable = pd.concat(faults)
    listed = output.with_name(f"{output.name}.unreadable.csv")
    listed.unlink(missing_ok=True)  # of an earlier prediction
    if len(unreadable):
        unreadable.to_csv(listed, index=False)
    unfinished.rename(output)
    partial.path.unlink()
    return len(unreadable)
