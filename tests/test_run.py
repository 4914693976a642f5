"""A whole run in one process, in the tiny world: what every option does, and resuming."""

import dataclasses
import itertools
import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pandas as pd
import pytest
import tiny

import gzjax
from gzjax.data import batches, catalogue, devices, images, listing
from gzjax.errors import UserError
from gzjax.run import build, evaluate, galaxies, loop, origin, train
from gzjax.run import config as configs


def _name(value):
    return "-".join(value) if isinstance(value, dict) else value


def final_state(workdir):
    """Every array of the newest checkpoint, by name."""
    folder = workdir / "checkpoints"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    arrays = {}
    for item in ("weights", "training"):
        state = ocp.StandardCheckpointer().restore((folder / str(step) / item).absolute())
        for path, leaf in jax.tree.leaves_with_path(state):
            is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
            arrays[jax.tree_util.keystr(path)] = np.asarray(
                jax.random.key_data(leaf) if is_key else leaf
            )
    return arrays


def facts(workdir):
    """All that a run leaves behind, but for times."""
    train = pd.read_csv(workdir / "train.csv").drop(columns="images_per_second")
    return {
        "train": train.to_dict("list"),
        "validation": pd.read_csv(workdir / "validation.csv").to_dict("list"),
        "checkpoints": sorted(
            p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
        ),
        "scores": {p.name: json.loads(p.read_text()) for p in sorted(workdir.glob("evaluate_*"))},
        "weights": {name: array.tolist() for name, array in final_state(workdir).items()},
    }


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """(options -> facts of a run with these; each is made once)."""
    made = {}

    def run(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            workdir = tmp_path_factory.mktemp("run")
            config = tiny.config(world, **options)
            assert gzjax.train(config, workdir, cache=workdir / "cache") is not None
            made[key] = facts(workdir) | {"workdir": workdir}
        return made[key]

    return run


DIRICHLET = {"loss__terms": ("dirichlet",)}
RARELY = {"evaluate__every": 2, "log__every": 3, "checkpoint__every": 2, "checkpoint__keep": 3}

# Each option at another value, and what changes at least. Network options that the linear network
# does not have are in test_build.py.
CHANGES = [
    ({"seed": 1}, "weights"),
    ({"epochs": 3}, "train"),
    ({"batch_size": 16}, "train"),
    ({"data__split_seed": 1}, "scores"),
    ({"data__validation": 0.3}, "scores"),
    ({"data__test": 0.3}, "scores"),
    ({"data__training_galaxies": 16}, "weights"),
    ({"data__crop": 0.7}, "weights"),
    ({"data__canvas": 24}, "weights"),
    ({"model__stochastic_depth": 0.5}, "weights"),
    ({"model__image_size": 32}, "weights"),
    ({"views__field": 0.7}, "weights"),
    ({"views__rotate": 0.0}, "weights"),
    ({"views__zoom": 1.5}, "weights"),
    ({"views__shift": 0.1}, "weights"),
    ({"views__flip": True}, "weights"),
    ({"views__colour": 0.3}, "weights"),
    ({"views__erase": 0.9}, "weights"),
    ({"loss__activation": "softmax"}, "weights"),
    ({"loss__targets": "conditional"}, "weights"),
    ({"loss__terms": ("mse", "kl")}, "weights"),
    ({"loss__weighting": "fixed"}, "weights"),
    ({"loss__decay": 0.5}, "weights"),
    ({"loss__gamma": 0.5}, "weights"),
    ({"loss__class_weights": (1.0, 2.0, 5.0)}, "weights"),
    ({"optim__learning_rate": 0.05}, "weights"),
    ({"optim__schedule": "constant"}, "weights"),
    ({"optim__warmup": 0.0}, "weights"),
    ({"optim__weight_decay": 0.5}, "weights"),
    ({"optim__clip_norm": 0.01}, "weights"),
    ({"optim__accumulate": 2}, "weights"),
    ({"optim__layer_decay": 0.5}, "weights"),
    ({"optim__freeze": 1}, "weights"),
    ({"optim__head_warmup": 0.5}, "weights"),
    ({"average__decay": 0.15}, "weights"),
    ({"evaluate__views": 4}, "scores"),
    (RARELY, "validation"),
    (RARELY, "train"),
    (RARELY, "checkpoints"),
]


@pytest.mark.parametrize(("options", "changed"), CHANGES, ids=_name)
def test_every_option_changes_the_result_it_is_there_for(run, options, changed):
    base, other = run(), run(**options)
    assert base[changed] != other[changed]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"loss__weighting": "fixed"},
            {"loss__weighting": "fixed", "loss__weights": (1.0, 5.0, 0.0, 0.0)},
        ),
        (
            DIRICHLET | {"loss__activation": "softplus"},
            DIRICHLET | {"loss__activation": "softplus", "data__votes_per_galaxy": 10.0},
        ),
        (
            {"optim__schedule": "exponential", "optim__decay_every": 0.5},
            {"optim__schedule": "exponential", "optim__decay_every": 1.0},
        ),
        (
            {"optim__schedule": "exponential", "optim__decay_every": 0.5},
            {"optim__schedule": "exponential", "optim__decay_every": 0.5, "optim__decay_rate": 0.5},
        ),
    ],
)
def test_options_that_matter_with_others_alone(run, one, other):
    assert run(**one)["weights"] != run(**other)["weights"]


