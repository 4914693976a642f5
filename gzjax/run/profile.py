"""A trace of some training steps, to be looked at in XProf, TensorBoard or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


@contextlib.contextmanager
def traced(
    step: Callable[..., Any], steps: tuple[int, int], start: int, folder: Path
) -> Iterator[Callable[..., Any]]:
    """The same step, of which some calls are traced by `jax.profiler`.

    What the devices have to do is waited for before and after, so the trace is of these steps
    alone; of training that ends in between, it is of those that there were.

    Args:
      step: the train step.
      steps: the first and the last step traced, counted from 1 on.
      start: steps done before.
      folder: where the trace goes.
    """
    first, last = steps
    done, tracing = start, False

    def stepped(state: Any, batch: Any) -> Any:
        nonlocal done, tracing
        done += 1
        if done == first:
            jax.block_until_ready((state, batch))
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=done):
            results = step(state, batch)
        if tracing and done == last:
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            tracing = False
        return results

    try:
        yield stepped
    finally:
        if tracing:
            jax.profiler.stop_trace()
