"""Images, listings, outputs and runs on other machines; servers are on this one."""

import functools
import http.server
import shutil
import threading

import fsspec
import huggingface_hub
import jax
import numpy as np
import pandas as pd
import pytest
import tiny

import gzjax
from gzjax import remote
from gzjax.data.framing import Framing
from gzjax.data.images import ImageFiles, fault_text, read_image
from gzjax.data.listing import list_images
from gzjax.errors import UserError
from gzjax.run import checkpoint, command_line, galaxies, predict
from gzjax.run import config as configs
from gzjax.run.origin import find_origin


@pytest.fixture
def memory(world):
    """The images of the tiny world, at memory://galaxies."""
    there = fsspec.filesystem("memory")
    for file in (world / "images").iterdir():
        there.pipe_file(f"memory://galaxies/deep/{file.name}", file.read_bytes())
    yield "memory://galaxies"
    there.rm("/galaxies", recursive=True)


def test_folders_patterns_tables_and_images_are_listed(world, memory):
    local = list_images(world / "images")
    expected = [file.replace(str(world / "images"), f"{memory}/deep") for file in local.files]
    there = fsspec.filesystem("memory")
    there.pipe_file(f"{memory}/notes.txt", b"")
    for what in (memory, f"{memory}/deep/*.png", f"{memory}/**/*.png"):
        found = list_images(what)
        assert found.ids == local.ids
        assert [file.replace("///", "//") for file in found.files] == expected
    assert list_images(f"{memory}/deep/1000.png").ids == ["1000"]
    table = pd.DataFrame({"id_str": local.ids, "file": [f"deep/{n}.png" for n in local.ids]})
    table.loc[3, "file"] = str(world / "images" / f"{local.ids[3]}.png")
    there.pipe_file(f"{memory}/t.csv", table.to_csv(index=False).encode())
    there.pipe_file(f"{memory}/t.parquet", table.to_parquet())
    for name in ("t.csv", "t.parquet"):
        found = list_images(f"{memory}/{name}")
        assert found.ids == local.ids
        assert found.files == [*expected[:3], local.files[3], *expected[4:]]
        images, ours = found.framed(Framing()), local.framed(Framing())
        for row in (0, 3, 47):
            np.testing.assert_array_equal(images[row], ours[row])


