"""Catalogues: which galaxies there are, what the crowd said of them, and which are held out.

A catalogue is a DataFrame with one row a galaxy, indexed by GalaxyID, with the tree's columns of
cumulative vote fractions and `file`. Whatever is skipped is counted and listed with its reason,
never silently.
"""

import collections
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet
from jaxtyping import Float32

from gzjax.data.images import check_image, find_files
from gzjax.errors import UserError, one_line
from gzjax.tree import Tree

CHALLENGE_TABLE = "training_solutions_rev1.csv"
CHALLENGE_IMAGES = "images_training_rev1"

# The challenge's first table broke the tree's gates; the table of the second release holds them
# to 2e-6. Between them lies room for tables rounded to three digits.
GATE_TOLERANCE = 0.02
# More images missing or broken than this part of the catalogue is a mistake, not bad luck.
MOST_LEFT_OUT = 0.01
LEFT_OUT_COLUMNS = ["GalaxyID", "file", "reason"]


class Catalogue(NamedTuple):
    """The galaxies of a run, and those that are skipped (columns GalaxyID, file, reason)."""

    galaxies: pd.DataFrame
    left_out: pd.DataFrame


def read_table(path: Path, tree: Tree) -> pd.DataFrame:
    """Reads and checks a table of cumulative vote fractions.

    Its columns are GalaxyID and the tree's, in any order; others are ignored.

    Returns:
      float32 columns in the tree's order, indexed by GalaxyID.

    Raises:
      UserError: no such file, a column missing, a GalaxyID twice, something that is no number, or
        lies outside [0, 1], or breaks a gate.
    """
    wanted = ("GalaxyID", *tree.columns)
    table, _ = read_columns(
        path,
        wanted,
        dtype={"GalaxyID": str},
        skip_blank_lines=False,  # they count, too, when a line is named
        low_memory=False,
    )
    table = table.dropna(how="all")
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise UserError(
            f"{path}: expected the columns GalaxyID, {tree.columns[0]} ... {tree.columns[-1]}; "
            f"{len(missing)} missing: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
        )
    if table.empty:
        raise UserError(f"{path}: expected at least one galaxy, found none")
    table["GalaxyID"] = table["GalaxyID"].map(str, na_action="ignore")  # numbers, in Parquet
    lines = table.index.to_numpy() + 2  # the header is line 1
    nameless = table["GalaxyID"].isna().to_numpy()
    if nameless.any():
        raise UserError(f"{path}: line {lines[nameless][0]} has no GalaxyID")
    twice = table["GalaxyID"].duplicated().to_numpy()
    if twice.any():
        raise UserError(
            f"{path}: GalaxyID {table['GalaxyID'][twice].iloc[0]} is there twice (again in line "
            f"{lines[twice][0]}); {twice.sum()} such in all"
        )
    fractions = table.set_index("GalaxyID")[list(tree.columns)]
    numbers = fractions.apply(pd.to_numeric, errors="coerce").astype(np.float32)
    wrong = (~numbers.ge(0) | ~numbers.le(1)).to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: line {lines[row]}, {tree.columns[column]}: expected a number in [0, 1], "
            f"found {one_line(fractions.iloc[row, column])}; {wrong.sum()} such in all"
        )
    check_gates(numbers, path, tree)
    return numbers


def read_columns(
    path: Path, wanted: Sequence[str], **options: Any
) -> tuple[pd.DataFrame, list[str]]:
    """Those of the wanted columns that a CSV or Parquet table has, and the names of all of them.

    CSV tables may be compressed; `options` are those of `pandas.read_csv`.

    Raises:
      UserError: no such file, or one that is not readable.
    """
    try:
        if path.suffix.lower() == ".parquet":
            names = pyarrow.parquet.read_schema(path).names
            there = [name for name in names if name in wanted]
            return pd.read_parquet(path, columns=there), names
        options["index_col"] = False  # a comma at the end of each line would shift the columns
        names = list(pd.read_csv(path, nrows=0, **options).columns)
        return pd.read_csv(path, usecols=lambda name: name in wanted, **options), names
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table") from None
    except Exception as error:  # pandas, pyarrow and the decompressors raise many kinds
        raise UserError(f"{path}: not readable as a table: {one_line(error)}") from error


def check_gates(fractions: pd.DataFrame, path: Path, tree: Tree) -> None:
    """Checks that every question's answers sum to the part of the crowd that was asked it.

    Raises:
      UserError: a row that breaks a gate by more than rounding explains.
    """
    values = fractions.to_numpy(np.float64)
    sums, asked = values @ tree.membership, tree.asked(values)
    broken = np.abs(sums - asked)
    if broken.max() > GATE_TOLERANCE:
        rows = (broken > GATE_TOLERANCE).any(axis=1)
        row, position = np.unravel_index(broken.argmax(), broken.shape)
        question = tree.questions[position]
        advice = "The challenge's first, withdrawn table does so; use " + CHALLENGE_TABLE
        raise UserError(
            f"{path}: {rows.sum()} of {len(values)} rows break the decision tree {tree.name}, the "
            f"worst is GalaxyID {fractions.index[row]}: the answers of question {question.number} "
            f"({question.name}) sum to {sums[row, position]:.3f}, expected "
            f"{asked[row, position]:.3f}" + f". {advice}" * (tree.name == "gz2")
        )


