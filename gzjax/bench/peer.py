"""The same network in PyTorch, on the same device, in the same run."""

import os
from collections.abc import Callable
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
      ImportError: torch or geffnet are missing.
    """
    rows = []
    for config in subjects.combinations(settings):
        theirs = torch_steps(config)
        calls: dict[str, Callable[[], Any]] = {"gzjax": subjects.Step(config), **theirs}
        measured = timing.in_turns(calls, settings.repeats)
        medians = {name: seconds.median for name, seconds in measured.items()}
        best = min(theirs, key=lambda name: medians[name])
        for name, median in medians.items():
            rows.append(
                subjects.named(config)
                | {
                    "who": name,
                    "images/s": config.batch_size / median,
                    "gzjax against it": medians[name] / medians["gzjax"],
                    "": "PyTorch's best" if name == best else "",
                }
            )
    return rows


def torch_steps(config: ConfigDict) -> dict[str, Callable[[], Any]]:
    """PyTorch's train step in each form that may be its fastest."""
    import geffnet
    import torch

    name, size, batch = config.model.name, config.model.image_size, config.batch_size
    cuda = torch.cuda.is_available() and jax.default_backend() == "gpu"
    device = "cuda" if cuda else "cpu"
    if not cuda:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    layouts = {"channels_last": torch.channels_last}
    if not cuda:
        layouts["contiguous"] = torch.contiguous_format
    steps: dict[str, Callable[[], Any]] = {}
    for layout, memory_format in layouts.items():
        network = geffnet.create_model(
            ("tf_" if "lite" in name else "") + name.replace("-", "_"),
            num_classes=37,
            drop_rate=0.2,
            drop_connect_rate=config.model.stochastic_depth,
        )
        network = network.to(device, memory_format=memory_format).train()
        compiled = torch.compile(network) if cuda else network
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        images = torch.rand(batch, 3, size, size, device=device).to(memory_format=memory_format)
        labels = torch.rand(batch, 37, device=device)
        half = config.model.dtype == "bfloat16"

        def step(
            compiled=compiled, optimiser=optimiser, images=images, labels=labels, half=half
        ) -> None:
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.nn.functional.mse_loss(compiled(images).float(), labels)
            loss.backward()
            optimiser.step()
            if cuda:
                torch.cuda.synchronize()

        steps[f"PyTorch {torch.__version__}, {layout}"] = step
    return steps
