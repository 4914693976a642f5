"""FITS images as colours; the one place that needs astropy, imported where a FITS file is met.

One band becomes grey, three become colours by `astropy.visualization.make_lupton_rgb` (Lupton et
al. 2004, PASP 116, 133), which stretches the mean of the bands and keeps their ratios, so that
bright centres keep their colour. Why the defaults of `framing.FitsSettings`:

- asinh shows both spiral arms and a bulge a hundred times brighter. `softening` is astropy's own
  default; for three bands Q and stretch follow from it, so three equal bands look as one does.
- Black is the 1st percentile, of each band: most pixels are sky, and so faint arms are not lost.
  White is percentile 99.8 of the mean: the centre of a galaxy, and no cosmic ray. Percentiles need
  no units; `scale=fixed` is for images of one survey, where brightness itself should be seen.
- Three bands are blue, green, red: surveys order cut-outs by wavelength, as g, r, z.

Rows go from south to north in FITS, and the other way in JPEGs: images are turned to be alike.
"""

import gzip
import io
import math
from typing import Any

import numpy as np
from astropy import visualization
from astropy.io import fits
from jaxtyping import Float32, UInt8

from gzjax import remote
from gzjax.data.framing import FitsSettings
from gzjax.data.images import Unusable, size_fault
from gzjax.data.paths import GZIP, Encoded, split_hdu
from gzjax.errors import one_line

# What lies beside the bands of a galaxy, and is none.
NO_BANDS = {
    *("IVAR", "INVVAR", "VAR", "VARIANCE", "ERR", "ERROR", "SIGMA", "RMS", "UNCERT"),
    *("WHT", "WGT", "WEIGHT", "MASK", "DQ", "FLAGS", "QUALITY", "PSF", "EXP", "NEXP"),
}

# An HDU, and which of its planes.
Band = tuple[Any, int]


def read(file: Encoded, settings: FitsSettings) -> UInt8[np.ndarray, "height width 3"]:
    """The colours of a FITS image, compressed or not; `FILE[3]` or `FILE[NAME]` chooses an HDU.

    Pixels that some band does not know, NaN, are black.

    Raises:
      Unusable: no image, not as many bands as `settings` say, a damaged or a blank one.
      OSError: a file that cannot be opened, or is no FITS file.
    """
    path, hdu = split_hdu(file)
    with _opened(path) as hdus:
        bands = _find_bands(hdus, hdu, settings.bands)
        try:
            planes = [each.data.reshape(-1, *each.shape[-2:])[plane] for each, plane in bands]
        except (TypeError, ValueError) as error:  # which astropy raises where bytes are missing
            raise Unusable(f"truncated or damaged: {one_line(error)}") from error
        return colours(np.stack(planes).astype(np.float32), settings)


def check(file: Encoded, settings: FitsSettings) -> None:
    """Raises what `read` would, as far as headers tell."""
    path, hdu = split_hdu(file)
    with _opened(path) as hdus:
        _find_bands(hdus, hdu, settings.bands)


def colours(
    bands: Float32[np.ndarray, "bands height width"], settings: FitsSettings
) -> UInt8[np.ndarray, "height width 3"]:
    """One band, or red, green and blue, as colours; the last row comes first.

    Raises:
      Unusable: no pixel that all bands know, or a blank image.
    """
    known = np.isfinite(bands).all(axis=0)
    if not known.any():
        raise Unusable("not usable: no pixel has a value in all bands, expected some")
    if settings.scale == "fixed":
        light, white = bands - settings.low, settings.high - settings.low
    else:
        light = bands - np.percentile(bands[:, known], settings.low, axis=1)[:, None, None]
        mean = light[:, known].mean(axis=0)
        # Of a drawn galaxy in an empty sky, even that percentile may be black.
        white = float(np.percentile(mean, settings.high)) or float(mean.max())
    if not (white > 0 and np.ptp(bands[:, known], axis=1).any()):
        raise Unusable("not usable: blank, all pixels are alike")
    red, green, blue = np.broadcast_to(np.where(known, light, 0), (3, *known.shape))
    if settings.stretch == "asinh":
        # So that the mean m becomes asinh(m / (softening white)) / asinh(1 / softening).
        q = 10 * np.sinh(np.arcsinh(1 / settings.softening) / 10)
        stretch = q * settings.softening * white
        with np.errstate(invalid="ignore"):  # 0 / 0 in an empty sky
            image = visualization.make_lupton_rgb(red, green, blue, minimum=0, stretch=stretch, Q=q)
    else:
        interval = visualization.ManualInterval(0, white)
        stretch = getattr(visualization, f"{settings.stretch.title()}Stretch")()
        image = visualization.make_rgb(red, green, blue, interval=interval, stretch=stretch)
    return np.ascontiguousarray(image[::-1])


