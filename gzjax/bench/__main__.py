"""How fast everything is: `python -m gzjax.bench [SUBJECT ...]`.

    step      images/s of the train step; how near it comes to the machine's own peak
    input     images/s out of the pipeline alone, from the recipe's source and from a pack
    e2e       images/s of the real loop, and how long it waited for data
    predict   images/s with one view and with sixteen
    augment   images/s of the random views
    start     seconds until the first step
    scaling   what devices tell each other, with 1, 2, 4 and 8 of them
    peer      the same network in PyTorch, if it is there (tests/requirements-parity.txt)

Without subjects: all. Galaxies, views and optimiser are the recipe's (--config), by default the
synthetic sky's, so nothing has to be there. Figures are medians of --repeats after a warm-up; what
is compared is measured in turns.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from gzjax import command_line
from gzjax.bench import SUBJECTS
from gzjax.errors import UserError

RECIPE = Path(__file__).resolve().parent.parent.parent / "configs" / "sky.py"

command_line.define_recipe(RECIPE)
flags.DEFINE_list("models", [], "Networks to measure; default: the recipe's.")
flags.DEFINE_list("sizes", [], "Pixels a side of what they see; default: the recipe's.")
flags.DEFINE_list("batches", [], "Galaxies a batch; default: the recipe's.")
flags.DEFINE_list("dtypes", [], "float32 or bfloat16; default: the recipe's.")
flags.DEFINE_integer("repeats", 7, "Of every measurement.", 1)
flags.DEFINE_string("output", "", "A JSON file to write the figures to, too.")


def main(arguments: Sequence[str]) -> None:
    """Measures, prints tables, writes the figures."""
    options = flags.FLAGS
    chosen = arguments[1:] or SUBJECTS
    unknown = [name for name in chosen if name not in SUBJECTS]
    absl.logging.set_verbosity(absl.logging.ERROR)
    # On a GPU, leaves the memory that is not needed to whom gzjax is compared with.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        if unknown:
            raise UserError(f"expected some of {', '.join(SUBJECTS)}; found {', '.join(unknown)}")
        if options.output and not Path(options.output).parent.is_dir():
            raise UserError(f"--output {options.output}: there is no such folder to write to")
        run(chosen, options)
    except UserError as error:
        command_line.fail(str(error))


def run(chosen: Sequence[str], options: Any) -> None:
    """Measures the chosen subjects, one after the other."""
    import jax
    from rich.console import Console

    from gzjax import config as configs
    from gzjax.bench import peer, subjects, timing

    config = options.config
    configs.check(config)
    sizes, batches = (
        whole_numbers(options, name, default)
        for name, default in (("sizes", config.model.image_size), ("batches", config.batch_size))
    )
    settings = subjects.Settings(
        config=config,
        models=options.models or [config.model.name],
        sizes=sizes,
        batches=batches,
        dtypes=options.dtypes or [config.model.dtype],
        cache=command_line.cache_folder(),
        repeats=options.repeats,
    )
    for combination in subjects.combinations(settings):
        configs.check(combination)
    recipe = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name
    machine = {
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "cores": timing.cores(),
        "processor": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "recipe": recipe,
        "repeats": options.repeats,
        "command": f"python -m gzjax.bench {' '.join(sys.argv[1:])}",
    }
    console = Console()
    if not console.is_terminal:
        console = Console(width=132)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)
    measure: dict[str, Callable[[subjects.Settings], list[subjects.Row]]] = {
        name: getattr(subjects, f"measure_{name}") for name in SUBJECTS if name != "peer"
    }
    measure["peer"] = peer.measure_peer
    figures: dict[str, Any] = {"machine": machine}
    for name in chosen:
        try:
            figures[name] = measure[name](settings)
        except peer.Missing as error:
            console.print(f"peer: nothing to compare with ({error})", markup=False)
            continue
        console.print(table(name, figures[name]))
        if options.output:
            Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def whole_numbers(options: Any, name: str, default: int) -> list[int]:
    """A list of whole numbers from the command line.

    Raises:
      UserError: something else.
    """
    try:
        return [int(value) for value in options[name].value] or [default]
    except ValueError:
        raise UserError(f"--{name}: expected whole numbers, found {options[name].value}") from None


def table(title: str, rows: Sequence[dict[str, Any]]) -> Any:
    """Rows as a table to print."""
    from rich import box
    from rich.table import Table

    shown = Table(*rows[0], title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for row in rows:
        shown.add_row(*map(cell, row.values()))
    return shown


def cell(value: Any) -> str:
    """A figure as people read it: three digits that matter."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
