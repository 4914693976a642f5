"""The convolutions of an EfficientNet, each in the form that its platform runs fastest.

On a GPU or TPU, XLA's own convolutions have dedicated kernels. On a CPU its grouped convolution
is slow; there a depthwise convolution is a sum of k * k shifted products, with a backward pass
of its own. Both give the same numbers, and parameters look the same: kernels are
float[height, width, inputs per group, outputs].
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]

LAYOUT = ("NHWC", "HWIO", "NHWC")
METHODS = ("xla", "shifted", "portable", "plain")


def fastest_method(platform: str | None = None) -> str:
    """The depthwise method for a platform; by default for that which jax computes on."""
    return "shifted" if (platform or jax.default_backend()) == "cpu" else "xla"


def padding_of(shape: tuple[int, ...], kernel: int, stride: int, scheme: str) -> Padding:
    """Zeros to put around an image of this height and width: ((above, below), (left, right)).

    In TensorFlow's scheme, `same`, the result has ceil(side / stride) pixels, and an odd zero goes
    behind. In PyTorch's, `symmetric`, half a kernel is on both sides, whatever the stride.
    """
    if scheme not in ("same", "symmetric"):
        raise ValueError(f"padding {scheme!r}: expected one of same, symmetric")
    if scheme == "symmetric":
        return ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2))

    def same(side: int) -> tuple[int, int]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return total // 2, total - total // 2

    return same(shape[0]), same(shape[1])


def dense(
    images: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "k k inputs outputs"],
    stride: int,
    padding: Padding,
    method: str = "xla",
) -> Float[Array, "batch rows columns outputs"]:
    """Convolution over all channels; one by one pixel and stride 1 is a matrix product.

    Unless the method is `plain`, for runtimes that know best what to do with convolutions.
    """
    if kernel.shape[:2] == (1, 1) and stride == 1 and method != "plain":
        # As one matrix of all pixels: the kernel's gradient then sums over one axis, not three,
        # which takes a CPU a third of the time.
        pixels = images.reshape(-1, images.shape[-1]) @ kernel[0, 0]
        return pixels.reshape(*images.shape[:-1], kernel.shape[-1])
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), padding, dimension_numbers=LAYOUT
    )


def depthwise(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k 1 channels"],
    stride: int,
    padding: Padding,
    method: str,
) -> Float[Array, "batch rows columns channels"]:
    """Convolution of each channel with a kernel of its own, by one of `METHODS`.

    `portable` is the fastest one wherever the program is compiled, to predict alone; `plain` is
    `xla` here, see `dense`.
    """
    if method not in METHODS:
        raise ValueError(f"depthwise method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "portable":
        form = functools.partial(depthwise, stride=stride, padding=padding)
        return lax.platform_dependent(
            images,
            kernel,
            cpu=functools.partial(form, method="shifted"),
            default=functools.partial(form, method="xla"),
        )
    if method == "shifted":
        return _shifted(jnp.pad(images, ((0, 0), *padding, (0, 0))), kernel, stride)
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=LAYOUT,
        feature_group_count=images.shape[-1],
    )


def _windows(padded: jax.Array, kernel: int, stride: int) -> list[jax.Array]:
    """The k * k shifted views of an image, in the order of the kernel's pixels."""
    # Behind the barrier the zeros around the image stay. XLA would take the views that touch none
    # of them from the image without zeros, computing what that comes from once more.
    padded = lax.optimization_barrier(padded)
    batch, height, width, channels = padded.shape
    rows, columns = (height - kernel) // stride, (width - kernel) // stride
    return [
        lax.slice(
            padded,
            (0, row, column, 0),
            (batch, row + rows * stride + 1, column + columns * stride + 1, channels),
            (1, stride, stride, 1),
        )
        for row in range(kernel)
        for column in range(kernel)
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    taps = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
    windows = _windows(padded, kernel.shape[0], stride)
    # Summed in float32, as XLA's own convolution does: k * k roundings to bfloat16 would add up.
    products = [window * tap for window, tap in zip(windows, taps, strict=True)]
    return functools.reduce(jnp.add, products).astype(padded.dtype)


def _shifted_forward(padded, kernel, stride):
    return _shifted(padded, kernel, stride), (padded, kernel)


def _shifted_backward(stride, residuals, gradient):
    padded, kernel = residuals
    side = kernel.shape[0]
    # To the image: the same sum of shifts, with the kernel turned round. Strides leave zeros
    # between the gradient's pixels, and rows or columns at the end that no window reached.
    unreached = [(extent - side) % stride for extent in padded.shape[1:3]]
    around = [(side - 1, side - 1 + rest, stride - 1) for rest in unreached]
    zero = jnp.zeros((), gradient.dtype)
    spread = lax.pad(gradient, zero, [(0, 0, 0), *around, (0, 0, 0)])
    to_image = _shifted(spread, kernel[::-1, ::-1], 1)
    # To the kernel: k * k sums over all pixels. One variadic reduction reads the gradient once for
    # all of them. It stops at each image: so it runs on all cores, rounds less, and on several
    # devices leaves the sum over images a plain all-reduce, where a variadic one gathers parts.
    windows = _windows(padded, side, stride)
    products = [(window * gradient).astype(jnp.float32) for window in windows]
    zeros = [jnp.zeros((), jnp.float32)] * len(products)
    sums = lax.reduce(products, zeros, lambda *pair: list(map(jnp.add, *pair)), (1, 2))
    to_kernel = jnp.stack(sums).sum(axis=1).reshape(kernel.shape)
    return to_image, to_kernel.astype(kernel.dtype)


_shifted.defvjp(_shifted_forward, _shifted_backward)
