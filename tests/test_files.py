import multiprocessing
import os
import subprocess
import sys

import pytest

from gzjax import files
from gzjax.errors import UserError, named, one_line


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "x.json"
    files.write_json(file, {"a": 1})
    assert file.read_text() == '{\n  "a": 1\n}\n'

    def interrupted():
        with files.replacing(file) as unfinished:
            unfinished.write_text("half")
            assert unfinished.parent == tmp_path
            assert unfinished.name.startswith("_")  # so that no reader of tables takes it for one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == '{\n  "a": 1\n}\n'
    with files.replacing(file) as unfinished:
        before = file.stat().st_ino
        unfinished.write_text("new")
    assert file.read_text() == "new"
    # Another file under the name: who reads the old one reads on undisturbed.
    assert file.stat().st_ino != before
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_files_are_utf8_in_any_locale(tmp_path):
    code = "import sys; from pathlib import Path; from gzjax import files; " + (
        "files.write_text(Path(sys.argv[1]), '\\u00e9'); "
        "assert files.read_json(Path(sys.argv[2])) == {'\\u00e9': 1}"
    )
    (tmp_path / "x.json").write_text('{"\u00e9": 1}', encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, tmp_path / "x.txt", tmp_path / "x.json"]
    subprocess.run(command, env=os.environ | locale, check=True)
    assert (tmp_path / "x.txt").read_bytes() == "\u00e9".encode()


def _hold(file, held, release):
    with files.locked(file):
        held.set()
        release.wait(30)


def test_one_process_at_a_time_holds_a_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    other.start()
    assert held.wait(30)
    with (
        pytest.raises(UserError, match="another process is writing there"),
        files.locked(tmp_path / "lock"),
    ):
        pass
    other.kill()
    other.join()
    with files.locked(tmp_path / "lock"):  # the system released it
        pass


def test_a_file_system_without_locks_is_not_protected(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    with files.locked(tmp_path / "lock"):
        pass


def test_errors_are_one_line_and_may_be_prefixed():
    def fail(error):
        with named("crop: "):
            raise error

    with pytest.raises(UserError, match=r"^crop: too small$"):
        fail(UserError("too small"))
    with pytest.raises(ValueError, match=r"^other$"):
        fail(ValueError("other"))
    assert one_line("a\n  b\x00c") == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line("x" * 1000)) == 300