def test_mistakes_are_told_in_one_line(memory, tmp_path):
    there = fsspec.filesystem("memory")
    there.pipe_file(f"{memory}/bad.csv", b"ra,dec\n1,2\n")
    there.pipe_file(f"{memory}/bad.parquet", b"PAR1")
    (tmp_path / "t.csv").write_text("file\nnope://a/b.jpg\n")
    for what, expected in (
        (f"{memory}/none.csv", "none.csv: no such file"),
        (f"{memory}/bad.csv", "bad.csv: expected a column of files.*found ra, dec"),
        (f"{memory}/bad.parquet", "bad.parquet: not readable as a table"),
        ("memory://nowhere", "memory://nowhere: (cannot be searched|expected an image)"),
        (f"{memory}/*.txt", r"\*\.txt: expected an image"),
        ("nope://x/a.jpg", "nope://.*Protocol not known: nope"),
        (str(tmp_path / "t.csv"), "nope://.*Protocol not known: nope"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            list_images(what)
        assert "\n" not in str(raised.value)
        assert "/tmp" not in str(raised.value).replace(str(tmp_path), "")
    with pytest.raises(UserError, match=r"expected a path, or a URL of gs, s3, az or hf"):
        command_line.path("memory://galaxies/p.csv")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise FileNotFoundError("The specified bucket\ndoes not exist")

    (tmp_path / "p.csv").touch()
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", denied)
    with pytest.raises(UserError) as raised:
        remote.write(tmp_path / "p.csv", "memory://typo/p.csv")
    expected = "memory://typo/p.csv: cannot be written: The specified bucket does not exist"
    assert str(raised.value) == expected


def test_a_missing_package_is_one_line(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    for act in (lambda: list_images("s3://b/a.jpg"), lambda: command_line.path("s3://b/a.csv")):
        with pytest.raises(UserError, match=r"^s3:// needs another package: pip install s3fs$"):
            act()


def test_what_cannot_be_fetched_is_a_fault_of_its_row(memory, monkeypatch):
    for url in (f"{memory}/gone.jpg", f"{memory}/gone.fits[2]"):
        with pytest.raises(OSError, match="No such file") as raised:
            read_image(url, Framing())
        assert fault_text(raised.value) == "there is no such file"

    def refused(self, path, **_):
        raise RuntimeError("403, Forbidden")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", refused)
    with pytest.raises(OSError, match="403") as raised:
        read_image(f"{memory}/a.jpg", Framing())
    assert fault_text(raised.value) == "cannot be opened: 403, Forbidden"


def test_local_files_never_ask_for_a_driver(world, monkeypatch):
    def refused(*_, **__):
        raise AssertionError

    for name in ("filesystem", "read", "find", "check"):
        monkeypatch.setattr(remote, name, refused)
    assert list_images(world / "images").framed(Framing())[0].shape == (128, 128, 3)


def test_images_are_read_from_a_web_server(world):
    pytest.importorskip("aiohttp")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    serve = functools.partial(Quiet, directory=str(world))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/images/1000.png"
        found = list_images([url, f"{url}.gone.png"])
        assert found.ids == ["1000", "1000.png.gone"]
        images = found.framed(Framing())
        expected = ImageFiles([str(world / "images" / "1000.png")], Framing())[0]
        np.testing.assert_array_equal(images[0], expected)
        with pytest.raises(OSError, match="No such file"):
            images[1]
        server.shutdown()


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """The workdir of a run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    gzjax.train(tiny.config(world, epochs=1), workdir)
    return workdir


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_elsewhere_is_opened_and_begun_from(world, trained, monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("403,\nForbidden")

    url, there = "memory://runs/a", fsspec.filesystem("memory")
    there.put(str(trained), url, recursive=True)
    ours, theirs = gzjax.load(trained), gzjax.load(url)
    assert (theirs.name, theirs.identity) == (url, ours.identity)
    data = gzjax.load_data(url)
    assert data.fingerprint == gzjax.load_data(trained).fingerprint
    with pytest.raises(UserError, match=rf"^{url} holds another run: .*optim\.seed|^{url}.*seed"):
        gzjax.load_data(url, {"seed": 3})
    options = configs.typed(tiny.config(world, model__weights=url))
    begun = find_origin(options, data.tree).begin(checkpoint.read_best(trained).raw)
    jax.tree.map(np.testing.assert_array_equal, begun, checkpoint.read_best(trained).average)
    monkeypatch.setattr(type(there), "get_file", refused)
    with pytest.raises(UserError, match=r"^memory://.*runs/a/.*: 403, Forbidden$"):
        gzjax.load(url)
    with pytest.raises(UserError, match=r"^memory://none/checkpoints: no checkpoints there"):
        find_origin(configs.typed(tiny.config(world, model__weights="memory://none")), data.tree)


def test_an_evaluation_writes_nothing_into_the_cache_of_the_hub(
    trained, invoke, tmp_path, monkeypatch
):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(trained))
    before = contents(trained)
    evaluate = "--mode", "evaluate", "--cache", tmp_path / "cache", "--views", 1, "--workdir"
    status, said, wrong = invoke(*evaluate, "hf://owner/name")
    assert (status, wrong) == (0, "")
    assert "hf://owner/name is only read: this evaluation is not kept" in said
    assert contents(trained) == before
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "evaluate_test.json").unlink()
    assert invoke(*evaluate, copy)[0] == 0
    assert (copy / "evaluate_test.json").exists()


def test_what_is_written_in_place_has_to_be_here(world, invoke):
    for flags, words in (
        (("--mode", "train", "--workdir", "hf://a/b"), "--workdir hf://a/b: --mode train expects"),
        (("--mode", "report", "--workdir", "hf://a/b"), "--workdir hf://a/b: --mode report expe"),
        *(
            (
                ("--mode", mode, f"--{name}", "hf://a/b", *rest),
                f"--{name} hf://a/b: expected a path",
            )
            for mode, name, *rest in (
                ("pack", "pack"),
                ("export", "output", "--workdir", "w"),
                ("explore", "predictions", "--output", "x.html"),
                ("explore", "output", "--predictions", "p.csv"),
                ("similar", "embeddings", "--query", "g", "--output", "s.csv"),
                ("anomalies", "embeddings", "--output", "s.csv"),
            )
        ),
    ):
        status, _, wrong = invoke(*flags)
        assert (status, wrong.count("\n")) == (2, 1)
        assert words in wrong
    options = configs.typed(tiny.config(world, data__kind="pack", data__root="s3://b/pack"))
    with pytest.raises(
        UserError, match=r"^--config\.data\.root: expected a local folder.*s3://b/pack"
    ):
        galaxies.build_data(options, galaxies.load_tree(options.data), None, False, gzjax.Report())


@pytest.fixture(scope="module")
def bucket():
    """An empty bucket of S3, on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        remote.filesystem("s3://").mkdir("galaxies")
        yield "s3://galaxies"
    server.stop()


def test_a_prediction_from_s3_to_s3_with_a_run_there_is_the_same(
    world, trained, bucket, tmp_path, invoke
):
    there = remote.filesystem(bucket)
    there.put(str(world / "images"), f"{bucket}/images", recursive=True)
    there.put(str(trained), f"{bucket}/run", recursive=True)
    model = gzjax.load(f"{bucket}/run")
    ours = gzjax.load(trained)
    assert model.name == f"{bucket}/run"
    assert model.identity == ours.identity
    with pytest.raises(UserError, match=r"^s3://galaxies/none/checkpoints: no checkpoints there"):
        gzjax.load(f"{bucket}/none")
    evaluate = "--mode", "evaluate", "--cache", tmp_path / "cache", "--split", "validation"
    assert invoke(*evaluate, "--views", 1, "--workdir", f"{bucket}/run")[::2] == (0, "")
    name = "reliability_validation.csv"
    assert invoke(*evaluate, "--views", 1, "--workdir", trained)[::2] == (0, "")
    assert there.cat_file(f"{bucket}/run/{name}") == (trained / name).read_bytes()
    (tmp_path / "bad.png").write_text("no image")
    there.put_file(str(tmp_path / "bad.png"), f"{bucket}/images/bad.png")

    def predicted(model, images, output, share=(1, 1)):
        predict.predict_to_file(
            [model], str(images), command_line.path(str(output)), views=1, shares=np.ones(1),
            readable=True, report=gzjax.Report(loud=False), size=10, share=share,
        )  # fmt: skip

    local = [file for file in (world / "images").iterdir()]
    table = pd.DataFrame({"id": [file.stem for file in local], "file": map(str, local)})
    bad = pd.DataFrame({"id": ["bad"], "file": [str(tmp_path / "bad.png")]})
    pd.concat([table, bad]).sort_values("id").to_csv(tmp_path / "t.csv", index=False)
    for suffix in (".csv", ".parquet"):
        predicted(ours, tmp_path / "t.csv", tmp_path / f"p{suffix}")
        for share in ((2, 2), (1, 2)):
            assert not there.exists(f"{bucket}/p{suffix}")
            predicted(model, f"{bucket}/images", f"{bucket}/p{suffix}", share)
        for name in (f"p{suffix}", f"p{suffix}.unreadable.csv"):
            assert there.cat_file(f"{bucket}/{name}") == (tmp_path / name).read_bytes()
        assert not there.exists(f"{bucket}/p{suffix}.parts")
    with pytest.raises(UserError, match=r"s3://galaxies/p\.csv is already there"):
        predicted(model, f"{bucket}/images", f"{bucket}/p.csv")
    predicted(model, f"{bucket}/images", f"{bucket}/dataset")
    there.invalidate_cache()
    parts = [name for name in there.find(f"{bucket}/dataset") if name.endswith(".parquet")]
    rows = pd.concat([pd.read_parquet(there.open(name)) for name in sorted(parts)])
    assert len(rows) == tiny.GALAXIES + 1
    assert (rows["fault"] != "").sum() == 1


def test_what_others_write_is_seen(bucket, tmp_path):
    boto3 = pytest.importorskip("boto3")
    (tmp_path / "a.jpg").touch()
    for name in ("a.jpg", "b.jpg"):
        boto3.client("s3").upload_file(str(tmp_path / "a.jpg"), "galaxies", f"others/{name}")
        assert list_images(f"{bucket}/others").files[-1] == f"{bucket}/others/{name}"
        assert remote.filesystem(bucket).ls(f"{bucket}/others")[-1] == f"galaxies/others/{name}"
