"""Galaxy Zoo 2 and its challenge: pretrained weights, the whole decision tree, random views.

    launch/run --config configs/gz2.py --config.data.root=ROOT --workdir runs/real

ROOT holds `training_solutions_rev1.csv` and `images_training_rev1/`. More such folders, in
`--config.data.extra=PARTIAL,SELECTED`, are used only for training. They may lack votes on some
questions or hold galaxies that were selected; then `configs/gz2_finish.py` comes after this recipe.

Sources: the tree and the votes, Willett et al. 2013 (arXiv:1308.3496); the likelihood of the votes,
Walmsley et al. 2022 (arXiv:2102.08414); fractions through the tree and random views, Dieleman,
Willett & Dambre 2015 (arXiv:1503.07077); the network, Tan & Le 2019 (arXiv:1905.11946).
Time: 95 minutes on two CPU cores, with 10,841 galaxies to train on.
Score: with these, RMSE 0.0829 and 0.0834 (two seeds) on 730 test galaxies with 16 views, 0.0845 and
0.0850 with one; predicting the training mean scores 0.1645 (docs/ablation.md).

The network's outputs are the concentrations of Dirichlet distributions, one for each question, and
the loss is the likelihood of the crowd's votes: predictions have intervals. The challenge published
fractions without the number of volunteers, so 40 are assumed for each galaxy
(`data.votes_per_galaxy`), and intervals are as wide as that number makes them. Galaxies fill about
half of the challenge's images, so the outer part is cut away. The sky has no up, so every view is
rotated, flipped and zoomed at random; predictions average 16 views.
"""

from gzjax.run.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 20

    # The challenge's galaxies are many enough to report on a twentieth of them.
    config.data.validation = 0.05
    config.data.test = 0.05
    # Larger than the view, which is resampled from it.
    config.data.crop = 0.6
    config.data.canvas = 208

    config.model.name = "efficientnet-lite0"
    config.model.weights = "imagenet"
    config.model.image_size = 160
    config.model.stochastic_depth = 0.1

    config.optim.learning_rate = 2e-3
    config.optim.weight_decay = 0.1

    config.views.field = 0.8
    config.views.rotate = 180.0
    config.views.zoom = 1.2
    config.views.shift = 0.03
    config.views.flip = True

    config.loss.activation = "softplus"
    config.loss.terms = ("dirichlet",)

    config.average.decay = 0.998

    config.evaluate.views = 16
    config.evaluate.every = 2
    return config
