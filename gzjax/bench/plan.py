"""What is measured: a recipe's own parts, in each combination of network, size, batch and type."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from gzjax.bench import timing
from gzjax.data.dataset import Data
from gzjax.data.devices import Placement
from gzjax.models import Conventions, convolution
from gzjax.run import build, galaxies
from gzjax.run import config as configs
from gzjax.run.config import Options
from gzjax.run.model import Model, Training
from gzjax.run.report import Report
from gzjax.tree import Tree

Row = dict[str, Any]


class Plan(NamedTuple):
    """What to measure with.

    config: a recipe; galaxies, views, optimiser and network are as it says ...
    models, sizes, batches, dtypes: ... but for these, each combination of which is measured.
    tree: of the answers.
    cache: folder for rendered skies.
    repeats: of every measurement.
    topologies: machines to compile for, such as v5e:2x2; see `topologies`.
    """

    config: ConfigDict
    models: list[str]
    sizes: list[int]
    batches: list[int]
    dtypes: list[str]
    tree: Tree
    cache: Path
    repeats: int
    topologies: Sequence[str] = ()

    def combinations(self) -> Iterator[Options]:
        """The recipe, with each combination of network, size, batch and type.

        Raises:
          UserError: one of them is not allowed.
        """
        for name, size, batch, dtype in itertools.product(
            self.models, self.sizes, self.batches, self.dtypes
        ):
            config = self.config.copy_and_resolve_references()
            config.model.update(name=name, image_size=size, dtype=dtype, weights="")
            config.batch_size = config.evaluate.batch_size = batch
            yield configs.typed(config)

    def load(self, options: Options) -> Data:
        """The galaxies that the options name.

        Raises:
          UserError: something is wrong with them.
        """
        return galaxies.build_data(options, self.tree, self.cache, False, Report(loud=False))


def columns(options: Options) -> Row:
    """The columns that say which combination a row is of."""
    return {
        "model": options.model.name.removeprefix("efficientnet-"),
        "pixels": options.model.image_size,
        "batch": options.run.batch_size,
        "dtype": options.model.dtype,
    }


def model_of(options: Options, tree: Tree, placement: Placement, *, folded: bool = False) -> Model:
    """A model without weights, in the form that suits the devices, which need not be there."""
    (first, *_) = placement.replicated.mesh.devices.flat
    method = convolution.fastest_method(first.platform)
    network = build.build_network(options, tree, Conventions(), folded=folded, depthwise=method)
    return build.build_model(options, tree, network, placement)


def training_of(options: Options, model: Model) -> Training:
    """Of galaxies enough for one update; how many there are changes no step's cost."""
    galaxies = options.run.batch_size * options.optim.accumulate
    return build.build_training(options, model.network, galaxies)


def random_batch(model: Model, size: int) -> dict[str, jax.Array]:
    """A training batch of noise, on the devices."""
    generator = np.random.default_rng(0)
    like = model.abstract_batch(size)
    arrays = {
        "votes": 40 * generator.dirichlet(np.ones(model.tree.size), size).astype(np.float32),
        "image": generator.integers(0, 255, like["image"].shape, np.uint8),
        "row": np.arange(size, dtype=np.int32),
        "mask": np.ones(size, np.float32),
    }
    return jax.device_put(arrays, model.placement.by_galaxy)


def lower_train_step(options: Options, tree: Tree, placement: Placement) -> jax.stages.Lowered:
    """The train step, lowered for devices that need not be there."""
    model = model_of(options, tree, placement)
    training = training_of(options, model)
    batch = model.abstract_batch(options.run.batch_size)
    return training.step(model).lower(training.abstract_state(model), batch)


class Step:
    """The compiled train step on a batch of noise, to be called again and again.

    Args:
      options: of the recipe.
      tree: of the answers.
      placement: on which devices; None: on all.

    Raises:
      UserError: a batch size that the devices do not divide.
    """

    def __init__(self, options: Options, tree: Tree, placement: Placement | None = None):
        self.placement = placement or build.place(options, training=True)
        model = model_of(options, tree, self.placement)
        self.training = training_of(options, model)
        self.state = self.training.initial_state(model, lambda drawn: drawn)
        self.batch = random_batch(model, options.run.batch_size)
        began = timing.now()
        self.compiled: Any = lower_train_step(options, tree, self.placement).compile()
        self.compile_seconds = timing.now() - began

    def __call__(self) -> Any:
        self.state, result = self.compiled(self.state, self.batch)
        return result
