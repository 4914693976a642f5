"""Takes the pictures of the README, as launch/screenshots does: screenshots.py FOLDER TO"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

LARGEST = 300_000  # bytes of a picture


def main() -> None:
    """See the module's docstring."""
    source, target = map(Path, sys.argv[1:])
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
    with sync_playwright() as playwright:
        # In a container there is no user for Chromium's own sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto((source / "sky" / "report.html").resolve().as_uri())
        page.evaluate("document.querySelector('#galaxies').scrollIntoView()")
        take(page, target / "report.png")
        page.goto((source / "explore.html").resolve().as_uri())
        page.locator("#cards .thumb").first.wait_for()
        page.check("[name=look][value=spiral]", force=True)
        page.select_option("#colour", label="has-spiral-arms: yes")
        page.locator("#cards .thumb").nth(2).click()
        page.evaluate("scrollTo(0, document.querySelector('main').offsetTop - 8)")
        page.wait_for_timeout(300)
        take(page, target / "explore.png")
        browser.close()


def take(page: Page, file: Path) -> None:
    """Writes what is seen of a page, in as few colours as keep the file small."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    assert size < LARGEST, f"{file}: {size} bytes, expected less than {LARGEST}"
    print(f"{file}: {size // 1000} kB")


if __name__ == "__main__":
    main()
