"""Packs: galaxies that were decoded, cropped and rescaled once, to be read many times.

A pack is a folder:

    manifest.json              what the pack is made of; written last, so that it is there only
                               when all the rest is, too
    galaxies.npz               `ids` and `votes` float32[galaxies, answers], in the pack's order
    00000-of-00061.arecord     ArrayRecord shards, of about a thousand galaxies each
    left_out.csv               galaxies that were skipped, and why

A record is a galaxy, its parts one after the other:

    image                      uint8[canvas, canvas, 3]
    votes                      float32[answers], little-endian
    GalaxyID                   UTF-8, up to the record's end

Records are not compressed, and each is an ArrayRecord group of its own: compressed ones (zstd,
half as large) take more than twice as long to read, groups of eight five times.

`gzjax.data.packing` writes packs; here they are read.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt8

from gzjax.data import catalogue
from gzjax.data.framing import FitsSettings, Framing
from gzjax.data.images import Images, Unusable
from gzjax.data.tables import LEFT_OUT_COLUMNS
from gzjax.errors import UserError, named, one_line
from gzjax.tree import Tree

# Count up whenever older packs can no longer be read.
FORMAT = 3

MANIFEST, UNFINISHED, TABLE = "manifest.json", "unfinished.json", "galaxies.npz"
_AGAIN = "pack the galaxies again"


class PackedImages(Images):
    """Images of a pack, read when asked for, by any thread; files are opened at their first use.

    Args:
      files: the shards.
      galaxies: how many are in each.
      canvas: pixels a side.
    """

    def __init__(self, files: Sequence[Path], galaxies: Sequence[int], canvas: int):
        self.shards = list(files)
        self.ends = np.cumsum(galaxies)
        self.shape = (sum(galaxies), canvas, canvas, 3)
        # Given the number of galaxies, it need not open the files to count them.
        self.records = grain.sources.ArrayRecordDataSource(
            [f"{file}[0:{count}]" for file, count in zip(files, galaxies, strict=True)]
        )

    def __getitem__(self, position: int) -> np.ndarray:
        try:
            record = self.records[position]
        except RuntimeError as error:  # a checksum within the shard does not hold
            shard = self.shards[np.searchsorted(self.ends, position, side="right")]
            raise Unusable(f"damaged in the pack: {shard.name}: {one_line(error)}") from error
        return np.frombuffer(record, np.uint8, math.prod(self.shape[1:])).reshape(self.shape[1:])


def to_record(
    image: UInt8[np.ndarray, "n n 3"], votes: Float32[np.ndarray, " answers"], galaxy: str
) -> bytes:
    """The record of one galaxy; see the module's docstring."""
    return image.tobytes() + votes.astype("<f4").tobytes() + galaxy.encode()


class Pack(NamedTuple):
    """What is read of a pack; see `gzjax.data.dataset.Data`."""

    ids: tuple[str, ...]
    images: PackedImages
    votes: Float32[np.ndarray, "galaxies answers"]
    left_out: pd.DataFrame
    label: str
    about: str
    members: Sequence[Sequence[Any]]


def read(folder: Path, *, tree: Tree | None, framing: Framing) -> Pack:
    """Opens a pack of this tree (None: of any) and framing; images are read when asked for.

    Raises:
      UserError: no pack, a half-written or damaged one, one of another format, tree or framing.
    """
    manifest = read_manifest(folder)
    theirs = tree_of(folder, manifest)
    if tree is not None and theirs != tree:
        raise UserError(
            f"{folder}: expected a pack of the tree {tree.name}, found one of "
            f"{'another tree of that name' if theirs.name == tree.name else theirs.name}; name "
            f"that tree, or {_AGAIN}, into another folder"
        )
    ids, votes = check_whole(folder, manifest, theirs)
    found = {**Framing().options, **manifest}  # older packs lack some, and had no choice
    for option, expected in framing.options.items():
        if found[option] != expected:
            raise UserError(
                f"{option}: {expected}, but {folder} was packed with {found[option]}; set it "
                f"so, or {_AGAIN}, into another folder"
            )
    files = [folder / shard["file"] for shard in manifest["shards"]]
    galaxies = [shard["galaxies"] for shard in manifest["shards"]]
    images = PackedImages(files, galaxies, framing.canvas)
    left_out = pd.DataFrame(manifest["left_out"], columns=LEFT_OUT_COLUMNS)
    of_votes = (manifest["label"], manifest["about"], manifest["members"])
    return Pack(ids, images, votes, left_out, *of_votes)


