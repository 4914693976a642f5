"""The bench as people start it, on tiny shapes; what it measures is not for tests to judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gzjax.bench import timing

ROOT = Path(__file__).parent.parent


def bench(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the bench; what one subject has compiled the next one has at once."""
    return subprocess.run(
        [sys.executable, "-m", "gzjax.bench", "--config", "configs/test.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": "--xla_backend_optimization_level=0", "XDG_CACHE_HOME": str(cache)}
        | {"JAX_COMPILATION_CACHE_DIR": str(cache / "compiled")},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_figures_of_every_subject_are_printed_and_written(cache, tmp_path):
    output = tmp_path / "bench.json"
    done = bench(
        cache, "step", "input", "e2e", "predict", "augment", "--repeats", 1, "--output", output
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(output.read_text())
    assert set(figures["machine"]) >= {"devices", "cores", "jax", "recipe", "repeats", "command"}
    assert figures["machine"]["recipe"] == "test.py"
    (step,) = figures["step"]
    assert step["model"] == "tiny"
    assert step["images/s"] > 0
    assert step["GFLOP"] > 0
    assert 0 < step["of peak FLOP/s"] < 1
    assert {row["source"] for row in figures["input"]} == {"sky", "pack"}
    assert {row["threads"] for row in figures["input"]} == {1, 2, 4}
    (loop,) = figures["e2e"]
    assert 0 <= loop["waited for data"] <= 1
    assert [row["views"] for row in figures["predict"]] == [1, 16]
    assert "recipe, erasing" in {row["views"] for row in figures["augment"]}
    for name in ("step", "input", "e2e", "predict", "augment"):
        assert name in done.stdout


def test_simulated_devices_reduce_gradients_and_gather_nothing(cache, tmp_path):
    output = tmp_path / "bench.json"
    done = bench(cache, "scaling", "--repeats", 1, "--output", output)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(output.read_text())["scaling"]
    combinations = [(row["devices"], row["accumulate"]) for row in rows]
    assert combinations == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]
    for row in rows:
        assert row["all-gathers"] == 0
        assert (row["all-reduces"] > 0) == (row["devices"] > 1)
    # Accumulating gradients tells the others nothing more.
    assert rows[4]["all-reduces"] <= rows[3]["all-reduces"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["steps"], "expected some of step, input"),
        (["--config.modle.name=x"], "--config: no option 'modle'"),
        (["--output", "no-folder/x.json"], "--output no-folder/x.json: there is no such folder"),
        (["--sizes", "large"], "--sizes: expected whole numbers"),
        (["--models", "efficientnet-b99"], "--config.model.name: expected one of"),
    ],
)
def test_a_mistake_is_told_in_one_line(cache, arguments, expected):
    done = bench(cache, *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_medians_and_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    measured = timing.in_turns(functions, 3)
    assert calls == ["a", "b", *"ababab"]
    assert measured["a"].repeats == 3
    assert timing.seconds_of([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0, 3)
