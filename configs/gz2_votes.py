"""The Galaxy Zoo challenge with intervals: the likelihood of the votes in place of the MSE.

    launch/run --config configs/gz2_votes.py --config.data.root=FOLDER --workdir runs/votes

FOLDER is that of `configs/gz2.py`, and so is everything else.

Source: the Dirichlet-multinomial likelihood, Walmsley et al. 2022 (arXiv:2102.08414).
Time: that of `configs/gz2.py`.
Score: docs/ablation.md compares the two.

The challenge published fractions without the number of volunteers, so 40 are assumed for each
galaxy (`data.votes_per_galaxy`), and the answers of each are fractional votes. Intervals are as
wide as that number makes them.
"""

from gzjax.run.recipes import recipe


def get_config():
    """See the module's docstring."""
    config = recipe("gz2")
    config.loss.terms = ("dirichlet",)
    return config
