"""What each `--mode` of the command line does with its flags."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pandas as pd
from absl.flags import FlagValues

from gzjax import remote, tree
from gzjax.data.embeddings import read_ids
from gzjax.errors import UserError
from gzjax.run import (
    command_line,
    embed,
    evaluate,
    explore,
    export,
    exported,
    pack,
    page,
    parts,
    predict,
    recorder,
    show,
    train,
)
from gzjax.run.opened import describe_run, load, load_data
from gzjax.run.parts import Engine
from gzjax.run.prediction_columns import Wanted
from gzjax.run.report import Report


class Call(NamedTuple):
    """How a command was called.

    flags: as they were given.
    typed: the whole command line.
    workdirs: the runs that it is about, one or several.
    cache: folder for rendered skies.
    report: shows what happens.
    """

    flags: FlagValues
    typed: str
    workdirs: list[Path]
    cache: Path
    report: Report

    @property
    def data_options(self) -> dict[str, Any]:
        """How galaxies are read."""
        return {
            "cache": self.cache,
            "check_images": self.flags.check_images,
            "report": self.report,
        }

    @property
    def views(self) -> int | None:
        """How many views are averaged; None: as many as the recipe says.

        Raises:
          UserError: several numbers, where there is one output.
        """
        views = self.flags.views
        if len(views) > 1:
            raise UserError(f"--views: expected one number to predict with, found {len(views)}")
        return views[0] if views else None

    def workdir(self, what: str, local: bool = False) -> Path:
        """The only workdir.

        Args:
          what: it is expected to be, such as `run to export`.
          local: whether it has to be a local folder.

        Raises:
          UserError: there are several, or it is elsewhere.
        """
        workdir, *others = self.workdirs
        if local and remote.is_remote(workdir):
            mode = self.flags.mode
            raise UserError(f"--workdir {workdir}: --mode {mode} expects a local folder")
        if others:
            raise UserError(f"--workdir: expected one {what}, found {len(self.workdirs)}")
        return workdir

    def path(self, flag: str, *suffixes: str) -> Path:
        """The path that a flag names, with one of these suffixes; any, if there are none.

        Raises:
          UserError: it has another one, or the output is there already.
        """
        path = command_line.path(str(self.flags[flag].value))
        if suffixes:
            parts.check_output(path, suffixes, self.share())
        return path

    def local(self, flag: str) -> Path:
        """The path on this machine that a flag names.

        Raises:
          UserError: it is a URL.
        """
        path = self.path(flag)
        if remote.is_remote(path):
            raise UserError(f"--{flag} {path}: expected a path on this machine, found a URL")
        return path

    def share(self) -> tuple[int, int]:
        """Which part of the work is this process's: (2, 8) is the second of eight."""
        if jax.process_count() > 1:
            return jax.process_index() + 1, jax.process_count()
        return command_line.share(self.flags.part, "--part")

    def engine(self, workdirs: list[Path], overrides: Mapping[str, Any]) -> Engine | None:
        """What `--engine` names; None: this process."""
        if not self.flags.engine:
            return None
        from gzjax.run import ray_engine

        cores, cache = self.flags.worker_cores, self.cache
        return ray_engine.connect(workdirs, overrides, cache=cache, cores=cores, report=self.report)


def one_process(call: Call) -> None:
    """Checks that no other processes do the same.

    Raises:
      UserError: there are some.
    """
    if jax.process_count() > 1:
        raise UserError(
            f"--mode {call.flags.mode}: expected one process, found {jax.process_count()}"
        )


