"""Catalogues: which galaxies there are, what the crowd said of them, and which are kept apart.

A catalogue is a DataFrame with one row a galaxy, indexed by GalaxyID, with the 37 columns of
vote fractions in the tree's order and, for galaxies with an image on disk, `file`.
Whatever is left out is counted and listed with its reason, never silently.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2, Tree

CHALLENGE_TABLE = "training_solutions_rev1.csv"
SPLITS = ("train", "validation", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")

# The challenge's first table broke the tree's gates; the table of the second release holds them
# to 2e-6. Between them lies room for tables rounded to three digits.
GATE_TOLERANCE = 0.02
# More images missing or broken than this part of the catalogue is a mistake, not bad luck.
MOST_LEFT_OUT = 0.01
LEFT_OUT_COLUMNS = ("GalaxyID", "file", "reason")


class Catalogue(NamedTuple):
    """The galaxies of a run, and those that were left out (columns GalaxyID, file, reason)."""

    galaxies: pd.DataFrame
    left_out: pd.DataFrame


def read_table(path: Path, tree: Tree = GALAXY_ZOO_2) -> pd.DataFrame:
    """Reads and checks a table of vote fractions in the challenge's layout.

    Args:
      path: a CSV file with the columns GalaxyID and the tree's, in any order.
      tree: the decision tree.

    Returns:
      float32 columns in the tree's order, indexed by GalaxyID.

    Raises:
      UserError: no such file, a column missing, a GalaxyID twice, something that is no number, or
        lies outside [0, 1], or breaks a gate.
    """
    try:
        table = pd.read_csv(path, dtype={"GalaxyID": str})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a table of vote fractions") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as a CSV table: {error}") from None
    missing = [column for column in ("GalaxyID", *tree.columns) if column not in table.columns]
    if missing:
        raise UserError(
            f"{path}: expected the columns GalaxyID, {tree.columns[0]} ... {tree.columns[-1]}; "
            f"{len(missing)} missing: {', '.join(missing[:5])}{' ...' * (len(missing) > 5)}"
        )
    if table.empty:
        raise UserError(f"{path}: expected at least one galaxy, found none")
    if table["GalaxyID"].isna().any():
        raise UserError(f"{path}: line {_line(table['GalaxyID'].isna())} has no GalaxyID")
    twice = table["GalaxyID"].duplicated()
    if twice.any():
        raise UserError(
            f"{path}: GalaxyID {table['GalaxyID'][twice].iloc[0]} is there twice (again in line "
            f"{_line(twice)}); {twice.sum()} such in all"
        )
    fractions = table.set_index("GalaxyID")[list(tree.columns)]
    numbers = fractions.apply(pd.to_numeric, errors="coerce").astype(np.float32)
    wrong = ~numbers.ge(0) | ~numbers.le(1)
    if wrong.to_numpy().any():
        row, column = np.argwhere(wrong.to_numpy())[0]
        raise UserError(
            f"{path}: line {row + 2}, {tree.columns[column]}: expected a number in [0, 1], found "
            f"{fractions.iloc[row, column]}; {wrong.to_numpy().sum()} such in all"
        )
    check_gates(numbers, path, tree)
    return numbers


def check_gates(fractions: pd.DataFrame, path: Path, tree: Tree = GALAXY_ZOO_2) -> None:
    """Checks that every question's answers sum to the answer that led to it.

    Raises:
      UserError: a row that breaks a gate by more than rounding explains.
    """
    values = fractions.to_numpy(np.float64)
    sums = values @ tree.membership
    gates = np.stack(
        [
            np.ones(len(values)) if question.gate is None else values[:, question.gate]
            for question in tree.questions
        ],
        axis=1,
    )
    broken = np.abs(sums - gates)
    if broken.max() > GATE_TOLERANCE:
        rows = (broken > GATE_TOLERANCE).any(axis=1)
        row, position = np.unravel_index(broken.argmax(), broken.shape)
        question = tree.questions[position]
        raise UserError(
            f"{path}: {rows.sum()} of {len(values)} rows break the decision tree, the worst is "
            f"GalaxyID {fractions.index[row]}: the answers of question {question.number} sum to "
            f"{sums[row, position]:.3f}, expected {gates[row, position]:.3f}. The challenge's "
            f"first, withdrawn table does so; use {CHALLENGE_TABLE}"
        )


def check_name(name: str) -> str:
    """Why a GalaxyID or a path cannot be written into tables; an empty string if it can."""
    # Bytes that are no UTF-8 come as surrogates (Cs).
    if name.isprintable() or not any(unicodedata.category(part) in ("Cc", "Cs") for part in name):
        return ""
    return f"{name!a}: expected a name in UTF-8, without control characters"


def find_images(folder: Path) -> dict[str, Path]:
    """{GalaxyID: file} for each image directly in a folder, by the file's name.

    Raises:
      UserError: no such folder, a name that cannot be written, or two images of one GalaxyID.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected images named by GalaxyID")
    images: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            if fault := check_name(file.name):
                raise UserError(f"{folder}: {fault}")
            if file.stem in images:
                raise UserError(
                    f"{folder}: {images[file.stem].name} and {file.name} are images of one galaxy"
                )
            images[file.stem] = file
    return images


