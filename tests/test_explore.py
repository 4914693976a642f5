"""Predictions read back, and the page to explore them, as a parser and as a browser see it."""

import base64
import io
import json
import re
import sys
import tomllib
import types

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from test_page import Page

from gzjax import UserError, describe, tree
from gzjax.data import embeddings
from gzjax.data.framing import Framing
from gzjax.posterior import Posterior
from gzjax.run import explore, prediction_columns, predictions
from gzjax.run.parts import write_parquet
from gzjax.run.predict import published
from gzjax.run.prediction_columns import Predicted, Wanted
from gzjax.trees import NAMES
from gzjax.trees.campaigns import union

TOY = tree.Tree.from_dict(tomllib.loads(tiny.TREE))
NUMBER = 150


def predicted(of: tree.Tree, number: int = NUMBER, views: int = 2) -> Predicted:
    """Predictions with intervals, drawn at random."""
    outputs = 2 * np.random.default_rng(0).normal(size=(number, views, of.size))
    fractions = np.asarray(tree.fractions(outputs, of, "softmax")).mean(axis=1)
    concentrations = np.asarray(tree.concentrations(outputs, of, "softmax"))
    shares = np.full(views, 1 / views)
    return Predicted(fractions, Posterior(concentrations, shares, of), [""] * number)


def ids_of(number: int) -> list[str]:
    return [f"{n:04}" for n in range(number)]


def table_of(of: tree.Tree, given: Predicted, kind: str = "both", campaigns=()) -> pd.DataFrame:
    """The table as --mode predict makes it, with `fault`."""
    wanted = Wanted(kind, None, campaigns)
    table = prediction_columns.table_of(of, ids_of(len(given.faults)), [given], wanted)
    return published(table, of, wanted, readable=True).to_pandas()


def save(table: pd.DataFrame, file):
    """Writes it as CSV, as Parquet, or as a folder of parts."""
    whole = table.drop(columns="fault", errors="ignore")
    if file.suffix == ".csv":
        whole.to_csv(file, index=False, float_format="%.6f")
    elif file.suffix == ".parquet":
        whole.to_parquet(file, index=False)
    else:
        file.mkdir()
        (file / "_job.json").write_text("{}")
        for number, rows in enumerate(np.array_split(np.arange(len(table)), 3)):
            table.iloc[rows].to_parquet(file / f"{number:09}.parquet", index=False)
    return file


TREES = [TOY, *map(tree.load, NAMES)]


@pytest.mark.parametrize("of", TREES, ids=lambda of: of.name)
def test_columns_of_every_tree_are_found(of, tmp_path):
    given = predicted(of, 3)._replace(posterior=None)
    asked = of.asked(given.fractions)
    for kind, suffix in {"challenge": ".csv", "survey": ".parquet"}.items():
        file = save(table_of(of, given, kind), tmp_path / f"{kind}{suffix}")
        found = predictions.read(file, TREES, 100)
        assert (found.tree, found.low) == (of, None)
        np.testing.assert_allclose(found.cumulative, given.fractions, atol=2e-6)
        np.testing.assert_allclose(found.asked, asked, atol=1e-5)


def test_what_nobody_is_asked_nobody_answers(tmp_path):
    """With relu a gate may be exactly 0; tables of surveys are blank behind it."""
    of = tree.load("gz2")
    outputs = np.random.default_rng(0).normal(size=(40, of.size))
    given = np.asarray(tree.fractions(outputs, of, "relu"))
    table = table_of(of, Predicted(given, None, [""] * 40), "survey")
    assert table.isna().to_numpy().any()
    for suffix in (".csv", ".parquet"):
        found = predictions.read(save(table, tmp_path / f"p{suffix}"), TREES, 100)
        np.testing.assert_allclose(found.cumulative, given, atol=2e-6)
    # So may one that is merely too small to divide by.
    few = given[:1].copy()
    few[0, :2] = 1 - 7e-7 - few[0, 2], 7e-7
    for question in of.by_depth:
        if question.gates and question.number != 7:
            asked = few[:, list(question.gates)].sum(axis=1)
            few[:, question.columns] = asked / len(question.answers)
    table = table_of(of, Predicted(few, None, [""]), "survey")
    assert table.isna().to_numpy().any()
    for suffix in (".csv", ".parquet"):
        found = predictions.read(save(table, tmp_path / f"few{suffix}"), TREES, 100)
        np.testing.assert_allclose(found.cumulative, few, atol=4e-6)
    bar = of.questions[2]  # of which a table may say nothing at all
    lacking = table.drop(columns=[name for name in table if name.startswith(bar.name)])
    found = predictions.read(save(lacking, tmp_path / "lacking.csv"), TREES, 100)
    assert np.isnan(found.cumulative[:, bar.columns]).all()


