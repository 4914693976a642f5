"""The command line: as processes where signals and several processes matter, else in this one."""

import csv
import functools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import tiny
from PIL import Image

from gzjax import files, main
from gzjax.data import dataset, embeddings
from gzjax.errors import UserError
from gzjax.run import command_line, commands

ROOT = Path(__file__).parent.parent
EPOCHS = "--config.epochs=3"  # 8 steps each


@pytest.fixture(scope="module")
def recipe(world, tmp_path_factory):
    """The tiny world's recipe, as a file."""
    file = tmp_path_factory.mktemp("recipe") / "tiny_world.py"
    made = dict(tiny.config(world).items())
    lines = [f"    config.{group}.update({dict(value)!r})" for group, value in made.items()
             if hasattr(value, "items")]  # fmt: skip
    lines += [f"    config.{name} = {value!r}" for name, value in made.items()
              if not hasattr(value, "items")]  # fmt: skip
    file.write_text(
        "from gzjax.run.config import default\n\n\ndef get_config():\n    config = default()\n"
        + "\n".join(lines)
        + "\n    return config\n"
    )
    return file


def test_the_commands_one_after_another(invoke, world, recipe, tmp_path, monkeypatch):
    """Training, evaluation, prediction, packing, by one or two runs, as people type them."""
    monkeypatch.chdir(tmp_path)
    common = ["--cache", tmp_path / "cache"]
    status, said, wrong = invoke("--config", recipe, "--mode", "show", *common)
    assert (status, wrong) == (0, "")
    assert "optim.learning_rate" in said
    assert not (tmp_path / "runs").exists()
    status, said, wrong = invoke("--config", recipe, *common)
    assert (status, wrong) == (0, "")
    assert "real galaxies" in said
    workdir = tmp_path / "runs" / "tiny_world"  # the recipe's name
    assert said.count("validation RMSE") == 2
    result = json.loads((workdir / "evaluate_test.json").read_text())
    assert f"{result['rmse']:.4f}" in said

    (workdir / "evaluate_test.json").unlink()
    more = ["--views", 1, "--views", 2]
    status, said, wrong = invoke("--mode", "evaluate", "--workdir", workdir, *more, *common)
    assert (status, wrong) == (0, "")
    assert json.loads((workdir / "evaluate_test.json").read_text()) == result
    assert (workdir / "evaluate_test_2_views.json").exists()
    held_out = workdir / "evaluate_validation.json"
    before = json.loads(held_out.read_text())
    held_out.unlink()
    split = ["--split", "validation", "--views", 1]
    status, *_ = invoke("--mode", "evaluate", *split, "--workdir", workdir, *common)
    assert (status, json.loads(held_out.read_text())) == (0, before)

    page = workdir / "report.html"
    assert page.exists()
    page.unlink()
    status, said, wrong = invoke("--mode", "report", "--workdir", workdir, *common)
    assert (status, wrong) == (0, "")
    assert said.splitlines()[-1].endswith(str(page))
    text = page.read_text()
    assert f"gzjax --config {recipe} --cache" in text
    assert f"{result['rmse']:.4f}" in text
    assert "2 views" in text
    status, said, wrong = invoke("--mode", "report", "--workdir", f"{workdir},other", *common)
    assert (status, wrong.count("\n")) == (2, 1)
    assert "--workdir: expected one run to report, found 2" in wrong

    second = ["--config", recipe, "--config.seed=1", "--config.data.crop=0.9"]
    status, *_ = invoke(*second, "--workdir", tmp_path / "other", *common)
    assert status == 0
    both = ["--workdir", f"{workdir},{tmp_path / 'other'}", *common]
    status, said, wrong = invoke("--mode", "evaluate", "--mixture", "fitted", *both)
    assert (status, wrong) == (0, "")
    assert "alone: RMSE" in said
    (mixed,) = (json.loads(file.read_text()) for file in workdir.glob("evaluate_*_networks_*.json"))
    assert sum(mixed["mixture"]) == pytest.approx(1, abs=1e-3)
    assert mixed["mixture"] != [0.5, 0.5]

    tables = []
    fitted = ("--mixture", "fitted", "--columns", "both")
    for name, options in (("even", ()), ("fitted", fitted)):
        status, said, wrong = invoke(
            "--mode", "predict", "--images", world / "images", "--output", f"{name}.csv",
            "--readable", "--views", 2, "--range", 10, *options, *both,
        )  # fmt: skip
        assert (status, wrong) == (0, "")
        assert f"{tiny.GALAXIES} images, 2 views each" in said
        tables.append(pd.read_csv(f"{name}.csv", keep_default_na=False))
        assert "morphology" in tables[-1].columns
    assert (tables[0]["shape_round"] != tables[1]["shape_round"]).any()
    assert "shape_round_fraction" not in tables[0]
    assert "shape_round_fraction" in tables[1]
    for option in (("--volunteers", 5), ("--campaigns", "dr5"), ("--part", "3/2")):
        status, said, wrong = invoke(
            "--mode", "predict", "--images", world / "images", "--output", "no.csv", *option, *both
        )
        assert (status, wrong.count("\n")) == (2, 1)
        assert option[0].strip("-") in wrong
    status, said, wrong = invoke(
        "--mode", "predict", "--images", world / "images", "--output", "even.csv", *both
    )
    assert status == 2
    assert "even.csv is already there" in wrong

    # Of five parts the second of two processes has two.
    share = ["--views", 1, "--range", 10, "--part", "2/2", "--workdir", workdir, *common]
    shared = ["--mode", "predict", "--images", world / "images", "--output", "shared", *share]
    status, said, wrong = invoke(*shared, "--config.data.crop=0.5")
    assert (status, wrong.count("\n")) == (2, 1)
    assert "data.crop was 1.0, now 0.5" in wrong
    status, said, wrong = invoke(*shared, "--config.evaluate.batch_size=16")
    assert (status, wrong) == (0, "")
    assert len(list(Path("shared").glob("*.parquet"))) == 2

    one = ["--workdir", workdir, *common]
    status, said, wrong = invoke(
        *("--mode", "embed", "--images", world / "images", "--output", "e.parquet", "--views", 2),
        *one,
    )
    assert (status, wrong) == (0, "")
    assert f"{tiny.GALAXIES} images, 2 views each" in said
    assert embeddings.read_about(Path("e.parquet"))["views"] == 2
    assert f"e.parquet: {tiny.GALAXIES} galaxies" in said
    compare = ["--embeddings", "e.parquet", "--k", 3]
    monkeypatch.setenv("HOME", str(world))
    for name, query in (("id", 1007), ("file", "~/images/1007.png")):
        status, said, wrong = invoke(
            "--mode", "similar", "--query", query, "--output", f"{name}.csv", *compare, *one
        )
        assert (status, wrong) == (0, "")
        found = pd.read_csv(f"{name}.csv", dtype={"GalaxyID": str})
        assert found["GalaxyID"][0] == "1007"
        assert len(found) == 3
    status, said, wrong = invoke("--mode", "anomalies", "--output", "a.parquet", *compare, *common)
    assert (status, wrong) == (0, "")
    assert len(pd.read_parquet("a.parquet")) == tiny.GALAXIES
    explore = ["--mode", "explore", "--predictions", "fitted.csv", "--output", "x.html"]
    pictures = ["--embeddings", "e.parquet", "--images", world / "images"]
    status, said, wrong = invoke(*explore, *pictures, "--galaxies", 40, "--workdir", workdir)
    assert (status, wrong) == (0, "")
    assert said.splitlines() == [
        f"{tiny.GALAXIES} galaxies, tree toy; 40 of them drawn at random",
        "drawing pictures: 40",
        "to explore the predictions: x.html",
    ]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "umap", None)
        status, said, wrong = invoke(*explore[:-1], "u.html", *pictures, "--map", "umap")
    assert (status, wrong.count("\n")) == (2, 1)
    assert "umap" in wrong
    explore[-1] = "y.html"
    tree = f"--config.data.tree={world / 'toy.toml'}"
    status, said, wrong = invoke("--config", recipe, *explore, tree)
    assert (status, wrong) == (0, "")
    explore[-1] = "z.html"
    status, said, wrong = invoke(*explore)
    assert (status, wrong.count("\n")) == (2, 1)
    assert "expected the answers of a tree" in wrong
    assert not Path("z.html").exists()
    status, said, wrong = invoke(
        "--mode", "embed", "--images", world / "images", "--output", "f.parquet", *both
    )
    assert (status, wrong.count("\n")) == (2, 1)
    assert "--workdir: expected one run to embed with, found 2" in wrong

    status, said, wrong = invoke("--mode", "pack", "--config", recipe, "--pack", "pack", *common)
    assert (status, wrong) == (0, "")
    packed = ["--config.data.kind=pack", "--config.data.root=pack"]
    status, said, wrong = invoke(
        "--mode", "evaluate", "--workdir", workdir, *packed, "--views", 1, *common
    )
    assert (status, wrong) == (0, "")
    assert json.loads((workdir / "evaluate_test.json").read_text()) == result


