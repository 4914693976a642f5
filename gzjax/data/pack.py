"""Packs: galaxies that were decoded, cropped and rescaled once, to be read many times.

A pack is a folder:

    manifest.json              what the pack is made of; written last, so that it is there only
                               when all the rest is, too
    galaxies.npz               `ids` and `fractions` float32[galaxies, answers], in the pack's order
    00000-of-00061.arecord     ArrayRecord shards, of about a thousand galaxies each

A record is a galaxy, its parts one after the other:

    image                      uint8[canvas, canvas, 3]
    vote fractions             float32[answers], little-endian
    GalaxyID                   UTF-8, up to the record's end

Records are not compressed, and each is an ArrayRecord group of its own: compressed ones (zstd,
half as large) take more than twice as long to read, groups of eight five times.

`gzjax.data.packing` writes packs; here they are read.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import pandas as pd

from gzjax.data import catalog
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2

# Count up whenever older packs can no longer be read.
FORMAT = 1

MANIFEST, UNFINISHED, TABLE = "manifest.json", "unfinished.json", "galaxies.npz"


class PackedImages:
    """Images of a pack, read when asked for, by any thread; files are opened at their first use.

    Args:
      files: the shards.
      galaxies: how many are in each.
      canvas: pixels a side.
    """

    def __init__(self, files: Sequence[Path], galaxies: Sequence[int], canvas: int):
        self.files = list(files)
        self.ends = np.cumsum(galaxies)
        self.shape = (sum(galaxies), canvas, canvas, 3)
        # Told how many galaxies there are, it need not open the files to see.
        self.records = grain.sources.ArrayRecordDataSource(
            [f"{file}[0:{count}]" for file, count in zip(files, galaxies, strict=True)]
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, position: int) -> np.ndarray:
        try:
            record = self.records[position]
        except RuntimeError as error:  # a checksum within the shard does not hold
            file = self.files[np.searchsorted(self.ends, position, side="right")]
            raise OSError(f"{file}: {error}") from error
        return from_record(record, self.shape[1])[0]


def to_record(image: np.ndarray, fractions: np.ndarray, galaxy: str) -> bytes:
    """The record of one galaxy; see the module's docstring."""
    return image.tobytes() + fractions.astype("<f4").tobytes() + galaxy.encode()


def from_record(record: bytes, canvas: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Image, vote fractions and GalaxyID of a record."""
    pixels = canvas * canvas * 3
    image = np.frombuffer(record, np.uint8, pixels).reshape(canvas, canvas, 3)
    fractions = np.frombuffer(record, "<f4", GALAXY_ZOO_2.size, pixels)
    return image, fractions, record[pixels + fractions.nbytes :].decode()


class Pack(NamedTuple):
    """What is read of a pack; see `gzjax.data.dataset.Data`."""

    ids: tuple[str, ...]
    images: PackedImages
    fractions: np.ndarray
    left_out: pd.DataFrame
    label: str


def read(folder: Path, *, crop: float, canvas: int) -> Pack:
    """Opens a pack; images are read when asked for.

    Args:
      folder: of the pack.
      crop: expected of it; see `sources.read_image`.
      canvas: expected of it.

    Raises:
      UserError: no pack, a half-written or damaged one, one of another format, crop or canvas.
    """
    manifest = _read_manifest(folder)
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{folder / MANIFEST}: expected a pack of format {FORMAT}, found "
            f"{manifest.get('format')}; pack the galaxies again, into another folder"
        )
    if manifest["columns"] != list(GALAXY_ZOO_2.columns):
        raise UserError(f"{folder / MANIFEST}: the pack's vote fractions are of another tree")
    for option, expected in (("crop", crop), ("canvas", canvas)):
        if manifest[option] != expected:
            raise UserError(
                f"--config.data.{option}: {expected}, but {folder} was packed with "
                f"{manifest[option]}; set it so, or pack the galaxies again, into another folder"
            )
    if fault := damage(folder, manifest):
        raise UserError(f"{fault}; {_again(folder)} mends the pack")
    ids, fractions = _read_table(folder / TABLE)
    return Pack(
        ids=ids,
        images=PackedImages(
            [folder / shard["file"] for shard in manifest["shards"]],
            [shard["galaxies"] for shard in manifest["shards"]],
            canvas,
        ),
        fractions=fractions,
        left_out=pd.DataFrame(manifest["left_out"], columns=list(catalog.LEFT_OUT_COLUMNS)),
        label=manifest["label"],
    )


def is_pack(folder: Path) -> bool:
    """Whether there is a pack in a folder, be it half-written."""
    whole = (folder / MANIFEST).exists() and (folder / TABLE).exists()
    return whole or (folder / UNFINISHED).exists()


def read_ids(folder: Path) -> tuple[str, ...]:
    """GalaxyIDs of a pack, in its order.

    Raises:
      UserError: no pack, a half-written one, or its table is damaged.
    """
    _read_manifest(folder)
    try:
        return _read_table(folder / TABLE)[0]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder / TABLE}: not readable: {error}") from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if manifest is not None:
        return manifest
    if read_json(folder / UNFINISHED) is not None:
        raise UserError(f"{folder}: this pack is half-written; {_again(folder)} goes on with it")
    raise UserError(f"{folder / MANIFEST}: no such file; --config.data.root names a pack")


def _again(folder: Path) -> str:
    return f"--mode pack --pack {folder}, with the recipe that it was begun with,"


def damage(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What is missing of a pack, or has another size than when it was written."""
    for shard in manifest["shards"]:
        file = folder / shard["file"]
        size = file.stat().st_size if file.exists() else 0
        if size != shard["bytes"]:
            return f"{file}: expected {shard['bytes']} bytes, found {size}"
    try:
        ids, fractions = _read_table(folder / TABLE)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return f"{folder / TABLE}: not readable: {error}"
    if catalog.fingerprint(ids, fractions) != manifest["fingerprint"]:
        return f"{folder / TABLE}: other galaxies than when it was written"
    return ""


def _read_table(file: Path) -> tuple[tuple[str, ...], np.ndarray]:
    with np.load(file) as table:
        return tuple(map(str, table["ids"])), table["fractions"]


def read_json(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable: {error}; pack the galaxies again") from error
