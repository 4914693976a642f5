"""Galaxy Zoo sets on the Hugging Face hub: Parquet files with images and votes inside."""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from gzjax import trees
from gzjax.at_hand import download
from gzjax.at_hand.download import AGAIN, TRIES, File, Offer, select
from gzjax.data.columns import find_columns
from gzjax.data.rows import column_names
from gzjax.errors import UserError, one_line


class Hub:
    """The Parquet files of a data set on the hub; huggingface_hub resumes them.

    Args:
      name: owner/name.
      patterns: of files, instead of those of a subset.
      subset: one that the set's card names; None is the default.

    Raises:
      UserError: another kind of name, or both patterns and a subset.
    """

    def __init__(self, name: str, patterns: Sequence[str] = (), subset: str | None = None):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise UserError(f"hf:{name}: expected something like hf:owner/name")
        if patterns and subset is not None:
            raise UserError("--subset: expected no --files, which name the files themselves")
        self.name, self.patterns, self.subset = name, patterns, subset
        self.where = f"hf:{name}"
        # The hub's library reads it when it is imported, which may be long ago.
        self.endpoint = os.environ.get("HF_ENDPOINT") or None
        self._revision: str | None = None

    def offer(self) -> Offer:
        """Asks the hub what there is.

        Raises:
          UserError: no such set, no access, or no such subset or file.
        """
        from huggingface_hub import HfApi  # slow to import

        try:
            info = HfApi(endpoint=self.endpoint).dataset_info(self.name, files_metadata=True)
        except Exception as error:  # the hub's library raises many kinds
            raise UserError(f"{self.where}: {one_line(error)}") from error
        self._revision = info.sha
        files = [_file(each) for each in info.siblings or []]
        card: Mapping[str, Any] = info.card_data.to_dict() if info.card_data else {}
        patterns = self.patterns or self._subset(card.get("configs") or [])
        tables = [file for file in files if fnmatchcase(file.name, "*.parquet")]
        licence = card.get("license") or "none is published"
        if not isinstance(licence, str):
            licence = ", ".join(map(str, licence))
        arxiv = [tag for tag in info.tags or [] if tag.startswith("arxiv:")]
        cite = "; ".join([f"the card of https://huggingface.co/datasets/{self.name}", *arxiv])
        return Offer(select(tables, patterns, self.where), licence, cite)

    def _subset(self, configs: Sequence[Mapping[str, Any]]) -> list[str]:
        """The patterns of the files of a subset."""
        names = [str(each.get("config_name")) for each in configs]
        if self.subset is not None and self.subset not in names:
            raise UserError(
                f"{self.where}: expected a subset of {', '.join(names) or 'none'}, found "
                f"{self.subset}"
            )
        if not configs:
            return ["*.parquet"]
        default = next((n for n, each in enumerate(configs) if each.get("default")), None)
        if default is None:
            default = names.index("default") if "default" in names else 0
        chosen = configs[default if self.subset is None else names.index(self.subset)]
        inside = PurePosixPath(chosen.get("data_dir") or "")
        return [str(inside / each) for each in _patterns(chosen.get("data_files") or "*.parquet")]

    def fetch(self, file: File, folder: Path) -> Path:
        """Downloads one of them.

        Raises:
          UserError: it cannot be had, or its checksum is another than the hub's.
        """
        from huggingface_hub import hf_hub_download

        path = folder / file.name
        for attempt in range(TRIES):
            try:
                hf_hub_download(
                    self.name,
                    file.name,
                    repo_type="dataset",
                    revision=self._revision,
                    local_dir=folder,
                    endpoint=self.endpoint,
                )
                break
            except Exception as error:
                if attempt + 1 == TRIES:
                    raise UserError(
                        f"{self.where}: {file.name}: {one_line(error)}; {AGAIN}"
                    ) from error
                time.sleep(download.PAUSE * 2**attempt)
        if file.checksum and (found := _sha256(path)) != file.checksum:
            path.unlink()
            raise UserError(
                f"{path}: expected {file.checksum}, found {found}; it is deleted, and the same "
                "command downloads it again"
            )
        return path


def trees_of(tables: Sequence[Path]) -> list[str]:
    """The published trees whose votes Parquet tables hold, that of the most votes first.

    Trees whose own names are there go before others, which the names fit without their suffix, or
    with that of another campaign; of these only the best is taken.

    Raises:
      UserError: none fits.
    """
    header = list(dict.fromkeys(name for table in tables for name in column_names(table)))
    own: list[tuple[int, float, str]] = []
    others: list[tuple[int, str]] = []
    for name in trees.NAMES:
        tree = trees.load(name)
        try:
            found = find_columns(header, tree, "auto", tables[0])
        except UserError:
            continue
        if names := {*filter(None, tree.survey_columns)}.intersection(header):
            own.append((len(names), _votes(tables, found.answers), name))
        else:
            others.append((len(found.there(tree)), name))
    if not own and not others:
        raise UserError(f"{tables[0]}: expected votes of one of {', '.join(trees.NAMES)}")
    if not own:
        return [max(others)[1]]
    # A campaign whose names another one shares is not there beside it.
    most = max(count for count, _, _ in own)
    whole = [each for each in own if each[0] > most / 2]
    return [name for _, _, name in sorted(whole, key=lambda each: each[:2], reverse=True)]


def _votes(tables: Sequence[Path], answers: Sequence[str | None]) -> float:
    """Sum of the columns of some answers over Parquet tables."""
    names = {*filter(None, answers)}
    read = (pq.read_table(each, columns=sorted(names & {*column_names(each)})) for each in tables)
    return sum(float(table.to_pandas().sum().sum()) for table in read)


def _file(entry: Any) -> File:
    checksum = f"sha256:{entry.lfs.sha256}" if entry.lfs else ""
    return File(entry.rfilename, entry.size, checksum)


def _patterns(files: Any) -> Iterable[str]:
    """The patterns in a card: a text, a list of them, or a list of `{split, path}`."""
    if isinstance(files, str):
        yield files
    elif isinstance(files, Mapping):
        yield from _patterns(files.get("path") or [])
    else:
        for each in files:
            yield from _patterns(each)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
