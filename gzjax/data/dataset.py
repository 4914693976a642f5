"""All galaxies of a run together: images, vote fractions, and which are held out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from gzjax.data import catalogue, packs
from gzjax.data.batches import Source
from gzjax.data.images import Framing, ImageFiles, Images
from gzjax.data.parquet import ParquetImages
from gzjax.errors import UserError
from gzjax.tree import Tree


class Split(NamedTuple):
    """Which galaxies are held out; see `catalogue.split`."""

    seed: int = 0
    validation: float = 0.1
    test: float = 0.1


class Data(NamedTuple):
    """The galaxies of a run; rows are positions in it.

    ids: GalaxyIDs.
    images: uint8[canvas, canvas, 3] by row.
    fractions: the crowd's vote fractions.
    splits: rows of `train`, `validation` and `test`.
    left_out: GalaxyID, file and reason of what is not among the galaxies.
    label: `synthetic sky` or `real galaxies`, said beside every score.
    tree: of the answers.
    framing: of the images.
    canvases: all images in the memory of every device, if they are held there.
    about: what was found in the tables, in one line.
    """

    ids: tuple[str, ...]
    images: Images
    fractions: Float32[np.ndarray, "galaxies answers"]
    splits: dict[str, np.ndarray]
    left_out: pd.DataFrame
    label: str
    tree: Tree
    framing: Framing
    canvases: jax.Array | None = None
    about: str = ""

    def source(self, split: str) -> Source:
        """Batches of one split."""
        return Source(self.images, self.splits[split], self.fractions)

    def with_fewer(self, galaxies: int, seed: int) -> "Data":
        """The same, with at most so many galaxies to train on; fewer are among more."""
        rows = self.splits["train"]
        kept = np.random.default_rng(seed).permutation(len(rows))[:galaxies]
        return self._replace(splits=self.splits | {"train": rows[np.sort(kept)]})

    def left_out_with(self, faults: Mapping[int, str]) -> pd.DataFrame:
        """`left_out`, and below it images that turned out unreadable, {row: reason}."""
        files = self.images.files if isinstance(self.images, ImageFiles) else [""] * len(self.ids)
        found = [(self.ids[row], files[row], faults[row]) for row in sorted(faults)]
        more = pd.DataFrame(found, columns=catalogue.LEFT_OUT_COLUMNS)
        return pd.concat([self.left_out, more], ignore_index=True)

    @property
    def training_mean(self) -> Float64[np.ndarray, " answers"]:
        """The mean vote fractions of the training split."""
        return self.fractions[self.splits["train"]].mean(axis=0, dtype=np.float64)

    @property
    def fingerprint(self) -> str:
        """See `catalogue.fingerprint`; wherever the images are, a run on them is the same."""
        return catalogue.fingerprint(self.ids, self.fractions, self.tree)

    def check_same(self, fingerprint: str, workdir: Path) -> None:
        """Checks that the galaxies are those that a run was started on.

        Raises:
          UserError: they are not, so that order and splits would not be the same.
        """
        if fingerprint != self.fingerprint:
            raise UserError(
                f"{workdir} was started on other galaxies, vote fractions or another tree than "
                "there are now; expected those, or another folder for the run"
            )


def from_folder(
    root: Path,
    *,
    tree: Tree,
    table: str,
    images: str,
    framing: Framing,
    split: Split,
    decode: bool = False,
    votes_per_galaxy: float = 40.0,
    kind: str = "auto",
) -> Data:
    """Real galaxies: tables, and images beside or inside them; see `catalogue.read_catalogue`.

    Raises:
      UserError: something is wrong with them, or they are too few to be split.
    """
    galaxies, left_out, embedded, about = catalogue.read_catalogue(
        root,
        tree=tree,
        table=table,
        images=images,
        decode=decode,
        votes_per_galaxy=votes_per_galaxy,
        kind=kind,
    )
    ids = tuple(map(str, galaxies.index))
    files: Images
    if embedded is None:
        files = ImageFiles(galaxies["file"].tolist(), framing)
    else:
        files = ParquetImages(embedded, framing)
    votes = galaxies[list(tree.columns)].to_numpy(np.float32)
    splits = _split(ids, split, str(root))
    data = Data(ids, files, votes, splits, left_out, "real galaxies", tree, framing)
    return data._replace(about=about)


def from_sky(
    galaxies: int,
    *,
    tree: Tree,
    sky_seed: int,
    framing: Framing,
    cache: Path | None,
    split: Split,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Galaxies of the synthetic sky; see `gzjax.sky.load_sky`.

    Raises:
      UserError: a tree that the sky's crowd does not know, or too few galaxies to be split.
    """
    from gzjax import sky  # here, so that real galaxies need not wait for it

    images, fractions = sky.load_sky(
        galaxies,
        tree=tree,
        seed=sky_seed,
        size=framing.canvas,
        field=framing.crop,
        cache=cache,
        progress=progress,
    )
    ids = tuple(map(str, range(galaxies)))
    splits = _split(ids, split, "the synthetic sky")
    left_out = pd.DataFrame(columns=catalogue.LEFT_OUT_COLUMNS)
    return Data(ids, images, fractions, splits, left_out, "synthetic sky", tree, framing)


def from_pack(root: Path, *, tree: Tree, framing: Framing, split: Split) -> Data:
    """Galaxies of a pack, which are those that it was made from; see `packs.read`.

    Raises:
      UserError: no whole pack, of another tree or framing, or too few galaxies to be split.
    """
    pack = packs.read(root, tree=tree, framing=framing)
    splits = _split(pack.ids, split, str(root))
    return Data(**pack._asdict(), splits=splits, tree=tree, framing=framing)


def _split(ids: tuple[str, ...], split: Split, where: str) -> dict[str, np.ndarray]:
    splits = catalogue.split(ids, *split)
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(
                f"{where}: {len(ids)} galaxies are too few to split, none fell to {name}"
            )
    return splits
