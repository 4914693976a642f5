"""Downloads published Galaxy Zoo data: `launch/data NAME`, or `python -m gzjax.at_hand NAME`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from gzjax.at_hand import registry
from gzjax.at_hand.command import Options, run
from gzjax.errors import UserError
from gzjax.run import command_line


def main(arguments: Sequence[str] | None = None) -> None:
    """Downloads published Galaxy Zoo data, and says how to train on it."""
    parser = argparse.ArgumentParser(prog="launch/data", description=main.__doc__)
    parser.add_argument("name", nargs="?", help="what --list shows, or hf:owner/name")
    parser.add_argument("--list", action="store_true", help="show what there is")
    parser.add_argument("--output", type=Path, help="the folder; otherwise data/NAME")
    parser.add_argument("--files", nargs="+", default=(), help="patterns, instead of what trains")
    parser.add_argument("--subset", help="of a set on the hub, such as tiny")
    parser.add_argument("--dry-run", action="store_true", help="show sizes and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask before downloading")
    options = vars(parser.parse_args(arguments))
    if options.pop("list"):
        print(listing())
        return
    with command_line.ended_in_one_line():
        if options["name"] is None:
            raise UserError(f"expected one of {', '.join(registry.SETS)}, hf:owner/name, or --list")
        if options["output"] is not None:
            options["output"] = options["output"].expanduser()
        run(Options(**options))


def listing() -> str:
    """The sets, a line each."""
    lines = [f"{name:10} {each.title}" for name, each in registry.SETS.items()]
    return "\n".join([*lines, f"{'hf:...':10} any set of Parquet files on the Hugging Face hub"])


if __name__ == "__main__":
    main()
