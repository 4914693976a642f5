"""What each choice of the recipe is worth: trains every variant, and writes the table.

    launch/ablation --data FOLDER --workdir runs/ablation --report docs/ablation.md [OPTION=VALUE]

FOLDER is in the challenge's layout; options, such as data.on_device=True or data.extra=OTHER, are
set for all runs. Every run resumes where it was interrupted, and finished ones are not repeated, so
the same command may be given as often as it takes. With several devices, give each a part of the
runs (--share 1/8 to --share 8/8), then write the page with --only_report.

    launch/ablation --compare runs/one,runs/another

says how runs that held out the same galaxies differ, galaxy by galaxy, and trains nothing.
"""

import argparse
import ast
import csv
import sys
from collections.abc import Sequence

from gzjax.bench.ablation import held_out, page
from gzjax.bench.ablation.runs import (
    VIEWS,
    Run,
    count_training_galaxies,
    planned_runs,
    recipe_with,
    train,
    variants,
)
from gzjax.errors import UserError
from gzjax.run import command_line


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; its `options` become {option: value} for all runs.

    Raises:
      UserError: a mistake in it.
    """
    parser = argparse.ArgumentParser(
        "launch/ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = command_line.fail  # type: ignore[method-assign]
    add = parser.add_argument
    add("--data", help="folder of real galaxies in the challenge's layout")
    add("--workdir", type=command_line.path, default="runs/ablation", help="folder for all runs")
    add("--report", type=command_line.path, default="docs/ablation.md", help="the page to write")
    add("--seeds", type=int, default=3, help="how many times each variant is trained")
    add("--image_size", type=int, default=160, help="pixels a side of what the network sees")
    add("--epochs", type=int, default=24, help="passes over all training galaxies")
    add("--only", default="", help="variants and numbers of galaxies to train; default: all")
    add("--share", default="1/1", help="which runs to do: 2/8 is the second of eight parts")
    add("--only_report", action="store_true", help="train nothing; write of what there is")
    add("--compare", default="", help="workdirs of finished runs, separated by commas")
    add("options", nargs="*", metavar="OPTION=VALUE", help="for all runs")
    given = parser.parse_intermixed_args(arguments)
    given.compare = [command_line.path(name) for name in given.compare.split(",") if name]
    if given.compare:
        return given
    if not given.data:
        raise UserError("expected --data, the folder with the table and images of galaxies")
    given.share = command_line.share(given.share, "--share")
    if given.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, found {given.seeds}")
    if not given.report.parent.is_dir():
        raise UserError(f"--report {given.report}: there is no such folder to write to")
    common = {
        "data.root": given.data,
        "model.image_size": given.image_size,
        "epochs": given.epochs,
        "evaluate.views": VIEWS,
        "evaluate.every": max(1, given.epochs // 2),
    }
    for option in given.options:
        name, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"expected OPTION=VALUE, found {option}")
        try:
            common[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):  # a word
            common[name] = value
    if common["evaluate.views"] != VIEWS:
        raise UserError(f"evaluate.views: the table is of {VIEWS} views")
    given.options = common
    # A variant's name may have commas, in quotes.
    given.only = [
        name.strip() for row in csv.reader([given.only], skipinitialspace=True) for name in row
    ]
    return given


def ablate(arguments: Sequence[str]) -> None:
    """Trains what is not trained yet, then writes the page.

    Raises:
      UserError: a mistake in the command line, or a run that failed.
    """
    given = parse(arguments)
    if given.compare:
        print("\n".join(held_out.compare(given.compare, VIEWS)))
        return
    config = recipe_with(given.options)
    galaxies = count_training_galaxies(config)
    runs = planned_runs(given.options, config, given.seeds, galaxies, given.workdir)
    if unknown := set(given.only) - {run.name for run in runs}:
        raise UserError(f"--only: there is no variant {', '.join(sorted(unknown))}")
    if not given.only_report:
        part, parts = given.share
        chosen = [run for run in runs if not given.only or run.name in given.only]
        for run in chosen[part - 1 :: parts]:
            train(run)
        if parts > 1:
            return
    kinds = {name: kind for name, (kind, _) in variants(given.options).items()}
    command = " ".join(argument for argument in arguments if argument != "--only_report")
    written = page.write_page(
        runs, kinds, predictions_of(runs), f"Command: `launch/ablation {command}`"
    )
    page.update(given.report, written)


def predictions_of(runs: Sequence[Run]) -> dict[str, dict[int, held_out.HeldOut]]:
    """{variant: {seed: what a finished run predicts for the held-out galaxies}}."""
    found: dict[str, dict[int, held_out.HeldOut]] = {}
    for run in runs:
        if run.results():
            found.setdefault(run.name, {})[run.seed] = held_out.read(run.workdir, VIEWS)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; says mistakes in one line."""
    with command_line.ended_in_one_line():
        ablate(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
