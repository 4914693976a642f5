"""How an image becomes a canvas: the one value that all readers get."""

import dataclasses
import re
from typing import Any, NamedTuple

from gzjax.settings import Settings, choice, number, setting


def _are_bands(value: Any) -> bool:
    return value == "auto" or re.fullmatch(r"[^,\s]+(,[^,\s]+,[^,\s]+)?", value) is not None


@dataclasses.dataclass(frozen=True)
class FitsSettings(Settings):
    """How the pixels of FITS files become colours; see `gzjax.data.fits` for why these defaults.

    bands: red, green and blue, as numbers from 0 or names such as `z,r,g`: planes of a cube, or
      images of a file; one alone is grey; `auto`: three are in the order blue, green, red.
    stretch: from light to brightness.
    softening: of asinh: which part of the range is about linear; fainter light shows if it is less.
    scale: what `low` and `high` are: percentiles of each image, or pixel values, `fixed`.
    low: what is black.
    high: what is white.
    """

    bands: str = setting("auto", "auto, one band or three such as 2,1,0", _are_bands)
    stretch: str = choice("asinh", ("asinh", "linear", "sqrt", "log"))
    softening: float = number(0.1, above=0, most=1)
    scale: str = choice("percentiles", ("percentiles", "fixed"))
    low: float = number(1.0)
    high: float = number(99.8)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            self.fail("high", f"more than low, {self.low:g}", f"{self.high:g}")
        for name, value in (("low", self.low), ("high", self.high)):
            if self.scale == "percentiles" and not 0 <= value <= 100:
                self.fail(name, "a percentile from 0 to 100", f"{value:g}")


class Framing(NamedTuple):
    """How an image is cut out and rescaled.

    crop: side of the central square that is kept, as a fraction of the image's shorter side; a
      galaxy fills about half.
    canvas: side of the result in pixels.
    fits: how the pixels of FITS files become colours.
    """

    crop: float = 1.0
    canvas: int = 128
    fits: FitsSettings = FitsSettings()

    @property
    def options(self) -> dict[str, Any]:
        """{option: value}, as packs remember it."""
        fits = dataclasses.asdict(self.fits)
        return {
            "crop": self.crop,
            "canvas": self.canvas,
            **{f"fits.{name}": value for name, value in fits.items()},
        }