@pytest.mark.parametrize(
    "options",
    [
        {"data__threads": 1},
        {"data__on_device": True},
        {"evaluate__batch_size": 16},
        {"evaluate__views": 4, "evaluate__views_at_once": 2},
    ],
    ids=_name,
)
def test_what_only_costs_time_or_memory_changes_no_weight(run, options):
    assert run()["weights"] == run(**options)["weights"]


def test_what_happens_rarely_happens_when_it_is_asked_for(run):
    found, steps = run(**RARELY), run()["train"]["step"][-1]
    assert found["validation"]["step"] == [steps]
    # Whatever is saved is recorded before.
    losses = np.array(run()["train"]["loss"])
    firsts = [0, *found["train"]["step"][:-1]]
    for first, step, loss in zip(
        firsts, found["train"]["step"], found["train"]["loss"], strict=True
    ):
        assert loss == pytest.approx(losses[first:step].mean(), rel=1e-5)
    recorded = {step for step in range(1, steps + 1) if step % 2 == 0 or step % 3 == 0} | {steps}
    assert set(found["train"]["step"]) == recorded
    saved = sorted({*range(2, steps + 1, 2), steps})
    assert found["checkpoints"] == sorted(map(str, saved[-3:]))


def test_every_option_is_in_one_of_the_lists_above():
    here = {name.replace("__", ".") for options, _ in CHANGES for name in options}
    with_others = {
        "data.votes_per_galaxy", "data.extra_weight", "loss.weights", "optim.decay_rate",
        "optim.decay_every",
    }  # fmt: skip
    of_no_matter = {
        "data.threads", "data.on_device", "evaluate.batch_size", "evaluate.views_at_once"
    }  # fmt: skip
    elsewhere = {
        "data.kind", "data.root", "data.table", "data.images", "data.tree", "data.galaxies",
        "data.sky_seed", "data.processes", "data.votes", "data.extra", "data.catalogues",
        "model.name", "model.dtype", "model.weights", "model.weights_overlap",
        "model.conventions", "model.norm_groups",
        # In test_trackers.py.
        "log.trackers",
        # In test_fits.py, on galaxies in FITS files.
        "fits.bands", "fits.stretch", "fits.softening", "fits.scale", "fits.low", "fits.high",
    }  # fmt: skip
    every = set(dict(configs.flatten(configs.default())))
    assert here | with_others | of_no_matter | elsewhere == every


