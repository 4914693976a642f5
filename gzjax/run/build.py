"""The one place where a config becomes the parts of a run: data, model, training.

No function further in takes a config, and nothing here computes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from gzjax import models, optim
from gzjax.augment import TestViews
from gzjax.data import batches, devices
from gzjax.data.dataset import Data
from gzjax.data.devices import Placement
from gzjax.errors import UserError, named
from gzjax.models import Conventions, Network, Weights
from gzjax.run import config as configs
from gzjax.run import galaxies, trackers
from gzjax.run.config import Options
from gzjax.run.model import Model, Reading, Training
from gzjax.run.origin import UNLESS, Origin, find_origin
from gzjax.run.report import Report
from gzjax.tree import Tree

# Galaxies that a CPU predicts at a time: of more, what the layers pass on leaves its caches, and
# the network takes twice the time.
PIECE = 8


class Run(NamedTuple):
    """A training run, ready to start or to resume.

    model: as it will predict, once it has weights.
    training: what training needs beside it.
    data: the galaxies.
    begin: weights drawn at random -> those to start from.
    about: what the run is, to be saved with each checkpoint.
    on_device: whether the devices hold all images.
    trackers: what records the run.
    """

    model: Model
    training: Training
    data: Data
    begin: Callable[[Weights], Weights]
    about: dict[str, Any]
    on_device: bool
    trackers: tuple[str, ...]


def build_run(
    config: ConfigDict,
    workdir: Path,
    saved: Mapping[str, Any] | None,
    *,
    cache: str | Path | None,
    check_images: bool,
    report: Report,
) -> Run:
    """Makes the parts of a training run.

    Args:
      config: of the run.
      workdir: of the run.
      saved: what the run in the workdir is, if there is one to resume.
      cache: folder for rendered skies; None: the user's cache folder.
      check_images: decode every image first.
      report: shows what takes long.

    Raises:
      UserError: a fault in the options or the data, or a workdir of another run.
    """
    options = configs.typed(config)
    tree = galaxies.load_tree(options.data)
    with named("--config.loss."):
        options.loss.check_tree(tree)
    with named("--config.log.trackers: "):
        trackers.check(options.log.trackers)
    placement = place(options, training=True)
    if saved:
        check_resumable(saved, config, tree, workdir)
        conventions = Conventions.from_json(saved["conventions"])
        origin = Origin(conventions, lambda drawn: drawn, unsplit=saved.get("unsplit", False))
    else:
        with named("--config.model.weights: "):
            origin = find_origin(options, tree)
    data = galaxies.build_data(options, tree, cache, check_images, report)
    if saved:
        data.check_same(saved["data"], workdir)
    if origin.held_out not in (None, data.held_out):
        # Those catalogues may hold any of the galaxies that are held out here.
        raise UserError(
            f"--config.model.weights: {options.model.weights} was also trained on catalogues that "
            "are not split, without the galaxies that it held out; expected the same held-out "
            f"ones, {UNLESS}"
        )
    galaxies.check_learnable(options, data)
    network = build_network(options, tree, origin.conventions)
    return Run(
        model=build_model(options, tree, network, placement),
        training=build_training(options, network, data.source("train").drawn),
        data=data,
        begin=origin.begin,
        about={
            "config": config.to_dict(),
            "tree": tree.to_dict(),
            "conventions": origin.conventions._asdict(),
            "data": data.fingerprint,
            "held_out": data.held_out,
            # What it began from counts, too, so that no chain of runs forgets it.
            "unsplit": origin.unsplit or not all(member.scored for member in data.members),
            "label": data.label,
            "processes": jax.process_count(),
        },
        on_device=options.data.on_device,
        trackers=options.log.trackers,
    )


def check_resumable(
    saved: Mapping[str, Any], config: ConfigDict, tree: Tree, workdir: Path
) -> None:
    """Checks that a config may resume the run that a workdir holds.

    Raises:
      UserError: it is another run, of another tree or of another number of processes.
    """
    theirs = Tree.from_dict(saved["tree"])
    if theirs != tree:
        raise UserError(
            f"{workdir} holds a run of the tree {theirs.name} ({theirs.size} answers), this one "
            f"is of {tree.name} ({tree.size} answers); use another --workdir"
        )
    configs.check_same_run(saved["config"], config, workdir)
    if saved["processes"] != jax.process_count():
        raise UserError(
            f"{workdir} holds a run of {saved['processes']} processes, this one has "
            f"{jax.process_count()}; resume it with as many processes as before"
        )


def place(options: Options, *, training: bool, alone: bool = False) -> Placement:
    """Where batches go: to all devices, or to those of this process.

    Raises:
      UserError: a batch size that they do not divide.
    """
    sizes = {"evaluate.batch_size": options.evaluate.batch_size}
    if training:
        sizes["batch_size"] = options.run.batch_size
    chosen = jax.local_devices() if alone else jax.devices()
    number = len(chosen)
    for option, size in sizes.items():
        if size % number:
            raise UserError(
                f"--config.{option}: expected a multiple of the {number} devices, found {size}"
            )
    return devices.place(chosen)


def build_network(
    options: Options,
    tree: Tree,
    conventions: Conventions,
    *,
    folded: bool = False,
    depthwise: str = "auto",
) -> Network:
    """The network, which does everything the way that its weights were trained.

    One that is `folded` takes the weights that `models.fold` gives, and only predicts.
    """
    return models.build(
        options.model.name,
        image_size=options.model.image_size,
        outputs=tree.size,
        dtype=options.model.dtype,
        stochastic_depth=options.model.stochastic_depth,
        norm_groups=options.model.norm_groups,
        frozen=options.optim.freeze,
        conventions=conventions,
        folded=folded,
        depthwise=depthwise,
    )


def build_model(options: Options, tree: Tree, network: Network, placement: Placement) -> Model:
    """A model that has no weights yet."""
    data, evaluate, views = options.data, options.evaluate, options.views
    return Model(
        network=network,
        weights=Weights({}, {}),
        tree=tree,
        activation=options.loss.activation,
        has_intervals=options.loss.has_intervals,
        framing=galaxies.framing_of(options),
        image_size=options.model.image_size,
        test_views=TestViews(
            field=views.field,
            zoom=views.zoom,
            at_once=evaluate.views_at_once,
            piece=PIECE if jax.default_backend() == "cpu" else 0,
        ),
        views=evaluate.views,
        placement=placement,
        reading=Reading(evaluate.batch_size, data.threads, data.processes),
    )


def build_training(options: Options, network: Network, training_galaxies: int) -> Training:
    """What training needs beside the model.

    Raises:
      UserError: fewer galaxies than a batch, updates that no step would make, or a batch that
        does not fall into groups.
    """
    run = options.run
    if run.batch_size % options.model.norm_groups:
        with named("--config.model."):
            expected = f"a divisor of batch_size, {run.batch_size}"
            options.model.fail("norm_groups", expected, str(options.model.norm_groups))
    with named("--config."):
        steps_per_epoch = batches.batches_per_epoch(training_galaxies, run.batch_size)
    with named("--config.optim."):
        learning_rate, optimiser = optim.make(
            options.optim,
            epochs=run.epochs,
            steps_per_epoch=steps_per_epoch,
            depths=network.depths,
            depth_of=network.depth_of,
        )
    return Training(
        objective=options.loss,
        augmentation=options.views,
        learning_rate=jax.jit(learning_rate),
        optimiser=optimiser,
        average_decay=options.average.decay,
        batch_size=run.batch_size,
        steps_per_epoch=steps_per_epoch,
        steps=run.epochs * steps_per_epoch,
        accumulate=options.optim.accumulate,
        seed=run.seed,
        evaluate_every=options.evaluate.every * steps_per_epoch,
        save_every=options.checkpoint.every,
        log_every=options.log.every,
        keep=options.checkpoint.keep,
    )
