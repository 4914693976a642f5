import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gzjax import losses, steps
from gzjax.data import batches as data_batches
from gzjax.errors import UserError
from gzjax.models import Weights
from gzjax.run import checkpoint
from gzjax.run.checkpoint import FORMAT, Checkpoints

ABOUT = {"config": {"seed": 1, "views": {"zoom": 1.5}}, "data": "0123"}


def state_of(value: float) -> steps.TrainState:
    weights = Weights(
        {"stem": {"kernel": jnp.full((2, 3), value)}}, {"stem": {"mean": jnp.ones(3)}}
    )
    objective = losses.Objective(terms=("mse",))
    state = steps.init_state(weights, optax.adam(0.1), objective, jax.random.key(7))
    return state.replace(average=jax.tree.map(lambda leaf: leaf + 1, weights))


def batches_of_two():
    images = np.zeros((8, 16, 16, 3), np.uint8)
    source = data_batches.Source(images, np.arange(8), np.zeros((8, 37), np.float32))
    return iter(data_batches.training_batches(source, 2, 0))


@pytest.fixture
def batches():
    return batches_of_two()


@pytest.fixture
def folder(tmp_path, batches):
    """Four checkpoints, the second the best; each batch of galaxies belongs to one step."""
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step, rmse in enumerate((0.2, 0.1, None, 0.3), 1):
            next(batches)
            checkpoints.save(step, state_of(step / 8), batches, ABOUT, rmse)
        checkpoints.wait()
    return tmp_path / "checkpoints"


def test_the_newest_and_the_best_are_kept(folder):
    assert {path.name for path in folder.iterdir()} == {"2", "3", "4"}
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.newest(), checkpoints.best()) == (4, 2)
    assert Checkpoints.peek(folder) == ABOUT | {"format": FORMAT}


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
    np.testing.assert_array_equal(average.params["stem"]["kernel"], np.full((2, 3), 1.25))
    np.testing.assert_array_equal(average.batch_stats["stem"]["mean"], np.full(3, 2))


