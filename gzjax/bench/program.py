"""What a compiled program does, read off its text: kernels, copies, what devices exchange."""

import re
from typing import NamedTuple

# Instructions that move or compute nothing, or wait for what another began.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id", "while", "call", "conditional"),
    *("async-start", "async-update", "async-done"),
}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z0-9\-]*)\(([^)]*)\)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+)")
_PART = re.compile(r"(calls|to_apply)=%?([\w.\-]+)")


class Census(NamedTuple):
    """The instructions of a program, those in loops counted once.

    moved: bytes of what kernels read and write, each array whole.
    kernels: that run on a device one after the other: fusions, library calls, copies and others.
    fusions: among them, what XLA made of several operations.
    library: calls of cuDNN, cuBLAS and their like.
    convolutions: that XLA computes itself, in fusions or alone; on a TPU products of matrices, too.
    gathers: of single elements, in fusions or alone.
    copies: copies and transpositions that stand alone, mostly from layout to layout.
    collectives: exchanges between devices ...
    exchanged: ... and the bytes of their results.
    """

    moved: int
    kernels: int
    fusions: int
    library: int
    convolutions: int
    gathers: int
    copies: int
    collectives: int
    exchanged: int


def census(text: str) -> Census:
    """Counts what is in the text of a compiled program, as `Compiled.as_text` gives it."""
    fused = {
        name
        for line in text.splitlines()
        for how, name in _PART.findall(line)
        # A fusion's parts run within it, a reduction's for each element; what is called runs.
        if (how == "calls" and " fusion(" in line) or (how == "to_apply" and " call(" not in line)
    }
    run, every, moved, exchanged, library = [], [], 0, 0, 0
    computation, sizes = "", dict[str, int]()
    for line in text.splitlines():
        if begins := _COMPUTATION.match(line):
            computation = begins[1]
        if not (found := _INSTRUCTION.match(line)):
            continue
        name, shapes, operation, operands = found.groups()
        every.append(operation)
        sizes[name] = bytes_of(shapes)
        if computation in fused or operation in FREE or operation.endswith("-done"):
            continue
        run.append(operation)
        moved += sizes[name] + sum(sizes.get(part, 0) for part in _NAME.findall(operands))
        library += (
            operation == "custom-call" and re.search(r'target="__(cu|triton)', line) is not None
        )
        if operation.removesuffix("-start") in COLLECTIVES:
            exchanged += sizes[name]
    return Census(
        moved=moved,
        kernels=len(run) - run.count("copy-start"),
        fusions=run.count("fusion"),
        library=library,
        convolutions=every.count("convolution"),
        gathers=every.count("gather"),
        copies=run.count("copy") + run.count("transpose"),
        collectives=sum(name.removesuffix("-start") in COLLECTIVES for name in run),
        exchanged=exchanged,
    )


def bytes_of(shapes: str) -> int:
    """Bytes of the arrays in a shape's text, such as `(f32[32]{0}, bf16[4,8])`."""
    total = 0
    for dtype, bits, sides in _ARRAY.findall(shapes):
        size = 8 if dtype == "pred" else int(bits)
        for side in filter(None, sides.split(",")):
            size *= int(side)
        total += -(-size // 8)
    return total
