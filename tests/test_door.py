"""The Python door: what a notebook gets is what the commands write."""

import contextlib
import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import gzjax
from gzjax import files
from gzjax.data import images
from gzjax.data.framing import Framing
from gzjax.data.images import ImageArrays, Unusable
from gzjax.errors import UserError
from gzjax.models import Conventions
from gzjax.run import build, evaluate, exported, inference, opened, predict
from gzjax.run import pack as packs
from gzjax.run import parts as in_parts
from gzjax.run.model import Reading, digest_of


@pytest.fixture(scope="module")
def workdirs(world, tmp_path_factory):
    """Two runs of other seeds, the second in another framing."""
    folders = []
    for seed, options in enumerate(({"evaluate__views": 4}, {"data__crop": 0.8})):
        folders.append(tmp_path_factory.mktemp("run"))
        gzjax.train(tiny.config(world, seed=seed, epochs=3, **options), folders[-1])
    return folders


@pytest.fixture(scope="module")
def models(workdirs):
    return [gzjax.load(workdir) for workdir in workdirs]


@pytest.fixture(scope="module")
def galaxies(workdirs):
    return [gzjax.load_data(workdir) for workdir in workdirs]


def test_the_door_is_explicit_and_imports_nothing_by_itself():
    for name in gzjax.__all__:
        assert getattr(gzjax, name) is not None
    assert set(gzjax.__all__) <= set(dir(gzjax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gzjax.nothing
    program = "import sys, gzjax; print(gzjax.__version__, 'jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [gzjax.__version__, "False"]


def test_nothing_is_printed(world, workdirs, capsys, caplog):
    config = tiny.config(world, epochs=3, evaluate__views=4)
    gzjax.train(config, str(workdirs[0]), cache=str(workdirs[0]))
    gzjax.load(str(workdirs[0]))
    gzjax.load_data(str(workdirs[0]), cache=str(workdirs[0]))
    assert capsys.readouterr() == ("", "")
    assert "read only" not in caplog.text


def test_a_model_has_what_predicting_needs(world, models):
    model = models[0]
    assert model.tree == gzjax.load_tree(str(world / "toy.toml"))
    assert model.tree.columns == tuple(tiny.COLUMNS)
    assert (model.framing.crop, model.framing.canvas, model.image_size) == (1.0, 16, 16)
    assert (model.test_views.field, model.test_views.zoom) == (0.9, 1.2)
    assert (model.activation, model.views, model.reading.batch_size) == ("relu", 4, 8)
    assert "loss" in model.about["config"]


def test_overrides_change_what_may_change(workdirs):
    changed = {"evaluate.batch_size": 16, "evaluate.views_at_once": 2, "data.threads": 1}
    model = gzjax.load(workdirs[0], changed)
    assert (model.reading.batch_size, model.test_views.at_once, model.reading.threads) == (16, 2, 1)
    with pytest.raises(UserError, match="seed was 0, now 5"):
        gzjax.load(workdirs[0], {"seed": 5})
    with pytest.raises(UserError, match=r"--config: .*nothing"):
        gzjax.load(workdirs[0], {"data.nothing": 5})
    with pytest.raises(UserError, match=r"--config.evaluate.batch_size: expected a multiple"):
        gzjax.load(workdirs[0], {"evaluate.batch_size": 12})


def test_whatever_names_the_images_the_table_is_the_same(world, models):
    folder = world / "images"
    whole = models[0].predict(folder, views=2)
    assert whole.index.name == "GalaxyID"
    assert list(whole.columns) == [*tiny.COLUMNS, "fault"]
    assert whole.index.tolist() == [str(1000 + 7 * n) for n in range(tiny.GALAXIES)]
    assert (whole["fault"] == "").all()
    assert whole[tiny.COLUMNS].dtypes.unique().tolist() == [np.float32]
    files = [folder / f"{name}.png" for name in whole.index[:9]]
    some = whole.iloc[:9]
    pd.testing.assert_frame_equal(models[0].predict(files, views=2), some)
    frame = pd.DataFrame({"GalaxyID": some.index, "file": files})
    pd.testing.assert_frame_equal(models[0].predict(frame, views=2), some)
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    arrays = models[0].predict(pixels, views=2)
    assert arrays.index.tolist() == [str(n) for n in range(9)]
    np.testing.assert_array_equal(arrays[tiny.COLUMNS], some[tiny.COLUMNS])


def test_views_are_those_of_the_recipe_unless_asked_for(world, models):
    four = models[0].predict(world / "images", views=4)
    pd.testing.assert_frame_equal(models[0].predict(world / "images"), four)
    one = models[0].predict(world / "images", views=1)
    assert np.abs(four[tiny.COLUMNS] - one[tiny.COLUMNS]).to_numpy().max() > 1e-4
    with pytest.raises(UserError, match="views: expected 1 or more, found 0"):
        models[0].predict(world / "images", views=0)


def test_one_program_predicts_any_number_of_images(world, models):
    files = sorted((world / "images").iterdir())
    model = models[0]
    for number in (1, 8, 11):
        assert len(model.predict([str(file) for file in files[:number]], views=3)) == number
    assert model.predict_step(3)._cache_size() == 1


def test_batch_norm_is_folded_to_predict_and_not_to_train(world, workdirs, monkeypatch):
    asked, folded = [], []
    fold = build.models.fold
    monkeypatch.setattr(
        build.models, "build", lambda _, **options: asked.append(options["folded"]) or
        tiny.network(**options)
    )  # fmt: skip
    monkeypatch.setattr(build.models, "fold", lambda *args: folded.append(args[1]) or fold(*args))
    gzjax.load(workdirs[0])
    assert (asked, folded) == ([True], [Conventions()])  # compiled once, for average and weights
    gzjax.train(tiny.config(world, epochs=3, evaluate__views=4), workdirs[0])
    assert (asked, len(folded)) == ([True, False], 1)


def test_a_run_is_opened_and_resumed_under_the_conventions_of_its_weights(
    world, workdirs, monkeypatch
):
    theirs = Conventions(padding="symmetric", norm_epsilon=1e-5, mean=(0.1, 0.2, 0.3))
    about = {"conventions": theirs._asdict()}
    asked, folded, fold = [], [], build.models.fold

    def made(_, **options):
        asked.append(options["conventions"])
        return tiny.network(**options)

    monkeypatch.setattr(build.models, "build", made)
    monkeypatch.setattr(build.models, "fold", lambda *args: folded.append(args[1]) or fold(*args))
    with monkeypatch.context() as patch:
        best = exported.open_best(workdirs[0])
        changed = best._replace(about=best.about | about)
        patch.setattr(exported, "open_best", lambda _: changed)
        gzjax.load(workdirs[0])
    assert (asked, folded) == ([theirs], [theirs])
    config = tiny.config(world, epochs=3, evaluate__views=4)
    run = build.build_run(
        config, workdirs[0], best.about | about, cache=None, check_images=False,
        report=gzjax.Report(loud=False),
    )  # fmt: skip
    assert asked[1:] == [theirs]
    assert run.about["conventions"] == theirs._asdict()


def test_how_a_run_is_read_may_change_to_predict(workdirs):
    assert gzjax.load(workdirs[0], {"data.processes": 3}).reading.processes == 3
    with pytest.raises(UserError, match=r"holds a run with different options: data\.crop was"):
        gzjax.load(workdirs[0], {"data.crop": 0.5})


def test_predictions_obey_the_tree(world, models):
    table = models[0].predict(world / "images")
    np.testing.assert_allclose(table[tiny.COLUMNS[:3]].sum(axis=1), 1, atol=1e-5)
    gate = table["shape_round"] + table["shape_disk"]
    np.testing.assert_allclose(table[["tail_yes", "tail_no"]].sum(axis=1), gate, atol=1e-5)
    np.testing.assert_allclose(table[tiny.COLUMNS[5:]].sum(axis=1), table["shape_disk"], atol=1e-5)


def test_a_bad_file_is_a_row_with_a_reason(world, models, tmp_path):
    good = world / "images" / "1000.png"
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (3, 400)).save(tmp_path / "small.png")
    files = [good, tmp_path / "gone.png", tmp_path / "text.jpg", tmp_path / "small.png"]
    table = models[0].predict(files)
    assert table.index.tolist() == ["1000", "gone", "text", "small"]
    assert table[tiny.COLUMNS].isna().all(axis=1).tolist() == [False, True, True, True]
    assert table["fault"].str.len().gt(5).tolist() == [False, True, True, True]
    assert "small" in table["fault"].iloc[3]


def test_the_notebook_gives_what_the_command_gives(world, models, tmp_path):
    output = tmp_path / "p.parquet"
    predict.predict_to_file(
        models[:1], str(world / "images"), output,
        views=2, shares=np.ones(1), readable=False, report=gzjax.Report(loud=False), size=20,
    )  # fmt: skip
    written = pd.read_parquet(output).set_index("GalaxyID")
    table = models[0].predict(world / "images", views=2)
    pd.testing.assert_frame_equal(written, table.drop(columns="fault"), check_index_type=False)
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_progress_is_told_by_this_process_and_by_an_engine(world, models, tmp_path):
    def engine(see, tasks):
        done = [(rows, see(models[:1], part, lambda _: None)) for rows, part in tasks]
        return reversed(done)  # they come in any order

    for name, other, expected in (
        ("a.csv", None, [(8, 48), (16, 48), (20, 48), (28, 48), (36, 48), (40, 48), (48, 48)]),
        ("b.csv", engine, [(8, 48), (28, 48), (48, 48)]),
    ):
        told, report = [], gzjax.Report(loud=False)
        report.task = lambda _, told=told: contextlib.nullcontext(lambda *each: told.append(each))
        predict.predict_to_file(
            models[:1], str(world / "images"), tmp_path / name, views=1, shares=np.ones(1),
            readable=False, report=report, size=20, engine=other,
        )  # fmt: skip
        assert told == expected
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_an_interrupted_prediction_resumes_with_what_is_missing(
    world, models, tmp_path, monkeypatch, capsys
):
    def predict_all(output):
        predict.predict_to_file(
            models[:1], str(world / "images"), output,
            views=1, shares=np.ones(1), readable=True, report=gzjax.Report(), size=10,
        )  # fmt: skip

    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    predict_all(whole)
    read, left = images.read_image, iter(range(25))

    def failing(file, framing):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(file, framing)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read_image", failing)
        with pytest.raises(BaseException):  # noqa: B017, PT011
            predict_all(broken)
    assert not broken.exists()
    done = sorted(path.name for path in (tmp_path / "broken.csv.parts").glob("*.parquet"))
    assert 1 <= len(done) <= 2
    again = []

    def counted(file, framing):
        again.append(file)
        return read(file, framing)

    capsys.readouterr()
    monkeypatch.setattr(images, "read_image", counted)
    predict_all(broken)
    # The threads of the first attempt may have read on for a moment, in the part that is missing.
    everything = sorted(str(path) for path in (world / "images").iterdir())
    assert sorted({str(file) for file in again}) == everything[10 * len(done) :]
    assert f"resuming after {10 * len(done)} images that are done" in capsys.readouterr().out
    assert broken.read_text() == whole.read_text()
    assert not (tmp_path / "broken.csv.parts").exists()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_shares_of_several_processes_are_one_table(world, models, tmp_path, suffix, monkeypatch):
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append

    def predict_all(name, share=(1, 1), size=5):
        predict.predict_to_file(
            models[:1], str(world / "images"), tmp_path / f"{name}{suffix}", views=1,
            shares=np.ones(1), readable=True, report=report, size=size, share=share,
        )  # fmt: skip
        return tmp_path / f"{name}{suffix}"

    whole = predict_all("whole").read_bytes()
    monkeypatch.setattr(inference, "stream", counted := _Counted(inference.stream))
    output = predict_all("shared", (2, 3))
    assert not output.exists()
    assert said[-1] == "share 2 of 3 is done; 7 parts of others are missing"
    files_of = sorted(path.name for path in (tmp_path / f"{output.name}.parts").glob("*.parquet"))
    assert files_of == ["000000005.parquet", "000000020.parquet", "000000035.parquet"]
    predict_all("shared", (2, 3))  # nothing is repeated
    predict_all("shared", (3, 3))
    assert counted.calls == 6
    assert not output.exists()
    with files.locked(tmp_path / f"{output.name}.parts" / "_lock"):
        predict_all("shared", (1, 3))
        assert said[-1] == "the parts are joined by another process"
    predict_all("shared", (1, 3))
    assert counted.calls == 10
    assert output.read_bytes() == whole
    assert not (tmp_path / f"{output.name}.parts").exists()
    predict_all("shared", (3, 3))  # queued again after the others joined
    assert said[-1].endswith("is there already, joined by another process; nothing is done")
    assert counted.calls == 10
    assert not (tmp_path / f"{output.name}.parts").exists()
    # Of other images, models or options it is stale.
    with pytest.raises(UserError, match="is already there; delete it"):
        predict_all("shared", (3, 3), size=6)
    # So is one that a single process wrote, whatever was joined there before.
    beside = tmp_path / f"whole{suffix}.job.json"
    beside.write_bytes((tmp_path / f"{output.name}.job.json").read_bytes())
    (tmp_path / f"whole{suffix}").unlink()
    predict_all("whole")
    with pytest.raises(UserError, match="is already there; delete it"):
        predict_all("whole", (3, 3))
    with pytest.raises(UserError, match="is already there; delete it"):
        predict_all("shared")


def test_parts_are_deleted_when_nothing_of_them_is_open(world, models, tmp_path, monkeypatch):
    """On NFS a folder with an open file cannot be deleted; the prediction is whole all the same."""
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append

    def nfs(folder):
        with files.locked(folder / "_lock"):  # of nobody else
            pass
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(folder))

    monkeypatch.setattr(files, "remove_folder", nfs)
    predict.predict_to_file(
        models[:1], str(world / "images"), tmp_path / "p.csv", views=1, shares=np.ones(1),
        readable=False, report=report,
    )  # fmt: skip
    assert len(pd.read_csv(tmp_path / "p.csv")) == tiny.GALAXIES
    assert said[-2] == f"{tmp_path / 'p.csv'}: {tiny.GALAXIES} galaxies"
    assert "p.csv.parts: no longer needed, but not deleted" in said[-1]


