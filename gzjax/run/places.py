"""What a run says of itself, without where on which machine its files are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def without_places(value: Any) -> Any:
    """The same JSON with the last part alone of absolute paths, which say whose machine it was.

    Lists of paths in one text are separated by commas, as in `data.extra`.
    """
    if isinstance(value, Mapping):
        return {name: without_places(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if isinstance(value, str):
        return ",".join(_without_place(part) for part in value.split(","))
    return value


def _without_place(text: str) -> str:
    path = Path(text.strip())
    return path.name if path.is_absolute() or text.strip().startswith("~") else text
