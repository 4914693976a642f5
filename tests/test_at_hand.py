"""`launch/data`: sets that are joined and trained on, and what is said where they cannot be."""

import io
import json
import re
import shutil
import types
from pathlib import Path

import loopback
import pandas as pd
import pytest
from loopback import zipped
from published import GALAXIES, counts, image, parquet, serve_gz2

from gzjax import tree as trees
from gzjax.at_hand import command, download, hub
from gzjax.at_hand.download import File
from gzjax.errors import UserError
from gzjax.files import locked


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
    assert "table gz2.parquet: counts" in said


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


def test_a_set_on_the_hub_is_trained_on(server, get, trains, tmp_path, monkeypatch):
    serve_hub(server, "owner/gz2", "gz2", CARD, ("data", "tiny"))
    # The hub's library goes on by itself.
    broken = f"/datasets/owner/gz2/resolve/{'c' * 40}/data/train-00000-of-00001.parquet"
    server.breaks[broken] = [5000]
    status, out, err = get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")
    assert status == 0, err
    assert [path for path, _ in server.asked].count(broken) == 2
    assert "licence: cc-by-nc-sa-4.0" in out
    assert "arxiv:2404.02973" in out
    assert "--config.data.tree=gz2 " in out
    there = sorted(each.name for each in (tmp_path / "hub").glob("*/*.parquet"))
    assert there == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    trains(out)
    server.asked.clear()
    assert get("hf:owner/gz2", "--yes", "--output", tmp_path / "hub")[0] == 0
    assert [path for path, _ in server.asked] == ["/api/datasets/owner/gz2"]
    monkeypatch.chdir(tmp_path)
    status, out, err = get("hf:owner/gz2", "--yes")
    assert status == 0, err
    assert "--config.data.root=data/owner-gz2 " in out
    assert json.loads(Path("data/owner-gz2/manifest.json").read_text())["set"] == "hf:owner/gz2"


def test_subsets_of_the_hub_are_those_of_the_card(server, get, tmp_path):
    serve_hub(server, "owner/gz2", "gz2", CARD, ("data", "tiny"))
    options = ("hf:owner/gz2", "--dry-run", "--output", tmp_path / "hub")
    out = get(*options, "--subset", "tiny")[1]
    assert "tiny/train-00000-of-00001.parquet: " in out
    assert "tiny/test" not in out
    assert "data/" not in get(*options, "--files", "tiny/*")[1].replace(str(tmp_path), "")
    marked = [CARD["configs"][1], CARD["configs"][0] | {"default": True}]
    serve_hub(server, "owner/marked", "gz2", CARD | {"configs": marked}, ("data", "tiny"))
    out = get("hf:owner/marked", *options[1:])[1]
    assert "tiny/train-00000-of-00001.parquet: " in out
    assert "data/train" not in out
    inside = [{"config_name": "tiny", "data_dir": "tiny"}, CARD["configs"][1]]
    serve_hub(server, "owner/inside", "gz2", CARD | {"configs": inside}, ("data", "tiny"))
    out = get("hf:owner/inside", *options[1:], "--subset", "tiny")[1]
    assert out.count(".parquet: ") == out.count("  tiny/") == 2
    inside[0]["data_files"] = "train-*"
    serve_hub(server, "owner/both", "gz2", CARD | {"configs": inside}, ("data", "tiny"))
    out = get("hf:owner/both", *options[1:], "--subset", "tiny")[1]
    assert out.count(".parquet: ") == out.count("  tiny/train-") == 1
    assert get(*options, "--files", "tiny/*", "--subset", "tiny")[2] == (
        "gzjax: --subset: expected no --files, which name the files themselves\n"
    )
    err = get(*options, "--subset", "huge")[2]
    assert err == "gzjax: hf:owner/gz2: expected a subset of tiny, default, found huge\n"
    serve_hub(server, "owner/bare", "gz2", {})
    assert "none is published" in get("hf:owner/bare", *options[1:])[1]
    for name in ("owner", "owner/a/b", "own er/x"):
        assert "expected something like hf:owner/name" in get(f"hf:{name}", *options[1:])[2]
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
    # Names that are no tree's own: the one that knows most of the questions.
    names = [name.replace("-gz2_", "-mine_") for name in trees.load("gz2").survey_columns]
    counts("gz2", names).to_parquet(path)
    assert hub.trees_of([path]) == ["gz2"]
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="expected votes of one of"):
        hub.trees_of([path])


