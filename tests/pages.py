"""README.md and the pages in docs/, taken apart, for the tests of what they say."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def parts(text: str) -> tuple[list[tuple[str, str]], str]:
    """The (language, code) of each fence of a page, and the text between them."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.M | re.S)
    return fences, re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(text: str) -> set[str]:
    """Where links to a page may lead: its headings as GitHub and MkDocs call them, and its ids."""
    _, prose = parts(text)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", line) for line in
                re.findall(r"^#+ (.*)$", prose, flags=re.M)]  # fmt: skip
    slugs = {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", line.lower())) for line in headings}
    return slugs | set(re.findall(r'id="([^"]+)"', text))
