"""From batches of canvases to vote fractions, without any chance."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gzjax import augment, tree
from gzjax.augment import Views
from gzjax.models import Network, Weights


def predict_step(
    weights: Weights,
    batch: Mapping[str, jax.Array],
    *,
    network: Network,
    views: Views,
    image_size: int,
    activation: str,
    count: int = 1,
    at_once: int = 1,
) -> dict[str, jax.Array]:
    """The vote fractions of one batch, always the cumulative ones, averaged over views.

    The average of fractions that obey the tree obeys it, too. No chance is in it.

    Args:
      weights: of the network.
      batch: `image` uint8[batch, canvas, canvas, 3], and whatever goes through as it is.
      network: the network.
      views: how much of the canvas is shown, and how far sizes differ.
      image_size: pixels a side of what the network sees.
      activation: of the tree; see `tree.fractions`.
      count: how many views of each galaxy are averaged; see `augment.grid_maps`. 1: upright.
      at_once: views computed at the same time; bounds the memory.

    Returns:
      The batch with `fractions` float32[batch, answers] in place of the image.
    """
    canvases = batch["image"]

    def answered(images: jax.Array) -> jax.Array:
        outputs, _ = network.apply(*weights, images, train=False)
        return tree.fractions(outputs, activation)

    if count == 1:
        fractions = answered(augment.view(canvases, views.upright, image_size))
    else:
        maps = augment.grid_maps(count, views.field, views.zoom)
        widest = float(np.hypot(maps[:, 0, 0], maps[:, 0, 1]).max())

        def through(view_map: jax.Array) -> jax.Array:
            one_map = jnp.broadcast_to(view_map, (len(canvases), 2, 3))
            return answered(augment.mapped(canvases, one_map, image_size, widest))

        fractions = jax.lax.map(through, jnp.asarray(maps), batch_size=at_once).mean(axis=0)
    others = {name: array for name, array in batch.items() if name != "image"}
    return {**others, "fractions": fractions}


def stream(step: Callable[[Any], Any], batches: Iterable[Any], ahead: int = 2) -> Iterator[Any]:
    """The results of all batches, on the host, while the device works on the next ones."""
    pending: collections.deque = collections.deque()
    for batch in batches:
        pending.append(step(batch))
        if len(pending) > ahead:
            yield jax.device_get(pending.popleft())
    yield from map(jax.device_get, pending)


def predict(
    step: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[Mapping[str, jax.Array]],
) -> tuple[np.ndarray, np.ndarray]:
    """Runs `step` over all batches and drops the padding.

    Returns:
      rows: int32[galaxies], positions in the catalogue.
      fractions: float32[galaxies, answers].
    """
    results = list(stream(step, batches))
    whole = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    real = whole["mask"] > 0
    return whole["row"][real], whole["fractions"][real]
