"""The plots of a run's page: small SVGs by matplotlib, to stand within HTML.

Their colours are CSS variables of the page, so a plot is dark where the page is. Each says in words
what it shows, for those who do not see it.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import NullFormatter

# What matplotlib draws with -> what the browser paints with.
INK, FAINT, CROWD, NETWORK, GREEN = "#010203", "#010204", "#010205", "#010206", "#010207"
COLOURS = {INK: "ink", FAINT: "faint", CROWD: "crowd", NETWORK: "network", GREEN: "green"}
CYCLE = ((INK, "-"), (NETWORK, "-"), (CROWD, "--"), (GREEN, "-."), (FAINT, "-"))

STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "gzjax",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "path.simplify": True,
}
POINTS = 300  # of a curve; more are averaged
BINS, LEVELS = 25, 5  # of a density

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def curves(name: str, given: Curves, *, log: bool = False, level: float | None = None) -> Markup:
    """Curves over the epochs.

    Args:
      name: unique in the page.
      given: {what it is: (epochs, values)}.
      log: whether the axis of values is logarithmic.
      level: of a dashed horizontal line, the baseline.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(3.6, 2.4)
        for (label, (epochs, values)), (colour, dashes) in zip(
            given.items(), CYCLE * len(given), strict=False
        ):
            x, y = _thinned(epochs), _thinned(values)
            marker = "o" if len(x) < 15 else None
            axes.plot(x, y, dashes, color=colour, label=label, marker=marker, ms=3, lw=1.4)
        if level is not None:
            axes.axhline(level, color=FAINT, lw=1, ls=(0, (4, 3)), label="baseline")
        if log and all((_thinned(values) > 0).all() for _, values in given.values()):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(left=0)
        axes.set_xlabel("epoch")
        axes.grid(axis="y", color=FAINT, alpha=0.25, lw=0.6)
        if len(given) + (level is not None) > 1:
            axes.legend(loc="best", fontsize=9, handlelength=1.8)
        says = "; ".join(
            f"{label} from {values[0]:.4g} to {values[-1]:.4g}"
            for label, (_, values) in given.items()
        )
        return _svg(name, f"Over the epochs: {says}", figure)


def reliability(
    name: str,
    predicted: np.ndarray,
    observed: np.ndarray,
    curve: Sequence[Mapping[str, Any]],
) -> Markup:
    """Predicted against observed fractions, as a density, and the curve of `metrics.reliability`.

    Args:
      name: unique in the page.
      predicted: fractions of the network.
      observed: those of the crowd, NaN where they are not known.
      curve: the mean of both in bins of what was predicted.
    """
    known = ~np.isnan(observed)
    counts, *_ = np.histogram2d(
        predicted[known], observed[known], BINS, ((0.0, 1.0 + 1e-6), (0.0, 1.0 + 1e-6))
    )
    # Of the logarithm, so that single galaxies are seen beside the many at 0.
    levels = np.ceil(np.log1p(counts) / np.log1p(max(counts.max(), 1)) * LEVELS).astype(int)
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2.7, 2.6)
        for level in range(1, LEVELS + 1):
            squares = [_square(*place) for place in np.argwhere(levels == level)]
            if squares:  # one path for all, which is small
                path = Path.make_compound_path(*squares)
                alpha = 0.12 + 0.7 * (level - 1) / (LEVELS - 1)
                axes.add_patch(PathPatch(path, fc=CROWD, ec="none", alpha=alpha, lw=0))
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
        x, y = ([row[key] for row in curve] for key in ("predicted", "observed"))
        axes.plot(x, y, "-o", color=NETWORK, lw=1.4, ms=3.5, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="network", ylabel="crowd")
        ticks = (0, 0.5, 1)
        axes.set_xticks(ticks, ("0", "0.5", "1"))
        axes.set_yticks(ticks, ("0", "0.5", "1"))
        means = ", ".join(f"{a:.2f} and {b:.2f}" for a, b in zip(x, y, strict=True))
        return _svg(name, f"Mean predicted fraction, and that of the crowd: {means}", figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure, without pyplot and what that remembers; margins in inches."""
    figure = Figure(figsize=(width, height))
    left, bottom, rest = 0.55, 0.45, 0.08
    figure.subplots_adjust(
        left=left / width, bottom=bottom / height, right=1 - rest / width, top=1 - rest / height
    )
    return figure, figure.add_subplot()


def _square(column: int, row: int) -> Path:
    x, y, side = column / BINS, row / BINS, 1 / BINS
    return Path([(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)], closed=True)


def _thinned(values: Sequence[float]) -> np.ndarray:
    """Means of neighbours, where there are more than can be seen."""
    parts = np.array_split(np.asarray(values, float), min(POINTS, max(1, len(values))))
    return np.array([part.mean() if len(part) else np.nan for part in parts])


def _svg(name: str, says: str, figure: Figure) -> Markup:
    """The SVG alone, to stand within HTML: no header, ids of its own, the page's colours."""
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</defs>", "", text, flags=re.S)
    text = re.sub(r"<g id=[^>]*>", "<g>", text)  # nothing refers to them
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: [^;\"]*;?|font-family: [^;\"]*;?", "", text)
    text = re.sub(r' d="[^"]*"', lambda path: _shorter(path[0]), text)
    text = re.sub("|".join(COLOURS), lambda found: f"var(--{COLOURS[found[0]]})", text)
    # matplotlib has escaped what it was given to write.
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1))


def _shorter(path: str) -> str:
    """Hundredths of a pixel are enough."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path).replace(
        "\n", ""
    )
