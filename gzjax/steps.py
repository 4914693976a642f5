"""The programs that run on the devices: a step of training, of prediction, of embedding.

All are pure functions of arrays, to be jitted; `gzjax.run.model` says how they are spread over
devices.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, UInt8

from gzjax import augment, losses, optim
from gzjax.augment import Augmentation, TestViews
from gzjax.losses import Objective
from gzjax.models import Network, Weights
from gzjax.tree import Tree, concentrations, fractions

Batch = Mapping[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """All that changes in training: a flat pytree, saved and restored as it is.

    `average` is the moving average of `weights`; without averaging, the same.
    """

    step: Int[Array, ""]
    weights: Weights
    average: Weights
    opt_state: Any
    means: Any
    key: PRNGKeyArray


def init_state(
    weights: Weights,
    optimiser: optax.GradientTransformation,
    objective: Objective,
    key: PRNGKeyArray,
) -> TrainState:
    """The state before the first step; everything random in training follows from the key."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        # A copy, since the step takes the memory of both.
        average=jax.tree.map(jnp.copy, weights),
        opt_state=optimiser.init(weights.params),
        means=losses.init_means(objective.terms),
        key=key,
    )


def follow(average: Weights, weights: Weights, step: Int[Array, ""], decay: float) -> Weights:
    """The exponential moving average of weights and statistics, one step on.

    Early on it forgets faster, by the rule (1 + step) / (10 + step) of TensorFlow's
    ExponentialMovingAverage, so that the weights of the start do not hold it back. Later it keeps
    `decay` of itself at each step; with 0, it is the weights. `step` is how many came before.
    """
    if decay == 0:
        return weights
    keeps = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(weights, average, 1 - keeps)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: Network,
    tree: Tree,
    image_size: int,
    augmentation: Augmentation,
    objective: Objective,
    optimiser: optax.GradientTransformationExtraArgs,
    average_decay: float,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One batch, from canvases to new parameters; to be jitted with `state` donated.

    The batch has `image` uint8[batch, canvas, canvas, 3], `votes` float32[batch, answers] and
    `mask` float32[batch]. Beside the state come scalars to record.
    """
    view_key, network_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    images = augment.random_views(view_key, batch["image"], augmentation, image_size)

    def loss_of(params):
        outputs, batch_stats = network.apply(
            params, state.weights.batch_stats, images, train=True, key=network_key
        )
        loss, (means, record) = losses.objective(
            objective, tree, outputs, batch["votes"], batch["mask"], state.means
        )
        return loss, (batch_stats, means, record)

    (loss, (batch_stats, means, record)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        state.weights.params
    )
    updates, opt_state = optimiser.update(gradients, state.opt_state, state.weights.params)
    weights = Weights(optax.apply_updates(state.weights.params, updates), batch_stats)
    return (
        state.replace(
            step=state.step + 1,
            weights=weights,
            average=follow(state.average, weights, state.step, average_decay),
            opt_state=opt_state,
            means=means,
        ),
        {"loss": loss, "gradient_norm": optim.global_norm(gradients), **record},
    )


def predict_step(
    weights: Weights,
    batch: Batch,
    *,
    network: Network,
    tree: Tree,
    activation: str,
    image_size: int,
    test_views: TestViews,
    views: int,
    has_intervals: bool = False,
) -> dict[str, jax.Array]:
    """Cumulative vote fractions of a batch, averaged over test-time views; nothing is random.

    `views` of them, see `augment.grid_maps`; a single one is upright. The average of fractions that
    obey the tree obeys it, too. In the batch, `fractions` float32[batch, answers] take the place
    of `image` uint8[batch, canvas, canvas, 3] and `votes`; whatever else it has stays. Of outputs
    trained by their likelihood come `concentrations` float32[batch, views, answers], too.
    """

    def seen(images: jax.Array) -> tuple[jax.Array, ...]:
        outputs, _ = network.apply(*weights, images, train=False)
        answers = fractions(outputs, tree, activation)
        if not has_intervals:
            return (answers,)
        return answers, concentrations(outputs, tree, activation)

    each = of_each_view(seen, batch["image"], image_size, test_views, views)
    result = {name: array for name, array in batch.items() if name not in ("image", "votes")}
    result["fractions"] = each[0].mean(axis=0)
    if has_intervals:
        result["concentrations"] = each[1].swapaxes(0, 1)
    return result


def embed_step(
    weights: Weights,
    batch: Batch,
    *,
    network: Network,
    image_size: int,
    test_views: TestViews,
    views: int,
) -> Float32[Array, "batch features"]:
    """The network's features of a batch, averaged over test-time views, as in `predict_step`.

    Outputs are linear in features, so the features' average gives the outputs' average.
    """

    def seen(images: jax.Array) -> tuple[jax.Array, ...]:
        return (network.features(*weights, images),)

    return of_each_view(seen, batch["image"], image_size, test_views, views)[0].mean(axis=0)


def of_each_view(
    seen: Callable[[jax.Array], tuple[jax.Array, ...]],
    canvases: UInt8[Array, "batch canvas canvas 3"],
    image_size: int,
    test_views: TestViews,
    views: int,
) -> Sequence[Float[Array, "views batch ..."]]:
    """What is `seen` of each test-time view; see `augment.grid_maps`. A single one is upright."""
    if 0 < test_views.piece < len(canvases):
        piece = max(n for n in range(1, test_views.piece + 1) if len(canvases) % n == 0)
        whole = test_views._replace(piece=0)
        found = jax.lax.map(
            lambda some: of_each_view(seen, some, image_size, whole, views),
            canvases.reshape(-1, piece, *canvases.shape[1:]),
        )
        return [
            array.swapaxes(0, 1).reshape(views, len(canvases), *array.shape[3:]) for array in found
        ]
    if views == 1:
        upright = augment.upright_view(canvases, test_views.field, image_size, test_views.resample)
        return [array[None] for array in seen(upright)]
    maps = augment.grid_maps(views, test_views.field, test_views.zoom)
    widest = float(np.hypot(maps[:, 0, 0], maps[:, 0, 1]).max())

    def through(view_map: jax.Array) -> tuple[jax.Array, ...]:
        one_map = jnp.broadcast_to(view_map, (canvases.shape[0], 2, 3))
        return seen(augment.mapped(canvases, one_map, image_size, widest, test_views.resample))

    several = test_views.at_once if test_views.at_once > 1 else None
    return jax.lax.map(through, jnp.asarray(maps), batch_size=several)
