"""The command line: `gzjax --config sky`, or `python -m gzjax.main --config configs/sky.py`.

    --mode train      trains, or resumes training, and tests at the end (the default)
    --mode show       says what would be trained, and what a step costs; trains nothing
    --mode evaluate   tests the best checkpoint of --workdir again, or of several together
    --mode report     writes the page of a run again, WORKDIR/report.html
    --mode predict    writes the vote fractions of --images into the table --output
    --mode embed      writes the network's features of --images into the Parquet file --output
    --mode similar    writes the galaxies of --embeddings that are most similar to --query
    --mode anomalies  writes how far each galaxy of --embeddings is from the others
    --mode explore    writes a page to look through --predictions
    --mode export     writes the model of a run into the folder --output, for others to use
    --mode pack       decodes all galaxies once, into the folder --pack

Every option of the config can be overridden: --config.optim.learning_rate=3e-4
"""

import inspect
import logging
import shlex
import signal
import sys
import warnings
from typing import Any

import absl.logging
from absl import app, flags

from gzjax import files
from gzjax.errors import UserError
from gzjax.run import command_line

# What can be done, and the flags that it needs.
MODES: dict[str, tuple[str, ...]] = {
    "train": (),
    "show": (),
    "evaluate": (),
    "report": (),
    "predict": ("images", "output", "workdir"),
    "embed": ("images", "output", "workdir"),
    "similar": ("query", "embeddings", "output"),
    "anomalies": ("embeddings", "output"),
    "explore": ("predictions", "output"),
    "export": ("output", "workdir"),
    "pack": ("pack",),
}
# Flags that act in some modes alone; in another they are refused.
ONLY: dict[str, tuple[str, ...]] = {
    "workdir": tuple(mode for mode in MODES if mode not in ("anomalies", "pack")),
    "images": ("predict", "embed", "explore"),
    "output": ("predict", "embed", "similar", "anomalies", "explore", "export"),
    "views": ("evaluate", "predict", "embed", "export"),
    "mixture": ("evaluate", "predict"),
    "split": ("evaluate",),
    "embeddings": ("similar", "anomalies", "explore"),
    "predictions": ("explore",),
    "map": ("explore",),
    "galaxies": ("explore",),
    "query": ("similar",),
    "k": ("similar", "anomalies"),
    "readable": ("predict",),
    "columns": ("predict",),
    "volunteers": ("predict",),
    "campaigns": ("predict",),
    "part": ("predict", "embed", "pack"),
    "worker_cores": ("predict", "embed", "pack"),
    "range": ("predict", "embed"),
    "engine": ("predict", "embed", "pack"),
    "profile": ("train",),
    "check_images": ("train", "show", "evaluate", "report", "pack"),
    "pack": ("pack",),
}

command_line.define_recipe()
flags.DEFINE_enum("mode", "train", list(MODES), "What to do.")
flags.DEFINE_list(
    "workdir",
    [],
    "Folder of the run; to train, show, report or evaluate runs/ and the recipe's name if there is "
    "none. Evaluation and prediction take several, separated by commas, and mix what they predict.",
)
flags.DEFINE_enum(
    "mixture", "uniform", ("uniform", "fitted"), "Weights of several runs; fitted on validation."
)
flags.DEFINE_enum("split", "test", ("train", "validation", "test"), "What to evaluate on.")
flags.DEFINE_multi_integer(
    "views",
    [],
    "Test-time views to average; evaluate takes it several times. Default: the recipe's; to "
    "evaluate, also 1.",
    1,
)
flags.DEFINE_string(
    "images",
    "",
    "To predict or embed: a folder, a pack, an image, a pattern in quotes, a CSV or Parquet table "
    "of paths, or a URL of one of these.",
)
flags.DEFINE_string(
    "output",
    "",
    "Where to write: predictions, similar galaxies and anomalies as CSV or Parquet, predictions "
    "also as a folder of parts; embeddings as Parquet; explore as HTML; export as a folder.",
)
flags.DEFINE_string("embeddings", "", "Embeddings written by --mode embed.")
flags.DEFINE_string("predictions", "", "Predictions written by --mode predict.")
flags.DEFINE_enum("map", "pca", ("pca", "umap"), "How embeddings become a map to explore.")
flags.DEFINE_integer(
    "galaxies", None, "At most this many galaxies to explore; a random sample if there are more.", 1
)
flags.DEFINE_string("query", "", "Which galaxy to compare with others: a GalaxyID or an image.")
flags.DEFINE_integer(
    "k", 50, "How many similar galaxies; anomalies score the distance to the k-th nearest.", 1
)
flags.DEFINE_bool(
    "readable", False, "Adds columns to predictions that say in words what is likely."
)
flags.DEFINE_enum(
    "columns",
    "",
    ("", "challenge", "survey", "both"),
    "Columns of predictions: `challenge`, the tree's own, cumulative fractions; `survey`, "
    "QUESTION_ANSWER_fraction and 90 % intervals; or `both`, the default for models trained by "
    "likelihood.",
)
flags.DEFINE_integer(
    "volunteers",
    None,
    "Intervals for what this many volunteers would say, not for the underlying fractions.",
    1,
)
flags.DEFINE_list(
    "campaigns", [], "Campaigns to predict, if the tree has several, such as dr5,gz2."
)
flags.DEFINE_string(
    "part",
    "1/1",
    "This process's share of a prediction, embedding or pack: 2/8 is the second of eight.",
)
flags.DEFINE_enum(
    "engine",
    "",
    ("", "ray"),
    "Who predicts, embeds or packs: this process, or workers of Ray, here or in the cluster "
    "RAY_ADDRESS.",
)
flags.DEFINE_integer("worker_cores", 4, "CPU cores per Ray worker, without GPUs.", 1)
flags.DEFINE_integer("range", 4096, "Images predicted between two saves.", 1)
flags.DEFINE_string(
    "profile", "", "Training steps to trace into WORKDIR/profile: 10:15 are these six."
)
flags.DEFINE_string("pack", "", "Folder of the pack that is written.")
flags.DEFINE_bool("check_images", False, "Decode every image once, before anything else.")
flags.DEFINE_string(
    "cache",
    "",
    "Folder for rendered skies and compiled programs; default: the user's cache folder, where "
    "skies stay if this is a URL.",
)
flags.DEFINE_bool(
    "distributed", False, "One of several processes of one run (SLURM, a TPU pod, MPI)."
)


