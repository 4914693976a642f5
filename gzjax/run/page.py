"""The page of a run, `report.html`: what people look at to judge it.

One file that needs no network: scores, learning curves, each question, and the test galaxies on
which the network surprises most. Scores are those of the files of the run; only what these lack,
the predictions of single galaxies, is computed again, with one view.
"""

import base64
import collections
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from gzjax import describe, files, metrics
from gzjax.data.dataset import Data
from gzjax.run import config as configs
from gzjax.run import evaluate, recorder, trackers
from gzjax.run.model import Model
from gzjax.run.report import SILENT, Report
from gzjax.tree import Tree

PAGE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"
# Galaxies shown at most, of each kind and of those skipped; pixels a side of their pictures.
WORST, RANDOM, BEST, LISTED, SIDE = 12, 12, 6, 100, 160
# Columns of the training's records that the page is about.
RECORDED = ("step", "epoch", "loss", "learning_rate", "images_per_second")


class Tested(NamedTuple):
    """Galaxies with what the crowd said of them, and the network.

    rows: positions in the data.
    predicted, observed: float32[galaxies, answers], cumulative fractions; NaN where not known.
    errors: float64[galaxies], the RMSE of each over what is known.
    """

    rows: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    errors: np.ndarray


def write(workdir: str | Path, model: Model, data: Data, report: Report = SILENT) -> None:
    """Writes the page of a run; all processes have to call it, and the first one writes.

    Args:
      workdir: of the run, from whose files it is made.
      model: of the run.
      data: the galaxies that it was trained on.
      report: says where the page is.
    """
    workdir = Path(workdir)
    rows, (found,) = evaluate.predict_all([model], [data], "test", 1)
    if jax.process_index() != 0:
        return
    from gzjax.run import plots  # here, since matplotlib takes a while

    observed, predicted = np.asarray(data.observed(rows)), found["fractions"]
    tested = Tested(rows, predicted, observed, metrics.rmse_per_galaxy(predicted, observed))
    results = recorder.read_evaluations(workdir, model.step)
    if not any(_shown(result) for result in results):
        results.insert(0, evaluate.evaluate(model, data, views=1))
    shown = next(result for result in results if _shown(result))
    train = _curve(workdir / "train.csv", *RECORDED)
    validation = _curve(workdir / "validation.csv", "step", "baseline_rmse")
    left_out = recorder.read_left_out(workdir)
    reasons = [reason.partition(":")[0] for reason in left_out["reason"]]
    content = {
        "name": workdir.resolve().name,
        "result": shown,
        "results": results,
        "synthetic": data.label == "synthetic sky",
        "run": _run(workdir, model, data, train),
        "curves": _curves(train, validation),
        "overall": None
        if np.isnan(observed).all()
        else plots.reliability(
            "all", predicted, observed, metrics.reliability(predicted, observed)
        ),
        "questions": _questions(model.tree, tested, shown),
        "galaxies": _galaxies(model.tree, data, tested),
        "skipped": {
            "number": len(left_out),
            "reasons": collections.Counter(reasons).most_common(),
            "rows": left_out.head(LISTED).to_dict("records"),
        },
    }
    # Whatever files are called: what UTF-8 cannot say becomes a question mark.
    page = environment().get_template("page.html").render(content).encode("utf-8", "replace")
    with files.replacing(workdir / PAGE) as unfinished:
        unfinished.write_bytes(page)
    report.say(f"what the run shows: {workdir / PAGE}")


def _shown(result: Mapping[str, Any]) -> bool:
    """Whether it is what the questions of the page are about."""
    return (result["split"], result["views"], result["networks"]) == ("test", 1, 1)


def _curve(path: Path, *needed: str) -> dict[str, list[Any]]:
    """What was recorded on the way, by column; nothing if it was not. Damaged rows are left out."""
    header, rows = trackers.read_rows(path)
    if not {*needed} <= {*header}:
        return {}
    table = pd.DataFrame(rows, columns=header).apply(pd.to_numeric, errors="coerce")
    table = table.dropna(subset=list(needed)).dropna(axis=1, how="all")
    return {str(name): table[name].tolist() for name in table}


def _run(workdir: Path, model: Model, data: Data, train: Mapping[str, Any]) -> dict[str, Any]:
    """What was trained on what, by which command, how long."""
    # By their names, as all processes together would have to open them.
    saved = [int(each.name) for each in workdir.glob("checkpoints/*") if each.name.isdecimal()]
    # What was recorded may stop early, where a resumed run was told not to.
    steps = max([model.step, *saved, *train.get("step", [])[-1:]])
    epochs = model.about["config"]["epochs"]
    if train:  # the run may have been lengthened since the best step
        epochs = round(steps * train["epoch"][-1] / train["step"][-1], 2)
    sessions = [each for each in recorder.read_sessions(workdir) if each["from_step"] < steps]
    seconds = [each["seconds"] for each in sessions]
    return {
        "options": sorted(configs.flatten(model.about["config"])),
        "config": model.about["config"],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.weights.params)),
        "tree": model.tree,
        "votes": data.about,
        "catalogues": [member.name for member in data.members],
        "splits": {name: len(rows) for name, rows in data.splits.items()},
        "label": data.label,
        "steps": steps,
        "epochs": epochs,
        "best": model.step,
        "sessions": sessions,
        "seconds": None if not seconds or None in seconds else sum(seconds),
        "rate": float(np.median(train["images_per_second"])) if train else None,
    }


