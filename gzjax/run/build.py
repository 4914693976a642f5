"""The one place where a config becomes the parts of a run: data, model, training.

No function further in knows of configs, and nothing here computes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gzjax import files, models, optim, remote, trees
from gzjax.augment import TestViews
from gzjax.data import batches, dataset, devices
from gzjax.data.dataset import Data, Split
from gzjax.data.devices import Placement
from gzjax.data.framing import Framing
from gzjax.errors import UserError, named, one_line
from gzjax.models import Conventions, Network, Weights, pretrained
from gzjax.run import config as configs
from gzjax.run import exported, recorder, trackers
from gzjax.run.config import DataSettings, Options
from gzjax.run.model import Model, Reading, Training
from gzjax.run.report import SILENT, Report
from gzjax.tree import Tree

# Galaxies that a CPU predicts at a time: of more, what the layers pass on leaves its caches, and
# the network takes twice the time.
PIECE = 8


class Run(NamedTuple):
    """A training, ready to start or to resume.

    model: as it will predict, once it has weights.
    training: what training needs beside it.
    data: the galaxies.
    begin: weights drawn at random -> those to start from.
    about: what the run is, to be saved with each checkpoint.
    on_device: whether the devices hold all images.
    trackers: what records the training.
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
    """Makes the parts of a training.

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
    tree = load_tree(options.data)
    with named("--config.loss."):
        options.loss.check_tree(tree)
    with named("--config.log.trackers: "):
        trackers.check(options.log.trackers)
    placement = place(options, training=True)
    if saved:
        check_same_run(saved, config, tree, workdir)
        origin = Origin(Conventions.from_json(saved["conventions"]), lambda drawn: drawn)
    else:
        with named("--config.model.weights: "):
            origin = find_origin(options, tree)
    data = build_data(options, tree, cache, check_images, report)
    if saved:
        data.check_same(saved["data"], workdir)
    if origin.held_out not in (None, data.held_out):
        # Those catalogues may hold any of the galaxies that are held out here.
        raise UserError(
            f"--config.model.weights: {options.model.weights} was also trained on catalogues that "
            "are not split, without the galaxies that it held out; expected the same held-out ones"
        )
    check_learnable(options, data)
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
            "unsplit": not all(member.scored for member in data.members),
            "processes": jax.process_count(),
        },
        on_device=options.data.on_device,
        trackers=options.log.trackers,
    )


def load(
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    alone: bool = False,
    depthwise: str = "auto",
) -> Model:
    """Opens a run at the checkpoint that was best on validation, or a model that was exported.

    Args:
      workdir: folder of the run, or of the export; the URL of one; or `hf://owner/name`, an export
        on the hub.
      overrides: {dotted option: value}, such as {"evaluate.batch_size": 256}.
      alone: use the devices of this process, not of all processes together.
      depthwise: see `models.build`.

    Raises:
      UserError: no checkpoint there, or an override that would make it another run.
    """
    with exported.at_hand(workdir) as folder:
        best = exported.open_best(folder)
        options = options_of(best.about, overrides, folder)
        temperatures = recorder.read_temperatures(folder, best.step)
        name = str(workdir if remote.is_remote(workdir) else folder)
    tree = Tree.from_dict(best.about["tree"])
    conventions = Conventions.from_json(best.about["conventions"])
    network = build_network(options, tree, conventions, folded=True, depthwise=depthwise)
    placement = place(options, training=False, alone=alone)
    fold = jax.jit(lambda weights: models.fold(weights, conventions))
    return build_model(options, tree, network, placement)._replace(
        weights=jax.device_put(fold(best.average), placement.replicated),
        raw=jax.device_get(fold(best.raw)) if options.average.decay and best.raw else None,
        step=best.step,
        name=name,
        temperatures=temperatures,
        about=best.about,
    )


def load_data(
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    cache: str | Path | None = None,
    check_images: bool = False,
    report: Report = SILENT,
) -> Data:
    """The galaxies that a run was trained on: images, votes and splits.

    Args:
      workdir: folder of the run, or its URL.
      overrides: {dotted option: value}, such as {"data.root": "where they are now"}.
      cache: folder for rendered skies; None: the user's cache folder.
      check_images: decode every image first.
      report: shows what takes long.

    Raises:
      UserError: something is wrong with them, or they are others by now.
    """
    about = exported.open_best(workdir).about
    options, tree = options_of(about, overrides, workdir), Tree.from_dict(about["tree"])
    data = build_data(options, tree, cache, check_images, report)
    data.check_same(about["data"], workdir)
    return data


def describe_run(
    config: ConfigDict, overrides: Mapping[str, Any], workdir: Path | None
) -> tuple[Tree, Framing]:
    """The tree of a config, or of the run in a workdir, and how images are cut out.

    Raises:
      UserError: a fault in the options, or no run in the workdir.
    """
    if workdir is None:
        options = configs.typed(config)
        return load_tree(options.data), framing_of(options)
    about = exported.open_best(workdir).about
    return Tree.from_dict(about["tree"]), framing_of(options_of(about, overrides, workdir))


def framing_of(options: Options) -> Framing:
    """How images become canvases."""
    return Framing(options.data.crop, options.data.canvas, options.fits)


def options_of(
    about: Mapping[str, Any], overrides: Mapping[str, Any] | None, workdir: str | Path
) -> Options:
    """The options of a saved run, with some changed that may.

    Raises:
      UserError: an override that would make it another run, or that is not allowed.
    """
    config = configs.with_defaults(about["config"])
    try:
        config.update_from_flattened_dict(overrides or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--config: {one_line(error)}") from None
    configs.check_same_run(about["config"], config, workdir)
    return configs.typed(config)


def check_same_run(saved: Mapping[str, Any], config: ConfigDict, tree: Tree, workdir: Path) -> None:
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
            f"{jax.process_count()}; each has its own place in the data, so expected as many"
        )


class Origin(NamedTuple):
    """Where a run's weights come from.

    conventions: what a network has to do the way that they were trained.
    begin: the weights that the run starts from, given ones drawn at random.
    held_out: of a run that was also trained on catalogues that are not split, what it held out;
      see `Data.held_out`.
    """

    conventions: Conventions
    begin: Callable[[Weights], Weights]
    held_out: str | None = None


def find_origin(options: Options, tree: Tree) -> Origin:
    """Reads the weights that a run starts from.

    Outputs begin at random, since those of public weights are of other classes; only another
    run's of the same tree are kept.

    Raises:
      UserError: there are none, they are not of this network, or they have learnt from galaxies
        that this run holds out.
    """
    name, weights = options.model.name, options.model.weights
    if not weights:
        return Origin(Conventions(), lambda drawn: drawn)
    if Path(weights).is_dir() or remote.is_remote(weights):
        best = exported.open_best(weights)
        theirs = best.about["config"]
        if theirs["model"]["name"] != name:
            raise UserError(f"{weights} is of {theirs['model']['name']}; expected a run of {name}")
        check_held_out(options.data, theirs["data"], weights)
        same_tree = Tree.from_dict(best.about["tree"]) == tree
        return Origin(
            Conventions.from_json(best.about["conventions"]),
            lambda drawn: pretrained.take_over(best.average, drawn, same_tree),
            best.about["held_out"] if best.about.get("unsplit") else None,
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
            f"{weights} has learnt from galaxies that this run holds out: its split_seed, "
            f"validation and test are {theirs['split_seed']}, {theirs['validation']:g} and "
            f"{theirs['test']:g}, here {ours.split_seed}, {ours.validation:g} and {ours.test:g}; "
            "expected the same seed, and parts no larger than those"
        )


def check_learnable(options: Options, data: Data) -> None:
    """Checks that the loss finds anything to learn in the votes.

    Raises:
      UserError: it compares cumulative fractions, and no training galaxy has a known one.
    """
    if options.loss.likely or options.loss.targets == "conditional":
        return
    if np.isnan(data.observed(data.splits["train"])).all():
        first = data.tree.questions[0].name
        raise UserError(
            f"--config.loss.terms: expected dirichlet among them, or loss.targets=conditional: the "
            f"votes lack {first}, through which all other questions are reached, so that no "
            "cumulative fraction is known"
        )


def load_tree(settings: DataSettings) -> Tree:
    """The decision tree that the options name; of several catalogues the union of theirs.

    A pack of several has such a union, which is named `decals-dr5+gz2`.
    """
    with named("--config.data.tree: "):
        names = [each.tree for each in settings.listed()] or [settings.tree]
        names = [
            name for each in names for name in ([each] if Path(each).exists() else each.split("+"))
        ]
        return trees.union([trees.load(name) for name in dict.fromkeys(names)])


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
                cache=Path(cache or files.cache_folder()) / "sky",
                progress=progress,
                **common,
            )
        return _with_fewer(data, settings)
    listed = settings.listed()
    read = []
    for position, each in enumerate(listed):
        several = common | {"split": split if each.scored else None}
        # A pack of several catalogues is of their union.
        several["tree"] = tree if len(listed) == 1 else trees.load(each.tree)
        where = "catalogues" if settings.catalogues else "root" if position == 0 else "extra"
        with named(f"--config.data.{where}: "):
            if remote.is_remote(each.root):
                raise UserError(f"expected a folder of this machine, found {each.root}")
            if each.kind == "pack":
                data = dataset.from_pack(Path(each.root), **several)
            else:
                data = dataset.from_folder(
                    Path(each.root),
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
    report.say(
        f"galaxies of catalogues that are not split, dropped as others hold them out: {dropped}"
    )
    return data


def distinct_names(folders: Sequence[str]) -> list[str]:
    """The ends of some paths, as long as they have to be to differ."""
    paths = [Path(folder).resolve().parts for folder in folders]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _with_fewer(data: Data, settings: DataSettings) -> Data:
    fewer = settings.training_galaxies
    return data.with_fewer(fewer, settings.split_seed) if fewer else data


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
        likely=options.loss.likely,
        framing=framing_of(options),
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
        learning_rate=learning_rate,
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
