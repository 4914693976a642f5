"""PyTorch's files, read without it: what it saves, and what is damaged or made to do harm."""

import io
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest

from gzjax.models import torch_file

VALUES = np.arange(24, dtype="<f4")
KINDS = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "BoolStorage": "?"}


class Stored(NamedTuple):
    """A tensor as PyTorch writes it down, whether or not that makes sense."""

    offset: object = 0
    shape: object = (4, 6)
    strides: object = (6, 1)
    key: object = "0"
    kind: str = "FloatStorage"


def pickled(content, protocol=2):
    """A pickle of dictionaries with `Stored` in them, naming torch, which need not be installed."""

    def rebuild():
        raise AssertionError("only its name is pickled")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kinds = {name: type(name, (), {"__module__": "torch"}) for name in KINDS}
    modules = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
    vars(modules["torch"]).update(kinds)
    modules["torch._utils"]._rebuild_tensor_v2 = rebuild

    class Pickler(pickle._Pickler):
        def persistent_id(self, value):
            if isinstance(value, tuple) and len(value) == 2 and value[0] == "storage":
                return ("storage", kinds[value[1].kind], value[1].key, "cpu", 24)
            return None

        def reducer_override(self, value):
            if isinstance(value, Stored):
                where = ("storage", value)
                rest = (value.offset, value.shape, value.strides, False, OrderedDict())
                return rebuild, (where, *rest)
            return NotImplemented

        def save(self, value, save_persistent_id=True):
            # A named tuple is reduced as an object, not written as a tuple.
            if isinstance(value, Stored):
                return self.save_reduce(*self.reducer_override(value), obj=value)
            return super().save(value, save_persistent_id)

    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        Pickler(file, protocol).dump(content)
    return file.getvalue()


