"""The train state, the step, and the loop around it."""

import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.experimental import multihost_utils

from gzjax import augment, losses
from gzjax.augment import Views
from gzjax.errors import UserError
from gzjax.losses import Objective, RunningMeans
from gzjax.models import Network, Weights

Batch = Mapping[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """All that changes in training: a flat pytree, saved and restored as it is.

    `average` is the moving average of `weights`; without averaging, the same.
    """

    step: jax.Array
    weights: Weights
    average: Weights
    opt_state: Any
    means: RunningMeans
    key: jax.Array


def init_state(
    weights: Weights,
    optimiser: optax.GradientTransformation,
    objective: Objective,
    key: jax.Array,
) -> TrainState:
    """The state before the first step.

    Args:
      weights: to start from.
      optimiser: the optax chain.
      objective: what is reduced.
      key: of every chance in training.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        # A copy, as the step takes the memory of both.
        average=jax.tree.map(jnp.copy, weights),
        opt_state=optimiser.init(weights.params),
        means=losses.init_means(objective.terms),
        key=key,
    )


def follow(average: Weights, weights: Weights, step: jax.Array, decay: float) -> Weights:
    """The exponential moving average of weights and statistics, one step on.

    Early on it forgets faster, by the rule (1 + step) / (10 + step) that TensorFlow's
    ExponentialMovingAverage has, so that it is not held back by the weights of the start.

    Args:
      average: before this step.
      weights: after it.
      step: steps done before it.
      decay: what the average keeps of itself at each step; 0: it is the weights.
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
    optimiser: optax.GradientTransformationExtraArgs,
    objective: Objective,
    views: Views,
    image_size: int,
    average_decay: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One batch, from canvas to new parameters: pure, to be jitted with `state` donated.

    Args:
      state: before the batch.
      batch: `image` uint8[batch, canvas, canvas, 3], `fractions` float32[batch, answers], `mask`
        float32[batch].
      network: the network.
      optimiser: the optax chain.
      objective: what is reduced.
      views: how random views are drawn.
      image_size: pixels a side of what the network sees.
      average_decay: see `follow`.

    Returns:
      The state after the batch, and float32 scalars for the record.
    """
    view_key, network_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    images = augment.view(batch["image"], views, image_size, view_key)

    def loss_of(params):
        outputs, batch_stats = network.apply(
            params, state.weights.batch_stats, images, train=True, key=network_key
        )
        loss, (means, record) = losses.objective(
            objective, outputs, batch["fractions"], batch["mask"], state.means
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
        {"loss": loss, "gradient_norm": optax.tree.norm(gradients), **record},
    )


class StopRequest:
    """Turns SIGTERM and the first Ctrl-C into a request to save and end.

    Of several processes each would stop at another step; there jax's preemption service, which
    catches SIGTERM itself, agrees on one step for all.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    def at(self, step: int) -> bool:
        """Whether to stop after this step; the same answer in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.signal is not None


def train(
    state: TrainState,
    batches: Iterator[Batch],
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    *,
    steps: int,
    log_every: int,
    save_every: int,
    evaluate_every: int,
    stop: StopRequest,
    record: Callable[[int, list[dict[str, np.ndarray]]], None],
    evaluate: Callable[[int, TrainState], dict[str, Any]],
    save: Callable[[int, TrainState, Mapping[str, float] | None], None],
) -> TrainState:
    """The loop, from where `state` is to `steps`, or until asked to stop.

    Results stay on the device until they are recorded, so that the next batch is prepared while
    the device works; nothing is saved before its loss and gradient are known to be finite.

    Args:
      state: to start from.
      batches: endless, at the place of `state`.
      step: the jitted `train_step`.
      steps: number of steps in all.
      log_every: steps between records.
      save_every: steps between checkpoints.
      evaluate_every: steps between evaluations; the last step is evaluated, too.
      stop: asked after every step.
      record: (steps done, what each step since the last call returned).
      evaluate: (steps done, state) -> metrics on validation.
      save: (steps done, state, metrics on validation or None).

    Returns:
      The state after the last step done.

    Raises:
      UserError: the loss or its gradient is no longer finite.
    """
    pending: list[dict[str, jax.Array]] = []
    saved = start = int(state.step)
    for done in range(start + 1, steps + 1):
        state, result = step(state, next(batches))
        pending.append(result)

        stopping = stop.at(done)
        evaluating = done % evaluate_every == 0 or done == steps
        saving = done % save_every == 0 or evaluating or stopping
        if saving or done % log_every == 0:
            results = jax.device_get(pending)
            pending = []
            for number, values in enumerate(results, done - len(results) + 1):
                # The gradient's, too: after an infinite one the weights are lost.
                for name, value in values.items():
                    if not np.isfinite(value):
                        raise UserError(
                            f"the {name.replace('_', ' ')} is {value} at step {number}; the last "
                            f"good checkpoint is of step {saved}. A lower "
                            "--config.optim.learning_rate or --config.optim.clip_norm, in another "
                            "--workdir, may help"
                        )
            record(done, results)
        metrics = evaluate(done, state) if evaluating else None
        if saving:
            save(done, state, metrics)
            saved = done
        if stopping:
            break
    return state
