"""Networks: from images to one real number for each answer of the tree.

`build` is all that the rest of the code sees. A network is two pure functions, and no caller
knows which module system is behind them.
"""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gzjax.models import convolution, efficientnet

NAMES = tuple(efficientnet.VARIANTS)

# Of the images that public weights were trained on, in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class Weights(NamedTuple):
    """What a network computes with: nested dicts of float32 arrays.

    params: what is learnt, by layer.
    batch_stats: batch norm's means and variances, by layer.
    """

    params: Any
    batch_stats: Any


class Network(NamedTuple):
    """A network as functions of its parameters.

    init: PRNG key -> Weights.
    apply: (params, batch_stats, images, *, train, key=None) -> (outputs, batch_stats), where
      images are float[batch, height, width, 3] in [0, 1], outputs float32[batch, outputs], and the
      statistics are new ones in training. Training needs a key for its chances.
    depths: how many depths its layers lie at, from the images to the outputs.
    depth_of: name of a layer, the first in the parameters -> its depth, from 0.
    """

    init: Callable[[jax.Array], Weights]
    apply: Callable[..., tuple[jax.Array, Any]]
    depths: int
    depth_of: Callable[[str], int]


def build(
    name: str,
    *,
    image_size: int = 128,
    outputs: int = 37,
    dtype: str = "float32",
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
    output_bias: float = 1.0,
    frozen: int = 0,
    padding: str = "same",
    norm_epsilon: float = 1e-3,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    deviation: tuple[float, float, float] = IMAGENET_DEVIATION,
    depthwise: str = "auto",
) -> Network:
    """Makes a network.

    Args:
      name: one of `NAMES`.
      image_size: pixels a side, for `init`; `apply` takes any.
      outputs: how many numbers an image gets.
      dtype: of the computation; parameters, batch-norm statistics and outputs are float32.
      dropout: of the last features; None takes the published rate.
      stochastic_depth: chance to skip the last block; earlier ones less.
      output_bias: where the outputs start; above 0, so that a ReLU after them has a gradient.
      frozen: so many depths, from the images on, keep their parameters and statistics in training.
      padding: `same` (TensorFlow's) or `symmetric` (PyTorch's); see `convolution.padding_of`.
      norm_epsilon: of batch norm.
      mean: subtracted from each colour of the images.
      deviation: that each colour is then divided by.
      depthwise: one of `convolution.METHODS`, or `auto`, the fastest here; `shifted` brings the
        batch norm and the SiLU that suit a CPU, too.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"network {name!r}: expected one of {', '.join(NAMES)}{hint}")
    variant = efficientnet.VARIANTS[name]
    module = efficientnet.EfficientNet(
        variant=variant,
        outputs=outputs,
        dropout=variant.dropout if dropout is None else dropout,
        stochastic_depth=stochastic_depth,
        output_bias=output_bias,
        frozen=frozen,
        details=efficientnet.Details(
            dtype=jnp.dtype(dtype),
            padding=padding,
            norm_epsilon=norm_epsilon,
            depthwise=convolution.fastest_method() if depthwise == "auto" else depthwise,
        ),
    )

    def init(key: jax.Array) -> Weights:
        variables = module.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return Weights(variables["params"], variables["batch_stats"])

    def apply(
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        images = (images - jnp.asarray(mean)) / jnp.asarray(deviation)
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = None if key is None else {"dropout": key}
        # In evaluation the statistics come back as they are.
        outputs, changed = module.apply(
            variables, images, train=train, rngs=rngs, mutable=["batch_stats"]
        )
        return outputs, changed["batch_stats"]

    return Network(init, apply, efficientnet.DEPTHS, efficientnet.depth_of)
