"""Reference layers in NumPy, patch by patch as section 5.1 defines them: slow, plain, and the oracle for Keras.

Images and feature maps are (height, width, channels), without a batch axis; sums are taken in float64.
Impossible sizes are a ValueError, as in convspec.arithmetic.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from convspec.arithmetic import conv_output_size, pool_output_size, same_padding

Array = np.ndarray
Pair = int | tuple[int, int]  # one number for both axes, or (height, width)


def _pair(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) and len(value) == 2 else (value, value)


def _reassemble(image: Array, spans: list[list[slice]], transform: Callable[[Array], Array]) -> Array:
    """Extract every patch, transform each in the same way and lay the vectors out in place (figure 5.4)."""
    rows, columns = spans
    return np.array([[transform(image[row, column]) for column in columns] for row in rows])


def conv2d(
    image: ArrayLike, kernel: ArrayLike, bias: ArrayLike = 0.0, stride: Pair = 1, padding: str = "valid"
) -> Array:
    """Convolve an image with a kernel (figure 5.4).

    Args:
        image: Of shape (height, width, channels).
        kernel: Of shape (height, width, channels, filters).
        bias: One number, or one for each filter.
        stride: Pixels from one window to the next.
        padding: "valid", or "same" for zeros around the image (figure 5.6).

    Returns:
        Feature maps of shape (rows, columns, filters).

    Raises:
        ValueError: For other shapes, a kernel of another number of channels than the image, a bias of another number of
            filters, and impossible sizes.
    """
    pixels, weights = np.asarray(image, float), np.asarray(kernel)
    if pixels.ndim != 3 or weights.ndim != 4:
        raise ValueError(f"image must have 3 axes and kernel 4, got shapes {pixels.shape} and {weights.shape}")
    if pixels.shape[-1] != weights.shape[2]:
        raise ValueError(f"kernel must have the image's {pixels.shape[-1]} channels, got {weights.shape[2]}")
    if np.shape(bias) not in ((), weights.shape[3:]):
        raise ValueError(
            f"bias must be one number, or one for each of {weights.shape[3]} filters, got shape {np.shape(bias)}"
        )
    margins, spans = [], []
    for axis, step in enumerate(_pair(stride)):
        size, window = pixels.shape[axis], weights.shape[axis]
        margins.append(same_padding(size, window, step) if padding == "same" else (0, 0))
        starts = [i * step for i in range(conv_output_size(size, window, step, padding))]
        spans.append([slice(start, start + window) for start in starts])
    padded = np.pad(pixels, [*margins, (0, 0)])
    # The tensor product with the same kernel turns each 3D patch into a vector with one number a filter.
    return _reassemble(padded, spans, lambda patch: np.tensordot(patch, weights, axes=3)) + np.asarray(bias)


def _pool2d(image: ArrayLike, pool: Pair, stride: Pair | None, padding: str, reduce: Callable[..., Array]) -> Array:
    pixels = np.asarray(image, float)
    if pixels.ndim != 3:
        raise ValueError(f"image must have 3 axes, got shape {pixels.shape}")
    windows = _pair(pool)
    spans = []
    for axis, step in enumerate(windows if stride is None else _pair(stride)):
        size, window = pixels.shape[axis], windows[axis]
        before = same_padding(size, window, step)[0] if padding == "same" else 0
        starts = [i * step - before for i in range(pool_output_size(size, window, step, padding))]
        # Cut to the image, so that padding is neither a maximum nor counted in an average.
        spans.append([slice(max(start, 0), start + window) for start in starts])
    return _reassemble(pixels, spans, lambda patch: reduce(patch, axis=(0, 1)))


def max_pool2d(image: ArrayLike, pool: Pair = 2, stride: Pair | None = None, padding: str = "valid") -> Array:
    """Return the largest value of each channel in each window (section 5.1.2).

    Args:
        image: Of shape (height, width, channels).
        pool: Size of the window.
        stride: Pixels from one window to the next; by default the pool size.
        padding: "valid" or "same".

    Returns:
        Feature maps of shape (rows, columns, channels).
    """
    return _pool2d(image, pool, stride, padding, np.max)


def average_pool2d(image: ArrayLike, pool: Pair = 2, stride: Pair | None = None, padding: str = "valid") -> Array:
    """Return the mean of each channel in each window over its real pixels; otherwise like `max_pool2d`."""
    return _pool2d(image, pool, stride, padding, np.mean)


def dense(inputs: ArrayLike, weights: ArrayLike, bias: ArrayLike = 0.0) -> Array:
    """Multiply inputs (..., inputs) by weights (inputs, units) and add the bias: (..., units) (listing 5.2)."""
    return np.tensordot(np.asarray(inputs, float), np.asarray(weights), axes=1) + np.asarray(bias)


def relu(values: ArrayLike) -> Array:
    """Replace negative values by 0."""
    return np.maximum(values, 0.0)


def softmax(logits: ArrayLike) -> Array:
    """Return probabilities over the last axis: positive, in the order of the logits, and 1 in sum (listing 5.2)."""
    values = np.asarray(logits, float)
    # Less the largest, which changes nothing but keeps exp from overflowing.
    exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
