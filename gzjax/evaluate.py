"""Predictions of a whole split, and how good they are."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from gzjax import augment, metrics, tree
from gzjax.augment import Views
from gzjax.models import Network


def predict_step(
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    *,
    network: Network,
    views: Views,
    image_size: int,
    activation: str,
) -> dict[str, jax.Array]:
    """The vote fractions of one batch, always the cumulative ones.

    Args:
      params: of the network.
      batch_stats: of the network.
      batch: `image` uint8[batch, canvas, canvas, 3], `row` int32[batch], `mask` float32[batch].
      network: the network.
      views: how much of the canvas is shown; no chance is in it.
      image_size: pixels a side of what the network sees.
      activation: of the tree; see `tree.conditional_fractions`.

    Returns:
      `fractions` float32[batch, answers], and `row` and `mask` as they came.
    """
    images = augment.view(batch["image"], views.upright, image_size)
    outputs, _ = network.apply(params, batch_stats, images, train=False)
    conditional = tree.conditional_fractions(outputs, activation)
    return {
        "fractions": tree.cumulative_fractions(conditional),
        "row": batch["row"],
        "mask": batch["mask"],
    }


def predict(
    step: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[Mapping[str, jax.Array]],
) -> tuple[np.ndarray, np.ndarray]:
    """Runs `step` over all batches and drops the padding.

    Returns:
      rows: int32[galaxies], positions in the catalogue.
      fractions: float32[galaxies, answers].
    """
    results = [jax.device_get(step(batch)) for batch in batches]
    whole = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    real = whole["mask"] > 0
    return whole["row"][real], whole["fractions"][real]


def evaluate(
    step: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    batches: Iterable[Mapping[str, jax.Array]],
    fractions: np.ndarray,
    training_mean: np.ndarray,
) -> dict[str, Any]:
    """The metrics of one split; see `metrics.summary`.

    Args:
      step: batch -> predictions, jitted.
      batches: the split's, padded and masked.
      fractions: float32[galaxies of the catalogue, answers], the crowd's.
      training_mean: float[answers], of the training split.
    """
    rows, predicted = predict(step, batches)
    return metrics.summary(predicted, fractions[rows], training_mean)
