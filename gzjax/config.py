"""Every option of a run, its default, and what it may be.

A recipe in `configs/` starts from `default()` and says only what differs. The config ends at
`gzjax.experiment`: nothing further in knows of it.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gzjax.errors import UserError


def default() -> ConfigDict:
    """All options. Lengths in time are in epochs, one pass over the training galaxies."""
    config = ConfigDict()
    config.seed = 0  # of the parameters, the order of galaxies, and every chance in training
    config.epochs = 20
    config.batch_size = 32  # galaxies a step, over all devices of all machines

    data = config.data = ConfigDict()
    # 'sky', the synthetic one; 'folder', a table beside its images; or 'pack', what --mode pack
    # made of either.
    data.kind = "folder"
    data.root = ""  # folder: where the table and the images are; pack: its folder
    data.table = "training_solutions_rev1.csv"
    data.images = "images_training_rev1"
    data.galaxies = 4096  # sky: how many to draw
    data.sky_seed = 0  # sky: which one
    data.split_seed = 0  # which of the galaxies are kept apart ...
    data.validation = 0.1  # ... this part of them to choose by ...
    data.test = 0.1  # ... and this part to report on
    data.training_galaxies = 0  # train on so many of the training galaxies; 0: on all
    data.crop = 1.0  # side of the central square used, as a fraction of the image's side
    data.canvas = 128  # pixels a side to which that square is rescaled and stored
    data.on_device = False  # in training, hold all images in the memory of every device
    data.threads = 4  # decoding ahead; a batch each
    data.processes = 0  # worker processes with as many threads each; 0: this process

    model = config.model = ConfigDict()
    model.name = "efficientnet-b0"
    model.image_size = 128  # pixels a side of what the network sees
    model.dtype = "float32"  # of the computation, or 'bfloat16'; parameters are float32 always
    model.stochastic_depth = 0.2  # chance to skip the last block; earlier ones less
    # What to start from: 'imagenet', a repository on the Hugging Face hub, a file of weights, or
    # the folder of another run; empty: at random. See gzjax.models.pretrained.
    model.weights = ""
    model.conventions = "auto"  # of a file's weights: 'tensorflow' or 'pytorch'

    # How random views are drawn in training; see gzjax.augment.Views.
    views = config.views = ConfigDict()
    views.field = 1.0
    views.rotate = 0.0
    views.zoom = 1.0
    views.shift = 0.0
    views.flip = False
    views.colour = 0.0
    views.erase = 0.0

    # How outputs become fractions, and what is reduced; see gzjax.losses.Objective.
    loss = config.loss = ConfigDict()
    loss.activation = "relu"
    loss.targets = "cumulative"
    loss.terms = ("mse", "focal", "kl")
    loss.weighting = "dynamic"
    loss.weights = (1.0, 1.0, 1.0)  # of mse, focal, kl, where weighting is 'fixed'
    loss.decay = 0.99  # of the running means, a step
    loss.gamma = 2.0
    loss.class_weights = ()  # of question 1's answers in the focal loss; none: all alike

    optim = config.optim = ConfigDict()
    optim.learning_rate = 1e-3
    optim.schedule = "cosine"
    optim.warmup = 1.0  # epochs
    optim.decay_rate = 0.1  # exponential and step: factor ...
    optim.decay_every = 10.0  # ... every so many epochs
    optim.weight_decay = 1e-2
    optim.clip_norm = 1.0  # 0: never
    optim.accumulate = 1  # batches averaged before an update
    # How far layers may move from the weights they start with; see gzjax.optim.FineTuning.
    optim.layer_decay = 1.0
    optim.freeze = 0
    optim.head_warmup = 0.0  # epochs

    average = config.average = ConfigDict()
    average.decay = 0.999  # of the moving average of weights, a step; 0: none

    evaluate = config.evaluate = ConfigDict()
    evaluate.batch_size = 128
    evaluate.views = 1  # turned, mirrored, zoomed views averaged in tests and predictions
    evaluate.views_at_once = 1  # of each galaxy of a batch; more need more memory
    evaluate.every = 1  # epochs

    checkpoint = config.checkpoint = ConfigDict()
    checkpoint.every = 200  # steps; at each evaluation, too
    checkpoint.keep = 2  # newest kept; the best by validation RMSE is kept beside them

    log = config.log = ConfigDict()
    log.every = 20  # steps
    return config


# What may change when a run goes on; anything else would make it another run. Where the galaxies
# are may change, as their fingerprint is compared, and a pack holds the very canvases that it was
# made from.
FREE_TO_CHANGE = (
    "epochs",
    "data.kind",
    "data.root",
    "data.table",
    "data.images",
    "data.on_device",
    "data.threads",
    "evaluate",
    "checkpoint",
    "log",
)

# option -> (what is expected in words, test)
_POSITIVE = ("a number above 0", lambda value: value > 0)
_NOT_NEGATIVE = ("a number of 0 or more", lambda value: value >= 0)
_AT_LEAST_ONE = ("1 or more", lambda value: value >= 1)
_SEED = ("a whole number from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32)
_FRACTION = ("above 0, at most 1", lambda value: 0 < value <= 1)
_RANGES: dict[str, tuple[str, Any]] = {
    "seed": _SEED,
    "epochs": _AT_LEAST_ONE,
    "batch_size": _AT_LEAST_ONE,
    "data.galaxies": ("20 or more", lambda value: value >= 20),
    "data.sky_seed": _SEED,
    "data.split_seed": _SEED,
    "data.training_galaxies": _NOT_NEGATIVE,
    "data.validation": ("above 0, at most 0.4", lambda value: 0 < value <= 0.4),
    "data.test": ("above 0, at most 0.4", lambda value: 0 < value <= 0.4),
    "data.crop": _FRACTION,
    "data.canvas": ("16 or more", lambda value: value >= 16),
    "data.threads": _AT_LEAST_ONE,
    "data.processes": _NOT_NEGATIVE,
    "model.image_size": ("16 or more", lambda value: value >= 16),
    "model.stochastic_depth": ("from 0 to 0.9", lambda value: 0 <= value <= 0.9),
    "views.field": _FRACTION,
    "views.rotate": ("degrees from 0 to 180", lambda value: 0 <= value <= 180),
    "views.zoom": ("1 or more", lambda value: value >= 1),
    "views.colour": _NOT_NEGATIVE,
    "views.erase": ("a chance from 0 to 1", lambda value: 0 <= value <= 1),
    "views.shift": ("a fraction from 0 to 0.5", lambda value: 0 <= value <= 0.5),
    "loss.decay": ("from 0 up to, not including, 1", lambda value: 0 <= value < 1),
    "loss.gamma": _NOT_NEGATIVE,
    "optim.learning_rate": _POSITIVE,
    "optim.warmup": _NOT_NEGATIVE,
    "optim.decay_rate": _FRACTION,
    "optim.decay_every": _POSITIVE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.clip_norm": _NOT_NEGATIVE,
    "optim.accumulate": _AT_LEAST_ONE,
    "optim.layer_decay": _FRACTION,
    "optim.freeze": ("0 to 9 depths, from the images on", lambda value: 0 <= value <= 9),
    "optim.head_warmup": _NOT_NEGATIVE,
    "average.decay": ("from 0 up to, not including, 1", lambda value: 0 <= value < 1),
    "evaluate.batch_size": _AT_LEAST_ONE,
    "evaluate.views": _AT_LEAST_ONE,
    "evaluate.views_at_once": _AT_LEAST_ONE,
    "evaluate.every": _AT_LEAST_ONE,
    "checkpoint.every": _AT_LEAST_ONE,
    "checkpoint.keep": _AT_LEAST_ONE,
    "log.every": _AT_LEAST_ONE,
}


def check(config: ConfigDict) -> None:
    """Checks every value before any long work starts.

    Raises:
      UserError: a value that is not allowed.
    """
    # Here, so that `--help` does not wait for jax.
    from gzjax import losses, models, optim, tree

    choices = {
        "data.kind": ("sky", "folder", "pack"),
        "model.name": models.NAMES,
        "model.dtype": ("float32", "bfloat16"),
        "model.conventions": ("auto", "tensorflow", "pytorch"),
        "loss.activation": (*tree.ACTIVATIONS, tree.UNTIED),
        "loss.targets": losses.TARGETS,
        "loss.weighting": losses.WEIGHTINGS,
        "optim.schedule": optim.SCHEDULES,
    }
    values = dict(flatten(config))
    for option, allowed in choices.items():
        if values[option] not in allowed:
            close = difflib.get_close_matches(str(values[option]), allowed, 1)
            raise UserError(
                f"--config.{option}: expected one of {', '.join(allowed)}; found "
                f"{values[option]!r}{f'; did you mean {close[0]!r}?' if close else ''}"
            )
    for option, (expected, allowed) in _RANGES.items():
        if not allowed(values[option]):
            raise UserError(f"--config.{option}: expected {expected}, found {values[option]}")
    terms = tuple(values["loss.terms"])
    if not terms or not set(terms) <= set(losses.TERMS) or len(set(terms)) < len(terms):
        raise UserError(
            f"--config.loss.terms: expected some of {', '.join(losses.TERMS)}, found {terms}"
        )
    weights = dict(zip(losses.TERMS, values["loss.weights"], strict=False))
    if len(values["loss.weights"]) != len(losses.TERMS) or min(weights.values()) < 0:
        raise UserError(
            f"--config.loss.weights: expected {len(losses.TERMS)} weights of 0 or more, for "
            f"{', '.join(losses.TERMS)}; found {values['loss.weights']}"
        )
    if values["loss.weighting"] == "fixed" and not any(weights[term] for term in terms):
        raise UserError(f"--config.loss.weights: all of {', '.join(terms)} have weight 0")
    classes = len(tree.GALAXY_ZOO_2.questions[0].answers)
    if len(values["loss.class_weights"]) not in (0, classes):
        raise UserError(
            f"--config.loss.class_weights: expected none or {classes} weights, found "
            f"{len(values['loss.class_weights'])}"
        )
    if values["loss.activation"] == tree.UNTIED and values["loss.targets"] == "conditional":
        raise UserError(
            f"--config.loss.targets: {tree.UNTIED} knows no conditional fractions; expected "
            "cumulative"
        )
    if values["data.kind"] == "folder" and not values["data.root"]:
        raise UserError(
            "--config.data.root: expected the folder with the table and the images of galaxies "
            "(or use --config configs/sky.py, which needs none)"
        )
    if values["data.kind"] == "pack" and not values["data.root"]:
        raise UserError("--config.data.root: expected the folder of a pack; --mode pack makes one")


def with_defaults(saved: Mapping[str, Any]) -> ConfigDict:
    """The config of an earlier run; options that did not exist yet are as it was without them."""
    config = default()
    config.update(saved)
    return config


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each option; lists as tuples, as JSON does not tell them apart."""
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


def check_same_run(before: Mapping[str, Any], now: ConfigDict, workdir: Path) -> None:
    """Checks that a config may go on with what another one began.

    Raises:
      UserError: they differ in more than what may change; lists the options.
    """
    changed = differences(with_defaults(before), now)
    if changed:
        listed = ", ".join(
            f"{option} was {old!r}, now {new!r}" for option, (old, new) in changed.items()
        )
        raise UserError(
            f"{workdir} holds a run with other options: {listed}. Use another --workdir, or the "
            "options as they were"
        )
