"""How good models are: one evaluation, for training, for the command and for a notebook."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gzjax import ensemble, metrics, posterior, steps
from gzjax.data import batches, catalogue, devices
from gzjax.data.dataset import Data
from gzjax.errors import UserError
from gzjax.models import Weights
from gzjax.posterior import Posterior
from gzjax.run.inference import stream
from gzjax.run.model import Model, as_models
from gzjax.votes import noise_floor


def evaluate(
    models: Model | Sequence[Model],
    data: Data | Sequence[Data],
    split: str = "test",
    *,
    views: int | None = None,
    mixture: str = "uniform",
) -> dict[str, Any]:
    """Scores a model, or the mixture of several, on one split of its galaxies.

    Args:
      models: one or several, as `gzjax.load` gives them.
      data: the galaxies that they were trained on, as `gzjax.load_data` gives them; of several
        models one each, in the framing of each.
      split: `train`, `validation` or `test`.
      views: test-time views averaged; None: as many as the recipe says.
      mixture: of several models: `uniform`, or `fitted` on validation.

    Returns:
      What `--mode evaluate` writes: `split`, `step`, `views`, `networks`, `data` (synthetic or
      real), `training_galaxies`, `noise_floor` (see `votes.noise_floor`) and all of
      `metrics.summary`; `raw_rmse`, of the weights that the model's are the average of, with one
      view; of models with intervals `intervals`, their
      `posterior.coverage` as it is (`plain`) and under the models' `temperatures`, which are fitted
      on validation (`tempered`); of several catalogues `catalogues`, the RMSE on each; of several
      models `workdirs`, `mixture` and `alone`, what each scores and what the mixture gains over it.

    Raises:
      UserError: models and galaxies that do not belong together.
    """
    models = as_models(models)
    data = [data] if isinstance(data, Data) else list(data)
    if not all(isinstance(each, Data) for each in data):
        raise UserError("data: expected galaxies, as gzjax.load_data gives them, for each model")
    views = models[0].views_or(views)
    if split not in data[0].splits:
        raise UserError(f"split: expected one of {', '.join(data[0].splits)}, found {split!r}")
    check_together(models, data)
    if len(models) > 1 and mixture == "fitted" and split == "validation":
        raise UserError(
            "mixture: fitted on validation galaxies, it cannot be scored on them; expected the "
            "split test"
        )
    shares = mixture_of(models, data, views, mixture)
    rows, found = predict_all(models, data, split, views)
    observed = data[0].observed(rows)
    predicted = [each["fractions"] for each in found]
    mixed = ensemble.mix(predicted, shares)
    result: dict[str, Any] = {
        "split": split,
        "step": models[0].step,
        "views": views,
        "networks": len(models),
        "data": data[0].label,
        "training_galaxies": len(data[0].splits["train"]),
        "noise_floor": noise_floor(data[0].votes[rows], data[0].tree),
    }
    if len(models) > 1:
        result["workdirs"] = [model.name for model in models]
        result["mixture"] = shares.round(4).tolist()
        result["alone"] = []
        for model, its in zip(models, predicted, strict=True):
            gain, low, high = metrics.rmse_difference(mixed, its, observed)
            alone = {"workdir": model.name, "rmse": metrics.rmse(its, observed)}
            result["alone"].append({**alone, "together": gain, "together_interval": [low, high]})
    elif views == 1 and models[0].raw is not None:
        raw = jax.device_put(models[0].raw, models[0].placement.replicated)
        unaveraged = predict_split(models[0], data[0], split, views, raw)["fractions"]
        result["raw_rmse"] = metrics.rmse(unaveraged, observed)
    mean = data[0].training_mean
    scored = [member for member in data[0].members if member.scored]
    if len(scored) > 1:
        result["catalogues"] = {}
        for member in scored:
            its = (rows >= member.first) & (rows < member.stop)
            if its.any():
                result["catalogues"][member.name] = {
                    "galaxies": int(its.sum()),
                    "rmse": metrics.rmse(mixed[its], observed[its]),
                    "baseline_rmse": metrics.baseline_rmse(mean, observed[its]),
                }
    if all(model.has_intervals for model in models):
        concentrations = [each["concentrations"] for each in found]
        result["intervals"] = _intervals(
            models, concentrations, shares, views, data[0].votes[rows], split
        )
    summary = metrics.summary(mixed, observed, mean, models[0].tree)
    return metrics.without_nan(result | summary)


def _intervals(
    models: Sequence[Model],
    concentrations: Sequence[np.ndarray],
    shares: np.ndarray,
    views: int,
    votes: np.ndarray,
    split: str,
) -> dict[str, Any]:
    """`posterior.coverage`, before and after the temperature."""
    plain = mixed_posterior(models, concentrations, shares)
    if split == "validation":
        temperatures = [posterior.fit_temperature(plain, votes)] * len(models)
    else:
        temperatures = [model.temperature(views) for model in models]
    tempered = mixed_posterior(models, concentrations, shares, temperatures)
    return {
        "temperatures": temperatures,
        "plain": posterior.coverage(plain, votes),
        "tempered": posterior.coverage(tempered, votes),
    }


def mixed_posterior(
    models: Sequence[Model],
    concentrations: Sequence[np.ndarray],
    shares: Sequence[float] | np.ndarray,
    temperatures: Sequence[float] | None = None,
) -> Posterior:
    """One mixture of all models and views: of float32[galaxies, views, answers] of each model."""
    views = concentrations[0].shape[1]
    temperatures = temperatures or [1.0] * len(models)
    cooled = [each / t for each, t in zip(concentrations, temperatures, strict=True)]
    return Posterior(
        np.concatenate(cooled, axis=1), np.repeat(np.asarray(shares) / views, views), models[0].tree
    )


def mixture_of(
    models: Sequence[Model], data: Sequence[Data], views: int, mixture: str
) -> np.ndarray:
    """float64[models]: the weight of each in the mixture, `uniform` or `fitted` on validation."""
    if mixture not in ("uniform", "fitted"):
        raise UserError(f"mixture: expected one of uniform, fitted, found {mixture!r}")
    if mixture == "uniform" or len(models) == 1:
        return ensemble.uniform_weights(len(models))
    rows, found = predict_all(models, data, "validation", views)
    predicted = [each["fractions"] for each in found]
    return ensemble.fit_weights(predicted, data[0].observed(rows))


def check_together(models: Sequence[Model], data: Sequence[Data]) -> None:
    """Checks that models answer the same tree, and hold out the same galaxies.

    Raises:
      UserError: they do not, or galaxies are in another framing than their model's.
    """
    if len(models) != len(data):
        raise UserError(f"expected galaxies for each of {len(models)} models, found {len(data)}")
    check_same_tree(models)
    for model, galaxies in zip(models, data, strict=True):
        if galaxies.tree != model.tree or galaxies.framing != model.framing:
            raise UserError(
                f"{model.name}: expected galaxies of the tree {model.tree.name} in "
                f"{model.framing}, found {galaxies.tree.name} in {galaxies.framing}"
            )
        for split in ("validation", "test"):
            rows, others = galaxies.splits[split], data[0].splits[split]
            same = [galaxies.ids[row] for row in rows] == [data[0].ids[row] for row in others]
            if same and not np.array_equal(galaxies.votes[rows], data[0].votes[others], True):
                raise UserError(
                    f"{model.name} and {models[0].name} have different votes for the same {split} "
                    "galaxies"
                )
            if not same:
                raise UserError(
                    f"{model.name} and {models[0].name} hold out different galaxies for {split}; "
                    "expected runs of the same data.split_seed, data.validation and data.test"
                )


def check_same_tree(models: Sequence[Model]) -> None:
    """Checks that the fractions of models may be mixed.

    Raises:
      UserError: they are of different trees.
    """
    for model in models:
        if model.tree != models[0].tree:
            raise UserError(
                f"{model.name} is of the tree {model.tree.name}, {models[0].name} of "
                f"{models[0].tree.name}; expected models of one tree"
            )


def predict_all(
    models: Sequence[Model], data: Sequence[Data], split: str, views: int
) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """The rows of a split, and what each model predicts for them; see `predict_split`."""
    results = [
        predict_split(model, galaxies, split, views, model.weights)
        for model, galaxies in zip(models, data, strict=True)
    ]
    names = [
        [galaxies.ids[row] for row in result["row"]]
        for galaxies, result in zip(data, results, strict=True)
    ]
    for model, its in zip(models, names, strict=True):
        if its != names[0]:
            raise UserError(
                f"{model.name} and {models[0].name} have different galaxies in {split}; expected "
                "the same, and that the same ones can be read"
            )
    return results[0]["row"], results


def predict_split(
    model: Model, data: Data, split: str, views: int, weights: Weights
) -> dict[str, np.ndarray]:
    """Runs a model over all galaxies of a split.

    Returns:
      row: int32[galaxies], positions in the catalogue; galaxies that cannot be read are not
        among them.
      fractions: float32[galaxies, answers].
      concentrations: float32[galaxies, views, answers], of a model that has them.

    Raises:
      UserError: more than one per cent of the galaxies cannot be read.
    """
    source = data.source(split)
    read = batches.ordered_batches(
        source,
        model.reading.batch_size,
        threads=model.reading.threads,
        processes=model.reading.processes,
        shard=jax.process_index(),
        shards=jax.process_count(),
    )
    step = model.predict_step(views)
    faults: list[str] = []

    def predicted(batch: tuple[dict[str, np.ndarray], steps.Batch]) -> dict[str, jax.Array]:
        host, placed = batch
        faults.extend(fault.decode() for fault in host["fault"] if fault)
        return step(weights, placed)

    placed = devices.on_devices(iter(read), model.placement, data.canvases)
    results = list(stream(predicted, placed))
    whole = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
    real = whole["mask"] > 0
    # Of all processes, each of which knows the faults that it met itself. One broken image in a
    # small split is bad luck.
    lost = len(source) - int(real.sum())
    if lost > max(1, catalogue.MOST_LEFT_OUT * len(source)):
        why = f"the last because {faults[-1]}" if faults else "all by other processes"
        raise UserError(
            f"{lost} of {len(source)} {split} galaxies cannot be read, {why}; fix that, and give "
            "the same command again"
        )
    return {name: array[real] for name, array in whole.items()}
