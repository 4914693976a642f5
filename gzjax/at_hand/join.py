"""Votes and images that are published apart, as one table that training reads.

The table has `id_str`, `file_loc` relative to its folder, and the counts of votes; galaxies without
an image are left out and counted.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gzjax.data.paths import find_files, name_of
from gzjax.errors import UserError
from gzjax.files import replacing


class Joined(NamedTuple):
    """A joined table: its name, how many galaxies it has, and how many had no image."""

    name: str
    galaxies: int
    without_image: int


def join(kind: str, folder: Path) -> Joined:
    """Writes the table of a downloaded set into its folder.

    Args:
      kind: `gz2` or `decals`, as `Published.table` says.
      folder: holds the unpacked images and the tables.

    Raises:
      UserError: a table lacks a column, or no galaxy has an image.
    """
    votes, images = _KINDS[kind](folder)
    places = {name_of(file): str(Path(file).relative_to(folder)) for file in find_files(folder)}
    files = images.map(places)
    there = files.notna().to_numpy()
    if not there.any():
        raise UserError(
            f"{folder}: expected images such as {', '.join(images.head(2))}, found "
            f"{', '.join(list(places)[:2]) or 'none'}"
        )
    kept = votes[there].assign(file_loc=files[there].to_numpy())
    name = f"{kind}.parquet"
    with replacing(folder / name) as unfinished:
        kept.to_parquet(unfinished, index=False)
    return Joined(name, len(kept), len(votes) - len(kept))


def _gz2(folder: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Counts of Hart et al. 2016, and the image of each galaxy by the record's list."""
    votes_file = folder / "gz2_hart16.csv.gz"
    votes = pd.read_csv(
        votes_file,
        dtype={"dr7objid": str},
        usecols=_is_used,
    )
    _check(votes, ["dr7objid", "t01_smooth_or_features_a01_smooth_count"], votes_file)
    mapping_file = folder / "gz2_filename_mapping.csv"
    mapping = pd.read_csv(mapping_file, dtype=str)
    _check(mapping, ["objid", "sample", "asset_id"], mapping_file)
    # Some galaxies were shown twice: the image that the main sample's votes are of goes first.
    other = mapping["sample"].ne("original")
    order = mapping.assign(other=other).sort_values("other", kind="stable")
    images = order.drop_duplicates("objid").set_index("objid")["asset_id"]
    votes = votes.rename(columns={"dr7objid": "id_str"}).drop_duplicates("id_str")
    return votes, votes["id_str"].map(images).fillna("")


def _is_used(name: str) -> bool:
    return name == "dr7objid" or re.fullmatch(r"t\d\d_.*_count", name) is not None


def _decals(folder: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Counts of the fifth data release's volunteers; images are called by the IAU name."""
    file = folder / "gz_decals_volunteers_5.parquet"
    votes = pd.read_parquet(file)
    _check(votes, ["iauname", "smooth-or-featured_smooth"], file)
    wanted = [
        name for name in votes.columns.astype(str) if not re.search("_(fraction|debiased)$", name)
    ]
    votes = votes[wanted].rename(columns={"iauname": "id_str"}).drop_duplicates("id_str")
    votes["id_str"] = votes["id_str"].astype(str)
    return votes.drop(columns=["file_loc", "png_loc"], errors="ignore"), votes["id_str"]


_KINDS: dict[str, Callable[[Path], tuple[pd.DataFrame, pd.Series]]] = {
    "gz2": _gz2,
    "decals": _decals,
}


def _check(table: pd.DataFrame, columns: list[str], file: Path) -> None:
    for column in columns:
        if column not in table:
            found = ", ".join(map(str, table.columns[:4]))
            raise UserError(f"{file}: expected a column {column}, found {found}, ...")
