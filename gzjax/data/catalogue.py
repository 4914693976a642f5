"""Catalogues: which galaxies there are, what the crowd said of them, and which are held out.

A catalogue is a DataFrame with one row a galaxy, indexed by GalaxyID, with the tree's columns of
votes and `file`. Whatever is skipped is counted and listed with its reason, never silently.
"""

import collections
import glob
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float32

from gzjax import remote
from gzjax.data import tables
from gzjax.data.columns import CHALLENGE_TABLE
from gzjax.data.framing import FitsSettings, Framing
from gzjax.data.images import Unusable, check_image, fault_text
from gzjax.data.names import by_galaxy
from gzjax.data.parquet import NO_IMAGE, Cells, ParquetImages
from gzjax.data.paths import Encoded, find_files, name_of, path_of
from gzjax.data.rows import any_there, column_names, cutouts_advice, is_prediction
from gzjax.data.tables import LEFT_OUT_COLUMNS, MOST_LEFT_OUT
from gzjax.errors import UserError
from gzjax.tree import Tree

# Images that a thread checks at a time: each task costs memory of its own.
PIECE = 64


class Catalogue(NamedTuple):
    """The galaxies of a run, and those that are skipped.

    galaxies: indexed by GalaxyID: votes in the tree's columns, and `file`, where the image is.
    left_out: GalaxyID, file and reason of the others.
    embedded: the images, if they are inside the tables.
    about: what was found in the tables, in one line.
    """

    galaxies: pd.DataFrame
    left_out: pd.DataFrame
    embedded: Cells | None
    about: str


def find_images(folder: Path) -> dict[str, str]:
    """{GalaxyID: file} for each image in a folder or the folders within, by the file's name.

    Raises:
      UserError: no such folder, a name that cannot be written, or two images of one GalaxyID.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected images named by GalaxyID")
    files = list(find_files(folder))
    return by_galaxy([name_of(file) for file in files], files, folder)


def read_catalogue(
    root: Path,
    *,
    tree: Tree,
    table: str,
    images: str,
    decode: bool = False,
    votes_per_galaxy: float = 40.0,
    kind: str = "auto",
    fits: FitsSettings = FitsSettings(),  # noqa: B008
) -> Catalogue:
    """Reads the tables of a folder, and finds the images.

    These are where the table's column of files says, if one of the first hundred is there; or
    inside the table, a Parquet file; or else in a folder, named by GalaxyID.

    Args:
      root: holds `table` and the folder `images`. Where it has no `table` of the challenge's name:
        the tables `Class1.x.csv` with a folder `Class1.x` of images beside each; or else all
        Parquet files in it and up to two folders down, such as the shards of one dataset.
      tree: of the table's columns.
      table: name of the table within `root`, or a pattern that fits several.
      images: name of the folder of images within `root`.
      decode: decode every image once to check it, instead of its header alone.
      votes_per_galaxy: how many volunteers there were, where only fractions tell.
      kind: of votes; see `tables.read`.
      fits: how FITS images are read, to check them.

    Returns:
      The galaxies that have both votes and a good image, in the order of their table, and a list
      of everything else.

    Raises:
      UserError: a fault in a table or a folder, or more than one per cent of the galaxies lost to
        missing or broken images.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected the table and the images of galaxies")
    paths, folders = _find_tables(root, table, images)
    found = tables.read(paths, tree, votes_per_galaxy=votes_per_galaxy, kind=kind)
    ids, embedded = list(found.votes.index), None
    extra: dict[str, str] = {}
    if found.files is not None and any_there(found.files):
        files = by_galaxy(ids, found.files, root)
        missing = [galaxy for galaxy, file in files.items() if not os.path.isfile(path_of(file))]
    elif found.embedded is not None:
        embedded = found.embedded
        files, missing = by_galaxy(ids, embedded.names, root), []
    else:
        if url := next((file for file in found.files or () if remote.is_remote(file)), None):
            raise UserError(
                f"{paths[0]}: expected files on a local disk to train on, found {url}; download "
                "the images, or predict them where they are"
            )
        nowhere = not any(folder.is_dir() for folder in folders)
        if nowhere and found.files is not None:
            raise UserError(
                f"{paths[0]}: expected the images that its column of files names, or {folders[0]}; "
                f"found neither, such as {next(filter(None, found.files), 'an empty cell')}"
            )
        advice = cutouts_advice(column_names(paths[0]))
        if nowhere and advice:
            raise UserError(
                f"{paths[0]}: expected images, as a column of files or in {folders[0]}, found "
                f"neither{advice}"
            )
        files = {}
        for folder in folders:
            files |= find_images(folder)
        missing = [galaxy for galaxy in ids if galaxy not in files]
        known = {*ids, *found.left_out["GalaxyID"]}
        extra = {galaxy: "image without row" for galaxy in files if galaxy not in known}
    skipped = dict.fromkeys(missing, NO_IMAGE)
    there = [(galaxy, n) for n, galaxy in enumerate(ids) if galaxy not in skipped]
    if embedded is None:
        skipped |= _check_images(there, lambda galaxy, _: files[galaxy], decode, fits)
    else:
        cells = ParquetImages(embedded, Framing())
        skipped |= _check_images(there, lambda _, position: cells.encoded(position), decode, fits)
    check_left_out(skipped, len(ids), root)
    kept = ~found.votes.index.isin(list(skipped))
    galaxies = found.votes[kept]
    lost = [(galaxy, files.get(galaxy, ""), why) for galaxy, why in (skipped | extra).items()]
    return Catalogue(
        galaxies.assign(file=[files[galaxy] for galaxy in galaxies.index]),
        pd.concat(
            [found.left_out, pd.DataFrame(lost, columns=LEFT_OUT_COLUMNS)], ignore_index=True
        ),
        embedded.take(kept) if embedded else None,
        found.about,
    )


