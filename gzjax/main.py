"""The front door: `python -m gzjax.main --config configs/sky.py`.

    --mode train      trains, or goes on training, and tests at the end (the default)
    --mode evaluate   tests the best checkpoint of --workdir again, or of several together
    --mode predict    writes the vote fractions of --images into the table --output
    --mode pack       decodes all galaxies once, into the folder --pack

Every option of the config can be overridden: --config.optim.learning_rate=3e-4
"""

import errno
import logging
import sys
from pathlib import Path

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from gzjax import command_line
from gzjax.errors import UserError

MIXTURES = ("uniform", "fitted")
MODES = ("train", "evaluate", "predict", "pack")

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "configs" / "sky.py"

command_line.define_recipe(DEFAULT_RECIPE)
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_list(
    "workdir",
    [],
    "Folder of the run; default: runs/ and the recipe's name. Evaluation and prediction take "
    "several, separated by commas, and mix what they predict.",
)
flags.DEFINE_enum("mixture", "uniform", MIXTURES, "Weights of several runs; fitted on validation.")
flags.DEFINE_enum("split", "test", ("train", "validation", "test"), "What to evaluate on.")
flags.DEFINE_multi_integer(
    "views", [], "How many views to average; several times: each. Default: the recipe's.", 1
)
flags.DEFINE_string(
    "images", "", "To predict: a folder, a pattern in quotes, or a CSV or Parquet table of paths."
)
flags.DEFINE_string("output", "", "The predictions: a CSV or Parquet file to write.")
flags.DEFINE_bool("readable", False, "Adds columns to them that say in words what is likely.")
flags.DEFINE_string("pack", "", "Folder of the pack that is written.")
flags.DEFINE_bool("check_images", False, "Decode every image once, before anything else.")
flags.DEFINE_string(
    "cache",
    "",
    "Folder for rendered skies and compiled programs; default: the user's cache folder.",
)
flags.DEFINE_bool(
    "distributed", False, "One of several processes of one run (SLURM, a TPU pod, MPI)."
)


def run() -> None:
    """Does what the flags say."""
    # Here, so that --help and a misspelt option need not wait for it.
    import jax

    from gzjax import runs, trained

    cache = Path(flags.FLAGS.cache or command_line.cache_folder())
    jax.config.update("jax_compilation_cache_dir", str(cache / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if flags.FLAGS.distributed:
        jax.distributed.initialize()

    recipe = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdirs = [Path(folder) for folder in flags.FLAGS.workdir] or [Path("runs") / recipe]
    if flags.FLAGS.mode == "train":
        if len(workdirs) > 1:
            raise UserError(f"--workdir: expected one folder to train in, found {len(workdirs)}")
        runs.run_training(flags.FLAGS.config, workdirs[0], cache, flags.FLAGS.check_images)
        return
    if flags.FLAGS.mode == "pack":
        if not flags.FLAGS.pack:
            raise UserError("--pack: expected the folder to write the pack to")
        folder = Path(flags.FLAGS.pack)
        runs.run_packing(flags.FLAGS.config, folder, cache, flags.FLAGS.check_images)
        return
    overrides = config_flags.get_override_values(flags.FLAGS["config"])
    if flags.FLAGS.mode == "predict":
        for name in ("images", "output"):
            if not flags.FLAGS[name].value:
                raise UserError(f"--mode predict: expected --{name}, too")
        trained.run_prediction(
            overrides,
            workdirs,
            cache,
            flags.FLAGS.images,
            Path(flags.FLAGS.output),
            flags.FLAGS.views,
            flags.FLAGS.mixture,
            flags.FLAGS.readable,
        )
    else:
        trained.run_evaluation(
            overrides,
            workdirs,
            cache,
            flags.FLAGS.split,
            flags.FLAGS.views,
            flags.FLAGS.mixture,
            flags.FLAGS.check_images,
        )


def main(arguments: list[str]) -> None:
    """Entry point for absl: tells the user's mistakes in one line."""
    if len(arguments) > 1:
        command_line.fail(f"expected flags alone, found {' '.join(arguments[1:])}")
    if not flags.FLAGS["verbosity"].present:
        # orbax tells every step of every save; what gzjax itself has to say is heard.
        absl.logging.set_verbosity(absl.logging.ERROR)
        logging.getLogger("gzjax").setLevel(logging.WARNING)
    try:
        run()
    except UserError as error:
        command_line.fail(str(error))
    except KeyboardInterrupt:
        print("gzjax: interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # A folder that cannot be written; a fault of ours has no file's name, nor has a full disk.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        command_line.fail(f"{error.filename or 'writing'}: {error.strerror}")


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
