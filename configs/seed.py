"""The student's project that gzjax grew from, as it was documented.

    launch/run --config configs/seed.py --config.data.root=FOLDER --workdir runs/seed

EfficientNet-B0 on whole images rescaled from 424 to 128 pixels, without augmentation; ReLU and
division by each question's sum, but not the gates: it learns the fractions among those who were
asked. MSE, focal loss and KL divergence, weighted so that each gets equal attention; AdamW with a
decaying rate, batches of 32, 20 epochs. It reached an RMSE of 0.23 on those conditional fractions
by its own account; here it is scored, like every other, on the cumulative 37.
"""

from gzjax.config import default


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