@pytest.mark.parametrize("name", ["toy", "gz2", "decals-dr5"])
def test_what_is_written_is_read_back(name, tmp_path):
    of = next(each for each in TREES if each.name == name)
    given = predicted(of, 20)
    low, high = given.posterior.interval(0.9)
    kinds = {"challenge": ".csv", "survey": ".parquet", "both": ""}
    for kind, suffix in kinds.items():
        file = save(table_of(of, given, kind), tmp_path / f"{kind}{suffix}")
        found = predictions.read(file, TREES, 100)
        assert found.tree == of
        assert (found.ids, found.number) == (ids_of(20), 20)
        asked = of.asked(given.fractions)
        reached = asked[:, of.question_of] > 0.01
        np.testing.assert_allclose(found.asked, asked, atol=1e-5)
        conditional = np.asarray(tree.normalise(given.fractions, of)[0])
        if kind == "challenge":
            assert found.low is None
            np.testing.assert_allclose(found.cumulative, given.fractions, atol=2e-6)
        else:
            np.testing.assert_allclose(found.low, low, atol=1e-5)
            np.testing.assert_allclose(found.high, high, atol=1e-5)
            conditional = given.posterior.mean()
        if kind == "survey":  # of a mixture the mean of the product is not that of the factors
            expected = conditional * asked[:, of.question_of]
            np.testing.assert_allclose(found.cumulative, expected, atol=1e-5)
        np.testing.assert_allclose(found.conditional[reached], conditional[reached], atol=2e-3)


def test_questions_of_other_campaigns_are_unknown(tmp_path):
    of = union([tree.load("decals-dr5"), tree.load("rings")])
    file = save(table_of(of, predicted(of, 8), "both", ("dr5",)), tmp_path / "p.csv")
    found = predictions.read(file, [of], 100)
    for question in of.questions:
        unknown = np.isnan(found.cumulative[:, question.columns]).all()
        assert unknown == (not question.name.endswith("-dr5"))
    page = made(tmp_path, file, [of])
    assert [each["name"] for each in page["questions"]] == [
        question.name for question in of.questions if question.name.endswith("-dr5")
    ]


def test_the_columns_of_a_page_of_the_second_campaign_alone_are_counted_from_the_first(tmp_path):
    of = union([tree.load("decals-dr5"), tree.load("rings")])
    file = save(table_of(of, predicted(of, 8), "both", ("rings",)), tmp_path / "p.csv")
    known = explore._known(predictions.read(file, [of], 100))
    assert {question.name for question, _ in known} == {
        question.name for question in of.questions if question.name.endswith("-rings")
    }
    sizes = [len(question.answers) for question, _ in known]
    assert [first for _, first in known] == [sum(sizes[:n]) for n in range(len(sizes))]


