"""Networks: from images to one real number for each answer of the tree.

`build` makes a network of any family. It is pure functions, and no caller knows which module
system is behind them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, PRNGKeyArray, PyTree

from gzjax.models import convolution, efficientnet, folding
from gzjax.models.variants import VARIANTS
from gzjax.settings import Settings, choice, number, switch, text

NAMES = tuple(VARIANTS)


@dataclasses.dataclass(frozen=True)
class NetworkSettings(Settings):
    """Which network, and what it starts from.

    name: one of `NAMES`.
    image_size: pixels a side of what the network sees.
    dtype: of the computation; parameters are always float32.
    stochastic_depth: how often training skips a block, which rises from 0 at the first towards this
      at the last.
    weights: where to start from: `imagenet`, a repository on the Hugging Face hub, a file of
      weights, or the folder of another run; empty: at random. See `pretrained.read`.
    weights_overlap: whether a run that `weights` names may have learnt from galaxies of this run's
      data, so that what both hold out is compared. False: its galaxies are others, and nothing is.
    conventions: what a file's weights were trained in; `auto`: as the file says.
    norm_groups: equal parts of a training batch that have batch-norm statistics of their own; as
      many as devices spare them waiting for each other's.
    """

    name: str = choice("efficientnet-b0", NAMES)
    image_size: int = number(128, least=16, unit="pixels")
    dtype: str = choice("float32", ("float32", "bfloat16"))
    stochastic_depth: float = number(0.2, least=0, most=0.9)
    weights: str = text("")
    weights_overlap: bool = switch(True)
    conventions: str = choice("auto", ("auto", "tensorflow", "pytorch"))
    norm_groups: int = number(1, least=1)


class Conventions(NamedTuple):
    """What a network has to do the way that its weights were trained.

    padding: `same` (TensorFlow's) or `symmetric` (PyTorch's); see `convolution.padding_of`.
    norm_epsilon: added to the variance by batch norm.
    mean, deviation: of each colour, in [0, 1], in the images of training; here those of ImageNet.
    """

    padding: str = "same"
    norm_epsilon: float = 1e-3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    deviation: tuple[float, ...] = (0.229, 0.224, 0.225)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Conventions":
        """From what `_asdict` gave, as JSON has it: lists for tuples."""
        colours = {name: tuple(saved[name]) for name in ("mean", "deviation")}
        return cls(**{**saved, **colours})


TENSORFLOW = Conventions()


class Weights(NamedTuple):
    """What is learnt, and batch norm's means and variances: nested dicts of arrays by layer."""

    params: PyTree[Float32[Array, "..."]]
    batch_stats: PyTree[Float32[Array, "..."]]


class Network(NamedTuple):
    """A network as functions of its parameters.

    apply: (params, batch_stats, images, *, train, key=None) -> (outputs, batch_stats), where
      images are float[batch, height, width, 3] in [0, 1], and the statistics are new ones in
      training. Training needs a PRNG key.
    depths: how many depths its layers lie at, from the images to the outputs.
    depth_of: name of a layer, the first in the parameters -> its depth, from 0.
    features: (params, batch_stats, images) -> what the outputs are linear in, not in training.
    """

    init: Callable[[PRNGKeyArray], Weights]
    apply: Callable[..., tuple[Float32[Array, "batch outputs"], Any]]
    depths: int
    depth_of: Callable[[str], int]
    features: Callable[[Any, Any, Float[Array, "batch _ _ 3"]], Float32[Array, "batch features"]]


def build(
    name: str,
    *,
    outputs: int,
    image_size: int = NetworkSettings.image_size,
    dtype: str = NetworkSettings.dtype,
    stochastic_depth: float = NetworkSettings.stochastic_depth,
    norm_groups: int = NetworkSettings.norm_groups,
    dropout: float | None = None,
    output_bias: float = 1.0,
    frozen: int = 0,
    conventions: Conventions = TENSORFLOW,
    depthwise: str = "auto",
    folded: bool = False,
) -> Network:
    """Makes a network.

    Args:
      name: see `NetworkSettings`, as for `dtype` and `stochastic_depth`.
      outputs: how many numbers an image gets.
      image_size: pixels a side, for `init`; `apply` takes any.
      dtype: of the computation; parameters, batch-norm statistics and outputs are float32.
      stochastic_depth: see `NetworkSettings`.
      norm_groups: see `NetworkSettings`.
      dropout: rate for the last features; None takes the published one.
      output_bias: where the outputs start; above 0, so that a ReLU after them has a gradient.
      frozen: this many depths, from the images on, keep their parameters and statistics in
        training.
      conventions: those that the weights were trained under.
      depthwise: one of `convolution.METHODS`, or `auto`, the fastest here; `shifted` brings the
        SiLU that suits a CPU, too.
      folded: to predict only, with the weights that `fold` gives.

    Raises:
      UserError: a name, size, dtype or stochastic depth that is not allowed.
    """
    NetworkSettings(name, image_size, dtype, stochastic_depth, norm_groups=norm_groups)
    variant = VARIANTS[name]
    module = efficientnet.EfficientNet(
        variant=variant,
        outputs=outputs,
        dropout=variant.dropout if dropout is None else dropout,
        stochastic_depth=stochastic_depth,
        output_bias=output_bias,
        frozen=frozen,
        details=efficientnet.Details(
            dtype=jnp.dtype(dtype),
            padding=conventions.padding,
            norm_epsilon=conventions.norm_epsilon,
            depthwise=convolution.fastest_method() if depthwise == "auto" else depthwise,
            norm_groups=norm_groups,
            folded=folded,
        ),
    )

    def init(key: PRNGKeyArray) -> Weights:
        variables = module.init(key, jnp.zeros((1, image_size, image_size, 3)), train=False)
        return Weights(variables["params"], variables.get("batch_stats", {}))

    def normalised(images):
        return (images - jnp.asarray(conventions.mean)) / jnp.asarray(conventions.deviation)

    def apply(params, batch_stats, images, *, train, key=None):
        variables = {"params": params, "batch_stats": batch_stats}
        rngs = None if key is None else {"dropout": key}
        # In evaluation the statistics come back as they are.
        outputs, changed = module.apply(
            variables, normalised(images), train=train, rngs=rngs, mutable=["batch_stats"]
        )
        return outputs, changed.get("batch_stats", {})

    def features(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        return module.apply(variables, normalised(images), train=False, features_alone=True)

    return Network(init, apply, variant.depths, variant.depth_of, features)


def fold(weights: Weights, conventions: Conventions) -> Weights:
    """The weights of a network as `build` makes it `folded`, which gives the same outputs.

    What is not of batch norm stays; so do the weights of networks that have none.
    """
    return Weights(*folding.fold(*weights, conventions.norm_epsilon))
