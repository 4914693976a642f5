from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gzjax import evaluate
from gzjax.augment import Views
from gzjax.models import Weights
from gzjax.tree import GALAXY_ZOO_2

VIEWS = Views(field=0.8, rotate=180.0, zoom=1.5, flip=True)


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 255, (3, 20, 20, 3), np.uint8)
    return {"image": jnp.asarray(images), "row": jnp.arange(3)}


def network():
    """Answers by the image's pixels as they are, so that every view is another answer."""

    def apply(params, statistics, images, train):
        assert not train
        return images.reshape(len(images), -1) @ params, statistics

    return SimpleNamespace(apply=apply)


def predicted(batch, **settings):
    weights = Weights(jax.random.normal(jax.random.key(1), (12 * 12 * 3, GALAXY_ZOO_2.size)), {})
    step = jax.jit(
        lambda batch: evaluate.predict_step(
            weights,
            batch,
            network=network(),
            views=VIEWS,
            image_size=12,
            activation="softmax",
            **settings,
        )
    )
    result = step(batch)
    assert set(result) == {"row", "fractions"}
    return np.asarray(result["fractions"])


@pytest.mark.parametrize("at_once", [2, 3, 24])
def test_how_many_views_are_computed_at_once_changes_nothing(batch, at_once):
    one_by_one = predicted(batch, count=24)
    together = predicted(batch, count=24, at_once=at_once)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert np.abs(one_by_one - predicted(batch)).max() > 0.01


def test_an_average_over_views_obeys_the_tree(batch):
    fractions = predicted(batch, count=8)
    for question in GALAXY_ZOO_2.questions:
        gate = 1 if question.gate is None else fractions[:, question.gate]
        np.testing.assert_allclose(fractions[:, question.columns].sum(axis=1), gate, atol=1e-5)
