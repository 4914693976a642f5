"""`launch/data`: downloads that break off, archives, joined tables, and training on what came."""

import hashlib
import io
import json
import re
import shlex
import shutil
import sys
import types
import zipfile
from pathlib import Path

import loopback
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gzjax import tree as trees
from gzjax.at_hand import command, competition, download, hub, registry, unpack, zenodo
from gzjax.at_hand.__main__ import main
from gzjax.at_hand.download import File, fetch
from gzjax.errors import UserError

ROOT = Path(__file__).parent.parent
CONTENT = bytes(range(256)) * 400
GALAXIES = 40


@pytest.fixture
def server():
    made = loopback.Loopback()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.001)


def file_of(server, content=CONTENT, checksum=True, size=True) -> File:
    server.files["/a.bin"] = content
    md5 = f"md5:{hashlib.md5(content).hexdigest()}"
    return File(
        "a.bin", len(content) if size else None, md5 if checksum else "", f"{server.url}/a.bin"
    )


def ranges(server) -> list[str | None]:
    return [asked for path, asked in server.asked if path.endswith(("a.bin", "/content"))]


# One file.


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("size", [True, False])
def test_a_file_comes_whole_whatever_breaks(server, tmp_path, checksum, size):
    file = file_of(server, checksum=checksum, size=size)
    server.breaks["/a.bin"] = [1000, 0, 3, 50_000]
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=1000-", "bytes=1000-", "bytes=1003-", "bytes=51003-"]
    assert [each.name for each in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_that_is_there_is_not_downloaded_again(server, tmp_path):
    file = file_of(server)
    fetch(file, tmp_path)
    fetch(file, tmp_path)
    assert len(server.asked) == 1
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1] + b"?")
    fetch(file, tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_the_same_command_resumes(server, tmp_path):
    file = file_of(server)
    server.breaks["/a.bin"] = [5000, *[0] * download.TRIES]
    with pytest.raises(
        UserError, match=r"/a\.bin: the connection broke.*; 5,000 bytes are kept, and"
    ) as e:
        fetch(file, tmp_path)
    assert "\n" not in str(e.value)
    assert (tmp_path / "a.bin.part").stat().st_size == 5000
    assert not (tmp_path / "a.bin").exists()
    assert len(server.asked) == 1 + download.TRIES
    server.breaks.clear()
    server.asked.clear()
    assert fetch(file, tmp_path).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=5000-"]


def test_each_byte_that_comes_gives_new_tries(server, tmp_path):
    server.breaks["/a.bin"] = [10] * (3 * download.TRIES)
    assert fetch(file_of(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("tags", [True, False])
def test_another_version_does_not_follow_the_beginning_of_the_first(server, tmp_path, tags):
    server.tags = tags
    file = file_of(server, checksum=False, size=False)
    server.breaks["/a.bin"] = [5000, *[0] * download.TRIES]
    with pytest.raises(UserError):
        fetch(file, tmp_path)
    server.breaks.clear()
    server.files["/a.bin"] = CONTENT[::-1]
    assert fetch(file, tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    server.breaks["/a.bin"] = [5000]
    assert fetch(file_of(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [True, False])
def test_more_than_the_server_has_is_thrown_away(server, tmp_path, size):
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(file_of(server, size=size), tmp_path).read_bytes() == CONTENT


def test_a_whole_part_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert fetch(file_of(server), tmp_path).read_bytes() == CONTENT
    assert not server.asked


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, tmp_path, status):
    server.statuses["/a.bin"] = [status, status]
    assert fetch(file_of(server), tmp_path).read_bytes() == CONTENT


def test_what_is_not_there_is_said_at_once(server, tmp_path):
    with pytest.raises(UserError, match=r"/gone\.bin: the server answers with status 404$"):
        fetch(File("gone.bin", url=f"{server.url}/gone.bin"), tmp_path)
    assert len(server.asked) == 1


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    file = file_of(server)._replace(checksum="md5:" + "0" * 32)
    with pytest.raises(UserError, match="another checksum than the published md5:000"):
        fetch(file, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_size_is_said_before_it_is_downloaded(server, tmp_path):
    file = file_of(server)._replace(size=7)
    with pytest.raises(UserError, match="expected 7 bytes, the server has 102,400"):
        fetch(file, tmp_path)


def test_a_full_disk_is_one_line(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda p, *a, **k: Full() if p.name.endswith(".part") else real(p, *a, **k)
    )
    with pytest.raises(UserError, match="No space left on device; the same command resumes"):
        fetch(file_of(server), tmp_path)


def test_a_missing_package_names_the_extra(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UserError, match=r"pooch.*: this needs the extra data: pip install"):
        fetch(file_of(server), tmp_path)


# Zenodo's word.


def test_zenodo_that_answers_otherwise_is_said_in_a_line(server, monkeypatch):
    monkeypatch.setattr(registry, "ZENODO", server.url)
    web = zenodo.Web(registry.Published("", "", zenodo="1", files=("a.zip",)))
    for content, words in (
        (b"<html>", "expected JSON, found something else"),
        (b"[]", "expected a JSON object, found list"),
        (b'{"files": [{"key": "a.zip"}]}', "expected files with key, size and links, found"),
        (b'{"files": []}', r"expected a file a\.zip, found no files"),
        (b'{"files": [{"key": "../a", "size": 1, "links": {"self": ""}}]}', "the name of a file"),
    ):
        server.files["/api/records/1"] = content
        with pytest.raises(UserError, match=words):
            web.offer()
    server.statuses["/api/records/1"] = [500] * download.TRIES
    with pytest.raises(UserError, match="status 500, 5 times; try again later"):
        web.offer()
    server.close()
    with pytest.raises(UserError, match="5 times; try again later"):
        web.offer()


# Archives.


def archive(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(zipped(members))
    return path


def zipped(members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


def tree_below(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in files}


def test_archives_lose_the_folders_around_everything(tmp_path):
    members = {"images/1.jpg": b"1", "images/2.jpg": b"2", "images/._1.jpg": b"x"}
    path = archive(tmp_path / "a.zip", members | {"__MACOSX/images/._2.jpg": b"x"})
    assert unpack.unpack(path) == tmp_path / "a"
    assert tree_below(tmp_path / "a") == {"1.jpg": b"1", "2.jpg": b"2"}
    assert unpack.unpack(archive(tmp_path / "b.zip", {"x/t.csv": b"t"})) == tmp_path / "t.csv"
    archive(tmp_path / "a.zip", {"J1/1.png": b"1", "J2/2.png": b"2"})
    (tmp_path / ".a.unpacking").mkdir()
    (tmp_path / ".a.unpacking" / "old").touch()
    unpack.unpack(tmp_path / "a.zip")
    assert tree_below(tmp_path / "a") == {"J1/1.png": b"1", "J2/2.png": b"2"}
    assert unpack.unpacked_size(tmp_path / "a.zip") == 8192


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "C:/out", "..\\out"])
def test_nothing_is_written_outside(tmp_path, name):
    path = archive(
        tmp_path / "in" / "a.zip" if (tmp_path / "in").mkdir() else tmp_path / "in/a.zip",
        {"fine": b"1", name: b"2"},
    )
    with pytest.raises(UserError, match=r"a\.zip: expected files inside it, found '"):
        unpack.unpack(path)
    assert [each.name for each in (tmp_path / "in").iterdir()] == ["a.zip"]
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(link := zipfile.ZipInfo("link"), "/etc")
        link.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="found 'link'"):
        unpack.unpack(tmp_path / "a.zip")


@pytest.mark.parametrize("damage", ["middle", "end", "empty"])
def test_damaged_archives_leave_nothing(tmp_path, damage):
    content = bytearray(zipped({"1": b"1" * 999, "2": b"2" * 999}))
    if damage == "middle":
        content[200] ^= 1
    made = {"end": content[:-30], "middle": content, "empty": zipped({})}[damage]
    (tmp_path / "a.zip").write_bytes(made)
    with pytest.raises(UserError, match=r"a\.zip: "):
        unpack.unpack(tmp_path / "a.zip")
    assert [each.name for each in tmp_path.iterdir()] == ["a.zip"]


# Whole sets.


def image(number: int, kind: str = "jpeg") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream := io.BytesIO(), kind)
    return stream.getvalue()


def counts(name: str, columns, galaxies: int = GALAXIES) -> pd.DataFrame:
    """Votes of forty volunteers, who walk a tree."""
    tree, generator = trees.load(name), np.random.default_rng(1)
    votes = np.zeros((galaxies, tree.size), int)
    for _ in tree.questions:  # until those are asked whose gates come later
        for question in tree.questions:
            gates = votes[:, list(question.gates)].sum(1) if question.gates else [40] * galaxies
            chances = np.ones(len(question.answers)) / len(question.answers)
            for row, asked in enumerate(gates):
                if votes[row, question.columns].sum() != asked:
                    votes[row, question.columns] = generator.multinomial(asked, chances)
    kept = [n for n, column in enumerate(columns) if column]
    return pd.DataFrame(votes[:, kept], columns=[columns[n] for n in kept])


def parquet(table: pd.DataFrame) -> bytes:
    table.to_parquet(stream := io.BytesIO(), index=False)
    return stream.getvalue()


@pytest.fixture
def get(server, monkeypatch, capsys):
    """(arguments of launch/data -> status, output, mistake), against the loopback."""
    monkeypatch.setattr(registry, "ZENODO", server.url)
    monkeypatch.setenv("HF_ENDPOINT", server.url)

    def get(*arguments: object) -> tuple[int, str, str]:
        status = 0
        capsys.readouterr()
        try:
            main([*map(str, arguments)])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return get


@pytest.fixture
def trains(world, invoke, tmp_path, monkeypatch):
    """Trains a few steps by the last line that launch/data printed; gives what it said."""
    monkeypatch.chdir(ROOT)

    def trains(printed: str) -> str:
        words = shlex.split(printed.strip().splitlines()[-1])
        assert words[0] == "launch/run"
        words[words.index("--workdir") + 1] = str(tmp_path / "run")
        tiny = {"data.canvas": 24, "model.image_size": 16, "model.weights": "", "epochs": 1}
        tiny |= {"batch_size": 8, "evaluate.batch_size": 8, "evaluate.views": 1}
        tiny |= {"data.validation": 0.2, "data.test": 0.2, "model.name": "efficientnet-tiny"}
        options = [f"--config.{name}={value}" for name, value in tiny.items()]
        status, out, err = invoke(*words[1:], *options)
        assert status == 0, err
        return out

    return trains


def serve_gz2(server, monkeypatch) -> None:
    ids = [str(587722981736120347 + 11 * n) for n in range(GALAXIES + 2)]
    assets = [str(n + 1) for n in range(GALAXIES)]
    mapping = pd.DataFrame({"objid": ids[:GALAXIES], "sample": "original", "asset_id": assets})
    again = {"objid": [ids[0]], "sample": ["stripe82_coadd_1"], "asset_id": ["900"]}
    mapping = pd.concat([pd.DataFrame(again), mapping])
    images = {f"images/{name}.jpg": image(int(name)) for name in [*assets, "900"]}
    made = {"images_gz2.zip": zipped(images), "README.txt": b"not asked for"}
    made["gz2_filename_mapping.csv"] = mapping.to_csv(index=False).encode()
    loopback.record(server, "3565489", made)
    names = [f"{name}_count" for name in trees.load("gz2").families["hart"]]
    votes = counts("gz2", names, len(ids))
    votes[[name.replace("_count", "_debiased") for name in names]] = 0.5
    votes.insert(0, "dr7objid", ids)
    votes.to_csv(stream := io.BytesIO(), index=False, compression="gzip")
    server.files["/gz2_hart16.csv.gz"] = stream.getvalue()
    urls = {"gz2_hart16.csv.gz": f"{server.url}/gz2_hart16.csv.gz"}
    gz2 = registry.SETS["gz2"]
    monkeypatch.setitem(registry.SETS, "gz2", command.Published(**{**vars(gz2), "urls": urls}))


def test_galaxy_zoo_2_is_joined_and_trained_on(server, get, trains, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    zip_path = "/api/records/3565489/files/images_gz2.zip/content"
    server.breaks[zip_path] = [3000, *[0] * download.TRIES]
    status, out, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert status == 2
    assert re.fullmatch(r"gzjax: http\S+: the connection broke.* the same command resumes\n", err)
    status, out, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert (status, err) == (0, "")
    assert (zip_path, "bytes=3000-") in server.asked
    assert "licence: cc-by-4.0" in out
    assert "Hart et al. 2016" in out
    assert "doi:10.5281/zenodo.3565489" in out
    assert "gz2_hart16.csv.gz: size not published, no checksum published" in out
    assert "40 galaxies with votes and image; 2 with votes have no image" in out
    table = pd.read_parquet(tmp_path / "gz2/gz2.parquet")
    assert table["id_str"][0] == "587722981736120347"
    assert table["file_loc"][0] == "images_gz2/1.jpg"  # not the other image of that galaxy
    assert not (tmp_path / "gz2/images_gz2.zip").exists()
    manifest = json.loads((tmp_path / "gz2/manifest.json").read_text())
    assert manifest["licence"] == "cc-by-4.0"
    assert "1607.01019" in manifest["citation"]
    entry = manifest["files"]["images_gz2.zip"]
    assert entry["at"] == "images_gz2"
    assert entry["checksum"].startswith("md5:")
    server.asked.clear()
    status, again, _ = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert status == 0
    assert [path for path, _ in server.asked] == ["/api/records/3565489"]
    said = trains(again)
    assert "40 galaxies" in said or "table gz2.parquet: counts" in said


def test_decals_is_joined_and_trained_on(server, get, trains, tmp_path):
    tree = trees.load("decals-dr5")
    names = [name.replace("-dr5_", "_") for name in tree.survey_columns]
    votes = counts("decals-dr5", names)
    votes.insert(0, "iauname", [f"J{n:03}013.60+242930.0" for n in range(GALAXIES)])
    votes["png_loc"] = "/elsewhere/1.png"
    for name in names:
        votes[f"{name}_fraction"] = votes[f"{name}_debiased"] = 0.3
    half = votes["iauname"][:20], votes["iauname"][20:]
    made = {"gz_decals_volunteers_5.parquet": parquet(votes), "gz_decals_auto.csv": b"no"}
    for part, ids in enumerate(half, 1):
        top = f"gz_decals_dr5_png_part{part}"
        members = {f"{top}/{name[:4]}/{name}.png": image(part, "png") for name in ids}
        made[f"{top}.zip"] = zipped(members)
    loopback.record(server, "4573248", made)
    status, out, err = get("decals", "--yes", "--output", tmp_path / "decals")
    assert (status, err) == (0, "")
    assert "40 galaxies with votes and image; 0 with votes" in out
    trains(out)


def test_desi_says_that_images_are_lacking_and_trains_with_them(server, get, trains, tmp_path):
    names = [re.sub(r"-dr8_", "_", name) for name in trees.load("decals-dr8").survey_columns]
    votes = counts("decals-dr8", names)
    votes.insert(0, "dr8_id", [f"303240_{n}" for n in range(GALAXIES)])
    name = "gz_desi_gzd8_volunteer_core_catalog.parquet"
    loopback.record(server, "8360385", {name: parquet(votes), "schema.md": b"# Schema"})
    status, out, err = get("desi", "--yes", "--output", tmp_path / "desi")
    assert (status, err) == (0, "")
    assert "The record holds no images." in out
    (tmp_path / "desi/images").mkdir()
    for n in range(GALAXIES):
        (tmp_path / f"desi/images/303240_{n}.jpg").write_bytes(image(n))
    trains(out)


def serve_hub(server, name: str, tree: str, card: dict, folders=("data",)) -> None:
    made = {"README.md": b"#"}
    for start, folder in enumerate(folders):
        columns = trees.load(tree).survey_columns
        votes = counts(tree, columns)
        votes.insert(0, "id_str", [f"g{start}-{n}" for n in range(GALAXIES)])
        votes["image"] = [{"bytes": image(n), "path": f"{n}.jpg"} for n in range(GALAXIES)]
        made[f"{folder}/train-00000-of-00001.parquet"] = parquet(votes[:30])
        made[f"{folder}/test-00000-of-00001.parquet"] = parquet(votes[30:])
    loopback.hub(server, name, made, card)


CARD = {
    "license": "cc-by-nc-sa-4.0",
    "configs": [
        {"config_name": "tiny", "data_files": [{"split": "train", "path": "tiny/train-*"}]},
        {"config_name": "default", "data_files": [{"split": "all", "path": ["data/*"]}]},
    ],
}


def test_a_set_on_the_hub_is_trained_on(server, get, trains, tmp_path):
    serve_hub(server, "owner/gz2", "gz2", CARD, ("data", "tiny"))
    status, out, err = get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")
    assert (status, err) == (0, "")
    assert "licence: cc-by-nc-sa-4.0" in out
    assert "arxiv:2404.02973" in out
    assert "--config.data.tree=gz2 " in out
    there = sorted(each.name for each in (tmp_path / "hub").glob("*/*.parquet"))
    assert there == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    trains(out)
    server.asked.clear()
    assert get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")[0] == 0
    assert [path for path, _ in server.asked] == ["/api/datasets/owner/gz2"]


def test_subsets_of_the_hub_are_those_of_the_card(server, get, tmp_path):
    serve_hub(server, "owner/gz2", "gz2", CARD, ("data", "tiny"))
    options = ("hf:owner/gz2", "--dry-run", "--output", tmp_path / "hub")
    out = get(*options, "--subset", "tiny")[1]
    assert "tiny/train-00000-of-00001.parquet: " in out
    assert "tiny/test" not in out
    assert "data/" not in get(*options, "--files", "tiny/*")[1].replace(str(tmp_path), "")
    err = get(*options, "--subset", "huge")[2]
    assert err == "gzjax: hf:owner/gz2: expected a subset of tiny, default, found huge\n"
    serve_hub(server, "owner/bare", "gz2", {})
    assert "none is published" in get("hf:owner/bare", *options[1:])[1]
    for name in ("owner", "owner/a/b", "../x"):
        assert "expected such as hf:owner/name" in get(f"hf:{name}", *options[1:])[2]
    assert get("hf:no/body", *options[1:])[2].startswith("gzjax: hf:no/body: ")


def test_another_sum_than_the_hub_says_is_an_error(server, get, tmp_path):
    serve_hub(server, "owner/gz2", "gz2", CARD, ("data",))
    path = f"/datasets/owner/gz2/resolve/{'c' * 40}/data/test-00000-of-00001.parquet"
    content = server.files[path]
    server.files[path] = content[:-9] + b"?" + content[-8:]
    status, _, err = get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")
    assert status == 2
    assert "expected sha256:" in err
    server.files[path] = content
    assert get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")[0] == 0


@pytest.mark.parametrize("name", trees.NAMES)
def test_a_tree_is_found_by_its_own_columns(tmp_path, name):
    tree = trees.load(name)
    table = counts(name, tree.survey_columns, 3)
    table.to_parquet(path := tmp_path / "t.parquet")
    found = trees.load(hub.trees_of([path])[0])
    assert found.survey_columns == tree.survey_columns


def test_several_campaigns_in_a_table_are_all_named_the_largest_first(tmp_path):
    first = counts("decals-dr5", trees.load("decals-dr5").survey_columns)
    second = counts("decals-dr8", trees.load("decals-dr8").survey_columns) * 2
    pd.concat([first, second], axis=1).to_parquet(path := tmp_path / "t.parquet")
    assert hub.trees_of([path]) == ["decals-dr8", "decals-dr5"]
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="expected votes of one of"):
        hub.trees_of([path])


# Kaggle.


class HTTPError(Exception):
    def __init__(self, status: int):
        self.response = types.SimpleNamespace(status_code=status)
        super().__init__(f"status {status}")


class FakeKaggle:
    """What `launch/data` calls of the package kaggle; files come by `faults`, then whole."""

    files: dict[str, bytes] = {}
    faults: list[BaseException] = []
    login: BaseException | None = None
    old = False

    def authenticate(self):
        if self.login:
            raise self.login

    def competition_list_files(self, name):
        assert name == "galaxy-zoo-the-galaxy-challenge"
        listed = [
            types.SimpleNamespace(
                name=each, **{"totalBytes" if self.old else "total_bytes": len(c)}
            )
            for each, c in self.files.items()
        ]
        return listed if self.old else types.SimpleNamespace(files=listed)

    def competition_download_file(self, name, file, path, quiet):
        if self.faults:
            raise self.faults.pop(0)
        (Path(path) / file).write_bytes(self.files[file])


@pytest.fixture
def kaggle(monkeypatch):
    module = types.ModuleType("kaggle.api.kaggle_api_extended")
    module.KaggleApi = type("KaggleApi", (FakeKaggle,), {"faults": []})
    for name in ("kaggle", "kaggle.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    votes = counts("gz2", trees.load("gz2").columns) / 40
    votes.insert(0, "GalaxyID", np.arange(GALAXIES) + 100008)
    images = {f"images_training_rev1/{n}.jpg": image(n) for n in votes["GalaxyID"]}
    module.KaggleApi.files = {
        "training_solutions_rev1.zip": zipped(
            {"training_solutions_rev1.csv": votes.to_csv(index=False).encode()}
        ),
        "images_training_rev1.zip": zipped(images),
        "images_test_rev1.zip": b"not asked for",
    }
    return module.KaggleApi


@pytest.mark.parametrize("old", [False, True])
def test_the_challenge_is_unpacked_and_trained_on(kaggle, get, trains, tmp_path, old):
    kaggle.old, kaggle.faults = old, [ConnectionError("gone"), HTTPError(500)]
    status, out, err = get("challenge", "--yes", "--output", tmp_path / "challenge")
    assert (status, err) == (0, "")
    assert (tmp_path / "challenge/training_solutions_rev1.csv").exists()
    assert len(list((tmp_path / "challenge/images_training_rev1").iterdir())) == GALAXIES
    assert not list((tmp_path / "challenge").glob("*.zip"))
    if not old:
        trains(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"login": SystemExit(1)},
            r"kaggle has no credentials: make a token on https://www\.kaggle",
        ),
        ({"login": OSError("no kaggle.json")}, "kaggle has no credentials"),
        ({"faults": [HTTPError(401)]}, "does not accept your credentials"),
        ({"faults": [HTTPError(403)]}, r"accept the rules first, on \S+-challenge/rules\n"),
        ({"faults": [ConnectionError("gone")] * 5}, "gone; the same command resumes"),
        ({"files": {"a.zip": b""}}, r"expected a file training_solutions_rev1\.zip, found a\.zip"),
    ],
)
def test_what_kaggle_refuses_is_said_in_a_line(kaggle, get, tmp_path, change, words):
    for name, value in change.items():
        setattr(kaggle, name, value)
    status, _, err = get("challenge", "--yes", "--output", tmp_path)
    assert status == 2
    assert re.search(words, err)
    assert err.count("\n") == 1


def test_a_file_that_kaggle_cut_off_is_not_unpacked(kaggle, get, tmp_path, monkeypatch):
    def cut(self, name, file, path, quiet):
        (Path(path) / file).write_bytes(self.files[file][:50])

    monkeypatch.setattr(kaggle, "competition_download_file", cut)
    status, _, err = get("challenge", "--yes", "--output", tmp_path)
    assert status == 2
    assert re.search(r"rev1\.zip: expected \d+ bytes, found 50; the same command resumes", err)
    assert competition.SITE in get("challenge", "--dry-run")[1] + competition.SITE


# The command.


def test_space_is_checked_before_anything_comes(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    free = types.SimpleNamespace(free=command.SPARE + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    status, _, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert status == 2
    assert re.search(r"/gz2: expected 268 MB of free space, found 268 MB; name a folder", err)
    assert not (tmp_path / "gz2").exists()
    assert len(server.asked) == 1


def test_space_counts_what_is_unpacked_and_what_is_there(tmp_path):
    files = [File("a.zip", 1000), File("b.csv", 100), File("c")]
    assert command.space(files, tmp_path) == 1000 + 1200 + 100
    (tmp_path / "a.zip.part").write_bytes(b"1" * 400)
    (tmp_path / "b.csv").write_bytes(b"1" * 999)
    assert command.space(files, tmp_path) == 600 + 1200


def test_nothing_comes_without_a_yes(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    asked = []

    def answer(text):
        asked.append(text)
        raise EOFError

    monkeypatch.setattr("builtins.input", answer)
    for option in ("--dry-run", None):
        status, out, err = get(*filter(None, ["gz2", option, "--output", tmp_path / "gz2"]))
        assert "images_gz2.zip: " in out
        assert not (tmp_path / "gz2").exists()
    assert (status, err) == (2, "gzjax: nobody is there to answer: say --yes\n")
    assert len(asked) == 1
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert get("gz2", "--output", tmp_path / "gz2")[2] == "gzjax: nothing was downloaded\n"
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert get("gz2", "--output", tmp_path / "gz2")[0] == 0


def test_other_files_of_a_record_can_be_had(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    options = ("gz2", "--yes", "--output", tmp_path / "gz2", "--files")
    assert "These files are in" in get(*options, "README*")[1]
    assert (tmp_path / "gz2/README.txt").read_bytes() == b"not asked for"
    err = get(*options, "nothing")[2]
    assert "expected a file nothing, found README.txt, gz2_filename_mapping.csv, gz2_hart16" in err


def test_names_are_checked(get):
    assert "challenge  The Galaxy Zoo challenge" in get("--list")[1]
    assert get("--list")[0] == 0
    expected = "expected one of challenge, gz2, decals, desi, hf:owner/name"
    assert get("gz3")[2] == f"gzjax: {expected}; found gz3\n"
    assert get()[2] == f"gzjax: {expected}, or --list\n"
    assert "only sets on the hub have subsets" in get("gz2", "--subset", "tiny")[2]


def test_tables_without_their_columns_are_named(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    server.files["/gz2_hart16.csv.gz"] = b""
    bad = pd.DataFrame({"x": [1]})
    bad.to_csv(stream := io.BytesIO(), index=False, compression="gzip")
    server.files["/gz2_hart16.csv.gz"] = stream.getvalue()
    err = get("gz2", "--yes", "--output", tmp_path / "gz2")[2]
    assert re.search(r"gz2_hart16\.csv\.gz: expected a column dr7objid, found ", err)


def test_default_folders_are_called_after_the_set():
    for name, subset, folder in (
        ("gz2", None, "data/gz2"),
        ("hf:owner/set", None, "data/owner-set"),
        ("hf:owner/set", "tiny", "data/owner-set-tiny"),
    ):
        options = command.Options(name, subset=subset)
        assert command.default_folder(options) == Path(folder)
