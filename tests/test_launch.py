"""The scripts in launch/, with stand-ins for the commands of a cluster."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent / "launch"


@pytest.fixture
def cluster(tmp_path):
    """A folder of commands: a run that saves when it is told to, and what tells it."""
    commands = {
        "srun": "trap 'echo saved; exit 0' TERM; echo $$ >pid; while sleep 0.1; do :; done",
        "scancel": 'echo "scancel $*"; kill -TERM "$(cat pid)"',
        "scontrol": 'echo "scontrol $*"',
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in commands.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{command}\n")
        (folder / name).chmod(0o755)
    return folder


def submitted(cluster: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", "--config", "configs/sky.py"],
        env=os.environ
        | {"PATH": f"{cluster}:{os.environ['PATH']}"}
        | {"SLURM_SUBMIT_DIR": str(cluster.parent), "SLURM_JOB_ID": "7"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_job_whose_time_is_up_saves_and_is_queued_again(cluster):
    with submitted(cluster) as job:
        while not (cluster.parent / "pid").exists():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGUSR1)
        printed, _ = job.communicate(timeout=60)
    assert printed.splitlines() == ["scancel --signal=TERM 7", "saved", "scontrol requeue 7"]
    assert job.returncode == 0


def test_a_job_that_fails_is_not_queued_again(cluster):
    (cluster / "srun").write_text("#!/usr/bin/env bash\nexit 3\n")
    with submitted(cluster) as job:
        printed, _ = job.communicate(timeout=60)
    assert printed == ""
    assert job.returncode == 3


@pytest.mark.parametrize("script", ["run", "test", "bench", "ablation", "slurm.sbatch", "tpu-pod"])
def test_scripts_can_be_read_by_bash(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
