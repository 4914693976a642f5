"""The site of the documentation: its links, its menu, the pages that it makes, and its build."""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from absl import flags
from pages import DOCS, PAGES, ROOT, anchors, parts

import gzjax
from gzjax import main
from gzjax.run import config, recipes


@pytest.fixture(scope="module")
def hooks():
    """The site's own code."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(hooks):
    """{file: Markdown} of the pages that the site makes of the code."""
    return {DOCS / name: text for name, text in hooks.pages().items()}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page, made):
    """Those of the site to pages that it makes count as well; GitHub has no such pages."""
    check_links(page, page.read_text(), made)


def test_links_of_made_pages_lead_somewhere(made):
    for page, text in made.items():
        check_links(page, text, made)


def check_links(page: Path, text: str, made: dict[Path, str]) -> None:
    """Follows the links of a page within the repository."""
    _, prose = parts(text)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / name)) if name else page
        # In the site, what is at the top of the repository lies beside the first page.
        if name and target.parent == DOCS and not target.exists() and DOCS in page.parents:
            target = ROOT / target.name
        known = made if DOCS in page.parents else {}
        assert target in known or target.exists(), f"{page.name}: {link}"
        if anchor and not anchor.startswith(
            "gzjax."
        ):  # those are the site's, which its build checks
            found = anchors(known[target] if target in known else target.read_text())
            assert anchor in found, f"{page.name}: {link}"


def test_the_menu_has_every_page(made):
    """And no other."""
    listed = re.findall(r"[\w/-]+\.md$", (DOCS / "site" / "mkdocs.yml").read_text(), flags=re.M)
    there = {str(page.relative_to(DOCS)) for page in [*DOCS.rglob("*.md"), *made]}
    assert sorted(listed) == sorted(there | {"CONTRIBUTING.md", "CHANGELOG.md"})


def test_every_option_flag_and_recipe_has_its_row(made):
    options, flag_page, recipe_page = (
        made[DOCS / "reference" / f"{name}.md"] for name in ("options", "flags", "recipes")
    )
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in options.splitlines()]
    found = {row[0]: row for row in rows if len(row) == 4}
    for name, default in config.flatten(config.default()):
        _, shown, _, said = found[f"`{name}`"]
        assert shown.replace("\\|", "|") == f"`{default!r}`"
        assert said
    for flag in flags.FLAGS.get_flags_for_module("gzjax.main"):
        assert f"`--{flag.name}` |" in flag_page
    for mode in main.MODES:
        assert re.search(rf"^\| \[`{mode}`\]\(#flag-mode\) \| \w.* \|$", flag_page, flags=re.M)
    for name in recipes.names():
        assert f"\n## {name}\n" in recipe_page


class Assets(HTMLParser):
    """What a page loads by itself, in `found`."""

    LOADS = ("stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest")

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        """Notes what the tag loads."""
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and {*given.get("rel", "").split()} & {*self.LOADS}:
            self.found.append(given.get("href", ""))
        elif tag != "a":
            self.found += [
                given[name] for name in ("src", "srcset", "poster", "data") if name in given
            ]
        self.found += re.findall(r"url\(\s*[\"']?([^\"')]+)", given.get("style", ""))


def is_remote(address: str) -> bool:
    return re.match(r"(\w+:)?//", address) is not None


@pytest.mark.skipif("GZJAX_EXTRAS" not in os.environ, reason="GZJAX_EXTRAS=1 builds the site")
def test_the_site_is_built_and_needs_no_other_server(tmp_path, made):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "--quiet", "build", "--strict", "--config-file",
         str(DOCS / "site" / "mkdocs.yml"), "--site-dir", str(tmp_path / "site")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    pages = {page: page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    there = {str(page.relative_to(tmp_path / "site").with_suffix(".md")) for page in pages}
    assert there >= {str(page.relative_to(DOCS)) for page in [*DOCS.rglob("*.md"), *made]}
    for page, text in pages.items():
        assets = Assets()
        assets.feed(text)
        assert len(assets.found) > 3
        assert [address for address in assets.found if is_remote(address)] == [], page
        # What the theme's script fetches from elsewhere, to draw it.
        assert 'class="mermaid"' not in text
    for sheet in (tmp_path / "site").rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')]+)", sheet.read_text())
        assert [address for address in loaded if is_remote(address)] == [], sheet
    door = (tmp_path / "site" / "reference" / "python.html").read_text()
    assert [name for name in gzjax.__all__ if f"gzjax.{name}\n" not in door and
            f"gzjax.{name}<" not in door] == []  # fmt: skip
