"""Which EfficientNets there are, block by block.

A family is a table of stages, whose channels are scaled by a width and whose blocks are repeated by
a depth factor: EfficientNet B0 to B7 (Tan & Le 2019, arXiv:1905.11946); Lite, made for phones, with
no squeeze-and-excitation, ReLU6 in place of SiLU, and neither stem nor head nor the outer stages'
depth scaled; and EfficientNetV2 (Tan & Le 2021, arXiv:2104.00298), whose early blocks are fused.
"""

import math
from typing import NamedTuple


class Stage(NamedTuple):
    """Blocks alike, a row of the papers' tables; only the first of them has the stride.

    fused: one dense convolution in place of the expansion and the depthwise convolution, which
      keeps a GPU or a TPU busier, and no squeeze-and-excitation.
    """

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int
    fused: bool = False


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
# Version 2, from the authors' code (github.com/google/automl, effnetv2_configs.py).
V2_BASE = (
    Stage(1, 3, 1, 1, 16, fused=True),
    Stage(2, 3, 2, 4, 32, fused=True),
    Stage(2, 3, 2, 4, 48, fused=True),
    Stage(3, 3, 2, 4, 96),
    Stage(5, 3, 1, 6, 112),
    Stage(8, 3, 2, 6, 192),
)
V2_S = (
    Stage(2, 3, 1, 1, 24, fused=True),
    Stage(4, 3, 2, 4, 48, fused=True),
    Stage(4, 3, 2, 4, 64, fused=True),
    Stage(6, 3, 2, 4, 128),
    Stage(9, 3, 1, 6, 160),
    Stage(15, 3, 2, 6, 256),
)
V2_M = (
    Stage(3, 3, 1, 1, 24, fused=True),
    Stage(5, 3, 2, 4, 48, fused=True),
    Stage(5, 3, 2, 4, 80, fused=True),
    Stage(7, 3, 2, 4, 160),
    Stage(14, 3, 1, 6, 176),
    Stage(18, 3, 2, 6, 304),
    Stage(5, 3, 1, 6, 512),
)
V2_L = (
    Stage(4, 3, 1, 1, 32, fused=True),
    Stage(7, 3, 2, 4, 64, fused=True),
    Stage(7, 3, 2, 4, 96, fused=True),
    Stage(10, 3, 2, 4, 192),
    Stage(19, 3, 1, 6, 224),
    Stage(25, 3, 2, 6, 384),
    Stage(7, 3, 1, 6, 640),
)
# As few as have everything in them: no expansion, a stride, a shortcut.
NANO = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 5, 2, 6, 24),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
SQUEEZE = 0.25


class Variant(NamedTuple):
    """A network: compound scaling factors, and the dropout rate that the authors trained with.

    stem: channels of the first convolution, before scaling.
    most_lost: the largest share of its channels that rounding may take from a layer.
    """

    width: float
    depth: float
    dropout: float
    lite: bool = False
    stages: tuple[Stage, ...] = STAGES
    stem: int = STEM_CHANNELS
    most_lost: float = 0.1

    def scaled(self, channels: int) -> int:
        """Channels times the width, rounded to a multiple of 8."""
        wanted = channels * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < (1 - self.most_lost) * wanted else rounded

    @property
    def ends(self) -> tuple[int, int]:
        """Channels of the stem and of the head."""
        ends = (self.stem, HEAD_CHANNELS)
        return ends if self.lite else (self.scaled(ends[0]), self.scaled(ends[1]))

    @property
    def depths(self) -> int:
        """At how many depths there are layers: the stem, the stages, the head, the classifier."""
        return len(self.stages) + 3

    def depth_of(self, layer: str) -> int:
        """How far from the images a layer lies, by its name in the parameters: from 0."""
        first, *rest = layer.split("_")
        if first == "block":
            return 1 + int(rest[0])
        return {"stem": 0, "head": self.depths - 2, "classifier": self.depths - 1}[first]


def _second(width: float, depth: float, dropout: float) -> Variant:
    return Variant(width, depth, dropout, stages=V2_BASE, most_lost=1.0)


VARIANTS = {
    "efficientnet-b0": Variant(1.0, 1.0, 0.2),
    "efficientnet-b1": Variant(1.0, 1.1, 0.2),
    "efficientnet-b2": Variant(1.1, 1.2, 0.3),
    "efficientnet-b3": Variant(1.2, 1.4, 0.3),
    "efficientnet-b4": Variant(1.4, 1.8, 0.4),
    "efficientnet-b5": Variant(1.6, 2.2, 0.4),
    "efficientnet-b6": Variant(1.8, 2.6, 0.5),
    "efficientnet-b7": Variant(2.0, 3.1, 0.5),
    "efficientnet-lite0": Variant(1.0, 1.0, 0.2, lite=True),
    "efficientnet-lite1": Variant(1.0, 1.1, 0.2, lite=True),
    "efficientnet-lite2": Variant(1.1, 1.2, 0.3, lite=True),
    "efficientnet-lite3": Variant(1.2, 1.4, 0.3, lite=True),
    "efficientnet-lite4": Variant(1.4, 1.8, 0.3, lite=True),
    "efficientnetv2-b0": _second(1.0, 1.0, 0.2),
    "efficientnetv2-b1": _second(1.0, 1.1, 0.2),
    "efficientnetv2-b2": _second(1.1, 1.2, 0.3),
    "efficientnetv2-b3": _second(1.2, 1.4, 0.3),
    "efficientnetv2-s": Variant(1.0, 1.0, 0.2, stages=V2_S, stem=24),
    "efficientnetv2-m": Variant(1.0, 1.0, 0.3, stages=V2_M, stem=24),
    "efficientnetv2-l": Variant(1.0, 1.0, 0.4, stages=V2_L, stem=32),
    # Ours, by the first rule: for a first look on a laptop, and for tests.
    "efficientnet-tiny": Variant(0.35, 0.35, 0.1),
    "efficientnet-nano": Variant(0.35, 1.0, 0.1, stages=NANO),
}


class BlockPlan(NamedTuple):
    """One block of a network, with everything about it decided."""

    stage: int
    repeat: int
    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int
    squeezed: int  # channels of the squeeze; 0: none
    drop: float  # probability to be skipped in training
    fused: bool = False

    @property
    def name(self) -> str:
        """In the parameters."""
        return f"block_{self.stage}_{self.repeat}"


def plan(variant: Variant, stochastic_depth: float = 0.0) -> tuple[BlockPlan, ...]:
    """The blocks of a network, in order.

    The squeeze is a quarter of the block's input channels, before expansion. The probability of
    skipping a block rises linearly with its index (Huang et al. 2016, arXiv:1603.09382).
    """
    blocks: list[BlockPlan] = []
    inputs, _ = variant.ends
    for number, stage in enumerate(variant.stages):
        outputs = variant.scaled(stage.channels)
        fixed = variant.lite and number in (0, len(variant.stages) - 1)
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)):
            plain = variant.lite or stage.fused
            blocks.append(
                BlockPlan(
                    stage=number,
                    repeat=repeat,
                    kernel=stage.kernel,
                    stride=stage.stride if repeat == 0 else 1,
                    expansion=stage.expansion,
                    inputs=inputs,
                    outputs=outputs,
                    squeezed=0 if plain else max(1, int(inputs * SQUEEZE)),
                    drop=0.0,
                    fused=stage.fused,
                )
            )
            inputs = outputs
    return tuple(
        block._replace(drop=stochastic_depth * position / len(blocks))
        for position, block in enumerate(blocks)
    )
