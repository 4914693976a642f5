"""All galaxies of a run together: images, vote fractions, and which are held out."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from gzjax.data import catalogue, packs
from gzjax.data.batches import Source
from gzjax.data.images import Framing, ImageFiles, Images
from gzjax.errors import UserError
from gzjax.settings import Settings, number, setting
from gzjax.tree import Tree


@dataclasses.dataclass(frozen=True)
class Split(Settings):
    """Which galaxies are held out; see `catalogue.split`."""

    seed: int = setting(
        0,
        "a whole number from 0 to 2^32 - 1",
        lambda value: type(value) is int and 0 <= value < 2**32,
    )
    validation: float = number(0.1, above=0.0, most=0.4)
    test: float = number(0.1, above=0.0, most=0.4)


class Data(NamedTuple):
    """The galaxies of a run; rows are positions in it.

    ids: GalaxyIDs.
    images: uint8[canvas, canvas, 3] by row.
    fractions: float32[galaxies, answers], the crowd's vote fractions.
    splits: rows of `train`, `validation` and `test`.
    left_out: GalaxyID, file and reason of what is not among the galaxies.
    label: `synthetic sky` or `real galaxies`, said beside every score.
    tree: of the answers.
    framing: of the images.
    canvases: all images in the memory of every device, if they are held there.
    """

    ids: tuple[str, ...]
    images: Images
    fractions: np.ndarray
    splits: dict[str, np.ndarray]
    left_out: pd.DataFrame
    label: str
    tree: Tree
    framing: Framing
    canvases: jax.Array | None = None

    def source(self, split: str) -> Source:
        """Batches of one split."""
        return Source(self.images, self.splits[split], self.fractions)

    def with_fewer(self, galaxies: int, seed: int) -> "Data":
        """The same, with at most so many galaxies to train on; fewer are among more.

        Args:
          galaxies: how many to keep.
          seed: of the choice.
        """
        rows = self.splits["train"]
        kept = np.random.default_rng(seed).permutation(len(rows))[:galaxies]
        return self._replace(splits=self.splits | {"train": rows[np.sort(kept)]})

    def left_out_with(self, faults: Mapping[int, str]) -> pd.DataFrame:
        """`left_out`, and below it images that turned out unreadable, {row: reason}."""
        files = self.images.files if isinstance(self.images, ImageFiles) else [""] * len(self.ids)
        found = [(self.ids[row], files[row], faults[row]) for row in sorted(faults)]
        more = pd.DataFrame(found, columns=list(catalogue.LEFT_OUT_COLUMNS))
        return pd.concat([self.left_out, more], ignore_index=True)

    @property
    def training_mean(self) -> np.ndarray:
        """float64[answers], the mean row of the training split."""
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
) -> Data:
    """Real galaxies: a table beside a folder of images.

    Args:
      root: of table and images.
      tree: of the table's columns.
      table: name of the table.
      images: name of the folder of images.
      framing: how images are cut out and rescaled.
      split: which galaxies are held out.
      decode: decode every image once to check it.

    Raises:
      UserError: something is wrong with them, see `catalogue.read_catalogue`, or they are too few
        to be split.
    """
    galaxies, left_out = catalogue.read_catalogue(
        root, tree=tree, table=table, images=images, decode=decode
    )
    ids = tuple(map(str, galaxies.index))
    return Data(
        ids=ids,
        images=ImageFiles(galaxies["file"].tolist(), framing),
        fractions=galaxies[list(tree.columns)].to_numpy(np.float32),
        splits=_split(ids, split, str(root)),
        left_out=left_out,
        label="real galaxies",
        tree=tree,
        framing=framing,
    )


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

    Args:
      galaxies: how many.
      tree: that the crowd answers.
      sky_seed: which sky.
      framing: of its pictures.
      cache: folder where they are kept once drawn; None draws them each time.
      split: which galaxies are held out.
      progress: called with (galaxies drawn, galaxies).

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
    return Data(
        ids=ids,
        images=images,
        fractions=fractions,
        splits=_split(ids, split, "the synthetic sky"),
        left_out=pd.DataFrame(columns=list(catalogue.LEFT_OUT_COLUMNS)),
        label="synthetic sky",
        tree=tree,
        framing=framing,
    )


def from_pack(root: Path, *, tree: Tree, framing: Framing, split: Split) -> Data:
    """Galaxies of a pack, which are those that it was made from; see `packs.read`.

    Args:
      root: the pack's folder.
      tree: expected of the pack.
      framing: expected of the pack.
      split: which galaxies are held out.

    Raises:
      UserError: no whole pack, of another tree or framing, or too few galaxies to be split.
    """
    pack = packs.read(root, tree=tree, framing=framing)
    return Data(
        **pack._asdict(), splits=_split(pack.ids, split, str(root)), tree=tree, framing=framing
    )


def _split(ids: tuple[str, ...], split: Split, where: str) -> dict[str, np.ndarray]:
    splits = catalogue.split(ids, split.seed, split.validation, split.test)
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(
                f"{where}: {len(ids)} galaxies are too few to split, none fell to {name}"
            )
    return splits
