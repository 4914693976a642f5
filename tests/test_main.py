"""The program as people start it: `python -m gzjax.main`, each time as a process of its own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
from PIL import Image

from gzjax import metrics
from gzjax.data import catalog
from gzjax.tree import GALAXY_ZOO_2, violations

ROOT = Path(__file__).parent.parent
EPOCHS = "--config.epochs=4"  # 8 steps each


def environment() -> dict[str, str]:
    """One device, as most people have, and a compiler that hurries: the runs are short."""
    return os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def command(cache: Path, *arguments: object) -> list[str]:
    return [
        *(sys.executable, "-m", "gzjax.main", "--config", "configs/test.py", "--cache", str(cache)),
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
    state = ocp.StandardCheckpointer().restore((folder / str(step) / "state").absolute())
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(_raw(leaf)) for path, leaf in leaves}


def _raw(leaf):
    is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def assert_identical(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 50
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def undisturbed(cache, tmp_path_factory):
    """A run that nothing disturbed: (workdir, the process)."""
    workdir = tmp_path_factory.mktemp("finished")
    done = run(
        cache, "--workdir", workdir, EPOCHS, JAX_LOG_COMPILES="1", JAX_LOGGING_LEVEL="WARNING"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir, done


@pytest.fixture(scope="module")
def finished(undisturbed):
    """The same: (workdir, what it printed)."""
    workdir, done = undisturbed
    return workdir, done.stdout


def test_a_run_says_what_it_does_and_writes_what_it_measured(finished):
    workdir, printed = finished
    assert "synthetic sky" in printed
    assert printed.count("validation RMSE") == 4
    assert "epoch 4/4, step 32 of 32" in printed
    for split in ("validation", "test"):
        result = json.loads((workdir / f"evaluate_{split}.json").read_text())
        assert result["split"] == split
        assert result["data"] == "synthetic sky"
        assert result["views"] == 1
        assert 0 < result["rmse"] < 1
        assert 0 < result["baseline_rmse"] < 0.5
        assert 0 <= result["q1_accuracy"] <= 1
        assert result["galaxies"] > 5
        assert result["step"] in (8, 16, 24, 32)
        assert len(result["rmse_per_question"]) == 11
        assert f"{result['rmse']:.4f}" in printed
    train = pd.read_csv(workdir / "train.csv")
    assert train["step"].tolist() == sorted(train["step"])
    assert train["step"].iloc[-1] == 32
    weights = train[["weight_mse", "weight_focal", "weight_kl"]].sum(axis=1)
    np.testing.assert_allclose(weights, 1, rtol=1e-5)
    assert pd.read_csv(workdir / "validation.csv")["step"].tolist() == [8, 16, 24, 32]
    assert list((workdir / "tensorboard").glob("events*"))


def test_each_step_is_compiled_once_in_a_run(undisturbed):
    compiled = re.findall(r"^WARNING.* Compiling jit\((\w+)\)", undisturbed[1].stderr, re.M)
    assert compiled.count("train_step") == 1
    assert compiled.count("predict_step") == 1


def test_training_learns(finished):
    train = pd.read_csv(finished[0] / "train.csv")
    assert train["mse"].iloc[-3:].mean() < 0.9 * train["mse"].iloc[:3].mean()


def test_the_newest_and_the_best_checkpoint_are_kept(finished):
    workdir, _ = finished
    validation = pd.read_csv(workdir / "validation.csv").set_index("step")["rmse"]
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {30, 32, int(validation.idxmin())}


def interrupt(cache: Path, workdir: Path, number: int) -> tuple[int, str]:
    """Starts a run and signals it as soon as its first checkpoint is there."""
    with subprocess.Popen(
        command(cache, "--workdir", workdir, EPOCHS),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 240
        while not (workdir / "checkpoints" / "5").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        printed = process.stdout.read()
    assert not (workdir / "evaluate_test.json").exists(), "finished before it was interrupted"
    return process.returncode, printed


def test_a_killed_run_goes_on_bit_identically(cache, finished, tmp_path):
    code, _ = interrupt(cache, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    done = run(cache, "--workdir", tmp_path, EPOCHS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on from step" in done.stdout
    assert_identical(final_state(tmp_path), final_state(finished[0]))
    with (tmp_path / "train.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))


def test_sigterm_saves_ends_cleanly_and_goes_on_bit_identically(cache, finished, tmp_path):
    code, printed = interrupt(cache, tmp_path, signal.SIGTERM)
    assert code == 0, printed
    assert "stopped as asked after step" in printed
    stopped = int(printed.split("stopped as asked after step ")[1].split()[0])
    done = run(cache, "--workdir", tmp_path, EPOCHS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"going on from step {stopped} of 32" in done.stdout
    assert_identical(final_state(tmp_path), final_state(finished[0]))


def test_evaluate_repeats_the_numbers_and_a_finished_run_stays_finished(cache, finished):
    workdir, _ = finished
    before = json.loads((workdir / "evaluate_test.json").read_text())
    (workdir / "evaluate_test.json").unlink()
    done = run(cache, "--mode", "evaluate", "--workdir", workdir)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((workdir / "evaluate_test.json").read_text()) == before
    again = run(cache, "--workdir", workdir, EPOCHS)
    assert again.returncode == 0
    assert "going on from step 32 of 32" in again.stdout
    assert json.loads((workdir / "evaluate_test.json").read_text()) == before


def test_another_model_or_split_is_refused_and_more_epochs_are_not(cache, finished, tmp_path):
    workdir, _ = finished
    refused = run(
        cache, "--workdir", workdir, EPOCHS,
        "--config.model.name=efficientnet-b0", "--config.data.split_seed=7", "--config.log.every=1",
    )  # fmt: skip
    assert refused.returncode == 2
    assert "model.name was 'efficientnet-tiny', now 'efficientnet-b0'" in refused.stderr
    assert "data.split_seed was 0, now 7" in refused.stderr
    assert "log.every" not in refused.stderr
    assert "Traceback" not in refused.stderr
    more = run(cache, "--workdir", workdir, "--config.epochs=5")
    assert more.returncode == 0, more.stderr[-3000:]
    assert "step 40 of 40" in more.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.optim.learning_rte=1"], "learning_rate"),
        (["--config.model.name=efficientnet-b00"], "did you mean 'efficientnet-b0'"),
        (["--config.loss.weighting=dinamic"], "did you mean 'dynamic'"),
        (["--config.epochs=0"], "--config.epochs: expected 1 or more, found 0"),
        (["--config.epochs=many"], "many"),
        (["--config.data.kind=folder"], "--config.data.root: expected the folder"),
        (["--config.data.kind=folder", "--config.data.root=/nowhere"], "/nowhere: no such folder"),
        (["--config.batch_size=1000"], "batch_size is 1000, but there are only"),
        (["--mode", "evaluate"], "no checkpoints there"),
        (["--mode", "predict"], "--mode predict: expected --images, too"),
        (["--mode", "predict", "--images", "configs", "--output", "p.jpg"], "ends with .csv"),
        (["--mode", "predict", "--images", "configs", "--output", "p.csv"], "no image in this"),
        (["--config.model.weights=imagenet"], "no public weights for efficientnet-tiny"),
        (["--config.model.weights=configs"], "configs: no checkpoints of a run there"),
        (["--config.loss.activation=sigmoid", "--config.loss.targets=conditional"], "sigmoid"),
        (["--mode", "pack"], "--pack: expected the folder"),
        (["--config", "configs/missing.py"], "configs/missing.py"),
    ],
)
def test_a_mistake_is_told_in_one_line(cache, tmp_path, arguments, expected):
    done = run(cache, "--workdir", tmp_path / "none", *arguments)
    assert done.returncode not in (0, -signal.SIGSEGV)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--config.modle.name=x", "no option 'modle'; did you mean 'model'?"),
        ("--config.model.nme=x", "no option 'nme'; did you mean 'name'?"),
        ("--config.xyzzy=1", "no option 'xyzzy'"),
    ],
)
@pytest.mark.parametrize("program", ["gzjax.main", "gzjax.bench"])
def test_a_misspelt_option_of_the_default_recipe_is_told_in_one_line(program, option, expected):
    done = subprocess.run(
        [sys.executable, "-m", program, option],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"gzjax: --config: {expected}\n"


def test_two_processes_are_one_run(cache, tmp_path):
    """As SLURM starts them; each reads half of every batch, and the first one writes."""
    address = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
    processes = [
        subprocess.Popen(
            command(cache, "--distributed", "--workdir", tmp_path, "--config.epochs=1"),
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
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert "2 cpu devices" in printed[0]
    assert "test, step 8: 14 galaxies" in printed[0]
    assert "RMSE" not in printed[1]
    states = list((tmp_path / "checkpoints" / "8" / "batches").glob("process_*-of-2.json"))
    assert len(states) == 2
    refused = run(cache, "--workdir", tmp_path, "--config.epochs=2")
    assert refused.returncode == 2
    assert "holds a run of 2 processes, this one has 1" in refused.stderr


@pytest.mark.parametrize(
    ("raised", "code", "expected"),
    [
        ("KeyboardInterrupt()", 130, "interrupted; the same command goes on where it was"),
        ("OSError(errno.ENOSPC, 'No space left')", 2, "writing: No space left"),
        ("OSError(errno.EACCES, 'Permission denied', 'x.csv')", 2, "x.csv: Permission denied"),
    ],
)
def test_what_is_nobodys_fault_is_told_in_one_line(raised, code, expected):
    program = (
        "import errno, unittest.mock; from gzjax import main\n"
        f"main.run = unittest.mock.Mock(side_effect={raised})\n"
        "main.main(['gzjax'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stderr == f"gzjax: {expected}\n"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images of many sizes and modes, two of them unreadable, and one of none."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(60):
        side = int(generator.integers(20, 60))
        colours = Image.fromarray(generator.integers(0, 255, (side, side + 7, 3), np.uint8))
        mode = ("RGB", "L", "RGBA", "P", "LA", "1")[number % 6]
        colours.convert(mode).save(folder / f"{number}.png")
    (folder / "60.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "61.jpg").write_text("no image")
    return folder


def test_an_interrupted_prediction_goes_on_and_ends_the_same(cache, finished, pictures, tmp_path):
    arguments = ["--mode", "predict", "--workdir", finished[0], "--images", pictures]
    arguments += ["--views", "4", "--config.evaluate.batch_size=2"]
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    done = run(cache, *arguments, "--output", whole)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "images/s" in done.stdout
    partial = tmp_path / "broken.csv.partial"
    with subprocess.Popen(
        command(cache, *arguments, "--output", broken), cwd=ROOT, env=environment()
    ) as process:
        deadline = time.monotonic() + 240
        while not partial.exists() or partial.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
    assert not broken.exists(), "finished before it was killed"
    refused = run(cache, *arguments, "--output", broken, "--views", "2")
    assert refused.returncode == 2
    done = run(cache, *arguments, "--output", broken)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on after" in done.stdout
    assert broken.read_text() == whole.read_text()
    assert len(pd.read_csv(whole)) == 60
    unreadable = pd.read_csv(tmp_path / "broken.csv.unreadable.csv")
    assert unreadable["GalaxyID"].tolist() == [60, 61]
    assert unreadable["fault"].str.len().min() > 5
    again = run(cache, *arguments, "--output", whole)
    assert again.returncode == 2
    assert "is already there" in again.stderr


def test_networks_together_and_words(cache, finished, pictures, tmp_path):
    workdirs = f"{finished[0]},{finished[0]}"
    done = run(
        cache, "--mode", "evaluate", "--workdir", workdirs, "--mixture", "fitted",
        "--views", "1", "--views", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mixture fitted on validation: 0.50" in done.stdout
    assert "2 views, 2 networks" in done.stdout
    assert re.search(r"alone: RMSE 0\.\d{4}; together [+-]0\.0000 \[", done.stdout)
    alone = json.loads((finished[0] / "evaluate_test.json").read_text())
    both = json.loads((finished[0] / "evaluate_test_2_networks.json").read_text())
    assert both["rmse"] == pytest.approx(alone["rmse"], rel=1e-5)
    output = tmp_path / "p.parquet"
    done = run(
        cache, "--mode", "predict", "--workdir", workdirs, "--images", f"{pictures}/1*.png",
        "--output", output, "--readable",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    table = pd.read_parquet(output)
    assert table["GalaxyID"].tolist() == sorted(["1", *(str(n) for n in range(10, 20))])
    fractions = table[list(GALAXY_ZOO_2.columns)].to_numpy()
    assert float(violations(fractions).max()) < 1e-5
    assert table["morphology"].str.len().min() > 3


def test_a_run_starts_from_another_ones_weights(cache, finished, tmp_path):
    """With a learning rate of next to nothing and everything frozen, it stays what it was."""
    done = run(
        cache, "--workdir", tmp_path, f"--config.model.weights={finished[0]}",
        "--config.optim.freeze=9", "--config.optim.learning_rate=1e-12", "--config.epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (
        json.loads((folder / "evaluate_test.json").read_text())
        for folder in (finished[0], tmp_path)
    )
    assert after["rmse"] == pytest.approx(before["rmse"], rel=1e-5)


def test_help_does_not_wait_for_jax():
    code = "import sys, gzjax.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_folder_of_galaxies_with_a_broken_image(cache, tmp_path, crowd):
    folder = tmp_path / "images_training_rev1"
    folder.mkdir()
    generator = np.random.default_rng(0)
    table = pd.DataFrame(np.concatenate([crowd] * 2), columns=list(GALAXY_ZOO_2.columns))
    table.insert(0, "GalaxyID", range(1000, 1128))
    table.to_csv(tmp_path / "training_solutions_rev1.csv", index=False)
    for galaxy in table["GalaxyID"]:
        pixels = generator.integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{galaxy}.jpg")
    (folder / "1003.jpg").write_bytes((folder / "1003.jpg").read_bytes()[:-50])
    workdir = tmp_path / "run"
    done = run(
        cache, "--workdir", workdir, "--config.data.kind=folder", f"--config.data.root={tmp_path}",
        "--config.epochs=1", "--config.data.processes=1", "--config.evaluate.views=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "127 galaxies (real galaxies)" in done.stdout
    assert "left out: 1 truncated" in done.stdout
    assert "1003" in (workdir / "left_out.csv").read_text()
    results = {
        views: json.loads((workdir / f"evaluate_test{name}.json").read_text())
        for views, name in ((1, ""), (4, "_4_views"))
    }
    assert results[1]["data"] == "real galaxies"
    assert results[4]["views"] == 4

    # Prediction is the same as evaluation, for the same images.
    for views, result in results.items():
        output = tmp_path / f"predicted_{views}.csv"
        done = run(
            cache, "--mode", "predict", "--workdir", workdir, "--images", folder,
            "--output", output, "--views", views,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "1 images could not be read" in done.stdout
        assert pd.read_csv(f"{output}.unreadable.csv")["GalaxyID"].tolist() == [1003]
        predicted = pd.read_csv(output).set_index("GalaxyID")
        assert predicted.index.tolist() == [n for n in range(1000, 1128) if n != 1003]
        ids = [str(galaxy) for galaxy in predicted.index]
        test = predicted.iloc[catalog.split(ids)["test"]]
        assert len(test) == result["galaxies"]
        observed = table.set_index("GalaxyID").loc[test.index]
        assert metrics.rmse(test.to_numpy(), observed.to_numpy()) == pytest.approx(
            result["rmse"], abs=2e-6
        )