def leave_others() -> None:
    """From here on each process works by itself: none waits for the others, or ends with them."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()
        # It leaves a handler behind for processes to agree when to stop, which nobody asks now.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_train(call: Call) -> None:
    """Trains, or resumes training, and tests at the end."""
    workdir = call.workdir("folder to train in", local=True)
    profile = call.flags.profile
    traced = command_line.steps(profile, "--profile") if profile else None
    train.train(call.flags.config, workdir, command=call.typed, traced=traced, **call.data_options)


def run_show(call: Call) -> None:
    """Says what would be trained, and what a step costs."""
    workdir = call.workdir("folder to train in", local=True)
    show.show(call.flags.config, workdir, **call.data_options)


def run_evaluate(call: Call) -> None:
    """Tests the best checkpoint again, or those of several runs together."""
    overrides = command_line.overrides()
    models = [load(workdir, overrides) for workdir in call.workdirs]
    data = [load_data(workdir, overrides, **call.data_options) for workdir in call.workdirs]
    evaluate.check_together(models, data)
    first, mixture = call.workdirs[0], call.flags.mixture
    for views in call.flags.views or sorted({1, models[0].views}):
        result = evaluate.evaluate(models, data, call.flags.split, views=views, mixture=mixture)
        # Shown before it is written: a full disk costs nobody the scores.
        call.report.evaluation(result)
        if exported.on_hub(first):
            call.report.say(f"{first} is only read: this evaluation is not kept")
        elif jax.process_index() == 0:
            recorder.write_evaluation(first, result)


def run_report(call: Call) -> None:
    """Writes the page of a run again."""
    workdir = call.workdir("run to report", local=True)
    one_process(call)
    overrides = command_line.overrides()
    model = load(workdir, overrides)
    page.write(workdir, model, load_data(workdir, overrides, **call.data_options), call.report)


def run_predict(call: Call) -> None:
    """Writes the vote fractions of images into a table, by one run or the mixture of several."""
    given, overrides = call.flags, command_line.overrides()
    if given.mixture == "fitted":
        one_process(call)
    views, output, share = call.views, call.path("output", *parts.WITH_FOLDERS), call.share()
    # Each of several processes works by itself, on its own devices.
    models = [load(workdir, overrides, alone=True) for workdir in call.workdirs]
    data = []
    if given.mixture == "fitted":
        data = [load_data(workdir, overrides, **call.data_options) for workdir in call.workdirs]
        evaluate.check_together(models, data)
    leave_others()
    views = models[0].views_or(views)
    shares = evaluate.mixture_of(models, data, views, given.mixture)
    predict.predict_to_file(
        models,
        given.images,
        output,
        views=views,
        shares=shares,
        readable=given.readable,
        report=call.report,
        wanted=Wanted(given.columns, given.volunteers, tuple(given.campaigns)),
        size=given.range,
        share=share,
        engine=call.engine(call.workdirs, overrides),
    )


def run_embed(call: Call) -> None:
    """Writes the network's features of images into a Parquet file."""
    one_process(call)
    views, output, share = call.views, call.path("output", ".parquet"), call.share()
    workdir, overrides = call.workdir("run to embed with"), command_line.overrides()
    embed.embed_to_file(
        load(workdir, overrides),
        call.flags.images,
        output,
        views=views,
        report=call.report,
        size=call.flags.range,
        share=share,
        engine=call.engine([workdir], overrides),
    )


def write_galaxies(call: Call, table: pd.DataFrame, output: Path) -> None:
    """Writes a table of galaxies, and says how many there are."""
    parts.write_table(table, output)
    call.report.say(f"{output}: {len(table)} galaxies")


def run_similar(call: Call) -> None:
    """Writes the galaxies that are most similar to one."""
    one_process(call)
    output, embeddings = call.path("output", *parts.SUFFIXES), call.local("embeddings")
    workdir, query = call.workdir("run to embed with"), call.flags.query
    row = embed.row_of(query, embeddings, read_ids(embeddings))
    model = None if row >= 0 else load(workdir, command_line.overrides())
    table = embed.similar(query, embeddings, call.flags.k, model, call.report)
    write_galaxies(call, table, output)


def run_anomalies(call: Call) -> None:
    """Writes how far each galaxy is from the others."""
    one_process(call)
    output = call.path("output", *parts.SUFFIXES)
    table = embed.anomalies(call.local("embeddings"), call.flags.k, call.report)
    write_galaxies(call, table, output)


def run_explore(call: Call) -> None:
    """Writes a page to look through predictions."""
    given, overrides = call.flags, command_line.overrides()
    workdir = call.workdir("run, whose tree the predictions have")
    known = workdir if given["workdir"].value else None
    own, framing = describe_run(given.config, overrides, known)
    if not (known or given["config"].present or "data.crop" in overrides):
        framing = framing._replace(crop=1.0)  # the default recipe's is the synthetic sky's
    explore.write(
        call.local("predictions"),
        call.local("output"),
        trees=[own, *map(tree.load, tree.NAMES)],
        images=given.images,
        embeddings=call.local("embeddings") if given.embeddings else None,
        framing=framing,
        kind=given.map,
        most=given.galaxies or explore.MOST,
        report=call.report,
    )


def run_export(call: Call) -> None:
    """Writes the model of a run into a folder, for others to use."""
    one_process(call)
    views, workdir = call.views, call.workdir("run to export")
    overrides = command_line.overrides()
    export.export(workdir, call.local("output"), overrides, views=views, report=call.report)


def run_pack(call: Call) -> None:
    """Decodes all galaxies once."""
    folder, share = call.local("pack"), call.share()
    leave_others()
    engine = call.engine([], {})
    pack.pack(call.flags.config, folder, share=share, engine=engine, **call.data_options)


COMMANDS: dict[str, Callable[[Call], None]] = {
    "train": run_train,
    "show": run_show,
    "evaluate": run_evaluate,
    "report": run_report,
    "predict": run_predict,
    "embed": run_embed,
    "similar": run_similar,
    "anomalies": run_anomalies,
    "explore": run_explore,
    "export": run_export,
    "pack": run_pack,
}