def archive(program, storages=None, **options):
    """A file of the newer kind."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as members:
        members.writestr("w/data.pkl", program)
        for key, data in (storages or {"0": VALUES.tobytes()}).items():
            members.writestr(f"w/data/{key}", data)
    return file.getvalue()


def old(program, keys=("0",), lengths=(24,)):
    """A file of the older kind."""
    heads = [pickle.dumps(value, 2) for value in (torch_file._OLD_MAGIC, 1001, {"long": 4})]
    parts = [struct.pack("<q", length) + VALUES.tobytes() for length in lengths]
    return b"".join([*heads, program, pickle.dumps(list(keys), 2), *parts])


def read(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    return torch_file.read_tensors(path)


TENSORS = OrderedDict(
    plain=Stored(),
    turned=Stored(0, (6, 4), (1, 6)),
    part=Stored(7, (2, 3), (6, 2)),
    last=Stored(23, (), ()),
    none=Stored(0, (0, 5), (5, 1)),
    nothing=Stored(24, (3, 0), (1, 1)),
    once=Stored(23, (1, 1), (99, 99)),
)
GRID = VALUES.reshape(4, 6)
EXPECTED = {
    "plain": GRID,
    "turned": GRID.T,
    "part": GRID[1:3, 1:6:2],
    "last": GRID[3, 5],
    "none": np.zeros((0, 5)),
    "nothing": np.zeros((3, 0)),
    "once": GRID[3:, 5:],
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", [archive, old])
@pytest.mark.parametrize("nested", [False, True])
def test_tensors_are_views_of_their_storages(tmp_path, form, nested, protocol):
    content = {"state_dict": TENSORS, "epoch": 3, "t": (1, 2, 3, 4)} if nested else TENSORS
    found = read(tmp_path, form(pickled(content, protocol)))
    assert found.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == np.float32


def test_each_kind_of_number_is_read(tmp_path):
    storages = {kind: np.array([1, 0, 3]).astype(KINDS[kind]) for kind in KINDS}
    content = {kind: Stored(0, (3,), (1,), kind, kind) for kind in KINDS}
    data = {kind: values.tobytes() for kind, values in storages.items()}
    found = read(tmp_path, archive(pickled(content), data))
    for kind, values in storages.items():
        np.testing.assert_array_equal(found[kind], values)
        assert found[kind].dtype == values.dtype


@pytest.mark.parametrize("new", [True, False])
def test_what_pytorch_saves_is_read_without_it(tmp_path, new):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    square = torch.arange(24.0).reshape(4, 6)
    tensors = torch.nn.BatchNorm1d(3).state_dict() | {
        "turned": square.t(),
        "part": square[1:3, ::2],
        "half": square.half(),
        "brain": square.bfloat16(),
        "parameter": torch.nn.Parameter(square.clone()),
    }
    path = tmp_path / "w.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=new)
    found = torch_file.read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.detach().float())


def one(*fields, **options):
    return {"a": Stored(*fields, **options)}


@pytest.mark.parametrize(
    "content",
    [
        one(-1),
        one(1),  # its last value would be one too far
        one(0, (4, 6), (-6, 1)),
        one(23, (4, 6), (-6, -1)),
        one(0, (-4, -6)),
        one(0, (5, 6)),
        one(0, (2**62, 2), (0, 0)),
        one(0, (5, 5), (0, 1)),  # more values than there are, though all within
        one(0, (2**40,), (0,)),
        one(0, (4,), (6, 1)),
        one(0, (4, 6), (6,)),
        one(0.0),
        one(True, (2,), (1,)),
        one(0, (4.0, 6), (6, 1)),
        one(0, ((4,), 6), (6, 1)),
        one(0, 24, 1),
        one(0, (1,) * 70, (1,) * 70),
        one(key="1"),
        one(key=0),
        one(kind="LongStorage"),  # reads the same bytes as half as many
        {"a": 1},
        {5: Stored()},
        {"state_dict": {"a": 1}, "b": Stored()},
        [Stored()],
        None,
    ],
)
@pytest.mark.parametrize("form", [archive, old])
def test_tensors_that_cannot_be_are_refused(tmp_path, content, form):
    with pytest.raises(ValueError, match="not a PyTorch file of named tensors"):
        read(tmp_path, form(pickled(content)))


FINE = pickled(TENSORS)
KEY = b"X\x01\x00\x00\x00a"
MANY = 100_000
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n("


@pytest.mark.parametrize(
    "program",
    [
        b"",
        FINE[:-1],
        b"\x80\x02}r\xff\xff\xff\x7f.",  # remember it at place 2^31
        b"\x80\x02X\xff\xff\xff\x7fa.",  # a text of 2 GB
        b"\x80\x04\x8d" + struct.pack("<q", 2**40) + b"a.",
        b"\x80\x05\x96" + struct.pack("<q", 2**31) + b"a.",  # a bytearray
        b"\x80\x04\x95" + struct.pack("<q", 2**40) + b"N.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        b"\x80\x02})" + b"\x85" * MANY + b"K\x01s.",  # a key that cannot be hashed to the end
        b"\x80\x02ccollections\nOrderedDict\n]])" + b"\x85" * MANY + b"K\x01\x86a\x85R.",
        b"\x80\x02}" + KEY + b"]" * MANY + b"a" * (MANY - 1) + b"s.",
        b"\x80\x02}" + REBUILD * 9 + b"N" + b"K\x00))tR" * 9 + KEY + b"s.",  # a tensor of a tensor
        b"\x80\x02cos\nsystem\n" + KEY + b"\x85R.",
        b"\x80\x02cbuiltins\neval\n" + KEY + b"\x85R.",
        b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02K\x05Q.",
        b"(lp0\n.",
        b"0.",
        b"\x80\x02\x87.",
    ],
)
@pytest.mark.parametrize("form", [archive, old])
def test_programs_that_would_do_harm_are_refused(tmp_path, program, form):
    content = form(program)
    (tmp_path / "w.pth").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a PyTorch file of named tensors"):
            torch_file.read_tensors(tmp_path / "w.pth")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 + 200 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", range(5))
def test_tuples_become_lists_which_cannot_be_keys(length):
    values = tuple(range(length))
    found = torch_file._Unpickler(io.BytesIO(pickle.dumps(("a", values), 2))).load()
    assert found == ["a", list(values)]


def test_a_tensor_is_of_a_storage_and_of_nothing_else():
    with pytest.raises(ValueError, match="a tensor of shape"):
        torch_file._tensor(torch_file._tensor(torch_file._Storage("0", None), 0, [], []), 0, [], [])


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    for form in (archive, old, bytes):
        with pytest.raises(ValueError, match="not a PyTorch file"):
            read(tmp_path, form(pickle.dumps({"a": Harmful()}, 2)))
        assert not (tmp_path / "harm").exists()


def claims(*fields, value=2**31):
    """An archive whose directory says something untrue of its last member."""
    content = bytearray(archive(FINE))
    for field in fields:
        start = content.rindex(b"PK\x01\x02") + field
        content[start : start + 4] = struct.pack("<I", value)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (archive(FINE, compression=zipfile.ZIP_DEFLATED), "not an archive as torch.save"),
        (archive(FINE, {"0": bytes(10**7)}, compression=zipfile.ZIP_BZIP2), "not an archive"),
        (claims(24), "not an archive as torch.save"),  # its size
        (claims(20), "not an archive as torch.save"),  # its size as it lies there
        (claims(20, 24), "not an archive as torch.save"),
        (claims(8, value=1), "encrypted"),
        (claims(6, value=99), ""),  # written by a future version
        (archive(FINE)[:-30], ""),
        (archive(FINE).replace(b"data.pkl", b"dada.pkl"), "not an archive as torch.save"),
        (old(FINE, lengths=(2**62,)), ""),
        (old(FINE, lengths=(-1,)), ""),
        (old(FINE, lengths=(25,)), ""),
        (old(FINE, keys=("1",)), ""),
        (old(FINE, keys=()), ""),
        (old(FINE, keys=([],)), ""),
        (pickle.dumps(5), "not written by torch.save"),
        (b"", ""),
    ],
)
def test_containers_that_lie_are_refused(tmp_path, content, expected):
    with pytest.raises(ValueError, match=f"not a PyTorch file of named tensors: .*{expected}"):
        read(tmp_path, content)


def test_a_file_that_cannot_be_opened_is_another_matter(tmp_path):
    with pytest.raises(FileNotFoundError):
        torch_file.read_tensors(tmp_path / "missing.pth")


def mutate(generator, content):
    content = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        place, kind = generator.integers(len(content)), generator.integers(5)
        if kind == 0:
            content[place] = generator.integers(256)
        elif kind == 1:
            content[place] ^= 1 << int(generator.integers(8))
        elif kind == 2:
            del content[place : place + generator.integers(1, 9)]
        elif kind == 3:
            content[place:place] = generator.bytes(generator.integers(1, 9))
        else:
            start = generator.integers(len(content))
            content[place:place] = content[start : start + 20]
        content = content or bytearray(1)
    return bytes(content)


def fuzz(tmp_path, mutations, seed=0):
    """Reads files with a few bytes changed; how many of them are still files of tensors."""
    generator = np.random.default_rng(seed)
    forms = [
        lambda: archive(mutate(generator, FINE)),
        lambda: old(mutate(generator, FINE)),
        lambda: mutate(generator, archive(FINE)),
        lambda: mutate(generator, old(FINE)),
        lambda: archive(mutate(generator, pickled(TENSORS, 4))),
    ]
    read_well = 0
    tracemalloc.start()
    try:
        for number in range(mutations):
            content = forms[number % len(forms)]()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                tensors = read(tmp_path, content)
            except ValueError:
                pass
            else:
                read_well += 1
                assert all(array.nbytes <= len(content) for array in tensors.values())
                # A read outside the storage would crash here at some time.
                [array.copy() for array in tensors.values()]
            assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    finally:
        tracemalloc.stop()
    return read_well


def test_damaged_files_end_in_a_value_error_and_take_no_memory(tmp_path):
    assert 20 < fuzz(tmp_path, 1000) < 200
