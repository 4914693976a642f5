"""What a record on Zenodo holds, and under which licence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gzjax.at_hand import registry
from gzjax.at_hand.download import File, Offer, fetch, json_of, select
from gzjax.at_hand.registry import Published
from gzjax.errors import UserError, one_line


class Web:
    """The files of a record on Zenodo, and those beside it."""

    def __init__(self, published: Published, patterns: Sequence[str] = ()):
        self.published, self.patterns = published, patterns

    def offer(self) -> Offer:
        """Asks Zenodo what there is.

        Raises:
          UserError: it cannot be had, or lacks what is looked for.
        """
        url = f"{registry.ZENODO}/api/records/{self.published.zenodo}"
        record = json_of(url)
        listed = record.get("files") or []
        try:
            there = [_file(entry) for entry in listed]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{url}: expected files with key, size and links, found {one_line(listed)}"
            ) from error
        there += [File(name, url=url) for name, url in self.published.urls.items()]
        patterns = self.patterns or (*self.published.files, *self.published.urls)
        about = record.get("metadata") or {}
        licence = (about.get("license") or {}).get("id") or "none is published"
        doi = f"; doi:{about['doi']}" if about.get("doi") else ""
        return Offer(select(there, patterns, url), licence, self.published.citation + doi)

    def fetch(self, file: File, folder: Path) -> Path:
        """Downloads one of them; see `gzjax.at_hand.download.fetch`."""
        return fetch(file, folder)


def _file(entry: Mapping[str, Any]) -> File:
    name = str(entry["key"])
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"Zenodo: expected the name of a file, found {name!a}")
    links = entry["links"]
    return File(name, int(entry["size"]), entry.get("checksum") or "", links["self"])
