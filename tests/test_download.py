"""Downloads that break off, what archives say of themselves, and ZIP archives."""

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from loopback import zipped

from gzjax.at_hand import download, registry, unpack, zenodo
from gzjax.at_hand.download import File, fetch
from gzjax.errors import UserError

CONTENT = bytes(range(256)) * 400


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
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zipped(members))
    return path


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
    path = archive(tmp_path / "in/a.zip", {"fine": b"1", name: b"2"})
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


@pytest.mark.parametrize("damage", ["middle", "end", "empty", "deflated"])
def test_damaged_archives_leave_nothing(tmp_path, damage):
    content = bytearray(zipped({"1": b"1" * 999, "2": b"2" * 999}))
    if damage == "middle":
        content[200] ^= 1
    made = {"end": content[:-30], "middle": content, "empty": zipped({})}.get(damage)
    if damage == "deflated":
        with zipfile.ZipFile(whole := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("1", np.random.default_rng(0).bytes(999))
        made = bytearray(whole.getvalue())
        made[31:40] = b"\xff" * 9  # no block of deflate begins so
    (tmp_path / "a.zip").write_bytes(made)
    with pytest.raises(UserError, match=r"a\.zip: .*") as caught:
        unpack.unpack(tmp_path / "a.zip")
    assert damage == "empty" or str(caught.value).endswith("; delete it and start again")
    assert [each.name for each in tmp_path.iterdir()] == ["a.zip"]


def test_a_version_is_told_by_what_the_server_promises_to_change():
    dated = {"Last-Modified": "yesterday"}
    for headers, mark in (
        ({"ETag": '"a"', **dated}, '"a"'),
        ({"ETag": 'W/"a"', **dated}, "yesterday"),  # weak: other bytes may have the same
        (dated, "yesterday"),
        ({}, ""),
    ):
        assert download._mark(headers) == mark
