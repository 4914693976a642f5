"""Reads the tensors of a PyTorch file (`.pth`, `.pt`, `.bin`) without PyTorch.

Such a file is a pickle that names its tensors' storages, and the storages as raw bytes: since
PyTorch 1.6 as members of a ZIP archive, before that one after another behind the pickle. Only
what a dictionary of tensors needs is unpickled, so no code from the file runs.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

# First in a file of the older kind, as its own pickle.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


# What a file that is damaged, or of something else, makes the readers raise.
_DAMAGE = (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, LookupError, AttributeError)


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary.

    Args:
      path: of a file that holds a dictionary of tensors by name, alone or under `state_dict`.

    Returns:
      {name: array}.

    Raises:
      ValueError: anything else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content, read = _open_archive(archive)
                return _arrays(content, read)
        with path.open("rb") as file:
            content, read = _open_old(file)
            return _arrays(content, read)
    except _DAMAGE as error:
        raise ValueError(f"not a PyTorch file of named tensors: {error}") from error


def _open_archive(archive: zipfile.ZipFile) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if not names:
        raise ValueError("an archive without data.pkl; expected one that torch.save wrote")
    folder = names[0].removesuffix("data.pkl")
    with archive.open(names[0]) as file:
        content = _Unpickler(file).load()

    def read(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype)

    return content, read


def _open_old(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    if _Unpickler(file).load() != _OLD_MAGIC:
        raise ValueError("not written by torch.save")
    for _ in ("protocol", "the machine's integer sizes"):
        _Unpickler(file).load()
    content = _Unpickler(file)
    tensors = content.load()
    arrays = {}
    for key in _Unpickler(file).load():
        (length,) = np.frombuffer(file.read(8), "<i8")
        dtype = content.storages[key]
        arrays[key] = np.frombuffer(file.read(int(length) * dtype.itemsize), dtype)
    return tensors, lambda storage: arrays[storage.key]


def _arrays(content: Any, read: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not any(isinstance(v, _Tensor) for v in content.values()):
        raise ValueError("expected a dictionary of tensors by name")
    arrays = {}
    for name, tensor in content.items():
        if isinstance(tensor, _Tensor):
            values = read(tensor.storage)
            sides = zip(tensor.shape, tensor.strides, strict=True)
            if tensor.offset + sum((n - 1) * stride for n, stride in sides) >= max(1, values.size):
                raise ValueError(f"{name} reaches beyond its storage; the file is damaged")
            arrays[name] = np.lib.stride_tricks.as_strided(
                values[tensor.offset :],
                tensor.shape,
                [stride * values.itemsize for stride in tensor.strides],
                writeable=False,
            )
    return arrays


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries and descriptions of tensors, and nothing else."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.storages: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, offset, tuple(shape), tuple(strides)
            )
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, not tensors alone")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        self.storages[key] = dtype
        return _Storage(key, dtype)
