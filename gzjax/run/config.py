"""Every option of a run: a recipe in `configs/` starts from `default()` and says what differs.

Defaults and what is allowed belong to the settings types, most of them beside the code that they
steer; here they become one config, and a config becomes them again. No function further in than
`gzjax.run.build` takes a config.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gzjax.augment import Augmentation
from gzjax.data.columns import CHALLENGE_IMAGES, CHALLENGE_TABLE, KINDS
from gzjax.data.framing import FitsSettings
from gzjax.errors import UserError, hint, named
from gzjax.losses import Objective
from gzjax.models import NetworkSettings
from gzjax.optim import Optimisation
from gzjax.run.trackers import TRACKERS
from gzjax.settings import Settings, choice, number, setting, switch, text


def _are_mappings(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(each, Mapping) for each in value)


def _are_trackers(value: Any) -> bool:
    return isinstance(value, tuple) and len(set(value)) == len(value) and set(value) <= {*TRACKERS}


def _seed() -> Any:
    """A seed: as many as a PRNG key distinguishes."""
    return number(0, least=0, below=2**32)


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
    """Options without a group. Lengths in time are in epochs, passes over the training galaxies.

    seed: of the parameters, the order of galaxies, and everything random in training.
    epochs: passes over the training galaxies.
    batch_size: galaxies per step, over all devices of all machines.
    """

    seed: int = _seed()
    epochs: int = number(20, least=1)
    batch_size: int = number(32, least=1)


@dataclasses.dataclass(frozen=True)
class CatalogueSettings(Settings):
    """One of several catalogues, see `data.catalogues`; what is not given is as in `data`.

    root: folder of the table and the images, or of a pack.
    kind: `folder` or `pack`.
    tree: of its votes.
    table: within the root.
    images: folder within the root.
    votes: what the table's columns hold.
    votes_per_galaxy: volunteers a galaxy, where a table has fractions alone.
    weight: how often its galaxies are drawn in training, compared with others.
    scored: hold some out; else all are trained on, but for those that others hold out.
    """

    root: str = text("", "a folder")
    kind: str = choice("folder", ("folder", "pack"))
    tree: str = text("gz2", "a tree's name or file")
    table: str = text(CHALLENGE_TABLE)
    images: str = text(CHALLENGE_IMAGES)
    votes: str = choice("auto", KINDS)
    votes_per_galaxy: float = number(40.0, above=0)
    weight: float = number(1.0, above=0)
    scored: bool = switch(True)


@dataclasses.dataclass(frozen=True)
class DataSettings(Settings):
    """Which galaxies, and how they are read.

    kind: `sky`, the synthetic one; `folder`, a table beside its images; or `pack`, what --mode
      pack made of either.
    root: where the table and the images are; of a pack, its folder.
    tree: a published decision tree by name, or the path of a TOML file.
    table: within the root; CSV or Parquet, a pattern for several of the same columns.
    images: folder within the root, where the table has neither files nor images.
    votes: what the table's columns hold; `auto` sees it from their names and values.
    votes_per_galaxy: volunteers a galaxy, where a table has fractions alone.
    extra: more folders of the same layout, separated by commas; used only for training.
    extra_weight: how often their galaxies are drawn in training, compared with the root's.
    catalogues: in a recipe, in place of root and extra, several catalogues, each of its own tree:
      mappings with the fields of `CatalogueSettings`.
    galaxies: how many to draw of the sky.
    sky_seed: which sky.
    split_seed: seed of the choice of held-out galaxies.
    validation: fraction held out to choose the best checkpoint.
    test: fraction held out to report scores on.
    training_galaxies: train on at most this many galaxies of each scored catalogue; 0: all.
    crop: side of the central square used, as a fraction of the image's side.
    canvas: pixels a side to which that square is rescaled and stored.
    on_device: in training, hold all images in the memory of every device.
    threads: decoding ahead, a batch each.
    processes: worker processes with as many threads each; 0: this process.
    """

    kind: str = choice("folder", ("sky", "folder", "pack"))
    root: str = text("", "a folder")
    tree: str = text("gz2", "a tree's name or file")
    table: str = text(CHALLENGE_TABLE)
    images: str = text(CHALLENGE_IMAGES)
    votes: str = choice("auto", KINDS)
    votes_per_galaxy: float = number(40.0, above=0)
    extra: str = text("", "folders, separated by commas")
    extra_weight: float = number(1.0, above=0)
    catalogues: tuple[Any, ...] = setting(
        (), "mappings such as {'root': FOLDER, 'tree': 'gz2'}", _are_mappings
    )
    galaxies: int = number(4096, least=20)
    sky_seed: int = _seed()
    split_seed: int = _seed()
    validation: float = number(0.1, above=0, most=0.4)
    test: float = number(0.1, above=0, most=0.4)
    training_galaxies: int = number(0, least=0)
    crop: float = number(1.0, above=0, most=1)
    canvas: int = number(128, least=16)
    on_device: bool = switch(False)
    threads: int = number(4, least=1)
    processes: int = number(0, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "folder" and not self.root and not self.catalogues:
            raise UserError(
                "root: expected the folder with the table and the images of galaxies (--config "
                "sky needs none), found nothing"
            )
        if self.kind == "pack" and not self.root and not self.catalogues:
            raise UserError("root: expected the folder of a pack, as --mode pack makes one")
        for name in ("root", "extra", "catalogues"):
            if getattr(self, name) and self.kind == "sky":
                raise UserError(
                    f"{name}: expected none beside the sky (data.kind), found "
                    f"{getattr(self, name)!r}; --config gz2, and others, train on real galaxies"
                )
        for name in ("root", "extra"):
            if getattr(self, name) and self.catalogues:
                raise UserError(
                    f"{name}: expected none beside catalogues, found {getattr(self, name)!r}"
                )
        self.listed()  # which checks them

    def listed(self) -> list[CatalogueSettings]:
        """All catalogues: `catalogues`, or the root and the extra ones; none of the sky.

        Raises:
          UserError: a field that catalogues do not have, or a value that is not allowed.
        """
        if self.kind == "sky":
            return []
        names = [field.name for field in dataclasses.fields(CatalogueSettings)]
        common = {name: getattr(self, name) for name in names if hasattr(self, name)}
        if not self.catalogues:
            extra = [root.strip() for root in self.extra.split(",") if root.strip()]
            more = {"weight": self.extra_weight, "scored": False}
            return [
                CatalogueSettings(**common),
                *(CatalogueSettings(**common | more | {"root": root}) for root in extra),
            ]
        listed = []
        for position, given in enumerate(self.catalogues):
            with named(f"catalogues[{position}]: "):
                if unknown := given.keys() - set(names):
                    raise UserError(f"expected some of {', '.join(names)}, found {min(unknown)!r}")
                if not given.get("root"):
                    raise UserError("root: expected the folder of a catalogue, found nothing")
                listed.append(CatalogueSettings(**common | dict(given)))
        if not any(each.scored for each in listed):
            raise UserError("catalogues: expected at least one that is scored, found none")
        return listed


@dataclasses.dataclass(frozen=True)
class AverageSettings(Settings):
    """decay: of the moving average of the weights, per step; 0: no average."""

    decay: float = number(0.999, least=0, below=1)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(Settings):
    """How galaxies are predicted, and how often validation galaxies are.

    batch_size: galaxies predicted at a time, over all devices.
    views: turned, mirrored, zoomed test-time views averaged in tests and predictions.
    views_at_once: of each galaxy of a batch; more need more memory.
    every: epochs between evaluations.
    """

    batch_size: int = number(128, least=1)
    views: int = number(1, least=1)
    views_at_once: int = number(1, least=1)
    every: int = number(1, least=1)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(Settings):
    """How often training is saved.

    every: steps between checkpoints; evaluations save one, too.
    keep: newest ones kept; the best by validation RMSE is kept beside them.
    """

    every: int = number(200, least=1)
    keep: int = number(2, least=1)


@dataclasses.dataclass(frozen=True)
class LogSettings(Settings):
    """What is recorded in training.

    every: steps between records of the losses.
    trackers: where to, of `trackers.TRACKERS`: `tensorboard`, `csv`, `wandb`, `mlflow`.
    """

    every: int = number(20, least=1)
    trackers: tuple[str, ...] = setting(
        ("tensorboard", "csv"), f"some of {', '.join(TRACKERS)}, each once", _are_trackers
    )


class Options(NamedTuple):
    """A config, checked and typed: a group of options each."""

    run: RunSettings
    data: DataSettings
    fits: FitsSettings
    model: NetworkSettings
    views: Augmentation
    loss: Objective
    optim: Optimisation
    average: AverageSettings
    evaluate: EvaluateSettings
    checkpoint: CheckpointSettings
    log: LogSettings


# `run` has no group of its own in a config: `epochs`, but `optim.learning_rate`.
TOP, *GROUPS = Options._fields
TYPES = Options.__annotations__


def default() -> ConfigDict:
    """All options with their defaults, locked: an option that does not exist is an error."""

    def fields(group: str) -> dict[str, Any]:
        return {field.name: field.default for field in dataclasses.fields(TYPES[group])}

    return ConfigDict({**fields(TOP), **{name: fields(name) for name in GROUPS}}).lock()


def typed(config: Mapping[str, Any]) -> Options:
    """Checks every option, before any long work starts.

    Raises:
      UserError: an option that does not exist, or a value that is not allowed.
    """
    known, found = dict(flatten(default())), dict(flatten(config))
    for name in found.keys() - known.keys():
        raise UserError(f"--config: no option {name!r}{hint(name, known)}")
    if missing := known.keys() - found.keys():
        raise UserError(f"--config: the option {min(missing)!r} is missing; start from default()")

    def settings(group: str) -> Any:
        prefix = "" if group == TOP else f"{group}."
        with named(f"--config.{prefix}"):
            names = [field.name for field in dataclasses.fields(TYPES[group])]
            return TYPES[group](**{name: found[prefix + name] for name in names})

    return Options(**{group: settings(group) for group in Options._fields})


# What may change when a run resumes; anything else would make it another run. Where the galaxies
# are may change, since their fingerprint is compared, and a pack holds the very canvases that it
# was made from. A tree may be read from another file, since its content is compared.
FREE_TO_CHANGE = (
    "epochs",
    "data.kind",
    "data.root",
    "data.tree",
    "data.table",
    "data.images",
    "data.extra",
    "data.catalogues",
    "data.on_device",
    "data.threads",
    "evaluate",
    "checkpoint",
    "log",
)


def with_defaults(saved: Mapping[str, Any]) -> ConfigDict:
    """The config of an earlier run; options that did not exist yet are as it was without them."""
    config = default()
    weights = tuple(config.loss.weights)
    with config.unlocked():
        config.update(saved)
    # Of loss terms that did not exist yet, too.
    config.loss.weights = (*config.loss.weights, *weights[len(config.loss.weights) :])
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each option; lists as tuples, as JSON does not distinguish them."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", tuple(value) if isinstance(value, list | tuple) else value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{option: (before, now)} for what differs and is not in `FREE_TO_CHANGE`."""
    old, new = dict(flatten(before)), dict(flatten(now))
    return {
        option: (old.get(option), new.get(option))
        for option in sorted(old.keys() | new.keys())
        if old.get(option) != new.get(option)
        and not any(option == free or option.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    }


def check_same_run(
    before: Mapping[str, Any], now: Mapping[str, Any], workdir: str | Path, *, resumes: bool = True
) -> None:
    """Checks that a config may resume what another one began, or use its model.

    Raises:
      UserError: they differ in more than what may change; lists the options.
    """
    changed = differences(with_defaults(before), now)
    if not resumes:
        # Only the place among shuffled galaxies depends on the worker processes. Images to be
        # predicted may be FITS files of other bands than those to train on, or those no FITS files.
        changed = {
            option: values
            for option, values in changed.items()
            if option != "data.processes" and not option.startswith("fits.")
        }
    if changed:
        listed = ", ".join(
            f"{option} was {old!r}, now {new!r}" for option, (old, new) in changed.items()
        )
        raise UserError(
            f"{workdir} holds a run with different options: {listed}. Use another --workdir, or "
            "the options as they were"
        )