def test_what_a_run_leaves_behind(run, world):
    found = run(evaluate__views=4)
    assert sorted(found["scores"]) == [
        "evaluate_test.json", "evaluate_test_4_views.json",
        "evaluate_validation.json", "evaluate_validation_4_views.json",
    ]  # fmt: skip
    result = found["scores"]["evaluate_test.json"]
    assert (result["split"], result["views"], result["networks"]) == ("test", 1, 1)
    assert result["data"] == "real galaxies"
    assert list(result["rmse_per_question"]) == ["shape", "tail", "arms"]
    table = pd.read_csv(world / "votes.csv").set_index("GalaxyID")
    data = gzjax.load_data(found["workdir"])
    ids = {name: [int(data.ids[row]) for row in rows] for name, rows in data.splits.items()}
    assert result["galaxies"] == len(ids["test"])
    assert result["training_galaxies"] == len(ids["train"])
    mean = table.loc[ids["train"]].mean(axis=0)
    wrong = table.loc[ids["test"]] - mean
    assert result["baseline_rmse"] == pytest.approx(np.sqrt((wrong**2).to_numpy().mean()), rel=1e-5)
    steps = len(ids["train"]) // 8
    assert found["train"]["step"] == list(range(1, 2 * steps + 1))
    assert found["validation"]["step"] == [steps, 2 * steps]
    np.testing.assert_allclose(found["train"]["epoch"], np.arange(1, 2 * steps + 1) / steps)
    assert list((found["workdir"] / "tensorboard").glob("events*"))


def test_the_learning_rate_is_recorded_as_it_was(run):
    rates = run(optim__schedule="exponential", optim__warmup=0.0, optim__decay_every=1.0)
    steps = rates["validation"]["step"][0]
    expected = [0.1 * 0.1 ** (step / steps) for step in range(2 * steps)]
    np.testing.assert_allclose(rates["train"]["learning_rate"], expected, rtol=1e-5)


def test_accumulated_batches_share_an_update_and_its_rate(run):
    found = run(optim__accumulate=2, optim__schedule="exponential", optim__warmup=0.0)
    rates = found["train"]["learning_rate"]
    assert rates[0] == rates[1] != rates[2] == rates[3]


def test_training_learns(run):
    result = run(epochs=12)["scores"]["evaluate_validation.json"]
    assert result["rmse"] < 0.75 * result["baseline_rmse"]


def test_the_average_is_scored_and_the_weights_beside_it(run):
    found = run()["scores"]["evaluate_test.json"]
    assert found["raw_rmse"] != found["rmse"]
    # The checkpoints are judged by it, too.
    validation, step = run()["scores"]["evaluate_validation.json"], run()["validation"]["step"]
    judged = dict(zip(step, run()["validation"]["rmse"], strict=True))
    assert validation["rmse"] == pytest.approx(judged[validation["step"]], rel=1e-6)
    assert validation["raw_rmse"] != pytest.approx(validation["rmse"], rel=1e-6)
    model, data = gzjax.load(run()["workdir"]), gzjax.load_data(run()["workdir"])
    last = model._replace(weights=jax.device_put(model.raw, model.placement.replicated), raw=None)
    alone = gzjax.evaluate(last, data, "validation", views=1)["rmse"]
    assert validation["raw_rmse"] == pytest.approx(alone, rel=1e-6)
    plain = run(average__decay=0.0)
    assert "raw_rmse" not in plain["scores"]["evaluate_test.json"]
    weights = {name: value for name, value in plain["weights"].items() if "average" in name}
    assert weights
    for name, value in weights.items():
        assert value == plain["weights"][name.replace("average", "weights")]


def test_the_best_checkpoint_is_the_one_that_is_scored(run):
    fast = {"optim__learning_rate": 1.0, "optim__schedule": "constant", "average__decay": 0.0}
    found = run(epochs=5, **fast)
    validation = dict(zip(found["validation"]["step"], found["validation"]["rmse"], strict=True))
    best = min(validation, key=validation.get)
    assert best != max(validation)
    result = found["scores"]["evaluate_validation.json"]
    assert result["step"] == best
    assert result["rmse"] == pytest.approx(validation[best], rel=1e-6)
    kept = {int(name) for name in found["checkpoints"]}
    assert kept == {*sorted(validation)[-2:], best}


