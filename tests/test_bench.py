"""The bench in process, in the tiny world, by a clock that ticks an eighth of a second a look."""

import concurrent.futures
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
import tiny

from gzjax import augment
from gzjax import tree as trees
from gzjax.bench import __main__ as bench
from gzjax.bench import compute, inference, peer, plan, runs, timing
from gzjax.data import packing
from gzjax.errors import UserError
from gzjax.run import build, recipes
from gzjax.run import config as configs

ROOT = Path(__file__).parent.parent
TICK = 0.125
RATE = 8 / TICK  # images/s of a batch of eight in one tick


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        self.time += TICK
        return self.time


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timing, "now", made)
    return made


def flags_of(world, **given):
    """Values of the command's flags; two underscores in an option's name are a dot."""
    own = {
        **{name: [] for name in ("models", "sizes", "batches", "dtypes", "topologies")},
        "repeats": 2,
        "output": "",
    }
    options = {name: value for name, value in given.items() if name not in own}
    return types.SimpleNamespace(
        config=tiny.config(world, **options),
        **own | {name: value for name, value in given.items() if name in own},
    )


def plan_of(world, **given):
    return bench.plan_of(flags_of(world, **given))


# Times.


def test_functions_are_called_in_turns_each_after_a_warm_up(clock):
    calls, costs = [], iter([9, 3, 1, 9, 2, 6, 9, 1, 4, 9, 7, 8])

    def function(name):
        calls.append(name)
        clock.time += next(costs)

    functions = {name: lambda name=name: function(name) for name in "ab"}
    measured = timing.in_turns(functions, repeats=2, calls=2)
    assert calls == [*"aaabbbaaabbb"]
    assert measured["a"] == pytest.approx((2 + TICK, 1 + TICK, 4 + TICK))
    assert measured["b"] == pytest.approx((6.5 + TICK, 2 + TICK, 8 + TICK))


def test_what_jax_computes_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    results = iter([1, 2, 3])
    timing.time_of(lambda: next(results), 2)
    assert waited == [1, 2, 3]


def test_rates_are_of_the_median_the_slowest_and_the_fastest():
    seconds = timing.seconds_of([4.0, 1.0, 2.0])
    assert timing.rates(8, seconds) == {"images/s": 4.0, "slowest": 2.0, "fastest": 8.0}


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_peak_is_that_of_a_product_and_an_addition(clock, monkeypatch, dtype, size):
    monkeypatch.setattr(timing, "PEAK_ON_CPU", (4, 1024))
    monkeypatch.setattr(timing, "PEAK_ELSEWHERE", (8, 2048))
    assert timing.measure_peak(dtype, 2) == (2 * 4**3 / TICK, 2 * size * 1024 / TICK)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert timing.measure_peak(dtype, 2) == (2 * 8**3 / TICK, 2 * size * 2048 / TICK)


# What is measured.


def test_every_combination_is_measured_and_the_rest_is_the_recipe(world):
    made = plan_of(
        world,
        models=["efficientnet-tiny", "efficientnet-lite0"],
        sizes=["32", "64"],
        batches=["8", "16"],
        dtypes=["float32", "bfloat16"],
        model__weights="imagenet",
        optim__weight_decay=0.3,
    )
    found = list(made.combinations())
    assert [tuple(plan.columns(options).values()) for options in found] == [
        (model, size, batch, dtype)
        for model in ("tiny", "lite0")
        for size in (32, 64)
        for batch in (8, 16)
        for dtype in ("float32", "bfloat16")
    ]
    for options in found:
        assert options.evaluate.batch_size == options.run.batch_size
        assert options.model.weights == ""
        assert options.optim.weight_decay == 0.3
    assert (made.config.model.weights, made.config.batch_size) == ("imagenet", 8)
    (default,) = plan_of(world).combinations()
    assert plan.columns(default) == {
        "model": "nano", "pixels": 16, "batch": 8, "dtype": "float32"
    }  # fmt: skip


