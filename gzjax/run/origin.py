"""Where a run's weights come from: drawn at random, published, or another run's."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gzjax import remote
from gzjax.errors import UserError
from gzjax.models import Conventions, Weights, pretrained
from gzjax.run import exported
from gzjax.run.config import DataSettings, Options
from gzjax.tree import Tree

# What ends each refusal of another run's weights.
UNLESS = "or --config.model.weights_overlap=False, if it was trained on none of these galaxies"


class Origin(NamedTuple):
    """Where a run's weights come from.

    conventions: what a network has to do the way that they were trained.
    begin: the weights that the run starts from, given ones drawn at random.
    held_out: of a run that was also trained on catalogues that are not split, what it held out;
      see `Data.held_out`. None too where its galaxies are said to be others.
    unsplit: whether those weights, or what they began from, have learnt from such catalogues, or
      from galaxies that are said to be others.
    """

    conventions: Conventions
    begin: Callable[[Weights], Weights]
    held_out: str | None = None
    unsplit: bool = False


def find_origin(options: Options, tree: Tree) -> Origin:
    """Reads the weights that a run starts from.

    Outputs begin at random, since those of public weights are of other classes; only another
    run's of the same tree are kept.

    Raises:
      UserError: there are none, they are not of this network, or they have learnt from galaxies
        that this run holds out.
    """
    name, weights = options.model.name, os.path.expanduser(options.model.weights)
    if not weights:
        return Origin(Conventions(), lambda drawn: drawn)
    if Path(weights).is_dir() or remote.is_remote(weights):
        best = exported.open_best(weights)
        theirs = best.about["config"]
        if theirs["model"]["name"] != name:
            raise UserError(f"{weights} is of {theirs['model']['name']}; expected a run of {name}")
        overlap = options.model.weights_overlap
        if overlap:
            check_held_out(options.data, theirs["data"], weights)
        same_tree = Tree.from_dict(best.about["tree"]) == tree
        unsplit = best.about.get("unsplit", False)
        return Origin(
            Conventions.from_json(best.about["conventions"]),
            lambda drawn: pretrained.take_over(best.average, drawn, same_tree),
            held_out=best.about["held_out"] if overlap and unsplit else None,
            unsplit=unsplit or not overlap,
        )
    published = pretrained.read(weights, name, options.model.conventions)
    return Origin(
        published.conventions,
        lambda drawn: pretrained.convert(published, name, drawn, keep=("classifier",)),
    )


def check_held_out(ours: DataSettings, theirs: Mapping[str, Any], weights: str) -> None:
    """Checks that galaxies held out here were held out of the run that weights come from, too.

    Which ones are follows from their names, the seed and the parts alone, test galaxies first.
    Drawn galaxies and real ones are never the same.

    Raises:
      UserError: some were not.
    """
    if {ours.kind, theirs["kind"]} == {"sky", "folder"}:
        return
    held_out = ours.test + ours.validation <= theirs["test"] + theirs["validation"] + 1e-9
    if ours.split_seed != theirs["split_seed"] or ours.test > theirs["test"] or not held_out:
        raise UserError(
            f"{weights} may have learnt from galaxies that this run holds out: its split_seed, "
            f"validation and test are {theirs['split_seed']}, {theirs['validation']:g} and "
            f"{theirs['test']:g}, here {ours.split_seed}, {ours.validation:g} and {ours.test:g}; "
            f"expected the same seed, and parts no larger than those; {UNLESS}"
        )