def test_evaluate_repeats_the_numbers(run):
    found = run(evaluate__views=4)
    model, data = gzjax.load(found["workdir"]), gzjax.load_data(found["workdir"])
    for views in (1, 4):
        for split in ("validation", "test"):
            name = f"evaluate_{split}{f'_{views}_views' * (views > 1)}.json"
            assert gzjax.evaluate(model, data, split, views=views) == found["scores"][name]
    assert gzjax.evaluate(model, data) == found["scores"]["evaluate_test_4_views.json"]
    # Galaxies of a run are cut out already, and are predicted as they are.
    rows = data.splits["test"]
    table = gzjax.predict(model, data.listed(rows))[list(data.tree.columns)].to_numpy()
    wrong = np.sqrt(np.mean((table - data.observed(rows)) ** 2))
    assert wrong == pytest.approx(found["scores"]["evaluate_test_4_views.json"]["rmse"], rel=1e-5)
    with pytest.raises(
        UserError, match="split: expected one of train, validation, test, found 'x'"
    ):
        gzjax.evaluate(model, data, "x")
    with pytest.raises(UserError, match="views: expected 1 or more, found 0"):
        gzjax.evaluate(model, data, views=0)


class Stopped(loop.StopRequest):
    """Asks to stop after so many steps."""

    after = 3

    def at(self, step):
        return step >= self.after


def test_a_stopped_run_resumes_bit_for_bit(run, world, tmp_path, monkeypatch, capsys):
    config = tiny.config(world)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", Stopped)
        assert gzjax.train(config, tmp_path, report=gzjax.Report()) is None
    assert "stopped as asked after step 3 of" in capsys.readouterr().out
    assert not (tmp_path / "evaluate_test.json").exists()
    # What was recorded past the checkpoint is of a run that was killed.
    with (tmp_path / "train.csv").open("a") as file:
        file.write(
            (tmp_path / "train.csv").read_text().splitlines()[-1].replace("3", "4", 1) + "\n"
        )
    with monkeypatch.context() as patch:
        now = itertools.count()
        clock = types.SimpleNamespace(perf_counter=lambda: float(next(now)))
        patch.setattr(train, "time", clock)

        def slowly(call):
            def called(*args, **options):
                next(itertools.islice(now, 99, None))
                return call(*args, **options)

            return called

        patch.setattr(train, "evaluate", slowly(train.evaluate))
        patch.setattr(train.Checkpoints, "save", slowly(train.Checkpoints.save))
        often = tiny.config(world, checkpoint__every=1)
        gzjax.train(often, tmp_path, report=gzjax.Report())
    assert "resuming from step 3 of" in capsys.readouterr().out
    # Each record is of a step in a second, from where it resumed; evaluating and saving is no part.
    speed = pd.read_csv(tmp_path / "train.csv").set_index("step")["images_per_second"].loc[4:]
    assert speed.tolist() == [config.batch_size] * 3
    before = run()
    now = facts(tmp_path)
    assert {name: now[name] for name in ("train", "validation", "weights", "scores")} == {
        name: before[name] for name in ("train", "validation", "weights", "scores")
    }


def test_a_finished_run_stays_finished_and_may_be_continued(run, world, tmp_path):
    shutil.copytree(run()["workdir"], tmp_path / "copy")
    before = facts(tmp_path / "copy")
    gzjax.train(tiny.config(world), tmp_path / "copy")
    assert facts(tmp_path / "copy") == before
    gzjax.train(tiny.config(world, epochs=3, log__every=2), tmp_path / "copy")
    steps = before["validation"]["step"][0]
    assert facts(tmp_path / "copy")["validation"]["step"] == [steps, 2 * steps, 3 * steps]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"optim__weight_decay": 0.5}, "optim.weight_decay was 0.01, now 0.5"),
        ({"data__split_seed": 7}, "data.split_seed was 0, now 7"),
        ({"views__zoom": 1.3}, "views.zoom was 1.2, now 1.3"),
        # The place among the galaxies counts batches, and is that of each worker process.
        ({"batch_size": 16}, "batch_size was 8, now 16"),
        ({"data__processes": 1}, "data.processes was 0, now 1"),
        ({"fits__low": 2.0}, "fits.low was 1.0, now 2.0"),
    ],
)
def test_a_workdir_refuses_another_run(run, world, options, expected):
    with pytest.raises(UserError) as raised:
        gzjax.train(tiny.config(world, **options), run()["workdir"])
    assert expected in str(raised.value)


