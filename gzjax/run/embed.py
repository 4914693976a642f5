"""Embeddings: what a network sees in galaxies, which of them look alike, and which stand alone.

The embedding of a galaxy is the network's features, which its outputs are linear in. Galaxies are
compared by the cosine of the angle between their features; see `gzjax.data.embeddings`.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float16

from gzjax.data import embeddings as embedded
from gzjax.data import listing
from gzjax.data.framing import Framing
from gzjax.data.listing import Listing
from gzjax.data.paths import path_of
from gzjax.errors import UserError
from gzjax.run import inference, neighbours
from gzjax.run import parts as in_parts
from gzjax.run.model import Model
from gzjax.run.parts import RANGE, Engine, Parts
from gzjax.run.report import SILENT, Report


class Embeddings(NamedTuple):
    """What a network sees in some images.

    ids: GalaxyIDs.
    features: averaged over test-time views; NaN where an image could not be read.
    faults: why it could not, "" where it could.
    """

    ids: list[str]
    features: Float16[np.ndarray, "galaxies features"]
    faults: list[str]


def embed(model: Model, images: Any, views: int | None = None) -> Embeddings:
    """Embeds images, in memory.

    Args:
      model: of a run.
      images: as `predict.predict` takes them.
      views: test-time views averaged; None: as many as the recipe says.

    Raises:
      UserError: nothing to embed.
    """
    listed = listing.list_images(images)
    return _joined(listed.ids, list(_batches(model, listed, views)))


def embed_to_file(
    model: Model,
    images: Any,
    output: Path,
    *,
    views: int | None = None,
    report: Report = SILENT,
    size: int = RANGE,
    share: tuple[int, int] = (1, 1),
    engine: Engine | None = None,
) -> None:
    """Embeds images into a Parquet file, or resumes where that was interrupted.

    Images that cannot be read are not in it, but in `OUTPUT.unreadable.csv`; for the arguments see
    `predict.predict_to_file`.

    Raises:
      UserError: nothing to embed, or nowhere to write.
    """
    in_parts.check_output(output, (".parquet",), share)
    views = model.views_or(views)
    listed = listing.list_images(images)
    report.say(f"{len(listed.ids)} images, {views} view{'s' * (views != 1)} each")
    about = {"network": model.identity, "views": views, "framing": str(model.framing)}
    job = {"images": listed.digest, **about}
    in_parts.write_in_parts(
        Parts(output, job, len(listed.ids), size, share),
        [model],
        listed,
        functools.partial(table_of_part, views=views),
        functools.partial(in_parts.write_parquet, metadata=embedded.metadata(about)),
        report,
        "embedding images",
        engine,
    )


def table_of_part(
    models: Sequence[Model], part: Listing, seen: Callable[[int], None], *, views: int
) -> pa.Table:
    """Embeds some images; see `parts.See`."""
    some = []
    for embeddings in _batches(models[0], part, views):
        some.append(embeddings)
        seen(len(embeddings.faults))
    return embedded.table(*_joined(part.ids, some))


def row_of(query: str, embeddings: Path, ids: Sequence[str]) -> int:
    """The row of a query that is one of the GalaxyIDs of embeddings; -1 if it is a file.

    Raises:
      UserError: neither.
    """
    if query in ids:
        return ids.index(query)
    if os.path.isfile(os.path.expanduser(path_of(query))):
        return -1
    raise UserError(f"query: expected a GalaxyID in {embeddings} or an image, found {query!r}")


def similar(
    query: str,
    embeddings: str | Path,
    k: int = 50,
    model: Model | None = None,
    report: Report = SILENT,
) -> pd.DataFrame:
    """The galaxies most similar to one, the most similar first.

    Args:
      query: the GalaxyID of one of the embeddings, which is then the first; or an image.
      embeddings: a file of them.
      k: how many.
      model: that the embeddings are of; to embed an image.
      report: says whether all galaxies were compared; see `gzjax.run.neighbours`.

    Returns:
      `GalaxyID`, and `similarity`, float32, the cosine; k rows, or as many as there are.

    Raises:
      UserError: no such galaxy or file, a file that cannot be read, or another model.
    """
    embeddings = Path(embeddings)
    if k < 1:
        raise UserError(f"k: expected 1 or more, found {k}")
    ids = embedded.read_ids(embeddings)
    row = row_of(query, embeddings, ids)
    if row >= 0:
        features = embedded.read_row(embeddings, row)
    else:
        about = embedded.read_about(embeddings)
        if model is None or about.get("network") != model.identity:
            other = "none" if model is None else f"{model.name}, another one"
            raise UserError(
                f"query: to embed {query}, expected the run that {embeddings} is of, found {other}"
            )
        if about.get("framing", str(model.framing)) != str(model.framing):
            raise UserError(
                f"query: expected the options fits.* with which {embeddings} was made, found others"
            )
        seen = embed(model, [os.path.expanduser(query)], about["views"])
        if seen.faults[0]:
            raise UserError(f"{query}: {seen.faults[0]}")
        features = embedded.unit(seen.features)
    found, rows = neighbours.nearest(features, embeddings, k, row, report)
    table = pd.DataFrame({"GalaxyID": [ids[n] for n in rows[0]], "similarity": found[0]})
    # Others may be just as similar: copies.
    return table.iloc[np.argsort(rows[0] != row, kind="stable")].reset_index(drop=True)


def anomalies(embeddings: str | Path, k: int = 50, report: Report = SILENT) -> pd.DataFrame:
    """How far each galaxy is from others, the most anomalous first.

    The score is the distance to the k-th nearest other galaxy, of Ramaswamy, Rastogi & Shim 2000
    (SIGMOD Record 29, 427); distance is 1 - cosine, from 0 to 2. Up to k galaxies that are strange
    in the same way are still anomalous. Every pair is compared: twice as many galaxies take four
    times as long.

    Returns:
      `GalaxyID`, and `distance`, float32; a row for each galaxy.

    Raises:
      UserError: a file that cannot be read, or not more than k galaxies in it.
    """
    embeddings, distances = Path(embeddings), []
    ids = embedded.read_ids(embeddings)
    if not 1 <= k < len(ids):
        raise UserError(f"k: expected 1 or more, and fewer than the {len(ids)} galaxies, found {k}")
    with report.task("comparing galaxies") as progress:
        for block in embedded.blocks(embeddings):
            # A galaxy is itself among its nearest, or something just as near is.
            found, _ = embedded.nearest(block, embeddings, k + 1)
            distances.append(np.maximum(1 - found[:, k], 0))
            progress(sum(map(len, distances)), len(ids))
    table = pd.DataFrame({"GalaxyID": ids, "distance": np.concatenate(distances)})
    return table.sort_values("distance", ascending=False, kind="stable", ignore_index=True)


def _batches(model: Model, listed: Listing, views: int | None) -> Iterator[Embeddings]:
    step = model.embed_step(model.views_or(views))

    def see(images: Mapping[Framing, np.ndarray]) -> jax.Array:
        image = jax.device_put(images[model.framing], model.placement.by_galaxy)
        return step(model.weights, {"image": image})

    first = 0
    seen = inference.batches_of(listed, [model.framing], model.reading, see)
    for features, there, faults in seen:
        features = np.asarray(features[there], np.float16)
        features[[bool(reason) for reason in faults]] = np.nan
        yield Embeddings(list(listed.ids[first : first + len(faults)]), features, faults)
        first += len(faults)


def _joined(ids: Sequence[str], some: Sequence[Embeddings]) -> Embeddings:
    faults = [fault for each in some for fault in each.faults]
    return Embeddings(list(ids), np.concatenate([each.features for each in some]), faults)
