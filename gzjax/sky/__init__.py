"""The embedded synthetic sky: galaxies with a known truth, a picture and a crowd's vote.

It needs no data and no network.

    population   the latent truth about a galaxy
    light        what would reach a perfect camera
    camera       its colour picture
    crowd        the votes of volunteers
    store        many galaxies, drawn and kept on disk

`python -m gzjax.sky --sheet sky.jpg` shows a page of them.
"""

from gzjax.sky.store import load_sky

__all__ = ["load_sky"]
