"""Faults of a training run: killed, stopped, out of room, in damaged files, by a strange clock."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gzjax.faults.lab import TRAINING, Broken, Done, Lab, check_one_line, damage, files_of

DAY_BACK = """
import time
_now, _calls = time.time, [0]
def _time():
    _calls[0] += 1
    return _now() - 86400 * (_calls[0] > {calls})
time.time = _time
"""
RENAMES = """
import errno, os
_replace, _calls = os.replace, [0]
def _fail(source, target, **others):
    _calls[0] += 1
    if _calls[0] {when} {call}:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(target))
    return _replace(source, target, **others)
os.replace = os.rename = _fail
"""


class Skipped(Exception):
    """Why a kind of fault cannot be tried on this machine."""


def signalled(lab: Lab, options: Sequence[str], workdir: Path, number: int) -> Done:
    """Starts a training run and signals it at a random moment, to its workers, too."""
    lab.undisturbed()
    process = lab.start(*options, "--workdir", workdir)
    try:
        process.wait(timeout=float(lab.random.uniform(0.1, 1.0)) * lab.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
    done = lab.finish(process)
    # Before the program listens, a signal ends it; nothing is there yet to be lost.
    if done.code not in (0, -number):
        raise Broken(f"status {done.code} after signal {number}: {done.last}")
    if "Traceback" in done.err:
        raise Broken(f"a traceback after signal {number}: {done.err[-300:]}")
    return done


def disturbed(lab: Lab, name: str, number: int, most: int) -> tuple[str, int]:
    """Signals training runs, one after another.

    Args:
      lab: where.
      name: of the kind of fault.
      number: the signal.
      most: how often it has to find a run that is not through; with --quick, three times.

    Returns:
      How often, in how many runs; and how many times a run saved its state.
    """
    most = 3 if lab.quick else most
    # An epoch for each signal: many fall into one run.
    options, whole = (*TRAINING, f"--config.epochs={most}"), lab.place(f"{name}-whole") / "run"
    lab.resume(*options, "--workdir", whole)
    times = runs = saved = 0
    while times < most:
        workdir, through = lab.place(name) / "run", False
        runs += 1
        while times < most and not through:
            done = signalled(lab, options, workdir, number)
            asked = "stopped as asked" in done.out
            through = done.code == 0 and not asked
            times += not through
            saved += asked
        lab.resume(*options, "--workdir", workdir)
        lab.check_same(workdir, whole)
    return f"{times} times in {runs} training run{'s' * (runs != 1)}", saved


def killed(lab: Lab) -> str:
    """SIGKILL at random moments, until a training run is through; then of the next one."""
    said, _ = disturbed(lab, "killed", signal.SIGKILL, 50)
    return f"killed {said}, each then the same run"


def stopped(lab: Lab) -> str:
    """SIGTERM at random moments, in the same way."""
    said, saved = disturbed(lab, "stopped", signal.SIGTERM, 20)
    return f"stopped {said}, saved {saved} times, each then the same run"


def interrupted(
    lab: Lab, workdir: Path, options: Sequence[object] = TRAINING, step: int = 8
) -> None:
    """Begins a training run and stops it when it has the checkpoint of a step."""
    process = lab.start(*options, "--workdir", workdir)
    while process.poll() is None and not (workdir / "checkpoints" / str(step)).exists():
        time.sleep(0.02)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    if lab.finish(process).code:
        raise Broken("could not begin")


def workers(lab: Lab) -> str:
    """A worker process that decodes is killed, as for want of memory."""
    workdir = lab.place("workers") / "run"
    options = *TRAINING, "--config.data.processes=1", "--workdir", workdir
    process = lab.start(*options)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if victims := _workers_of(process.pid):
            time.sleep(float(lab.random.uniform(0, 2)))
            for victim in victims:
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            break
        time.sleep(0.05)
    else:
        raise Skipped("no worker process was seen")
    done = lab.finish(process)
    if done.code:
        check_one_line(done)
    lab.resume(*options)
    lab.check_same(workdir)
    return "the same run" if done.code == 0 else f"one line, then the same run: {done.last}"


def _workers_of(pid: int) -> list[int]:
    """Processes that multiprocessing started for a process, but for its resource tracker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(folder.name))
    return found