def test_of_many_a_random_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "BATCH", 7)
    table = table_of(TOY, predicted(TOY, 60))
    table.loc[[3, 30], "fault"] = "unreadable"
    for suffix in (".csv", ".parquet", ""):
        file = save(table if not suffix else table[table["fault"] == ""], tmp_path / f"p{suffix}")
        found = predictions.read(file, [TOY], 25)
        assert (len(found.ids), found.number) == (25, 58)
        assert found.ids == sorted(set(found.ids))
        assert not {"0003", "0030"} & set(found.ids)
        assert found.ids != ids_of(25)
        rows = table.set_index("GalaxyID").loc[found.ids, list(TOY.columns)]
        np.testing.assert_allclose(found.cumulative, rows, atol=1e-6)
        assert predictions.read(file, [TOY], 25).ids == found.ids
        assert predictions.read(file, [TOY], 25, seed=1).ids != found.ids
        assert len(predictions.read(file, [TOY], 58).ids) == 58


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.rename(columns={"GalaxyID": "name"}), "expected a column GalaxyID"),
        (lambda t: t[["GalaxyID", "shape_round"]], "expected the answers of a tree"),
        (lambda t: t.assign(shape_round=3.0), "shape_round of 0000: expected a fraction, found 3"),
        (lambda t: t.assign(GalaxyID="0001"), "GalaxyID 0001 appears twice"),
        (
            lambda t: t.assign(**dict.fromkeys(TOY.columns)),
            "expected fractions of the votes, found",
        ),
        (lambda t: t[:0], "expected predicted galaxies, found none"),
        (lambda t: t.assign(shape_round="many"), "not readable as predictions: "),
    ],
)
def test_what_is_no_prediction_is_said_in_one_line(tmp_path, change, expected):
    table = table_of(TOY, predicted(TOY, 4), "challenge")
    for suffix in (".csv", ".parquet"):
        file = save(change(table), tmp_path / f"p{suffix}")
        with pytest.raises(UserError, match=re.escape(expected)) as raised:
            predictions.read(file, TREES, 100)
        assert str(raised.value).startswith(str(file))
        assert "\n" not in str(raised.value)


def test_files_that_are_not_there_or_no_tables_are_said(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "p.csv").write_bytes(b"\x00\xff")
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    for name in ("empty", "p.csv", "p.parquet", "no.csv", "no.parquet", "p.txt", "no"):
        with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
            predictions.read(tmp_path / name, TREES, 100)
    file = save(table_of(TOY, predicted(TOY, 4)), tmp_path / "good.csv")
    with pytest.raises(UserError, match=r"ends with \.html"):
        explore.write(file, tmp_path / "x.htm", trees=[TOY])
    (tmp_path / "x.html").write_text("mine")
    with pytest.raises(UserError, match="already there"):
        explore.write(file, tmp_path / "x.html", trees=[TOY])
    monkeypatch.setitem(sys.modules, "umap", None)  # which makes its import fail
    for kind, expected in (("umap", "map: umap needs the extra umap"), ("tsne", "one of pca, um")):
        with pytest.raises(UserError, match=expected):
            explore.write(file, tmp_path / "y.html", trees=[TOY], kind=kind)
    tiny.folder(tmp_path / "others", 2)
    with pytest.raises(UserError, match="images: expected those of the predicted galaxies"):
        explore.write(
            file, tmp_path / "y.html", trees=[TOY], images=str(tmp_path / "others" / "images")
        )
    assert not (tmp_path / "y.html").exists()


# --- what is alike ---


def test_neighbours_are_the_nearest_others(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "BLOCK", 16)
    found = predictions.read(save(table_of(TOY, predicted(TOY, 50)), tmp_path / "p.csv"), [TOY], 99)
    features = np.random.default_rng(1).normal(size=(50, 9)).astype(np.float16)
    features[7] = features[3]  # a copy
    names = [name for name in found.ids if name != "0005"][::-1]
    rows = [found.ids.index(name) for name in names]
    names.insert(4, "of another table")
    rows.insert(4, 0)
    table = embeddings.table(names, features[rows], [""] * len(names))
    write_parquet([table.drop_columns("fault")], tmp_path / "e.parquet", embeddings.metadata({}))
    alike = explore.find_alike(found, tmp_path / "e.parquet", "pca")
    assert alike.missing == 1
    assert np.isnan(alike.places[5]).all()
    assert (alike.neighbours[5] == -1).all()
    unit = embeddings.unit(features)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    cosines[:, 5] = -2
    for row in range(50):
        if row != 5:
            expected = np.sort(cosines[row])[::-1][: explore.NEIGHBOURS]
            np.testing.assert_allclose(alike.similarity[row], expected, atol=1e-6)
            np.testing.assert_allclose(cosines[row, alike.neighbours[row]], expected, atol=1e-6)
            assert len(set(alike.neighbours[row])) == explore.NEIGHBOURS
    assert alike.neighbours[3, 0] == 7
    with pytest.raises(UserError, match="expected embeddings of the predicted galaxies"):
        explore.find_alike(found._replace(ids=["x"] * 50), tmp_path / "e.parquet", "pca")