def is_pack(folder: Path) -> bool:
    """Whether there is a pack in a folder, be it half-written."""
    whole = (folder / MANIFEST).exists() and (folder / TABLE).exists()
    return whole or (folder / UNFINISHED).exists()


def read_ids(folder: Path) -> tuple[str, ...]:
    """GalaxyIDs of a pack, in its order; see `read`."""
    read_manifest(folder)
    return _read_table(folder)[0]


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a whole pack says of itself.

    Raises:
      UserError: no pack, a half-written one, or one of another format.
    """
    file = folder / MANIFEST
    manifest = read_json(file)
    if manifest is None:
        if read_json(folder / UNFINISHED) is not None:
            raise UserError(
                f"{folder}: this pack is half-written; {_AGAIN}, with the recipe that it was begun "
                "with, to resume"
            )
        raise UserError(f"{file}: no such file; expected the folder of a pack")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{file}: expected a pack of format {FORMAT}, found {manifest.get('format')}; "
            f"{_AGAIN}, into another folder"
        )
    return manifest


def tree_of(folder: Path, manifest: Mapping[str, Any]) -> Tree:
    """The tree of a pack's votes."""
    with named(f"{folder / MANIFEST}: tree: "):
        return Tree.from_dict(manifest["tree"])


def framing_of(folder: Path) -> Framing:
    """How the images of a pack were cut out and rescaled."""
    found = {**Framing().options, **read_manifest(folder)}
    fits = {name: found[f"fits.{name}"] for name in dataclasses.asdict(FitsSettings())}
    return Framing(found["crop"], found["canvas"], FitsSettings(**fits))


def check_whole(
    folder: Path, manifest: Mapping[str, Any], tree: Tree
) -> tuple[tuple[str, ...], Float32[np.ndarray, "galaxies answers"]]:
    """GalaxyIDs and votes of a pack of which nothing is missing.

    Raises:
      UserError: a file is missing or has another size or content than when it was written, the
        manifest included.
    """
    again = f"; {_AGAIN}, with the recipe that it was begun with, to repair it"
    found = checksum_of(manifest)
    if manifest.get("checksum", found) != found:  # older packs have none
        raise UserError(f"{folder / MANIFEST}: damaged, its checksum does not hold{again}")
    for shard in manifest["shards"]:
        file = folder / shard["file"]
        size = file.stat().st_size if file.exists() else 0
        if size != shard["bytes"]:
            raise UserError(f"{file}: expected {shard['bytes']} bytes, found {size}{again}")
    ids, votes = _read_table(folder, again)
    if catalogue.fingerprint(ids, votes, tree) != manifest["fingerprint"]:
        raise UserError(f"{folder / TABLE}: different galaxies than when it was written{again}")
    return ids, votes


def checksum_of(manifest: Mapping[str, Any]) -> str:
    """Changes with anything in a manifest but `checksum`."""
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _read_table(folder: Path, advice: str = "") -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with np.load(folder / TABLE) as table:
            return tuple(map(str, table["ids"])), table["votes"]
    except Exception as error:  # NumPy and the decompressors raise many kinds
        raise UserError(f"{folder / TABLE}: not readable: {one_line(error)}{advice}") from error


def read_json(file: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if there is no such file.

    Raises:
      UserError: it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable: {one_line(error)}; {_AGAIN}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object; {_AGAIN}")
    return content
