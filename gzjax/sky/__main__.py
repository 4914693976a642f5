"""Draws a page of galaxies of the synthetic sky: `python -m gzjax.sky --sheet sky.jpg`."""

import argparse
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gzjax import tree
from gzjax.data.framing import Framing
from gzjax.data.images import read_image
from gzjax.data.paths import find_files
from gzjax.describe import readable
from gzjax.errors import UserError
from gzjax.sky.crowd import VOLUNTEERS
from gzjax.sky.store import Sky, draw_sky

GAP = 2  # pixels between two galaxies


def draw_tiles(sky: Sky, captions: bool) -> list[np.ndarray]:
    """uint8[size, size, 3] for each galaxy, with or without what the crowd says of it."""
    tiles = []
    for images, votes in draw_sky(sky):
        said = readable(votes / VOLUNTEERS, sky.tree)["morphology"]
        for image, words in zip(images, said, strict=True):
            tile = Image.fromarray(image)
            if captions:
                text = "\n".join(textwrap.wrap(words, max(sky.size // 5, 1)))
                ImageDraw.Draw(tile).text((3, 2), text, fill=(200, 200, 200), font_size=10)
            tiles.append(np.asarray(tile))
    return tiles


def page_of(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Squares of one size in rows: uint8[height, width, 3], filled up with black."""
    size = len(tiles[0]) + GAP
    page = np.zeros((-(-len(tiles) // columns) * size - GAP, columns * size - GAP, 3), np.uint8)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        page[row * size :, column * size :][: len(tile), : len(tile)] = tile
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws a page of galaxies of the synthetic sky."""
    parser = argparse.ArgumentParser(prog="python -m gzjax.sky", description=main.__doc__)
    parser.add_argument("--sheet", type=Path, required=True, help="the picture to write")
    parser.add_argument("--tree", default="gz2", help="the decision tree of the captions")
    parser.add_argument("--galaxies", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=108, help="pixels a side of a galaxy")
    parser.add_argument("--field", type=float, default=0.5, help="central part that is shown")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--captions", action="store_true", help="write what the crowd says")
    parser.add_argument("--beside", type=Path, help="a folder of real cut-outs to set below")
    options = parser.parse_args(arguments)
    if options.columns < 1:
        parser.error(f"columns: expected at least 1, found {options.columns}")
    try:
        sky = Sky(
            tree.load(options.tree), options.galaxies, options.seed, options.size, options.field
        )
        page = page_of(draw_tiles(sky, options.captions), options.columns)
        if options.beside:
            files = list(itertools.islice(find_files(options.beside), options.galaxies))
            if not files:
                raise UserError(f"--beside {options.beside}: expected images, found none")
            framing = Framing(options.field, options.size)
            real = [read_image(file, framing) for file in files]
            line = np.full((6, page.shape[1], 3), 90, np.uint8)
            page = np.concatenate([page, line, page_of(real, options.columns)])
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page).save(options.sheet, quality=92)
    except (OSError, UserError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