# The command.


def test_space_is_checked_before_anything_comes(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    free = types.SimpleNamespace(free=command.SPARE + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    status, _, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert status == 2
    assert re.search(r"/gz2: expected 269 MB of free space, found 268 MB; name a folder", err)
    assert not (tmp_path / "gz2").exists()
    assert len(server.asked) == 1
    assert get("gz2", "--dry-run", "--output", tmp_path / "gz2")[0] == 0  # only says what there is


def test_space_is_checked_again_before_an_archive_is_unpacked(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    monkeypatch.setattr(command, "unpacked_size", lambda _: 10**18)
    status, _, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert status == 2
    assert "/gz2: expected 1e+06 TB of free space, found " in err
    assert not (tmp_path / "gz2/images_gz2").exists()


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

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    interrupted = get("gz2", "--output", tmp_path / "gz2")
    assert interrupted[0] == 130
    assert interrupted[2] == "gzjax: interrupted; nothing that was finished is lost\n"
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert get("gz2", "--output", tmp_path / "gz2")[2] == "gzjax: nothing was downloaded\n"
    monkeypatch.setattr("builtins.input", lambda _: "y")
    (tmp_path / "gz2").mkdir()
    with locked(tmp_path / "gz2" / ".lock"):  # by another download
        assert "another process is writing there" in get("gz2", "--output", tmp_path / "gz2")[2]
    assert get("gz2", "--output", tmp_path / "gz2")[0] == 0


def test_a_folder_that_cannot_be_written_is_named(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    (tmp_path / "file").write_text("")
    status, _, err = get("gz2", "--yes", "--output", tmp_path / "file/gz2")
    assert (status, err) == (2, f"gzjax: {tmp_path}/file/gz2: Not a directory\n")
    (tmp_path / "gz2/.lock").mkdir(parents=True)
    status, _, err = get("gz2", "--yes", "--output", tmp_path / "gz2")
    assert (status, err) == (2, f"gzjax: {tmp_path}/gz2/.lock: Is a directory\n")


def test_other_files_of_a_record_can_be_had(server, get, tmp_path, monkeypatch):
    serve_gz2(server, monkeypatch)
    options = ("gz2", "--yes", "--output", tmp_path / "gz2", "--files")
    assert "These files are in" in get(*options, "README*")[1]
    assert (tmp_path / "gz2/README.txt").read_bytes() == b"not asked for"
    err = get(*options, "nothing")[2]
    assert "expected a file nothing, found README.txt, gz2_filename_mapping.csv, gz2_hart16" in err


def test_a_new_version_of_a_record_comes_again(server, get, tmp_path, monkeypatch):
    options = ("desi", "--yes", "--output", tmp_path / "desi")
    name = "gz_desi_gzd8_volunteer_core_catalog.parquet"
    for text in (b"# old", b"# new"):  # of one size
        loopback.record(server, "8360385", {name: b"votes", "schema.md": text})
        assert get(*options)[0] == 0
        assert (tmp_path / "desi/schema.md").read_bytes() == text
    (tmp_path / "desi/schema.md").unlink()
    monkeypatch.chdir(tmp_path)  # where there is no checkout
    status, out, _ = get(*options)
    assert status == 0
    assert (tmp_path / "desi/schema.md").exists()
    assert out.splitlines()[-1].startswith("gzjax --config decals --config.data.tree=desi ")


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
