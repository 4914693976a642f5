"""The embedded synthetic sky: a small EfficientNet learns the whole decision tree.

    launch/run

Sources: the questions, Willett et al. 2013 (arXiv:1308.3496); the network's blocks, Tan & Le 2019
(arXiv:1905.11946).
Time: minutes on two CPU cores; no data, no GPU.
Score: RMSE 0.0823 on 404 test galaxies; predicting the training mean scores 0.1636 (README.md).

The galaxies are drawn and the crowd is simulated, so the scores show that the system works, and
say nothing about real galaxies.
"""

from gzjax.run.config import default


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
