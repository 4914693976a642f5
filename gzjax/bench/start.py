"""How long it takes until the first step."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row
from gzjax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MAIN = (sys.executable, "-m", "gzjax.main")


def measure_start(_plan: Plan) -> list[Row]:
    """From the command to its first step, without and with compiled programs in the cache."""
    rows = [{"what": "--help", "seconds": seconds_until(None, "--help")}]
    with tempfile.TemporaryDirectory() as folder:
        for what in ("nothing compiled yet", "compiled before"):
            workdir = Path(folder) / what.replace(" ", "-")
            arguments = ["--config", "test", "--cache", folder, "--workdir", str(workdir)]
            seconds = seconds_until(workdir / "train.csv", *arguments, "--config.log.every=1")
            rows.append({"what": f"first step, {what}", "seconds": seconds})
    return rows


def seconds_until(file: Path | None, *arguments: str) -> float:
    """From the start of gzjax until a file is there, or else until it ends.

    Raises:
      UserError: it ended without the file, or with an error.
    """
    began = timing.now()
    with subprocess.Popen(
        [*MAIN, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None and not (file and file.exists()):
            time.sleep(0.01)
        seconds = timing.now() - began
        process.terminate()
    if not file.exists() if file else process.returncode:
        raise UserError(f"gzjax {' '.join(arguments)}: ended with status {process.returncode}")
    return seconds