def _opened(file: Encoded) -> Any:
    file = remote.read(file) if isinstance(file, str) and "://" in file else file
    if isinstance(file, bytes):
        # astropy unpacks files alone.
        file = gzip.decompress(file) if file.startswith(GZIP) else file
        return fits.open(io.BytesIO(file))
    # Without memory maps, which may kill a process whose disk is gone.
    return fits.open(file, memmap=False)


def _find_bands(hdus: Any, hdu: str, wanted: str) -> list[Band]:
    """One band, or red, green and blue; all of one usable size."""
    named = _bands_of(_images(hdus, hdu))
    names, bands = [name for name, _ in named], [band for _, band in named]
    if wanted == "auto":
        seen = [n for n, name in enumerate(names) if name not in NO_BANDS] or [0]
        # Beside an HDU of this name are its errors and weights, whatever they are called.
        seen = seen[:1] if names[0] == "SCI" else seen
        names, bands = [names[n] for n in seen], [bands[n] for n in seen]
    if wanted == "auto" and len(bands) == 3:
        bands = bands[::-1]
    elif len(bands) > 1 or wanted != "auto":
        chosen = [] if wanted == "auto" else wanted.upper().split(",")
        numbers = [names.index(each) if each in names else each for each in chosen]
        found = [int(n) for n in numbers if str(n).isdecimal() and int(n) < len(bands)]
        if not chosen or len(found) < len(chosen):
            said = ", ".join(name or str(n) for n, name in enumerate(names[:9]))
            expected = "1 or 3; the option fits.bands chooses" if not chosen else wanted
            raise Unusable(f"not usable: {len(names)} bands ({said}), expected {expected}")
        bands = [bands[n] for n in found]
    shapes = {each.shape[-2:] for each, _ in bands}
    if len(shapes) > 1:
        raise Unusable(f"not usable: its bands differ in size: {sorted(shapes)}")
    height, width = shapes.pop()
    if fault := size_fault(width, height):
        raise Unusable(fault)
    return bands


def _images(hdus: Any, hdu: str) -> list[Any]:
    """The HDUs that hold images; or the one that is asked for."""
    if hdu:
        try:
            hdus = [hdus[int(hdu) if hdu.isdecimal() else hdu]]
        except (IndexError, KeyError):
            names = ", ".join(each.name or str(n) for n, each in enumerate(hdus[:9]))
            raise Unusable(f"not usable: no HDU {hdu}, found {names}") from None
    kinds = fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU
    found = [each for each in hdus if isinstance(each, kinds) and len(each.shape) > 1]
    if not found:
        raise Unusable("not usable: no image in it, expected one of two or three axes")
    return found


def _bands_of(images: list[Any]) -> list[tuple[str, Band]]:
    """(name, band): the planes of a cube, if that comes first; else all images that are flat."""
    if math.prod(images[0].shape[:-2]) == 1:
        flat = [each for each in images if math.prod(each.shape[:-2]) == 1]
        return [(each.name.upper(), (each, 0)) for each in flat]
    if len([length for length in images[0].shape[:-2] if length > 1]) > 1:
        raise Unusable(f"not usable: {len(images[0].shape)} axes, expected 2 or 3")
    return [("", (images[0], plane)) for plane in range(math.prod(images[0].shape[:-2]))]