class _Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_an_output_without_a_suffix_is_a_dataset(world, models, tmp_path):
    (tmp_path / "images").mkdir()
    for file in (world / "images").iterdir():
        (tmp_path / "images" / file.name).symlink_to(file)
    (tmp_path / "images" / "bad.png").write_text("no image")
    for share in ((1, 2), (2, 2)):
        predict.predict_to_file(
            models[:1], str(tmp_path / "images"), tmp_path / "survey", views=1, shares=np.ones(1),
            readable=True, report=gzjax.Report(loud=False), size=10, share=share,
        )  # fmt: skip
    table = pd.read_parquet(tmp_path / "survey").set_index("GalaxyID")
    expected = models[0].predict(tmp_path / "images", views=1)
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    assert table.loc["bad", "morphology"] == ""
    assert table["morphology"].drop("bad").str.len().min() > 2
    in_parts.check_output(tmp_path / "survey", in_parts.WITH_FOLDERS)  # to be resumed
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="other is already there"):
        in_parts.check_output(tmp_path / "other", in_parts.WITH_FOLDERS)


def test_parts_of_another_prediction_are_not_taken_over(world, models, tmp_path, monkeypatch):
    def predict_all(models, views=1, shares=(1.0,), name="p.csv", images=world / "images"):
        predict.predict_to_file(
            models, str(images), tmp_path / name,
            views=views, shares=np.array(shares), readable=False,
            report=gzjax.Report(loud=False),
        )  # fmt: skip

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(in_parts, "join_parts", interrupted)
        for some, shares, name in ((models[:1], (1.0,), "p.csv"), (models, (0.5, 0.5), "two.csv")):
            with pytest.raises(KeyboardInterrupt):
                predict_all(some, shares=shares, name=name)
    first = models[0]
    smaller = first._replace(framing=first.framing._replace(crop=0.9))
    shutil.copytree(world / "images", tmp_path / "moved")
    for changed, arguments in (
        ("networks, framings", {"models": models[1:]}),
        ("views", {"models": [first], "views": 2}),
        ("framings", {"models": [smaller]}),
        ("temperatures", {"models": [first._replace(temperatures={1: 2.0})]}),
        ("weights", {"models": models, "shares": (0.25, 0.75), "name": "two.csv"}),
        ("images", {"models": [first], "images": tmp_path / "moved"}),
    ):
        with pytest.raises(UserError, match=f"was left by a command with different {changed};"):
            predict_all(**arguments)
    lock = files.locked(tmp_path / "p.csv.parts" / "_lock")
    with lock, pytest.raises(UserError, match="another process is writing there"):
        predict_all(models[:1])
    predict_all(models[:1])
    assert len(pd.read_csv(tmp_path / "p.csv")) == tiny.GALAXIES