def test_without_embeddings_galaxies_of_like_cumulative_fractions_are_alike(tmp_path):
    found = predictions.read(save(table_of(TOY, predicted(TOY, 50)), tmp_path / "p.csv"), [TOY], 99)
    alike = explore.find_alike(found, None, "pca")
    unit = embeddings.unit(np.asarray(found.cumulative))
    cosines = unit @ unit.T - 3 * np.eye(50)
    expected = np.sort(cosines, axis=1)[:, ::-1][:, : explore.NEIGHBOURS]
    np.testing.assert_allclose(alike.similarity, expected, atol=1e-6)


def test_pictures_are_cut_out_as_asked(tmp_path):
    save(table_of(TOY, predicted(TOY, 2)), tmp_path / "p.csv")
    (tmp_path / "images").mkdir()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[12:52, 12:52] = 200  # more than the central half
    for name in ids_of(2):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    shown = {"images": str(tmp_path / "images"), "framing": Framing(0.5)}
    page = made(tmp_path, tmp_path / "p.csv", [TOY], **shown)
    for picture in page["pictures"]:
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), int)
        assert np.abs(seen - 200).max() < 5


def test_few_galaxies_have_few_neighbours(tmp_path):
    for number in (1, 2, 5):
        given = predicted(TOY, number)._replace(posterior=None)
        found = predictions.read(save(table_of(TOY, given), tmp_path / f"{number}.csv"), [TOY], 99)
        alike = explore.find_alike(found, None, "pca")
        assert ((alike.neighbours >= 0).sum(axis=1) == number - 1).all()
        assert (alike.neighbours != np.arange(number)[:, None]).all()
        assert alike.places.shape == (number, 2)
        assert ((alike.places >= 0) & (alike.places <= 1)).all()


@pytest.mark.parametrize("number", [12, 40])
def test_galaxies_that_are_all_the_same_are_one_point_and_each_others_neighbours(tmp_path, number):
    """None is its own, also where so many are as similar that it is not among its nearest."""
    one = predicted(TOY, 1)._replace(posterior=None)
    alike_all = one._replace(fractions=one.fractions.repeat(number, axis=0), faults=[""] * number)
    table = save(table_of(TOY, alike_all), tmp_path / "p.csv")
    features = np.full((number, 6), 0.25, np.float16)
    made_of = embeddings.table(ids_of(number), features, [""] * number).drop_columns("fault")
    write_parquet([made_of], tmp_path / "e.parquet", embeddings.metadata({}))
    found = predictions.read(table, [TOY], 99)
    for file in (None, tmp_path / "e.parquet"):
        (tmp_path / "p.csv.html").unlink(missing_ok=True)
        alike = explore.find_alike(found, file, "pca")
        assert np.isfinite(alike.places).all()
        np.testing.assert_allclose(alike.places, 0.5, atol=1e-3)
        count = min(explore.NEIGHBOURS, number - 1)
        for galaxy, row in enumerate(alike.neighbours):
            there = set(row[row >= 0].tolist())
            assert len(there) == count
            assert there <= {*range(number)} - {galaxy}
        np.testing.assert_allclose(alike.similarity[:, :count], 1, atol=1e-3)
        content = made(tmp_path, table, [TOY], embeddings=file)
        assert len(content["ids"]) == number


def test_the_map_shows_the_principal_components():
    features = np.random.default_rng(2).normal(size=(40, 5)) * [1, 5, 0.1, 3, 1] + 7
    places = explore.principal(features)
    centred = features - features.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    for axis in (0, 1):
        expected = left[:, axis] * sizes[axis]
        given = places[:, axis] - places[:, axis].mean()
        scale = (given @ expected) / (expected @ expected)
        np.testing.assert_allclose(given, scale * expected, atol=1e-9)
    assert np.ptp(places[:, 0]) == pytest.approx(1)
    ratio = np.ptp(left[:, 1] * sizes[1]) / np.ptp(left[:, 0] * sizes[0])
    assert np.ptp(places[:, 1]) == pytest.approx(ratio)  # on one scale