def _find_tables(root: Path, table: str, images: str) -> tuple[list[Path], list[Path]]:
    """The tables, and the folders of images named by GalaxyID."""
    if not (root / table).exists():
        matches = [root / name for name in sorted(glob.glob(table, root_dir=root, recursive=True))]
        if matches:
            return _of_people(matches), [root / images]
        if table == CHALLENGE_TABLE:
            if students := sorted(root.glob("Class1.*.csv")):
                return students, [path.with_suffix("") for path in students]
            levels = (sorted(root.glob(f"{depth}*.parquet")) for depth in ("", "*/", "*/*/"))
            shards = [path for level in levels for path in level]
            if shards := [path for path in shards if not _is_hidden(path.relative_to(root))]:
                return _of_people(shards), [root / images]
    return [root / table], [root / images]


def _of_people(paths: list[Path]) -> list[Path]:
    """The same tables, which were found, not named; a UserError if a model predicted one."""
    for path in paths:
        if is_prediction(path):
            raise UserError(
                f"{path}: what a model predicts, found beside the volunteers' votes; move it to "
                "another folder, or name the table of the votes (data.table)"
            )
    return paths


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _check_images(
    galaxies: Sequence[tuple[str, int]],
    source: Callable[[str, int], Encoded],
    decode: bool,
    fits: FitsSettings,
) -> dict[str, str]:
    """{GalaxyID: why it is skipped}; `source` gives the path or the bytes of an image."""

    def fault(galaxy: tuple[str, int]) -> str:
        try:
            encoded = source(*galaxy)
        except Unusable as error:
            return fault_text(error)
        return check_image(encoded, decode, fits)

    def faults(first: int) -> list[str]:
        return [fault(galaxy) for galaxy in galaxies[first : first + PIECE]]

    with ThreadPoolExecutor() as pool:
        found = itertools.chain.from_iterable(pool.map(faults, range(0, len(galaxies), PIECE)))
        return {name: why for (name, _), why in zip(galaxies, found, strict=True) if why}


def check_left_out(skipped: Mapping[str, str], galaxies: int, where: object) -> None:
    """Checks that no more galaxies are skipped than bad luck explains.

    `skipped` is {GalaxyID: reason}; `galaxies` counts those, too.

    Raises:
      UserError: more than `MOST_LEFT_OUT` of them; counts the reasons and names one galaxy.
    """
    if len(skipped) > MOST_LEFT_OUT * galaxies:
        counts = collections.Counter(reason.partition(":")[0] for reason in skipped.values())
        galaxy, reason = next(iter(skipped.items()))
        raise UserError(
            f"{where}: {len(skipped)} of {galaxies} galaxies would be skipped, more than "
            f"{MOST_LEFT_OUT:.0%}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}; the "
            f"first is {galaxy} ({reason})"
        )


def fingerprint(
    ids: Sequence[str], votes: Float32[np.ndarray, "galaxies answers"], tree: Tree
) -> str:
    """Changes with any GalaxyID or vote, their order, or the tree."""
    questions = [(question.name, question.answers, question.gates) for question in tree.questions]
    digest = hashlib.sha256(json.dumps([list(ids), tree.name, tree.columns, questions]).encode())
    # There are many NaNs, which differ in their bits alone.
    digest.update(np.where(np.isnan(votes), votes.dtype.type(np.nan), votes).tobytes())
    return digest.hexdigest()[:16]


def split(ids: Iterable[str], seed: int, validation: float, test: float) -> dict[str, np.ndarray]:
    """Holds out some of the galaxies for validation, and others for test.

    Each galaxy's place follows from its GalaxyID and the seed alone, so it stays where it is when
    galaxies are added or taken away, and no two runs disagree.

    Args:
      ids: GalaxyIDs.
      seed: another seed is another split.
      validation: which part of the galaxies.
      test: which part; a larger one holds all of a smaller.

    Returns:
      {"train" | "validation" | "test": int64[galaxies of the split], positions in `ids`}.
    """
    digests = (hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in ids)
    # Evenly spread from 0 to 1.
    places = np.array([int.from_bytes(digest) / 2**64 for digest in digests])
    in_test = places >= 1 - test
    in_validation = ~in_test & (places >= 1 - test - validation)
    return {
        "train": np.flatnonzero(~in_test & ~in_validation),
        "validation": np.flatnonzero(in_validation),
        "test": np.flatnonzero(in_test),
    }
