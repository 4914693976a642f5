"""A training of very many steps: memory, open files and the disk have to stay bounded."""

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gzjax.faults.lab import Broken, Lab

# The memory of a process may grow by so much in the second half of a long run: tensorstore leaves
# four Python objects behind for each array of a checkpoint (docs/reliability.md).
MOST_GROWTH = 0.05


class Look(NamedTuple):
    """A process and its workdir at one moment."""

    step: int
    megabytes: float  # resident
    handles: int
    checkpoints: int
    checkpoint_megabytes: float
    tensorboard_megabytes: float


def long(lab: Lab) -> str:
    """Very many steps: memory, open files, checkpoints and records."""
    steps = 2000 if lab.quick else 100_000
    workdir = lab.place("long") / "run"
    options = (
        *("--config", "test", "--config.model.name=efficientnet-tiny", "--config.log.every=10"),
        *("--config.data.galaxies=20", "--config.data.canvas=16", "--config.model.image_size=16"),
        # Each evaluation, after 50 epochs of seven steps, saves: one checkpoint every 350 steps.
        *("--config.batch_size=2", "--config.checkpoint.every=350", "--config.evaluate.every=50"),
    )
    epochs = steps // 7  # of 20 galaxies 14 are trained on
    process = lab.start(*options, f"--config.epochs={epochs}", "--workdir", workdir)
    looks: list[Look] = []
    while process.poll() is None:
        try:
            process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            looks += [look for look in [look_at(process.pid, workdir)] if look]
    done = lab.finish(process)
    if done.code:
        raise Broken(f"status {done.code}: {done.last}")
    return judge(looks)


def judge(looks: Sequence[Look]) -> str:
    """What was seen of a training run, in words.

    The second half counts, when everything is compiled, and without what comes after the last
    step: the test and the page take memory of their own. Single moments differ by the arrays that
    are on the way, so the medians of a quarter of the looks are compared.

    Raises:
      Broken: memory, open files or checkpoints grew.
    """
    last = max((look.step for look in looks), default=0)
    half = [look for look in looks if last / 2 <= look.step < last]
    if len(half) < 8:
        raise Broken(f"looked only {len(half)} times at the second half; expected more steps")
    memory = np.array([look.megabytes for look in half])
    quarter = len(half) // 4
    before, after = np.median(memory[:quarter]), np.median(memory[-quarter:])
    if after / before - 1 > MOST_GROWTH:
        raise Broken(f"memory grew in the second half, from {before:.0f} to {after:.0f} MB")
    if half[-1].handles > half[0].handles + 5:
        raise Broken(f"open files grew from {half[0].handles} to {half[-1].handles}")
    if max(look.checkpoints for look in half) > 8:
        raise Broken(f"{max(look.checkpoints for look in half)} checkpoints were kept")
    end = half[-1]
    return (
        f"{last} steps: {before:.0f} MB of memory after half of them, {after:.0f} at the end, at "
        f"most {memory.max():.0f}; {end.handles} open files, {end.checkpoint_megabytes:.0f} MB of "
        f"checkpoints, {end.tensorboard_megabytes:.1f} MB for TensorBoard"
    )


def look_at(pid: int, workdir: Path) -> Look | None:
    """What a process holds, and its workdir; None if it has ended or has not begun."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        handles = len(os.listdir(f"/proc/{pid}/fd"))
        with (workdir / "train.csv").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 1000))
            step = int(file.read().splitlines()[-1].split(b",")[0])
    except (OSError, ValueError, IndexError):
        return None
    folder = workdir / "checkpoints"
    return Look(
        step=step,
        megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        handles=handles,
        checkpoints=sum(path.name.isdigit() for path in folder.glob("*")),
        checkpoint_megabytes=_size(folder),
        tensorboard_megabytes=_size(workdir / "tensorboard"),
    )


def _size(folder: Path) -> float:
    total = 0
    for where, _, names in os.walk(folder):  # which passes over folders that are removed meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += os.path.getsize(os.path.join(where, name))
    return total / 1e6