def test_check_images_decodes_every_image(invoke, world, recipe, tmp_path, monkeypatch):
    from gzjax.data import catalogue

    asked = []

    def check_image(file, decode=False, fits=None):
        asked.append(decode)
        return ""

    monkeypatch.setattr(catalogue, "check_image", check_image)
    common = ["--config", recipe, "--workdir", tmp_path / "run", "--cache", tmp_path]
    for options, expected in (((), False), (("--check_images",), True)):
        asked.clear()
        invoke(*common, "--config.batch_size=800", *options)
        assert asked == [expected] * tiny.GALAXIES


def test_images_to_explore_are_cut_where_someone_says_so(invoke, tmp_path, monkeypatch):
    from gzjax.run import explore

    crops = []
    monkeypatch.setattr(explore, "write", lambda *_, framing, **__: crops.append(framing.crop))
    for options in ([], ["--config.data.crop=0.7"], ["--config", "sky"]):
        status, _, wrong = invoke(
            *("--mode", "explore", "--predictions", "p.csv", "--output", "x.html", *options),
            *("--cache", tmp_path),
        )
        assert (status, wrong) == (0, "")
    assert crops == [1.0, 0.7, 0.5]


PREDICT = ["--mode", "predict", "--images", "x", "--workdir", "w"]
MISTAKES = [
    (["--config.optim.learning_rte=1"], "--config: no option 'optim.learning_rte'; did you mean"),
    (["--config.modle.name=x"], "--config: no option 'modle.name'; did you mean 'model.name'?"),
    (["--config.xyzzy=1"], "--config: no option 'xyzzy'"),
    (["--config.model.name=efficientnet-b00"], "did you mean 'efficientnet-b0'"),
    (["--config.loss.weighting=dinamic"], "did you mean 'dynamic'"),
    (["--config.epochs=0"], "--config.epochs: expected a whole number at least 1, found 0"),
    (["--config.epochs=many"], "--config.epochs=many"),
    (["--config.data.kind=folder"], "--config.data.root: expected the folder"),
    (["--config.data.kind=folder", "--config.data.root=/nowhere"], "/nowhere: no such folder"),
    (["--config.data.kind=pack", "--config.data.root=/nowhere"], "--config.data.root: /nowhere"),
    (["--config.batch_size=1000"], "--config.batch_size: "),
    (["--config.data.tree=gz3"], "--config.data.tree: expected the path of a .toml file or one of"),
    (["--config.loss.class_weights=(1.0,)"], "--config.loss.class_weights: expected"),
    (["--config.optim.accumulate=99999"], "--config.optim.accumulate: expected"),
    (["--mode", "evaluate"], "no checkpoints there"),
    (["--mode", "predict"], "--mode predict needs --images"),
    ([*PREDICT[:-1], "", "--output", "p.csv"], "--mode predict needs --workdir"),
    ([*PREDICT, "--output", "p.jpg"], "ends with .csv"),
    ([*PREDICT, "--output", "p.csv"], "no checkpoints there"),
    (
        [*PREDICT, "--output", "p.csv", "--views", "1", "--views", "2"],
        "--views: expected one number to predict with, found 2",
    ),
    (
        ["--mode", "embed", "--images", "x", "--output", "e.csv", "--workdir", "w"],
        "name that ends with .parquet",
    ),
    (
        ["--images", "new"],
        "--images: expected --mode predict or embed or explore, found --mode trai",
    ),
    (["--mode", "evaluate", "--output", "s.csv"], "--output: expected --mode predict or embed or "),
    (
        ["--mode", "embed", "--noreadable"],
        "--readable: expected --mode predict, found --mode embed",
    ),
    (
        ["--mode", "anomalies", "--workdir", "w"],
        "--workdir: expected --mode train or show or evaluate or report or predict or embed or "
        "similar or explore or export, found --mode anomalies",
    ),
    (
        [*PREDICT, "--check_images"],
        "--check_images: expected --mode train or show or evaluate or report or pack, found --mode",
    ),
    (
        [*PREDICT, "--output", "p.csv", "--worker_cores", "2"],
        "--worker_cores: expected --engine ray, found none",
    ),
    (
        [*PREDICT, "--output", "p.csv", "--part", "1/2", "--distributed"],
        "--part: expected no --distributed, whose ",
    ),
    (
        [*PREDICT, "--output", "p.csv", "--mixture", "fitted"],
        "--mixture: expected several runs in --workdir",
    ),
    (["--mode", "similar", "--output", "s.csv"], "--mode similar needs --query"),
    (
        ["--mode", "anomalies", "--embeddings", "e.parquet", "--output", "a.csv"],
        "e.parquet: no such file; expected what --mode embed wrote",
    ),
    (["--profile", "5"], "--profile: expected something like 10:15, found 5"),
    (["--config.log.trackers=('paper',)"], "--config.log.trackers: expected some of tensorboard"),
    (["--mode", "explore", "--output", "x.html"], "needs --predictions"),
    (
        ["--mode", "explore", "--output", "x.html", "--predictions", "no.csv"],
        "checkpoints: no checkpoints there",
    ),
    (["--config.fits.low=-1"], "--config.fits.low: expected a percentile from 0 to 100, found -1"),
    (["--config.model.weights=imagenet"], "--config.model.weights: "),
    (["--config.model.weights=configs"], "--config.model.weights: configs/checkpoints: no check"),
    (["--config.loss.activation=sigmoid", "--config.loss.targets=conditional"], "--config.loss."),
    (["--config.loss.activation=sigmoid"], "--config.loss."),
    (["--mode", "pack"], "--mode pack needs --pack"),
    (["--mode", "paint"], "mode"),
    (["--moed", "train"], "Unknown command line flag 'moed'"),
    (["--config", "configs/missing.py"], "configs/missing.py: no such recipe"),
    (["--config=tset"], "tset: no such recipe; expected one of"),
    (["more"], "expected flags alone, found more"),
    (["--views", "0"], "--views=0"),
    (["--distributed"], "--distributed: expected a process that SLURM"),
]


