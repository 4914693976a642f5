"""The campaign of faults: that it notices a broken promise, and what needs no process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

import gzjax
from gzjax.errors import UserError
from gzjax.faults import __main__ as faults
from gzjax.faults import lab as labs
from gzjax.faults import long, mistakes, people, training
from gzjax.faults.lab import Broken, Done, Lab


def facts(rmse=0.1, loss=0.5, weight=1.0):
    return {
        "scores": {"rmse": rmse},
        "train.csv": pd.DataFrame({"step": [1, 2], "loss": [0.6, loss]}),
        "weights": {"kernel": np.array([1.0, weight])},
    }


def test_runs_that_differ_in_anything_are_not_the_same():
    labs.compare(facts(), facts())
    for changed, words in (
        ({"rmse": 0.2}, "other scores"),
        ({"loss": 0.4}, "other rows in train.csv"),
        ({"weight": 1.0000001}, "other weights"),
    ):
        with pytest.raises(Broken, match=words):
            labs.compare(facts(**changed), facts())
    labs.compare(facts(loss=0.4), facts(), rows=False)
    twice = facts()
    twice["train.csv"] = pd.concat([twice["train.csv"], twice["train.csv"].tail(1)])
    with pytest.raises(Broken, match=r"of the steps \[1, 2, 2\]"):
        labs.compare(twice, facts())


def test_what_a_run_leaves_is_read_without_its_timings(world, tmp_path):
    runs = {}
    for name, seed in (("one", 0), ("two", 0), ("other", 3)):
        config = tiny.config(world, log__trackers=("csv",), epochs=1, seed=seed)
        gzjax.train(config, tmp_path / name)
        runs[name] = labs.facts(tmp_path / name)
    labs.compare(runs["one"], runs["two"])
    assert {"step", "loss", "learning_rate"} <= set(runs["one"]["train.csv"])
    assert "images_per_second" not in runs["one"]["train.csv"]
    with pytest.raises(Broken):
        labs.compare(runs["other"], runs["one"])


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Done(0, "", ""), "status 0"),
        (Done(1, "", "Traceback (most recent call last):\ngzjax: x"), "expected one line"),
        (Done(-signal.SIGKILL, "", "gzjax: x"), "status -9"),
        (Done(2, "", ""), "a line that begins with gzjax:"),
        (Done(2, "", "Segmentation fault"), "a line that begins with gzjax:"),
        (Done(2, "", "gzjax: data.csv: wrong"), "expected one of --config"),
    ],
)
def test_anything_but_one_clear_line_is_a_broken_promise(done, words):
    with pytest.raises(Broken, match=words):
        labs.check_one_line(done, "--config")
    labs.check_one_line(Done(2, "", "a warning\ngzjax: --config.epochs: wrong\n"), "--config")


def test_what_a_command_said_last_is_its_own_line_not_a_warning_after_it():
    warned = (
        "gzjax: a worker ended\nresource_tracker.py:254: UserWarning: x\n  warnings.warn('x')\n"
    )
    assert Done(1, "", warned).last == "gzjax: a worker ended"
    assert Done(-9, "", "first\nFatal Python error\n").last == "Fatal Python error"
    assert Done(0, "", "").last == ""


def test_damage_is_done_to_one_file_and_follows_from_the_seed(tmp_path):
    content, kinds = bytes(range(256)) * 4, set()
    for seed in range(12):
        said = []
        for name in ("one", "two"):
            file = tmp_path / name / "file"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            said.append(labs.damage(file, np.random.default_rng(seed)))
            assert file.read_bytes() != content
        assert said[0] == said[1]
        assert (tmp_path / "one/file").read_bytes() == (tmp_path / "two/file").read_bytes()
        kinds.add("flipped" in said[0])
    assert kinds == {True, False}


class Scripted(Lab):
    """A lab in which commands end as a script says, without being started."""

    def __init__(self, folder, *ends, same=True):
        super().__init__(folder, 0, quick=True)
        self.ends, self.same, self.seconds = list(ends), same, 0.05
        self.commands, self.hooks = [], []

    def undisturbed(self):
        return {}

    def check_same(self, workdir, expected=None, rows=True):
        self.compared, self.rows = (workdir, expected), rows
        if not self.same:
            raise Broken("other weights")

    def start(self, *arguments, hook="", **variables):
        self.commands.append(arguments)
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
        )

    def finish(self, process):
        if process.poll() is None:
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                process.kill()
        return self.ends.pop(0)

    def run(self, *arguments, hook="", **variables):
        self.commands.append(arguments)
        self.hooks.append(hook)
        return self.ends.pop(0)


KILLED, STOPPED, GOOD = (
    Done(-9, "", ""),
    Done(0, "stopped as asked after step 4", ""),
    Done(0, "", ""),
)
LINE = Done(2, "", "gzjax: what is wrong")
BAD = Done(1, "", "Traceback (most recent call last):\nValueError")


def assert_broken(kind, folder, cases):
    """For each case, how commands end and whether runs agree, a kind says what is broken."""
    for ends, same, words in cases:
        with pytest.raises(Broken, match=words):
            kind(Scripted(folder, *ends, same=same))


def test_a_kind_notices_a_run_that_does_not_resume_or_is_another(tmp_path):
    lab = Scripted(tmp_path, GOOD, *[KILLED] * 3, GOOD)
    assert training.killed(lab).startswith("killed 3 times in 1 ")
    # It is compared with one that nothing killed and that was as long.
    assert lab.compared == (tmp_path / "killed/run", tmp_path / "killed-whole/run")
    assert [command[-1] for command in lab.commands] == [tmp_path / "killed-whole/run"] + [
        lab.compared[0]
    ] * 4
    assert len({command[:-1] for command in lab.commands}) == 1
    # One that is through before it was killed often enough is judged, and another begun.
    two = Scripted(tmp_path, GOOD, KILLED, GOOD, GOOD, KILLED, KILLED, GOOD)
    assert training.killed(two).startswith("killed 3 times in 2 ")
    assert not two.ends
    with pytest.raises(Broken, match="did not resume"):
        training.killed(Scripted(tmp_path, GOOD, *[KILLED] * 3, LINE))
    with pytest.raises(Broken, match="other weights"):
        training.killed(Scripted(tmp_path, GOOD, *[KILLED] * 3, GOOD, same=False))
    # A signal that comes before the program listens ends it, with nothing to save.
    early = KILLED._replace(code=-15)
    three = Scripted(tmp_path, GOOD, STOPPED, early, GOOD, GOOD, STOPPED, GOOD)
    assert training.stopped(three).startswith("stopped 3 times in 2 training runs, saved 2 times")
    assert not three.ends
    with pytest.raises(Broken, match="status 1 after signal 15"):
        training.stopped(Scripted(tmp_path, GOOD, BAD))
    with pytest.raises(Broken, match="a traceback after signal 9"):
        training.killed(Scripted(tmp_path, GOOD, KILLED._replace(err="Traceback")))


def test_rows_of_a_record_that_was_damaged_are_not_compared(tmp_path, monkeypatch):
    def begin(lab, workdir):
        (workdir / "checkpoints").mkdir(parents=True)
        (workdir / name).write_text("1,2\n")

    monkeypatch.setattr(training, "interrupted", begin)
    for name in ("train.csv", "checkpoints/array"):
        lab = Scripted(tmp_path, *[GOOD] * 4)
        assert training.damaged(lab) == "the same run 4 times, one line 0 times"
        assert lab.rows == (name != "train.csv")
    with pytest.raises(Broken, match=r"array .*other weights"):
        training.damaged(Scripted(tmp_path, GOOD, same=False))
    with pytest.raises(Broken, match=r"array .*expected one line"):
        training.damaged(Scripted(tmp_path, BAD))


def test_renames_and_the_clock_are_hooks_of_the_process_and_judged(tmp_path):
    lab = Scripted(tmp_path, LINE, GOOD, GOOD, GOOD)
    assert "2 times" in training.renames(lab)
    assert ["ESTALE" in hook for hook in lab.hooks] == [True, False] * 2
    assert lab.compared == (tmp_path / "renames/run", None)
    with pytest.raises(Broken, match="expected one line"):
        training.renames(Scripted(tmp_path, BAD))
    with pytest.raises(Broken, match="did not resume"):
        training.renames(Scripted(tmp_path, LINE, LINE))
    with pytest.raises(Broken, match="other weights"):
        training.renames(Scripted(tmp_path, GOOD, GOOD, same=False))
    lab = Scripted(tmp_path, GOOD)
    training.clock(lab)
    assert "86400" in lab.hooks[0]
    with pytest.raises(Broken, match="status 2"):
        training.clock(Scripted(tmp_path, LINE))
    with pytest.raises(Broken, match="other weights"):
        training.clock(Scripted(tmp_path, GOOD, same=False))


@pytest.fixture
def disk(monkeypatch):
    """Small disks, and what fills them, are a folder and a file."""

    @contextlib.contextmanager
    def small_disk(folder, megabytes):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder

    def fill(disk, kilobytes):
        (disk / "filler").touch()
        return disk / "filler"

    monkeypatch.setattr(training, "small_disk", small_disk)
    monkeypatch.setattr(training, "fill", fill)


def test_a_full_disk_ends_in_one_line_and_the_same_run(disk, tmp_path):
    lab = Scripted(tmp_path, LINE, GOOD, GOOD, GOOD)
    assert training.full(lab) == "2 times, then the same run: had room"
    assert lab.compared == (tmp_path / "full/disk/run", None)
    cases = (
        ([BAD], True, "expected one line"),
        ([LINE, LINE], True, "did not resume"),
        ([GOOD, GOOD], False, "other weights"),
    )
    assert_broken(training.full, tmp_path, cases)


def test_a_disk_that_nobody_may_write_ends_in_one_line_and_the_same_run(
    disk, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "interrupted", lambda lab, workdir: None)
    monkeypatch.setattr(training.subprocess, "run", lambda *_, **__: None)  # mounts it again
    assert "what is wrong" in training.read_only(Scripted(tmp_path, LINE, GOOD))
    cases = (
        ([GOOD], True, "status 0"),  # nothing was noticed
        ([LINE, LINE], True, "did not resume"),
        ([LINE, GOOD], False, "other weights"),
    )
    assert_broken(training.read_only, tmp_path, cases)


def test_a_lost_worker_ends_in_one_line_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_workers_of", lambda pid: [pid])
    monkeypatch.setattr(training.time, "sleep", lambda _: None)
    assert training.workers(Scripted(tmp_path, GOOD, GOOD)) == "the same run"
    assert "what is wrong" in training.workers(Scripted(tmp_path, LINE, GOOD))
    cases = (
        ([BAD], True, "expected one line"),
        ([LINE, LINE], True, "did not resume"),
        ([LINE, GOOD], False, "other weights"),
    )
    assert_broken(training.workers, tmp_path, cases)


def test_of_two_processes_the_other_ends_too(tmp_path, monkeypatch):
    step = tmp_path / "two/run/checkpoints/2"
    monkeypatch.setattr(training.time, "sleep", lambda _: step.mkdir(parents=True, exist_ok=True))
    lab = Scripted(tmp_path, GOOD, GOOD, LINE, KILLED, GOOD, GOOD)
    assert training.two(lab).endswith("killed, the other ended with status 2, then the same run")
    assert lab.compared == (tmp_path / "two/run", tmp_path / "two-whole/run")
    cases = (
        ([GOOD, LINE], True, "both did not end well"),
        ([GOOD, GOOD, GOOD, KILLED], True, "as if nothing were wrong"),
        ([GOOD, GOOD, LINE, KILLED, GOOD, LINE], True, "both did not end well"),
        ([GOOD, GOOD, LINE, KILLED, GOOD, GOOD], False, "other weights"),
    )
    assert_broken(training.two, tmp_path, cases)


def test_every_mistake_has_to_be_one_line_and_begin_nothing(tmp_path):
    assert mistakes.mistakes(Scripted(tmp_path, *[LINE] * 20)).startswith("20 mistakes")
    for end in (GOOD, BAD):
        with pytest.raises(Broken, match="1 of 20: "):
            mistakes.mistakes(Scripted(tmp_path, *[LINE] * 19, end))

    class Begins(Scripted):
        def run(self, *arguments, **others):
            (self.folder / "mistakes/none").mkdir(exist_ok=True)
            return LINE

    with pytest.raises(Broken, match="a workdir was begun"):
        mistakes.mistakes(Begins(tmp_path))


class Predicting(Scripted):
    """A lab in which predictions are made of what a script says that was seen and listed."""

    def __init__(self, folder, seen, listed):
        super().__init__(folder)
        self.seen, self.listed = seen, listed

    def run(self, *arguments, **others):
        output = str(arguments[-1])
        for names, file in ((self.seen, output), (self.listed, f"{output}.unreadable.csv")):
            stems = [Path(name).stem for name in names]
            pd.DataFrame({"GalaxyID": stems}).to_csv(file, index=False)
        return GOOD


def test_good_images_have_to_be_predicted_and_bad_ones_listed(tmp_path):
    good, bad = [*people.good_images()], [*people.bad_images(np.random.default_rng(0))]
    assert "predicted" in people.images(Predicting(tmp_path, good, bad))
    with pytest.raises(Broken, match=f"{good[0]} was not predicted"):
        people.images(Predicting(tmp_path, good[1:], bad))
    with pytest.raises(Broken, match=f"neither predicted nor listed: {bad[0]}"):
        people.images(Predicting(tmp_path, good, bad[1:]))


def test_what_is_read_of_damaged_results_is_the_same_or_one_line(tmp_path):
    """Other predictions, of which nothing is said, are a broken promise."""

    class Results(Scripted):
        said, end = "right", GOOD

        def run(self, *arguments, **others):
            place = Path(arguments[-1])
            if "--pack" in arguments:
                place.mkdir()
                (place / "shard").write_bytes(bytes(99))
            elif place.suffix == ".csv":
                place.write_text("right" if place.stem == "whole" else self.said)
            elif place.name.startswith("parts-"):
                place.mkdir(exist_ok=True)
                for number in range(3):
                    (place / f"{number}.parquet").write_bytes(bytes(99))
            return self.end if "pack-" in str(arguments) else GOOD

    lab = Results(tmp_path)
    assert people.results(lab) == "one line 0 times, the same 5 times"
    lab.end = LINE
    assert people.results(lab) == "one line 3 times, the same 2 times"
    for change, words in (
        ({"same": False}, "other weights"),
        ({"end": BAD}, "expected one line"),
        ({"end": GOOD, "said": "other"}, "other predictions"),
    ):
        vars(lab).update(change)
        with pytest.raises(Broken, match=words):
            people.results(lab)


@pytest.mark.parametrize(
    ("hook", "code"),
    [
        (
            training.DAY_BACK.format(calls=2),
            "import time; a = [time.time() for _ in range(4)]; assert 0 <= a[1] - a[0] < 9; "
            "assert a[2] < a[1] - 80000; assert 0 <= a[3] - a[2] < 9",
        ),
        (
            training.RENAMES.format(when="==", call=2),
            "import os; open('a', 'w').close(); os.replace('a', 'b')\n"
            "try: os.rename('b', 'c')\nexcept OSError as e: assert e.filename == 'c'\n"
            "else: assert False\nos.replace('b', 'a')",
        ),
    ],
)
def test_hooks_do_what_they_are_for(tmp_path, hook, code):
    (tmp_path / "sitecustomize.py").write_text(hook)
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, check=True,
    )  # fmt: skip


def test_every_image_is_read_or_its_fault_is_said(world, tmp_path):
    gzjax.train(tiny.config(world, epochs=1), tmp_path / "run")
    good, bad = people.good_images(), people.bad_images(np.random.default_rng(0))
    assert len(good) + len(bad) >= 60
    for name, content in {**good, **bad}.items():
        path = tmp_path / name
        content(path) if callable(content) else path.write_bytes(content)
    model = gzjax.load(tmp_path / "run")
    table = model.predict([str(tmp_path / name) for name in (*good, *bad)], views=1)
    faults = table["fault"].fillna("").tolist()
    answers = table[list(model.tree.columns)]
    assert answers[: len(good)].notna().all(axis=None)
    assert not any(faults[: len(good)])
    for name, fault, unknown in zip(
        bad, faults[len(good) :], answers.isna().all(axis=1)[len(good) :], strict=True
    ):
        assert fault, name
        assert unknown, name


def test_every_wrong_table_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in mistakes.wrong_commands(tmp_path)[-len(mistakes.WRONG_TABLES) :]:
        config = gzjax.recipe("gz2")
        config.data.root = command[2].partition("=")[2]
        config.model.weights = ""
        with pytest.raises(UserError) as said:
            gzjax.train(config, tmp_path / "none")
        assert "\n" not in str(said.value)
        assert not (tmp_path / "none").exists()
    assert len(mistakes.wrong_commands(tmp_path / "again")) >= 60


def test_a_process_is_looked_at(tmp_path, monkeypatch):
    assert long.look_at(os.getpid(), tmp_path) is None  # nothing is recorded yet
    (tmp_path / "train.csv").write_text("step,loss\n10,0.5\n20,0.4\n")
    for step in ("10", "20", "tmp"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "file").write_bytes(b"0" * 500_000)
    look = long.look_at(os.getpid(), tmp_path)
    assert (look.step, look.checkpoints, look.checkpoint_megabytes) == (20, 2, 1.5)
    assert 50 < look.megabytes < 20_000
    with open(os.devnull), open(os.devnull):
        assert long.look_at(os.getpid(), tmp_path).handles == look.handles + 2
    (tmp_path / "checkpoints" / "20" / "gone").symlink_to(tmp_path / "nowhere")
    assert long.look_at(os.getpid(), tmp_path).checkpoint_megabytes == 1.5
    with monkeypatch.context() as patch:  # old checkpoints are removed while it is looked at
        patch.setattr(os.path, "getsize", lambda _: shutil.rmtree(tmp_path / "checkpoints") or 7)
        assert long.look_at(os.getpid(), tmp_path).checkpoint_megabytes == 7e-6
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert long.look_at(ended.pid, tmp_path) is None


def test_a_long_run_is_judged_by_its_second_half_before_the_test_at_its_end():
    def looks(**changes):
        steps = np.arange(10, 2010, 10)
        made = []
        for step in steps:
            memory = 500 + (step < 900) * step + 300 * (step % 70 == 0) + 900 * (step == 2000)
            found = {"megabytes": memory, "handles": 17, "checkpoints": 3}
            found |= {name: change(step) for name, change in changes.items()}
            sizes = {"checkpoint_megabytes": 19.0, "tensorboard_megabytes": 6.5}
            made.append(long.Look(step=step, **found, **sizes))
        return made

    said = "2000 steps: 500 MB of memory after half of them, 500 at the end, at most 800; 17 open"
    assert long.judge(looks()).startswith(said)
    for changes, message in (
        ({"megabytes": lambda step: 500 + step / 20}, "memory grew in the second half, from 556"),
        ({"handles": lambda step: step // 100}, "open files grew from 10 to 19"),
        ({"checkpoints": lambda step: 3 + 6 * (step == 1500)}, "9 checkpoints were kept"),
    ):
        with pytest.raises(Broken, match=message):
            long.judge(looks(**changes))
    assert long.judge(looks(megabytes=lambda step: 500 + step / 100))
    with pytest.raises(Broken, match="looked only 7 times"):
        long.judge(looks()[-8:])


def test_the_campaign_says_what_was_kept_broken_and_skipped(tmp_path, monkeypatch, capsys):
    def kept(lab):
        """All is well."""
        time.sleep(0.01)
        return f"well | in {lab.folder}/run"

    def broken(lab):
        """Something is lost."""
        raise Broken("lost")

    def skipped(lab):
        """Cannot be."""
        raise training.Skipped(f"{lab.folder}: no such machine" + " there" * 99)

    page = tmp_path / "reliability.md"
    page.write_text(f"What is promised.\n\n{faults.MARK}\n\nold\n")
    kinds = {"kept": kept, "broken": broken, "skipped": skipped, "long": broken}
    monkeypatch.setattr(faults, "KINDS", kinds)
    with pytest.raises(SystemExit) as ended:
        faults.main(["--quick", "--write", str(page), "--seed", "4"])
    assert ended.value.code == 1
    text = page.read_text()
    assert text.startswith(
        f"What is promised.\n\n{faults.MARK}\n\n`launch/faults --quick --seed 4`"
    )
    assert "1 of 3 promises kept" in text
    assert "| kept | All is well. | kept | well \\| in FOLDER/run |" in text
    assert "| broken | Something is lost. | broken | lost |" in text
    assert "| skipped | Cannot be. | skipped | FOLDER: no such machine there" in text
    assert text.endswith(" there ... |\n")
    assert len(text) < 800
    assert "old" not in text
    assert "faults: kept\nkept: well | in FOLDER/run\nfaults: broken\n" in capsys.readouterr().out
    faults.main(["--only", "kept,skipped", "--workdir", str(tmp_path / "work")])
    assert "no such machine" in capsys.readouterr().out
    (tmp_path / "other.md").write_text("A page of something else.")
    for wrong, words in (
        (["--only", "kep"], "expected some of kept, broken"),
        (["--fast"], "fast"),
        (["--write", str(tmp_path / "other.md")], "other.md: expected a page with the line"),
        (["--write", str(tmp_path / "none.md")], "none.md: expected a page with the line"),
    ):
        with pytest.raises(SystemExit) as ended:
            faults.main(wrong)
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_what_an_error_leaves_running_is_ended(tmp_path, monkeypatch):
    started = []

    def interrupted(timeout=None):
        if timeout:
            raise KeyboardInterrupt

    def fails(lab):
        started.extend(lab.start("--help", hook="import time; time.sleep(100)") for _ in range(2))
        started[1].wait = interrupted
        lab.finish(started[1])

    monkeypatch.setattr(faults, "KINDS", {"fails": fails})
    with pytest.raises(KeyboardInterrupt):
        faults.main(["--workdir", str(tmp_path)])
    del started[1].wait
    assert [process.wait(5) for process in started] == [-9, -9]