def is_16_bit_grey(image: Image.Image) -> bool:
    """Whether pixels are grey from 0 to 65535; some formats have Pillow keep them in 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def check_mode(image: Image.Image) -> str:
    """Why pixels of this kind cannot be used; an empty string if they can."""
    kind = {"F": "floating-point numbers", "I": "32-bit integers"}.get(image.mode)
    if kind is None or is_16_bit_grey(image):
        return ""
    return f"its pixels are {kind} (mode {image.mode}), expected colour or grey of 8 or 16 bits"


def check_image(file: Path, decode: bool = False) -> str:
    """Why an image cannot be used; an empty string if nothing is wrong.

    Always reads the header and, of a JPEG, the end-of-image marker that a truncated file lacks.

    Args:
      file: the image.
      decode: decode every pixel, too.
    """
    try:
        with Image.open(file) as image:
            if min(image.size) < 16:
                return f"too small: {image.size[0]} x {image.size[1]} pixels"
            if fault := check_mode(image):
                return f"not usable: {fault}"
            if decode:
                image.load()
            if image.format == "JPEG":
                with file.open("rb") as raw:
                    raw.seek(max(0, file.stat().st_size - 1024))
                    if b"\xff\xd9" not in raw.read():
                        return "truncated: no end-of-image marker"
    except Exception as error:  # Pillow's decoders raise many kinds
        return f"not readable as an image: {error}".replace(str(file), "the file")
    return ""


def read_catalogue(
    root: Path,
    *,
    table: str = CHALLENGE_TABLE,
    images: str = "images_training_rev1",
    decode: bool = False,
    tree: Tree = GALAXY_ZOO_2,
) -> Catalogue:
    """Reads a folder in the challenge's layout, or in that of the original student project.

    Args:
      root: holds `table` and the folder `images`; or, where it has no `table`, the tables
        `Class1.x.csv` with a folder `Class1.x` of images beside each.
      table: name of the table within `root`.
      images: name of the folder of images within `root`.
      decode: decode every image once to check it, instead of its header alone.
      tree: the decision tree.

    Returns:
      The galaxies that have both a row and a good image, in the order of their table, and a list
      of everything else.

    Raises:
      UserError: a fault in a table or a folder, or more than one per cent of the galaxies lost to
        missing or broken images.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --config.data.root names the folder of the data")
    student_tables = sorted(root.glob("Class1.*.csv"))
    if (root / table).exists() or not student_tables or table != CHALLENGE_TABLE:
        pairs = [(root / table, root / images)]
    else:
        pairs = [(path, path.with_suffix("")) for path in student_tables]
    fractions = pd.concat([read_table(path, tree) for path, _ in pairs])
    if fractions.index.has_duplicates:
        galaxy = fractions.index[fractions.index.duplicated()][0]
        raise UserError(f"{root}: GalaxyID {galaxy} is in more than one table")
    files: dict[str, Path] = {}
    for _, folder in pairs:
        files |= find_images(folder)

    reasons: dict[str, str] = {
        galaxy: "row without image" for galaxy in fractions.index if galaxy not in files
    }
    extra = {galaxy: "image without row" for galaxy in files if galaxy not in fractions.index}
    candidates = [galaxy for galaxy in fractions.index if galaxy not in reasons]
    with ThreadPoolExecutor() as pool:
        faults = pool.map(lambda galaxy: check_image(files[galaxy], decode), candidates)
        broken = {galaxy: fault for galaxy, fault in zip(candidates, faults, strict=True) if fault}
    reasons |= broken

    left_out = pd.DataFrame(
        [
            (galaxy, str(files.get(galaxy, "")), reason)
            for galaxy, reason in (reasons | extra).items()
        ],
        columns=list(LEFT_OUT_COLUMNS),
    )
    if len(reasons) > MOST_LEFT_OUT * len(fractions):
        galaxy, reason = next(iter(reasons.items()))
        raise UserError(
            f"{root}: {len(reasons)} of {len(fractions)} galaxies would be left out, more than "
            f"{MOST_LEFT_OUT:.0%}: {len(reasons) - len(broken)} without an image, {len(broken)} "
            f"with a broken one; the first is {galaxy} ({reason})"
        )
    galaxies = fractions.drop(index=list(reasons))
    return Catalogue(
        galaxies.assign(file=[str(files[galaxy]) for galaxy in galaxies.index]), left_out
    )


def fingerprint(galaxy_ids: Sequence[str], fractions: np.ndarray) -> str:
    """Changes with any GalaxyID or vote fraction, or their order."""
    digest = hashlib.sha256("\n".join(galaxy_ids).encode())
    digest.update(np.ascontiguousarray(fractions).tobytes())
    return digest.hexdigest()[:16]


def split(
    galaxy_ids: Iterable[str], seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> dict[str, np.ndarray]:
    """Keeps some of the galaxies apart for validation, and others for test.

    Each galaxy's place follows from its GalaxyID and the seed alone, so it stays where it is when
    galaxies are added or taken away, and no two runs disagree.

    Args:
      galaxy_ids: the GalaxyIDs.
      seed: another seed is another split.
      validation: which part of the galaxies.
      test: which part; a larger one holds all of a smaller.

    Returns:
      {"train" | "validation" | "test": int64[galaxies of the split], positions in `galaxy_ids`}.
    """
    digests = (
        hashlib.blake2b(f"{seed}:{galaxy}".encode(), digest_size=8).digest()
        for galaxy in galaxy_ids
    )
    # As far as from 0 to 1, evenly spread over all galaxies.
    places = np.array([int.from_bytes(digest) / 2**64 for digest in digests])
    in_test = places >= 1 - test
    in_validation = ~in_test & (places >= 1 - test - validation)
    return {
        "train": np.flatnonzero(~in_test & ~in_validation),
        "validation": np.flatnonzero(in_validation),
        "test": np.flatnonzero(in_test),
    }


def _line(rows: pd.Series) -> int:
    """The line in the file of the first row that is True; the header is line 1."""
    return int(np.flatnonzero(rows.to_numpy())[0]) + 2