def test_a_process_alone_is_ended_by_sigterm_as_before(monkeypatch):
    """jax.distributed catches it, for several processes to agree when to stop."""
    before = signal.getsignal(signal.SIGTERM)
    caught = functools.partial(signal.signal, signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", caught)
    try:
        main.start_distributed()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_several_processes_each_is_ended_by_sigterm_once_it_works_by_itself(monkeypatch):
    before, left = signal.getsignal(signal.SIGTERM), []
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: left.append(True))
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        commands.leave_others()  # there are none
        assert not left
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        commands.leave_others()
        assert left
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_every_mode_has_a_command():
    assert (*commands.COMMANDS,) == (*main.MODES,)
    for name, modes in main.ONLY.items():
        assert {mode for mode, needed in main.MODES.items() if name in needed} <= {*modes}
        assert {*modes} <= {*main.MODES}


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=lambda value: value[0][:40])
def test_a_mistake_is_said_in_one_line(invoke, tmp_path, arguments, expected, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(dataset, "from_sky", _no_sky(dataset.from_sky))
    recipe = [] if any(a.startswith("--config=") or a == "--config" for a in arguments) else [
        "--config", "test"]  # fmt: skip
    workdir = tmp_path / "none"
    if not {"anomalies", "pack"} & {*arguments}:  # which have none
        recipe += ["--workdir", workdir]
    status, _, said = invoke(*recipe, "--cache", tmp_path, *arguments)
    assert status == 2
    assert expected in said
    assert said.startswith("gzjax: ")
    assert said.count("\n") == 1
    assert not workdir.exists()


def _no_sky(from_sky):
    """The sky's galaxies without their pictures, whose drawing takes seconds."""

    def undrawn(galaxies, *, tree, framing, split, **_):
        from gzjax.data import dataset

        ids = tuple(map(str, range(galaxies)))
        images = np.zeros((galaxies, framing.canvas, framing.canvas, 3), np.uint8)
        fractions = np.full((galaxies, tree.size), 0.5, np.float32)
        splits = dataset._split(ids, split, "the sky")
        left_out = pd.DataFrame(columns=["GalaxyID", "file", "reason"])
        return dataset.Data(ids, images, fractions, splits, left_out, "sky", tree, framing)

    return undrawn


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing that was finished is lost"),
        (
            OSError(28, "No space left"),
            2,
            "writing: No space left; free some space, and give the same command again",
        ),
        (OSError(13, "Permission denied", "x.csv"), 2, "x.csv: Permission denied"),
    ],
)
def test_what_is_nobodys_fault_is_said_in_one_line(invoke, monkeypatch, raised, code, expected):
    def run():
        raise raised

    monkeypatch.setattr(main, "run", run)
    assert invoke() == (code, "", f"gzjax: {expected}\n")


