"""The same network in PyTorch, on the same device, in the same run."""

import contextlib
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax

from gzjax.bench import timing
from gzjax.bench.plan import Plan, Row, Step, columns
from gzjax.run.config import Options

CALLS = 3  # of a step in its turn: in training, too, one step follows another


def measure_peer(plan: Plan) -> list[Row]:
    """Our train step and PyTorch's in turns; on a CPU in both of its memory layouts.

    PyTorch's step is forward, backward and AdamW on images that are there already; ours draws
    random views, too, and follows the average of the weights.

    Raises:
      Missing: PyTorch, or the network in it.
    """
    gpu = jax.default_backend() == "gpu"
    layouts = ("channels_last",) if gpu else ("channels_last", "contiguous")
    rows = []
    for options in plan.combinations():
        with contextlib.ExitStack() as stack:
            players = [
                stack.enter_context(Player(options, plan.tree.size, layout, gpu))
                for layout in layouts
            ]
            theirs: dict[str, Callable[[], Any]] = {player.name: player for player in players}
            calls: dict[str, Callable[[], Any]] = {"gzjax": Step(options, plan.tree), **theirs}
            measured = timing.in_turns(calls, plan.repeats, CALLS)
        best = min(theirs, key=lambda name: measured[name].median)
        for name, seconds in measured.items():
            rows.append(
                columns(options)
                | {"who": name}
                | timing.rates(options.run.batch_size, seconds)
                | {
                    "gzjax against it": seconds.median / measured["gzjax"].median,
                    "": "PyTorch's best" if name == best else "",
                }
            )
    return rows


class Missing(Exception):
    """PyTorch is not there, or the network is not there in it."""


class Player:
    """PyTorch's train step in a process of its own, to be called like a function.

    In one process, the threads of one library would wait busily, and its memory lie in the way,
    while the other's turn is measured: there both lose up to half of their speed.

    Args:
      match: what `torch_step` takes.

    Raises:
      Missing: PyTorch, or the network in it; or a step failed.
    """

    def __init__(self, *match: Any):
        self.match = match
        spawning = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, mp_context=spawning)
        self.name = self._ask(name_of)

    def __call__(self) -> None:
        self._ask(take_step)

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def _ask(self, function: Callable[..., Any]) -> Any:
        try:
            return self.pool.submit(function, *self.match).result()
        except Exception as error:  # whatever it is, nothing can be compared
            self.pool.shutdown()
            text = " ".join(str(error).split())
            raise Missing(f"{type(error).__name__}: {text}") from None


def name_of(*match: Any) -> str:
    """PyTorch's name and version, and the layout; in the player's process."""
    return torch_step(*match)[0]


def take_step(*match: Any) -> None:
    """Takes a train step; in the player's process."""
    torch_step(*match)[1]()


@functools.cache
def torch_step(
    options: Options, outputs: int, layout: str, gpu: bool
) -> tuple[str, Callable[[], None]]:
    """PyTorch's name and version, and its train step; made once in a process.

    Args:
      options: name network, size, batch and type.
      outputs: of the network.
      layout: `channels_last` or `contiguous`.
      gpu: whether to compute on a GPU.
    """
    import torch

    name, size, batch = options.model.name, options.model.image_size, options.run.batch_size
    device = "cuda" if gpu else "cpu"
    if not gpu:
        torch.set_num_threads(timing.cores())
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    network = create(name, outputs, options.model.stochastic_depth)
    network = network.to(device, memory_format=formats[layout]).train()
    compiled = torch.compile(network) if gpu else network
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.rand(batch, 3, size, size, device=device).to(memory_format=formats[layout])
    labels = torch.rand(batch, outputs, device=device)
    half = options.model.dtype == "bfloat16"

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.mse_loss(compiled(images).float(), labels)
        loss.backward()
        optimiser.step()
        if gpu:
            torch.cuda.synchronize()

    return f"PyTorch {torch.__version__}, {layout}", step


def create(name: str, outputs: int, stochastic_depth: float) -> Any:
    """PyTorch's network: timm's or, where that is not there, geffnet's, which has no version 2."""
    theirs = ("" if name.startswith("efficientnet-b") else "tf_") + name.replace("-", "_")
    try:
        import timm
    except ImportError:  # or torchvision is missing, which it takes
        import geffnet

        return geffnet.create_model(
            theirs, num_classes=outputs, drop_rate=0.2, drop_connect_rate=stochastic_depth
        )
    return timm.create_model(
        theirs, num_classes=outputs, drop_rate=0.2, drop_path_rate=stochastic_depth
    )
