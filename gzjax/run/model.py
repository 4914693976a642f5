"""`Model`: everything that predicting needs. `Training`: what training needs beside it."""

import functools
import hashlib
import json
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grain
import jax
import numpy as np
import optax
import pandas as pd

from gzjax import steps as programs
from gzjax.augment import Augmentation, TestViews
from gzjax.data import batches
from gzjax.data.batches import Source
from gzjax.data.devices import Placement
from gzjax.data.framing import Framing
from gzjax.errors import UserError
from gzjax.losses import Objective
from gzjax.models import Network, Weights
from gzjax.posterior import Posterior
from gzjax.run.places import without_places
from gzjax.steps import Batch, TrainState
from gzjax.tree import Tree

if TYPE_CHECKING:
    from gzjax.run.embed import Embeddings


class Reading(NamedTuple):
    """How images are read to be predicted.

    batch_size: galaxies predicted at a time, over all devices.
    threads: decoding ahead, a batch each.
    processes: worker processes with as many threads each; 0: this process.
    """

    batch_size: int
    threads: int = 4
    processes: int = 0


def digest_of(weights: Weights) -> str:
    """Changes with any weight of a network; the same wherever they lie, and on any device."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


class Model(NamedTuple):
    """A network with its weights, ready to predict.

    network: as pure functions.
    weights: on all devices; of a finished run the moving average.
    tree: the decision tree.
    activation: from the network's outputs to vote fractions; see `tree.fractions`.
    has_intervals: whether outputs are concentrations, too, of which intervals are made; see
      `tree.concentrations`.
    framing: how images become canvases.
    image_size: pixels a side of what the network sees of a canvas.
    test_views: how test-time views are made, and ...
    views: ... how many are averaged, unless another number is asked for.
    placement: on which devices.
    reading: how images are read.
    raw: the weights that `weights` is the average of, to be scored beside it; None: none.
    step: of training, that the weights are of.
    name: of the run, for people.
    temperatures: {views averaged: what makes intervals right on validation}.
    digest: of the weights as they were trained, see `digest_of`.
    about: what was trained on what, as the checkpoint has it: config, tree, conventions, data.
    """

    network: Network
    weights: Weights
    tree: Tree
    activation: str
    has_intervals: bool
    framing: Framing
    image_size: int
    test_views: TestViews
    views: int
    placement: Placement
    reading: Reading
    raw: Weights | None = None
    step: int = 0
    name: str = ""
    temperatures: Mapping[int, float] = types.MappingProxyType({})
    digest: str = ""
    about: Mapping[str, Any] = types.MappingProxyType({})

    def __repr__(self) -> str:
        """In a line, as notebooks show what is not assigned."""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.weights.params))
        return f"Model({self.name!r}, tree {self.tree.name}, step {self.step}, {size:,} parameters)"

    @property
    def identity(self) -> str:
        """Changes with what was trained on what, and what it learnt; not with where it lies."""
        described = json.dumps([without_places(self.about), self.step, self.digest], sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def views_or(self, views: int | None) -> int:
        """How many test-time views are averaged: as asked for; None: as the recipe says.

        Raises:
          UserError: fewer than one.
        """
        views = self.views if views is None else views
        if not isinstance(views, int | np.integer) or views < 1:
            raise UserError(f"views: expected 1 or more, found {views!r}")
        return int(views)

    def abstract_batch(self, size: int, *, votes: bool = True) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a batch, and where it lies; without votes: of one to predict."""

        def array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=self.placement.by_galaxy)

        batch = {"image": array((self.framing.canvas, self.framing.canvas, 3), np.uint8)}
        if votes:
            batch["votes"] = array((self.tree.size,), np.float32)
            batch["mask"] = array((), np.float32)
            batch["row"] = array((), np.int32)
        return batch

    def predict_step(self, views: int) -> Callable[[Weights, Batch], dict[str, jax.Array]]:
        """The jitted `programs.predict_step`; compiled once for each number of views."""
        return _predict_step(
            self.network,
            self.tree,
            self.activation,
            self.has_intervals,
            self.image_size,
            self.test_views,
            views,
            self.placement,
        )

    def embed_step(self, views: int) -> Callable[[Weights, Batch], jax.Array]:
        """The jitted `programs.embed_step`; compiled once for each number of views."""
        return _embed_step(self.network, self.image_size, self.test_views, views, self.placement)

    def temperature(self, views: int) -> float:
        """Of the intervals; for another number of views, that of the nearest one."""
        nearest = min(self.temperatures, key=lambda number: abs(number - views), default=None)
        return 1.0 if nearest is None else self.temperatures[nearest]

    def predict(self, images: Any, views: int | None = None, **options: Any) -> pd.DataFrame:
        """Vote fractions of images, with intervals; see `gzjax.predict`."""
        from gzjax.run.predict import predict  # which predicts with models

        return predict(self, images, views=views, **options)

    def posterior(self, images: Any, views: int | None = None) -> Posterior:
        """What the model believes of images, how sure it is; see `run.predict.posterior`."""
        from gzjax.run.predict import posterior  # which predicts with models

        return posterior(self, images, views=views)

    def embed(self, images: Any, views: int | None = None) -> "Embeddings":
        """The features before the outputs, averaged over views; see `run.embed.embed`."""
        from gzjax.run.embed import embed  # which embeds with models

        return embed(self, images, views=views)


