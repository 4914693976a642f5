"""The explorer of predictions: one HTML file to look through them, which needs no network.

A gallery that is filtered and sorted by the answers, a map on which similar galaxies are close to
each other, and of each galaxy its tree, its intervals and its nearest neighbours. The page itself
is `templates/explore.html`, its script `explore.js`; here they get their data.
"""

import base64
import collections
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Float32, Int
from markupsafe import Markup

from gzjax import describe, files
from gzjax.data import embeddings as embedded
from gzjax.data import listing
from gzjax.data.framing import Framing
from gzjax.errors import UserError
from gzjax.run import page, predictions
from gzjax.run.parts import check_output
from gzjax.run.predictions import Predictions
from gzjax.run.report import SILENT, Report
from gzjax.tree import Question, Tree

# Galaxies in a page; of more, a random sample.
MOST = 20_000
# Pictures within the page; of more, they lie in a folder beside it.
EMBEDDED = 4_000
SIDE = 128  # pixels of a picture
NEIGHBOURS = 12
MAPS = ("pca", "umap")
FEWEST = 5  # galaxies that UMAP can lay out
THREADS = 4
# Fractions are sent as whole numbers of 1 / ONE; the one above is NaN.
ONE = 65534


class Alike(NamedTuple):
    """Which galaxies look alike.

    by: of what, in words.
    places: on the map, from 0 to 1; NaN where a galaxy has no features.
    neighbours: the most similar other galaxies, by position; -1: none.
    similarity: of these, the cosine.
    missing: galaxies without features.
    """

    by: str
    places: Float32[np.ndarray, "galaxies 2"]
    neighbours: Int[np.ndarray, "galaxies k"]
    similarity: Float32[np.ndarray, "galaxies k"]
    missing: int


def write(
    table: Path,
    output: Path,
    *,
    trees: Sequence[Tree],
    images: str = "",
    embeddings: Path | None = None,
    framing: Framing = Framing(),  # noqa: B008
    kind: str = "pca",
    most: int = MOST,
    report: Report = SILENT,
) -> None:
    """Writes the explorer of predictions.

    Args:
      table: predictions, as `--mode predict` writes them: CSV, Parquet or a folder.
      output: the page, `.html`; many pictures go into a folder beside it.
      trees: that the predictions may be of.
      images: of the galaxies, see `listing.list_images`; "": without pictures.
      embeddings: what `--mode embed` wrote; None: the predictions say what is similar.
      framing: how the images are cut out.
      kind: of the map, one of `MAPS`.
      most: galaxies shown at most.
      report: says how it goes.

    Raises:
      UserError: something that is not there, or not what it should be.
    """
    check_output(output, (".html",))
    check_map(kind)
    folder = folder_of(output)
    if images and folder.exists():
        raise UserError(f"{folder} is already there; delete it, or name another page")
    listed = listing.list_images(images) if images else None
    predicted = predictions.read(table, trees, most)
    report.say(
        f"{predicted.number} galaxies, tree {predicted.tree.name}"
        + f"; {len(predicted.ids)} of them drawn at random"
        * (len(predicted.ids) < predicted.number)
    )
    alike = find_alike(predicted, embeddings, kind)
    pictures: list[bytes] = [b""] * len(predicted.ids)
    if listed is not None:
        pictures = draw(predicted.ids, listed, framing, report)
    shown, prefix = _place(pictures, output)
    different, which = describe.morphologies(predicted.cumulative, predicted.tree)
    phrases = collections.Counter(phrase for each in which for phrase in different[each])
    content = {
        "galaxies": _galaxies(predicted, different, which, alike, shown, prefix),
        "name": table.name,
        "number": predicted.number,
        "shown": len(predicted.ids),
        "tree": predicted.tree,
        "folder": "" if prefix.startswith("data:") else folder_of(output).name,
        "alike": alike,
        "without": pictures.count(b"") if images else None,
        "looks": phrases.most_common(),
        "questions": _known(predicted),
    }
    script = (page.TEMPLATES / "explore.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    content |= {"script": Markup(script), "script_hash": Markup(f"'sha256-{digest}'")}
    made = page.environment().get_template("explore.html").render(content)
    with files.replacing(output) as unfinished:
        unfinished.write_bytes(made.encode("utf-8", "replace"))
    report.say(f"to explore the predictions: {output}")


def check_map(kind: str) -> None:
    """Checks that such a map can be made.

    Raises:
      UserError: there is none, or its package is missing.
    """
    if kind not in MAPS:
        raise UserError(f"map: expected one of {', '.join(MAPS)}, found {kind!r}")
    if kind == "umap":
        try:
            import umap  # noqa: F401
        except ImportError:
            raise UserError("map: umap needs the extra umap: pip install 'gzjax[umap]'") from None


def find_alike(predicted: Predictions, file: Path | None, kind: str) -> Alike:
    """The map of the galaxies, and the neighbours of each, by embeddings or by predictions."""
    if file is None:
        by, features = "predicted fractions", np.nan_to_num(predicted.cumulative)
    else:
        by, features = "embeddings", embedded.read_of(file, predicted.ids)
    there = np.flatnonzero(~np.isnan(features).any(axis=1))
    if not len(there):
        raise UserError(f"{file}: expected embeddings of the predicted galaxies, found none")
    if kind == "umap" and len(there) < FEWEST:
        raise UserError(f"map: umap expects at least {FEWEST} galaxies, found {len(there)}")
    features = embedded.unit(features[there])
    number = len(predicted.ids)
    places = np.full((number, 2), np.nan, np.float32)
    places[there] = _umap(features) if kind == "umap" else principal(features)
    neighbours = np.full((number, NEIGHBOURS), -1)
    similarity = np.full((number, NEIGHBOURS), np.nan, np.float32)
    blocks = [
        features[first : first + embedded.BLOCK] for first in range(0, len(there), embedded.BLOCK)
    ]
    for first, block in zip(range(0, len(there), embedded.BLOCK), blocks, strict=True):
        found, rows = embedded.nearest_of(block, blocks, NEIGHBOURS + 1)
        own = rows == np.arange(first, first + len(block))[:, None]
        # Where others are just as similar, a galaxy need not be among its own neighbours.
        own[~own.any(axis=1), -1] = True
        shape = (len(block), rows.shape[1] - 1)
        here = there[first : first + len(block)]
        neighbours[here, : shape[1]] = there[rows[~own].reshape(shape)]
        similarity[here, : shape[1]] = found[~own].reshape(shape)
    return Alike(f"{by}, {kind.upper()}", places, neighbours, similarity, number - len(there))


def principal(features: Float[np.ndarray, "galaxies features"]) -> Float[np.ndarray, "galaxies 2"]:
    """The first two principal components, from 0 to 1, on one scale."""
    centred = features - features.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, -1:-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # the same again
    return _within(centred @ axes)


def _umap(features: np.ndarray) -> np.ndarray:
    import umap

    neighbours = min(15, len(features) - 1)
    made = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0)
    return _within(made.fit_transform(features))