def test_tracebacks_that_orbax_logs_are_not_shown(invoke, monkeypatch, caplog):
    def train(*_, **__):
        logging.getLogger("absl").error("Traceback of a thread")
        raise UserError("runs/x: a checkpoint cannot be written")

    monkeypatch.setattr("gzjax.run.train.train", train)
    status, _, said = invoke("--config", "test")
    assert (status, said) == (2, "gzjax: runs/x: a checkpoint cannot be written\n")
    assert "Traceback" not in caplog.text


def test_reads_that_nobody_waits_for_are_not_reported(monkeypatch):
    class Dropped:
        def __init__(self, why):
            self.why = why

        def __del__(self):
            raise RuntimeError(self.why)

    class Forever:
        def __await__(self):
            yield

    async def read():
        try:
            await Forever()
        finally:
            raise RuntimeError("an array cannot be read")

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: reported.append(str(each.exc_value)))
    with warnings.catch_warnings():
        main.quiet_abandoned_work()
        Dropped("Event loop is closed")
        Dropped("something else")
        read().send(None)  # and dropped
        warnings.warn("coroutine 'write' was never awaited", RuntimeWarning, stacklevel=1)
    assert reported == ["something else"]


def test_our_own_faults_are_not_hidden(invoke, monkeypatch):
    def run():
        raise OSError("no file, no number")

    monkeypatch.setattr(main, "run", run)
    with pytest.raises(OSError, match="no file, no number"):
        invoke()


