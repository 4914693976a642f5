"""Programs for hardware you do not have: compiled, not run.

XLA compiles for a TPU or a GPU on any machine. The program says what it keeps in memory, computes,
moves and exchanges, which with a chip's published peaks bounds how fast it can be. A bound is no
measurement: it compares variants, and says what limits them.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from gzjax.bench import inference, timing
from gzjax.bench.plan import Plan, Row, columns, lower_train_step, model_of
from gzjax.bench.program import Census, census
from gzjax.data import devices
from gzjax.errors import UserError, one_line
from gzjax.run.config import Options
from gzjax.tree import Tree


class Chip(NamedTuple):
    """A chip's published peaks, a second.

    platform: `tpu` or `cuda`.
    flops: of matrix products in bfloat16, the fastest there are: more is not possible.
    memory: bytes read and written.
    link: bytes sent to other chips.
    latency: seconds that an exchange takes on its way from chip to chip, assumed.
    """

    platform: str
    flops: float
    memory: float
    link: float
    latency: float


# Cloud TPU documentation, "TPU v5e" and "TPU v6e"; NVIDIA H100 Tensor Core GPU Architecture, SXM5,
# dense, NVLink in one direction.
CHIPS = {
    "v5e": Chip("tpu", 197e12, 819e9, 200e9, 1e-6),
    "v6e": Chip("tpu", 918e12, 1638e9, 448e9, 1e-6),
    "h100": Chip("cuda", 989e12, 3352e9, 450e9, 5e-6),
}
# What XLA has to know of an H100 (GpuTargetConfigProto).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# A compiler's options: to choose between kernels by trying them needs the machine.
COMPILER: dict[str, dict[str, int]] = {"tpu": {}, "cuda": {"xla_gpu_autotune_level": 0}}
LARGEST = 256  # chips that scaling is extrapolated to
SKY, SKY_CHIPS = 10**9, (1, 8, 64)  # galaxies, and chips that may predict them
NOTE = (
    "The hours for 10^9 galaxies are a bound on paper, that of the predict step with one view. No "
    "program reaches it, and reading, decoding and writing are left out. The last line says how "
    "many of this machine's cores decode JPEGs as fast as a chip may predict."
)


def use_no_device() -> None:
    """Lets compilers be loaded on a machine without their devices; before jax looks for any."""
    jax.config.update("jax_platforms", "cpu")
    # Without these, a TPU's library looks for the machine that it is not on.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")


def measure_compiled(plan: Plan) -> list[Row]:
    """The train and the predict step, compiled for each of the plan's topologies.

    Raises:
      UserError: an unknown topology, or one that this environment cannot compile for.
    """
    if not plan.topologies:
        raise UserError("compile: expected --topologies, such as v5e:2x2 or h100:8")
    machines = {name: devices_of(name) for name in plan.topologies}
    for name, (_, found) in machines.items():
        for options in plan.combinations():
            if options.run.batch_size % len(found):
                raise UserError(
                    f"compile: {name} has {len(found)} chips, which cannot share a batch of "
                    f"{options.run.batch_size}; expected --batches that they can"
                )
    rows = []
    jpegs = inference.measure_decoding(plan)
    for name, (chip, found) in machines.items():
        for options in plan.combinations():
            for what, lower in {"train": lower_train_step, "predict": lower_predict_step}.items():
                placement = devices.place(found)
                program = lower(options, plan.tree, placement)
                # Not every compiler counts them; as the program is written, for one device.
                here: Any = lower(options, plan.tree, devices.place(jax.devices()[:1]))
                flops = here.cost_analysis()["flops"] / len(found)
                about = columns(options) | {"chips": f"{len(found)} {name}", "step": what}
                batch = options.run.batch_size // len(found)
                row = about | figures(program, chip, len(found), batch, flops)
                rate = row["images/s a chip, at most"] if what == "predict" else None
                rows.append(row | of_the_sky(rate, jpegs))
    return rows


def of_the_sky(rate: float | None, jpegs: float) -> Row:
    """How long `SKY` galaxies take, if a chip predicts and a core decodes that many a second.

    Chips share them without exchanges (`--part`). Empty, if there is no rate.
    """
    return {
        **{
            f"hours for 10^9, {chips} chip{'s' * (chips > 1)}": SKY / rate / chips / 3600
            if rate
            else ""
            for chips in SKY_CHIPS
        },
        "JPEGs/s a core": jpegs if rate else "",
        "cores a chip to decode": rate / jpegs if rate else "",
    }


def devices_of(topology: str) -> tuple[Chip, Sequence[Any]]:
    """The chip and the devices of a topology, such as `v5e:2x2` or `h100:8`.

    Raises:
      UserError: an unknown one, or one that this environment cannot compile for.
    """
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise UserError(
            f"--topologies: expected something like v5e:2x2 or h100:8, of {', '.join(CHIPS)}; "
            f"found {topology}"
        )
    chip = CHIPS[kind]
    try:
        if chip.platform == "tpu":
            described = topologies.get_topology_desc(f"{kind}:{shape or '2x2'}", platform="tpu")
        else:
            number = f"1x1x{shape or 1}"
            described = topologies.get_topology_desc(
                f"{kind}:{number}", platform="cuda", target_config=H100, topology=number
            )
    except Exception as error:  # each library has its own
        build = "tpu" if chip.platform == "tpu" else "cuda12"
        raise UserError(
            f"--topologies {topology}: not known here, or this environment has no compiler for it "
            f"({one_line(error)}); start with GZJAX_JAX={build}, which installs one"
        ) from None
    return chip, described.devices


def lower_predict_step(
    options: Options, tree: Tree, placement: devices.Placement
) -> jax.stages.Lowered:
    """The predict step with one view, lowered for a placement on any devices."""
    model = model_of(options, tree, placement, folded=True)
    # Not in pieces, as on a CPU, where FLOPs are counted: those of a loop count once.
    model = model._replace(test_views=model.test_views._replace(piece=0))
    weights = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement.replicated),
        jax.eval_shape(model.network.init, jax.random.key(0)),
    )
    batch = model.abstract_batch(options.run.batch_size, votes=False)
    predict: Any = model.predict_step(1)  # jitted
    return predict.lower(weights, batch)


def figures(lowered: Any, chip: Chip, chips: int, batch: int, flops: float) -> Row:
    """What a program does on each chip, with `batch` galaxies and `flops` there, and the bound."""
    began = timing.now()
    compiled = lowered.compile(compiler_options=COMPILER[chip.platform])
    seconds = timing.now() - began
    done, memory = census(compiled.as_text()), compiled.memory_analysis()
    computing, moving = flops / chip.flops, done.moved / chip.memory
    bound = functools.partial(step_seconds, chip, max(computing, moving), done)
    return {
        "compile s": seconds,
        "GFLOP": flops / 1e9,
        "GB moved": done.moved / 1e9,
        "MB an image": done.moved / 1e6 / batch,
        "arguments GB": memory.argument_size_in_bytes / 1e9,
        "temporary GB": memory.temp_size_in_bytes / 1e9,
        **{name: number for name, number in done._asdict().items() if name != "moved"},
        "limit": "memory" if moving > computing else "compute",
        "at best ms": 1e3 * bound(chips),
        "images/s a chip, at most": batch / bound(chips),
        f"of one chip's on {LARGEST}": bound(1) / bound(LARGEST),
    }


def step_seconds(chip: Chip, alone: float, done: Census, chips: int) -> float:
    """A step's time on this many chips: on one `alone`, and its exchanges one after the other.

    Each is an all-reduce over a two-dimensional torus, or over a switch: all chips but one pass its
    bytes on twice, in turn.
    """
    if chips == 1:
        return alone
    hops = 2 * np.sqrt(chips) if chip.platform == "tpu" else 2 * np.log2(chips)
    sent = 2 * (chips - 1) / chips * done.exchanged / chip.link
    return alone + sent + done.collectives * hops * chip.latency
