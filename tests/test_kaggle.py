"""The challenge, through a stand-in for the package kaggle."""

import re
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from loopback import zipped
from published import GALAXIES, counts, image

from gzjax import tree as trees


class HTTPError(Exception):
    def __init__(self, status: int):
        self.response = types.SimpleNamespace(status_code=status)
        super().__init__(f"status {status}")


class FakeKaggle:
    """What `launch/data` calls of the package kaggle; files come by `faults`, then whole."""

    files: ClassVar[dict[str, bytes]] = {}
    faults: ClassVar[list[BaseException]] = []
    login: BaseException | None = None
    old = False

    def authenticate(self):
        if self.login:
            raise self.login

    def competition_list_files(self, name):
        assert name == "galaxy-zoo-the-galaxy-challenge"
        size = "totalBytes" if self.old else "total_bytes"
        listed = [
            types.SimpleNamespace(name=each, **{size: len(content)})
            for each, content in self.files.items()
        ]
        return listed if self.old else types.SimpleNamespace(files=listed)

    def competition_download_file(self, name, file, path, quiet):
        if self.faults:
            raise self.faults.pop(0)
        (Path(path) / file).write_bytes(self.files[file])


@pytest.fixture
def kaggle(monkeypatch):
    module = types.ModuleType("kaggle.api.kaggle_api_extended")
    module.KaggleApi = type("KaggleApi", (FakeKaggle,), {"faults": []})
    for name in ("kaggle", "kaggle.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    votes = counts("gz2", trees.load("gz2").columns) / 40
    votes.insert(0, "GalaxyID", np.arange(GALAXIES) + 100008)
    images = {f"images_training_rev1/{n}.jpg": image(n) for n in votes["GalaxyID"]}
    module.KaggleApi.files = {
        "training_solutions_rev1.zip": zipped(
            {"training_solutions_rev1.csv": votes.to_csv(index=False).encode()}
        ),
        "images_training_rev1.zip": zipped(images),
        "images_test_rev1.zip": b"not asked for",
    }
    return module.KaggleApi


@pytest.mark.parametrize("old", [False, True])
def test_the_challenge_is_unpacked_and_trained_on(kaggle, get, trains, tmp_path, old):
    kaggle.old, kaggle.faults = old, [ConnectionError("gone"), HTTPError(500)]
    status, out, err = get("challenge", "--yes", "--output", tmp_path / "challenge")
    assert (status, err) == (0, "")
    assert (tmp_path / "challenge/training_solutions_rev1.csv").exists()
    assert len(list((tmp_path / "challenge/images_training_rev1").iterdir())) == GALAXIES
    assert not list((tmp_path / "challenge").glob("*.zip"))
    if not old:
        trains(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"login": SystemExit(1)},
            r"kaggle has no credentials: make a token on https://www\.kaggle",
        ),
        ({"login": OSError("no kaggle.json")}, "kaggle has no credentials"),
        ({"faults": [HTTPError(401)]}, "does not accept your credentials"),
        ({"faults": [HTTPError(403)]}, r"accept the rules first, on \S+-challenge/rules\n"),
        ({"faults": [ConnectionError("gone")] * 5}, "gone; the same command resumes"),
        ({"files": {"a.zip": b""}}, r"expected a file training_solutions_rev1\.zip, found a\.zip"),
    ],
)
def test_what_kaggle_refuses_is_said_in_a_line(kaggle, get, tmp_path, change, words):
    for name, value in change.items():
        setattr(kaggle, name, value)
    status, _, err = get("challenge", "--yes", "--output", tmp_path)
    assert status == 2
    assert re.search(words, err)
    assert err.count("\n") == 1


def test_a_file_that_kaggle_cut_off_is_not_unpacked(kaggle, get, tmp_path, monkeypatch):
    def cut(self, name, file, path, quiet):
        (Path(path) / file).write_bytes(self.files[file][:50])

    monkeypatch.setattr(kaggle, "competition_download_file", cut)
    status, _, err = get("challenge", "--yes", "--output", tmp_path)
    assert status == 2
    assert re.search(r"rev1\.zip: expected \d+ bytes, found 50; it is deleted, and the same", err)
    assert not list(tmp_path.glob("*.zip"))
