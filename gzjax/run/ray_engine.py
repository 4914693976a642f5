"""Ray as the engine of predictions: workers on one machine or many, each with models of its own.

A worker is an actor that loads the models and compiles them once; there is one for each GPU, or
for each group of CPU cores. Workers without models, which pack, have a core each. Parts of the
listing are handed out as workers become free. The parts of a worker that is lost are handed out
again, and another is started in its place. Of predictions only this process writes, so the output
need not be on a file system that the workers share; the run and the images have to be, and packs,
whose shards are too large to be sent.
"""

import collections
import contextlib
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gzjax import remote
from gzjax.errors import UserError, one_line
from gzjax.run.opened import load
from gzjax.run.parts import Engine
from gzjax.run.report import Report

NEEDS_RAY = "--engine ray needs the extra ray: pip install 'gzjax[ray]', or ray alone"
MOST_LOST = 3  # workers that one part may end; then it is the part's fault
Task = tuple[range, Any]  # a range, and its images; see `parts.Engine`


class Worker:
    """Models, and what they see; an actor."""

    def __init__(
        self, workdirs: Sequence[Path], overrides: Mapping[str, Any], cache: str, here: str
    ):
        import jax

        with contextlib.suppress(OSError):  # relative paths are seen from there, if it is shared
            os.chdir(here)
        jax.config.update("jax_compilation_cache_dir", cache)
        self.models = [load(workdir, overrides, alone=True) for workdir in workdirs]

    def ready(self) -> None:
        """Returns when the models are there."""

    def see(self, see: Callable[..., Any], part: Any) -> Any:
        """The table of some images; see `parts.Engine`."""
        return see(self.models, part, lambda _: None)


def connect(
    workdirs: Sequence[Path],
    overrides: Mapping[str, Any],
    *,
    cache: Path,
    cores: int,
    report: Report,
) -> Engine:
    """Starts workers in the cluster that `RAY_ADDRESS` names, or on this machine.

    Args:
      workdirs: of the models, if there are any; workers read them.
      overrides: of their options, see `opened.load`.
      cache: folder of compiled programs, on each machine.
      cores: CPU cores of a worker, in a cluster without GPUs; at most those of a machine.
      report: says how many workers there are, and which are lost.

    Raises:
      UserError: Ray is not installed, or no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise UserError(NEEDS_RAY) from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    place = re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address)
    try:
        if place is not None:  # which Ray would try for minutes
            socket.create_connection((place[1], int(place[2])), timeout=10).close()
        with warnings.catch_warnings():  # JAX warns of any fork; these start programs at once
            warnings.simplefilter("ignore", RuntimeWarning)
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"RAY_ADDRESS: no cluster at {address}: {one_line(error)}") from None
    machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    number = int(sum(each.get("GPU", 0) for each in machines)) if workdirs else 0
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1}
    if not number:
        # Packing decodes on one core, and waits for the disk.
        most = max(1, *(int(each.get("CPU", 0)) for each in machines)) if workdirs else 1
        cores = min(cores, most)
        number = sum(int(each.get("CPU", 0)) // cores for each in machines)
        # What XLA takes for the number of cores that it has.
        variables = {"NPROC": str(cores), "JAX_PLATFORMS": "cpu"}
        options = {"num_cpus": cores, "runtime_env": {"env_vars": variables}}
    if not number:
        raise UserError(f"RAY_ADDRESS: the cluster at {address} has neither GPUs nor CPU cores")
    each = "a GPU each" if "num_gpus" in options else f"CPU cores each: {cores}"
    report.say(f"workers of Ray: {number}, {each}")
    actor = ray.remote(**options)(Worker)
    paths = [path if remote.is_remote(path) else path.absolute() for path in workdirs]

    def start() -> Any:
        return actor.remote(paths, dict(overrides), str(cache), os.getcwd())

    def engine(
        see: Callable[..., Any], tasks: Iterable[Task]
    ) -> Generator[tuple[range, Any], None, None]:
        try:
            yield from hand_out(see, tasks, start, number, report)
        finally:
            ray.shutdown()

    return engine


def hand_out(
    see: Callable[..., Any],
    tasks: Iterable[Task],
    start: Callable[[], Any],
    number: int,
    report: Report,
) -> Iterator[tuple[range, Any]]:
    """Has workers do all tasks; see the module's docstring.

    Args:
      see: what they do.
      tasks: ranges, and their images.
      start: starts a worker.
      number: of workers.
      report: says which are lost.

    Yields:
      Ranges and their tables, as they are done.

    Raises:
      UserError: no worker can start, or one part ends them again and again.
    """
    import ray

    tasks, again, over = iter(tasks), collections.deque[Task](), False
    ended: collections.Counter[range] = collections.Counter()  # workers, by the part they had
    failed = 0  # workers that ended before they were ready, one after the other
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, Task | None]] = {}  # {reference: (worker, None while it starts)}

    def begin() -> None:
        worker = start()
        busy[worker.ready.remote()] = worker, None

    for _ in range(number):
        begin()
    while again or not over or any(task for _, task in busy.values()):
        reference = ray.wait(list(busy), num_returns=1)[0][0]
        worker, task = busy.pop(reference)
        try:
            table = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from None
            raise
        except ray.exceptions.RayError as error:
            rows = task[0] if task else range(0)
            ended[rows] += 1
            failed += task is None
            if max(failed, ended[rows] if task else 0) >= MOST_LOST:
                had = f"with images {rows.start + 1} to {rows.stop}" if task else "as they start"
                raise UserError(f"workers of Ray end {had}: {one_line(error)}") from None
            report.say("a worker of Ray is lost; another one takes over")
            again.extend([task] if task else [])
            begin()
        else:
            idle.append(worker)
            failed = 0
            if task is not None:
                yield task[0], table
        while idle and not (over and not again):
            task = again.popleft() if again else next(tasks, None)
            if task is None:
                over = True
            else:
                worker = idle.pop()
                busy[worker.see.remote(see, task[1])] = worker, task
