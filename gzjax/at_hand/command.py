"""`launch/data NAME`: says what there is, fetches, unpacks and joins it, and how to train on it."""

import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from gzjax import __version__
from gzjax.at_hand import registry
from gzjax.at_hand.competition import Competition
from gzjax.at_hand.download import AGAIN, File, Offer, part_of
from gzjax.at_hand.hub import Hub, trees_of
from gzjax.at_hand.join import join
from gzjax.at_hand.registry import HUB, Published
from gzjax.at_hand.unpack import unpack, unpacked_size
from gzjax.at_hand.zenodo import Web
from gzjax.errors import UserError
from gzjax.files import locked, read_json, write_json

MANIFEST = "manifest.json"
# Files of images shrink little in an archive, and take whole blocks outside it.
UNPACKED = 1.2
SPARE = 2**28  # bytes that should be left on the disk


class Source(Protocol):
    """Where files come from."""

    def offer(self) -> Offer:
        """What there is."""

    def fetch(self, file: File, folder: Path) -> Path:
        """Downloads one file."""


class Options(NamedTuple):
    """What the command line says; see `gzjax.at_hand.__main__`."""

    name: str
    output: Path | None = None
    files: Sequence[str] = ()
    subset: str | None = None
    dry_run: bool = False
    yes: bool = False


def run(options: Options) -> None:
    """Downloads a set.

    Raises:
      UserError: no such set, no space, or something that cannot be had.
    """
    published, source = find(options)
    offer = source.offer()
    folder = options.output or default_folder(options)
    kept = read_json(folder / MANIFEST).get("files", {})
    missing = [file for file in offer.files if not is_there(file, kept, folder)]
    print(about(published, offer, folder, missing))
    need = space(missing, folder)
    if options.dry_run:
        return
    check_space(folder, need)
    if missing and not options.yes:
        confirm(sum(file.size or 0 for file in missing), folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        for file in missing:
            entry = get(source, file, folder)
            note(folder, options.name, published, offer, file, entry)
            discard(entry, file, folder)
        print(finish(options, published, offer, folder))


def find(options: Options) -> tuple[Published, Source]:
    """What a name stands for.

    Raises:
      UserError: nothing.
    """
    name = options.name
    if name.startswith(HUB):
        owner = name.removeprefix(HUB)
        return Published(title=f"{owner} on the Hugging Face hub", citation=""), Hub(
            owner, options.files, options.subset
        )
    if options.subset is not None:
        raise UserError(f"--subset: only sets on the hub have subsets, found {name}")
    if name not in registry.SETS:
        raise UserError(f"expected one of {', '.join(registry.SETS)}, hf:owner/name; found {name}")
    published = registry.SETS[name]
    kind = Competition if published.kaggle else Web
    return published, kind(published, options.files)


def default_folder(options: Options) -> Path:
    """`data/` and the name of the set."""
    parts = options.name.removeprefix(HUB).split("/")
    return Path("data") / "-".join([*parts, *filter(None, [options.subset])])


def is_there(file: File, kept: dict[str, Any], folder: Path) -> bool:
    """Whether a file of this version has come, and is still there or unpacked."""
    entry = kept.get(file.name)
    return (
        isinstance(entry, dict)
        and (entry.get("published_size"), entry.get("checksum")) == (file.size, file.checksum)
        and (folder / str(entry.get("at"))).exists()
    )


def about(published: Published, offer: Offer, folder: Path, missing: Sequence[File]) -> str:
    """What will be downloaded, for people."""
    lines = [published.title, f"licence: {offer.licence}", f"cite: {offer.citation}"]
    for file in offer.files:
        size = "size not published" if file.size is None else bytes_text(file.size)
        there = "" if file in missing else ", is there"
        lines.append(f"  {file.name}: {size}, {file.checksum or 'no checksum published'}{there}")
    return "\n".join([*lines, f"folder: {folder}"])


def bytes_text(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:  # which three digits round to 1000
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def is_archive(name: str | Path) -> bool:
    """Whether a file will be unpacked."""
    return str(name).lower().endswith(".zip")


def space(missing: Sequence[File], folder: Path) -> int:
    """Bytes that the rest of the files needs, unpacked ones beside their archives."""
    need = 0
    for file in missing:
        size, path = file.size or 0, folder / file.name
        for have in (path, part_of(path)):
            need -= min(have.stat().st_size if have.exists() else 0, size)
        need += size + (int(UNPACKED * size) if is_archive(file.name) else 0)
    return max(need, 0)


def check_space(folder: Path, need: int) -> None:
    """Checks the disk.

    Raises:
      UserError: it has less room.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
    if need and free < need + SPARE:
        raise UserError(
            f"{folder}: expected {bytes_text(need + SPARE)} of free space, found "
            f"{bytes_text(free)}; name a folder on another disk in --output"
        )


def confirm(size: int, folder: Path) -> None:
    """Asks whether to download.

    Raises:
      UserError: no, or nobody is there to answer.
    """
    try:
        answer = input(f"download {bytes_text(size)} into {folder}? [y/N] ")
    except EOFError:
        raise UserError("nobody is there to answer: say --yes") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("nothing was downloaded")


def get(source: Source, file: File, folder: Path) -> dict[str, Any]:
    """Downloads and unpacks a file; what the manifest says of it."""
    path = source.fetch(file, folder)
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise UserError(f"{path}: expected {file.size:,} bytes, found {size:,}; {AGAIN}")
    at = path
    if is_archive(path):
        check_space(folder, unpacked_size(path))
        print(f"unpacking {path}")
        at = unpack(path)
    return {
        "url": file.url,
        "published_size": file.size,
        "size": size,
        "checksum": file.checksum,
        "at": at.relative_to(folder).as_posix(),
        "downloaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def note(
    folder: Path, name: str, published: Published, offer: Offer, file: File, entry: dict[str, Any]
) -> None:
    """Adds a file to the manifest."""
    kept = read_json(folder / MANIFEST).get("files", {})
    content = {
        "set": name,
        "title": published.title,
        "licence": offer.licence,
        "citation": offer.citation,
        "gzjax": __version__,
        "files": {**kept, file.name: entry},
    }
    write_json(folder / MANIFEST, content)


def discard(entry: dict[str, Any], file: File, folder: Path) -> None:
    """Deletes an archive that is unpacked, once the manifest says so."""
    if entry["at"] != file.name:
        (folder / file.name).unlink(missing_ok=True)


def finish(options: Options, published: Published, offer: Offer, folder: Path) -> str:
    """Joins what came; how to train on it, for people."""
    lines, chosen = [], published.options
    if options.name.startswith(HUB):
        tables = [folder / file.name for file in offer.files]
        tree, *others = trees_of(tables)
        chosen = f"--config decals --config.data.tree={tree}"
        if others:
            lines.append(f"Other votes there, for --config.data.tree: {', '.join(others)}")
    elif options.files:
        return f"These files are in {folder}."
    if published.table:
        joined = join(published.table, folder)
        chosen = chosen.format(table=joined.name)
        lines.append(
            f"{folder / joined.name}: {joined.galaxies:,} galaxies with votes and image; "
            f"{joined.without_image:,} with votes have no image"
        )
    if published.lacking:
        lines.append(published.lacking)
    run = shlex.quote(str(Path("runs") / folder.name))
    root = shlex.quote(f"--config.data.root={folder}")
    program = "launch/run" if Path("launch/run").is_file() else "gzjax"  # of a package
    lines += ["Train on it:", f"{program} {chosen} {root} --workdir {run}"]
    return "\n".join(lines)
