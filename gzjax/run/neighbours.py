"""The galaxies nearest to one: exact among few, by an approximate index among many.

The index (HNSW; Malkov & Yashunin 2018, arXiv:1603.09320) is made by usearch, an extra, and kept
beside the embeddings as `EMBEDDINGS.usearch`. `EMBEDDINGS.usearch.json` says which embeddings it is
of, and how many of the nearest galaxies it finds. It holds the features as they are, so the cosines
of what it finds are exact. While it is made, all of them are in memory; afterwards it is mapped.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from gzjax import files
from gzjax.data import embeddings as embedded
from gzjax.errors import one_line
from gzjax.run.report import Report

MANY = 10**6  # galaxies; up to this many are compared one by one
SAMPLE = 100  # queries that show how many of the nearest galaxies an index finds
WIDTH = 128  # candidates that a search of the index follows at least
NEEDS_USEARCH = (
    "an approximate index, faster for many queries, is an extra: pip install 'gzjax[index]'"
)

Found = tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]


def nearest(
    query: Float32[np.ndarray, "1 features"], embeddings: Path, k: int, row: int, report: Report
) -> Found:
    """(cosines, rows) of the k galaxies most similar to one, in order.

    Args:
      query: its features, of length 1.
      embeddings: a file of them.
      k: how many.
      row: of the query, which is then found; -1: it is not in the file.
      report: says whether every galaxy was compared and, if not, how many are found.

    Raises:
      UserError: a file that cannot be read, or of other features.
    """
    number = embedded.number_of(embeddings)
    index = _index_of(embeddings, number, report) if number > MANY else None
    if index is None or index.ndim != query.shape[1]:
        cosines, rows = embedded.nearest(query, embeddings, k)
        report.say(f"compared with all {number} galaxies")
    else:
        recall = _recall(index, embeddings, k)
        report.say(
            f"searched an approximate index of {number} galaxies: its recall of the {k} nearest is "
            f"{recall:.1%}, measured on {SAMPLE} exact searches"
        )
        cosines, rows = _search(index, query, k, row)
    if row >= 0 and row not in rows:  # there are k copies of it
        rows[0, -1] = row
    return cosines, rows


def _search(index: Any, query: np.ndarray, k: int, row: int = -1) -> Found:
    index.expansion_search = max(WIDTH, 2 * k)
    keys = index.search(query[0].astype(np.float16), k).keys.astype(np.int64)
    keys = np.unique([*keys, *[row] * (row >= 0)])
    cosines, places = embedded.nearest_of(query, [_features(index, keys)], k)
    return cosines, keys[places]


def _features(index: Any, rows: np.ndarray) -> np.ndarray:
    """float32[rows, features], of length 1."""
    return embedded.unit(np.asarray(index.get(rows)))


def _recall(index: Any, embeddings: Path, k: int) -> float:
    """The part of the k nearest galaxies that an index finds; measured once for each k."""
    note = _note(embeddings)
    known = {"recall": {}, **files.read_json(note)}
    if str(k) not in known["recall"]:
        sample = np.random.default_rng(0).integers(0, len(index), SAMPLE)
        queries = _features(index, sample)
        _, truth = embedded.nearest(queries, embeddings, k)
        found = [_search(index, query[None], k)[1] for query in queries]
        both = [len(np.intersect1d(*pair)) for pair in zip(truth, found, strict=True)]
        known["recall"][str(k)] = sum(both) / truth.size
        with contextlib.suppress(OSError):  # in a folder of others it is measured again
            files.write_json(note, known)
    return known["recall"][str(k)]


def _index_of(embeddings: Path, number: int, report: Report) -> Any:
    """The index of embeddings, made if there is none; None, if it cannot be."""
    try:
        from usearch.index import Index
    except ImportError:
        report.say(NEEDS_USEARCH)
        return None
    file, note, status = _file(embeddings), _note(embeddings), embeddings.stat()
    described = {"galaxies": number, "bytes": status.st_size, "changed": status.st_mtime_ns}
    if files.read_json(note).get("of") == described and file.exists():
        with contextlib.suppress(RuntimeError, ValueError):  # damaged
            return Index.restore(file, view=True)
    index: Any = None
    done = 0
    with report.task("indexing galaxies, once") as progress:
        for block in embedded.raw_blocks(embeddings):
            if index is None:
                index = Index(ndim=block.shape[1], metric="cos", dtype="f16")
            index.add(np.arange(done, done + len(block)), block)
            done += len(block)
            progress(done, number)
    try:
        note.unlink(missing_ok=True)
        with files.replacing(file) as unfinished:
            index.save(unfinished)
        files.write_json(note, {"of": described, "recall": {}})
    except (OSError, RuntimeError) as error:  # the latter is usearch's
        report.say(f"{file}: the index cannot be kept ({one_line(error)})")
    return index


def _file(embeddings: Path) -> Path:
    return embeddings.with_name(f"{embeddings.name}.usearch")


def _note(embeddings: Path) -> Path:
    return embeddings.with_name(f"{embeddings.name}.usearch.json")