def test_another_tree_or_other_galaxies_are_refused(run, world, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run()["workdir"], workdir)
    (tmp_path / "other.toml").write_text(tiny.TREE.replace('"toy"', '"bad"').replace("star", "sun"))
    with pytest.raises(UserError, match=r"holds a run of the tree toy .* this one is of bad"):
        gzjax.train(tiny.config(world, data__tree=str(tmp_path / "other.toml")), workdir)
    more = tiny.folder(tmp_path / "more", 50)
    with pytest.raises(UserError, match="different galaxies"):
        gzjax.train(tiny.config(more), workdir)
    with pytest.raises(UserError, match="different galaxies"):
        gzjax.load_data(workdir, {"data.root": str(more)})


def test_moved_galaxies_are_the_same(run, world, tmp_path):
    shutil.copytree(world, tmp_path / "moved")
    data = gzjax.load_data(run()["workdir"], {"data.root": str(tmp_path / "moved")})
    assert str(tmp_path / "moved") in data.images.files[0]


def test_processes_compare_their_galaxies_and_splits(world, tmp_path, monkeypatch):
    table = pd.read_csv(world / "votes.csv")
    table.iloc[::-1].to_csv(world / "reversed.csv", index=False)

    def compared(**options):
        """What a process compares before it looks for its newest checkpoint."""
        found = []

        def compare(what, value):
            if what != "galaxies":
                raise UserError("enough")
            found.append(value)

        monkeypatch.setattr(train.devices, "check_same_in_all_processes", compare)
        with pytest.raises(UserError, match="enough"):
            gzjax.train(tiny.config(world, **options), tmp_path / "run")
        return found

    values = [compared(), compared(data__test=0.3), compared(data__table="reversed.csv")]
    assert all(len(found) == 1 for found in values)
    assert len({found[0] for found in values}) == 3
    assert compared() == values[0]


def test_two_trainings_of_one_workdir_are_refused(run, world, tmp_path):
    from gzjax import files

    with (
        files.locked(tmp_path / "lock"),
        pytest.raises(UserError, match="another process is writing there"),
    ):
        gzjax.train(tiny.config(world), tmp_path)


def test_another_run_that_began_while_galaxies_were_read_is_not_resumed(
    run, world, tmp_path, monkeypatch
):
    other, read = run()["workdir"], galaxies.build_data

    def begun(*arguments, **options):
        shutil.copytree(other, tmp_path, dirs_exist_ok=True)
        return read(*arguments, **options)

    monkeypatch.setattr(galaxies, "build_data", begun)
    with pytest.raises(UserError, match="another command has trained here meanwhile; try again"):
        gzjax.train(tiny.config(world, optim__learning_rate=0.01), tmp_path)
    gzjax.train(tiny.config(world), tmp_path)  # the same run


def test_an_outage_stops_training_and_loses_nothing(run, world, tmp_path, monkeypatch):
    config = tiny.config(world, data__threads=1)
    data = gzjax.load_data(run()["workdir"])
    training = {data.images.files[row] for row in data.splits["train"]}
    read, left = images.read_image, iter(range(40))  # of some thirty an epoch

    def failing(file, framing):
        if file in training and next(left, None) is None:
            raise OSError(5, "Input/output error", str(file))
        return read(file, framing)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read_image", failing)
        with pytest.raises(UserError, match=r"could not be read in this epoch.*Input/output error"):
            gzjax.train(config, tmp_path)
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert saved == len(pd.read_csv(tmp_path / "train.csv")) > 1
    gzjax.train(config, tmp_path)
    assert facts(tmp_path)["weights"] == run()["weights"]


def test_an_outage_in_an_evaluation_is_said_in_one_line_and_one_image_is_left_out(run, monkeypatch):
    model, data = gzjax.load(run()["workdir"]), gzjax.load_data(run()["workdir"])
    before, read = evaluate.predict_split(model, data, "test", 1, model.weights), images.read_image
    ids = [data.ids[row] for row in before["row"]]

    def unreadable(*broken):
        def failing(file, framing):
            if Path(file).stem in broken:
                raise OSError(5, "Input/output error", str(file))
            return read(file, framing)

        monkeypatch.setattr(images, "read_image", failing)

    unreadable(ids[1])
    found = evaluate.predict_split(model, data, "test", 1, model.weights)
    assert found["row"].tolist() == np.delete(before["row"], 1).tolist()
    np.testing.assert_array_equal(found["fractions"], np.delete(before["fractions"], 1, 0))
    unreadable(*ids[1:3])
    with pytest.raises(UserError, match=r"2 of [0-9]+ test galaxies cannot be read, the last bec"):
        gzjax.evaluate(model, data)
    # Of a larger split more may be lost: as many as before training.
    monkeypatch.setattr(catalogue, "MOST_LEFT_OUT", 2.5 / len(ids))
    evaluate.predict_split(model, data, "test", 1, model.weights)
    unreadable(*ids[1:4])
    with pytest.raises(UserError, match=r"3 of [0-9]+ test galaxies"):
        evaluate.predict_split(model, data, "test", 1, model.weights)