def test_several_models_are_mixed(world, models):
    """In framings of their own; the shares are weights of their mean."""
    each = [model.predict(world / "images", views=1)[tiny.COLUMNS] for model in models]
    both = gzjax.predict(models, world / "images", views=1)[tiny.COLUMNS]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, atol=1e-6)
    more = gzjax.predict(models, world / "images", views=1, shares=(0.25, 0.75))[tiny.COLUMNS]
    np.testing.assert_allclose(more, 0.25 * each[0] + 0.75 * each[1], atol=1e-6)


def test_the_tree_of_a_run_cannot_be_another(world, workdirs, tmp_path):
    with pytest.raises(UserError, match=r"data\.tree: expected the tree of the run in .*desi$"):
        gzjax.load(workdirs[0], {"data.tree": "desi"})
    shutil.copy(world / "toy.toml", tmp_path / "moved.toml")
    gzjax.load(workdirs[0], {"data.tree": str(tmp_path / "moved.toml")})


def test_a_recipe_without_galaxies_is_described():
    """As pages of predictions need its tree alone."""
    its, framing = opened.describe_run(gzjax.recipe("gz2"), {}, None)
    assert its.name == "gz2"
    assert framing.crop == gzjax.recipe("gz2").data.crop


@pytest.mark.parametrize("order", [1, -1])
def test_an_image_that_one_framing_cannot_show_is_shown_in_none(order):
    """As of two models with other bands of FITS files, one of which a file lacks."""

    class Shown(ImageArrays):
        def __getitem__(self, position):
            if self.lacks == position:
                raise Unusable("no band z")
            return super().__getitem__(position)

    class Framed(NamedTuple):
        ids: list

        def framed(self, framing):
            images = Shown(np.zeros((3, 16, 16, 3), np.uint8), framing)
            images.lacks = 2 if framing is lacking else None
            return images

    lacking = Framing(crop=0.5, canvas=16)
    framings = [Framing(canvas=16), lacking][::order]
    ((_, there, faults),) = inference.batches_of(
        Framed(["a", "b", "c"]), framings, Reading(batch_size=4), len
    )
    assert there.tolist() == [True, True, True, False]
    assert faults == ["", "", "no band z"]


