"""The embedded synthetic sky: an EfficientNet learns the whole decision tree in minutes.

    launch/run

needs no data and no GPU. The galaxies are drawn, so its scores say that the system works, and
nothing about real galaxies.
"""

from gzjax.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 20

    config.data.kind = "sky"
    config.data.galaxies = 4096
    config.data.crop = 0.5
    config.data.canvas = 64

    config.model.name = "efficientnet-tiny"
    config.model.image_size = 64

    config.views.rotate = 180.0
    config.views.flip = True

    config.loss.activation = "softmax"
    config.loss.terms = ("mse",)

    config.optim.learning_rate = 4e-3
    return config