def two(lab: Lab) -> str:
    """Two processes of one run, of which one is killed."""
    workdir, whole = lab.place("two") / "run", lab.place("two-whole") / "run"

    def start(workdir: Path) -> list["subprocess.Popen[str]"]:
        options = *TRAINING, "--config.epochs=1", "--distributed", "--workdir", workdir
        common = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
        common |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
        return [
            lab.start(*options, **common, SLURM_PROCID=str(number), SLURM_LOCALID=str(number))
            for number in range(2)
        ]

    def end_well(both: Sequence["subprocess.Popen[str]"]) -> None:
        done = [lab.finish(process) for process in both]
        if any(each.code for each in done):
            raise Broken(f"both did not end well: {[each.last for each in done]}")

    end_well(start(whole))
    both = start(workdir)
    deadline = time.monotonic() + 300
    while not (workdir / "checkpoints" / "2").exists() and time.monotonic() < deadline:
        if any(process.poll() is not None for process in both):
            break
        time.sleep(0.05)
    victim = int(lab.random.integers(0, 2))
    os.killpg(both[victim].pid, signal.SIGKILL)
    other = lab.finish(both[1 - victim])
    lab.finish(both[victim])
    if other.code == 0:
        raise Broken("the other process ended as if nothing were wrong")
    end_well(start(workdir))
    lab.check_same(workdir, whole)
    return f"process {victim} killed, the other ended with status {other.code}, then the same run"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own with so much room."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        raise Skipped("only root may mount the small file system that this needs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def fill(disk: Path, kilobytes: int) -> Path:
    """Leaves so much room on a disk; the file that takes the rest."""
    filler = disk / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - kilobytes * 1024))
    return filler


def full(lab: Lab) -> str:
    """The disk is full at the beginning, in the middle, at the end of a training run."""
    said = []
    for kilobytes in lab.random.integers(0, 6000, 2 if lab.quick else 8).tolist():
        with small_disk(lab.place("full") / "disk", 64) as disk:
            filler = fill(disk, kilobytes)
            done = lab.run(*TRAINING, "--workdir", disk / "run")
            if done.code:
                check_one_line(done)
            said.append(done.last if done.code else "had room")
            filler.unlink()
            lab.resume(*TRAINING, "--workdir", disk / "run")
            lab.check_same(disk / "run")
    return f"{len(said)} times, then the same run: {said[-1]}"


def read_only(lab: Lab) -> str:
    """The file system of a run becomes read-only."""
    lab.undisturbed()
    with small_disk(lab.place("read-only") / "disk", 64) as disk:
        interrupted(lab, disk / "run")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = lab.run(*TRAINING, "--workdir", disk / "run")
        check_one_line(done)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        lab.resume(*TRAINING, "--workdir", disk / "run")
        lab.check_same(disk / "run")
    return f"one line, then the same run: {done.last}"


def damaged(lab: Lab) -> str:
    """Files of an interrupted run are cut off, or bits of them flipped."""
    folder, outcomes = lab.place("damaged"), {"the same run": 0, "one line": 0}
    begun = folder / "begun"
    lab.undisturbed()
    interrupted(lab, begun)
    for number in range(4 if lab.quick else 40):
        workdir = folder / f"run-{number}"
        shutil.copytree(begun, workdir)
        candidates = [file for file in files_of(workdir) if file.name != "report.html"]
        file = candidates[int(lab.random.integers(0, len(candidates)))]
        what = damage(file, lab.random)
        done = lab.run(*TRAINING, "--workdir", workdir)
        if done.code:
            try:
                check_one_line(done)
            except Broken as broken:
                raise Broken(f"{what}: {broken}") from None
            # What the line names is put back, as from a copy; nothing else may be lost.
            shutil.copytree(begun, workdir, dirs_exist_ok=True)
            lab.resume(*TRAINING, "--workdir", workdir)
        try:
            # A damaged row of a record cannot be restored.
            lab.check_same(workdir, rows=file.name != "train.csv")
        except Broken as broken:
            raise Broken(f"{what}: {broken}") from None
        outcomes["one line" if done.code else "the same run"] += 1
        shutil.rmtree(workdir)
    return ", ".join(f"{name} {times} times" for name, times in outcomes.items())


def clock(lab: Lab) -> str:
    """The clock jumps back by a day in the middle of a training run."""
    workdir = lab.place("clock") / "run"
    for _ in range(1 if lab.quick else 3):
        shutil.rmtree(workdir, ignore_errors=True)
        hook = DAY_BACK.format(calls=int(lab.random.integers(20, 2000)))
        done = lab.run(*TRAINING, "--workdir", workdir, hook=hook)
        if done.code:
            raise Broken(f"status {done.code}: {done.last}")
        lab.check_same(workdir)
    return "the same run"


def renames(lab: Lab) -> str:
    """Renaming a file fails, once or from then on, as on NFS after a server's restart."""
    said = []
    for when in ("==", ">="):
        for _ in range(1 if lab.quick else 5):
            workdir = lab.place("renames") / "run"
            call = int(lab.random.integers(1, 40))
            done = lab.run(
                *TRAINING, "--workdir", workdir, hook=RENAMES.format(when=when, call=call)
            )
            if done.code:
                check_one_line(done)
            said.append(done.last if done.code else "not noticed")
            lab.resume(*TRAINING, "--workdir", workdir)
            lab.check_same(workdir)
    return f"{len(said)} times, then the same run: {said[-1]}"