def test_a_mixture_is_scored_and_each_alone(models, galaxies):
    alone = [gzjax.evaluate(m, g, views=1) for m, g in zip(models, galaxies, strict=True)]
    both = gzjax.evaluate(models, galaxies, views=1)
    assert both["networks"] == 2
    assert both["workdirs"] == [model.name for model in models]
    assert both["mixture"] == [0.5, 0.5]
    for part, single in zip(both["alone"], alone, strict=True):
        assert part["rmse"] == pytest.approx(single["rmse"], rel=1e-6)
        assert part["together"] == pytest.approx(both["rmse"] - single["rmse"], abs=1e-9)
        low, high = part["together_interval"]
        assert low <= part["together"] <= high
    assert "raw_rmse" not in both


def test_a_fitted_mixture_is_best_where_it_was_fitted_and_not_scored_there(models, galaxies):
    shares = evaluate.mixture_of(models, galaxies, 1, "fitted")
    assert shares.sum() == pytest.approx(1)
    rows, found = evaluate.predict_all(models, galaxies, "validation", 1)
    observed, predicted = galaxies[0].observed(rows), [each["fractions"] for each in found]

    def error(weight):
        return ((weight * predicted[0] + (1 - weight) * predicted[1] - observed) ** 2).mean()

    best = min(np.linspace(0, 1, 101), key=error)
    assert shares[0] == pytest.approx(best, abs=0.011)
    result = gzjax.evaluate(models, galaxies, "test", views=1, mixture="fitted")
    assert result["mixture"] == shares.round(4).tolist()
    with pytest.raises(UserError, match="fitted on validation galaxies, it cannot be scored on"):
        gzjax.evaluate(models, galaxies, "validation", mixture="fitted")
    with pytest.raises(UserError, match="mixture: expected one of uniform, fitted, found 'best'"):
        gzjax.evaluate(models, galaxies, mixture="best")


