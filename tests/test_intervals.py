"""Models trained by the votes' likelihood: predictions with intervals, on counts, end to end."""

import json

import jax
import numpy as np
import pandas as pd
import pytest
import tiny

import gzjax
from gzjax import posterior, trees, votes
from gzjax.errors import UserError
from gzjax.run import build, evaluate, pack, predict, recorder
from gzjax.run import parts as in_parts
from gzjax.run.prediction_columns import Predicted, Wanted, survey_columns
from gzjax.trees import campaigns

KINDS = ("fraction", "90pc-lower", "90pc-upper")
DIRICHLET = {"loss__terms": ("dirichlet",), "loss__activation": "softmax", "evaluate__views": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Counts in Parquet, of volunteers who differ in number, some of whom leave early."""
    root = tiny.folder(tmp_path_factory.mktemp("world") / "galaxies")
    generator = np.random.default_rng(5)
    table = pd.read_csv(root / "votes.csv", dtype={"GalaxyID": str})
    counts = np.rint(table[tiny.COLUMNS] * generator.integers(20, 60, (len(table), 1)))
    counts["tail_yes"] = (counts["tail_yes"] - 1).clip(lower=0)
    over = counts["tail_yes"] + counts["tail_no"] - counts["shape_round"] - counts["shape_disk"]
    counts["shape_round"] += over.clip(lower=0)
    counts["shape_disk"] += (
        counts[["arms_none", "arms_one", "arms_two"]].sum(axis=1) - counts["shape_disk"]
    ).clip(lower=0)
    counts.insert(0, "id_str", table["GalaxyID"])
    counts.astype({column: int for column in tiny.COLUMNS}).to_parquet(root / "votes.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield root


def config(world, **options):
    return tiny.config(world, **({"data__table": "votes.parquet"} | DIRICHLET | options))


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append
    gzjax.train(config(world, epochs=8), folder, report=report)
    assert any("votes.parquet: counts of toy" in line and "3 of 3" in line for line in said)
    assert sum(line.startswith("intervals: 50 % hold") for line in said) == 4
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return gzjax.load(workdir)


def test_survey_columns_are_those_of_the_posterior(world, model):
    table = model.predict(world / "images", views=2)
    names = [f"{answer}_{kind}" for answer in tiny.COLUMNS for kind in KINDS]
    asked = ["shape_proportion-asked", "tail_proportion-asked", "arms_proportion-asked"]
    assert set(table.columns) == {*tiny.COLUMNS, *names, *asked, "fault"}
    assert list(table.columns[:8]) == tiny.COLUMNS  # cumulative
    assert table[names].dtypes.unique().tolist() == [np.float32]
    believed = model.posterior(world / "images", views=2)
    assert believed.concentrations.shape == (tiny.GALAXIES, 2, 8)
    assert list(believed.ids) == table.index.tolist()
    low, high = believed.interval(0.9)
    for place, answer in enumerate(tiny.COLUMNS):
        for kind, values in zip(KINDS, (believed.mean(), low, high), strict=True):
            np.testing.assert_allclose(table[f"{answer}_{kind}"], values[:, place], rtol=1e-5)
    np.testing.assert_allclose(table["shape_proportion-asked"], 1)
    reached = table["shape_round"] + table["shape_disk"]
    np.testing.assert_allclose(table["tail_proportion-asked"], reached, rtol=1e-5)
    # Views differ, and so the intervals of two are not those of one.
    one = model.predict(world / "images", views=1)
    assert not np.allclose(one["shape_disk_90pc-lower"], table["shape_disk_90pc-lower"], atol=1e-4)


def test_columns_are_those_asked_for(world, model, workdir):
    everything = model.predict(world / "images")
    challenge = model.predict(world / "images", columns="challenge")
    survey = model.predict(world / "images", columns="survey")
    assert list(challenge.columns) == [*tiny.COLUMNS, "fault"]
    assert not set(survey.columns) & set(tiny.COLUMNS)
    pd.testing.assert_frame_equal(challenge, everything[challenge.columns])
    pd.testing.assert_frame_equal(survey, everything[survey.columns])
    few = model.predict(world / "images", volunteers=10)
    steps = few["shape_disk_90pc-lower"] * 10
    np.testing.assert_allclose(steps, steps.round(), atol=1e-5)
    assert (few["shape_disk_fraction"] == everything["shape_disk_fraction"]).all()
    with pytest.raises(UserError, match="columns: expected one of challenge, survey, both, found"):
        model.predict(world / "images", columns="kaggle")
    with pytest.raises(UserError, match="volunteers: expected a whole number, 1 or more"):
        model.predict(world / "images", volunteers=0)
    with pytest.raises(UserError, match="volunteers: expected none with the columns challenge"):
        model.predict(world / "images", volunteers=10, columns="challenge")
    same = model.predict(world / "images", volunteers=np.int64(10))
    pd.testing.assert_frame_equal(same, few)
    with pytest.raises(UserError, match="campaigns: expected some of toy, found dr5"):
        model.predict(world / "images", campaigns=["dr5"])
    # A tree of one campaign may be named by it, though there is nothing to choose.
    one = model._replace(tree=trees.load("decals-dr5"))
    for name in ("dr5", "decals-dr5"):
        assert Wanted("", None, (name,)).of([one]).campaigns == ()


def test_the_only_campaign_may_be_named(world, model):
    every = model.predict(world / "images")
    pd.testing.assert_frame_equal(model.predict(world / "images", campaigns=["toy"]), every)


def test_nothing_is_known_of_a_question_that_nobody_would_be_asked(gz2):
    fractions = np.zeros((2, 37), np.float32)
    fractions[:, 0] = fractions[:, 15] = 1.0  # smooth, round
    fractions[1, :2], fractions[1, 3:5] = 0.5, (0.1, 0.4)
    found = survey_columns(Predicted(fractions, None, ["", ""]), gz2, Wanted("survey"))
    np.testing.assert_allclose(found["disk-edge-on-gz2_yes_fraction"], [np.nan, 0.2], rtol=1e-6)
    np.testing.assert_allclose(found["disk-edge-on-gz2_proportion-asked"], [0, 0.5])


def test_a_model_without_likelihood_has_fractions_but_no_intervals(world, tmp_path):
    plain = gzjax.train(config(world, loss__terms=("mse",), epochs=1), tmp_path)
    table = plain.predict(world / "images", columns="survey")
    assert list(table.columns[:4]) == [
        *("shape_round_fraction", "shape_disk_fraction", "shape_star_fraction"),
        "shape_proportion-asked",
    ]
    reached = plain.predict(world / "images")
    assert list(reached.columns) == [*tiny.COLUMNS, "fault"]
    conditional = reached["tail_yes"] / (reached["tail_yes"] + reached["tail_no"])
    np.testing.assert_allclose(table["tail_yes_fraction"], conditional, rtol=1e-5)
    with pytest.raises(UserError, match="volunteers: expected a model with the loss term dirich"):
        plain.predict(world / "images", volunteers=5)
    with pytest.raises(UserError, match="posterior: expected models trained with the loss term"):
        plain.posterior(world / "images")
    assert "intervals" not in gzjax.evaluate(plain, gzjax.load_data(tmp_path), views=1)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_files_have_the_columns_of_the_notebook(world, model, tmp_path, suffix):
    output = tmp_path / f"p{suffix}"
    for columns in ("survey", "both"):
        predict.predict_to_file(
            [model], str(world / "images"), output, views=2, shares=np.ones(1), readable=True,
            report=gzjax.Report(loud=False), wanted=Wanted(columns, 20), size=20,
        )  # fmt: skip
        text = {"GalaxyID": str}
        found = pd.read_csv(output, dtype=text) if suffix == ".csv" else pd.read_parquet(output)
        output.unlink()
        found = found.set_index("GalaxyID")
        expected = model.predict(world / "images", views=2, columns=columns, volunteers=20)
        expected = expected.drop(columns="fault")
        assert list(found.columns[: len(expected.columns)]) == list(expected.columns)
        assert "morphology" in found
        np.testing.assert_allclose(found[expected.columns], expected, atol=6e-7)


def test_parts_with_other_columns_are_not_taken_over(world, model, tmp_path, monkeypatch):
    def predicted(readable=False, **wanted):
        predict.predict_to_file(
            [model], str(world / "images"), tmp_path / "p.csv", views=1, shares=np.ones(1),
            readable=readable, report=gzjax.Report(loud=False), wanted=Wanted(**wanted),
        )  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(in_parts, "join_parts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predicted(columns="survey")
    others = {"columns": "both"}, {"columns": "survey", "volunteers": 5}
    for wanted in (*others, {"columns": "survey", "readable": True}):
        with pytest.raises(UserError, match="left by a command with different columns;"):
            predicted(**wanted)
    predicted(columns="survey")


def test_an_image_that_cannot_be_read_has_no_interval(world, model, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    files = [world / "images" / "1000.png", tmp_path / "bad.png"]
    table = model.predict(files)
    assert table.drop(columns="fault").isna().all(axis=1).tolist() == [False, True]
    believed = model.posterior(files)
    assert np.isnan(believed.concentrations).all(axis=(1, 2)).tolist() == [False, True]
    assert believed.faults[0] == ""
    assert believed.faults[1]


def test_coverage_is_scored_and_the_temperature_remembered(model, workdir):
    scores = {
        views: json.loads((workdir / f"evaluate_validation{suffix}.json").read_text())
        for views, suffix in ((1, ""), (3, "_3_views"))
    }
    for views, result in scores.items():
        (temperature,) = result["intervals"]["temperatures"]
        assert model.temperature(views) == temperature != 1
        plain, tempered = (result["intervals"][kind] for kind in ("plain", "tempered"))
        assert plain["levels"].keys() == tempered["levels"].keys() == {"50", "80", "90", "95"}
        assert plain != tempered
    assert model.temperature(2) in (model.temperature(1), model.temperature(3))
    assert model.temperature(99) == model.temperature(3)
    data = gzjax.load_data(workdir)
    for views in (1, 3):
        result = gzjax.evaluate(model, data, "test", views=views)
        assert result["intervals"]["temperatures"] == [model.temperature(views)]
        suffix = "_3_views" if views == 3 else ""
        assert result == json.loads((workdir / f"evaluate_test{suffix}.json").read_text())
        listed = pd.read_csv(workdir / f"coverage_test{suffix}.csv").set_index("answer")
        assert listed.index.tolist() == tiny.COLUMNS
        expected = result["intervals"]["tempered"]["answers"]["tail_no"]["covered"]
        assert listed.loc["tail_no", "covered"] == pytest.approx(expected)
    rows, (found,) = evaluate.predict_all([model], [data], "test", 3)
    believed = evaluate.mixed_posterior([model], [found["concentrations"]], [1.0])
    assert result["intervals"]["plain"] == posterior.coverage(believed, data.votes[rows])
    cooled = believed.concentrations / model.temperature(3)
    images = [data.images.place(row) for row in rows]
    np.testing.assert_allclose(model.posterior(images).concentrations, cooled, rtol=1e-4)


def test_temperatures_of_another_step_or_damaged_ones_are_none(tmp_path):
    assert recorder.read_temperatures(tmp_path, 5) == {}
    recorder.write_temperatures(tmp_path, 5, {1: 0.5, 16: 2.0})
    assert recorder.read_temperatures(tmp_path, 5) == {1: 0.5, 16: 2.0}
    assert recorder.read_temperatures(tmp_path, 6) == {}
    (tmp_path / "temperatures.json").write_text("{")
    assert recorder.read_temperatures(tmp_path, 5) == {}


def test_an_ensemble_is_a_mixture_of_its_members_views(world, model):
    other = model._replace(temperatures={3: 4.0}, name="other")
    both = gzjax.run.predict.posterior([model, other], world / "images", shares=[0.25, 0.75])
    assert both.concentrations.shape[1] == 6
    np.testing.assert_allclose(both.shares, [0.25 / 3] * 3 + [0.25] * 3)
    ratio = both.concentrations[:, :3] / both.concentrations[:, 3:]
    np.testing.assert_allclose(ratio, 4.0 / model.temperature(3), rtol=1e-4)


def test_coverage_of_an_ensemble_is_that_of_what_it_predicts(world, model, workdir, monkeypatch):
    """By its shares, of as many views as are averaged, at each member's own temperature."""
    data, rough = gzjax.load_data(workdir), jax.tree.map(lambda w: 1.5 * w, model.weights)
    members = [model, model._replace(weights=rough, temperatures={3: 4.0}, name="other")]
    shares, fitted = np.array([0.25, 0.75]), []

    def fit(predicted, observed):
        fitted.extend(predicted)
        return shares

    monkeypatch.setattr(evaluate.ensemble, "fit_weights", fit)
    result = gzjax.evaluate(members, [data, data], "test", views=3, mixture="fitted")
    _, chosen = evaluate.predict_all(members, [data, data], "validation", 3)
    for found, expected in zip(fitted, chosen, strict=True):
        np.testing.assert_array_equal(found, expected["fractions"])
    rows, found = evaluate.predict_all(members, [data, data], "test", 3)
    images = [data.images.place(row) for row in rows]
    together = gzjax.run.predict.posterior(members, images, views=3, shares=shares)
    believed = posterior.Posterior(together.concentrations, together.shares, model.tree)
    expected = posterior.coverage(believed, data.votes[rows])
    assert result["intervals"]["temperatures"] == [model.temperature(3), 4.0]
    for level, share in expected["levels"].items():
        assert result["intervals"]["tempered"]["levels"][level] == pytest.approx(share)
    # On validation one temperature is fitted, to all.
    result = gzjax.evaluate(members, [data, data], "validation", views=3)
    one, same = result["intervals"]["temperatures"]
    assert one == same
    assert result["intervals"]["tempered"] != result["intervals"]["plain"]


def test_unknown_questions_train_and_are_scored_by_what_is_known(world, tmp_path):
    table = pd.read_parquet(world / "votes.parquet").drop(columns=["arms_one"])
    table.loc[3, "tail_yes"] = None
    table.to_parquet(world / "less.parquet")
    model = gzjax.train(config(world, data__table="less.parquet", epochs=1), tmp_path)
    result = json.loads((tmp_path / "evaluate_test.json").read_text())
    assert result["rmse_per_question"]["arms"] is None
    assert result["rmse_per_question"]["tail"] > 0
    assert result["accuracies"]["arms"]["galaxies"] == 0
    assert result["intervals"]["plain"]["answers"]["arms_one"]["covered"] is None
    data = gzjax.load_data(tmp_path)
    rows = data.splits["test"]
    observed = votes.observed(data.votes[rows], data.tree)
    _, (found,) = evaluate.predict_all([model], [data], "test", 1)
    wrong = (found["fractions"] - observed)[:, :5]
    assert result["rmse"] == pytest.approx(np.sqrt(np.nanmean(wrong**2)), rel=1e-5)
    assert model.predict(world / "images")["arms_one_fraction"].notna().all()


def test_several_campaigns_are_predicted_apart(world, tmp_path):
    """A tree of two: the toy's, and one of rings under which nobody has voted here."""
    ring = tmp_path / "ring.toml"
    ring.write_text(
        'name = "ring"\n[[questions]]\nname = "ring"\nanswers = ["yes", "no"]\n'
        '[columns]\nsurvey = "{question}-rings_{answer}"\n'
    )
    folder = tmp_path / "rings"
    folder.mkdir()
    (folder / "images").symlink_to(world / "images")
    table = pd.read_parquet(world / "votes.parquet")
    counts = {"ring-rings_yes": np.arange(48) % 20, "ring-rings_no": 20 - np.arange(48) % 20}
    table[["id_str"]].assign(**counts).to_csv(folder / "votes.csv", index=False)
    catalogues = (
        {"root": str(world), "table": "votes.parquet"},
        {"root": str(folder), "table": "votes.csv", "tree": str(ring)},
    )
    model = gzjax.train(config(world, data__catalogues=catalogues, epochs=1), tmp_path / "run")
    assert model.tree == campaigns.union([gzjax.load_tree(str(world / "toy.toml")),
                                      gzjax.load_tree(str(ring))])  # fmt: skip
    result = json.loads((tmp_path / "run" / "evaluate_test.json").read_text())
    assert list(result["catalogues"]) == ["galaxies", "rings"]
    whole = model.predict(world / "images")
    some = model.predict(world / "images", campaigns="rings")
    with pytest.raises(UserError, match=r"campaigns: expected some of rings, toy, found dr5"):
        model.predict(world / "images", campaigns=["dr5", "toy"])
    assert [name for name in whole.columns if "ring-rings" in name] == list(some.columns[:-1])
    pd.testing.assert_frame_equal(some, whole[some.columns])
    again = gzjax.load(tmp_path / "run").predict(world / "images", campaigns=["rings"])
    pd.testing.assert_frame_equal(again, some)
    report = gzjax.Report(loud=False)
    both = config(world, data__catalogues=catalogues)
    pack.pack(both, tmp_path / "pack", cache=None, check_images=False, report=report)
    packed = {"data.kind": "pack", "data.root": str(tmp_path / "pack"), "data.catalogues": ()}
    packed["data.tree"] = f"{world / 'toy.toml'}+{ring}"
    data = gzjax.load_data(tmp_path / "run", packed)
    assert data.tree == model.tree
    assert [member.name for member in data.members] == ["galaxies", "rings"]


@pytest.mark.parametrize("question", ["shape", "tail", "arms"])
def test_any_question_may_be_missing(world, tmp_path, question):
    """Without the first no cumulative fraction is known, but votes can be learnt from."""
    table = pd.read_parquet(world / "votes.parquet")
    lacking = [column for column in tiny.COLUMNS if column.startswith(question)]
    table.drop(columns=lacking[:1]).to_parquet(world / f"no-{question}.parquet")
    said = []
    report = gzjax.Report(loud=False)
    report.say = said.append
    options = {"data__table": f"no-{question}.parquet", "epochs": 1}
    model = gzjax.train(config(world, **options), tmp_path / "run", report=report)
    assert any(f"unknown: {question}" in line for line in said)
    result = json.loads((tmp_path / "run" / "evaluate_test.json").read_text())
    assert (result["rmse"] is None) == (question == "shape")
    assert result["rmse_per_question"][question] is None
    assert result["intervals"]["plain"]["questions"]["arms"]["galaxies"] == 0 or question != "arms"
    assert "NaN" not in (tmp_path / "run" / "evaluate_test.json").read_text()
    gzjax.Report(loud=True).evaluation(result)
    again = gzjax.evaluate(gzjax.load(tmp_path / "run"), gzjax.load_data(tmp_path / "run"), views=1)
    assert again == result
    assert model.predict(world / "images")["tail_yes_90pc-lower"].notna().all()
    if question == "shape":
        with pytest.raises(UserError, match=r"loss.terms: expected dirichlet .* votes lack shape"):
            gzjax.train(config(world, loss__terms=("mse",), **options), tmp_path / "mse")
