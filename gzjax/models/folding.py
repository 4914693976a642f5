"""Batch norm folded into the convolutions before it, for prediction.

Not in training, batch norm is a factor and an offset for each channel: the factor goes into the
convolution's kernel, and the offset becomes its bias. The numbers are the same but for rounding,
whatever the padding: zeros are put around the images before the convolution, not after it.
"""

from collections.abc import Mapping
from typing import Any

from jax import lax

NORM = "_norm"  # a convolution's name and this: the batch norm that follows it


def fold(
    params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and statistics of the same network without batch norm.

    Args:
      params: nested dicts of arrays by layer; `expand_norm` is the batch norm of `expand`.
      stats: `mean` and `var` of each batch norm.
      epsilon: added to the variance.

    Returns:
      Parameters in which these convolutions have a bias, and the statistics of all other layers.
    """
    folded, rest = {}, {name: value for name, value in stats.items() if name not in params}
    for name, layer in params.items():
        norm = f"{name}{NORM}"
        if norm in params:
            factor = lax.rsqrt(stats[norm]["var"] + epsilon) * params[norm]["scale"]
            # Kernels have their outputs last, those of depthwise convolutions, too.
            bias = params[norm]["bias"] - stats[norm]["mean"] * factor
            folded[name] = {"kernel": layer["kernel"] * factor, "bias": bias}
        elif any(inner.endswith(NORM) for inner in layer):
            folded[name], _ = fold(layer, stats[name], epsilon)
        elif not name.endswith(NORM):
            folded[name] = dict(layer)
    return folded, rest