def test_paths_may_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command_line.path("~/runs/x") == tmp_path / "runs" / "x"

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert files.cache_folder() == tmp_path / ".cache" / "gzjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.cache_folder() == Path("/cache/gzjax")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert files.cache_folder().name == "gzjax"


def test_the_installed_command_says_its_flags():
    """Absl's own help would look for them in the script that setuptools makes."""
    code = "import sys; sys.argv = ['gzjax', '--help']; from gzjax.main import entry; entry()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    for needed in ("--mode show", "--config:", "--workdir:", "--[no]check_images:"):
        assert needed in said


# What follows starts the program as a process.


def environment() -> dict[str, str]:
    """One device, as most people have, and a compiler that hurries: the runs are short."""
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def command(cache: Path, *arguments: object) -> list[str]:
    return [
        *(sys.executable, "-m", "gzjax.main", "--config", "test", "--cache", str(cache)),
        *map(str, arguments),
    ]


def run(cache: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(cache, *arguments),
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def final_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by name."""
    folder = workdir / "checkpoints"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    arrays = {}
    for item in ("weights", "training"):
        state = ocp.StandardCheckpointer().restore((folder / str(step) / item).absolute())
        for path, leaf in jax.tree.leaves_with_path(state):
            is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
            raw = jax.random.key_data(leaf) if is_key else leaf
            arrays[item + jax.tree_util.keystr(path)] = np.asarray(raw)
    return arrays


def assert_identical(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 50
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """A run that nothing disturbed: (workdir, the process)."""
    workdir = tmp_path_factory.mktemp("finished")
    done = run(
        cache, "--workdir", workdir, EPOCHS, JAX_LOG_COMPILES="1", JAX_LOGGING_LEVEL="WARNING"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


def test_a_run_of_the_synthetic_sky_says_so(finished):
    workdir, done = finished
    assert "synthetic sky" in done.stdout
    assert done.stdout.count("validation RMSE") == 3
    assert "epoch 3/3, step 24 of 24" in done.stdout
    for split in ("validation", "test"):
        result = json.loads((workdir / f"evaluate_{split}.json").read_text())
        assert result["data"] == "synthetic sky"
        assert len(result["rmse_per_question"]) == 11
        assert f"{result['rmse']:.4f}" in done.stdout
    train = pd.read_csv(workdir / "train.csv")
    weights = train[["weight_mse", "weight_focal", "weight_kl"]].sum(axis=1)
    np.testing.assert_allclose(weights, 1, rtol=1e-5)
    assert train["mse"].iloc[-3:].mean() < 0.9 * train["mse"].iloc[:3].mean()


def test_each_step_is_compiled_once_in_a_run(finished):
    compiled = re.findall(r"^WARNING.* Compiling jit\((\w+)\)", finished[1].stderr, re.M)
    assert compiled.count("train_step") == 1
    assert compiled.count("predict_step") == 1


def interrupt(cache: Path, workdir: Path, number: int, *arguments: str) -> tuple[int, str]:
    """Starts a run and signals it as soon as its first checkpoint is there."""
    with subprocess.Popen(
        command(cache, "--workdir", workdir, EPOCHS, *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 240
        while not (workdir / "checkpoints" / "5").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # To its workers, too, as a terminal's Ctrl-C and SLURM do.
        os.killpg(process.pid, number)
        printed = process.stdout.read()
    assert not (workdir / "evaluate_test.json").exists(), "finished before it was interrupted"
    return process.returncode, printed


def test_a_killed_run_resumes_bit_identically(cache, finished, tmp_path):
    code, _ = interrupt(cache, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    done = run(cache, "--workdir", tmp_path, EPOCHS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming from step" in done.stdout
    assert_identical(final_state(tmp_path), final_state(finished[0]))
    with (tmp_path / "train.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))


def test_ctrl_c_saves_ends_cleanly_and_resumes_bit_identically(cache, finished, tmp_path):
    """With worker processes, which the signal reaches, too."""
    workers = "--config.data.processes=1"
    code, printed = interrupt(cache, tmp_path, signal.SIGINT, workers)
    assert code == 0, printed
    stopped = int(printed.split("stopped as asked after step ")[1].split()[0])
    done = run(cache, "--workdir", tmp_path, EPOCHS, workers)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"resuming from step {stopped} of 24" in done.stdout
    assert_identical(final_state(tmp_path), final_state(finished[0]))


def start_two(cache, *arguments):
    """Two processes as SLURM starts them."""
    address = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    return [
        subprocess.Popen(
            command(cache, "--distributed", *arguments),
            cwd=ROOT,
            env=environment()
            | address
            | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
            | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def test_two_processes_are_one_run(cache, tmp_path):
    """Each reads half of every batch, and the first one writes."""
    processes = start_two(cache, "--workdir", tmp_path, "--config.epochs=1")
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "2 cpu devices" in printed[0]
    assert "test, step 8: 14 galaxies" in printed[0]
    assert "RMSE" not in printed[1]
    states = list((tmp_path / "checkpoints" / "8" / "batches").glob("process_*-of-2.json"))
    assert len(states) == 2
    refused = run(cache, "--workdir", tmp_path, "--config.epochs=2")
    assert refused.returncode == 2
    assert refused.stderr.endswith("resume it with as many processes as before\n")
    assert "holds a run of 2 processes, this one has 1" in refused.stderr


@pytest.fixture(scope="module")
def predicted(cache, finished, tmp_path_factory):
    """(arguments, output) of a prediction of 62 images, two of them unreadable."""
    pictures = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(60):
        side = int(generator.integers(20, 60))
        colours = Image.fromarray(generator.integers(0, 255, (side, side + 7, 3), np.uint8))
        mode = ("RGB", "L", "RGBA", "P", "LA", "1")[number % 6]
        colours.convert(mode).save(pictures / f"{number}.png")
    (pictures / "60.png").write_bytes((pictures / "0.png").read_bytes()[:200])
    (pictures / "61.jpg").write_text("no image")
    arguments = ["--mode", "predict", "--workdir", finished[0], "--images", pictures]
    arguments += ["--views", "8", "--config.evaluate.batch_size=2", "--range", "4"]
    whole = tmp_path_factory.mktemp("predicted") / "whole.csv"
    done = run(cache, *arguments, "--output", whole)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "images/s" in done.stdout
    assert len(pd.read_csv(whole)) == 60
    return arguments, whole


def test_a_killed_prediction_resumes_and_ends_the_same(cache, predicted, tmp_path):
    (arguments, whole), broken = predicted, tmp_path / "broken.csv"
    parts = tmp_path / "broken.csv.parts"
    with subprocess.Popen(
        command(cache, *arguments, "--output", broken), cwd=ROOT, env=environment()
    ) as process:
        deadline = time.monotonic() + 240
        while len(list(parts.glob("*.parquet"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert not broken.exists(), "finished before it was killed"
    done = run(cache, *arguments, "--output", broken)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resuming after" in done.stdout
    assert broken.read_text() == whole.read_text()
    unreadable = pd.read_csv(tmp_path / "broken.csv.unreadable.csv")
    assert unreadable["GalaxyID"].tolist() == [60, 61]
    assert unreadable["fault"].str.len().min() > 5


def test_processes_that_predict_together_write_the_same_table(cache, predicted, tmp_path):
    arguments, whole = predicted
    processes = start_two(cache, *arguments, "--output", tmp_path / "both.csv")
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "predicting images: 32" in printed[0]
    assert (tmp_path / "both.csv").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "both.csv.parts").exists()
    unreadable = "both.csv.unreadable.csv", f"{whole}.unreadable.csv"
    assert (tmp_path / unreadable[0]).read_bytes() == Path(unreadable[1]).read_bytes()


def workers_of(process):
    """Ids of the workers that are predicting, among all that a process started."""
    parents, titles = {}, {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parents[int(pid)] = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{pid}/cmdline") as file:
                titles[int(pid)] = file.read()
        except OSError:
            continue
    found = []
    for pid, title in titles.items():
        above = pid
        while above in parents and above != process.pid:
            above = parents[above]
        if above == process.pid and title.startswith("ray::Worker.see"):
            found.append(pid)
    return found


def test_a_prediction_by_workers_one_of_which_is_killed_is_the_same(cache, predicted, tmp_path):
    pytest.importorskip("ray")
    (arguments, whole), output = predicted, tmp_path / "ray.csv"
    engine = ["--engine", "ray", "--worker_cores", "1", "--output", output]
    parts = tmp_path / "ray.csv.parts"
    with subprocess.Popen(
        command(cache, *arguments, *engine), cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        deadline, workers, done = time.monotonic() + 240, [], {}
        while not workers or len(done) < 2:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            done = {file: file.stat().st_mtime_ns for file in parts.glob("*.parquet")}
            workers = workers_of(process)
        os.kill(workers[0], signal.SIGKILL)
        while not output.exists() and process.poll() is None:
            for file, written in done.items():  # nothing finished is written again
                if file.exists():
                    assert file.stat().st_mtime_ns == written
            time.sleep(0.05)
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert "a worker of Ray is lost; another one takes over" in printed
    assert output.read_bytes() == whole.read_bytes()
    unreadable = pd.read_csv(tmp_path / "ray.csv.unreadable.csv")
    assert unreadable["GalaxyID"].tolist() == [60, 61]


def test_embeddings_and_a_pack_by_workers_are_those_of_one_process(cache, predicted, tmp_path):
    pytest.importorskip("ray")
    arguments = predicted[0][2:6]
    tasks = {
        "e.parquet": ["--mode", "embed", *arguments, "--range", "20", "--output"],
        "pack": ["--mode", "pack", "--config", ROOT / "configs" / "test.py", "--pack"],
    }
    for name, task in tasks.items():
        for folder, engine in (("one", []), ("ray", ["--engine", "ray", "--worker_cores", "1"])):
            (tmp_path / folder).mkdir(exist_ok=True)
            done = run(cache, *task, tmp_path / folder / name, *engine)
            assert done.returncode == 0, done.stderr[-3000:]
            assert ("workers of Ray: " in done.stdout) == (folder == "ray")
    for file in filter(Path.is_file, (tmp_path / "one").rglob("*")):
        other = tmp_path / "ray" / file.relative_to(tmp_path / "one")
        assert other.read_bytes() == file.read_bytes(), file.name
