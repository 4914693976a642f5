"""How fast everything is: `python -m gzjax.bench [SUBJECT ...]`.

    step      images/s of the train step; how near it comes to the machine's own peak
    input     images/s out of the pipeline alone, from the recipe's source and from a pack
    e2e       images/s of the real loop, and how long it waited for data
    predict   images/s of the network, of decoding, and of predicting JPEGs, against what bounds it
    augment   images/s of the random views
    start     seconds until the first step
    scaling   what devices exchange, with 1, 2, 4 and 8 of them
    peer      the same network in PyTorch, if it is there (tests/requirements-parity.txt)
    compile   programs for hardware you do not have (--topologies), and what bounds their speed

Without subjects: all but the last. Galaxies, views and optimiser are the recipe's (--config), by
default the synthetic sky's, so nothing has to be there. Figures are medians of --repeats after a
warm-up; what is compared is measured in turns.
"""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import absl.logging
import jax
from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

from gzjax import files
from gzjax.bench import compute, inference, peer, runs, timing, topologies
from gzjax.bench.plan import Plan, Row
from gzjax.errors import UserError, named
from gzjax.run import command_line, galaxies
from gzjax.run import config as configs

SUBJECTS: dict[str, Callable[[Plan], list[Row]]] = {
    "step": compute.measure_step,
    "input": runs.measure_input,
    "e2e": runs.measure_e2e,
    "predict": inference.measure_predict,
    "augment": compute.measure_augment,
    "start": runs.measure_start,
    "scaling": compute.measure_scaling,
    "peer": peer.measure_peer,
    "compile": topologies.measure_compiled,
}
NOTES = {"compile": topologies.NOTE}  # below their tables
WIDEST = 16  # figures beside each other in a table


def define_flags() -> None:
    """Defines the options of the command."""
    command_line.define_recipe()
    flags.DEFINE_list("models", [], "Networks to measure; default: the recipe's.")
    flags.DEFINE_list("sizes", [], "Pixels a side of what they see; default: the recipe's.")
    flags.DEFINE_list("batches", [], "Galaxies a batch; default: the recipe's.")
    flags.DEFINE_list("dtypes", [], "float32 or bfloat16; default: the recipe's.")
    flags.DEFINE_list("topologies", [], "What to compile for: v5e:2x2, v5e:16x16, h100, h100:8.")
    flags.DEFINE_integer("repeats", 7, "Of every measurement.", 1)
    flags.DEFINE_string("output", "", "A JSON file to write the figures to, too.")


def main(arguments: Sequence[str]) -> None:
    """Measures, prints tables, writes the figures."""
    absl.logging.set_verbosity(absl.logging.ERROR)
    # On a GPU, leaves the memory that is not needed to whom gzjax is compared with.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        run(arguments[1:], flags.FLAGS, command_line.recipe_name())
    except UserError as error:
        command_line.fail(str(error))


def run(subjects: Sequence[str], options: Any, recipe: str) -> None:
    """Measures subjects, one after the other; all of them, if none is given.

    Args:
      subjects: of `SUBJECTS`.
      options: values of the flags.
      recipe: name of the recipe.

    Raises:
      UserError: a mistake in any of these.
    """
    unknown = [name for name in subjects if name not in SUBJECTS]
    if unknown:
        raise UserError(f"expected some of {', '.join(SUBJECTS)}; found {', '.join(unknown)}")
    output = command_line.path(options.output) if options.output else None
    if output and not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no such folder to write to")
    plan = plan_of(options)
    if plan.topologies:
        topologies.use_no_device()
    machine = {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cores": timing.cores(),
        "processor": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "recipe": recipe,
        "repeats": plan.repeats,
        "command": f"python -m gzjax.bench {' '.join(sys.argv[1:])}",
    }
    console = Console()
    if not console.is_terminal:
        console = Console(width=132)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)
    figures: dict[str, Any] = {"machine": machine}
    for name in subjects or [name for name in SUBJECTS if name != "compile"]:
        try:
            figures[name] = SUBJECTS[name](plan)
        except peer.Missing as error:
            console.print(f"peer: nothing to compare with ({error})", markup=False)
            continue
        console.print(table(name, figures[name]))
        if name in NOTES:
            console.print(NOTES[name], markup=False, highlight=False)
        if output:
            files.write_json(output, figures)


def plan_of(options: Any) -> Plan:
    """What the flags say is to be measured.

    Raises:
      UserError: a mistake in the flags or in the recipe.
    """
    config = options.config
    recipe = configs.typed(config)
    tree = galaxies.load_tree(recipe.data)
    with named("--config.loss."):
        recipe.loss.check_tree(tree)
    plan = Plan(
        config=config,
        models=options.models or [config.model.name],
        sizes=whole_numbers("sizes", options.sizes) or [config.model.image_size],
        batches=whole_numbers("batches", options.batches) or [config.batch_size],
        dtypes=options.dtypes or [config.model.dtype],
        tree=tree,
        cache=files.cache_folder(),
        repeats=options.repeats,
        topologies=options.topologies,
    )
    list(plan.combinations())  # says what is not allowed
    return plan


def whole_numbers(name: str, values: Sequence[str]) -> list[int]:
    """A list of whole numbers from the command line.

    Raises:
      UserError: something else.
    """
    try:
        return [int(value) for value in values]
    except ValueError:
        raise UserError(f"--{name}: expected whole numbers, found {','.join(values)}") from None


def table(title: str, rows: Sequence[Row]) -> Table:
    """Rows as a table to print; many figures below each other, a column for each row."""
    lines = [list(rows[0]), *(list(map(cell, row.values())) for row in rows)]
    if len(rows[0]) > WIDEST:
        lines = [list(line) for line in zip(*lines, strict=True)]
    shown = Table(*lines[0], title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for line in lines[1:]:
        shown.add_row(*line)
    return shown


def cell(value: Any) -> str:
    """A figure as people read it: three significant digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=command_line.parse)