def run() -> None:
    """Does what the flags say."""
    # Here, so that --help need not wait for it.
    import jax

    from gzjax.run import commands
    from gzjax.run.report import Report

    given = flags.FLAGS
    check(given)
    cache = command_line.path(given.cache) if given.cache else files.cache_folder()
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if given.distributed:
        start_distributed()
    if given.engine:
        jax.config.update("jax_platforms", "cpu")  # GPUs are the workers'
    workdirs = given.workdir or [f"runs/{command_line.recipe_name()}"]
    call = commands.Call(
        flags=given,
        typed=shlex.join(["gzjax", *sys.argv[1:]]),
        workdirs=list(map(command_line.path, workdirs)),
        cache=cache,
        report=Report(loud=jax.process_index() == 0),
    )
    commands.COMMANDS[given.mode](call)


def check(given: flags.FlagValues) -> None:
    """Checks that what is to be done has its flags, and that each of them acts.

    Raises:
      UserError: a flag is missing, or would be without effect.
    """
    for name, modes in ONLY.items():
        if given[name].present and given.mode not in modes:
            expected = f"--mode {' or '.join(modes)}"
            raise UserError(f"--{name}: expected {expected}, found --mode {given.mode}")
    for name in MODES[given.mode]:
        if not given[name].value:
            raise UserError(f"--mode {given.mode} needs --{name}")
    if given["worker_cores"].present and not given.engine:
        raise UserError("--worker_cores: expected --engine ray, found none")
    if given["mixture"].present and len(given.workdir) < 2:
        raise UserError("--mixture: expected several runs in --workdir")
    if given.distributed and given.engine:
        raise UserError("--engine: expected no --distributed")
    if given.distributed and given["part"].present:
        raise UserError("--part: expected no --distributed, whose processes share the work")


def start_distributed() -> None:
    """Joins the other processes of the run.

    Raises:
      UserError: there are none.
    """
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--distributed: expected a process that SLURM, a TPU pod or MPI started, found none "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from None
    if jax.process_count() == 1:
        # jax catches SIGTERM for processes to agree when to stop; one alone does not ask it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(arguments: list[str]) -> None:
    """Entry point for absl: says the user's mistakes in one line."""
    if len(arguments) > 1:
        command_line.fail(f"expected flags alone, found {' '.join(arguments[1:])}")
    if not flags.FLAGS["verbosity"].present:
        # orbax logs every step of every save, and its errors with tracebacks, which come as
        # exceptions, too; what gzjax itself has to say is heard.
        absl.logging.set_verbosity(absl.logging.FATAL)
        logging.getLogger("gzjax").setLevel(logging.WARNING)
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it looks for fonts
    with command_line.ended_in_one_line():
        run()


def quiet_abandoned_work() -> None:
    """Keeps orbax's helpers silent about arrays that nobody waits for any more.

    When one array of a checkpoint cannot be read or written, tensorstore's threads still report
    each of the others to an event loop that is closed, and coroutines that read the others fail
    when nobody waits for them, each with a traceback; the failure itself comes as an exception, and
    is said in one line.
    """
    report = sys.unraisablehook

    def report_others(unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not inspect.iscoroutine(unraisable.object):
            report(unraisable)

    sys.unraisablehook = report_others
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def entry() -> None:
    """The command `gzjax`."""
    # Of an installed command absl's --help looks for the flags of its script, which has none.
    for flag in (flags.FLAGS["config"], *flags.FLAGS.get_flags_for_module(__name__)):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    sys.modules["__main__"].__doc__ = __doc__
    quiet_abandoned_work()
    app.run(main, flags_parser=command_line.parse)


if __name__ == "__main__":
    entry()
