"""A world in which a whole run takes a second: 48 galaxies, three questions, a linear network.

The decision tree is a user's own, in a file; its second question is asked after either of two
answers. The network is linear, so that it is compiled at once; it has batch statistics, three
depths and something random in training, as a real one.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from PIL import Image

from gzjax.models import Network, Weights
from gzjax.models.variants import NANO, VARIANTS, Stage
from gzjax.run import config as configs

GALAXIES = 48
TREE = """
name = "toy"
[[questions]]
name = "shape"
answers = ["round", "disk", "star"]
[[questions]]
name = "tail"
answers = ["yes", "no"]
asked_after = ["shape_round", "shape_disk"]
[[questions]]
name = "arms"
answers = ["none", "one", "two"]
asked_after = ["shape_disk"]
"""
COLUMNS = [
    *("shape_round", "shape_disk", "shape_star"),
    *("tail_yes", "tail_no"),
    *("arms_none", "arms_one", "arms_two"),
]


def fractions(galaxies: int = GALAXIES) -> np.ndarray:
    """float64[galaxies, 8]: cumulative fractions of crowds of 40, who walk the tree by hand."""
    generator = np.random.default_rng(3)
    table = np.zeros((galaxies, 8))
    for row in table:
        row[:3] = generator.multinomial(40, generator.dirichlet([1, 1, 0.3])) / 40
        row[3:5] = generator.multinomial(round(40 * (row[0] + row[1])), [0.3, 0.7]) / 40
        row[5:] = generator.multinomial(round(40 * row[1]), generator.dirichlet([1, 1, 1])) / 40
    return table


def folder(root: Path, galaxies: int = GALAXIES) -> Path:
    """Writes images whose colours hold the answers, and their table; returns `root`."""
    (root / "images").mkdir(parents=True)
    table = fractions(galaxies)
    generator = np.random.default_rng(4)
    names = [str(1000 + 7 * number) for number in range(galaxies)]
    for name, row in zip(names, table, strict=True):
        pixels = generator.integers(0, 60, (24, 20, 3))
        pixels[4:20, 4:16] += (row[[0, 1, 3]] * 180).astype(int)
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{name}.png")
    frame = pd.DataFrame(table, columns=COLUMNS)
    frame.insert(0, "GalaxyID", names)
    frame.to_csv(root / "votes.csv", index=False)
    (root / "toy.toml").write_text(TREE)
    return root


def config(root: Path, **options):
    """A recipe on such a folder; two dots of an option's name are two underscores here."""
    made = configs.default()
    settings = {
        "epochs": 2,
        "batch_size": 8,
        "data.root": str(root),
        "data.table": "votes.csv",
        "data.images": "images",
        "data.tree": str(root / "toy.toml"),
        "data.validation": 0.2,
        "data.test": 0.2,
        "data.canvas": 16,
        "model.image_size": 16,
        "model.name": "efficientnet-nano",
        "views.rotate": 90.0,
        "views.zoom": 1.2,
        "views.field": 0.9,
        "optim.learning_rate": 0.1,
        "optim.warmup": 0.5,
        "average.decay": 0.8,
        "evaluate.batch_size": 8,
        "log.every": 1,
    }
    changed = {k.replace("__", "."): v for k, v in options.items()}
    if changed.get("data.kind") == "sky" or changed.get("data.catalogues"):
        settings["data.root"] = ""
    made.update_from_flattened_dict(settings | changed)
    return made


@functools.cache
def network(*, outputs: int, stochastic_depth: float = 0.0, frozen: int = 0, **_) -> Network:
    """A linear network on 4 x 4 patches, as `models.build` would make one; compiled once."""

    def patches_of(images):
        batch, side = images.shape[:2]
        patches = images.reshape(batch, 4, side // 4, 4, side // 4, 3).mean(axis=(2, 4))
        return patches.reshape(batch, 48)

    def init(key):
        first, second = jax.random.split(key)
        params = {
            "stem": {"kernel": jax.random.normal(first, (48, 6)) / 7},
            "block": {"scale": jnp.ones(6), "bias": jnp.zeros(6)},
            "classifier": {
                "kernel": jax.random.normal(second, (6, outputs)) / 3,
                "bias": jnp.ones(outputs),
            },
        }
        return Weights(params, {"norm": {"mean": jnp.zeros(6)}})

    def apply(params, batch_stats, images, *, train, key=None):
        values = patches_of(images) @ params["stem"]["kernel"]
        mean = batch_stats["norm"]["mean"]
        if train:
            now = values.mean(axis=0)
            values, mean = values - now, 0.7 * mean + 0.3 * now
            keep = jax.random.bernoulli(key, 1 - stochastic_depth, values.shape)
            values = jnp.where(keep, values, 0.0)
        else:
            values = values - mean
        values = values * params["block"]["scale"] + params["block"]["bias"]
        outputs = values @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        return outputs, {"norm": {"mean": jax.lax.stop_gradient(mean)}}

    def features(params, batch_stats, images):
        values = patches_of(images) @ params["stem"]["kernel"] - batch_stats["norm"]["mean"]
        return values * params["block"]["scale"] + params["block"]["bias"]

    depths = ("stem", "block", "classifier")
    return Network(init, apply, len(depths), depths.index, features)


SHORT_V2 = (
    Stage(2, 3, 1, 1, 16, fused=True),
    Stage(2, 3, 2, 4, 24, fused=True),
    Stage(2, 3, 2, 4, 32),
)


def shorten(patch, name: str, stages: tuple[Stage, ...] = NANO) -> None:
    """Gives a network these stages only, by pytest's monkeypatch."""
    patch.setitem(VARIANTS, name, VARIANTS[name]._replace(stages=stages))
