"""Where faults are done: commands in processes of their own, on a small sky; what they leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 900
# Columns of train.csv that differ from run to run.
TIMINGS = ("images_per_second", "seconds", "waiting", "time")
# Three epochs of eight steps, with a checkpoint every second step.
TRAINING = (
    *("--config", "test", "--config.epochs=3", "--config.checkpoint.every=2"),
    *("--config.log.every=1", "--config.log.trackers=('csv',)"),
)


class Broken(Exception):
    """A promise that was not kept, in words."""


class Done(NamedTuple):
    """How a command ended: its exit status, below 0 if a signal ended it, and what it said."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line that it said of a mistake; where Python warned after it, not Python's."""
        lines = self.err.strip().splitlines()
        ours = [line for line in lines if line.startswith("gzjax: ")]
        return (ours or lines or [""])[-1]


class Lab:
    """A folder to work in, and the commands that are started there."""

    def __init__(self, folder: Path, seed: int, quick: bool):
        self.folder = folder
        self.random = np.random.default_rng(seed)
        self.quick = quick
        self.cache = folder / "cache"
        self.seconds = 0.0  # that an undisturbed training run takes
        self._facts: dict[str, Any] = {}
        # Of processes that were not waited for yet: where each writes what it says.
        self._said: dict[subprocess.Popen[str], Path] = {}

    def place(self, name: str) -> Path:
        """A folder of its own for one kind of fault."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def start(self, *arguments: object, hook: str = "", **variables: str) -> subprocess.Popen[str]:
        """Starts the command `gzjax`; `hook` is Python that its process runs before all else."""
        paths = [str(ROOT)]
        if hook:
            code = self.folder / f"hook-{time.monotonic_ns()}"
            code.mkdir()
            (code / "sitecustomize.py").write_text(hook)
            paths.insert(0, str(code))
        variables = {
            "PYTHONPATH": os.pathsep.join(paths),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # the runs are short
            "JAX_PLATFORMS": "cpu",
            **variables,
        }
        words = [sys.executable, "-m", "gzjax.main", "--cache", self.cache, *arguments]
        said = self.folder / f"said-{time.monotonic_ns()}"
        # Files, not pipes, which would hold a process up that says more than they take.
        with open(f"{said}.out", "w") as out, open(f"{said}.err", "w") as err:
            process = subprocess.Popen(
                list(map(str, words)),
                cwd=ROOT,
                env=os.environ | variables,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )
        self._said[process] = said
        return process

    def stop(self) -> None:
        """Ends what is still running, as after an error or Ctrl-C, which reaches none of it."""
        for process in self._said:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def finish(self, process: "subprocess.Popen[str]") -> Done:
        """Waits for a command; one that hangs is ended, and that is a broken promise."""
        said = self._said[process]
        try:
            process.wait(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Broken(f"a command hung for {TIMEOUT} s: {process.args!r}") from None
        del self._said[process]
        out, err = (
            Path(f"{said}.{stream}").read_text(errors="replace") for stream in ("out", "err")
        )
        return Done(process.returncode, out, err)

    def run(self, *arguments: object, hook: str = "", **variables: str) -> Done:
        """Starts a command and waits for it."""
        return self.finish(self.start(*arguments, hook=hook, **variables))

    def resume(self, *arguments: object, **variables: str) -> Done:
        """A command that has to end well.

        Raises:
          Broken: it does not.
        """
        done = self.run(*arguments, **variables)
        if done.code:
            raise Broken(f"did not resume: status {done.code}, {done.last or done.out[-200:]}")
        return done

    def undisturbed(self) -> dict[str, Any]:
        """The facts of a training run that nothing disturbed; trained once."""
        if not self._facts:
            workdir = self.place("undisturbed") / "run"
            self.resume(*TRAINING, "--workdir", workdir)  # draws the sky, compiles
            shutil.rmtree(workdir)
            began = time.monotonic()
            self.resume(*TRAINING, "--workdir", workdir)
            self.seconds = time.monotonic() - began
            self._facts = facts(workdir)
        return self._facts

    def check_same(self, workdir: Path, expected: Path | None = None, *, rows: bool = True) -> None:
        """Raises Broken if a run did not end as `expected` did; None: as the undisturbed one."""
        compare(facts(workdir), facts(expected) if expected else self.undisturbed(), rows=rows)


def facts(workdir: Path) -> dict[str, Any]:
    """What a training run leaves behind, but for timings."""
    import gzjax

    model = gzjax.load(workdir)
    with (workdir / "train.csv").open() as file:
        rows = pd.read_csv(file)
    kept = [name for name in rows if not any(word in str(name) for word in TIMINGS)]
    scores = json.loads((workdir / "evaluate_test.json").read_text())
    return {
        "weights": model.weights,
        "train.csv": rows[kept],
        "scores": {name: scores[name] for name in ("rmse", "step", "galaxies", "rmse_per_answer")},
    }


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], *, rows: bool = True) -> None:
    """Raises Broken where two runs differ in anything; `rows`: also in what they recorded."""
    import jax

    if found["scores"] != expected["scores"]:
        raise Broken(f"other scores: {found['scores']['rmse']}, not {expected['scores']['rmse']}")
    if rows and not found["train.csv"].equals(expected["train.csv"]):
        steps = found["train.csv"]["step"].tolist()
        raise Broken(f"other rows in train.csv, of the steps {steps}")
    pairs = zip(
        jax.tree.leaves(found["weights"]), jax.tree.leaves(expected["weights"]), strict=True
    )
    if not all(np.array_equal(one, other) for one, other in pairs):
        raise Broken("other weights")


def check_one_line(done: Done, *words: str) -> None:
    """Raises Broken unless a command ended with one line that says what is wrong."""
    # Python's own tracker says what a killed worker left behind, after all else.
    said = done.err.partition("resource_tracker")[0].strip()
    lines = [line for line in said.splitlines() if line.startswith("gzjax: ")] or [""]
    if done.code in (0, -signal.SIGKILL) or "Traceback" in done.err:
        raise Broken(f"status {done.code}, said {done.err[-300:]!r}; expected one line")
    if not lines[-1]:
        raise Broken(f"said {done.err[-300:]!r}; expected a line that begins with gzjax:")
    if words and not any(word in lines[-1] for word in words):
        raise Broken(f"said {lines[-1]!r}; expected one of {', '.join(words)}")


def damage(file: Path, random: np.random.Generator) -> str:
    """Cuts a file off or flips a bit of it, at random; says what it did."""
    content = bytearray(file.read_bytes())
    if not content or random.random() < 0.5:
        kept = int(random.integers(0, max(1, len(content))))
        file.write_bytes(bytes(content[:kept]))
        return f"{file.name} cut to {kept} of {len(content)} bytes"
    position = int(random.integers(0, len(content)))
    content[position] ^= 1 << int(random.integers(0, 8))
    file.write_bytes(bytes(content))
    return f"a bit of {file.name} flipped"


def files_of(folder: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
    """All files within a folder, in order."""
    found = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    return sorted(found)
