"""Reads the tensors of a PyTorch file (`.pth`, `.pt`, `.bin`) without PyTorch.

Such a file is a pickle that names its tensors' storages, and the storages as raw bytes: since
PyTorch 1.6 as members of a ZIP archive, before that one after another behind the pickle.

A file may be damaged, or made to do harm. So only what a dictionary of tensors needs is unpickled,
which runs no code of the file; no number in it makes us ask for more memory than the file takes;
and no tensor reaches outside its storage.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

# First in a file of the older kind, as its own pickle.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# Of pickle's instructions those that `torch.save` writes, in any protocol.
_INSTRUCTIONS = (
    "PROTO FRAME MARK STOP BINPERSID REDUCE GLOBAL STACK_GLOBAL BINUNICODE SHORT_BINUNICODE "
    "BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM "
    "SETITEMS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT"
)


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, alone or under `state_dict`, as read-only arrays.

    A ValueError says that the file holds anything else, or is damaged.
    """
    with path.open("rb") as file:
        try:
            return _from_archive(file) if zipfile.is_zipfile(file) else _from_old(file)
        # Damage makes zipfile, pickle and numpy raise nearly every kind of error that there is.
        except Exception as error:
            raise ValueError(f"not a PyTorch file of named tensors: {error}") from error


def _from_archive(file: IO[bytes]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        stored = all(
            member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
            for member in members
        )
        size = sum(member.file_size for member in members)
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        # Members can claim to be longer than the file, or to be the same bytes.
        if not stored or size > file.seek(0, io.SEEK_END) or len(pickles) != 1:
            raise ValueError("not an archive as torch.save writes it")
        content = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        found = content.load()
        folder = pickles[0].removesuffix("data.pkl")
        storages = {key: archive.read(f"{folder}data/{key}") for key in content.dtypes}
    return _arrays(found, lambda storage: np.frombuffer(storages[storage.key], storage.dtype))


def _from_old(file: IO[bytes]) -> dict[str, np.ndarray]:
    file.seek(0)
    data = file.read()
    # In memory a claim of more bytes than there are reads what there is.
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _OLD_MAGIC:
        raise ValueError("not written by torch.save")
    for _ in ("protocol", "the machine's integer sizes"):
        _Unpickler(file).load()
    content = _Unpickler(file)
    found = content.load()
    keys = _Unpickler(file).load()
    storages = {}
    start = file.tell()
    for key in keys:
        length = int.from_bytes(data[start : start + 8], "little")
        storages[key] = np.frombuffer(data, content.dtypes[key], length, start + 8)
        start += 8 + storages[key].nbytes
    return _arrays(found, lambda storage: storages[storage.key])


def _arrays(content: Any, read: Callable[[_Storage], np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = content.items() if isinstance(content, dict) else ()
    arrays = {
        name: _view(name, tensor, read(tensor.storage))
        for name, tensor in tensors
        if isinstance(name, str) and isinstance(tensor, _Tensor)
    }
    if not arrays:
        raise ValueError("expected a dictionary of tensors by name")
    return arrays


def _view(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    size = math.prod(tensor.shape)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * stride for n, stride in steps)
    # Strides of 0 could make any number of values of one.
    if size and max(last + 1, size) > values.size:
        raise ValueError(f"{name} reaches beyond its storage; the file is damaged")
    return np.lib.stride_tricks.as_strided(
        values[tensor.offset :],
        tensor.shape,
        [stride * values.itemsize for stride in tensor.strides],
        writeable=False,
    )


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    numbers = (offset, *shape, *strides)
    whole = all(type(number) is int and number >= 0 for number in numbers)
    if not (isinstance(storage, _Storage) and whole):
        raise ValueError(f"a tensor of shape {shape}, strides {strides} and offset {offset}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


# Tuples are lists here: hashing a key of tuples in tuples in tuples ... kills Python.
def _marked_as_list(unpickler: Any) -> None:
    items = unpickler.pop_mark()
    unpickler.append(items)


def _last_as_list(count: int) -> Callable[[Any], None]:
    def load(unpickler: Any) -> None:
        unpickler.stack[-count:] = [unpickler.stack[-count:]]

    return load


class _Unpickler(pickle._Unpickler):
    """Builds dictionaries, lists, numbers, text and descriptions of tensors, and nothing else.

    The class is pickle's in Python, as the one in C sets aside the memory that a number claims.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: pickle._Unpickler.dispatch[code]
        for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS.split())
    } | {
        pickle.TUPLE[0]: _marked_as_list,
        pickle.EMPTY_TUPLE[0]: pickle._Unpickler.dispatch[pickle.EMPTY_LIST[0]],
        pickle.TUPLE1[0]: _last_as_list(1),
        pickle.TUPLE2[0]: _last_as_list(2),
        pickle.TUPLE3[0]: _last_as_list(3),
        # Attributes, such as a state dictionary's `_metadata`, are of no use here.
        pickle.BUILD[0]: lambda unpickler: unpickler.stack.pop(),
    }

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}  # of the storages, by key

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        raise ValueError(f"it holds a {module}.{name}, not tensors alone")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        if not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise ValueError("a storage without type or key")
        self.dtypes[key] = dtype
        return _Storage(key, dtype)
