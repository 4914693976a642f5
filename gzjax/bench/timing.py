"""Times of functions, fairly: in turns, each after a warm-up, as medians."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

now = time.perf_counter
of_cores = time.process_time  # all threads, without what others take

# Side of the matrix and length of the array that a peak is measured on.
PEAK_ON_CPU = (2048, 2**25)
PEAK_ELSEWHERE = (8192, 2**28)


def cores() -> int:
    """How many processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Seconds(NamedTuple):
    """How long calls of one function took."""

    median: float
    least: float
    most: float


def seconds_of(times: list[float]) -> Seconds:
    """Median and range of some times."""
    return Seconds(statistics.median(times), min(times), max(times))


def rates(images: int, seconds: Seconds) -> dict[str, float]:
    """Images/s of the median, the slowest and the fastest call, as columns of a table."""
    return {
        "images/s": images / seconds.median,
        "slowest": images / seconds.most,
        "fastest": images / seconds.least,
    }


def in_turns(
    functions: Mapping[str, Callable[[], Any]], repeats: int, calls: int = 1
) -> dict[str, Seconds]:
    """Calls all functions in turns, so that a busy moment hits all.

    A turn begins with a call that is not measured: the first compiles, and while the others had
    their turns, a virtual machine may have given back the memory that a function had freed. A call
    that has to fetch it again takes up to three times as long.

    Args:
      functions: by name; a jax array that they return is waited for.
      repeats: how many turns each has.
      calls: how often a function is called and measured in a turn.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            jax.block_until_ready(function())
            for _ in range(calls):
                began = now()
                jax.block_until_ready(function())
                times[name].append(now() - began)
    return {name: seconds_of(measured) for name, measured in times.items()}


def time_of(function: Callable[[], Any], repeats: int) -> Seconds:
    """Of a single function, which has a single turn."""
    return in_turns({"": function}, 1, calls=repeats)[""]


class Peak(NamedTuple):
    """What the machine reaches on what suits it best: the roof of a roofline.

    flops: of a large matrix product, a second.
    bytes: read and written by a large addition, a second.
    """

    flops: float
    bytes: float


def measure_peak(dtype: str, repeats: int) -> Peak:
    """The peak of the first device, in one floating-point type."""
    side, length = PEAK_ON_CPU if jax.default_backend() == "cpu" else PEAK_ELSEWHERE
    square, row = jnp.ones((side, side), dtype), jnp.ones((length,), dtype)
    product, addition = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)
    measured = in_turns(
        {"product": lambda: product(square), "addition": lambda: addition(row)}, repeats
    )
    return Peak(
        flops=2 * side**3 / measured["product"].median,
        bytes=2 * row.nbytes / measured["addition"].median,
    )
