"""Opens a run, or a model that was exported: its model, its galaxies, its tree."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from gzjax import models, remote
from gzjax.data.dataset import Data
from gzjax.data.framing import Framing
from gzjax.errors import UserError, one_line
from gzjax.models import Conventions
from gzjax.run import build, exported, galaxies, recorder
from gzjax.run import config as configs
from gzjax.run.config import Options
from gzjax.run.model import Model, digest_of
from gzjax.run.report import SILENT, Report
from gzjax.tree import Tree


def load(
    workdir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    alone: bool = False,
    depthwise: str = "auto",
    dtype: str = "",
) -> Model:
    """Opens a run at the checkpoint that was best on validation, or a model that was exported.

    Args:
      workdir: folder of the run, or of the export; the URL of one; or `hf://owner/name`, an export
        on the hub.
      overrides: {dotted option: value}, such as {"evaluate.batch_size": 256}.
      alone: use the devices of this process, not of all processes together.
      depthwise: see `models.build`.
      dtype: of the computation; "": as the recipe says.

    Raises:
      UserError: no checkpoint there, or an override that would make it another run.
    """
    with exported.at_hand(workdir) as folder:
        best = exported.open_best(folder)
        options = options_of(best.about, overrides, folder)
        temperatures = recorder.read_temperatures(folder, best.step)
        name = str(workdir if remote.is_remote(workdir) else folder)
    network_options = dataclasses.replace(options.model, dtype=dtype or options.model.dtype)
    options = options._replace(model=network_options)
    tree = Tree.from_dict(best.about["tree"])
    conventions = Conventions.from_json(best.about["conventions"])
    network = build.build_network(options, tree, conventions, folded=True, depthwise=depthwise)
    placement = build.place(options, training=False, alone=alone)
    fold = jax.jit(lambda weights: models.fold(weights, conventions))
    return build.build_model(options, tree, network, placement)._replace(
        weights=jax.device_put(fold(best.average), placement.replicated),
        raw=jax.device_get(fold(best.raw)) if options.average.decay and best.raw else None,
        step=best.step,
        name=name,
        temperatures=temperatures,
        digest=digest_of(best.average),
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
      UserError: something is wrong with them, or they have changed since.
    """
    about = exported.open_best(workdir).about
    options, tree = options_of(about, overrides, workdir), Tree.from_dict(about["tree"])
    data = galaxies.build_data(options, tree, cache, check_images, report)
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
        config = config.copy_and_resolve_references()
        if config.data.kind != "sky" and not config.data.catalogues:
            config.data.root = config.data.root or "."  # where nothing is read
        options = configs.typed(config)
        return galaxies.load_tree(options.data), galaxies.framing_of(options)
    about = exported.open_best(workdir).about
    return Tree.from_dict(about["tree"]), galaxies.framing_of(options_of(about, overrides, workdir))


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
    configs.check_same_run(about["config"], config, workdir, resumes=False)
    options = configs.typed(config)
    # Its file may have moved.
    if "data.tree" in (overrides or {}) and galaxies.load_tree(options.data) != Tree.from_dict(
        about["tree"]
    ):
        raise UserError(
            f"--config.data.tree: expected the tree of the run in {workdir}, found "
            f"{options.data.tree}"
        )
    return options