def test_models_and_galaxies_that_do_not_belong_together_are_refused(models, galaxies):
    with pytest.raises(UserError, match="expected galaxies of the tree toy in"):
        gzjax.evaluate(models[0], galaxies[1])
    with pytest.raises(UserError, match="galaxies for each of 2 models, found 1"):
        gzjax.evaluate(models, galaxies[0])
    other = galaxies[0]._replace(splits={**galaxies[0].splits, "test": np.arange(3)})
    two = [models[0], models[0]]
    with pytest.raises(UserError, match="hold out different galaxies for test"):
        gzjax.evaluate(two, [galaxies[0], other])
    fewer = galaxies[0].with_fewer(5, 0)
    with pytest.raises(UserError, match="have different galaxies in train"):
        gzjax.evaluate(two, [galaxies[0], fewer], "train")
    changed = galaxies[0]._replace(votes=galaxies[0].votes[::-1])
    with pytest.raises(UserError, match=r"have different votes for the same [a-z]+ galax"):
        gzjax.evaluate(two, [galaxies[0], changed])
    tree = gzjax.load_tree("gz2")
    with pytest.raises(UserError, match="expected models of one tree"):
        gzjax.predict([models[0], models[1]._replace(tree=tree)], "nowhere")


def test_a_network_is_known_by_what_it_was_trained_on(models):
    model = models[0]
    assert model.identity == model._replace(name="moved").identity
    others = (
        model._replace(step=1),
        model._replace(about={**model.about, "data": "x"}),
        model._replace(digest="x"),
    )
    assert len({model.identity, *(other.identity for other in others)}) == 4
    changed = jax.tree.map(lambda leaf: leaf + (leaf.size == 6), model.weights)
    assert (
        digest_of(changed) != digest_of(model.weights) == digest_of(jax.device_get(model.weights))
    )


