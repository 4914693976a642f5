"""Everything once, on a small sky with a tiny network: for tests and for a first look.

    launch/run --config configs/test.py

Time: about a minute on two CPU cores, most of it compiling.
Score: none worth reading; 131 galaxies are too few to learn from.
"""

from gzjax.run.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 2
    config.batch_size = 16

    config.data.kind = "sky"
    config.data.galaxies = 160
    config.data.crop = 0.5
    config.data.canvas = 32

    config.model.name = "efficientnet-nano"
    config.model.image_size = 32

    config.views.rotate = 180.0
    config.views.flip = True

    config.evaluate.batch_size = 16
    config.checkpoint.every = 5
    config.log.every = 2
    return config
