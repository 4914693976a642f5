"""The Galaxy Zoo challenge done right: the whole tree, the galaxy in the middle, random views.

    launch/run --config configs/gz2.py --config.data.root=FOLDER --workdir runs/real

FOLDER holds `training_solutions_rev1.csv` and `images_training_rev1/`. Networks are compared
with the crowd's cumulative vote fractions; galaxies fill about half of the challenge's images, so
the outer part is cut away; and the sky has no up, so every view is turned, flipped and zoomed at
random.
"""

from gzjax.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 30

    config.data.crop = 0.7
    config.data.canvas = 160

    config.views.field = 0.8
    config.views.rotate = 180.0
    config.views.zoom = 1.2
    config.views.shift = 0.03
    config.views.flip = True

    config.loss.activation = "softmax"
    config.loss.terms = ("mse",)
    return config
