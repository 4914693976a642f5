"""What all tests share: eight simulated devices, and where the real galaxies are."""

import os

# Before jax starts: tests run on the CPU, seen as eight devices, and rather compile fast than
# compute fast.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0"
)

import shlex
import shutil
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

# Before gzjax is imported, too: types, dtypes and shapes in the core's signatures are checked at
# every call. An int is a float here, as it is to type checkers.
CHECKED = (
    "augment",
    "ensemble",
    "losses",
    "metrics",
    "optim",
    "posterior",
    "quantiles",
    "tree",
    "votes",
)
jaxtyping.install_import_hook(
    [f"gzjax.{room}" for room in CHECKED],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture(scope="module", autouse=True)
def pages(request):
    """No run draws its page but those whose tests look at it; a page takes longer than a run."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("test_page", "test_main"):
            from gzjax.run import page

            patch.setattr(page, "write", lambda *_: None)
        yield


@pytest.fixture
def invoke(monkeypatch, capsys):
    """(arguments -> exit status, what was printed, what was said of a mistake), in this process."""
    import jax
    from absl import flags

    from gzjax import main
    from gzjax.run import command_line

    cached = jax.config.jax_compilation_cache_dir

    def invoke(*arguments: object) -> tuple[int, str, str]:
        words = ["gzjax", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)  # where ml_collections looks, too
        for name in list(flags.FLAGS):
            if name == "config" or name.startswith("config."):
                delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name in list(flags.FLAGS):
            flags.FLAGS[name].unparse()
        capsys.readouterr()
        status = 0
        try:
            command_line.define_recipe()
            main.main(command_line.parse(words))
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    yield invoke
    jax.config.update("jax_compilation_cache_dir", cached)
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny world's folder of galaxies, and its linear network in place of all others."""
    import tiny

    from gzjax.run import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield tiny.folder(tmp_path_factory.mktemp("world") / "galaxies")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window: the system's, or the one that playwright has installed."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    with api.sync_playwright() as playwright:
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium; install it: playwright install chromium, or apt-get")
        # In a container there is no user for Chromium's own sandbox.
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Skies and compiled programs, shared by all commands that tests start."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each of pytest's workers has a folder within one
        folder = folder.parent
    (folder / "cache").mkdir(exist_ok=True)
    return folder / "cache"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real galaxies named by GZJAX_DATA."""
    folder = os.environ.get("GZJAX_DATA", "")
    if not folder:
        pytest.skip("GZJAX_DATA names no folder of real galaxies")
    return Path(folder)


def walk(generator: np.random.Generator, galaxies: int, volunteers: int = 20) -> np.ndarray:
    """Vote fractions of simulated volunteers: an independent walk of the tree, one by one."""
    table = np.zeros((galaxies, 37))
    # question -> (first column, answers, {answer: next question asked only of those}); the tree
    # as DESIGN has it, written out by hand.
    gates = {0: None, 1: 1, 2: 4, 3: 4, 4: 4, 5: None, 6: 0, 7: 13, 8: 3, 9: 7, 10: 7}
    columns = [0, 3, 5, 7, 9, 13, 15, 18, 25, 28, 31, 37]
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    for row in range(galaxies):
        taste = [generator.dirichlet(np.full(columns[q + 1] - columns[q], 0.7)) for q in range(11)]
        for question in order:
            gate = gates[question]
            reached = volunteers if gate is None else round(table[row, gate] * volunteers)
            first, last = columns[question], columns[question + 1]
            votes = generator.multinomial(reached, taste[question])
            table[row, first:last] = votes / volunteers
    return table


@pytest.fixture(scope="session")
def gz2():
    """The tree of Galaxy Zoo 2."""
    from gzjax import tree

    return tree.load("gz2")


@pytest.fixture(scope="session")
def crowd() -> np.ndarray:
    """float64[64, 37]: vote fractions that obey the tree of Galaxy Zoo 2."""
    return walk(np.random.default_rng(0), 64)


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback in place of Zenodo and the hub, asked again at once."""
    import loopback

    from gzjax.at_hand import download, registry

    made = loopback.Loopback()
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(registry, "ZENODO", made.url)
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    yield made
    made.close()


@pytest.fixture
def get(server, capsys):
    """(arguments of launch/data -> status, output, mistake), against the loopback."""
    from gzjax.at_hand.__main__ import main

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
    monkeypatch.chdir(Path(__file__).parent.parent)

    def trains(printed: str) -> str:
        words = shlex.split(printed.strip().splitlines()[-1])
        assert words[0] == "launch/run"
        words[words.index("--workdir") + 1] = str(tmp_path / "run")
        tiny = {"data.canvas": 24, "model.image_size": 16, "model.weights": "", "epochs": 1}
        tiny |= {"batch_size": 8, "evaluate.batch_size": 8, "evaluate.views": 1}
        tiny |= {"data.validation": 0.2, "data.test": 0.2, "model.name": "efficientnet-nano"}
        options = [f"--config.{name}={value}" for name, value in tiny.items()]
        status, out, err = invoke(*words[1:], *options)
        assert status == 0, err
        return out

    return trains
