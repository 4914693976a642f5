"""The learning rate's schedule and AdamW, as one optax chain."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float32

from gzjax.settings import Settings, choice, number

SCHEDULES = ("cosine", "exponential", "step", "constant")


@dataclasses.dataclass(frozen=True)
class Optimisation(Settings):
    """How weights are updated. Lengths are in epochs, one pass over the training galaxies.

    learning_rate: the highest one.
    schedule: see `schedule`.
    warmup: epochs over which the learning rate rises, but at most half of all updates.
    decay_rate: see `schedule`.
    decay_every: epochs; see `schedule`.
    weight_decay: relative to the learning rate, on kernels alone.
    clip_norm: longer gradients are scaled down to this length; 0: never.
    accumulate: batches whose gradients are averaged before one update.
    layer_decay: see `by_depth`.
    freeze: see `by_depth`.
    head_warmup: epochs; see `by_depth`.
    """

    learning_rate: float = number(1e-3, above=0)
    schedule: str = choice("cosine", SCHEDULES)
    warmup: float = number(1.0, least=0)
    decay_rate: float = number(0.1, above=0, most=1)
    decay_every: float = number(10.0, above=0)
    weight_decay: float = number(1e-2, least=0)
    clip_norm: float = number(1.0, least=0)
    accumulate: int = number(1, least=1)
    layer_decay: float = number(1.0, above=0, most=1)
    freeze: int = number(0, least=0, most=9)
    head_warmup: float = number(0.0, least=0)


def schedule(
    kind: str,
    learning_rate: float,
    steps: int,
    *,
    warmup: int = 0,
    decay_rate: float = 0.1,
    decay_steps: int = 1,
) -> optax.Schedule:
    """Update -> learning rate, which rises linearly from 0 over the first `warmup` of `steps`.

    From then on, `cosine` falls to 0 after the last update (Loshchilov & Hutter 2017,
    arXiv:1608.03983); `exponential` multiplies by `decay_rate` every `decay_steps`, smoothly;
    `step` does so in steps; `constant` stays. A ValueError names an unknown kind.
    """
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(1, steps - warmup))
    elif kind in ("exponential", "step"):
        after = optax.exponential_decay(
            learning_rate, max(1, decay_steps), decay_rate, staircase=kind == "step"
        )
    elif kind == "constant":
        after = optax.constant_schedule(learning_rate)
    else:
        raise ValueError(f"schedule {kind!r}: expected one of {', '.join(SCHEDULES)}")
    if warmup == 0:
        return after
    rise = optax.linear_schedule(0.0, learning_rate, warmup)
    return optax.join_schedules([rise, after], [warmup])


def is_decayed(params: optax.Params) -> optax.Params:
    """True for the arrays that weight decay applies to: kernels, not biases nor norm scales."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


def by_depth(
    depths: int,
    depth_of: Callable[[str], int],
    *,
    layer_decay: float = 1.0,
    freeze: int = 0,
    head_warmup: int = 0,
) -> optax.GradientTransformation:
    """Scales each parameter's update by the depth of its layer, for fine-tuning.

    Depths are those of `gzjax.models.Network`. Each one's learning rate is `layer_decay` times the
    next deeper one's (Clark et al. 2020, arXiv:2003.10555, section 3.2). The first `freeze`, from
    the images on, do not move. In the first `head_warmup` updates the last depth alone moves, so
    that random outputs do not spoil what the others have learnt.
    """

    def due(depth: int) -> optax.GradientTransformation:
        if depth < freeze:
            return optax.set_to_zero()
        share = layer_decay ** (depths - 1 - depth)
        if depth == depths - 1 or head_warmup == 0:
            return optax.scale(share)
        return optax.scale_by_schedule(lambda update: jnp.where(update < head_warmup, 0.0, share))

    return optax.partition(
        {depth: due(depth) for depth in range(depths)},
        lambda params: jax.tree.map_with_path(lambda path, _: depth_of(path[0].key), params),
    )


def global_norm(gradients: optax.Updates) -> Float32[Array, ""]:
    """The length of all gradients as one vector.

    As optax.tree.norm, which adds up every array by itself: a GPU starts kernels for each.
    """
    return jnp.linalg.norm(ravel_pytree(gradients)[0])


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Scales longer gradients down to the length `most`; as optax's, by `global_norm`."""

    def scaled(gradients: optax.Updates, _: optax.Params | None) -> optax.Updates:
        share = jnp.minimum(1, most / jnp.maximum(global_norm(gradients), 1e-30))
        return jax.tree.map(lambda array: array * share, gradients)

    return optax.stateless(scaled)


def adamw(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    fine_tuning: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with clipping and accumulation.

    `fine_tuning`, such as `by_depth`, is applied to the updates; the rest as in `Optimisation`.
    """
    chain = optax.chain(
        clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.adamw(learning_rate, weight_decay=weight_decay, mask=is_decayed),
        optax.identity() if fine_tuning is None else fine_tuning,
    )
    if accumulate == 1:
        return chain
    return optax.MultiSteps(chain, accumulate).gradient_transformation()


def make(
    settings: Optimisation,
    *,
    epochs: float,
    steps_per_epoch: int,
    depths: int,
    depth_of: Callable[[str], int],
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate at each update, and the transformation that follows it.

    A UserError says so where nothing would be learnt: batches to accumulate are more than steps, or
    every depth is frozen.
    """
    steps = round(epochs * steps_per_epoch)
    if settings.accumulate > steps:
        expected = f"at most the {steps} steps of training"
        settings.fail("accumulate", expected, str(settings.accumulate))
    if settings.freeze >= depths:
        expected = f"less than the {depths} depths of the network"
        settings.fail("freeze", expected, str(settings.freeze))

    def updates(epochs: float) -> int:
        return round(epochs * steps_per_epoch / settings.accumulate)

    learning_rate = schedule(
        settings.schedule,
        settings.learning_rate,
        updates(epochs),
        warmup=min(updates(settings.warmup), updates(epochs) // 2),
        decay_rate=settings.decay_rate,
        decay_steps=updates(settings.decay_every),
    )
    fine_tuning = by_depth(
        depths,
        depth_of,
        layer_decay=settings.layer_decay,
        freeze=settings.freeze,
        head_warmup=updates(settings.head_warmup),
    )
    return learning_rate, adamw(
        learning_rate,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        accumulate=settings.accumulate,
        fine_tuning=fine_tuning,
    )
