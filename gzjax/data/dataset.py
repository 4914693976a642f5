"""All galaxies of a run together: images, vote fractions, and which are kept apart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd

from gzjax.data import catalog, pack, sky
from gzjax.data.sources import Galaxies, ImageFiles, Images
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2


class Split(NamedTuple):
    """Which galaxies are kept apart; see `catalog.split`."""

    seed: int = 0
    validation: float = 0.1
    test: float = 0.1


# One for validation, one for test.
TENTHS = Split()


class Data(NamedTuple):
    """The galaxies of a run; rows are positions in it.

    ids: GalaxyIDs.
    images: uint8[canvas, canvas, 3] by row.
    fractions: float32[galaxies, answers], the crowd's vote fractions.
    splits: rows of `train`, `validation` and `test`.
    left_out: GalaxyID, file and reason of what is not among the galaxies.
    label: tells the synthetic sky from real galaxies, in every score.
    canvases: all images in the memory of every device, if they are held there.
    """

    ids: tuple[str, ...]
    images: Images
    fractions: np.ndarray
    splits: dict[str, np.ndarray]
    left_out: pd.DataFrame
    label: str
    canvases: jax.Array | None = None

    def split(self, name: str) -> Galaxies:
        """The galaxies of one split."""
        return Galaxies(self.images, self.fractions, self.splits[name])

    def with_fewer(self, galaxies: int, seed: int) -> "Data":
        """The same, with at most so many galaxies to train on; fewer are among more.

        Args:
          galaxies: how many to keep.
          seed: of the choice.
        """
        rows = self.splits["train"]
        kept = np.random.default_rng(seed).permutation(len(rows))[:galaxies]
        return self._replace(splits=self.splits | {"train": rows[np.sort(kept)]})

    @property
    def training_mean(self) -> np.ndarray:
        """float64[answers], the mean row of the training split."""
        return self.fractions[self.splits["train"]].mean(axis=0, dtype=np.float64)

    @property
    def fingerprint(self) -> str:
        """See `catalog.fingerprint`; wherever the images are, a run on them is the same."""
        return catalog.fingerprint(self.ids, self.fractions)

    def check_same(self, fingerprint: str, workdir: Path) -> None:
        """Checks that the galaxies are those that a run was started on.

        Raises:
          UserError: they are not, so that order and splits would not be the same.
        """
        if fingerprint != self.fingerprint:
            raise UserError(
                f"{workdir} was started on other galaxies or vote fractions than there are now; "
                "expected those, or another --workdir"
            )


def from_folder(
    root: Path,
    *,
    table: str,
    images: str,
    crop: float,
    canvas: int,
    split: Split = TENTHS,
    decode: bool = False,
) -> Data:
    """Real galaxies: a table beside a folder of images; see `catalog.read_catalogue`.

    Args:
      root: of table and images.
      table: name of the table.
      images: name of the folder of images.
      crop: see `sources.read_image`.
      canvas: see `sources.read_image`.
      split: which galaxies are kept apart.
      decode: decode every image once to check it.

    Raises:
      UserError: something is wrong with them, or they are too few to be split.
    """
    galaxies, left_out = catalog.read_catalogue(root, table=table, images=images, decode=decode)
    ids = tuple(map(str, galaxies.index))
    return Data(
        ids=ids,
        images=ImageFiles(galaxies["file"].tolist(), crop, canvas),
        fractions=galaxies[list(GALAXY_ZOO_2.columns)].to_numpy(np.float32),
        splits=_split(ids, split, str(root)),
        left_out=left_out,
        label="real galaxies",
    )


def from_sky(
    galaxies: int,
    *,
    sky_seed: int,
    crop: float,
    canvas: int,
    cache: Path,
    split: Split = TENTHS,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Galaxies of the synthetic sky; see `sky.load_sky`.

    Args:
      galaxies: how many.
      sky_seed: which sky.
      crop: side of the central square that is drawn, as a fraction of the whole picture's.
      canvas: pixels a side.
      cache: folder where they are kept once drawn.
      split: which galaxies are kept apart.
      progress: called with (galaxies drawn, galaxies).

    Raises:
      UserError: they are too few to be split.
    """
    images, fractions = sky.load_sky(
        galaxies, seed=sky_seed, size=canvas, field=crop, cache=cache, progress=progress
    )
    ids = tuple(str(number) for number in range(galaxies))
    return Data(
        ids=ids,
        images=images,
        fractions=fractions,
        splits=_split(ids, split, "the synthetic sky"),
        left_out=pd.DataFrame(columns=list(catalog.LEFT_OUT_COLUMNS)),
        label="synthetic sky",
    )


def from_pack(root: Path, *, crop: float, canvas: int, split: Split = TENTHS) -> Data:
    """Galaxies of a pack, which are those that it was made from; see `pack.read`.

    Args:
      root: the pack's folder.
      crop: expected of the pack.
      canvas: expected of the pack.
      split: which galaxies are kept apart.

    Raises:
      UserError: no whole pack, of another crop or canvas, or too few galaxies to be split.
    """
    galaxies = pack.read(root, crop=crop, canvas=canvas)
    return Data(
        ids=galaxies.ids,
        images=galaxies.images,
        fractions=galaxies.fractions,
        splits=_split(galaxies.ids, split, str(root)),
        left_out=galaxies.left_out,
        label=galaxies.label,
    )


def _split(ids: Sequence[str], split: Split, where: str) -> dict[str, np.ndarray]:
    splits = catalog.split(ids, *split)
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(
                f"{where}: {len(ids)} galaxies are too few to split, none fell to {name}"
            )
    return splits
