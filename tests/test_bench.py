"""The bench on tiny shapes; what it measures is not for tests to judge."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import tiny

from gzjax.bench import __main__ as bench
from gzjax.bench import compute, start, timing
from gzjax.errors import UserError
from gzjax.run import build

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of galaxies, and the linear network in place of all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield tiny.folder(tmp_path_factory.mktemp("world") / "galaxies")


def options(world, **given):
    defaults = {"models": [], "sizes": [], "batches": [], "dtypes": [], "repeats": 1, "output": ""}
    return SimpleNamespace(config=tiny.config(world), **defaults | given)


def test_figures_of_every_subject_are_printed_and_written(world, tmp_path, capsys):
    output = tmp_path / "bench.json"
    subjects = ["step", "input", "e2e", "predict", "augment"]
    bench.run(subjects, options(world, output=str(output)), "tiny")
    figures = json.loads(output.read_text())
    assert set(figures["machine"]) >= {"devices", "cores", "jax", "recipe", "repeats", "command"}
    assert figures["machine"]["recipe"] == "tiny"
    (step,) = figures["step"]
    assert (step["model"], step["pixels"], step["batch"]) == ("tiny", 16, 8)
    assert step["images/s"] > 0
    assert 0 < step["of peak FLOP/s"] < 1
    assert {row["source"] for row in figures["input"]} == {"folder", "pack"}
    assert {row["threads"] for row in figures["input"]} == {1, 2, 4}
    (loop,) = figures["e2e"]
    assert 0 <= loop["waited for data"] <= 1
    assert [row["views"] for row in figures["predict"]] == [1, 16]
    assert "recipe, erasing" in {row["views"] for row in figures["augment"]}
    printed = capsys.readouterr().out
    for name in subjects:
        assert name in printed


def test_each_combination_is_measured(world):
    plan = bench.plan_of(options(world, sizes=["16", "32"], batches=["8", "16"]))
    found = [(o.model.image_size, o.run.batch_size) for o in plan.combinations()]
    assert found == [(16, 8), (16, 16), (32, 8), (32, 16)]


def test_devices_reduce_gradients_and_gather_nothing(world):
    rows = compute.measure_scaling(bench.plan_of(options(world)))
    combinations = [(row["devices"], row["accumulate"]) for row in rows]
    assert combinations == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]
    for row in rows:
        assert row["all-gathers"] == 0
        assert (row["all-reduces"] > 0) == (row["devices"] > 1)
    # Accumulating gradients adds no communication.
    assert rows[4]["all-reduces"] <= rows[3]["all-reduces"]


@pytest.mark.parametrize(
    ("subjects", "given", "expected"),
    [
        (["steps"], {}, "expected some of step, input"),
        ([], {"output": "no-folder/x.json"}, "--output no-folder/x.json: there is no such folder"),
        ([], {"sizes": ["large"]}, "--sizes: expected whole numbers"),
        ([], {"models": ["efficientnet-b99"]}, "--config.model.name: expected one of"),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(world, subjects, given, expected):
    with pytest.raises(UserError, match=expected):
        bench.run(subjects, options(world, **given), "tiny")


def test_the_command_says_a_mistake_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.bench", "steps", "--config", "test"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("gzjax: expected some of step, input")
    assert done.stderr.count("\n") == 1


def test_medians_and_turns():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    measured = timing.in_turns(functions, 3)
    assert calls == ["a", "b", *"ababab"]
    assert set(measured) == {"a", "b"}
    assert timing.seconds_of([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_every_subject_has_its_line_in_the_help():
    for subject in bench.SUBJECTS:
        assert f"\n    {subject} " in bench.__doc__
    assert jax.device_count() == 8
    assert start.measure_start is bench.SUBJECTS["start"]
