"""README.md, the pages in docs/ and public docstrings: what they name exists, their code works.

Of the site that is made of them, see tests/test_site.py.
"""

import ast
import doctest
import importlib
import re

import pytest
from absl import flags
from pages import DOCS, PAGES, ROOT, parts

import gzjax
from gzjax import main
from gzjax.run import config, recipes

OPTIONS = dict(config.flatten(config.default()))
# Where each command defines its flags; those of gzjax are known once it is imported.
SOURCES = {
    "launch/bench": "gzjax/bench/__main__.py",
    "launch/ablation": "gzjax/bench/ablation/__main__.py",
    "launch/faults": "gzjax/faults/__main__.py",
    "launch/data": "gzjax/at_hand/__main__.py",
    "python -m gzjax.sky": "gzjax/sky/__main__.py",
    "launch/docs": "launch/docs",
}
FILES = (".py", ".safetensors")
# Of commands that are not ours.
FOREIGN = {
    "sbatch": {"nodes", "gpus-per-node", "ntasks-per-node", "array"},
    "XLA_FLAGS": {"xla_force_host_platform_device_count"},
}
# Their examples are run.
EXAMPLES = ("tree", "trees", "trees.campaigns", "votes", "losses", "metrics")


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_in(text: str) -> list[str]:
    """Commands of a page: lines of its fences, each joined with the next; and code in a line."""
    fences, prose = parts(text)
    lines = [
        line
        for language, code in fences
        if language == "bash"
        for line in code.replace("\\\n", " ").splitlines()
    ]
    return [line.split(" # ")[0] for line in lines] + [
        " ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)
    ]


def flags_of(command: str) -> set[str]:
    """The flags that a command line may have; those of all our commands, if it names none."""
    ours = {flag.name for flag in flags.FLAGS.get_flags_for_module("gzjax.main")} | {
        "config",
        "help",
    }
    named = [
        set(re.findall(r'(?:DEFINE_\w+\(|\badd(?:_argument)?\()\s*"(?:--)?([\w-]+)"', code))
        | set(re.findall(r"^ +--(\w+)\)", code, flags=re.M))
        for start, file in SOURCES.items()
        if start in command or command.startswith("--")
        for code in [(ROOT / file).read_text()]
    ]
    allowed = set().union(*named, *(names for word, names in FOREIGN.items() if word in command))
    if not named or command.startswith("--"):
        allowed |= ours
    if "launch/bench" in command:
        allowed |= {"config"}
    return allowed


@each_page
def test_options_exist(page):
    text = page.read_text()
    named = re.findall(r"--config\.([a-z_.]+)", text)
    groups = "data|fits|model|views|loss|optim|average|evaluate|checkpoint|log"
    found = re.findall(rf"`((?:{groups})\.\w+)(?:=[^`]*| = [^`]*)?`", text)
    named += [name for name in found if not name.endswith(FILES)]
    named += re.findall(r"config\.((?:\w+\.)?\w+) = ", text)
    methods = {f"model.{name}" for name in dir(gzjax.Model)}
    assert [name for name in named if name not in OPTIONS and name not in methods] == []


@each_page
def test_flags_exist(page):
    wrong = [
        (name, command)
        for command in code_in(page.read_text())
        for name in re.findall(r"(?<![\w-])--([a-z][\w-]*)", command)
        if name.removeprefix("no") not in flags_of(command) and name not in flags_of(command)
    ]
    assert wrong == []


@each_page
def test_modes_and_recipes_exist(page):
    for command in code_in(page.read_text()):
        assert set(re.findall(r"--mode[ =](\w+)", command)) <= {*main.MODES}
        for name in re.findall(r"--config[ =]([\w./]+)", command):
            assert name in {*recipes.names(), "mine.py"} or (ROOT / name).exists(), command


@each_page
def test_files_exist(page):
    """Those of the repository; a pattern needs one that fits."""
    found = re.findall(
        r"(?<![\w/.~-])((?:launch|configs|docs|tests|gzjax|\.ci)/[\w./*-]*[\w*/])", page.read_text()
    )
    assert [name for name in found if not any(ROOT.glob(name.rstrip("/")))] == []


@each_page
def test_names_exist(page):
    """`gzjax.tree.fractions` and the like: what can be imported, and what is in it."""
    for name in re.findall(r"`(gzjax(?:\.\w+)+)[`(]", page.read_text()):
        assert name.endswith(FILES) or exists(name), name


def exists(name: str) -> bool:
    """Whether a dotted name is a module's, or is one."""
    found, words = gzjax, name.split(".")[1:]
    for position, word in enumerate(words):
        try:
            found = getattr(found, word)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(["gzjax", *words[: position + 1]]))
            except ImportError:
                return False
    return True


def python_blocks():
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (language, code) in enumerate(parts(page.read_text())[0])
        if language == "python"
    ]


@pytest.mark.parametrize("code", python_blocks())
def test_python_compiles_and_finds_its_names(code):
    """Code that asserts something is run, too."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"gzjax": gzjax, "model": gzjax.Model}.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), ast.unparse(node)
    if any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        exec(compile(tree, "a page", "exec"), {})


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"gzjax.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_no_examples_are_left_out():
    """Of public modules: whatever has one is run above."""
    with_some = {
        ".".join(file.relative_to(ROOT / "gzjax").with_suffix("").parts).removesuffix(".__init__")
        for file in (ROOT / "gzjax").rglob("*.py")
        if ">>> " in file.read_text()
    }
    assert with_some == {*EXAMPLES}


def test_the_readme_is_short_and_complete():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 250
    for name in recipes.names():
        assert f"`configs/{name}.py`" in text
    for page in sorted(DOCS.rglob("*.md")):
        assert str(page.relative_to(ROOT)) in text or "reference" in page.parts


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/own-tree.md"])
def test_every_tree_is_named(page):
    text = (ROOT / page).read_text()
    assert [name for name in gzjax.tree.NAMES if f"`{name}`" not in text] == []
