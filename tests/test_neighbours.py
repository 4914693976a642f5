"""An approximate index of embeddings: made once, exact in what it finds, honest about the rest."""

import contextlib
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest

import gzjax
from gzjax.data import embeddings as embedded
from gzjax.errors import UserError
from gzjax.run import embed, neighbours
from gzjax.run import parts as in_parts


@pytest.fixture
def index(monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(neighbours, "MANY", 100)
    monkeypatch.setattr(embedded, "BLOCK", 300)


@pytest.fixture
def report():
    made = gzjax.Report(loud=False)
    made.said = []
    made.say = made.said.append
    return made


def file_of(path, galaxies=700, features=12, seed=0):
    """Embeddings in blobs, with a copy, and with one that has no features."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(9, features))
    values = centres[generator.integers(0, 9, galaxies)]
    values = (values + 0.3 * generator.normal(size=values.shape)).astype(np.float16)
    values[5], values[6] = values[4], 0
    ids = [f"g{row}" for row in range(galaxies)]
    table = embedded.table(ids, values, [""] * galaxies).drop_columns("fault")
    in_parts.write_parquet([table], path, embedded.metadata({}))
    return path


def exactly(monkeypatch, *arguments):
    with monkeypatch.context() as patched:
        patched.setattr(neighbours, "MANY", 10**6)
        return embed.similar(*arguments)


def test_an_index_finds_what_all_comparisons_find(tmp_path, index, report, monkeypatch):
    file = file_of(tmp_path / "e.parquet")
    for query in ("g0", "g5", "g699"):
        found = embed.similar(query, file, 20, report=report)
        expected = exactly(monkeypatch, query, file, 20)
        assert found["GalaxyID"][0] == query
        assert len(found) == 20
        same = found.merge(expected, on="GalaxyID")
        assert len(same) >= 19
        np.testing.assert_allclose(same["similarity_x"], same["similarity_y"], atol=1e-6)
        assert found["similarity"][1:].is_monotonic_decreasing
    made, *said = report.said
    assert made == "indexing galaxies, once: 700"
    assert said == [said[0]] * 3
    assert said[0].startswith("searched an approximate index of 700 galaxies: its recall of ")
    assert "recall of the 20 nearest is " in said[0]
    assert said[0].endswith("%, measured on 100 exact searches")


def test_an_index_is_made_once_and_again_for_other_embeddings(tmp_path, index, report, monkeypatch):
    file, made = file_of(tmp_path / "e.parquet"), []
    blocks = embedded.raw_blocks
    monkeypatch.setattr(embedded, "raw_blocks", lambda file: made.append(file) or blocks(file))
    embed.similar("g1", file, 5, report=report)
    assert len(made) == 2  # the index, and the searches among all
    embed.similar("g2", file, 5, report=report)
    assert len(made) == 2
    embed.similar("g2", file, 6, report=report)  # of which it is not known yet
    assert len(made) == 3
    assert sorted(json.loads((tmp_path / "e.parquet.usearch.json").read_text())["recall"]) == [
        "5",
        "6",
    ]
    file_of(file, seed=1)
    os.utime(file, ns=(0, 0))
    found = embed.similar("g1", file, 5)
    assert len(made) == 5
    pd.testing.assert_frame_equal(found, exactly(monkeypatch, "g1", file, 5), atol=1e-6)
    (tmp_path / "e.parquet.usearch").write_bytes(b"damaged")
    pd.testing.assert_frame_equal(embed.similar("g1", file, 5), found)


def test_what_an_index_misses_is_counted(tmp_path, index, report, monkeypatch):
    class Blind:
        """An index that misses every galaxy of odd number."""

        def __init__(self, index):
            self.index = index

        def __getattr__(self, name):
            return getattr(self.index, name)

        def __len__(self):
            return len(self.index)

        def search(self, query, k):
            keys = self.index.search(query, 2 * k).keys
            return type("Found", (), {"keys": keys[keys % 2 == 0][:k]})

    file, made = file_of(tmp_path / "e.parquet"), neighbours._index_of
    monkeypatch.setattr(neighbours, "_index_of", lambda *options: Blind(made(*options)))
    found = embed.similar("g3", file, 40, report=report)
    assert found["GalaxyID"][0] == "g3"  # whatever the index misses
    recall = float(report.said[-1].partition(" nearest is ")[2].partition("%")[0])
    assert 35 < recall < 65


def test_few_galaxies_are_all_compared(tmp_path, report):
    file = file_of(tmp_path / "e.parquet")
    embed.similar("g0", file, 5, report=report)
    assert report.said == ["compared with all 700 galaxies"]
    assert list(tmp_path.iterdir()) == [file]


def test_without_the_extra_all_are_compared(tmp_path, report, monkeypatch):
    file = file_of(tmp_path / "e.parquet")
    monkeypatch.setattr(neighbours, "MANY", 100)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    found = embed.similar("g0", file, 5, report=report)
    assert report.said == [neighbours.NEEDS_USEARCH, "compared with all 700 galaxies"]
    assert "pip install 'gzjax[index]'" in report.said[0]
    pd.testing.assert_frame_equal(found, exactly(monkeypatch, "g0", file, 5))


def test_an_index_that_cannot_be_kept(tmp_path, index, report, monkeypatch):
    file = file_of(tmp_path / "e.parquet")

    # usearch has an error of its own for what cannot be written.
    nowhere = contextlib.nullcontext(tmp_path / "no such folder" / "index")
    monkeypatch.setattr(neighbours.files, "replacing", lambda _: nowhere)
    found = embed.similar("g0", file, 5, report=report)
    _, kept, searched = report.said
    assert kept.startswith(f"{file}.usearch: the index cannot be kept (")
    assert "\n" not in kept
    assert searched.startswith("searched an approximate index of 700 galaxies")
    pd.testing.assert_frame_equal(found, exactly(monkeypatch, "g0", file, 5))
    assert not (tmp_path / "e.parquet.usearch").exists()


def test_an_index_of_others_is_searched_with_any_k(tmp_path, index, report, monkeypatch):
    file = file_of(tmp_path / "e.parquet")
    embed.similar("g0", file, 5)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(neighbours.files, "write_json", denied)
    found = embed.similar("g0", file, 6, report=report)
    assert len(report.said) == 1
    pd.testing.assert_frame_equal(found, exactly(monkeypatch, "g0", file, 6))


def test_a_query_with_more_copies_than_are_wanted_is_still_the_first(
    tmp_path, index, report, monkeypatch
):
    values = np.ones((200, 4), np.float16)
    table = embedded.table([f"g{row}" for row in range(200)], values, [""] * 200)
    file = tmp_path / "e.parquet"
    in_parts.write_parquet([table.drop_columns("fault")], file, embedded.metadata({}))
    for found in (embed.similar("g149", file, 5), exactly(monkeypatch, "g149", file, 5)):
        assert found["GalaxyID"][0] == "g149"
        assert found["GalaxyID"].nunique() == 5
        np.testing.assert_allclose(found["similarity"], 1, atol=1e-6)


def test_a_query_of_other_features(tmp_path, index):
    file, query = file_of(tmp_path / "e.parquet"), np.ones((1, 5), np.float32)
    with pytest.raises(UserError, match=r"e\.parquet: expected 5 features, found 12$"):
        neighbours.nearest(query, file, 5, -1, gzjax.Report(loud=False))