def test_each_process_reads_its_own_share(run, world, tmp_path, monkeypatch):
    model, data = gzjax.load(run()["workdir"]), gzjax.load_data(run()["workdir"])
    model = model._replace(reading=model.reading._replace(threads=3, processes=2))
    report, shares, readers = gzjax.Report(), [], []
    training = build.build_run(
        tiny.config(world, data__threads=3, data__processes=2),
        tmp_path, None, cache=None, check_images=False, report=report,
    )  # fmt: skip

    def read(*_, shard=0, shards=1, threads, processes):
        shares.append((shard, shards))
        readers.append((threads, processes))
        raise UserError("enough")

    for name in ("training_batches", "ordered_batches"):
        monkeypatch.setattr(batches, name, read)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(UserError, match="enough"):
        evaluate.predict_split(model, data, "test", 1, model.weights)
    with pytest.raises(UserError, match="enough"):
        train.Trainer(training, tmp_path, None, 0, report).train(None)
    assert shares == [(1, 3)] * 2
    with pytest.raises(UserError, match="enough"):
        model.predict(world / "images")
    assert readers == [(3, 2)] * 3


def test_galaxies_lost_on_the_way_are_listed(world, tmp_path, monkeypatch):
    """A few broken images: the run continues without them."""
    root = tmp_path / "galaxies"
    shutil.copytree(world, root)
    data = galaxies.build_data(
        configs.typed(tiny.config(root)),
        gzjax.load_tree(str(root / "toy.toml")),
        tmp_path, False, gzjax.Report(loud=False),
    )  # fmt: skip
    lost = data.ids[data.splits["train"][0]]
    read = images.read_image

    def failing(file, framing):
        if Path(file).stem == lost:
            raise OSError("broken data stream")
        return read(file, framing)

    monkeypatch.setattr(images, "read_image", failing)
    with monkeypatch.context() as patch:
        # Those that the devices lack are listed once, by their file, not again in every epoch.
        patch.setattr(catalogue, "MOST_LEFT_OUT", 0.1)
        held, hold = [], devices.hold_on_devices
        patch.setattr(devices, "hold_on_devices", lambda *args: held.append(1) or hold(*args))
        gzjax.train(tiny.config(root, data__on_device=True), tmp_path / "held")
        assert held == [1]
    listed = pd.read_csv(tmp_path / "held" / "left_out.csv", dtype=str)
    assert listed["GalaxyID"].tolist() == [lost]
    assert listed["file"][0].endswith(f"{lost}.png")
    taken = []
    monkeypatch.setattr(
        loop.GuardedBatches, "__init__", _patient(loop.GuardedBatches.__init__, taken)
    )
    gzjax.train(tiny.config(root), tmp_path / "run")
    listed = pd.read_csv(tmp_path / "run" / "left_out.csv", dtype=str)
    assert listed["GalaxyID"].tolist() == [lost]
    assert "broken data stream" in listed["reason"][0]
    steps = 2 * (len(data.splits["train"]) // 8)
    gzjax.train(tiny.config(root, epochs=3), tmp_path / "run")
    assert taken == [0, steps]  # batches of the epoch before


def _patient(init, taken):
    def patient(self, batches, most, batches_per_epoch, **others):
        assert most < 1  # one per cent of some thirty galaxies
        taken.append(others["taken"])
        init(self, batches, 2, batches_per_epoch, **others)

    return patient


def test_weights_of_another_run_begin_a_new_one(run, world, tmp_path):
    before = run()["workdir"]
    start = {"model__weights": str(before), "epochs": 1, "optim__learning_rate": 1e-9}
    weights = jax.tree.leaves_with_path(gzjax.load(before).weights.params)
    average = {f"['average']['params']{jax.tree_util.keystr(path)}": leaf for path, leaf in weights}
    same = run(**start)["weights"]
    for name, value in average.items():
        np.testing.assert_allclose(same[name], value, atol=1e-6)
    (tmp_path / "other.toml").write_text(tiny.TREE.replace("star", "sun"))
    shutil.copytree(world, tmp_path / "galaxies")
    table = pd.read_csv(world / "votes.csv").rename(columns={"shape_star": "shape_sun"})
    table.to_csv(tmp_path / "galaxies" / "votes.csv", index=False)
    config = tiny.config(tmp_path / "galaxies", data__tree=str(tmp_path / "other.toml"), **start)
    gzjax.train(config, tmp_path / "run")
    other = final_state(tmp_path / "run")
    for name, value in average.items():
        unchanged = np.allclose(other[name], value, atol=1e-6)
        # The outputs' biases begin alike in all networks.
        assert unchanged != ("classifier']['kernel" in name or "classifier']['bias" in name), name


@pytest.mark.parametrize(
    "options",
    [
        {"data__split_seed": 1},
        {"data__test": 0.3},
        {"data__validation": 0.3},
        {"data__test": 0.3, "data__validation": 0.1},  # as many, but some chose the epoch
    ],
    ids=_name,
)
def test_weights_that_know_held_out_galaxies_are_refused(run, world, tmp_path, options):
    config = tiny.config(world, model__weights=str(run()["workdir"]), **options)
    with pytest.raises(
        UserError, match=r"--config.model.weights: .* may have learnt from galaxies that"
    ):
        gzjax.train(config, tmp_path)
    config.model.weights_overlap = False  # the user knows better
    run_of = build.build_run(
        config, tmp_path, None, cache=None, check_images=False, report=gzjax.Report()
    )
    assert run_of.begin is not None


def test_drawn_galaxies_and_real_ones_are_never_the_same(world):
    folder, sky = (configs.typed(c).data for c in (tiny.config(world), gzjax.recipe("sky")))
    theirs = dataclasses.asdict(sky) | {"split_seed": sky.split_seed + 1}
    origin.check_held_out(folder, theirs, "")
    for kind in ("sky", "pack"):  # which may be one of the sky
        with pytest.raises(UserError, match="may have learnt from galaxies that this run holds"):
            origin.check_held_out(sky, theirs | {"kind": kind}, "")


def test_fewer_held_out_galaxies_are_no_leak(run, world, tmp_path):
    fewer = {"data__test": 0.15, "data__validation": 0.2, "epochs": 1}
    gzjax.train(tiny.config(world, model__weights=str(run()["workdir"]), **fewer), tmp_path)


def test_batches_that_the_devices_cannot_share_are_refused(world, tmp_path):
    for option in ("batch_size", "evaluate.batch_size"):
        config = tiny.config(world)
        config.update_from_flattened_dict({option: 12})
        with pytest.raises(UserError, match=f"--config.{option}: expected a multiple of the 8"):
            gzjax.train(config, tmp_path)
    expected = r"--config.model.norm_groups: expected a divisor of batch_size, \d+, found 3$"
    with pytest.raises(UserError, match=expected):
        gzjax.train(tiny.config(world, model__norm_groups=3), tmp_path)
    expected = r"--config.optim.freeze: expected less than the \d+ depths of .*, found 9$"
    with pytest.raises(UserError, match=expected):
        gzjax.train(tiny.config(world, optim__freeze=9), tmp_path)


def test_home_is_where_shells_say(world, tmp_path, monkeypatch):
    """Which leave ~ alone after an equals sign, as Python does everywhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "galaxies").symlink_to(world)
    config = tiny.config(world, data__root="~/galaxies", epochs=1)
    gzjax.train(config, "~/run")
    assert (tmp_path / "run" / "train.csv").exists()
    assert gzjax.load("~/run").step > 0
    gzjax.train(tiny.config(world, model__weights="~/run", epochs=1), "~/more")
    assert len(listing.list_images("~/galaxies/images").ids) == tiny.GALAXIES


def test_worker_processes_deliver_the_same_batches(run):
    assert run(data__processes=1)["weights"] == run()["weights"]
