"""The scripts in launch/ and what is installed, with stand-ins for the commands that they call.

Nothing is installed and no cluster is needed: `python`, `nvidia-smi`, `srun` and the others are
scripts that print what they were asked to do.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"

# Makes environments of copies of all stand-ins, itself among them; everything else is printed.
PYTHON = (
    f"""
version=${{PYTHON_VERSION:-3.12.1}}
real='{sys.executable}'
"""
    + """
case "$*" in
-V) echo "Python $version" ;;
-c*) exec "$real" -c "import sys; sys.version_info = (${version//./, }); $2" ;;
"-m pip --version") ;;
"-m venv "*)
    echo "venv $3"; mkdir -p "$3/bin"
    # As the true one does, which keeps a link to a Python that is gone.
    for file in "$3"/bin/*; do if [ -L "$file" ]; then exit 0; fi; done
    cp "$(dirname "$0")"/* "$3/bin" ;;
"-m pip install --quiet --disable-pip-version-check "*)
    shift 5; echo "pip $(dirname "$0") $*"; sleep "${PIP_SECONDS:-0}"; exit "${PIP_STATUS:-0}" ;;
*) if { true >&9; } 2>/dev/null; then echo "keeps the lock"; fi; echo "python $*" ;;
esac
"""
)


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """A machine with a copy of the repository's scripts, a Python, and no accelerator."""
    shutil.copytree(LAUNCH, tmp_path / "repo" / "launch")
    shutil.copytree(ROOT / ".ci", tmp_path / "repo" / ".ci")
    (tmp_path / "repo" / "tests").mkdir()
    for file in ("requirements.txt", "tests/requirements.txt", "tests/requirements-parity.txt"):
        shutil.copy(ROOT / file, tmp_path / "repo" / file)
    stand_in(tmp_path / "bin", "python", PYTHON)
    stand_in(tmp_path / "bin", "python3", PYTHON)
    stand_in(tmp_path / "bin", "nvidia-smi", "echo 'not found' >&2; exit 127")
    stand_in(tmp_path / "bin", "chromium", "")
    return tmp_path


def environment(machine: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GZJAX_")}
    for name in ("PYTHONPATH", "GLIBC_TUNABLES"):
        kept.pop(name, None)
    return kept | {"PATH": f"{machine / 'bin'}:{os.environ['PATH']}"} | variables


def call(machine: Path, *command: object, cwd: Path | None = None, **variables: str):
    return subprocess.run(
        ["bash", *map(str, command)],
        env=environment(machine, **variables),
        cwd=cwd or machine,
        capture_output=True,
        text=True,
        timeout=60,
    )


def run(machine: Path, **variables: str) -> list[str]:
    """What `launch/run --config sky` does, a line each, without what it says about it."""
    done = call(machine, machine / "repo/launch/run", "--config", "sky", **variables)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace(str(machine / "repo"), "REPO").splitlines()
    return [line for line in lines if not line.startswith("launch: ")]


RUN = "python -m gzjax.main --config sky"
INSTALL = "pip REPO/.venv/bin -r REPO/requirements.txt"


# Which JAX build a machine gets.


def found_jax(machine: Path, *cards: tuple[str, str], **variables: str) -> str:
    """What find_jax says with these PCI cards, each a vendor and a device."""
    for number, (vendor, device) in enumerate(cards):
        card = machine / "pci" / f"0000:00:{number:02x}.0"
        card.mkdir(parents=True)
        (card / "vendor").write_text(f"{vendor}\n")
        (card / "device").write_text(f"{device}\n")
    script = f"set -eu; . '{LAUNCH}/environment'; PCI={machine}/pci; find_jax"
    done = call(machine, "-c", script, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def with_gpus(machine: Path, driver: str, *capabilities: str) -> None:
    drivers = "\n".join([driver] * len(capabilities))
    script = f"""
    [ "$2" = --format=csv,noheader ] || exit 1
    case $1 in
    --query-gpu=driver_version) echo '{drivers}' ;;
    --query-gpu=compute_cap) echo '{chr(10).join(capabilities)}' ;;
    *) exit 1 ;;
    esac"""
    stand_in(machine / "bin", "nvidia-smi", script)


NETWORK_CARD = ("0x1ae0", "0x0042")  # Google's, in every virtual machine of its cloud
TPU_V5E = ("0x1ae0", "0x0063")


@pytest.mark.parametrize(
    ("driver", "capabilities", "build"),
    [
        ("580.65.06", ("9.0",), "cuda13"),
        ("580.65.06", ("7.5",), "cuda13"),
        ("581.01", ("10.0", "12.0"), "cuda13"),
        ("580.65.06", ("7.0",), "cuda12"),
        ("580.65.06", ("9.0", "7.0"), "cuda12"),
        ("580.65.06", ("7.0", "9.0"), "cuda12"),
        ("579.99", ("9.0",), "cuda12"),
        ("535.183.01", ("8.0",), "cuda12"),
    ],
)
def test_cuda_is_the_newest_that_driver_and_gpus_support(machine, driver, capabilities, build):
    with_gpus(machine, driver, *capabilities)
    assert found_jax(machine) == build


@pytest.mark.parametrize("card", [NETWORK_CARD, TPU_V5E])
def test_a_gpu_that_answers_decides(machine, card):
    with_gpus(machine, "580.65.06", "9.0")
    assert found_jax(machine, card) == "cuda13"


@pytest.mark.parametrize("status", [0, 6, 9])
def test_a_machine_without_gpus_whose_nvidia_smi_complains_gets_cpu(machine, status):
    stand_in(machine / "bin", "nvidia-smi", f"echo 'No devices were found'; exit {status}")
    assert found_jax(machine) == "cpu"


@pytest.mark.parametrize(
    ("cards", "build"),
    [
        ((), "cpu"),
        ((NETWORK_CARD,), "cpu"),
        ((("0x10de", "0x0063"),), "cpu"),  # the device number of another vendor
        ((NETWORK_CARD, TPU_V5E), "tpu"),
        ((("0x8086", "0x1237"), TPU_V5E, NETWORK_CARD), "tpu"),
    ],
)
def test_a_tpu_is_known_by_vendor_and_device(machine, cards, build):
    assert found_jax(machine, *cards) == build


@pytest.mark.parametrize(
    "device", ["0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"]
)
def test_every_tpu_that_jax_knows_is_found(machine, device):
    assert found_jax(machine, ("0x1ae0", device)) == "tpu"


def test_the_build_can_be_chosen(machine):
    with_gpus(machine, "580.65.06", "9.0")
    assert found_jax(machine, GZJAX_JAX="tpu") == "tpu"


def test_an_unknown_build_is_refused_in_one_line(machine):
    done = call(machine, machine / "repo/launch/run", GZJAX_JAX="cuda")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "launch: GZJAX_JAX is 'cuda'; expected cpu, cuda12, cuda13 or tpu\n"


# The environment.


def test_the_first_run_installs_and_the_second_only_runs(machine):
    assert run(machine, GZJAX_JAX="cpu") == ["venv REPO/.venv", INSTALL, RUN]
    assert run(machine, GZJAX_JAX="cpu") == [RUN]


def test_changed_requirements_are_installed(machine):
    run(machine, GZJAX_JAX="cpu")
    with (machine / "repo/requirements.txt").open("a") as file:
        file.write("colossus\n")
    assert run(machine, GZJAX_JAX="cpu") == [INSTALL, RUN]
    assert run(machine, GZJAX_JAX="cpu") == [RUN]


def test_an_environment_whose_python_is_gone_is_made_again(machine):
    run(machine, GZJAX_JAX="cpu")
    for name in ("python", "python3"):
        (link := machine / "repo/.venv/bin" / name).unlink()
        link.symlink_to("/gone/python3.11")
    assert run(machine, GZJAX_JAX="cpu") == ["venv REPO/.venv", INSTALL, RUN]


def test_an_upgraded_python_gets_its_packages(machine):
    run(machine, GZJAX_JAX="cpu")
    newer = {"GZJAX_JAX": "cpu", "PYTHON_VERSION": "3.13.0"}
    assert run(machine, **newer) == [INSTALL, RUN]
    assert run(machine, **newer) == [RUN]


@pytest.mark.parametrize(
    ("folder", "venv"),
    [(None, "REPO/.venv"), ("elsewhere/venv", "elsewhere/venv"), ("venv/", "venv")],
)
def test_login_and_gpu_nodes_do_not_install_in_turns(machine, folder, venv):
    variables = {"GZJAX_VENV": folder} if folder else {}
    for kind, suffix, extra in (
        ("cpu", "", ""),
        ("cuda12", "-cuda12", " jax[cuda12]"),
        ("tpu", "-tpu", " jax[tpu]"),
    ):
        assert run(machine, GZJAX_JAX=kind, **variables) == [
            f"venv {venv}{suffix}",
            f"pip {venv}{suffix}/bin -r REPO/requirements.txt{extra}",
            RUN,
        ]
    for kind in ("cpu", "cuda12", "tpu", "cpu"):
        assert run(machine, GZJAX_JAX=kind, **variables) == [RUN]


def test_the_programs_are_those_of_the_build(machine):
    stand_in(machine / "bin", "python", PYTHON.replace('echo "python', 'echo "$0'))
    assert run(machine, GZJAX_JAX="cuda12")[-1].startswith("REPO/.venv-cuda12/bin/python -m gzjax")
    with_checkers(machine)
    done = call(machine, machine / "repo/launch/test", GZJAX_JAX="cpu", GZJAX_VENV="relative")
    assert done.stdout.splitlines()[-1].startswith(f"{machine}/relative/bin/python -m pytest")


def test_processes_that_start_together_install_once(machine):
    if not shutil.which("flock"):
        pytest.skip("this system has no flock")
    variables = environment(machine, GZJAX_JAX="cpu", PIP_SECONDS="0.5")
    command = ["bash", machine / "repo/launch/run"]
    jobs = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = [job.communicate(timeout=60)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert sum("pip " in text for text in printed) == 1
    assert sum("\nvenv " in f"\n{text}" for text in printed) == 1
    assert all("python -m gzjax.main" in text for text in printed)


def test_file_systems_without_locks_are_enough(machine):
    stand_in(machine / "bin", "flock", "echo 'flock: 9: No locks available' >&2; exit 66")
    done = call(machine, machine / "repo/launch/run", GZJAX_JAX="cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert "launch: installing without a lock\n" in done.stdout
    assert done.stdout.endswith("python -m gzjax.main\n")


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_complete_environment_is_only_read(machine):
    run(machine, GZJAX_JAX="cpu")
    venv = machine / "repo/.venv"
    (venv / "lock").unlink()
    before = contents(venv)
    venv.chmod(0o555)
    assert run(machine, GZJAX_JAX="cpu") == [RUN]
    assert contents(venv) == before
    venv.chmod(0o755)


def test_an_environment_that_takes_neither_lock_nor_stamp_is_used(machine):
    run(machine, GZJAX_JAX="cpu")
    for name in ("lock", "installed-requirements.txt"):
        (machine / "repo/.venv" / name).unlink()
        (machine / "repo/.venv" / name).mkdir()  # cannot be written, whoever tries
    assert run(machine, GZJAX_JAX="cpu") == [INSTALL, RUN]


def test_a_failed_installation_ends_in_one_line_and_is_tried_again(machine):
    done = call(machine, machine / "repo/launch/run", GZJAX_JAX="cpu", PIP_STATUS="1")
    venv = machine / "repo/.venv"
    assert done.returncode == 2
    assert done.stderr == f"launch: installing requirements.txt into {venv} failed\n"
    assert "gzjax.main" not in done.stdout
    assert run(machine, GZJAX_JAX="cpu") == [INSTALL, RUN]


def test_names_with_spaces_and_a_path_to_search_folders_in_do_no_harm(machine):
    named = shutil.copytree(machine / "bin", machine / "my python") / "python3"
    for name in ("python", "python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        stand_in(machine / "bin", name, "exit 1")
    done = call(
        machine, "launch/run", "--config", "sky", cwd=machine / "repo",
        GZJAX_JAX="cpu", GZJAX_PYTHON=str(named), CDPATH=f".:{machine}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert RUN in done.stdout


@pytest.mark.parametrize(
    "variables", [{"GZJAX_PYTHON": "/nowhere/python"}, {"PYTHON_VERSION": "3.10.14"}]
)
def test_a_machine_without_python_is_told_so(machine, variables):
    for name in ("python3.11", "python3.12", "python3.13", "python3.14"):
        stand_in(machine / "bin", name, "exit 1")
    done = call(machine, machine / "repo/launch/run", GZJAX_JAX="cpu", **variables)
    assert done.returncode == 2
    message = "launch: no Python >= 3.11 found; install one, or name it in GZJAX_PYTHON\n"
    assert done.stderr == message


def test_the_oldest_python_is_enough(machine):
    assert run(machine, GZJAX_JAX="cpu", PYTHON_VERSION="3.11.0")[-1] == RUN


def test_programs_find_the_package_and_keep_folder_and_settings(machine):
    stand_in(
        machine / "bin",
        "python",
        PYTHON.replace('echo "python', 'echo "$PWD|$PYTHONPATH|$GLIBC_TUNABLES|'),
    )
    repo = machine / "repo"
    folder = machine / "somewhere"
    folder.mkdir()
    done = call(machine, repo / "launch/run", "--x=a b", cwd=folder, GZJAX_JAX="cpu")
    last = done.stdout.splitlines()[-1]
    assert last == f"{folder}|{repo}|glibc.malloc.hugetlb=1| -m gzjax.main --x=a b"
    done = call(
        machine,
        repo / "launch/run",
        GZJAX_JAX="cpu",
        PYTHONPATH="/theirs",
        GLIBC_TUNABLES="glibc.malloc.hugetlb=0",
    )
    last = done.stdout.splitlines()[-1]
    assert last == f"{machine}|{repo}:/theirs|glibc.malloc.hugetlb=0| -m gzjax.main"


# The other scripts.


SCRIPTS = ("run", "test", "bench", "ablation", "data", "slurm.sbatch", "slurm-predict.sbatch")
SCRIPTS += ("tpu-pod", "docs", "faults", "screenshots", "notebooks")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_run_and_start_what_exists(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    assert os.access(LAUNCH / script, os.X_OK)
    modules = re.findall(r"python -m (gzjax\S*)", (LAUNCH / script).read_text())
    assert modules or script not in ("run", "bench", "ablation", "data")
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def with_checkers(machine: Path, failing: str = "") -> None:
    for name in ("ruff", "mypy"):
        script = f'cd launch/..; echo "{name} $*"; [ "{name} $*" != "{failing}" ]'
        stand_in(machine / "bin", name, f"set -e; {script}")  # in the repository, then


CHECKS = ["ruff check .", "ruff format --check .", "mypy "]


def test_tests_are_run_after_style_and_types(machine):
    with_checkers(machine)
    variables = {"GZJAX_JAX": "cpu", "GZJAX_VENV": "venv"}
    done = call(machine, machine / "repo/launch/test", "-k", "tree", **variables)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("launch: ")]
    venv, repo = "venv", machine / "repo"
    assert lines[:3] == [
        f"venv {venv}",
        f"pip {venv}/bin -r {repo}/requirements.txt",
        f"pip {venv}/bin -r {repo}/tests/requirements.txt",
    ]
    assert lines[3:6] == CHECKS
    assert re.fullmatch(r"python -m pytest --numprocesses 2 --dist \w+ -k tree", lines[6])
    assert len(lines) == 7


@pytest.mark.parametrize("number", range(3))
def test_a_check_that_fails_ends_the_tests(machine, number):
    with_checkers(machine, failing=CHECKS[number])
    done = call(machine, machine / "repo/launch/test", GZJAX_JAX="cpu")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == CHECKS[number]


@pytest.mark.parametrize("status", ["0", "1"])
def test_pytorch_is_installed_where_it_can_be(machine, status):
    run(machine, GZJAX_JAX="cpu")
    script = machine / "repo/launch/bench"
    done = call(machine, script, GZJAX_JAX="cpu", GZJAX_PARITY="1", PIP_STATUS=status)
    assert done.returncode == 0
    lines = done.stdout.replace(str(machine / "repo"), "REPO").splitlines()
    assert lines[1] == "pip REPO/.venv/bin --no-deps -r REPO/tests/requirements-parity.txt"
    assert ("skipped" in done.stdout) == (status == "1")
    assert lines[-1] == "python -m gzjax.bench"


@pytest.mark.parametrize(
    ("there", "user", "apt", "playwright", "asked"),
    [
        ("chromium-browser", 0, 0, 0, []),
        ("", 0, 0, 0, ["apt-get -qq update", "apt-get -qq install"]),
        ("", 1000, 0, 0, ["python -m playwright"]),
        ("", 0, 1, 0, ["apt-get -qq update", "python -m playwright"]),
        ("", 0, 1, 1, ["apt-get -qq update", "python -m playwright"]),
    ],
)
def test_a_browser_is_installed_where_there_is_none(machine, there, user, apt, playwright, asked):
    said = machine / "said"
    for name, status in (("apt-get", apt), ("python", playwright)):
        stand_in(machine / "bin", name, f'echo "{name} $1 $2" >>{said}; exit {status}')
    stand_in(machine / "bin", "id", f"echo {user}")
    only = f'command() {{ [ "$2" = "{there}" ]; }}'  # whatever this machine has
    script = f"set -eu; . '{LAUNCH}/environment'; {only}; prepare_browser"
    done = call(machine, "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert (said.read_text().splitlines() if said.exists() else []) == asked
    assert ("skipped" in done.stdout) == bool(apt and playwright)


def test_downloads_have_their_packages(machine):
    script = machine / "repo/launch/data"
    done = call(machine, script, "gz2", "--dry-run", GZJAX_JAX="cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace(str(machine / "repo"), "REPO").splitlines()
    assert "pip REPO/.venv/bin -r REPO/launch/requirements-data.txt" in lines
    assert lines[-1] == "python -m gzjax.at_hand gz2 --dry-run"


@pytest.mark.parametrize("has_data", [True, False])
def test_ci_tests_everything_that_it_can(machine, has_data):
    with_checkers(machine)
    stand_in(
        machine / "bin", "python", PYTHON.replace('echo "python', 'echo "${GZJAX_DATA:-none}|')
    )
    data = machine / "shared/galaxyzoo"
    if has_data:
        data.mkdir(parents=True)
    (machine / "repo/launch/test").chmod(0o644)  # as some ways of copying leave it
    done = call(machine, machine / "repo/.ci/run", GZJAX_JAX="cpu")
    assert done.returncode == 0, done.stderr
    assert "requirements-parity.txt" in done.stdout
    assert "-r REPO/tests/requirements-extras.txt" in done.stdout.replace(
        str(machine / "repo"), "REPO"
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"{data if has_data else 'none'}| -m pytest ")


def test_data_for_the_tests_must_exist(machine):
    with_checkers(machine)
    done = call(machine, machine / "repo/launch/test", GZJAX_JAX="cpu", GZJAX_DATA="nowhere")
    assert done.returncode == 2
    assert done.stderr.endswith("launch: GZJAX_DATA: expected a folder\n")


# SLURM.

TRAIN = "echo $$ >pid; for i in {1..200}; do sleep 0.05; done; exit 4"


@pytest.fixture
def cluster(tmp_path):
    """A folder of commands: a run that saves when it is asked to, and what asks it."""
    commands = {
        "srun": f'printf "%s\\n" "$@" >started; trap "echo saved; exit 0" TERM; {TRAIN}',
        "scancel": 'echo "scancel $*"; kill -TERM "$(cat pid)"',
        "scontrol": 'echo "scontrol $*"',
    }
    for name, command in commands.items():
        stand_in(tmp_path / "bin", name, command)
    return tmp_path / "bin"


def submitted(cluster: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", "--config", "configs/sky.py", "--x=a b"],
        env=os.environ
        | {"PATH": f"{cluster}:{os.environ['PATH']}"}
        | {"SLURM_SUBMIT_DIR": str(cluster.parent), "SLURM_JOB_ID": "7"}
        | {"SLURM_CPUS_PER_TASK": "5"},
        stdout=subprocess.PIPE,
        text=True,
    )


def warned(cluster: Path, times: int = 1) -> tuple[list[str], int]:
    """What is printed by a job whose time is nearly up, and its status."""
    with submitted(cluster) as job:
        for _ in range(1000):
            if (cluster.parent / "pid").exists():
                break
            time.sleep(0.01)
        printed = ""
        for _ in range(times):
            job.send_signal(signal.SIGUSR1)
            printed += "" if printed else job.stdout.readline()
        rest, _ = job.communicate(timeout=60)
    return (printed + rest).splitlines(), job.returncode


TOLD = "scancel --signal=TERM 7"


def test_a_job_whose_time_is_up_saves_and_is_queued_again(cluster):
    assert warned(cluster) == ([TOLD, "saved", "scontrol requeue 7"], 0)


def test_the_processes_of_a_job_get_their_cpus_and_flags(cluster):
    warned(cluster)
    assert (cluster.parent / "started").read_text().splitlines() == [
        *("--cpus-per-task=5", "--kill-on-bad-exit=1", "launch/run", "--distributed"),
        *("--config", "configs/sky.py", "--x=a b"),
    ]


def test_a_job_that_its_signal_ends_is_queued_again(cluster):
    stand_in(cluster, "srun", TRAIN)
    assert warned(cluster) == ([TOLD, "scontrol requeue 7"], 0)


def test_a_job_that_fails_when_it_is_told_to_end_is_not_queued_again(cluster):
    stand_in(cluster, "srun", f"trap 'exit 3' TERM; {TRAIN}")
    assert warned(cluster) == ([TOLD], 3)


def test_a_job_that_saves_is_told_once(cluster):
    script = "trap 'trap \"echo killed; exit 143\" TERM; sleep 0.3; echo saved; exit 0' TERM"
    stand_in(cluster, "srun", f"{script}; {TRAIN}")
    assert warned(cluster, times=3) == ([TOLD, "saved", "scontrol requeue 7"], 0)


@pytest.mark.parametrize("status", [0, 3, 143])
def test_a_job_that_ends_by_itself_is_not_queued_again(cluster, status):
    stand_in(cluster, "srun", f"exit {status}")
    with submitted(cluster) as job:
        printed, _ = job.communicate(timeout=60)
    assert printed == ""
    assert job.returncode == status


# Cloud TPU.


@pytest.mark.parametrize("flags", [[], ["--config", "configs/sky.py"], ["--images=a b/*.jpg", ""]])
def test_workers_of_a_tpu_pod_get_the_flags(machine, flags):
    stand_in(machine / "bin", "gcloud", "printf '%s\\n' \"$@\"")
    done = call(machine, LAUNCH / "tpu-pod", "pod", "us-east5-b", *flags)
    *first, command = done.stdout.splitlines()
    assert first == [
        *("compute", "tpus", "tpu-vm", "ssh", "pod", "--zone", "us-east5-b", "--worker=all")
    ]
    expected = ["--command=cd", "gzjax", "&&", "launch/run", "--distributed", *flags]
    assert shlex.split(command) == expected


def test_workers_of_a_tpu_pod_get_the_settings(machine):
    stand_in(machine / "bin", "gcloud", "printf '%s\\n' \"$@\"")
    python = {"GZJAX_PYTHON": "/opt/a b/python"}
    done = call(machine, LAUNCH / "tpu-pod", "pod", "us-east5-b", "--config", "sky", **python)
    expected = ["GZJAX_PYTHON=/opt/a b/python", "launch/run", "--distributed", "--config", "sky"]
    assert shlex.split(done.stdout.splitlines()[-1])[3:] == expected


def test_a_tpu_pod_has_a_name_and_a_zone(machine):
    done = call(machine, LAUNCH / "tpu-pod", "pod")
    assert done.returncode == 2
    assert done.stderr == "launch/tpu-pod NAME ZONE [any gzjax.main flag]\n"


# What `pip install .` installs.


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The files of the wheel, by name; built from a copy, as building leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns(".*", "runs", "build", "dist", "docs", "*.egg-info", "__pyc*")
    shutil.copytree(ROOT, folder / "source", ignore=ignore)
    subprocess.run(
        [sys.executable, "-c", f"from setuptools import build_meta as b; b.build_wheel({'..'!r})"],
        cwd=folder / "source",
        check=True,
        capture_output=True,
        timeout=120,
    )
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_package_is_whole(wheel):
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "gzjax").rglob("*.py")}
    trees = {str(path.relative_to(ROOT)) for path in (ROOT / "gzjax" / "trees").glob("*.toml")}
    recipes = {f"gzjax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    templates = {f"page.{kind}" for kind in ("html", "css")} | {"card.md"}
    templates |= {f"explore.{kind}" for kind in ("html", "css", "js")}
    page = {f"gzjax/run/templates/{name}" for name in templates}
    assert trees
    assert recipes
    names = {name for name in wheel if ".dist-info/" not in name}
    assert names == sources | trees | recipes | page | {"gzjax/py.typed"}


def of_metadata(wheel: dict[str, bytes], file: str) -> bytes:
    (content,) = (wheel[name] for name in wheel if name.endswith(f".dist-info/{file}"))
    return content


def test_the_command_is_the_front_door(wheel):
    expected = b"[console_scripts]\ngzjax = gzjax.main:entry\n"
    assert of_metadata(wheel, "entry_points.txt").strip() + b"\n" == expected


def requirements(file: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {re.split(r"[<>=]", line)[0] for line in lines if line}


def test_the_package_requires_what_the_scripts_install(wheel):
    metadata = message_from_bytes(of_metadata(wheel, "METADATA"))
    required: dict[str, set[str]] = {}
    for line in metadata.get_all("Requires-Dist", []):
        name, _, extra = line.partition("; extra == ")
        required.setdefault(extra.strip('"'), set()).add(re.split(r"[<>=]", name)[0])
    assert required == {
        "": requirements("requirements.txt"),
        "test": requirements("tests/requirements.txt"),
        "data": requirements("launch/requirements-data.txt"),
        "fits": {"astropy"},
        "s3": {"s3fs"},
        "gcs": {"gcsfs"},
        "ray": {"ray"},
        "wandb": {"wandb"},
        "mlflow": {"mlflow-skinny"},
        "index": {"usearch"},
        "umap": {"umap-learn"},
        "onnx": {"jax2onnx", "onnxruntime"},
        **{kind: {f"jax[{kind}]"} for kind in ("cuda12", "cuda13", "tpu")},
    }
    assert metadata["Name"] == "gzjax"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_version_is_the_same_everywhere(wheel):
    version = message_from_bytes(of_metadata(wheel, "METADATA"))["Version"]
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version
    assert re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


def test_jobs_of_an_array_share_a_prediction(tmp_path):
    """Numbered from 1, wherever the array begins."""
    stand_in(tmp_path / "bin", "srun", 'printf "%s\n" "$@" >started')
    array = {
        "SLURM_ARRAY_TASK_ID": "12",
        "SLURM_ARRAY_TASK_MIN": "10",
        "SLURM_ARRAY_TASK_MAX": "17",
        "SLURM_ARRAY_TASK_COUNT": "8",
    }
    environment = os.environ | array | {
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "5",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
    command = ["bash", LAUNCH / "slurm-predict.sbatch", "--images", "a b"]
    # Of some numbers alone, such as those that failed, nobody knows how many shares there are.
    gaps = environment | {"SLURM_ARRAY_TASK_COUNT": "2"}
    done = subprocess.run(command, env=gaps, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--array: expected numbers without gaps" in done.stderr
    assert not (tmp_path / "started").exists()
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "started").read_text().splitlines() == [
        "--cpus-per-task=5", "launch/run", "--mode", "predict", "--part", "3/8", "--images", "a b",
    ]  # fmt: skip
