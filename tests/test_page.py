"""The page of a run, made in the tiny world, as a parser and as a browser see it."""

import base64
import io
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import gzjax
from gzjax import describe, metrics
from gzjax.data import devices
from gzjax.run import build, checkpoint, evaluate, page, plots, recorder

VOID = {"meta", "link", "img", "br", "input"}
DIRICHLET = {"loss__terms": ("mse", "dirichlet"), "loss__activation": "softmax"}


class Page(HTMLParser):
    """What a page holds: every element, and its text; fails where tags are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(workdir: Path) -> Page:
    return Page((workdir / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def linear():
    """The linear network in place of all others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Galaxies, one of which cannot be read."""
    root = tiny.folder(tmp_path_factory.mktemp("world") / "galaxies", 120)
    (root / "images" / "1000.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def workdir(world, tmp_path_factory):
    """A finished run with intervals, some views, and a command."""
    folder = tmp_path_factory.mktemp("run") / "a <i>run & more"
    report = gzjax.Report(loud=False)
    said = []
    report.say = said.append
    config = tiny.config(world, evaluate__views=3, **DIRICHLET)
    command = "gzjax --config 'x<y>'"
    gzjax.train(config, folder, command=command, report=report)
    assert said[-1] == f"what the run shows: {folder / 'report.html'}"
    return folder


@pytest.fixture(scope="module")
def shown(workdir):
    return read(workdir)


@pytest.fixture(scope="module")
def tested(workdir):
    """(model, data, rows, predicted, observed) of the test galaxies, with one view."""
    model, data = gzjax.load(workdir), gzjax.load_data(workdir)
    rows, (found,) = evaluate.predict_all([model], [data], "test", 1)
    return model, data, rows, found["fractions"], data.observed(rows)


def test_nothing_is_fetched(workdir, shown):
    text = (workdir / "report.html").read_text()
    assert len(text) < 2_000_000
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in shown.elements}
    for tag, attributes in shown.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                assert value.startswith(("data:", "#")), (tag, name, value)
            assert not name.startswith("on")
    outside = re.findall(r"(?:https?:)?//\w[^\s\"'<]*", re.sub(r"base64,[^\"]*", "", text))
    assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", text)
    policy = next(each["content"] for each in shown.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none';")


def test_it_can_be_read_without_seeing_it(shown):
    assert shown.all("html") == [{"lang": "en"}]
    assert len(shown.all("main")) == len(shown.all("h1")) == 1
    images = shown.all("img")
    assert images
    for image in images:
        assert image["alt"].startswith("Galaxy ")
        assert (int(image["width"]), int(image["height"])) == (128, 128)
    plots = shown.all("svg")
    # Loss, terms, weights, rate, validation; all answers, three questions.
    assert len(plots) == 9
    for plot in plots:
        assert plot["role"] == "img"
        assert len(plot["aria-label"]) > 20
        assert plot["width"].endswith("pt")
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in shown.elements:
        for name in ("href", "xlink:href", "aria-labelledby"):
            if (value := attributes.get(name) or "data:").startswith("data:"):
                continue
            assert value.removeprefix("#") in ids
    levels = [int(tag[1]) for tag, _ in shown.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_its_numbers_are_those_of_the_files(workdir, shown):
    for name in ("test", "test_3_views", "validation", "validation_3_views"):
        result = json.loads((workdir / f"evaluate_{name}.json").read_text())
        low, high = result["rmse_interval"]
        views = "1 view" if result["views"] == 1 else "3 views"
        assert (
            f"{result['split']} {views} {result['galaxies']} {result['rmse']:.4f} {low:.4f} to "
            f"{high:.4f} {result['baseline_rmse']:.4f} {100 * result['q1_accuracy']:.1f} % "
            f"{100 * result['q1_baseline_accuracy']:.1f} %"
        ) in shown.text
    result = json.loads((workdir / "evaluate_test.json").read_text())
    assert f"Test RMSE, 1 view {result['rmse']:.4f}" in shown.text
    assert (
        f"Question 1: agreement with the crowd {100 * result['q1_accuracy']:.1f} % baseline "
        f"{100 * result['q1_baseline_accuracy']:.1f} %"
    ) in shown.text
    for question, rmse in result["rmse_per_question"].items():
        baseline = result["baseline_rmse_per_question"][question]
        error = result["calibration"][question]["error"]
        covered = result["intervals"]["tempered"]["questions"][question]
        answered = result["accuracies"][question]
        assert (
            f"{question} {rmse:.4f} {baseline:.4f} {error:.4f} {100 * covered['covered']:.1f} ± "
            f"{100 * covered['error']:.1f} % {100 * answered['accuracy']:.1f} % "
            f"{100 * answered['baseline']:.1f} % {answered['galaxies']}"
        ) in shown.text
        widest = max(
            *result["rmse_per_question"].values(), *result["baseline_rmse_per_question"].values()
        )
        bar = f"--v: {100 * rmse / widest:.1f}%; --b: {100 * baseline / widest:.1f}%"
        assert bar in [each.get("style") for each in shown.all("span")]
    for level in ("50", "80", "90", "95"):
        found = [result["intervals"][kind]["levels"][level] for kind in ("plain", "tempered")]
        said = [f"{100 * each['covered']:.1f} ± {100 * each['error']:.1f} %" for each in found]
        assert f"{level} % {said[0]} {said[1]}" in shown.text


def test_learning_curves_are_of_what_they_say(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        plots, "curves", lambda name, given, **options: drawn.update({name: (given, options)})
    )
    train = {"step": [2, 4], "epoch": [0.5, 1.0], "loss": [3.0, 2.0], "learning_rate": [0.1, 0.2]}
    scores = {"rmse": [0.3, 0.2], "raw_rmse": [0.5, 0.4], "baseline_rmse": [0.6, 0.6]}
    titles = [each["title"] for each in page._curves(train, {"step": [4, 8], **scores})]
    assert titles == ["Loss", "Learning rate", "Validation RMSE"]
    assert drawn == {
        "loss": ({"loss": ([0.5, 1.0], [3.0, 2.0])}, {}),
        "rate": ({"learning rate": ([0.5, 1.0], [0.1, 0.2])}, {}),
        "validation": (
            {
                "averaged weights": ([1.0, 2.0], [0.3, 0.2]),
                "raw weights": ([1.0, 2.0], [0.5, 0.4]),
            },
            {"level": 0.6},
        ),
    }


def test_the_curves_of_several_terms_are_their_own(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        plots, "curves", lambda name, given, **options: drawn.update({name: (given, options)})
    )
    train = {
        "step": [2], "epoch": [0.5], "loss": [3.0], "learning_rate": [0.1],
        "mse": [0.3], "kl": [0.4], "weight_mse": [5.0], "weight_kl": [6.0],
    }  # fmt: skip
    page._curves(train, {})
    terms = {"mse": ([0.5], [0.3]), "kl": ([0.5], [0.4])}
    assert drawn["terms"] == (terms, {"log": True})
    assert drawn["weights"] == ({"mse": ([0.5], [5.0]), "kl": ([0.5], [6.0])}, {})


def test_the_page_draws_what_was_predicted_against_what_was_observed(
    workdir, tested, tmp_path, monkeypatch
):
    drawn, reliability = {}, plots.reliability

    def draw(name, predicted, observed, curve, *others):
        drawn[str(name)] = predicted, observed, curve
        return reliability(name, predicted, observed, curve, *others)

    monkeypatch.setattr(plots, "reliability", draw)
    model, data, _, predicted, observed = tested
    page.write(tmp_path, model, data._replace(label="synthetic sky"))
    assert "nothing about real galaxies" in read(tmp_path).text
    assert len(drawn) == 1 + len(model.tree.questions)
    whole = slice(None), *(question.columns for question in model.tree.questions)
    for columns, (its, truth, curve) in zip(whole, drawn.values(), strict=True):
        np.testing.assert_array_equal(its, predicted[:, columns])
        np.testing.assert_array_equal(truth, observed[:, columns])
        assert curve == metrics.reliability(predicted[:, columns], observed[:, columns])


def test_reliability_is_drawn_with_what_was_predicted_to_the_right(monkeypatch):
    squares, square = [], plots._square
    monkeypatch.setattr(plots, "_square", lambda *at: squares.append(at) or square(*at))
    predicted, observed = np.full(2, 0.9), np.full(2, 0.1)
    curve = [{"predicted": 0.9, "observed": 0.1, "count": 2}]
    says = str(plots.reliability("x", predicted, observed, curve))
    assert "0.90 and 0.10" in says
    assert squares == [(int(0.9 * plots.BINS), int(0.1 * plots.BINS))]


def test_what_was_trained_on_what_by_which_command(workdir, shown, tested):
    model, data, *_ = tested
    steps = pd.read_csv(workdir / "train.csv")["step"].max()
    sizes = ", ".join(f"{len(rows)} {name}" for name, rows in data.splits.items())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(model.weights.params))
    for part in (
        f"Galaxies {sizes} (real galaxies)",
        "toy: 3 questions, 8 answers",
        f"{parameters} parameters, 16 pixels a side, starting from random weights",
        f"{steps} steps of 8 galaxies, 2 epochs; the best on validation is step {model.step}",
        "Command gzjax --config 'x<y>' from step 0",
        "optim.learning_rate 0.1",
    ):
        assert part in shown.text
    assert "nothing about real galaxies" not in shown.text
    # Without the tracker that writes train.csv, the checkpoints say how long it was.
    assert page._run(workdir, model, data, {})["steps"] == steps
    # A session that recorded nothing there counts, too.
    early = {"step": [1], "epoch": [0.1], "images_per_second": [3.0]}
    assert page._run(workdir, model, data, early)["steps"] == steps
    # Epochs are those that were trained, though the best may be from before more were asked for.
    assert page._run(workdir, model, data, early)["epochs"] == pytest.approx(0.1 * steps)
    assert page._run(workdir, model, data, {})["epochs"] == 2
    (session,) = json.loads((workdir / "sessions.json").read_text())["sessions"]
    assert session["seconds"] > 0
    assert session["versions"].startswith(f"gzjax {gzjax.__version__}")


def test_the_worst_galaxy_comes_first(shown, tested, workdir):
    _, data, rows, predicted, observed = tested
    errors = [np.sqrt(np.mean((p - o) ** 2)) for p, o in zip(predicted, observed, strict=True)]
    names = [image["alt"].removeprefix("Galaxy ") for image in shown.all("img")]
    assert len(set(names)) == len(names)
    assert {*names} <= {data.ids[row] for row in rows}
    by_error = [data.ids[rows[place]] for place in np.argsort(errors)[::-1]]
    third = -(-len(rows) // 3)
    assert names[:third] == by_error[:third]
    start = shown.text.index("Most surprising")
    order = [shown.text.index(title) for title in ("Random", "Least surprising")]
    assert start < order[0] < order[1]
    best = shown.text[order[1] :].split()[2]
    assert best == by_error[-1]
    assert f"{by_error[0]} RMSE {max(errors):.4f}" in shown.text


def test_a_galaxy_is_shown_with_both_trees(shown, tested):
    model, data, rows, predicted, observed = tested
    errors = np.square(predicted - observed).mean(axis=1)
    worst = int(errors.argmax())
    name = data.ids[rows[worst]]
    card = shown.text[shown.text.index(f"{name} RMSE") :].partition("RMSE ")[2].partition("RMSE")[0]
    words = [describe.readable(each[worst : worst + 1], model.tree).iloc[0, -1]
             for each in (observed, predicted)]  # fmt: skip
    assert f"crowd {words[0]} network {words[1]}" in card
    for question in model.tree.questions:
        asked = max(model.tree.asked(each[worst])[question.number - 1]
                    for each in (observed, predicted))  # fmt: skip
        bars = " ".join(
            f"{answer} {100 * float(observed[worst, column]):.0f} "
            f"{100 * float(predicted[worst, column]):.0f}"
            for column, answer in enumerate(question.answers, question.first)
        )
        assert (f"{question.name} {bars}" in card) == (asked >= 0.5)
    row = rows[worst]
    address = next(each["src"] for each in shown.all("img") if each["alt"] == f"Galaxy {name}")
    content = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content)), float)
    assert np.abs(pixels - data.images[row]).mean() < 20


def test_the_question_on_which_they_differ_most_is_bold(gz2):
    def fractions(**shares):
        made = dict.fromkeys(gz2.columns, 0.0) | {name.replace("_", "."): value
                                                  for name, value in shares.items()}  # fmt: skip
        return np.array(list(made.values()))

    smooth = {"Class1_1": 0.49, "Class1_2": 0.51, "Class6_2": 1.0}
    crowd = fractions(**smooth, Class7_1=0.49, Class2_2=0.51, Class3_1=0.3, Class3_2=0.21)
    # On question 7 they differ more, but less than half are asked it.
    network = fractions(**smooth, Class7_3=0.49, Class2_2=0.51, Class3_1=0.2, Class3_2=0.31)
    names = [question.name for question in gz2.questions]

    def bold(crowd, network):
        return [each["name"] for each in page._answers(gz2, crowd, network) if each["most"]]

    assert bold(crowd, network) == [names[2]]
    assert bold(crowd, crowd) == []
    crowd[[column for column, name in enumerate(gz2.columns) if name.startswith("Class3.")]] = None
    network[1] += 0.1
    assert bold(crowd, network) == [names[0]]


def test_confusions_count_what_accuracies_count(shown, tested):
    model, data, _, predicted, observed = tested
    found = metrics.confusions(predicted, observed, model.tree)
    expected = metrics.accuracies(predicted, observed, data.training_mean, model.tree)
    for question, table in found.items():
        assert table.sum() == expected[question]["galaxies"]
        assert np.trace(table) / table.sum() == pytest.approx(expected[question]["accuracy"])
    shape = observed[:, :3].argmax(axis=1), predicted[:, :3].argmax(axis=1)
    for crowd, network in np.ndindex(3, 3):
        both = (shape[0] == crowd) & (shape[1] == network)
        assert found["shape"][crowd, network] == both.sum()
    counts = " ".join(
        f"{answer} {' '.join(map(str, row))}"
        for answer, row in zip(("round", "disk", "star"), found["shape"].tolist(), strict=True)
    )
    assert f"round disk star {counts}" in shown.text


def test_what_was_skipped_is_said(shown):
    assert "1 galaxy was skipped" in shown.text
    assert "1000" in shown.text[shown.text.index("1 galaxy was skipped") :]


def test_the_same_run_gives_the_same_bytes(workdir):
    before = (workdir / "report.html").read_bytes()
    (workdir / "report.html").unlink()
    page.write(workdir, gzjax.load(workdir), gzjax.load_data(workdir))
    assert (workdir / "report.html").read_bytes() == before


def test_images_may_be_on_the_devices(workdir, tested):
    model, data, *_ = tested
    before = (workdir / "report.html").read_bytes()
    page.write(workdir, model, devices.hold_on_devices(data, model.placement, print))
    assert (workdir / "report.html").read_bytes() == before


def test_scores_that_are_missing_are_made(workdir, tmp_path, monkeypatch):
    copy = shutil.copytree(workdir, tmp_path / workdir.name)
    for file in (*copy.glob("evaluate_*"), copy / "train.csv", copy / "sessions.json"):
        file.unlink(missing_ok=True)
    model, data = gzjax.load(copy), gzjax.load_data(copy)
    with monkeypatch.context() as patch:
        # Of several processes the first alone writes, and checkpoints are opened by all together.
        patch.setattr(checkpoint.Checkpoints, "__init__", lambda *_: 1 / 0)
        page.write(copy, model, data)
    result = json.loads((workdir / "evaluate_test.json").read_text())
    text = read(copy).text
    assert f"Test RMSE, 1 view {result['rmse']:.4f}" in text
    assert "None were recorded" in text
    assert "Command not recorded" in text
    both = {"networks": 2, "workdirs": ["runs/a", "runs/b/"], "mixture": [0.25, 0.75]}
    recorder.write_evaluation(copy, result | both)
    page.write(copy, model, data)
    assert "1 view, 2 networks: a 0.25 b 0.75" in read(copy).text
    # Scores of another step are not this model's.
    stale = result | {"step": 1, "rmse": 0.9876}
    recorder.write_evaluation(copy, stale)
    page.write(copy, gzjax.load(copy), gzjax.load_data(copy))
    assert "0.9876" not in read(copy).text


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text.replace("\n1,", "\nx,", 1), -1),
        (lambda text: text.replace("\n1,", "\n1,1,", 1), -1),
        (lambda text: text.replace("loss", "lass", 1), None),
        (lambda text: text.partition("\n")[0] + "\n", None),
        (lambda text: "", None),
    ],
)
def test_damaged_records_cost_a_point_of_the_curves_or_the_curves(workdir, tmp_path, damage, left):
    whole = page._curve(workdir / "train.csv", *page.RECORDED)
    text = (workdir / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(damage(text))
    assert damage(text) != text
    found = page._curve(tmp_path / "train.csv", *page.RECORDED)
    expected = {} if left is None else {name: values[1:] for name, values in whole.items()}
    assert found == expected


def test_names_are_text_whatever_they_are(workdir, tested, tmp_path):
    model, data, *_ = tested
    copy = shutil.copytree(workdir, tmp_path / "<script>")
    hostile = '"><script>alert(1)</script>&\udc80'
    ids = tuple(f"{hostile}{name}" for name in data.ids)
    row = pd.DataFrame([(hostile.replace("\udc80", ""), "<b>.png", "<img src=x>: no")],
                       columns=["GalaxyID", "file", "reason"])  # fmt: skip
    recorder.write_left_out(copy, row)
    page.write(copy, model, data._replace(ids=ids))
    found = read(copy)
    assert not found.all("script")
    assert all(image["src"].startswith("data:") for image in found.all("img"))
    assert found.text.count(hostile.replace("\udc80", "?")) >= len(found.all("img"))
    assert "<img src=x>" in found.text
    assert "<b>.png" in found.text
    assert read(workdir).text.startswith("a <i>run & more ")


def test_questions_nobody_knows_are_said(world, workdir, tmp_path):
    model, data = gzjax.load(workdir), gzjax.load_data(workdir)
    votes = data.votes.copy()
    votes[:, 5:] = np.nan
    first, second = data.splits["test"][:2]
    votes[first, 3:5] = np.nan
    votes[second] = np.nan
    data = data._replace(votes=votes)
    page.write(tmp_path, model, data)  # a folder without any file
    found = read(tmp_path)
    assert "Nobody knows the answers to this question" in found.text
    assert len(found.all("svg")) == 3  # all answers, two questions
    assert f"Galaxy {data.ids[second]}" not in [image["alt"] for image in found.all("img")]
    cards = found.text[found.text.index("Most surprising") :]
    assert "arms none" not in cards
    assert not re.search(r"\bnan\b", found.text)
    one = cards[cards.index(f"{data.ids[first]} RMSE") :] if data.ids[first] in cards else ""
    assert "tail yes" not in one.partition("RMSE ")[2].partition("RMSE")[0]


def test_a_run_without_the_first_question_has_a_page(world, tmp_path):
    """No cumulative fraction is known, and so there is no score."""
    table = pd.read_csv(world / "votes.csv").drop(columns="shape_round")
    table.iloc[:, 1:] = (40 * table.iloc[:, 1:]).round()
    table.to_csv(world / "no-shape.csv", index=False)
    likely = {"loss__terms": ("dirichlet",), "loss__activation": "softmax"}
    config = tiny.config(world, data__table="no-shape.csv", epochs=1, **likely)
    gzjax.train(config, tmp_path)
    found = read(tmp_path)
    assert "Nobody knows the answers to this question" in found.text
    assert not re.search(r"\bnan\b", found.text)
    assert "None" not in found.text


def test_several_trees_are_one_page(world, tmp_path):
    """Questions of two campaigns, each of which is known of some of 40 galaxies alone."""
    names = {"a": world, "b": tiny.folder(tmp_path / "b", 40)}
    for name, root in names.items():
        (tmp_path / f"{name}.toml").write_text(
            (root / "toy.toml").read_text().replace('"toy"', f'"{name}"', 1)
        )
    catalogues = tuple(
        {"root": str(root), "table": "votes.csv", "tree": str(tmp_path / f"{name}.toml")}
        for name, root in names.items()
    )
    workdir = tmp_path / "run"
    gzjax.train(
        tiny.config(world, data__catalogues=catalogues, data__images="images", epochs=1), workdir
    )
    found = read(workdir)
    result = json.loads((workdir / "evaluate_test.json").read_text())
    assert len(result["rmse_per_question"]) == 6
    for name, its in result["catalogues"].items():
        assert f"test: {name} 1 view {its['galaxies']} {its['rmse']:.4f}" in found.text
    for name in ("shape-a", "arms-b"):
        assert f"{name} {result['rmse_per_question'][name]:.4f}" in found.text
    cards = found.text[found.text.index("Most surprising") :].split("answer crowd, %")[1:]
    cards = [card.partition(" RMSE ")[0] for card in cards]
    assert len(cards) > 10
    assert all(("shape-a" in card) != ("shape-b" in card) for card in cards)
    # In words both speak of the same questions: those of the first tree, that the crowd knows.
    words = [text.partition("answer crowd")[0] for text in found.text.split(" crowd shape-a: ")[1:]]
    assert 0 < len(words) < len(cards)
    assert "crowd \N{EN DASH}" not in found.text
    assert all("network shape-a: " in each and "-b" not in each for each in words)
    assert not re.search(r"\bnan\b", found.text)


def test_a_run_without_intervals_shows_none(world, tmp_path):
    gzjax.train(tiny.config(world, epochs=1, loss__weighting="fixed"), tmp_path)
    text = read(tmp_path).text
    assert "interval holds" not in text
    assert "at temperature" not in text
    assert "in 90 % interval" not in text
    assert "gzjax.train, from Python" in text


def test_a_killed_start_is_remembered(tmp_path):
    recorder.Recorder(tmp_path, 0, {"command": "one"}).__enter__()
    with recorder.Recorder(tmp_path, 8, {"command": "two"}):
        pass
    first, second = recorder.read_sessions(tmp_path)
    assert (first["command"], first["from_step"], first["seconds"]) == ("one", 0, None)
    assert (second["command"], second["from_step"]) == ("two", 8)
    assert second["seconds"] >= 0
    (tmp_path / "sessions.json").write_text("{")
    assert recorder.read_sessions(tmp_path) == []


def test_words_of_what_is_not_known_are_none(tested):
    tree = tested[0].tree
    fractions = np.array([[0.1, 0.9, 0.0, 0.2, 0.8, *[np.nan] * 3], [np.nan] * 8])
    table = describe.readable(fractions, tree)
    assert table["arms"].tolist() == ["", ""]
    assert table["morphology"].tolist() == ["shape: disk, tail: no", ""]


# --- in a browser ---


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("print", 800)]
)
def test_in_a_browser(browser, workdir, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    media = {"media": "print"} if scheme == "print" else {"color_scheme": scheme}
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.emulate_media(**media)
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((workdir / "report.html").as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [opened.url]
    sizes = opened.eval_on_selector_all(
        "main img", "all => all.map(i => [i.naturalWidth, i.clientWidth, i.clientHeight])"
    )
    assert sizes
    side = 80 if scheme == "print" else 128
    assert all(size == [16, side, side] for size in sizes)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    for plot in opened.query_selector_all("svg"):
        assert plot.bounding_box()["width"] > 140
    axe = Axe().run(opened)
    assert axe.violations_count == 0, axe.generate_report()
    if scheme == "light":
        opened.keyboard.press("Tab")
        assert opened.evaluate("document.activeElement.textContent") == "To the content"
    opened.close()
