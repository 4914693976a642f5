import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import losses, train
from gzjax.checkpoint import Checkpoints
from gzjax.data import pipeline
from gzjax.data.sources import Galaxies
from gzjax.errors import UserError
from gzjax.models import Weights

ABOUT = {"config": {"seed": 1, "views": {"zoom": 1.5}}, "data": "0123"}


def state_of(value: float) -> train.TrainState:
    weights = Weights(
        {"stem": {"kernel": jnp.full((2, 3), value)}}, {"stem": {"mean": jnp.ones(3)}}
    )
    objective = losses.Objective(terms=("mse",))
    return train.init_state(weights, optax.adam(0.1), objective, jax.random.key(7))


def batches_of_two():
    images = np.zeros((8, 16, 16, 3), np.uint8)
    galaxies = Galaxies(images, np.zeros((8, 37), np.float32), np.arange(8))
    return iter(pipeline.training_batches(galaxies, 2, 0))


@pytest.fixture
def batches():
    return batches_of_two()


@pytest.fixture
def folder(tmp_path, batches):
    """Four checkpoints, the second the best; each batch of galaxies belongs to one step."""
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step, rmse in enumerate((0.2, 0.1, None, 0.3), 1):
            next(batches)
            metrics = None if rmse is None else {"rmse": rmse}
            checkpoints.save(step, state_of(step / 8), batches, ABOUT, metrics)
        checkpoints.wait()
    return tmp_path / "checkpoints"


def test_the_newest_and_the_best_are_kept(folder):
    assert {path.name for path in folder.iterdir()} == {"2", "3", "4"}
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.newest(), checkpoints.best()) == (4, 2)
    assert Checkpoints.peek(folder) == ABOUT


def test_nothing_is_no_checkpoint(tmp_path):
    assert Checkpoints.peek(tmp_path / "nowhere") is None
    assert Checkpoints.peek(tmp_path) is None


def test_a_state_comes_back_with_the_place_of_its_batches(folder, batches):
    anew = batches_of_two()
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.restore(4, state_of(0.0), anew)
        weights, average = checkpoints.weights(2)
    expected = state_of(0.5)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert bool(jnp.all(one == other))
    np.testing.assert_array_equal(next(anew)["row"], next(batches)["row"])
    np.testing.assert_array_equal(weights.params["stem"]["kernel"], np.full((2, 3), 0.25))
    np.testing.assert_array_equal(average.batch_stats["stem"]["mean"], np.ones(3))


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("about/metadata", lambda checkpoints: checkpoints.about(4)),
        ("state/_METADATA", lambda checkpoints: checkpoints.restore(4, state_of(0.0))),
        ("state/_METADATA", lambda checkpoints: checkpoints.weights(4)),
    ],
)
def test_a_damaged_checkpoint_is_named(folder, file, read):
    path = folder / "4" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match=r"4: this checkpoint cannot be read .*; delete the folder"),
    ):
        read(checkpoints)


def test_a_state_of_another_shape_is_refused(folder):
    other = state_of(0.0).replace(step=jnp.zeros((2,), jnp.int32))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match="this checkpoint cannot be read"),
    ):
        checkpoints.restore(4, other)