def _within(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - (low + high) / 2) / (max((high - low).max(), 1e-9)) + 0.5


def draw(
    ids: Sequence[str], listed: listing.Listing, framing: Framing, report: Report
) -> list[bytes]:
    """Small JPEGs of some galaxies; nothing for one that has no image, or an unreadable one."""
    wanted = set(ids)  # some thousands, of maybe millions that are listed
    rows = {name: row for row, name in enumerate(listed.ids) if name in wanted}
    if not rows:
        raise UserError("images: expected those of the predicted galaxies, found none of them")
    images = listed.take(list(rows.values())).framed(listed.framing(framing._replace(canvas=SIDE)))
    places = {name: place for place, name in enumerate(rows)}

    def one(name: str) -> bytes:
        try:
            return page.picture(images[places[name]])
        except Exception:  # of many kinds, as `read_image` raises them
            return b""

    pictures = []
    with ThreadPoolExecutor(THREADS) as pool, report.task("drawing pictures") as progress:
        for picture in pool.map(one, ids):
            pictures.append(picture)
            progress(len(pictures), len(ids))
    return pictures


def _place(pictures: Sequence[bytes], output: Path) -> tuple[list[str], str]:
    """Where each picture is, "" where there is none, and what comes before: in the page or not."""
    if sum(map(bool, pictures)) <= EMBEDDED:
        encoded = [base64.b64encode(picture).decode() for picture in pictures]
        return encoded, "data:image/jpeg;base64,"
    folder = folder_of(output)
    folder.mkdir()
    names = [f"{row:06}.jpg" if picture else "" for row, picture in enumerate(pictures)]
    for name, picture in zip(names, pictures, strict=True):
        if name:
            (folder / name).write_bytes(picture)
    return names, f"{quote(folder.name)}/"


def folder_of(output: Path) -> Path:
    """Where the pictures of a page are, if they are not in it."""
    return output.with_name(f"{output.stem}_pictures")


def _known(predicted: Predictions) -> list[tuple[Question, int]]:
    """The questions that the table has answers to, and the first column of each in the page."""
    known, found, first = ~np.isnan(predicted.cumulative).all(axis=0), [], 0
    for question in predicted.tree.questions:
        if known[question.first]:
            found.append((question, first))
            first += len(question.answers)
    return found


def _galaxies(
    predicted: Predictions,
    different: Sequence[tuple[str, ...]],
    which: np.ndarray,
    alike: Alike,
    pictures: Sequence[str],
    prefix: str,
) -> Markup:
    """What the script of the page reads, as JSON that may stand within HTML."""
    questions = _known(predicted)
    columns = np.concatenate([np.arange(predicted.tree.size)[q.columns] for q, _ in questions])
    nearest = np.where(alike.neighbours < 0, 2**32 - 1, alike.neighbours)
    content = {
        "ids": predicted.ids,
        "looks": different,
        "look": _packed(which, np.uint32),
        "questions": [
            {
                "name": question.name,
                "first": first,
                "answers": [answer.replace("-", " ") for answer in question.answers],
                "columns": predicted.tree.columns[question.columns],
            }
            for question, first in questions
        ],
        "cumulative": _fractions(predicted.cumulative[:, columns]),
        "conditional": _fractions(predicted.conditional[:, columns]),
        "asked": _fractions(predicted.asked[:, [each.number - 1 for each, _ in questions]]),
        "low": None if predicted.low is None else _fractions(predicted.low[:, columns]),
        "high": None if predicted.high is None else _fractions(predicted.high[:, columns]),
        "places": _fractions(alike.places),
        "neighbours": _packed(nearest, np.uint32),
        "similarity": _fractions(alike.similarity),
        "pictures": pictures,
        "prefix": prefix,
    }
    return Markup(json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"))


def _fractions(values: np.ndarray) -> str:
    """From 0 to 1, galaxy after galaxy."""
    whole = np.rint(np.nan_to_num(values).clip(0, 1) * ONE)
    return _packed(np.where(np.isnan(values), ONE + 1, whole), np.uint16)


def _packed(values: np.ndarray, kind: type) -> str:
    return base64.b64encode(values.astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()
