"""Workers of Ray: what they do is done once, whichever of them are lost."""

import os
import signal
from pathlib import Path

import pytest
import tiny

import gzjax
from gzjax.data import packing
from gzjax.data.images import ImageFiles
from gzjax.data.listing import Listing
from gzjax.errors import UserError
from gzjax.run import config as configs
from gzjax.run import galaxies, ray_engine

ray = pytest.importorskip("ray")
ROOT = Path(__file__).parent.parent


class Worker:
    """As `ray_engine.Worker`, without models; writes down what it does."""

    def __init__(self, folder):
        self.folder = folder
        if (folder / "refuse").exists():
            os.kill(os.getpid(), signal.SIGKILL)

    def ready(self):
        pass

    def see(self, see, part):
        with (self.folder / "done").open("a") as file:
            file.write(f"{part.ids[0]}\n")
        return see(self.folder, part)


def test_an_address_where_no_cluster_is_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    report = gzjax.Report(loud=False)
    with pytest.raises(UserError, match=r"^RAY_ADDRESS: no cluster at 127\.0\.0\.1:1: "):
        ray_engine.connect([], {}, cache=tmp_path, cores=1, report=report)


@pytest.fixture(scope="module")
def cluster():
    os.environ.pop("RAY_ADDRESS", None)
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ray.init("local", num_cpus=2, log_to_driver=False, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()


def hand_out(folder, see, said=None, number=6, workers=2):
    actor = ray.remote(num_cpus=1)(Worker)
    report = gzjax.Report(loud=False)
    report.say = [].append if said is None else said.append
    ranges = [range(10 * n, 10 * n + 10) for n in range(number)]
    tasks = ((rows, Listing([str(row) for row in rows], [])) for rows in ranges)
    found = dict(ray_engine.hand_out(see, tasks, lambda: actor.remote(folder), workers, report))
    assert set(found) == set(ranges)
    return [found[rows] for rows in ranges], (folder / "done").read_text().split()


def test_parts_of_lost_workers_are_done_by_others_and_nothing_twice(cluster, tmp_path):
    def see(folder, part):
        if part.ids[0] in ("20", "50") and not (folder / part.ids[0]).exists():
            (folder / part.ids[0]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [f"seen {galaxy}" for galaxy in part.ids]

    said = []
    found, done = hand_out(tmp_path, see, said)
    assert [galaxy for part in found for galaxy in part] == [f"seen {n}" for n in range(60)]
    assert sorted(done) == sorted(["0", "10", "20", "20", "30", "40", "50", "50"])
    assert said == ["a worker of Ray is lost; another one takes over"] * 2


class Deadly(ImageFiles):
    """Images that are written down as they are read; some end their reader, once."""

    def __init__(self, files, framing, log, deadly=()):
        super().__init__(files, framing)
        self.log, self.deadly = log, deadly

    def __getitem__(self, position):
        file = Path(self.files[position])
        with self.log.open("a") as log:
            log.write(f"{file.stem}\n")
        if file.stem in self.deadly and not (mark := self.log.with_name(file.stem)).exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(position)

    def some(self, rows):
        return Deadly([self.files[row] for row in rows], self.framing, self.log, self.deadly)


def test_a_pack_by_workers_one_of_which_is_killed_is_the_same(
    cluster, world, tmp_path, monkeypatch
):
    monkeypatch.chdir(world / "images")  # where the workers are not
    typed = configs.typed(tiny.config(world))
    data = galaxies.build_data(
        typed, galaxies.load_tree(typed.data), None, False, gzjax.Report(loud=False)
    )
    names = [os.path.basename(file) for file in data.images.files]
    images = Deadly(names, data.framing, tmp_path / "log", [data.ids[13]])
    packing.write(tmp_path / "one", data._replace(images=ImageFiles(names, data.framing)), shard=5)
    actor, said = ray.remote(num_cpus=1)(ray_engine.Worker), []
    report = gzjax.Report(loud=False)
    report.say = said.append

    def engine(see, tasks):
        begin = [[], {}, str(tmp_path), os.getcwd()]
        return ray_engine.hand_out(see, tasks, lambda: actor.remote(*begin), 2, report)

    assert (
        packing.write(tmp_path / "ray", data._replace(images=images), shard=5, engine=engine) == ""
    )
    assert said == ["a worker of Ray is lost; another one takes over"]
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "ray" / file.name).read_bytes() == file.read_bytes(), file.name
    assert len(list((tmp_path / "ray").iterdir())) == len(list((tmp_path / "one").iterdir()))
    read = (tmp_path / "log").read_text().split()
    assert sorted(read) == sorted([*data.ids, *data.ids[10:14]])  # what was not finished, again


def test_what_no_worker_can_do_ends_in_one_line(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "MOST_LOST", 2)

    def deadly(folder, part):
        if part.ids[0] == "10":
            os.kill(os.getpid(), signal.SIGKILL)
        return part.ids

    with pytest.raises(UserError, match=r"^workers of Ray end with images 11 to 20: ") as raised:
        hand_out(tmp_path, deadly, workers=1)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "done").read_text().split().count("10") == 2

    def mistaken(folder, part):
        raise UserError("none of 40 images can be opened")

    with pytest.raises(UserError, match=r"^none of 40 images can be opened$"):
        hand_out(tmp_path, mistaken, workers=1)
    (tmp_path / "refuse").touch()
    with pytest.raises(UserError, match=r"^workers of Ray end as they start: "):
        hand_out(tmp_path, mistaken, workers=1)