def test_the_best_is_read_whole(folder):
    best = checkpoint.read_best(folder.parent)
    assert best.step == 2
    assert best.about == ABOUT | {"format": FORMAT}
    assert best.raw.params["stem"]["kernel"][0, 0] == 0.25
    assert best.average.params["stem"]["kernel"][0, 0] == 1.25


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(UserError, match="checkpoints: no checkpoints there"):
        checkpoint.read_best(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no finished checkpoint there"):
        checkpoint.read_best(tmp_path)


def test_without_scores_the_newest_is_best_and_of_equals_the_newest(tmp_path, batches):
    for name, scores, best in (("none", (None, None), 2), ("equal", (0.5, 0.5), 2)):
        with Checkpoints(tmp_path / name, keep=3) as checkpoints:
            for step, rmse in enumerate(scores, 1):
                checkpoints.save(step, state_of(0.5), batches, ABOUT, rmse)
            checkpoints.wait()
            assert checkpoints.best() == best


def test_a_checkpoint_of_another_version_is_refused(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", FORMAT + 1)
    with pytest.raises(UserError, match=f"of format {FORMAT + 1}, found {FORMAT}, of another"):
        Checkpoints.peek(folder)


@pytest.mark.parametrize("step", [2, 3, 4])
@pytest.mark.parametrize("content", ["", '{"rmse": "x', '{"other": 1}'])
def test_damaged_scores_block_nothing(folder, batches, step, content, caplog):
    (folder / str(step) / "metrics").mkdir(exist_ok=True)
    (folder / str(step) / "metrics" / "metrics").write_text(content)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.newest() == 4
        assert checkpoints.best() == (4 if step == 2 else 2)
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(5, state_of(0.5), batches, ABOUT, 0.4)
        checkpoints.wait()
        assert checkpoints.best() == (4 if step == 2 else 2)
    assert f"{step}/metrics/metrics is damaged" in caplog.text


def test_a_full_disk_is_named(folder, batches, monkeypatch):
    def full(*args, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nmore")

    with Checkpoints(folder, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints.manager, "save", full)
        with pytest.raises(UserError) as raised:
            checkpoints.save(5, state_of(0.5), batches, ABOUT)
        monkeypatch.undo()
        monkeypatch.setattr(checkpoints.manager, "wait_until_finished", full)
        with pytest.raises(UserError, match="cannot be written"):
            checkpoints.wait()
        monkeypatch.undo()
    # A save that was under way when something else found the disk full.
    checkpoints = Checkpoints(folder, keep=2)
    checkpoints.manager.close()
    monkeypatch.setattr(checkpoints.manager, "close", full)
    with pytest.raises(UserError, match="checkpoints: a checkpoint cannot be written"):
        checkpoints.__exit__(OSError, OSError(28, "No space left on device"), None)
    assert "checkpoints: a checkpoint cannot be written (RESOURCE_EXHAUSTED" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("about/metadata", lambda checkpoints: checkpoints.about(4)),
        ("training/_METADATA", lambda checkpoints: checkpoints.restore(4, state_of(0.0))),
        ("weights/_METADATA", lambda checkpoints: checkpoints.restore(4, state_of(0.0))),
        ("weights/_METADATA", lambda checkpoints: checkpoints.weights(4)),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_checkpoint_is_named(folder, file, read, missing):
    path = folder / "4" / file
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(
            UserError, match=r"4: this checkpoint cannot be read .*; or delete the folder"
        ),
    ):
        read(checkpoints)


def test_a_state_of_another_shape_is_refused(folder):
    other = state_of(0.0).replace(step=jnp.zeros((2,), jnp.int32))
    with (
        Checkpoints(folder) as checkpoints,
        pytest.raises(UserError, match="this checkpoint cannot be read"),
    ):
        checkpoints.restore(4, other)


@pytest.mark.parametrize("item", ["weights", "training", "batches", "about"])
def test_a_damaged_bit_that_nothing_else_notices_is_named(folder, batches, monkeypatch, item):
    """A bit of an array may be flipped, and it is an array all the same."""
    right = checkpoint.checksum_of
    number = ["weights", "training", "batches", "about"].index(item)
    asked = []

    def wrong(content):
        asked.append(content)
        return right(content) + (len(asked) == number + 1)

    with monkeypatch.context() as patch, Checkpoints(folder, keep=2) as checkpoints:
        patch.setattr(checkpoint, "checksum_of", wrong)
        checkpoints.save(5, state_of(0.5), batches, ABOUT)
        checkpoints.wait()
    with Checkpoints(folder) as checkpoints:
        words = rf"5: this checkpoint cannot be read \({item}: its checksum does not hold\)"
        anew = batches_of_two()
        read = checkpoints.about if item == "about" else checkpoints.restore
        arguments = (5,) if item == "about" else (5, state_of(0.0), anew)
        with pytest.raises(UserError, match=words):
            read(*arguments)
        if item == "weights":
            with pytest.raises(UserError, match=words):
                checkpoints.weights(5)
        checkpoints.restore(4, state_of(0.0), batches_of_two())


def test_a_checksum_changes_with_any_number():
    state, other = state_of(0.5), state_of(0.5)
    assert checkpoint.checksum_of(state) == checkpoint.checksum_of(other)
    leaves, structure = jax.tree.flatten(state.weights)
    for place, leaf in enumerate(leaves):
        array = np.array(leaf)
        array.reshape(-1)[-1] = np.nextafter(array.reshape(-1)[-1], np.float32(9))
        changed = jax.tree.unflatten(structure, [*leaves[:place], array, *leaves[place + 1 :]])
        assert checkpoint.checksum_of(changed) != checkpoint.checksum_of(state.weights)
    keyed = state.replace(key=jax.random.key(8))
    assert checkpoint.checksum_of(keyed) != checkpoint.checksum_of(state)
    assert checkpoint.checksum_of({"next": 3}) != checkpoint.checksum_of({"next": 4})
    assert checkpoint.checksum_of({"a": (1, 2)}) == checkpoint.checksum_of({"a": [1, 2]})


def test_checkpoints_of_before_checksums_are_read(folder, batches, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHECKSUMS", "others")
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(5, state_of(0.5), batches, ABOUT)
        checkpoints.wait()
    monkeypatch.undo()
    with Checkpoints(folder) as checkpoints:
        assert "others" in checkpoints.about(5)
        checkpoints.restore(5, state_of(0.0), batches_of_two())
