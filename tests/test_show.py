"""What --mode show says of a run, and the trace of some of its steps."""

import gzip
import json

import jax
import numpy as np
import pytest
import tiny

import gzjax
from gzjax import UserError
from gzjax.run import build, command_line, show
from gzjax.run.report import SILENT, Report


def tree_of_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def config(world):
    return tiny.config(world, optim__freeze=2, evaluate__views=3, optim__learning_rate=0.25)


@pytest.fixture(scope="module")
def traced(config, tmp_path_factory):
    """(workdir, model, what was said) of a run of which steps 2 and 3 are traced."""
    workdir, said = tmp_path_factory.mktemp("traced") / "run", []
    report = Report(loud=False)
    report.say = said.append
    return workdir, gzjax.train(config, workdir, traced=(2, 3), report=report), said


def test_what_a_run_is_is_shown_and_nothing_written(config, world, tmp_path, capsys):
    before = tree_of_files(world)
    show.show(config, tmp_path / "run", Report())
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert tree_of_files(world) == before
    rows = [line.split() for line in said.splitlines()]
    assert f"workdir {tmp_path / 'run'}: a new run" in said
    assert ["optim.learning_rate", "0.25", "0.001"] in rows
    assert ["optim.weight_decay", str(config.optim.weight_decay)] in rows
    assert ["image", "uint8", "(8,", "16,", "16,", "3)"] in [row[:6] for row in rows]
    assert ["votes", "float32", "(8,", "8)"] in [row[:4] for row in rows]
    assert ["stem", "1", str(48 * 6), "no"] in rows
    assert ["block", "2", "12", "no"] in rows
    assert ["classifier", "2", str(6 * 8 + 8), "yes"] in rows
    assert ["all", str(48 * 6 + 12 + 56), "56"] in rows
    assert "48 galaxies (real galaxies): " in said
    for step in ("train, batch 8", "predict, batch 8, 1 view", "predict, batch 8, 3 views"):
        assert f" {step} " in said


def test_a_run_to_be_resumed_is_said_and_stays_as_it_is(config, traced, capsys):
    workdir, *_ = traced
    before = tree_of_files(workdir)
    show.show(config, workdir, Report())
    assert "a run to be resumed" in capsys.readouterr().out
    assert tree_of_files(workdir) == before


def test_costs_are_those_of_the_program():
    side = 64
    compiled = (
        jax.jit(lambda a, b: a @ b).lower(*[np.zeros((side, side), np.float32)] * 2).compile()
    )
    cost = show.cost_of(compiled)
    assert cost["FLOPs"] == pytest.approx(2 * side**3, rel=0.05)
    assert cost["bytes of arguments"] == 2 * 4 * side**2
    assert cost["of results"] == 4 * side**2


def flops_of(tmp_path, world, **options):
    """Of the train step, and of prediction with one view and with three."""
    config = tiny.config(world, evaluate__views=3, **options)
    run = build.build_run(config, tmp_path, None, cache=None, check_images=False, report=SILENT)
    cells = list(show.costs(run).columns[1].cells)
    units = {"": 1, "k": 1e3, "M": 1e6}
    numbers = [(*cell.split(), "")[:2] for cell in cells]
    return [float(number) * units[unit] for number, unit in numbers]


def test_all_views_and_all_galaxies_of_a_prediction_are_counted(tmp_path, world):
    _, one, three = flops_of(tmp_path, world, evaluate__batch_size=8)
    assert 2.5 < three / one < 4  # one view is upright, three are turned
    _, *twice = flops_of(tmp_path, world, evaluate__batch_size=16)
    assert twice == pytest.approx([2 * one, 2 * three], rel=0.05)


def test_the_shapes_are_those_of_training(config, tmp_path):
    """The steps that are costed take the very batches that training gives them."""
    run = build.build_run(config, tmp_path, None, cache=None, check_images=False, report=SILENT)
    from gzjax.data import devices

    batch = run.data.source("train").batch(np.arange(8))
    ((_, placed),) = devices.on_devices([batch], run.model.placement)
    like = run.model.abstract_batch(8)
    assert {name: (a.shape, a.dtype, a.sharding) for name, a in placed.items()} == {
        name: (a.shape, a.dtype, a.sharding) for name, a in like.items()
    }


def test_numbers_are_short():
    shown = [show._shown(value) for value in (None, 0, 999, 999_700, 1234, 5.6e6, 7e9, 8e15)]
    assert shown == ["-", "0", "999", "1 M", "1.23 k", "5.6 M", "7 G", "8e+03 T"]


def test_some_steps_are_traced(config, traced, tmp_path):
    whole = gzjax.train(config, tmp_path)
    workdir, model, said = traced
    assert f"a trace of steps 2 to 3: {workdir / 'profile'}" in said
    for one, other in zip(
        jax.tree.leaves(whole.weights), jax.tree.leaves(model.weights), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    (trace,) = (workdir / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = {
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    }
    assert steps == {2, 3}


def test_steps_that_are_done_or_never_come_are_not_traced(config, traced, tmp_path):
    workdir, said = traced[0], []
    report = Report(loud=False)
    report.say = said.append
    gzjax.train(config, workdir, traced=(1, 1), report=report)
    steps = 2 * (len(gzjax.load_data(workdir).splits["train"]) // 8)
    assert f"nothing is traced: {steps} steps are done already" in said
    for wrong in ((0, 1), (3, 2), (1, steps + 1)):
        with pytest.raises(UserError, match=rf"expected some of 1 to {steps}"):
            gzjax.train(config, tmp_path / "no", traced=wrong)
    assert not (tmp_path / "no").exists()


def test_a_trace_is_closed_when_training_stops_in_it(tmp_path):
    from gzjax.run import profile

    with profile.traced(lambda state, batch: state, (1, 5), 0, tmp_path) as step:
        step(0, 0)
    assert list(tmp_path.rglob("*.xplane.pb"))
    jax.profiler.start_trace(tmp_path / "again")  # which fails during another one
    jax.profiler.stop_trace()


def test_steps_to_trace_are_two_numbers():
    assert command_line.steps("10:15", "--profile") == (10, 15)
    for wrong in ("10", "a:b", "5:4", "0:3", ":", "1:2:3"):
        with pytest.raises(UserError, match="--profile: expected something like 10:15"):
            command_line.steps(wrong, "--profile")
