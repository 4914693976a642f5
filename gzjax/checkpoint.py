"""Checkpoints (orbax): everything a run needs to go on where it was.

A checkpoint holds the train state (parameters, batch-norm statistics, optimiser, the losses'
running means, step, PRNG key), the place of the grain iterator, the config and a fingerprint of
the data. Saving is asynchronous and atomic: a run killed while saving finds the one before.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers

from gzjax.errors import UserError
from gzjax.models import Weights


def _rmse(metrics: Mapping[str, float]) -> float:
    return metrics["rmse"]


class Checkpoints:
    """The checkpoints of one run: the newest ones and the best by validation RMSE.

    Args:
      folder: created when the first checkpoint is saved, or at once if `keep` is given.
      keep: how many of the newest to keep; 0 opens the folder to read.
    """

    def __init__(self, folder: Path, keep: int = 0):
        self.folder = folder
        policies = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_rmse, reverse=True, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        self.manager = ocp.CheckpointManager(
            folder.absolute(),
            item_names=("state", "batches", "about"),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "batches": grain.checkpoint.CheckpointHandler(),
                "about": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies if keep else None,
                best_fn=_rmse,
                best_mode="min",
                read_only=not keep,
                save_interval_steps=1 if keep else 0,
                create=bool(keep),
                cleanup_tmp_directories=bool(keep),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.close()

    @classmethod
    def peek(cls, folder: Path) -> dict[str, Any] | None:
        """Config and data fingerprint of the newest checkpoint in a folder, None if none."""
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
        best = self.manager.best_step()
        return self.newest() if best is None else best

    def save(
        self,
        step: int,
        state: Any,
        batches: grain.DatasetIterator,
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving; returns as soon as training may go on.

        Args:
          step: updates done.
          state: the train state, a pytree of arrays.
          batches: the iterator over training batches, at this step.
          about: config and fingerprint of the data, JSON.
          metrics: `rmse` on validation, where the step was evaluated.
        """
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                batches=grain.checkpoint.CheckpointSave(batches),
                about=ocp.args.JsonSave(dict(about)),
            ),
            metrics=None if metrics is None else {"rmse": float(metrics["rmse"])},
            force=True,
        )

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        self.manager.wait_until_finished()

    def about(self, step: int) -> dict[str, Any]:
        """Config and data fingerprint that were saved with a step.

        Raises:
          UserError: the checkpoint is damaged.
        """
        with self._damage_named(step):
            items = ocp.args.Composite(about=ocp.args.JsonRestore())
            return self.manager.restore(step, args=items)["about"]

    def weights(self, step: int) -> tuple[Weights, Weights]:
        """The weights of a step and their moving average, on the host; of a run of any tree.

        Raises:
          UserError: the checkpoint is damaged.
        """
        with self._damage_named(step):
            saved = self.manager.item_metadata(step)["state"].tree
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(jax.local_devices()[0])
            ),
            saved,
        )
        state = jax.device_get(self.restore(step, like))
        return Weights(**state["weights"]), Weights(**state["average"])

    def restore(self, step: int, like: Any, batches: grain.DatasetIterator | None = None) -> Any:
        """The train state of a step; `batches`, if given, is set to its place.

        Args:
          step: of the checkpoint.
          like: a train state of the same structure, of arrays or `jax.ShapeDtypeStruct` with
            shardings.
          batches: an iterator over the same training batches.

        Raises:
          UserError: the checkpoint is damaged, or of another structure.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items: dict[str, Any] = {"state": ocp.args.StandardRestore(abstract)}
        if batches is not None:
            items["batches"] = grain.checkpoint.CheckpointRestore(batches)
        with self._damage_named(step):
            return self.manager.restore(step, args=ocp.args.Composite(**items))["state"]

    @contextlib.contextmanager
    def _damage_named(self, step: int) -> Iterator[None]:
        """Tells what orbax raises of a checkpoint that is damaged, or of another structure."""
        try:
            yield
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.folder / str(step)}: this checkpoint cannot be read ({reason}); delete "
                "the folder to go on from the one before it"
            ) from error
