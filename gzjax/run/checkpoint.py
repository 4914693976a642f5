"""Checkpoints (orbax): everything a run needs to resume where it was.

A checkpoint holds four items: `weights`, with their moving average, which is all that predicting
needs; `training`, the rest of the train state (optimiser, the losses' running means, step, PRNG
key); `batches`, the place of the grain iterator; and `about`, what the run is: its config, tree,
conventions and a fingerprint of its data, with checksums of all four, since not every damaged bit
of an array is noticed by what reads it. Saving is asynchronous and atomic: a run killed while
saving finds the checkpoint before.
"""

import contextlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from gzjax.errors import UserError, one_line
from gzjax.models import Weights
from gzjax.run.report import quiet
from gzjax.steps import TrainState

# Counted up whenever older checkpoints can no longer be read.
FORMAT = 2
OF_WEIGHTS = ("weights", "average")
CHECKSUMS = "checksums"  # in `about`, by item


class Best(NamedTuple):
    """The checkpoint of a run that was best on validation.

    step: of it.
    about: what the run is.
    raw: the weights, on the host; None: they were not kept.
    average: their moving average; without averaging, the same.
    """

    step: int
    about: dict[str, Any]
    raw: Weights | None
    average: Weights


def read_best(workdir: Path) -> Best:
    """Reads the best checkpoint of a run; of equals, and where none was evaluated, the newest.

    Raises:
      UserError: there is none, or it is damaged.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{folder}: no checkpoints there; expected the folder of a run")
    with Checkpoints(folder) as checkpoints:
        best = checkpoints.best()
        if best is None:
            raise UserError(f"{folder}: no finished checkpoint there")
        return Best(best, checkpoints.about(best), *checkpoints.weights(best))


def _rmse(metrics: Mapping[str, float]) -> float:
    return metrics["rmse"]


def _validation_rmse(step: Path) -> float | None:
    """What a checkpoint scored on validation; None if it was not evaluated, or that is damaged."""
    try:
        return float(json.loads((step / "metrics" / "metrics").read_text())["rmse"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Checkpoints:
    """The checkpoints of one run: the newest ones and the best by validation RMSE.

    Args:
      folder: created when the first checkpoint is saved, or at once if `keep` is given.
      keep: how many of the newest to keep; 0 opens the folder to read.
    """

    def __init__(self, folder: Path, keep: int = 0):
        self.folder = folder.absolute()
        if keep and jax.process_index() == 0:
            self._drop_damaged_metrics()
        policies = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_rmse, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        with quiet("absl"):  # orbax warns of a folder that is opened to be read
            self.manager = ocp.CheckpointManager(
                self.folder,
                item_names=("weights", "training", "batches", "about"),
                item_handlers={
                    "weights": ocp.StandardCheckpointHandler(),
                    "training": ocp.StandardCheckpointHandler(),
                    "batches": grain.checkpoint.CheckpointHandler(),
                    "about": ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=policies if keep else None,
                    best_fn=_rmse if keep else None,
                    best_mode="min",
                    read_only=not keep,
                    # To read, nobody needs the scores of all steps, one of which may be damaged.
                    lightweight_initialize=not keep,
                    save_interval_steps=1 if keep else 0,
                    create=bool(keep),
                    cleanup_tmp_directories=bool(keep),
                ),
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        # A save in the background may fail after something else did, on the same full disk.
        with self._full_disk_named():
            self.manager.close()

    @classmethod
    def peek(cls, folder: Path) -> dict[str, Any] | None:
        """What the run in a folder is, by its newest checkpoint; None if there is none.

        Raises:
          UserError: the checkpoint is damaged, or of another version.
        """
        if not folder.is_dir():
            return None
        with cls(folder) as checkpoints:
            newest = checkpoints.newest()
            return None if newest is None else checkpoints.about(newest)

    def newest(self) -> int | None:
        """The step of the newest checkpoint, None if there is none."""
        return self.manager.latest_step()

    def best(self) -> int | None:
        """The step of the checkpoint with the lowest validation RMSE, else the newest."""
        found = {
            step: _validation_rmse(self.folder / str(step)) for step in self.manager.all_steps()
        }
        scored = {step: rmse for step, rmse in found.items() if rmse is not None}
        # Of equals the newest, as orbax keeps it.
        return min(scored, key=lambda step: (scored[step], -step)) if scored else self.newest()

    def save(
        self,
        step: int,
        state: TrainState,
        batches: grain.DatasetIterator,
        about: Mapping[str, Any],
        rmse: float | None = None,
    ) -> None:
        """Starts saving what there is after `step` steps; returns as soon as training may continue.

        Args:
          step: steps done.
          state: the train state.
          batches: the iterator over training batches, at this step.
          about: what the run is; JSON.
          rmse: on validation, where the step was evaluated.

        Raises:
          UserError: this checkpoint, or the one before it, cannot be written.
        """
        weights, training = _parts(state)
        about = {"format": FORMAT, **about}
        checksums = {"weights": checksum_of(weights), "training": checksum_of(training)}
        checksums |= {"batches": checksum_of(batches.get_state()), "about": checksum_of(about)}
        with self._full_disk_named():
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    weights=ocp.args.StandardSave(weights),
                    training=ocp.args.StandardSave(training),
                    batches=grain.checkpoint.CheckpointSave(batches),
                    about=ocp.args.JsonSave({**about, CHECKSUMS: checksums}),
                ),
                metrics=None if rmse is None else {"rmse": float(rmse)},
                force=True,
            )

    def wait(self) -> None:
        """Waits until what was saved is on disk.

        Raises:
          UserError: it cannot be written.
        """
        with self._full_disk_named():
            self.manager.wait_until_finished()

    def about(self, step: int) -> dict[str, Any]:
        """What the run is, as it was saved with a step.

        Raises:
          UserError: the checkpoint is damaged, or of another version of gzjax.
        """
        with self._damage_named(step):
            about, checksums = self._about(step)
            found = about.get("format", 1)
            _check("about", about, checksums)
        if found != FORMAT:
            raise UserError(
                f"{self.folder / str(step)}: expected a checkpoint of format {FORMAT}, found "
                f"{found}, of another version of gzjax; use that version, or train again in "
                "another --workdir"
            )
        return about

    def weights(self, step: int) -> tuple[Weights, Weights]:
        """The weights of a step and their moving average, on the host; of any network and tree.

        Raises:
          UserError: the checkpoint is damaged.
        """
        device = SingleDeviceSharding(jax.local_devices()[0])
        with self._damage_named(step):
            _, checksums = self._about(step)
            saved = self.manager.item_metadata(step)["weights"].tree
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), saved
            )
            items = ocp.args.Composite(weights=ocp.args.StandardRestore(like))
            found = jax.device_get(self.manager.restore(step, args=items)["weights"])
            both = {name: Weights(**found[name]) for name in OF_WEIGHTS}
            _check("weights", both, checksums)
            return both["weights"], both["average"]

    def restore(
        self, step: int, like: TrainState, batches: grain.DatasetIterator | None = None
    ) -> TrainState:
        """The train state of a step; `batches`, if given, is set to its place.

        Args:
          step: of the checkpoint.
          like: a train state of the same structure, of arrays or `jax.ShapeDtypeStruct` with
            shardings.
          batches: an iterator over the same training batches.

        Raises:
          UserError: the checkpoint is damaged, or of another structure.
        """
        weights, training = _parts(jax.tree.map(ocp.utils.to_shape_dtype_struct, like))
        items: dict[str, Any] = {
            "weights": ocp.args.StandardRestore(weights),
            "training": ocp.args.StandardRestore(training),
        }
        if batches is not None:
            items["batches"] = grain.checkpoint.CheckpointRestore(batches)
        with self._damage_named(step):
            _, checksums = self._about(step)
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
            for name in ("weights", "training"):
                _check(name, found[name], checksums)
            # Of several processes each has a place of its own.
            place = self.folder / str(step) / "batches" / "process_0-of-1.json"
            if batches is not None and place.exists():
                _check("batches", json.loads(place.read_text()), checksums)
            return like.replace(**found["weights"], **found["training"])

    def _about(self, step: int) -> tuple[dict[str, Any], dict[str, int]]:
        """What was saved about a step, and the checksums; older ones have none."""
        items = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = self.manager.restore(step, args=items)["about"]
        return about, about.pop(CHECKSUMS, {})

    def _drop_damaged_metrics(self) -> None:
        """Removes scores that cannot be read; orbax would fail on them, whatever it is asked."""
        for file in self.folder.glob("[0-9]*/metrics/metrics"):
            if _validation_rmse(file.parent.parent) is None:
                logging.getLogger(__name__).warning("%s is damaged and was removed", file)
                file.unlink()

    @contextlib.contextmanager
    def _damage_named(self, step: int) -> Iterator[None]:
        """Names the checkpoint where it is damaged, or of another structure."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds
            raise UserError(
                f"{self.folder / str(step)}: this checkpoint cannot be read "
                f"({one_line(error)}). Restore it from a copy; or delete the folder: training then "
                "resumes from the checkpoint before it, and prediction uses the next best"
            ) from error

    @contextlib.contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        """Names the folder where a checkpoint cannot be written."""
        try:
            yield
        except Exception as error:  # tensorstore raises a ValueError if the disk is full
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({one_line(error)}); the "
                "same command resumes from the one before it"
            ) from error


def checksum_of(content: Any) -> int:
    """The CRC-32 of arrays, or of what becomes JSON."""
    found = 0
    for leaf in jax.tree.leaves(content):
        if isinstance(leaf, jax.Array | np.ndarray):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            found = zlib.crc32(np.asarray(leaf).tobytes(), found)
        else:
            return zlib.crc32(json.dumps(content, sort_keys=True).encode())
    return found


def _check(item: str, content: Any, checksums: Mapping[str, int]) -> None:
    found = checksum_of(content)
    if checksums.get(item, found) != found:
        raise ValueError(f"{item}: its checksum does not hold")


def _parts(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """A train state as two items: what predicting needs, and the rest."""
    fields = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}
    return {name: fields.pop(name) for name in OF_WEIGHTS}, fields
