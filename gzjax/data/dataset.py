"""All galaxies of a run together: images, votes, and which are held out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64

from gzjax.data import catalogue, packs
from gzjax.data.batches import Source
from gzjax.data.framing import Framing
from gzjax.data.images import ImageFiles, Images, JoinedImages, place_of
from gzjax.data.listing import Listing
from gzjax.data.parquet import ParquetImages
from gzjax.data.tables import LEFT_OUT_COLUMNS
from gzjax.errors import UserError
from gzjax.tree import Tree
from gzjax.trees import campaigns
from gzjax.votes import mean_fractions, observed


class Split(NamedTuple):
    """Which galaxies are held out; see `catalogue.split`."""

    seed: int = 0
    validation: float = 0.1
    test: float = 0.1


class Member(NamedTuple):
    """One catalogue of several.

    name: of its folder.
    first: its first row ...
    stop: ... and the one after its last.
    weight: how often its galaxies are drawn in training, compared with others.
    scored: whether some are held out; else it is used only for training.
    """

    name: str
    first: int
    stop: int
    weight: float = 1.0
    scored: bool = True


class Data(NamedTuple):
    """The galaxies of a run; rows are positions in it.

    ids: GalaxyIDs.
    images: uint8[canvas, canvas, 3] by row.
    votes: of the crowd, NaN where nobody knows; see `gzjax.votes`.
    splits: rows of `train`, `validation` and `test`.
    left_out: GalaxyID, file and reason of what is not among the galaxies.
    label: `synthetic sky` or `real galaxies`, said beside every score.
    tree: of the answers.
    framing: of the images.
    canvases: all images in the memory of every device, if they are held there.
    about: how the votes were read, in a line.
    members: the catalogues that it is of, one after the other; none if it is of one.
    """

    ids: tuple[str, ...]
    images: Images
    votes: Float32[np.ndarray, "galaxies answers"]
    splits: dict[str, np.ndarray]
    left_out: pd.DataFrame
    label: str
    tree: Tree
    framing: Framing
    canvases: jax.Array | None = None
    about: str = ""
    members: tuple[Member, ...] = ()

    def __repr__(self) -> str:
        """In a line, as notebooks show what is not assigned."""
        sizes = ", ".join(f"{len(rows)} {name}" for name, rows in self.splits.items())
        return f"Data({len(self.ids)} galaxies, {self.label}: {sizes})"

    def source(self, split: str) -> Source:
        """Batches of one split; those to train on are drawn by the weights of their catalogues."""
        rows = self.splits[split]
        ends = [int(np.searchsorted(rows, member.stop)) for member in self.members]
        drawn = [member.weight for member in self.members] if split == "train" else []
        return Source(self.images, rows, self.votes, tuple(zip(ends, drawn, strict=False)))

    def observed(self, rows: np.ndarray) -> Float32[np.ndarray, "rows answers"]:
        """The crowd's cumulative vote fractions, NaN where they are not known."""
        return observed(self.votes[rows], self.tree)

    def listed(self, rows: np.ndarray) -> Listing:
        """Some galaxies, in this order, to be predicted or embedded: they are cut out already."""
        rows = np.asarray(rows)
        ids = [self.ids[row] for row in rows]
        return Listing(ids, [], rows=rows, made=(self.images, self.framing))

    def with_fewer(self, galaxies: int, seed: int) -> "Data":
        """The same, with at most this many galaxies of each scored catalogue to train on.

        Fewer are among more; of catalogues that are not scored all stay.
        """
        kept = []
        for member in self.members or (Member("", 0, len(self.ids)),):
            rows = self.splits["train"]
            rows = rows[(rows >= member.first) & (rows < member.stop)]
            order = np.random.default_rng(seed).permutation(len(rows))
            kept.append(rows[np.sort(order[:galaxies])] if member.scored else rows)
        return self._replace(splits=self.splits | {"train": np.concatenate(kept)})

    def left_out_with(self, faults: Mapping[int, str]) -> pd.DataFrame:
        """`left_out`, and below it images that turned out unreadable, {row: reason}."""
        found = [(self.ids[row], place_of(self.images, row), faults[row]) for row in sorted(faults)]
        more = pd.DataFrame(found, columns=LEFT_OUT_COLUMNS)
        return pd.concat([self.left_out, more], ignore_index=True)

    @property
    def training_mean(self) -> Float64[np.ndarray, " answers"]:
        """The mean vote fractions of the training split; see `votes.mean_fractions`."""
        return mean_fractions(self.votes[self.splits["train"]], self.tree)

    @property
    def fingerprint(self) -> str:
        """See `catalogue.fingerprint`; wherever the images are, a run on them is the same.

        It changes with the catalogues' weights, too, which decide the order of batches.
        """
        found = catalogue.fingerprint(self.ids, self.votes, self.tree)
        if not self.members:
            return found
        members = [(m.first, m.stop, m.weight, m.scored) for m in self.members]
        return hashlib.sha256(repr((found, members)).encode()).hexdigest()[:16]

    @property
    def held_out(self) -> str:
        """Changes with the GalaxyIDs that are held out, in whatever order."""
        rows = np.concatenate([self.splits["validation"], self.splits["test"]])
        names = "\n".join(sorted({self.ids[row] for row in rows}))
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]

    def check_same(self, fingerprint: str, workdir: str | Path) -> None:
        """Checks that the galaxies are those that a run was started on.

        Raises:
          UserError: they are not, so that order and splits would not be the same.
        """
        if fingerprint != self.fingerprint:
            raise UserError(
                f"{workdir} was started with different galaxies or votes, or a different tree; "
                "restore them, or name another folder for the run"
            )