@functools.lru_cache(maxsize=64)
def _predict_step(
    network, tree, activation, has_intervals, image_size, test_views, views, placement
):
    step = functools.partial(
        programs.predict_step,
        network=network,
        tree=tree,
        activation=activation,
        has_intervals=has_intervals,
        image_size=image_size,
        test_views=test_views,
        views=views,
    )
    return _spread(step, placement)


@functools.lru_cache(maxsize=64)
def _embed_step(network, image_size, test_views, views, placement):
    step = functools.partial(
        programs.embed_step,
        network=network,
        image_size=image_size,
        test_views=test_views,
        views=views,
    )
    return _spread(step, placement)


def _spread(step: Callable[..., Any], placement: Placement) -> jax.stages.Wrapped:
    # Each device takes its galaxies by itself. Whole on every process, since each may need all.
    weights, batch = placement.replicated.spec, placement.by_galaxy.spec
    each = jax.shard_map(
        step,
        mesh=placement.by_galaxy.mesh,
        in_specs=(weights, batch),
        out_specs=batch,
        check_vma=False,
    )
    return jax.jit(
        each,
        in_shardings=(placement.replicated, placement.by_galaxy),
        out_shardings=placement.replicated,
    )


class Training(NamedTuple):
    """What training needs beside a model.

    objective: what is minimised.
    augmentation: how random views are drawn.
    learning_rate: update -> rate.
    optimiser: the optax chain.
    average_decay: of the moving average of the weights, a step; 0: none.
    batch_size: galaxies per step, over all devices of all machines.
    steps_per_epoch: in a pass over the training galaxies.
    steps: in all.
    accumulate: batches averaged before an update.
    seed: of the parameters, the order of galaxies, and everything random in training.
    evaluate_every: steps between evaluations.
    save_every: steps between checkpoints.
    log_every: steps between records.
    keep: newest checkpoints kept.
    """

    objective: Objective
    augmentation: Augmentation
    learning_rate: optax.Schedule
    optimiser: optax.GradientTransformationExtraArgs
    average_decay: float
    batch_size: int
    steps_per_epoch: int
    steps: int
    accumulate: int
    seed: int
    evaluate_every: int
    save_every: int
    log_every: int
    keep: int

    def batches(self, source: Source, reading: Reading) -> grain.IterDataset:
        """This process's share of all training batches; see `batches.training_batches`."""
        return batches.training_batches(
            source,
            self.batch_size,
            self.seed,
            threads=reading.threads,
            processes=reading.processes,
            shard=jax.process_index(),
            shards=jax.process_count(),
        )

    def step(self, model: Model) -> jax.stages.Wrapped:
        """The jitted train step: the batch spread over the devices, the state on all of them."""
        step = functools.partial(
            programs.train_step,
            network=model.network,
            tree=model.tree,
            image_size=model.image_size,
            augmentation=self.augmentation,
            objective=self.objective,
            optimiser=self.optimiser,
            average_decay=self.average_decay,
        )
        return jax.jit(
            step,
            in_shardings=(model.placement.replicated, model.placement.by_galaxy),
            out_shardings=model.placement.replicated,
            donate_argnums=0,
        )

    def initial_state(self, model: Model, begin: Callable[[Weights], Weights]) -> TrainState:
        """The train state before the first step, on all devices.

        Args:
          model: of which only the network and the placement matter.
          begin: weights drawn at random -> those to start from.
        """
        parameter_key, training_key = jax.random.split(jax.random.key(self.seed))
        weights = begin(jax.jit(model.network.init)(parameter_key))
        init = functools.partial(
            programs.init_state,
            optimiser=self.optimiser,
            objective=self.objective,
            key=training_key,
        )
        return jax.jit(init, out_shardings=model.placement.replicated)(weights)

    def abstract_state(self, model: Model) -> TrainState:
        """The shapes of a train state, with their sharding, without making one."""
        key = jax.random.key(self.seed)
        state = jax.eval_shape(
            lambda: programs.init_state(
                model.network.init(key), self.optimiser, self.objective, key
            )
        )
        placed = model.placement.replicated
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), state
        )


def as_models(given: Model | Sequence[Model]) -> list[Model]:
    """One or several models as a list.

    Raises:
      UserError: something else, such as the name of a run.
    """
    several = isinstance(given, Sequence) and not isinstance(given, Model)
    models: list[Any] = list(given) if several else [given]
    if not models or not all(isinstance(each, Model) for each in models):
        raise UserError(f"models: expected what gzjax.load gives, one or several, found {given!r}")
    return models