def check_name(name: str) -> str:
    """Why a GalaxyID or a path cannot be written into tables; an empty string if it can."""
    # Bytes that are no UTF-8 come as surrogates (Cs).
    if name.isprintable() or not any(unicodedata.category(part) in ("Cc", "Cs") for part in name):
        return ""
    return f"{name!a}: expected a name in UTF-8, without control characters"


def find_images(folder: Path) -> dict[str, str]:
    """{GalaxyID: file} for each image in a folder or the folders within, by the file's name.

    Raises:
      UserError: no such folder, a name that cannot be written, or two images of one GalaxyID.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected images named by GalaxyID")
    files = find_files(folder)
    return by_galaxy([Path(file).stem for file in files], files, folder)


def by_galaxy(
    ids: Sequence[str], files: Sequence[str], where: object, advice: str = ""
) -> dict[str, str]:
    """{GalaxyID: file}; the message of a second image of one galaxy ends with `advice`.

    Raises:
      UserError: a name that cannot be written, or two images of one GalaxyID.
    """
    found: dict[str, str] = {}
    for galaxy, file in zip(ids, files, strict=True):
        if fault := check_name(file) or check_name(galaxy):
            raise UserError(f"{where}: {fault}")
        if galaxy in found:
            raise UserError(
                f"{where}: {found[galaxy]} and {file} are images of one galaxy, {galaxy}{advice}"
            )
        found[galaxy] = file
    return found


def read_catalogue(
    root: Path, *, tree: Tree, table: str, images: str, decode: bool = False
) -> Catalogue:
    """Reads a folder in the challenge's layout, or in that of the original student project.

    Args:
      root: holds `table` and the folder `images`; or, where it has no `table`, the tables
        `Class1.x.csv` with a folder `Class1.x` of images beside each.
      tree: of the table's columns.
      table: name of the table within `root`.
      images: name of the folder of images within `root`.
      decode: decode every image once to check it, instead of its header alone.

    Returns:
      The galaxies that have both a row and a good image, in the order of their table, and a list
      of everything else.

    Raises:
      UserError: a fault in a table or a folder, or more than one per cent of the galaxies lost to
        missing or broken images.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected the table and the images of galaxies")
    student_tables = sorted(root.glob("Class1.*.csv"))
    if (root / table).exists() or not student_tables or table != CHALLENGE_TABLE:
        pairs = [(root / table, root / images)]
    else:
        pairs = [(path, path.with_suffix("")) for path in student_tables]
    fractions = pd.concat([read_table(path, tree) for path, _ in pairs])
    if fractions.index.has_duplicates:
        galaxy = fractions.index[fractions.index.duplicated()][0]
        raise UserError(f"{root}: GalaxyID {galaxy} is in more than one table")
    files: dict[str, str] = {}
    for _, folder in pairs:
        files |= find_images(folder)

    skipped = _check_images(list(fractions.index), files, decode)
    check_left_out(skipped, len(fractions), root)
    known = set(fractions.index)
    extra = {galaxy: "image without row" for galaxy in files if galaxy not in known}
    galaxies = fractions.drop(index=list(skipped))
    return Catalogue(
        galaxies.assign(file=[files[galaxy] for galaxy in galaxies.index]),
        pd.DataFrame(
            [(galaxy, files.get(galaxy, ""), why) for galaxy, why in (skipped | extra).items()],
            columns=LEFT_OUT_COLUMNS,
        ),
    )


def _check_images(
    galaxies: Sequence[str], files: Mapping[str, str], decode: bool
) -> dict[str, str]:
    """{GalaxyID: why it is skipped}, those without an image first."""
    missing = {galaxy: "row without image" for galaxy in galaxies if galaxy not in files}
    found = [galaxy for galaxy in galaxies if galaxy not in missing]
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda galaxy: check_image(files[galaxy], decode), found)
        broken = {galaxy: fault for galaxy, fault in zip(found, faults, strict=True) if fault}
    return missing | broken


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
    ids: Sequence[str], fractions: Float32[np.ndarray, "galaxies answers"], tree: Tree
) -> str:
    """Changes with any GalaxyID or vote fraction, their order, or the tree."""
    questions = [(question.name, question.answers, question.gates) for question in tree.questions]
    digest = hashlib.sha256(json.dumps([list(ids), tree.name, tree.columns, questions]).encode())
    digest.update(np.ascontiguousarray(fractions).tobytes())
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
