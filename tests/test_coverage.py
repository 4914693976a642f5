"""On the sky, where the truth is known: 90 % intervals hold 90 %."""

import jax
import numpy as np
import pytest
import tiny

import gzjax
from gzjax import posterior
from gzjax.run import build, evaluate
from gzjax.run import config as configs
from gzjax.sky import crowd, population

GALAXIES = 600


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A linear network, which cannot know much, and should know that."""
    folder = tmp_path_factory.mktemp("sky")
    options = {
        "data.kind": "sky", "data.galaxies": GALAXIES, "data.crop": 0.5, "data.canvas": 32,
        "data.validation": 0.2, "data.test": 0.4, "model.name": "efficientnet-nano",
        "model.image_size": 32, "views.rotate": 180.0, "loss.activation": "softmax",
        "loss.terms": ("dirichlet",), "optim.learning_rate": 0.05, "batch_size": 64, "epochs": 30,
        "evaluate.every": 10, "evaluate.batch_size": 64,
    }  # fmt: skip
    config = configs.default()
    config.update_from_flattened_dict(options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **rest: tiny.network(**rest))
        model = gzjax.train(config, folder / "run", cache=folder)
        assert any((folder / "sky").iterdir())  # where it was told to draw it
        data = gzjax.load_data(folder / "run", cache=folder)
        rows, (found,) = evaluate.predict_all([model], [data], "test", 1)
    concentrations = [found["concentrations"]]
    believed = evaluate.mixed_posterior([model], concentrations, [1.0], [model.temperature(1)])
    return data, rows, believed


def test_intervals_hold_the_votes(trained):
    data, rows, believed = trained
    found = posterior.coverage(believed, data.votes[rows])
    # What it takes for one distribution is a mixture, so not all levels can be right at once.
    for level in ("80", "90", "95"):
        assert abs(100 * found["levels"][level]["covered"] - int(level)) < 3
    sure = posterior.coverage(believed.tempered(0.1), data.votes[rows])
    assert sure["levels"]["90"]["covered"] < 0.87


def test_intervals_hold_the_true_fractions(trained):
    """Of an infinite crowd, known for each galaxy of the sky."""
    data, rows, believed = trained

    def truth(index):
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), index)
        latents = population.sample(jax.random.split(key)[0])
        return crowd.expected_conditional(latents, data.tree)

    expected = np.asarray(jax.jit(jax.vmap(truth))(np.asarray(rows, np.uint32)))
    low, high = believed.interval(0.9)
    asked = data.tree.asked(data.observed(rows))[:, data.tree.question_of] > 0.3
    inside = (low <= expected) & (expected <= high)
    assert 0.85 < inside[asked].mean() < 0.95
    low, high = believed.tempered(0.1).interval(0.9)
    assert ((low <= expected) & (expected <= high))[asked].mean() < 0.8
