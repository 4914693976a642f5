"""The files of a Kaggle competition, by the package kaggle with the user's own credentials."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gzjax.at_hand import download
from gzjax.at_hand.download import AGAIN, TRIES, File, Offer, needed, select
from gzjax.at_hand.registry import Published
from gzjax.errors import UserError, one_line

SITE = "https://www.kaggle.com"


class Competition:
    """The files of a competition; kaggle keeps what has come, and resumes."""

    def __init__(self, published: Published, patterns: Sequence[str] = ()):
        self.published, self.patterns = published, patterns
        self.page = f"{SITE}/c/{published.kaggle}"
        self._api: Any = None

    def offer(self) -> Offer:
        """Asks Kaggle what there is.

        Raises:
          UserError: no credentials, the rules are not accepted, or a file is missing.
        """
        self._api = self._log_in()
        try:
            listed = self._api.competition_list_files(self.published.kaggle)
        except Exception as error:  # kaggle raises many kinds
            raise self._fault(error) from error
        entries = getattr(listed, "files", listed) or []
        files = [File(str(entry.name), _size(entry)) for entry in entries]
        patterns = self.patterns or self.published.files
        chosen = select(files, patterns, self.page)
        return Offer(chosen, self.published.licence, self.published.citation)

    def fetch(self, file: File, folder: Path) -> Path:
        """Downloads one of them.

        Raises:
          UserError: it cannot be had, or has another size than Kaggle says.
        """
        path = folder / file.name
        for attempt in range(TRIES):
            try:
                self._api.competition_download_file(
                    self.published.kaggle, file.name, path=str(folder), quiet=False
                )
                break
            except Exception as error:
                if _status(error) in (401, 403, 404) or attempt + 1 == TRIES:
                    raise self._fault(error) from error
                time.sleep(download.PAUSE * 2**attempt)
        size = path.stat().st_size if path.exists() else 0
        if size != (file.size or size or 1):
            path.unlink(missing_ok=True)
            raise UserError(
                f"{path}: expected {file.size} bytes, found {size}; it is deleted, and the same "
                "command downloads it again"
            )
        return path

    def _log_in(self) -> Any:
        advice = (
            f"make a token on {SITE}/settings and put it where kaggle looks "
            "(KAGGLE_API_TOKEN, or ~/.kaggle/kaggle.json)"
        )
        try:
            with needed():
                from kaggle.api.kaggle_api_extended import KaggleApi
            api = KaggleApi()
            api.authenticate()
        except UserError:
            raise
        # Some versions end the program where there are no credentials.
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.page}: kaggle has no credentials: {advice}") from error
        return api

    def _fault(self, error: Exception) -> UserError:
        status = _status(error)
        if status == 401:
            return UserError(f"{self.page}: Kaggle does not accept your credentials")
        if status == 403:
            return UserError(f"{self.page}: accept the rules first, on {self.page}/rules")
        return UserError(f"{self.page}: {one_line(error)}; {AGAIN}")


def _size(entry: Any) -> int | None:
    """Bytes, as versions of kaggle call them."""
    for name in ("total_bytes", "totalBytes"):
        size = getattr(entry, name, None)
        if isinstance(size, int) and size > 0:
            return size
    return None


def _status(error: Exception) -> int | None:
    for place in (getattr(error, "response", None), error):
        for name in ("status_code", "status"):
            status = getattr(place, name, None)
            if isinstance(status, int):
                return status
    return None
