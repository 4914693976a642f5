"""A trained model as files for others: weights, tree, scores, and what predicts without gzjax.

README.md                            the model card
config.json, *.safetensors           see `gzjax.run.exported`
tree.toml                            the decision tree
temperatures.json                    of a model with intervals, what makes them right
predict.stablehlo                    prediction as a program of `jax.export`: CPU, CUDA, TPU
predict.onnx                         the same as ONNX, if jax2onnx is there (extra `onnx`)

Both programs take uint8[batch, canvas, canvas, 3], any number of galaxies as `Framing` cuts them
out, and give float32[batch, answers]: cumulative vote fractions, averaged over views; and of models
with intervals the ends of the 90 % interval of each conditional fraction.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from gzjax import __version__, files, quantiles, remote, steps
from gzjax.errors import UserError
from gzjax.run import exported, opened, page, recorder
from gzjax.run.model import Model
from gzjax.run.places import without_places
from gzjax.run.report import SILENT, Report, quiet
from gzjax.tree import Tree

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO, ONNX = "predict.stablehlo", "predict.onnx"
INPUT = "images"


def export(
    workdir: str | Path,
    output: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    views: int | None = None,
    report: Report = SILENT,
) -> None:
    """Exports the model of a run that was best on validation.

    Args:
      workdir: folder of the run, or its URL.
      output: folder to write; it must not be there.
      overrides: see `opened.load`.
      views: test-time views that the programs average; None: as many as the recipe says.
      report: says what is written.

    Raises:
      UserError: no run there, or a folder that is.
    """
    if remote.is_remote(output):
        raise UserError(f"output {output}: expected a local folder")
    with exported.at_hand(workdir) as folder:
        _export(folder, Path(output).expanduser(), overrides, views, report)


def _export(
    workdir: Path,
    output: Path,
    overrides: Mapping[str, Any] | None,
    views: int | None,
    report: Report,
) -> None:
    if output.exists():
        raise UserError(f"output {output} is already there; delete it, or name another")
    if not output.parent.is_dir():
        raise UserError(f"output {output}: there is no folder {output.parent}")
    best = exported.open_best(workdir)
    model = opened.load(workdir, overrides, alone=True, depthwise="portable")
    views = model.views_or(views)
    unfinished = output.with_name(f"{output.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    about = {"version": __version__, "views": views, "columns": model.tree.columns}
    exported.write(unfinished, best, about)
    files.write_text(unfinished / "tree.toml", toml(model.tree))
    if model.temperatures:
        recorder.write_temperatures(unfinished, best.step, model.temperatures)
    (unfinished / STABLEHLO).write_bytes(stablehlo(model, views))
    with_onnx = find_spec("jax2onnx") is not None
    if with_onnx:
        # ONNX Runtime has no convolutions of bfloat16 on a CPU.
        plain = opened.load(workdir, overrides, alone=True, depthwise="plain", dtype="float32")
        (unfinished / ONNX).write_bytes(onnx(plain, views))
    else:
        report.say(f"{ONNX}: skipped, since it needs jax2onnx; pip install 'gzjax[onnx]'")
    evaluations = recorder.read_evaluations(workdir, best.step)
    files.write_text(unfinished / "README.md", card(model, views, evaluations, with_onnx))
    unfinished.rename(output)
    names = ", ".join(sorted(path.name for path in output.iterdir()))
    report.say(f"{output}: {names}")


def program(model: Model, views: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """uint8[batch, canvas, canvas, 3] -> `fractions`, and `lower` and `upper` where there are any.

    All are float32[batch, answers].
    """
    temperature = model.temperature(views)

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        result = steps.predict_step(
            model.weights,
            {"image": images},
            network=model.network,
            tree=model.tree,
            activation=model.activation,
            has_intervals=model.has_intervals,
            image_size=model.image_size,
            # Of any number of galaxies there are no pieces of a size that is known.
            test_views=model.test_views._replace(at_once=1, piece=0),
            views=views,
        )
        if model.has_intervals:
            cooled = result.pop("concentrations") / temperature
            result["lower"], result["upper"] = quantiles.interval(cooled, model.tree)
        return result

    return predict


def stablehlo(model: Model, views: int) -> bytes:
    """`program`, serialised by `jax.export`, for any batch size and all of `PLATFORMS`."""
    canvas = model.framing.canvas
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, canvas, canvas, 3), jnp.uint8)
    made = jax.export.export(jax.jit(program(model, views)), platforms=PLATFORMS)(images)
    return bytes(made.serialize())


def onnx(model: Model, views: int) -> bytes:
    """`program` as an ONNX model, for any batch size."""
    canvas = model.framing.canvas
    names = ["fractions", "lower", "upper"][: 3 if model.has_intervals else 1]
    # ONNX has no form for each platform.
    model = model._replace(test_views=model.test_views._replace(resample="gathers"))
    predict = program(model, views)
    return to_onnx(
        lambda images: tuple(predict(images)[name] for name in names),
        jax.ShapeDtypeStruct(("batch", canvas, canvas, 3), jnp.uint8),
        names,
    )


def to_onnx(
    function: Callable[[jax.Array], tuple[jax.Array, ...]],
    images: jax.ShapeDtypeStruct,
    names: Sequence[str],
) -> bytes:
    """A function of images, whose batch size is named, not a number, and its outputs' names."""
    import jax2onnx

    with quiet("onnx_ir", "jax2onnx"):
        made = jax2onnx.to_onnx(
            function, [images], model_name="gzjax", input_names=[INPUT], output_names=list(names)
        )
    _clip(made.graph)
    return made.SerializeToString()


def _clip(graph: Any) -> None:
    """Makes one Clip of each Max and the Min that follows it, which runtimes join to convolutions.

    jax2onnx writes ReLU6 as those two.
    """
    lower = {node.output[0]: node for node in graph.node if node.op_type == "Max"}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _clip(attribute.g)
        below = lower.get(node.input[0]) if node.op_type == "Min" else None
        if below is not None and "relu6" in node.output[0]:
            node.op_type = "Clip"
            node.input[:] = [*below.input, node.input[1]]
            graph.node.remove(below)


def toml(tree: Tree) -> str:
    """A tree as the TOML file that `tree.load` takes."""
    content = tree.to_dict()
    lines = [f"{name} = {_value(content[name])}" for name in ("name", "described")]
    lines += ["", "[columns]"]
    lines += [f"{_value(name)} = {_value(value)}" for name, value in content["columns"].items()]
    for question in content["questions"]:
        lines += ["", "[[questions]]"]
        lines += [f"{name} = {_value(value)}" for name, value in question.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Text and lists of text are the same in TOML and JSON; so are numbers."""
    return json.dumps(value, ensure_ascii=False)


def card(model: Model, views: int, evaluations: list[dict[str, Any]], with_onnx: bool) -> str:
    """The model card: what it was trained on, what it scores, what it is not for, how to use it."""
    environment = page.environment(autoescape=False, keep_trailing_newline=True)
    config = without_places(model.about["config"])
    return environment.get_template("card.md").render(
        model=model,
        name=config["model"]["name"],
        views=views,
        config=config,
        evaluations=evaluations,
        # Of runs before the label was recorded the kind says it.
        synthetic="sky" in model.about.get("label", config["data"]["kind"]),
        with_onnx=with_onnx,
        version=__version__,
        input=INPUT,
    )
