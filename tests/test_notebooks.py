"""The notebooks: made of their sources, and each runs from top to bottom, at tiny size."""

import json
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import tiny

from gzjax.run import recipes

DOCS = Path(__file__).parent.parent / "docs"
SOURCES = ("tour", "your_own_galaxies")


def cells(name: str) -> list[tuple[str, str]]:
    """(kind, text) of each cell of a source in jupytext's percent format."""
    text = (DOCS / f"{name}.py").read_text()
    _, *parts = re.split(r"^# %%(.*)\n", text, flags=re.M)
    found = []
    for kind, part in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            found.append(("markdown", re.sub("^# ?", "", part, flags=re.M).strip()))
        else:
            found.append(("code", part.strip()))
    return found


def run(name: str, changes: dict[str, str]) -> dict:
    """Runs the code of a notebook, some of whose text is changed; returns its variables."""
    matplotlib.use("agg")
    code = "\n\n".join(text for kind, text in cells(name) if kind == "code")
    for before, after in changes.items():
        assert code.count(before) == 1, before
        code = code.replace(before, after)
    variables = {"__name__": "notebook"}
    exec(compile(code, f"{name}.py", "exec"), variables)
    return variables


@pytest.mark.parametrize("name", SOURCES)
def test_the_notebook_is_its_source(name):
    """If not: launch/notebooks."""
    made = json.loads((DOCS / f"{name}.ipynb").read_text())
    found = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in made["cells"]]
    assert found == cells(name)
    assert not any(cell.get("outputs") for cell in made["cells"])


def test_the_tour(world, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    # As small as configs/test.py.
    monkeypatch.setattr("gzjax.recipe", lambda name: recipes.recipe("test"), raising=False)
    left = run(
        "tour", {"GALAXIES, EPOCHS, SHOWN = 1024, 8, 12": "GALAXIES, EPOCHS, SHOWN = 160, 1, 5"}
    )
    assert left["after"] < left["before"]
    assert float(np.asarray(left["fractions"])[:, :2].sum(axis=1).max()) == pytest.approx(1)
    assert len(left["similar"]) == 5
    assert left["similar"]["GalaxyID"][0] == left["data"].ids[left["rows"][0]]
    assert len(left["predicted"]) == len(left["data"].splits["test"])
    for name in ("explore.html", "e.parquet", "predicted.csv"):
        assert (tmp_path / "tour" / name).exists()


def test_your_own_galaxies(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left = run(
        "your_own_galaxies",
        {
            'Path("survey")': repr(world).replace("PosixPath", "Path"),
            '"decals-dr5"': repr(str(world / "toy.toml")),
            '"efficientnet-lite0", "imagenet", 128, 20': '"efficientnet-nano", "", 16, 1',
            '"new_images"': repr(str(world / "images")),
            "config.epochs = EPOCHS": "config.epochs, config.batch_size = EPOCHS, 8\n"
            "config.evaluate.batch_size = 8",
        },
    )
    table = pd.read_csv(tmp_path / "mine" / "predicted.csv")
    assert len(table) == tiny.GALAXIES
    assert {"shape_round", "shape_round_fraction", "shape_round_90pc-lower"} <= {*table}
    assert left["model"].tree.name == "toy"
    assert len([1 for kind, _ in cells("your_own_galaxies") if kind == "code"]) <= 10
