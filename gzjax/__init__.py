"""Learn, from galaxy images, how a crowd of volunteers answers a Galaxy Zoo decision tree.

    import gzjax

    model = gzjax.load("runs/real")
    table = model.predict("images/", views=16)
    result = gzjax.evaluate(model, gzjax.load_data("runs/real"), split="test")
    gzjax.train(gzjax.recipe("sky"), workdir="runs/sky")

These are the functions that the commands call. They print nothing unless they are given a
`gzjax.Report`, and are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gzjax.data.dataset import Data as Data
    from gzjax.errors import UserError as UserError
    from gzjax.run.evaluate import evaluate as evaluate
    from gzjax.run.export import export as export
    from gzjax.run.model import Model as Model
    from gzjax.run.opened import load as load
    from gzjax.run.opened import load_data as load_data
    from gzjax.run.predict import predict as predict
    from gzjax.run.recipes import recipe as recipe
    from gzjax.run.report import Report as Report
    from gzjax.run.train import train as train
    from gzjax.tree import Tree as Tree
    from gzjax.tree import load as load_tree  # noqa: F401

__version__ = "0.2.0"

_PLACES = {
    "load": "run.opened",
    "load_data": "run.opened",
    "load_tree": "tree",
    "train": "run.train",
    "evaluate": "run.evaluate",
    "export": "run.export",
    "predict": "run.predict",
    "recipe": "run.recipes",
    "Data": "data.dataset",
    "Model": "run.model",
    "Report": "run.report",
    "Tree": "tree",
    "UserError": "errors",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'gzjax' has no attribute {name!r}")
    module = importlib.import_module(f"gzjax.{_PLACES[name]}")
    return getattr(module, "load" if name == "load_tree" else name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
