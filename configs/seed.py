"""The student project that gzjax grew from, as it was documented.

    launch/run --config configs/seed.py --config.data.root=FOLDER --workdir runs/seed

FOLDER is that of configs/gz2.py, or holds the project's own tables `Class1.x.csv`, each with a
folder `Class1.x` of images.

Source of the network: Tan & Le 2019 (arXiv:1905.11946).
Score: RMSE 0.23 by the project's own account, on conditional fractions (those of the volunteers
who were asked); here it is scored on the 37 cumulative fractions, like every other recipe.

EfficientNet-B0 on whole images, rescaled from 424 to 128 pixels, without augmentation. Outputs pass
through ReLU and are divided by each question's sum, but not multiplied by the gates, so the network
learns conditional fractions. MSE, focal loss and KL divergence, weighted so that each gets equal
attention; AdamW with a decaying learning rate, batches of 32, 20 epochs.
"""

from gzjax.run.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 20
    config.batch_size = 32

    config.data.crop = 1.0
    config.data.canvas = 128
    config.model.name = "efficientnet-b0"
    config.model.image_size = 128

    config.loss.activation = "relu"
    config.loss.targets = "conditional"
    config.loss.terms = ("mse", "focal", "kl")
    config.loss.weighting = "dynamic"

    config.optim.learning_rate = 1e-3
    config.optim.schedule = "exponential"
    config.optim.decay_rate = 0.9
    config.optim.decay_every = 1.0
    config.optim.warmup = 0.0
    config.optim.clip_norm = 0.0

    config.average.decay = 0.0
    return config
