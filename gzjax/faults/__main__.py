"""Faults on purpose: each ends in the same result, or in one clear line and nothing lost.

    launch/faults [--quick] [--only killed,images] [--seed 1] [--write docs/reliability.md]

Everything random follows from the seed. A campaign takes an hour or more, a quick one minutes; the
kind `long` is left out unless it is named. The status is 1 if a promise was broken.
"""

import argparse
import datetime
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from gzjax import files
from gzjax.errors import UserError, one_line
from gzjax.faults import long, mistakes, people, training
from gzjax.faults.lab import Broken, Lab
from gzjax.run import command_line

MARK = "<!-- What follows is written by launch/faults. -->"
Kind = Callable[[Lab], str]
KINDS: dict[str, Kind] = {
    "killed": training.killed,
    "stopped": training.stopped,
    "workers": training.workers,
    "two": training.two,
    "full": training.full,
    "no-room": people.no_room,
    "read-only": training.read_only,
    "damaged": training.damaged,
    "clock": training.clock,
    "renames": training.renames,
    "images": people.images,
    "changing": people.changing,
    "results": people.results,
    "mistakes": mistakes.mistakes,
    "long": long.long,
}


class Outcome(NamedTuple):
    """How one kind of fault ended; `state` is kept, broken or skipped."""

    kind: str
    what: str
    state: str
    said: str
    seconds: float


def campaign(lab: Lab, kinds: Mapping[str, Kind], show: Callable[[str], object]) -> list[Outcome]:
    """Does the faults of some kinds, one after another."""
    outcomes = []
    for name, kind in kinds.items():
        show(f"faults: {name}")
        began = time.monotonic()
        try:
            state, said = "kept", kind(lab)
        except training.Skipped as reason:
            state, said = "skipped", str(reason)
        except Broken as broken:
            state, said = "broken", str(broken)
        what = one_line(kind.__doc__ or "")
        said = textwrap.shorten(said.replace(str(lab.folder), "FOLDER"), 200, placeholder=" ...")
        show(f"{state}: {said}")
        outcomes.append(Outcome(name, what, state, said, time.monotonic() - began))
    return outcomes


def page(outcomes: Sequence[Outcome], about: str) -> str:
    """The table of a campaign in Markdown."""
    rows = [["kind", "what is done", "promise", "how it ended"], ["---"] * 4]
    rows += [[each.kind, each.what, each.state, each.said.replace("|", "\\|")] for each in outcomes]
    return about + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
      UserError: a mistake in it.
    """
    parser = argparse.ArgumentParser(
        "launch/faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = command_line.fail  # type: ignore[method-assign]
    add = parser.add_argument
    add("--quick", action="store_true", help="a few faults of each kind")
    add("--only", default="", help=f"some of {', '.join(KINDS)}")
    add("--seed", type=int, default=0, help="of everything random")
    add("--workdir", type=command_line.path, help="folder to work in; default: a temporary one")
    add("--write", type=command_line.path, help="a page whose table is replaced")
    given = parser.parse_args(arguments)
    names = [name.strip() for name in given.only.split(",") if name.strip()]
    if unknown := set(names) - set(KINDS):
        raise UserError(f"--only: expected some of {', '.join(KINDS)}, found {', '.join(unknown)}")
    if given.write and not (given.write.is_file() and MARK in given.write.read_text()):
        raise UserError(f"--write {given.write}: expected a page with the line {MARK}")
    given.kinds = {name: KINDS[name] for name in names or KINDS if names or name != "long"}
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        command_line.fail(str(error))
    with tempfile.TemporaryDirectory(prefix="gzjax-faults-") as temporary:
        folder = given.workdir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lab = Lab(folder, given.seed, given.quick)
        try:
            outcomes = campaign(lab, given.kinds, _say)
        finally:
            lab.stop()
    table = Table("kind", "promise", "how it ended", "s")
    for each in outcomes:
        table.add_row(each.kind, each.state, each.said, f"{each.seconds:.0f}")
    Console(markup=False, emoji=False).print(table)
    if given.write:
        words = [word for word in (arguments or sys.argv[1:]) if not str(word).startswith("--w")]
        command = " ".join(["launch/faults", *map(str, words)]).replace(f" {given.write}", "")
        about = (
            f"`{command}`, {datetime.date.today():%d %B %Y}, Python {platform.python_version()}, "
            f"{sum(each.state == 'kept' for each in outcomes)} of {len(outcomes)} promises kept:"
        )
        before, _, _ = given.write.read_text().partition(MARK)
        files.write_text(given.write, f"{before}{MARK}\n\n{page(outcomes, about)}")
    if any(each.state == "broken" for each in outcomes):
        sys.exit(1)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
