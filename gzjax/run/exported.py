"""A model as a folder of plain files, which other programs read, too; and a run, by its folder.

config.json          what timm calls the network, and under `gzjax` what the run was
gzjax.safetensors    the weights under our names, to be opened again by gzjax
model.safetensors    the same as timm calls them, kernels as PyTorch has them (OIHW)

What else an export holds, see `gzjax.run.export`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from gzjax import files, remote
from gzjax.errors import UserError, one_line, renamed
from gzjax.models import Conventions, Weights, pretrained
from gzjax.models.efficientnet_weights import naming
from gzjax.models.variants import VARIANTS
from gzjax.run import checkpoint
from gzjax.run.checkpoint import Best
from gzjax.run.places import without_places
from gzjax.tree import Tree

FORMAT = 1
CONFIG, OURS, TIMM = "config.json", "gzjax.safetensors", "model.safetensors"
HUB = "hf://"


def open_best(where: str | Path) -> Best:
    """The best weights of a run by its folder; or those of an export, by its folder or on the hub.

    Raises:
      UserError: neither is there, or it is damaged.
    """
    with at_hand(where) as folder:
        return read(folder) if (folder / OURS).exists() else checkpoint.read_best(folder)


def on_hub(where: str | Path) -> bool:
    """Whether that names a repository on the Hugging Face hub."""
    return str(where).startswith(HUB)


@contextlib.contextmanager
def at_hand(where: str | Path) -> Iterator[Path]:
    """A folder as it is; for a URL, a local copy; errors name the URL, not the copy.

    That of `hf://owner/name` is the hub's own, fetched once, where nothing may be written.

    Raises:
      UserError: it cannot be fetched.
    """
    if not remote.is_remote(where):
        yield Path(where).expanduser()
        return
    fetched = contextlib.nullcontext(_fetched(where)) if on_hub(where) else None
    with fetched or remote.run_copied(str(where)) as copy, renamed(copy, str(where)):
        yield copy


def _fetched(where: str | Path) -> Path:
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(str(where).removeprefix(HUB), allow_patterns=["*.json", OURS])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{where}: could not be fetched: {one_line(error)}") from None


def write(folder: Path, best: Best, more: Mapping[str, Any]) -> None:
    """Writes the weights, twice if timm knows such a network, and config.json.

    Args:
      folder: that is there.
      best: of the run.
      more: to be said in config.json, too.
    """
    name = best.about["config"]["model"]["name"]
    conventions = Conventions.from_json(best.about["conventions"])
    ours, timm = {}, {}
    name_of = naming(name, ()) if name in VARIANTS else None
    for path, leaf in jax.tree.leaves_with_path(best.average._asdict()):
        layers = [entry.key for entry in path]
        array = np.asarray(leaf)
        ours[".".join(layers)] = array
        if name_of is not None:
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            timm[name_of(layers[1:])] = np.ascontiguousarray(turned)
    (folder / OURS).write_bytes(safetensors.numpy.save(ours))
    if timm:
        (folder / TIMM).write_bytes(safetensors.numpy.save(timm, {"format": "pt"}))
    size = best.about["config"]["model"]["image_size"]
    content = {
        "architecture": "tf_" * (conventions.padding == "same") + name.replace("-", "_"),
        "num_classes": Tree.from_dict(best.about["tree"]).size,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": conventions.mean,
            "std": conventions.deviation,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
        "gzjax": {"format": FORMAT, "step": best.step, "about": without_places(best.about), **more},
    }
    files.write_json(folder / CONFIG, content)


def read(folder: Path) -> Best:
    """What `write` wrote; the weights are the average alone.

    Raises:
      UserError: it is damaged, or of another version of gzjax.
    """
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["gzjax"]
        found, step, about = (described[name] for name in ("format", "step", "about"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CONFIG}: expected what gzjax exports ({one_line(error)})"
        ) from None
    if found != FORMAT:
        raise UserError(f"{folder / CONFIG}: expected an export of format {FORMAT}, found {found}")
    weights: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in pretrained.read_file(folder / OURS).items():
        *layers, last = name.split(".")
        place = weights
        for layer in layers:
            place = place.setdefault(layer, {})
        place[last] = array
    return Best(step, about, None, Weights(**weights))