def _curves(train: Mapping[str, Any], validation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The learning curves that there are."""
    from gzjax.run import plots

    found = []

    def add(name: str, title: str, given: Mapping[str, Any], **options: Any) -> None:
        found.append({"title": title, "svg": plots.curves(name, given, **options)})

    if train:
        epochs = train["epoch"]
        weighted = [name.removeprefix("weight_") for name in train if name.startswith("weight_")]
        terms = {name: (epochs, train[name]) for name in weighted if name in train}
        add("loss", "Loss", {"loss": (epochs, train["loss"])})
        if len(terms) > 1:
            weights = {name: (epochs, train[f"weight_{name}"]) for name in terms}
            add("terms", "Loss terms", terms, log=True)
            add("weights", "Weights of the terms", weights)
        add("rate", "Learning rate", {"learning rate": (epochs, train["learning_rate"])})
    if train and "rmse" in validation:  # nobody may know the truth
        epoch = train["epoch"][-1] / train["step"][-1]
        epochs = [step * epoch for step in validation["step"]]
        names = {"rmse": "averaged weights", "raw_rmse": "raw weights"}
        given = {names[name]: (epochs, validation[name]) for name in names if name in validation}
        if len(given) == 1:
            given = {"RMSE": given["averaged weights"]}
        add("validation", "Validation RMSE", given, level=validation["baseline_rmse"][-1])
    return found


def _questions(tree: Tree, tested: Tested, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of each question its scores, as the files have them, and what its plots show."""
    from gzjax.run import plots

    confusions = metrics.confusions(tested.predicted, tested.observed, tree)
    scores = (result["rmse_per_question"], result["baseline_rmse_per_question"])
    widest = max(value or 0.0 for each in scores for value in each.values()) or 1.0
    covered = result.get("intervals", {}).get("tempered", {}).get("questions", {})
    found = []
    for question in tree.questions:
        name = question.name
        rmse, calibration = result["rmse_per_question"][name], result["calibration"][name]
        its = (tested.predicted[:, question.columns], tested.observed[:, question.columns])
        found.append(
            {
                "question": question,
                "answers": [answer.replace("-", " ") for answer in question.answers],
                "known": rmse is not None,
                "rmse": rmse,
                "baseline": result["baseline_rmse_per_question"][name],
                "widest": widest,
                "error": calibration["error"],
                "scores": result["accuracies"][name],
                "covered": covered.get(name),
                "confusion": confusions[name].tolist(),
                "svg": None
                if rmse is None
                else plots.reliability(f"q{question.number}", *its, calibration["curve"]),
            }
        )
    return found


def _galaxies(tree: Tree, data: Data, tested: Tested) -> list[dict[str, Any]]:
    """The galaxies shown, the most surprising first; each once."""
    order = np.argsort(-tested.errors, kind="stable")  # NaN last
    order = order[~np.isnan(tested.errors[order])]
    worst, rest = np.split(order, [min(WORST, -(-len(order) // 3))])
    rest, best = np.split(rest, [len(rest) - min(BEST, len(rest) // 2)])
    some = np.sort(np.random.default_rng(0).permutation(len(rest))[:RANDOM])
    # To be compared, both speak of what the crowd knows.
    known = np.where(np.isnan(tested.observed), np.nan, tested.predicted)
    words = [
        describe.readable(each, tree).iloc[:, -1].tolist() for each in (tested.observed, known)
    ]

    def card(place: int) -> dict[str, Any]:
        row = int(tested.rows[place])
        return {
            "id": data.ids[row],
            "picture": address(picture(_canvas(data, row))),
            "error": float(tested.errors[place]),
            "crowd": words[0][place],
            "network": words[1][place],
            "questions": _answers(tree, tested.observed[place], tested.predicted[place]),
        }

    groups = {"Most surprising": worst, "Random": rest[some], "Least surprising": best[::-1]}
    return [
        {"title": title, "cards": [card(place) for place in places]}
        for title, places in groups.items()
        if len(places)
    ]


def _answers(tree: Tree, crowd: np.ndarray, network: np.ndarray) -> list[dict[str, Any]]:
    """The questions that the crowd or the network reaches, of those that the crowd knows."""
    reached = np.maximum(tree.asked(crowd), tree.asked(network)) >= describe.REACHED
    apart = np.nan_to_num(np.square(network - crowd)) @ tree.membership
    shown = reached & ~np.isnan(crowd[[question.first for question in tree.questions]])
    most = apart[shown].max(initial=0.0)
    return [
        {
            "name": question.name,
            "most": bool(apart[question.number - 1] == most > 0),
            "answers": [
                (answer.replace("-", " "), float(crowd[column]), float(network[column]))
                for column, answer in enumerate(question.answers, question.first)
            ],
        }
        for question in tree.questions
        if shown[question.number - 1]
    ]


def _canvas(data: Data, row: int) -> np.ndarray:
    """The image of a galaxy, wherever it is held."""
    if data.canvases is None:
        return data.images[row]
    return np.asarray(data.canvases.addressable_data(0)[row])


def picture(canvas: np.ndarray) -> bytes:
    """A small JPEG of a canvas."""
    from PIL import Image

    image = Image.fromarray(canvas)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def address(jpeg: bytes) -> str:
    """What a page has in place of a file's name."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def environment(**options: Any) -> Any:
    """Templates in which everything is escaped that is not markup already, or as options say."""
    import jinja2

    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True} | options
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, **options
    )
    environment.filters |= {
        "score": _or_dash(lambda value: f"{value:.4f}"),
        "percent": _or_dash(lambda value: f"{value:.1%}".replace("%", " %")),
        "whole": _or_dash(lambda value: f"{value:,}"),
        "part": _or_dash(lambda value: f"{100 * value:.0f}"),
        "duration": _or_dash(_duration),
    }
    return environment


def _or_dash(shown: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "\N{EN DASH}" if value is None else shown(value)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