def test_packing_and_training_from_the_pack_changes_nothing(world, workdirs, tmp_path, capsys):
    config = tiny.config(world, epochs=3, evaluate__views=4)
    pack = tmp_path / "pack"
    options = {"cache": tmp_path, "check_images": True, "report": gzjax.Report()}
    packs.pack(config, pack, **options)
    assert f"{tiny.GALAXIES} galaxies (real galaxies) in {pack}" in capsys.readouterr().out
    packed = tiny.config(pack, epochs=3, evaluate__views=4, data__kind="pack")
    packed.data.tree = config.data.tree
    model = gzjax.train(packed, tmp_path / "run")
    # What is computed by the one is taken over by the other.
    assert model.identity == gzjax.load(tmp_path / "run").identity
    before = gzjax.load(workdirs[0])
    for one, other in zip(
        *(m.weights.params["classifier"].values() for m in (model, before)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match=r"--config.data.kind: expected sky or folder to be packed"):
        packs.pack(packed, tmp_path / "again", **options)


def test_recipes_are_configs_to_change():
    config = gzjax.recipe("test")
    config.epochs = 3
    assert config.data.kind == "sky"
    with pytest.raises(UserError, match="did you mean 'test'"):
        gzjax.recipe("tset")


def test_what_is_no_model_no_galaxies_or_no_config_is_said(models, galaxies, world, tmp_path):
    for wrong in ("runs/a", ["runs/a"], [], 3):
        with pytest.raises(UserError, match=r"models: expected what gzjax\.load gives"):
            gzjax.predict(wrong, world / "images")
    with pytest.raises(UserError, match=r"models: expected what gzjax\.load gives"):
        gzjax.evaluate("runs/a", galaxies[0])
    with pytest.raises(UserError, match=r"data: expected galaxies, as gzjax\.load_data gives"):
        gzjax.evaluate(models[0], "runs/a")
    for views in ("4", 2.0, 0):
        with pytest.raises(UserError, match="views: expected 1 or more, found"):
            models[0].predict(world / "images", views=views)
    with pytest.raises(UserError, match=r"config: expected one, as gzjax\.recipe gives it"):
        gzjax.train({"epochs": 3}, tmp_path / "run")
    with pytest.raises(UserError, match=r"mine\.py: no such recipe"):
        gzjax.train(tmp_path / "mine.py", tmp_path / "run")


def test_what_a_notebook_shows_of_a_model_and_of_galaxies_is_a_line(models, galaxies):
    for shown in (repr(models[0]), repr(galaxies[0])):
        assert "\n" not in shown
        assert len(shown) < 300
    assert "tree toy" in repr(models[0])
    assert f"{len(galaxies[0].ids)} galaxies, real galaxies: " in repr(galaxies[0])