def test_umap_is_used_where_it_is_asked_for(tmp_path, monkeypatch):
    class Umap:
        """In place of umap-learn, which is not installed for the tests."""

        def __init__(self, *, n_neighbors, metric, random_state):
            assert (n_neighbors, metric, random_state) == (7, "cosine", 0)

        def fit_transform(self, features):
            return np.stack([np.arange(8.0), 2 * np.arange(8.0)], axis=1)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    found = predictions.read(save(table_of(TOY, predicted(TOY, 8)), tmp_path / "p.csv"), [TOY], 99)
    alike = explore.find_alike(found, None, "umap")
    np.testing.assert_allclose(alike.places[:, 1], np.arange(8) / 7, atol=1e-6)
    assert alike.by == "predicted fractions, UMAP"
    explore.write(tmp_path / "p.csv", tmp_path / "p.html", trees=[TOY], kind="umap")
    assert "predicted fractions, UMAP" in Page((tmp_path / "p.html").read_text()).text
    few = predictions.read(save(table_of(TOY, predicted(TOY, 4)), tmp_path / "f.csv"), [TOY], 99)
    with pytest.raises(UserError, match="map: umap expects at least 5 galaxies, found 4"):
        explore.find_alike(few, None, "umap")


# --- the page ---


def made(folder, table, trees, **options) -> dict:
    """What the script of the page reads."""
    output = folder / f"{table.name}.html"
    explore.write(table, output, trees=trees, **options)
    return json.loads(re.search(r'id="galaxies">(.*?)</script>', output.read_text(), re.S)[1])


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.fixture(scope="module")
def given():
    return predicted(TOY)


