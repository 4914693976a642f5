"""Times of functions, fairly: after a warm-up, in turns, as medians."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def cores() -> int:
    """How many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Seconds(NamedTuple):
    """What calls of one function took."""

    median: float
    least: float
    most: float
    repeats: int


def seconds_of(times: list[float]) -> Seconds:
    """Median and range of some times."""
    return Seconds(statistics.median(times), min(times), max(times), len(times))


def in_turns(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Seconds]:
    """Calls each function once to warm up, then all in turns, so that a busy moment hits all.

    Args:
      functions: by name; what they return is waited for, if it is of jax.
      repeats: how often each is called.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - began)
    return {name: seconds_of(measured) for name, measured in times.items()}


class Peak(NamedTuple):
    """What the machine reaches on what suits it best: the roof of a roofline.

    flops: of a large matrix product, a second.
    bytes: read and written by a large addition, a second.
    """

    flops: float
    bytes: float


def measure_peak(dtype: str, repeats: int) -> Peak:
    """The peak of the first device, in one floating-point type."""
    side, length = (2048, 2**25) if jax.default_backend() == "cpu" else (8192, 2**28)
    square = jnp.ones((side, side), dtype)
    row = jnp.ones((length,), dtype)
    product = jax.jit(lambda a: a @ a)
    addition = jax.jit(lambda a: a + 1)
    measured = in_turns(
        {"product": lambda: product(square), "addition": lambda: addition(row)}, repeats
    )
    return Peak(
        flops=2 * side**3 / measured["product"].median,
        bytes=2 * row.nbytes / measured["addition"].median,
    )
