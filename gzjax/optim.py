"""The learning rate's course and AdamW, as one optax chain."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "exponential", "step", "constant")


def schedule(
    kind: str,
    learning_rate: float,
    steps: int,
    *,
    warmup: int = 0,
    decay_rate: float = 0.1,
    decay_steps: int = 1,
) -> optax.Schedule:
    """The learning rate at each update.

    Args:
      kind: `cosine` falls to 0 at the last update (Loshchilov & Hutter 2017, arXiv:1608.03983);
        `exponential` multiplies by `decay_rate` every `decay_steps`, smoothly; `step` does so in
        steps; `constant` stays.
      learning_rate: its highest value, at the end of the warm-up.
      steps: number of updates in all.
      warmup: updates over which the rate rises linearly from 0, counted in `steps`.
      decay_rate: see `kind`.
      decay_steps: see `kind`, in updates after the warm-up.

    Returns:
      A function update -> learning rate.

    Raises:
      ValueError: unknown kind.
    """
    remaining = max(1, steps - warmup)
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, remaining)
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
    return optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup), after], [warmup]
    )


def is_decayed(params: optax.Params) -> optax.Params:
    """True for the arrays that weight decay applies to: kernels, not biases nor norm scales."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


class FineTuning(NamedTuple):
    """How far layers may move from the weights they start with, by their depth.

    layer_decay: each depth's learning rate is this factor times the next deeper one's, the
      outputs' own being whole (Clark et al. 2020, arXiv:2003.10555, section 3.2).
    freeze: so many depths, from the images on, do not move.
    head_warmup: updates at the beginning in which the last depth alone moves, so that outputs
      drawn at random do not spoil what the others know.
    """

    layer_decay: float = 1.0
    freeze: int = 0
    head_warmup: int = 0


def by_depth(
    settings: FineTuning, depths: int, depth_of: Callable[[str], int]
) -> optax.GradientTransformation:
    """Scales each parameter's update by what its depth is due.

    Args:
      settings: see `FineTuning`.
      depths: how many there are; the last is the outputs'.
      depth_of: name of a layer, the first in the parameters -> its depth, from 0.
    """

    def due(depth: int) -> optax.GradientTransformation:
        if depth < settings.freeze:
            return optax.set_to_zero()
        share = settings.layer_decay ** (depths - 1 - depth)
        if depth == depths - 1 or settings.head_warmup == 0:
            return optax.scale(share)
        return optax.scale_by_schedule(
            lambda update: jnp.where(update < settings.head_warmup, 0.0, share)
        )

    return optax.partition(
        {depth: due(depth) for depth in range(depths)},
        lambda params: jax.tree.map_with_path(lambda path, _: depth_of(path[0].key), params),
    )


def adamw(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    fine_tuning: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with clipping and accumulation.

    Args:
      learning_rate: a function update -> rate.
      weight_decay: relative to the learning rate, on kernels alone.
      clip_norm: gradients longer than this are scaled down to it; 0 never.
      accumulate: batches whose gradients are averaged before one update.
      fine_tuning: applied to the updates, such as `by_depth`.

    Returns:
      The optax transformation.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(),
        optax.adamw(learning_rate, weight_decay=weight_decay, mask=is_decayed),
        optax.identity() if fine_tuning is None else fine_tuning,
    )
    if accumulate == 1:
        return optax.with_extra_args_support(chain)
    return optax.MultiSteps(chain, accumulate).gradient_transformation()