@pytest.fixture(scope="module")
def source(given, tmp_path_factory):
    """A folder of predictions p.csv, images, two of which are missing or broken, and embeddings."""
    folder = tmp_path_factory.mktemp("explore")
    save(table_of(TOY, given), folder / "p.csv")
    (folder / "images").mkdir()
    generator = np.random.default_rng(5)
    for row, name in enumerate(ids_of(NUMBER)):
        if name != "0002":
            pixels = np.full((48, 64, 3), row, np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    (folder / "images" / "0001.png").write_bytes(b"no image")
    features = generator.normal(size=(NUMBER, 6)).astype(np.float16)
    table = embeddings.table(ids_of(NUMBER)[:-1], features[:-1], [""] * (NUMBER - 1))
    write_parquet([table.drop_columns("fault")], folder / "e.parquet", embeddings.metadata({}))
    return folder


@pytest.fixture(scope="module")
def explored(source):
    explore.write(
        source / "p.csv", source / "explore.html", trees=[TOY], images=str(source / "images"),
        embeddings=source / "e.parquet",
    )  # fmt: skip
    return source / "explore.html"


def test_the_page_holds_the_predictions(explored, given):
    text = explored.read_text()
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'; img-src data: 'self' file:; style-src")
    assert "script-src 'sha256-" in policy
    assert f"{NUMBER} galaxies with predicted answers to the tree toy" in page.text
    assert "drawn at random" not in page.text
    assert "2 without a picture" in page.text
    assert "1 without an embedding" in page.text
    content = json.loads(re.search(r'id="galaxies">(.*?)</script>', text, re.S)[1])
    assert content["ids"] == ids_of(NUMBER)
    cumulative = unpacked(content["cumulative"], "<u2").reshape(NUMBER, -1) / explore.ONE
    np.testing.assert_allclose(cumulative, given.fractions, atol=1e-5)
    low = unpacked(content["low"], "<u2").reshape(NUMBER, -1) / explore.ONE
    np.testing.assert_allclose(low, given.posterior.interval(0.9)[0], atol=2e-5)
    looks = [", ".join(content["looks"][n]) for n in unpacked(content["look"], "<u4")]
    assert looks == describe.readable(given.fractions, TOY).iloc[:, -1].tolist()
    assert unpacked(content["places"], "<u2").reshape(-1, 2)[-1].tolist() == [explore.ONE + 1] * 2
    assert [bool(each) for each in content["pictures"][:4]] == [True, False, False, True]
    picture = Image.open(io.BytesIO(base64.b64decode(content["pictures"][100])))
    assert picture.size == (explore.SIDE, explore.SIDE)
    assert np.abs(np.asarray(picture, int) - 100).max() < 5


def test_many_pictures_lie_beside_the_page(source, tmp_path, monkeypatch):
    monkeypatch.setattr(explore, "EMBEDDED", 10)
    table = tmp_path / "p #1.csv"
    table.write_bytes((source / "p.csv").read_bytes())
    page = made(tmp_path, table, [TOY], images=str(source / "images"), most=50)
    assert page["prefix"] == "p%20%231.csv_pictures/"
    there = {file.name for file in (tmp_path / "p #1.csv_pictures").iterdir()}
    assert there == {name for name in page["pictures"] if name}
    row = next(n for n, name in enumerate(page["pictures"]) if name)
    shown = Image.open(tmp_path / "p #1.csv_pictures" / page["pictures"][row])
    assert np.abs(np.asarray(shown, int) - int(page["ids"][row])).max() < 5
    text = Page((tmp_path / "p #1.csv.html").read_text()).text
    assert "This page shows 50 of them, drawn at random." in text
    assert "The pictures lie in the folder p #1.csv_pictures" in text
    # They stay those of that page, whatever it is called by now.
    page = tmp_path / "p #1.csv.html"
    page.rename(tmp_path / "before.html")
    with pytest.raises(UserError, match=r"_pictures is already there; delete it, or name another"):
        explore.write(table, page, trees=[TOY], images=str(source / "images"))
    explore.write(table, page, trees=[TOY])


def test_names_are_text_whatever_they_are(tmp_path):
    table = table_of(TOY, predicted(TOY, 3), "challenge")
    hostile = '</script><script>alert(1)</script><!--&"'
    table["GalaxyID"] = [hostile, "=1+1", "x,y"]
    file = save(table, tmp_path / "<b>&.parquet")
    assert made(tmp_path, file, [TOY])["ids"][0] == hostile
    page = Page((tmp_path / "<b>&.parquet.html").read_text())
    assert len(page.all("script")) == 2
    assert not page.all("b")
    assert page.text.startswith("<b>&.parquet")


# --- in a browser ---


@pytest.fixture
def opened(browser, explored):
    """A page of the explorer, which asks for nothing and complains of nothing."""
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(explored.as_uri())
    page.locator("#cards .thumb").first.wait_for()
    yield page
    assert said == []
    outside = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert outside == [explored.as_uri()]
    page.close()


def shown(page) -> list[str]:
    """GalaxyIDs of the gallery, and how many there are in all its pages."""
    settle(page)
    return page.eval_on_selector_all("#cards input", "all => all.map(i => i.ariaLabel.slice(7))")


def settle(page) -> None:
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def number(page) -> int:
    settle(page)
    return int(page.inner_text("#status").split()[0])


def test_in_a_browser(browser, explored):
    from axe_playwright_python.sync_playwright import Axe

    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto(explored.as_uri())
        page.locator("#cards .thumb").first.click()
        for group in page.query_selector_all("details"):
            group.evaluate("each => { each.open = true }")
        axe = Axe().run(page)
        assert axe.violations_count == 0, axe.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.eval_on_selector_all(
            "#cards img", "all => all.map(i => [i.naturalWidth, Math.round(i.width - i.height)])"
        )
        assert sizes
        assert all(size == [explore.SIDE, 0] for size in sizes)
        page.close()


def test_filters_filter_and_sorts_sort(opened, given):
    assert number(opened) == NUMBER
    assert shown(opened) == ids_of(NUMBER)[:60]
    different, which = describe.morphologies(given.fractions, TOY)
    phrase = "shape: disk"
    has = np.array([phrase in different[n] for n in which])
    opened.check(f'[name=look][value="{phrase}"]', force=True)
    assert number(opened) == has.sum() > 5
    slider = '[data-column="3"][data-end=%s]'  # tail: yes
    opened.fill(slider % "least", "20", force=True)
    opened.fill(slider % "most", "60", force=True)
    tail = (given.fractions[:, 3] >= 0.2) & (given.fractions[:, 3] <= 0.6)
    expected = np.flatnonzero(has & tail)
    assert shown(opened) == [ids_of(NUMBER)[row] for row in expected]
    assert 0 < len(expected) < has.sum()
    assert opened.text_content("#range-3") == "20 to 60"
    opened.select_option("#sort", label="shape: disk")
    order = expected[np.argsort(-given.fractions[expected, 1])]
    assert shown(opened) == [ids_of(NUMBER)[row] for row in order]
    opened.check("#reverse")
    assert shown(opened) == [ids_of(NUMBER)[row] for row in order[::-1]]
    opened.click("#filters [type=reset]")
    assert number(opened) == NUMBER
    opened.fill("#search", "014")
    opened.select_option("#sort", "")
    opened.uncheck("#reverse")
    assert shown(opened) == [name for name in ids_of(NUMBER) if "014" in name]
    opened.fill("#search", "nothing")
    assert shown(opened) == []
    assert opened.is_visible("#nothing")


@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_not_known_comes_last_in_either_direction(opened, reverse):
    opened.evaluate("data.cumulative[3 * ANSWERS + 1] = 65535")
    opened.set_checked("#reverse", reverse)
    opened.select_option("#sort", label="shape: disk")
    settle(opened)
    opened.click("#next")
    opened.click("#next")
    assert shown(opened)[-1] == ids_of(NUMBER)[3]


def test_pages_turn(opened):
    assert opened.is_disabled("#previous")
    opened.click("#next")
    opened.click("#next")
    assert shown(opened) == ids_of(NUMBER)[120:]
    assert opened.inner_text("#page") == "Page 3 of 3"
    assert opened.is_disabled("#next")
    opened.click("#previous")
    assert shown(opened)[0] == "0060"


def test_a_galaxy_is_shown_with_its_tree_and_neighbours(opened, given, source):
    opened.focus("#cards .thumb >> nth=8")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.textContent") == "0008"
    assert opened.get_attribute("#picture", "alt") == "Galaxy 0008"
    words = describe.readable(given.fractions[8:9], TOY).iloc[0, -1]
    assert opened.inner_text("#words") == words
    asked = TOY.asked(given.fractions[8])
    reached = opened.eval_on_selector_all(
        "#reached caption", "all => all.map(c => c.firstChild.textContent.trim())"
    )
    names = [question.name for question in TOY.questions]
    assert reached == [n for n, part in zip(names, asked, strict=True) if part >= 0.5]
    mean, (low, high) = given.posterior.mean()[8], given.posterior.interval(0.9)
    rows = opened.eval_on_selector_all(
        "#reached tbody tr, #others tbody tr", "all => all.map(r => r.textContent)"
    )
    told = dict(zip([n for q in TOY.questions for n in q.answers], range(TOY.size), strict=True))
    for row in rows:
        answer, _, rest = row.partition("90 % interval: ")
        column = {**told, "none": 5}[answer]
        ends = re.fullmatch(r"(\d+) to (\d+?)(\d{1,2}|100)", rest)
        expected = [100 * float(x) for x in (low[8, column], high[8, column], mean[column])]
        joined = "".join(ends.groups()) if ends else rest
        exact = "".join(str(int(np.floor(value + 0.5))) for value in expected)
        assert joined == exact or not ends
    near = opened.eval_on_selector_all("#neighbours .thumb", "all => all.map(b => b.dataset.row)")
    found = predictions.read(source / "p.csv", [TOY], 999)
    alike = explore.find_alike(found, source / "e.parquet", "pca")
    assert list(map(int, near)) == alike.neighbours[8].tolist()
    opened.locator("#neighbours .thumb").first.click()
    assert opened.inner_text("#detail-title") == found.ids[alike.neighbours[8, 0]]
    opened.click("#cards .thumb >> nth=1")
    assert not opened.is_visible("#picture")  # which cannot be read
    opened.click("#after")
    opened.click("#after")
    assert opened.inner_text("#detail-title") == "0003"
    assert opened.locator("#cards [aria-current]").get_attribute("data-row") == "3"


def test_the_selection_is_downloaded(opened, given):
    assert opened.is_disabled("#download")
    opened.fill("#search", "001")
    settle(opened)
    opened.click("#select")
    opened.fill("#search", "")
    settle(opened)
    opened.check("#cards li:nth-child(4) input")
    opened.uncheck("#cards li:nth-child(2) input")
    names = ["0003", *(f"001{n}" for n in range(10))]  # 0001 is not selected any more
    assert opened.inner_text("#selected") == f"{len(names)} selected"
    with opened.expect_download() as waiting:
        opened.click("#download")
    assert waiting.value.suggested_filename == "selected.csv"
    table = pd.read_csv(waiting.value.path(), dtype={"GalaxyID": str}, keep_default_na=False)
    assert table["GalaxyID"].tolist() == names
    rows = [int(name) for name in names]
    assert list(table.columns) == ["GalaxyID", "looks", *TOY.columns]
    np.testing.assert_allclose(table[list(TOY.columns)], given.fractions[rows], atol=1e-4)
    words = describe.readable(given.fractions[rows], TOY).iloc[:, -1]
    assert table["looks"].tolist() == words.tolist()
    opened.click("#unselect")
    assert opened.inner_text("#selected") == "0 selected"


def test_the_map_is_wandered_in(opened, source):
    found = predictions.read(source / "p.csv", [TOY], 999)
    places = explore.find_alike(found, source / "e.parquet", "pca").places
    box = opened.locator("#map").bounding_box()
    side = min(box["width"], box["height"]) - 32
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, 9)
    row = int(np.nanmin(apart[:-1, :-1], axis=1).argmax())  # the last one has no place
    x = float(box["x"] + box["width"] / 2 + (places[row, 0] - 0.5) * side)
    y = float(box["y"] + box["height"] / 2 - (places[row, 1] - 0.5) * side)
    opened.mouse.move(x, y)
    assert opened.is_visible("#hover")
    assert opened.text_content("#hover figcaption") == found.ids[row]
    opened.mouse.click(x, y)
    assert opened.inner_text("#detail-title") == found.ids[row]
    painted = "[...pen.getImageData(0, 0, canvas.width, canvas.height).data].some(v => v > 0)"
    assert opened.evaluate(painted)
    # The galaxy nearest to the centre, by keyboard.
    opened.focus("#map")
    opened.keyboard.press("Enter")
    middle = int(np.nanargmin(np.linalg.norm(places - 0.5, axis=1)))
    assert opened.inner_text("#detail-title") == found.ids[middle]
    # Zoomed in, the gallery may show what is in view alone.
    opened.focus("#map")
    for key in ("+", "+", "+", "ArrowLeft"):
        opened.keyboard.press(key)
    opened.check("#inside")
    zoom = 1.5**3
    width, height = (box[name] / 2 / (side * zoom) for name in ("width", "height"))
    centre = np.array([0.5 - 40 / (side * zoom), 0.5])
    with np.errstate(invalid="ignore"):
        inside = (np.abs(places - centre) <= [width, height]).all(axis=1)
    assert number(opened) == inside.sum()
    assert 0 < inside.sum() < NUMBER
    opened.click("text=Whole map")
    assert number(opened) == NUMBER - 1  # one has no place