def from_folder(
    root: Path,
    *,
    tree: Tree,
    table: str,
    images: str,
    framing: Framing,
    split: Split | None,
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
        fits=framing.fits,
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

    images, votes = sky.load_sky(
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
    left_out = pd.DataFrame(columns=LEFT_OUT_COLUMNS)
    return Data(ids, images, votes, splits, left_out, "synthetic sky", tree, framing)


def from_pack(root: Path, *, tree: Tree, framing: Framing, split: Split | None) -> Data:
    """Galaxies of a pack, which are those that it was made from; see `packs.read`.

    What a pack of several catalogues holds out may be more than when it was made: as of folders,
    copies of these galaxies in catalogues that are used only for training are dropped and listed.

    Raises:
      UserError: no whole pack, of another tree or framing, or too few galaxies to be split.
    """
    pack = packs.read(root, tree=tree, framing=framing)
    members = tuple(Member(*member) for member in pack.members)
    unscored = [row for m in members if not m.scored for row in range(m.first, m.stop)]
    splits = _split(pack.ids, split, str(root), np.array(unscored, int))
    data = Data(**pack._asdict() | {"members": members}, splits=splits, tree=tree, framing=framing)
    if split is None or not unscored:
        return data
    return together([(data, Member("", 0, len(data.ids)))], tree)


def together(catalogues: Sequence[tuple[Data, Member]], tree: Tree) -> Data:
    """Several catalogues as one; galaxies of one have no votes on the questions of another.

    Galaxies that one of them holds out are dropped from those that are used only for training, and
    listed.

    Args:
      catalogues: of each its galaxies, and what it is called, its weight, and whether it is scored.
      tree: the union of their trees.

    Raises:
      UserError: a catalogue of a tree that is not in the union.
    """
    held_out = {
        data.ids[row]: member.name or "the pack"
        for data, member in catalogues
        for split in ("validation", "test")
        for row in data.splits[split]
    }
    members: list[Member] = []
    votes, ids, images, left_out = [], [], [], []
    splits: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    first = 0
    for data, member in catalogues:
        # A pack may be of several itself.
        parts = data.members or (Member("", 0, len(data.ids)),)
        dropped = [
            row
            for part in parts
            if not (member.scored and part.scored)
            for row in range(part.first, part.stop)
            if data.ids[row] in held_out
        ]
        left_out.append(
            data.left_out_with({n: f"held out of {held_out[data.ids[n]]}" for n in dropped})
        )
        kept = np.setdiff1d(np.arange(len(data.ids)), dropped)
        for split, rows in splits.items():
            rows.append(first + np.flatnonzero(np.isin(kept, data.splits[split])))
        placed = np.full((len(kept), tree.size), np.nan, np.float32)
        placed[:, campaigns.part(tree, data.tree)] = data.votes[kept]
        votes.append(placed)
        ids += [data.ids[row] for row in kept]
        images.append((data.images, kept))
        for own in parts:
            start, stop = np.searchsorted(kept, [own.first, own.stop])
            name = "/".join(filter(None, (member.name, own.name)))
            weight, scored = member.weight * own.weight, member.scored and own.scored
            members.append(Member(name, first + int(start), first + int(stop), weight, scored))
        first += len(kept)
    return catalogues[0][0]._replace(
        ids=tuple(ids),
        images=JoinedImages(images),
        votes=np.concatenate(votes),
        splits={split: np.concatenate(rows) for split, rows in splits.items()},
        label=" and ".join(dict.fromkeys(data.label for data, _ in catalogues)),
        left_out=pd.concat(left_out, ignore_index=True),
        tree=tree,
        about="; ".join(data.about for data, _ in catalogues if data.about),
        members=tuple(members),
    )


def _split(
    ids: tuple[str, ...], split: Split | None, where: str, unscored: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    if split is None:  # all to train on
        nobody = np.zeros(0, int)
        return {"train": np.arange(len(ids)), "validation": nobody, "test": nobody}
    splits = catalogue.split(ids, *split)
    if unscored is not None and len(unscored):
        held_out = {name: np.setdiff1d(splits[name], unscored) for name in ("validation", "test")}
        splits = {"train": np.union1d(splits["train"], unscored), **held_out}
    for name, rows in splits.items():
        if len(rows) == 0:
            raise UserError(
                f"{where}: {len(ids)} galaxies are too few to split, none fell to {name}"
            )
    return splits
