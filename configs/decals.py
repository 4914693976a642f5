"""A survey of one's own: vote counts under the DECaLS tree, predictions with intervals.

    launch/run --config configs/decals.py --config.data.root=FOLDER --workdir runs/decals

FOLDER holds one Parquet table or several: a galaxy a row, with `id_str`, a column of counts for
each answer, such as `smooth-or-featured-dr5_smooth`, and either `file_loc`, paths of images, or
the encoded images themselves; docs/how-to/own-survey.md says what else tables may look like.
Without a survey, the synthetic sky's volunteers walk the same tree:

    launch/run --config configs/decals.py --config.data.kind=sky --workdir runs/decals-sky

Sources: the tree and the likelihood of the votes, Walmsley et al. 2022 (arXiv:2102.08414); the
network, Tan & Le 2019 (arXiv:1905.11946).
Time: 14 minutes on two CPU cores, on 4,096 galaxies of the synthetic sky.
Score: on 404 test galaxies of the synthetic sky RMSE 0.0649 with 8 views; predicting the training
mean scores 0.1651; 90 % intervals contain 90.8 % of the votes (92.5 % without the temperature). On
real galaxies of DECaLS it has not been scored.

Questions that a table lacks, and those that nobody was asked, count for nothing. To train on
several campaigns at once, list them in `data.catalogues`, each with its tree.
"""

from gzjax.run.config import default


def get_config():
    """See the module's docstring."""
    config = default()
    config.epochs = 16

    config.data.tree = "decals-dr5"
    config.data.table = "**/*.parquet"
    # DECaLS cut-outs are scaled to the galaxy, which fills more of them than in the challenge's.
    config.data.crop = 0.8
    config.data.canvas = 160

    config.model.name = "efficientnet-lite0"
    config.model.weights = "imagenet"
    config.model.stochastic_depth = 0.1

    config.optim.learning_rate = 2e-3
    config.optim.weight_decay = 0.1

    config.views.field = 0.9
    config.views.rotate = 180.0
    config.views.zoom = 1.1
    config.views.shift = 0.03
    config.views.flip = True

    config.loss.activation = "softplus"
    config.loss.terms = ("dirichlet",)

    config.average.decay = 0.998

    config.evaluate.views = 8
    return config