@pytest.mark.parametrize("ratio", [0.5, 2])
def test_the_map_is_whole_however_far_the_browser_is_zoomed(browser, explored, ratio):
    page = browser.new_page(
        viewport={"width": 1280, "height": 900}, device_scale_factor=ratio, color_scheme="light"
    )
    page.goto(explored.as_uri())
    settle(page)
    painted = """() => {
        const { width, height } = canvas, { data } = pen.getImageData(0, 0, width, height);
        const halves = [0, 0];
        for (let n = 0; n < width * height; n++)
            if (data[4 * n + 3]) halves[Number(n % width >= width / 2)]++;
        return halves;
    }"""
    halves = page.evaluate(painted)
    assert min(halves) > max(halves) / 10
    page.evaluate("selected.add(0); paint()")
    assert page.evaluate(painted) != halves
    page.evaluate("selected.delete(0); paint()")
    assert page.evaluate(painted) == halves
    page.close()


def test_pictures_in_a_folder_are_shown(browser, source, tmp_path, monkeypatch):
    monkeypatch.setattr(explore, "EMBEDDED", 10)
    explore.write(
        source / "p.csv", tmp_path / "a b#.html", trees=[TOY], images=str(source / "images")
    )
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "a b#.html").as_uri())
    page.locator("#cards img").first.wait_for()
    page.wait_for_function("[...document.querySelectorAll('#cards img')].every(i => i.complete)")
    sizes = page.eval_on_selector_all("#cards img", "all => all.map(i => i.naturalWidth)")
    assert sizes == [explore.SIDE] * 58
    assert said == []
    page.close()