def test_the_step_is_the_recipes_and_goes_from_state_to_state(world, monkeypatch):
    made = plan_of(world, optim__accumulate=4, epochs=1)
    (options,) = made.combinations()
    step = plan.Step(options, made.tree)
    before = np.asarray(step.state.weights.params["stem"]["kernel"])
    batch = step.batch
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["votes"].shape == (8, made.tree.size)
    np.testing.assert_allclose(batch["votes"].sum(axis=1), 40, rtol=1e-5)
    assert batch["row"].tolist() == list(range(8))
    assert batch["mask"].tolist() == [1.0] * 8
    assert len(batch["image"].addressable_shards) == 8
    assert batch["image"].addressable_shards[0].data.shape[0] == 1
    losses = [float(step()["loss"]) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert step.compiled.cost_analysis()["flops"] > 1000
    assert step.compiled.memory_analysis().temp_size_in_bytes > 0
    assert 0 < step.compile_seconds < 100
    assert int(step.state.step) == 4
    assert not np.allclose(before, step.state.weights.params["stem"]["kernel"])
    with pytest.raises(UserError, match="batch_size: expected a multiple of the 8 devices"):
        plan.Step(next(plan_of(world, batches=["12"]).combinations()), made.tree)


class Compiled:
    """Stands in for a compiled step."""

    def __init__(self, options, tree, placement=None):
        self.options, self.placement = options, placement
        self.compiled, self.compile_seconds = self, 5.0
        self.steps.append(self)

    steps: ClassVar[list] = []

    def __call__(self):
        return {}

    def cost_analysis(self):
        return {"flops": 3e9, "bytes accessed": 7e9}

    def memory_analysis(self):
        return types.SimpleNamespace(temp_size_in_bytes=4e8)

    def as_text(self):
        return "a all-reduce(b) c all-reduce-start(d) e all-reduce-done(c) all-gather(f)"


def test_the_step_is_measured_against_the_peak(world, clock, monkeypatch):
    peaks = {"float32": timing.Peak(1e12, 2e12), "bfloat16": timing.Peak(4e12, 8e12)}
    monkeypatch.setattr(timing, "measure_peak", lambda dtype, repeats: peaks[dtype])
    monkeypatch.setattr(compute, "Step", Compiled)
    rows = compute.measure_step(plan_of(world, dtypes=["float32", "bfloat16"]))
    for row, peak in zip(rows, peaks.values(), strict=True):
        assert row["images/s"] == row["slowest"] == row["fastest"] == RATE
        assert (row["compile s"], row["GFLOP"], row["GB"], row["temp GB"]) == (5.0, 3.0, 7.0, 0.4)
        assert row["of peak FLOP/s"] == pytest.approx(3e9 / TICK / peak.flops)
        assert row["of peak bytes/s"] == pytest.approx(7e9 / TICK / peak.bytes)


@pytest.mark.parametrize("peer", [True, False])
def test_predictions_are_measured_against_what_bounds_them(world, clock, monkeypatch, peer):
    monkeypatch.setattr(
        inference, "onnx_runtime", lambda *_: {"ONNX Runtime": lambda: None} if peer else {}
    )
    rows = {row["what"]: row for row in inference.measure_predict(plan_of(world))}
    assert len(rows) == 5 + peer
    one, many = rows["network, 1 view"], rows["network, 16 views"]
    assert one["model"] == "nano"
    assert one["images/s"] == RATE
    assert (one["bound"], one["of bound"]) == ((RATE, 1) if peer else ("", ""))
    assert (many["bound"], many["of bound"]) == (RATE / 16, 16)
    # Of two batches of JPEGs, in the same time.
    assert rows["decoding"]["images/s"] == 2 * RATE
    predicted = [rows[f"--mode predict, {views}"] for views in ("1 view", "16 views")]
    assert [row["images/s"] for row in predicted] == [2 * RATE] * 2
    assert [row["bound"] for row in predicted] == [RATE, RATE / 16]


def test_the_peer_is_the_same_network(world):
    pytest.importorskip("jax2onnx")
    plan = plan_of(world)
    options = next(plan.combinations())
    placement = build.place(options, training=False)
    model = inference.model_of(options, plan.tree, placement, folded=True)
    model = model._replace(weights=model.network.init(jax.random.key(0)))
    calls = inference.onnx_runtime(options, plan, model)
    (outputs,) = calls["ONNX Runtime"]()
    size, side = options.run.batch_size, options.model.image_size
    images = np.random.default_rng(0).random((size, side, side, 3), np.float32)
    expected, _ = model.network.apply(*model.weights, images, train=False)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    shape = (size, options.data.canvas, options.data.canvas, 3)
    images = {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    fractions = model.predict_step(1)(model.weights, images)["fractions"]
    found = calls["ONNX Runtime, predict.onnx"]()[0]
    np.testing.assert_allclose(found, fractions, atol=1e-3)


def test_decoding_is_measured_in_the_time_of_its_cores(world, clock, monkeypatch):
    spent = iter(np.cumsum([0, 9, 0, 1, 0, 3]))  # the first has to start
    monkeypatch.setattr(timing, "of_cores", lambda: next(spent))
    assert inference.measure_decoding(plan_of(world)) == 16 / 2


@pytest.mark.parametrize(("field", "twice"), [(0.4, 0.8), (0.7, 1.0)])
def test_random_views_are_measured_in_five_kinds(world, clock, monkeypatch, field, twice):
    drawn = []

    def random_views(key, images, augmentation, size):
        drawn.append((augmentation, images.shape, size))
        return images

    monkeypatch.setattr(augment, "random_views", random_views)
    made = plan_of(world, sizes=["24"], batches=["4"], views__field=field)
    rows = compute.measure_augment(made)
    recipe = augment.Augmentation(field=field, rotate=90.0, zoom=1.2)
    kinds = {
        "upright": augment.Augmentation(field=field),
        "recipe": recipe,
        "recipe, colours": augment.Augmentation(field=field, rotate=90.0, zoom=1.2, colour=0.1),
        "recipe, erasing": augment.Augmentation(field=field, rotate=90.0, zoom=1.2, erase=0.5),
        "recipe, twice the field": augment.Augmentation(field=twice, rotate=90.0, zoom=1.2),
    }
    assert [row["views"] for row in rows] == list(kinds)
    assert drawn == [(kind, (4, 16, 16, 3), 24) for kind in kinds.values()]
    for row in rows:
        assert (row["canvas"], row["pixels"], row["batch"]) == (16, 24, 4)
        assert row["images/s"] == 4 / TICK


def test_devices_reduce_gradients_and_gather_nothing(world):
    rows = compute.measure_scaling(plan_of(world, repeats=1))
    combinations = [(row["devices"], row["accumulate"]) for row in rows]
    assert combinations == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]
    for row in rows:
        assert row["all-gathers"] == 0
        assert (row["all-reduces"] > 0) == (row["devices"] > 1)
    # Accumulated gradients take no more of it.
    assert rows[4]["all-reduces"] <= rows[3]["all-reduces"]


@pytest.mark.parametrize(("batch", "used"), [("4", 8), ("15", 8), ("17", 16)])
def test_what_devices_exchange_is_counted(world, clock, monkeypatch, batch, used):
    monkeypatch.setattr(Compiled, "steps", [])
    monkeypatch.setattr(compute, "Step", Compiled)
    rows = compute.measure_scaling(plan_of(world, batches=[batch]))
    for row, step in zip(rows, Compiled.steps, strict=True):
        assert (row["all-reduces"], row["all-gathers"]) == (2, 1)
        assert row["images/s"] == used / TICK
        assert step.options.run.batch_size == used
        assert step.options.optim.accumulate == row["accumulate"]
        assert step.placement.by_galaxy.num_devices == row["devices"]
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    rows = compute.measure_scaling(plan_of(world))
    assert [row["devices"] for row in rows] == [1, 2, 4, 4]


class Pool:
    """Stands in for a process, in this one."""

    made: ClassVar[list] = []

    def __init__(self, workers, mp_context):
        assert workers == 1
        assert mp_context.get_start_method() == "spawn"
        self.open = True
        self.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()

    def shutdown(self):
        self.open = False

    def submit(self, function, *arguments):
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def test_one_device_plays_eight_in_a_process_of_its_own(monkeypatch):
    updates = {}
    monkeypatch.setenv("XLA_FLAGS", "--theirs")
    monkeypatch.setattr(compute, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax.config, "update", updates.__setitem__)
    monkeypatch.setattr(compute, "scaling", lambda made: [made, os.environ["XLA_FLAGS"]])
    measured, flags = compute.measure_scaling("plan")
    assert measured == "plan"
    assert flags.split() == [
        "--theirs", "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]  # fmt: skip
    assert updates == {"jax_platforms": "cpu"}


# Input, loop, start.


def test_an_endless_iterator_is_read_in_stretches(clock):
    def items(cost):
        while True:
            clock.time += cost
            taken.append(1)
            yield

    taken = []
    # The first is not counted; looks at the clock alone leave time for two in a stretch.
    assert runs.rate_of(items(0.0), 3) == 2 / TICK
    assert len(taken) == 1 + 2 + 4 * 2
    assert runs.rate_of(items(1.0), 3) == pytest.approx(1 / (1.0 + TICK))


def test_the_pipeline_is_measured_on_the_galaxies_and_on_a_pack_of_them(world, clock, monkeypatch):
    read = []

    def training_batches(source, batch_size, seed, *, threads, processes):
        read.append((source, batch_size, threads, processes))
        return iter(lambda: None, 1)

    monkeypatch.setattr(runs.batches, "training_batches", training_batches)
    rows = runs.measure_input(plan_of(world, batches=["8", "1000"]))
    galaxies = len(read[0][0])
    assert 20 < galaxies < 48
    ways = [(1, 0), (2, 0), (4, 0), (2, 2)]
    expected = [
        (kind, 16, size, *way)
        for kind in ("folder", "pack")
        for size in (8, galaxies)
        for way in ways
    ]
    names = ("source", "canvas", "batch", "threads", "processes")
    assert [tuple(row[name] for name in names) for row in rows] == expected
    assert [row[1:] for row in read] == [row[2:] for row in expected]
    for row in rows:
        assert row["images/s"] == row["batch"] * 2 / TICK
    folder, pack = (read[number][0] for number in (0, 8))
    assert type(folder.images) is not type(pack.images)
    np.testing.assert_array_equal(folder.rows, pack.rows)


def test_the_real_pipeline_is_read_and_a_pack_is_not_packed_again(world, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "WAYS", ((2, 0),))
    made = plan_of(world, repeats=1)
    packing.write(tmp_path / "pack", made.load(next(made.combinations())))
    packed = plan_of(world, repeats=1, data__kind="pack", data__root=str(tmp_path / "pack"))
    rows = runs.measure_input(made) + runs.measure_input(packed)
    assert [row["source"] for row in rows] == ["folder", "pack", "pack"]
    assert all(row["images/s"] > 0 for row in rows)


@pytest.mark.parametrize("on_device", [False, True])
def test_the_loop_is_measured_against_its_step(world, clock, monkeypatch, on_device):
    original, seen = runs.devices.on_devices, []

    def on_devices(batches, placement, canvases):
        seen.append(canvases is not None)
        for batch in original(batches, placement, canvases):
            clock.time += 0.5
            seen.append(batch[1]["row"].tolist())
            yield batch

    monkeypatch.setattr(runs.devices, "on_devices", on_devices)
    (row,) = runs.measure_e2e(plan_of(world, repeats=3, data__on_device=on_device))
    held, *rows = seen
    assert held == on_device
    # Four steps take half a second; as many are a stretch, of which the first is not counted.
    assert len(rows) == 4 * (3 + 1)
    assert sorted(rows[0]) != rows[0]  # shuffled
    # Of each step two looks at the clock and the wait, of each stretch one more.
    per_step = 2 * TICK + 0.5 + TICK / 4
    assert row["step images/s"] == RATE
    assert row["loop images/s"] == pytest.approx(8 / per_step)
    assert row["loop / step"] == pytest.approx(TICK / per_step)
    assert row["waited for data"] == pytest.approx((0.5 + TICK) / per_step)
    assert row["source"] == "folder"


class Process:
    """Stands in for gzjax: writes the table of a training, or ends."""

    started: ClassVar[list] = []
    ends_with: int | None = None

    def __init__(self, command, stdout, stderr):
        assert stdout == stderr == subprocess.DEVNULL
        self.command, self.returncode, self.looks = command, None, 0
        self.started.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self.returncode is not None or self.command[-1] == "--help"

    def poll(self):
        self.looks += 1
        if self.ends_with is not None or "--help" in self.command:
            self.returncode = self.ends_with or 1  # as absl's --help does
        elif self.looks == 3:
            workdir = Path(self.command[self.command.index("--workdir") + 1])
            workdir.mkdir()
            (workdir / "train.csv").write_text("step\n")
        return self.returncode

    def terminate(self):
        self.returncode = self.returncode or -15


SKY = types.SimpleNamespace(config=recipes.recipe("sky"))


def test_a_start_is_measured_until_its_first_step(monkeypatch, clock):
    monkeypatch.setattr(Process, "started", [])
    monkeypatch.setattr(runs.subprocess, "Popen", Process)
    rows = runs.measure_start(SKY)
    assert [row["what"] for row in rows] == [
        "--help",
        "first step, nothing compiled yet",
        "first step, compiled before",
    ]
    assert all(row["seconds"] == TICK for row in rows)
    help_, first, second = (process.command for process in Process.started)
    assert help_ == [sys.executable, "-m", "gzjax.main", "--help"]
    assert first[:5] == [*help_[:3], "--config", "test"]
    assert first[-1] == "--config.log.every=1"
    options = [f"--config.{name}={value}" for name, value in configs.flatten(SKY.config)]
    assert [each for each in first[5:-1] if each.startswith("--config.")] == options
    cache, workdir = first.index("--cache") + 1, first.index("--workdir") + 1
    assert first[cache] == second[cache]
    assert first[workdir] != second[workdir]
    assert [process.returncode for process in Process.started] == [1, -15, -15]
    assert Process.started[1].looks == 3


def test_a_start_that_fails_is_said(monkeypatch):
    monkeypatch.setattr(Process, "ends_with", 3)
    monkeypatch.setattr(runs.subprocess, "Popen", Process)
    with pytest.raises(UserError, match=r"gzjax --config test .*: ended with status 3"):
        runs.measure_start(SKY)


# PyTorch.


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_pytorch_is_measured_in_turns_with_us(world, clock, monkeypatch, backend):
    turns, costs = [], {"channels_last": 0.5, "contiguous": 0.25}

    class Player:
        def __init__(self, options, outputs, layout, gpu):
            assert (options.run.batch_size, outputs, gpu) == (8, 8, backend == "gpu")
            self.name = layout

        def __enter__(self):
            return self

        def __exit__(self, *_):
            turns.append(f"{self.name} ends")

        def __call__(self):
            turns.append(self.name)
            clock.time += costs[self.name]

    monkeypatch.setattr(peer, "Player", Player)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rows = peer.measure_peer(plan_of(world))
    layouts = list(costs) if backend == "cpu" else ["channels_last"]
    turn = [name for name in layouts for _ in range(1 + peer.CALLS)]
    assert turns == 2 * turn + [f"{name} ends" for name in reversed(layouts)]
    assert [row["who"] for row in rows] == ["gzjax", *layouts]
    best = layouts[-1]
    for row in rows:
        seconds = costs.get(row["who"], 0.0) + TICK
        assert row["images/s"] == row["slowest"] == row["fastest"] == 8 / seconds
        assert row["gzjax against it"] == seconds / TICK
        assert row[""] == ("PyTorch's best" if row["who"] == best else "")
        assert row["model"] == "nano"


def test_a_player_plays_in_a_process_of_its_own(monkeypatch):
    steps = []

    def torch_step(*match):
        assert match == ("options", 37, "contiguous", False)
        return "PyTorch 3", lambda: steps.append(1)

    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(peer, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(peer, "torch_step", torch_step)
    with peer.Player("options", 37, "contiguous", False) as player:
        assert player.name == "PyTorch 3"
        assert steps == []
        player()
        player()
        assert Pool.made[0].open
    assert steps == [1, 1]
    assert not Pool.made[0].open


def test_a_player_that_fails_says_why(monkeypatch):
    def torch_step(*match):
        raise ModuleNotFoundError("No module\nnamed 'torch'")

    monkeypatch.setattr(Pool, "made", [])
    monkeypatch.setattr(peer, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(peer, "torch_step", torch_step)
    with pytest.raises(peer.Missing, match=r"^ModuleNotFoundError: No module named 'torch'$"):
        peer.Player("options", 37, "contiguous", False)
    assert not Pool.made[0].open


@pytest.mark.parametrize(
    ("layout", "library", "depth"),
    [
        ("channels_last", "geffnet", "drop_connect_rate"),
        ("contiguous", "timm", "drop_path_rate"),
    ],
)
def test_pytorchs_step_is_that_of_the_same_network(world, monkeypatch, layout, library, depth):
    torch = pytest.importorskip("torch")
    asked = []

    def create_model(name, **options):
        asked.append((name, options))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 8))

    for name in ("timm", "geffnet"):
        made = types.SimpleNamespace(create_model=create_model)
        monkeypatch.setitem(sys.modules, name, made if name == library else None)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    models = ["efficientnet-lite0", "efficientnet-b0", "efficientnetv2-b0"]
    for options in plan_of(world, models=models, model__stochastic_depth=0.3).combinations():
        name, step = peer.torch_step(options, 8, layout, False)
        assert name == f"PyTorch {torch.__version__}, {layout}"
        assert peer.torch_step(options, 8, layout, False)[1] is step
        step()
    options = {"num_classes": 8, "drop_rate": 0.2, depth: 0.3}
    assert asked[::2] == [timing.cores()] * 3
    names = ("tf_efficientnet_lite0", "efficientnet_b0", "tf_efficientnetv2_b0")
    assert asked[1::2] == [(name, options) for name in names]


# The command.


def test_figures_are_printed_and_written_subject_by_subject(world, tmp_path, monkeypatch, capsys):
    def missing(made):
        raise peer.Missing("no PyTorch")

    def fails(made):
        assert json.loads(output.read_text())["step"] == rows
        raise UserError("no start")

    rows = [{"model": "tiny", "images/s": 1234.5, "waited": 0.12345, "batch": 8}]
    monkeypatch.setattr(
        bench, "SUBJECTS", {"step": lambda made: rows, "peer": missing, "start": fails}
    )
    output = tmp_path / "bench.json"
    with pytest.raises(UserError, match="no start"):
        bench.run([], flags_of(world, output=str(output)), "toy")
    figures = json.loads(output.read_text())
    assert list(figures) == ["machine", "step"]
    machine = figures["machine"]
    assert machine["devices"] == "8 x cpu"
    assert machine["cores"] == timing.cores() >= 1
    assert (machine["recipe"], machine["repeats"]) == ("toy", 2)
    assert machine["jax"] == jax.__version__
    assert machine["command"].startswith("python -m gzjax.bench ")
    printed = capsys.readouterr().out
    assert "peer: nothing to compare with (no PyTorch)" in printed
    for text in ("step", "tiny", "1,234", "0.123", "images/s", "recipe toy"):
        assert text in printed
    bench.run(["step"], flags_of(world), "toy")
    assert "no PyTorch" not in capsys.readouterr().out


def test_figures_have_three_significant_digits():
    assert [bench.cell(value) for value in (12345.6, 100.0, 99.96, 0.01234, 8, "x")] == [
        "12,346", "100", "100", "0.0123", "8", "x"
    ]  # fmt: skip


def test_many_figures_are_printed_below_each_other():
    few, many = ({str(number): number for number in range(count)} for count in (16, 17))
    assert len(bench.table("", [few, few]).columns) == 16
    shown = bench.table("", [many, many])
    assert [list(column.cells) for column in shown.columns] == [
        [str(number) for number in range(1, 17)]
    ] * 3


def test_help_names_every_subject():
    assert list(bench.SUBJECTS) == [
        line.split()[0] for line in bench.__doc__.splitlines() if line.startswith("    ")
    ]


@pytest.mark.parametrize(
    ("subjects", "given", "expected"),
    [
        (["steps"], {}, "expected some of step, input, .*; found steps"),
        ([], {"output": "no-folder/x.json"}, "--output no-folder/x.json: there is no such folder"),
        ([], {"sizes": ["large", "2"]}, "--sizes: expected whole numbers, found large,2"),
        ([], {"batches": ["1.5"]}, "--batches: expected whole numbers, found 1.5"),
        ([], {"models": ["efficientnet-b99"]}, "--config.model.name: expected one of"),
        ([], {"dtypes": ["float16"]}, "--config.model.dtype: expected one of"),
        ([], {"data__tree": "no-tree"}, "--config.data.tree: "),
        ([], {"loss__class_weights": (1.0,)}, "--config.loss.class_weights: "),
    ],
)
def test_a_mistake_is_said_before_anything_is_measured(
    world, monkeypatch, subjects, given, expected
):
    monkeypatch.setattr(bench, "SUBJECTS", dict.fromkeys(bench.SUBJECTS))
    with pytest.raises(UserError, match=expected):
        bench.run(subjects, flags_of(world, **given), "toy")


def test_a_mistake_is_one_line(monkeypatch, capsys):
    def run(subjects, options, recipe):
        raise UserError(f"found {subjects} of {recipe}")

    monkeypatch.setattr(bench, "run", run)
    monkeypatch.setattr(bench.command_line, "recipe_name", lambda: "toy")
    with pytest.raises(SystemExit) as ended:
        bench.main(["gzjax.bench", "step"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "gzjax: found ['step'] of toy\n"


def test_the_command_measures_what_its_flags_say(tmp_path):
    output = tmp_path / "bench.json"
    arguments = ["augment", "--config", "test", "--sizes=16,24", "--batches=2", "--repeats=1"]
    done = subprocess.run(
        [sys.executable, "-m", "gzjax.bench", *arguments, "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(output.read_text())
    assert figures["machine"]["recipe"] == "test"
    assert [row["pixels"] for row in figures["augment"]] == [16] * 5 + [24] * 5
    assert {row["batch"] for row in figures["augment"]} == {2}
    assert "recipe, erasing" in done.stdout


def test_the_default_tree_is_the_recipes(world):
    assert plan_of(world).tree == trees.load(str(world / "toy.toml"))
