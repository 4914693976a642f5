"""What the README and the pages say: that the names in it are there, and that the site is built."""

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import gzjax
from gzjax import main as command
from gzjax.run import config, recipes

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + list((ROOT / "docs").rglob("*.md"))
)
# Made when the site is built, see docs/site/hooks.py.
GENERATED = {
    *("docs/reference/recipes.md", "docs/reference/options.md", "docs/reference/flags.md"),
    *("docs/notebooks/tour.md", "docs/notebooks/your_own_galaxies.md"),
    *("docs/CONTRIBUTING.md", "docs/CHANGELOG.md", "docs/LICENSE"),
}
# Flags of commands other than gzjax itself, and those that libraries define.
OTHERS = {
    *(
        "help",
        "sheet",
        "list",
        "dry-run",
        "serve",
        "compare",
        "seeds",
        "data",
        "only",
        "yes",
        "files",
        "subset",
    ),
    *("models", "sizes", "batches", "dtypes", "topologies", "repeats", "image_size", "epochs"),
    *("nodes", "gpus-per-node", "ntasks-per-node", "array", "xla_force_host_platform_device_count"),
    *("numprocesses", "dist", "quick", "write", "seed", "report", "only_report", "share"),
}

# A file's or a function's name that begins as an option does.
NOT_OPTIONS = {"model.predict", "model.embed", "model.posterior", "model.safetensors"}
NOT_OPTIONS |= {"evaluate.py", "data.catalogues"}


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request):
    return request.param


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors_of(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    if not page.exists():
        return None  # made when the site is built
    without_code = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    found = re.findall(r"^#+ (.*)$", without_code, re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading.replace("`", "").lower()) for heading in found)
    return {re.sub(r"\s+", "-", heading.strip()) for heading in plain}


def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        name = there.relative_to(ROOT).as_posix()
        assert there.exists() or name in GENERATED, target
        known = anchors_of(there) if there.suffix == ".md" else None
        if anchor and known is not None and not anchor.startswith("gzjax."):
            assert anchor in known, target


def test_options_exist(page):
    every = dict(config.flatten(config.default()))
    groups = {name.split(".")[0] for name in every if "." in name}
    text = text_of(page)
    named = re.findall(r"config\.([a-z_]+(?:\.[a-z_]+)*)\s*=", text)
    group = "|".join(sorted(groups))
    named += re.findall(rf"(?<![\w./])((?:{group})\.[a-z_]+)(?=[`=])", text)
    for name in named:
        option = name.removeprefix("config.")
        assert option in every or name in NOT_OPTIONS, name


def test_flags_exist(page):
    defined = {flag.name for flag in flags.FLAGS.flags_by_module_dict()[command.__name__]}
    for name in re.findall(r"(?<![\w-])--([a-z][a-z_-]+)(?![\w.])", text_of(page)):
        assert name in defined | {"config"} | OTHERS, name


def test_modes_exist(page):
    for mode in re.findall(r"--mode ([a-z]+)", text_of(page)):
        assert mode in command.MODES


def test_files_and_recipes_exist(page):
    text = text_of(page)
    for path in re.findall(r"(?<![\w/.-])((?:launch|configs|gzjax|tests|docs)/[\w/.-]+\w)", text):
        assert (ROOT / path).exists() or path in GENERATED, path
    for name in re.findall(r"--config ([a-z]\w+)(?![\w./])", text):
        assert name in recipes.names()


def test_code_may_be_run(page):
    for block in re.findall(r"^```python\n(.*?)^```", text_of(page), re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name) or importlib.import_module(
                        f"{node.module}.{name.name}"
                    )
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "gzjax" or hasattr(gzjax, node.attr), node.attr


def test_every_recipe_is_listed():
    listed = re.findall(r"^\| `configs/(\w+)\.py`", text_of(ROOT / "README.md"), re.M)
    assert set(listed) == set(recipes.names()), "README.md"


@pytest.mark.parametrize("name", ["tree", "votes", "losses", "metrics"])
def test_examples_in_docstrings_give_what_they_say(name):
    found = doctest.testmod(importlib.import_module(f"gzjax.{name}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_option_and_flag_is_on_its_page():
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        hooks = importlib.import_module("hooks")
    except ImportError:
        pytest.skip("MkDocs is not installed")
    finally:
        sys.path.pop(0)
    pages = hooks.pages()
    for name, default in config.flatten(config.default()):
        (row,) = re.findall(
            rf"^\| `{re.escape(name)}` \| (.*) \| (.+) \|$", pages["reference/options.md"], re.M
        )
        assert row[0] == f"`{default!r}`", name
        assert len(row[1]) > 5
    for flag in flags.FLAGS.flags_by_module_dict()[command.__name__]:
        assert f"| `--{flag.name}` |" in pages["reference/flags.md"]
    for name in recipes.names():
        assert f"\n## {name}\n" in pages["reference/recipes.md"]


@pytest.mark.skipif(not os.environ.get("GZJAX_EXTRAS"), reason="GZJAX_EXTRAS is not set")
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_others(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--site-dir", tmp_path]
        + ["--config-file", ROOT / "docs/site/mkdocs.yml"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
            if 'rel="canonical"' not in tag:
                assert not re.search(r"(src|href)=\"?(https?:)?//", tag), tag
    reference = (tmp_path / "reference/python.html").read_text(encoding="utf-8")
    for name in ("load", "train", "predict", "evaluate", "export"):
        assert re.search(rf'id="gzjax\.run\.\w+\.{name}"', reference)
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\"?https?:", style.read_text(encoding="utf-8"))
