"""The same network in PyTorch, on the same device, in the same run."""

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
from ml_collections import ConfigDict

from gzjax.bench import subjects, timing
from gzjax.bench.subjects import Row, Settings


def measure_peer(settings: Settings) -> list[Row]:
    """Our train step and PyTorch's in turns; on a CPU in both of its memory layouts.

    PyTorch's step is forward, backward and AdamW on images that are there already; ours draws
    random views, too, and follows the average of the weights.

    Raises:
      Missing: PyTorch, or the network in it.
    """
    gpu = jax.default_backend() == "gpu"
    layouts = ("channels_last",) if gpu else ("channels_last", "contiguous")
    rows = []
    for config in subjects.combinations(settings):
        with contextlib.ExitStack() as stack:
            players = [stack.enter_context(Player(config, layout, gpu)) for layout in layouts]
            theirs: dict[str, Callable[[], Any]] = {player.name: player for player in players}
            calls: dict[str, Callable[[], Any]] = {"gzjax": subjects.Step(config), **theirs}
            measured = timing.in_turns(calls, settings.repeats)
        medians = {name: seconds.median for name, seconds in measured.items()}
        best = min(theirs, key=lambda name: medians[name])
        for name, seconds in measured.items():
            rows.append(
                subjects.named(config)
                | {
                    "who": name,
                    "images/s": config.batch_size / seconds.median,
                    "slowest": config.batch_size / seconds.most,
                    "fastest": config.batch_size / seconds.least,
                    "gzjax against it": medians[name] / medians["gzjax"],
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
      config: names network, size, batch and type.
      layout: `channels_last` or `contiguous`.
      gpu: whether to compute on a GPU.

    Raises:
      Missing: PyTorch, or the network in it; or a step failed.
    """

    def __init__(self, config: ConfigDict, layout: str, gpu: bool):
        spawning = multiprocessing.get_context("spawn")
        self.connection, theirs = spawning.Pipe()
        self.process = spawning.Process(target=_play, args=(theirs, config, layout, gpu))
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the line
        self.name = self._answer()

    def __call__(self) -> None:
        self.connection.send("step")
        self._answer()

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join()

    def _answer(self) -> str:
        try:
            what, text = self.connection.recv()
        except EOFError:
            self.process.join()
            raise Missing(f"PyTorch's process ended with status {self.process.exitcode}") from None
        if what == "fault":
            raise Missing(text)
        return text


def _play(connection: Connection, config: ConfigDict, layout: str, gpu: bool) -> None:
    """What a player's process does: a step whenever it is told to."""
    try:
        name, step = torch_step(config, layout, gpu)
        connection.send(("name", name))
        while connection.recv():
            step()
            connection.send(("done", ""))
    except EOFError:
        return
    except Exception as error:  # whatever it is, who waits has to know
        connection.send(("fault", f"{type(error).__name__}: {' '.join(str(error).split())}"))


def torch_step(config: ConfigDict, layout: str, gpu: bool) -> tuple[str, Callable[[], None]]:
    """PyTorch's name and version, and its train step."""
    import geffnet
    import torch

    name, size, batch = config.model.name, config.model.image_size, config.batch_size
    device = "cuda" if gpu else "cpu"
    if not gpu:
        torch.set_num_threads(timing.cores())
    formats = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    network = geffnet.create_model(
        ("tf_" if "lite" in name else "") + name.replace("-", "_"),
        num_classes=37,
        drop_rate=0.2,
        drop_connect_rate=config.model.stochastic_depth,
    )
    network = network.to(device, memory_format=formats[layout]).train()
    compiled = torch.compile(network) if gpu else network
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.rand(batch, 3, size, size, device=device).to(memory_format=formats[layout])
    labels = torch.rand(batch, 37, device=device)
    half = config.model.dtype == "bfloat16"

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.mse_loss(compiled(images).float(), labels)
        loss.backward()
        optimiser.step()
        if gpu:
            torch.cuda.synchronize()

    return f"PyTorch {torch.__version__}, {layout}", step
