"""From options to galaxies: the tree, the images and votes of each catalogue, what is held out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gzjax import files, remote, trees
from gzjax.data import dataset
from gzjax.data.dataset import Data, Split
from gzjax.data.framing import Framing
from gzjax.errors import UserError, named
from gzjax.run.config import DataSettings, Options
from gzjax.run.report import Report
from gzjax.tree import Tree
from gzjax.trees import campaigns


def load_tree(settings: DataSettings) -> Tree:
    """The decision tree that the options name; of several catalogues the union of theirs.

    A pack of several has such a union, which is named `decals-dr5+gz2`.
    """
    with named("--config.data.tree: "):
        names = [each.tree for each in settings.listed()] or [settings.tree]
        names = [
            name for each in names for name in ([each] if Path(each).exists() else each.split("+"))
        ]
        return campaigns.union([trees.load(name) for name in dict.fromkeys(names)])


def framing_of(options: Options) -> Framing:
    """How images become canvases."""
    return Framing(options.data.crop, options.data.canvas, options.fits)


def build_data(
    options: Options, tree: Tree, cache: str | Path | None, check_images: bool, report: Report
) -> Data:
    """The galaxies that the options name, and no more to train on than they say.

    Raises:
      UserError: something is wrong with them.
    """
    settings = options.data
    split = Split(settings.split_seed, settings.validation, settings.test)
    common: dict[str, Any] = {
        "tree": tree,
        "framing": framing_of(options),
        "split": split,
    }
    if settings.kind == "sky":
        with report.task("drawing the galaxies of the synthetic sky, once") as progress:
            data = dataset.from_sky(
                settings.galaxies,
                sky_seed=settings.sky_seed,
                cache=_local(cache) / "sky",
                progress=progress,
                **common,
            )
        return _with_fewer(data, settings)
    listed = settings.listed()
    read = []
    for position, each in enumerate(listed):
        root = Path(each.root).expanduser()
        several = common | {"split": split if each.scored else None}
        # A pack of several catalogues is of their union.
        several["tree"] = tree if len(listed) == 1 else trees.load(each.tree)
        where = "catalogues" if settings.catalogues else "root" if position == 0 else "extra"
        with named(f"--config.data.{where}: "):
            if remote.is_remote(each.root):
                raise UserError(f"expected a local folder, found {each.root}")
            if each.kind == "pack":
                data = dataset.from_pack(root, **several)
            else:
                data = dataset.from_folder(
                    root,
                    table=each.table,
                    images=each.images,
                    kind=each.votes,
                    votes_per_galaxy=each.votes_per_galaxy,
                    decode=check_images,
                    **several,
                )
        if data.about:
            report.say(f"{each.root}: {data.about}")
        if each.scored:
            data = _with_fewer(data, settings)
        read.append(data)
    if len(read) == 1:
        return read[0]
    names = distinct_names([each.root for each in listed])
    members = [
        dataset.Member(name, 0, len(data.ids), each.weight, each.scored)
        for name, data, each in zip(names, read, listed, strict=True)
    ]
    data = dataset.together(list(zip(read, members, strict=True)), tree)
    dropped = sum(len(each.ids) for each in read) - len(data.ids)
    report.say(f"galaxies dropped, since another catalogue holds them out: {dropped}")
    return data


def distinct_names(folders: Sequence[str]) -> list[str]:
    """The ends of some paths, as long as they have to be to differ."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    # The same folder twice, as of two tables in it.
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _local(cache: str | Path | None) -> Path:
    """Where rendered skies are kept, which are mapped into memory."""
    return files.cache_folder() if cache is None or remote.is_remote(cache) else Path(cache)


def _with_fewer(data: Data, settings: DataSettings) -> Data:
    fewer = settings.training_galaxies
    return data.with_fewer(fewer, settings.split_seed) if fewer else data


def check_learnable(options: Options, data: Data) -> None:
    """Checks that the loss finds anything to learn in the votes.

    Raises:
      UserError: it compares cumulative fractions, and no training galaxy has a known one.
    """
    if options.loss.has_intervals or options.loss.targets == "conditional":
        return
    if np.isnan(data.observed(data.splits["train"])).all():
        first = data.tree.questions[0].name
        raise UserError(
            f"--config.loss.terms: expected dirichlet among them, or loss.targets=conditional: the "
            f"votes lack {first}, through which all other questions are reached, so that no "
            "cumulative fraction is known"
        )
