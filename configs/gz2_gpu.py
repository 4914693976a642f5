"""The whole Galaxy Zoo challenge on one GPU: EfficientNetV2-S, bfloat16, everything on the device.

    launch/run --config configs/gz2_gpu.py --config.data.root=FOLDER --workdir runs/gpu

FOLDER is that of `configs/gz2.py`, and what is not set here is as there.

Sources: the network, Tan & Le 2021 (arXiv:2104.00298), whose fused early blocks suit GPUs; its
weights of ImageNet come from the Hugging Face hub.
Time, score: not measured yet. By `launch/bench compile` an H100 takes at least 43 ms for a step
and 9 s for an epoch, on paper (docs/performance.md).

The images, 12 GB of the whole challenge, are copied to the device once, so that nothing is decoded
or sent while it trains: beside what the step itself needs, that is for GPUs of 40 GB and more. On
smaller ones, `--config.data.on_device=False --config.data.processes=4`, and a smaller batch.
"""

from gzjax.run.recipes import recipe


def get_config():
    """See the module's docstring."""
    config = recipe("gz2")
    config.batch_size = 256
    config.evaluate.batch_size = 512

    # The central square at its full resolution; views magnify it a little.
    config.data.canvas = 256
    config.data.on_device = True

    config.model.name = "efficientnetv2-s"
    config.model.image_size = 256
    config.model.dtype = "bfloat16"
    config.model.stochastic_depth = 0.2

    config.optim.warmup = 2.0
    return config
