"""convspec.reference against Keras, and what must hold of any convolution or pooling, with no oracle at all.

How far Keras may be from the reference. It adds up n products in float32, whose unit roundoff is u = 2^-24. Each
product is rounded once and goes through at most n - 1 sums, in whatever order, and a bias or division is one rounding
more: each of the n terms is off by at most (1 + u)^(n + 1) - 1 < (n + 2) u of itself. So the whole is off by at most
(n + 2) u times the sum of the terms' absolute values, which is what the reference makes of absolute inputs. The
reference's own float64 is 2^29 times finer. A GPU may first cut both factors to TF32's 10 bits, which adds 2^-9.

Sums and products of small whole numbers are exact in float32: what needs no oracle compares with ==.
"""

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import layers

from convspec import reference
from convspec.arithmetic import PADDINGS, same_padding
from convspec.backend import accelerators

Array = np.ndarray
each_padding = pytest.mark.parametrize("padding", PADDINGS)


def _tolerance(products: int) -> float:
    return (products + 2) * 2.0**-24 + (2.0**-9 if accelerators() else 0)


def _run(layer: keras.Layer, values: Any, *weights: Any) -> Array:
    """One image or vector through a Keras layer with these weights."""
    batch = np.asarray(values, "float32")[None]
    layer.build(batch.shape)
    layer.set_weights([np.asarray(weight) for weight in weights])
    return keras.ops.convert_to_numpy(layer(batch))[0]


def _numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _check_conv2d(height: int, width: int, kernel: tuple[int, ...], stride: Any, padding: str, seed: int = 0) -> None:
    image, weights, bias = _numbers(seed, height, width, kernel[2]), _numbers(seed + 1, *kernel), _numbers(2, kernel[3])
    layer = layers.Conv2D(kernel[3], kernel[:2], strides=stride, padding=padding)
    actual = _run(layer, image, weights, bias)
    expected = reference.conv2d(image, weights, bias, stride, padding)
    sizes = reference.conv2d(abs(image), abs(weights), abs(bias), stride, padding)
    assert actual.shape == expected.shape
    off = abs(actual - expected) / sizes
    assert off.max() <= _tolerance(int(np.prod(kernel[:3]))), f"{height}x{width}, {kernel}, stride {stride}, {padding}"


def _averaged(image: Array, pool: Any, stride: Any, padding: str) -> Array:
    """By the reference; for Keras on PyTorch, where padding that is not the same on both sides repeats the edge, of
    the image with that edge.
    """
    windows = pool if isinstance(pool, tuple) else (pool, pool)
    steps = windows if stride is None else stride if isinstance(stride, tuple) else (stride, stride)
    around = [same_padding(*axis) for axis in zip(image.shape[:2], windows, steps, strict=True)]
    if padding == "same" and keras.backend.backend() == "torch" and any(before != after for before, after in around):
        image, padding = np.pad(image, [*around, (0, 0)], mode="edge"), "valid"
    return reference.average_pool2d(image, pool, stride, padding)


def _check_pooling(image: Array, pool: Any, stride: Any, padding: str) -> None:
    options = {"strides": stride, "padding": padding}
    case = f"{image.shape}, pool {pool}, stride {stride}, {padding}"
    largest = _run(layers.MaxPooling2D(pool, **options), image)
    assert np.array_equal(largest, reference.max_pool2d(image, pool, stride, padding)), f"max of {case}"
    mean = _run(layers.AveragePooling2D(pool, **options), image)
    expected = _averaged(image, pool, stride, padding)
    assert mean.shape == expected.shape
    off = abs(mean - expected) / _averaged(abs(image), pool, stride, padding)
    assert off.max() <= _tolerance(int(np.prod(pool)) ** (1 if isinstance(pool, tuple) else 2)), f"average of {case}"


STEPS = st.integers(1, 5) | st.tuples(st.integers(1, 5), st.integers(1, 5))


@each_padding
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(1, 5)),
    stride=STEPS,
    seed=st.integers(0, 2**16),
)
def test_keras_convolves_like_the_reference(
    padding: str, height: int, width: int, kernel: tuple[int, ...], stride: Any, seed: int
) -> None:
    if padding == "valid":
        height, width = max(height, kernel[0]), max(width, kernel[1])
    _check_conv2d(height, width, kernel, stride, padding, seed)


@each_padding
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 4)),
    pool=STEPS,
    stride=st.none() | STEPS,
    seed=st.integers(0, 2**16),
)
def test_keras_pools_like_the_reference(
    padding: str, shape: tuple[int, int, int], pool: Any, stride: Any, seed: int
) -> None:
    if padding == "valid":
        shape = (max(shape[0], 5), max(shape[1], 5), shape[2])
    _check_pooling(_numbers(seed, *shape), pool, stride, padding)


@given(inputs=st.integers(1, 300), units=st.integers(1, 20), rows=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_keras_dense_layers_multiply_like_the_reference(inputs: int, units: int, rows: int, seed: int) -> None:
    values, weights, bias = _numbers(seed, rows, inputs), _numbers(seed + 1, inputs, units), _numbers(2, units)
    off = abs(_run(layers.Dense(units), values, weights, bias) - reference.dense(values, weights, bias))
    sizes = reference.dense(abs(values), abs(weights), abs(bias))
    assert (off / sizes).max() <= _tolerance(inputs)


@given(seed=st.integers(0, 2**16), classes=st.integers(2, 30), scale=st.floats(0.01, 50))
def test_keras_softmax_is_the_references(seed: int, classes: int, scale: float) -> None:
    logits = np.float32(scale) * _numbers(seed, 2, classes)
    actual, expected = _run(layers.Softmax(), logits), reference.softmax(logits)
    # exp makes a share of a difference's rounding; exp, sum and division round a few times more. What float32 cannot
    # hold, below 1e-37, may be 0.
    spread = np.ptp(logits, axis=-1, keepdims=True)
    assert (abs(actual - expected) <= (2 * spread + classes + 10) * 2.0**-24 * expected + 1e-37).all()


def test_keras_relu_is_the_references() -> None:
    values = np.array([-3.5, -0.0, 0.0, 2.5], "float32")
    assert reference.relu(values).tolist() == _run(layers.ReLU(), values).tolist() == [0.0, 0.0, 0.0, 2.5]


def _patches(image: Array, size: int = 3, **options: Any) -> Array:
    """The patches of a one-channel image themselves, each (size, size): one filter for each place in the window."""
    found = reference.conv2d(image[..., None], np.eye(size * size).reshape(size, size, 1, size * size), **options)
    return found.reshape(*found.shape[:2], size, size)


TILES = np.arange(1.0, 26.0).reshape(5, 5)


@each_padding
@pytest.mark.parametrize("stride", [1, 2])
def test_each_patch_is_cut_out_where_padding_and_stride_put_it(padding: str, stride: int) -> None:
    """Figures 5.5 to 5.7, where a window of 3x3 is padded by one row of zeros on each side."""
    padded = np.pad(TILES, 1) if padding == "same" else TILES
    starts = range(0, len(padded) - 2, stride)
    patches = _patches(TILES, padding=padding, stride=stride)
    assert patches.shape == (len(starts), len(starts), 3, 3)
    for (i, top), (j, left) in product(enumerate(starts), repeat=2):
        assert np.array_equal(patches[i, j], padded[top : top + 3, left : left + 3]), f"output [{i}, {j}]"


def test_an_odd_row_of_padding_goes_below_and_to_the_right() -> None:
    assert _patches(TILES, 2, padding="same")[0, 0].tolist() == [[1, 2], [6, 7]]
    assert _patches(TILES, 2, padding="same")[4, 4].tolist() == [[25, 0], [0, 0]]


def test_a_bias_is_one_number_or_one_a_filter() -> None:
    image, kernel = np.ones((2, 2, 1)), np.ones((2, 2, 1, 3))
    assert reference.conv2d(image, kernel, 1).ravel().tolist() == [5, 5, 5]
    assert reference.conv2d(image, kernel, [1, 2, 3]).ravel().tolist() == [5, 6, 7]


def test_a_convolution_is_not_flipped() -> None:
    kernel = np.arange(9.0).reshape(3, 3, 1, 1)
    assert reference.conv2d(TILES[:3, :3, None], kernel).item() == (TILES[:3, :3] * kernel[..., 0, 0]).sum()


def test_padding_is_never_the_maximum() -> None:
    assert (reference.max_pool2d(np.full((3, 3, 1), -7.0), 2, padding="same") == -7).all()


def test_an_average_counts_real_pixels_only() -> None:
    assert (reference.average_pool2d(np.full((5, 4, 1), 6.0), 3, padding="same") == 6).all()


@given(logits=arrays("float64", (3, 5), elements=st.floats(-300, 300)))
def test_ratios_of_softmax_are_exponentials_of_the_logits_differences(logits: Array) -> None:
    probabilities = reference.softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-14)
    ratios = np.log(probabilities) - np.log(probabilities[:, :1])
    np.testing.assert_allclose(ratios, logits - logits[:, :1], rtol=0, atol=1e-11)


def test_softmax_of_huge_logits_neither_overflows_nor_vanishes() -> None:
    assert reference.softmax([[1e5, -1e5], [-1e5, -1e5]]).tolist() == [[1.0, 0.0], [0.5, 0.5]]


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_whatever_numbers_the_reference_is_given_it_adds_up_in_float64(kind: str) -> None:
    top = {"uint8": 255, "float32": 2**24}[kind]  # add 1 to this, and it is lost
    row, ones = np.array([top, 1, 1], kind), np.ones((3, 1), kind)
    assert reference.dense(row, ones).item() == top + 2
    assert reference.conv2d(row.reshape(1, 3, 1), ones.reshape(1, 3, 1, 1)).item() == top + 2
    assert reference.average_pool2d(row.reshape(1, 3, 1), (1, 3)).item() == (top + 2) / 3
    shares = [1 / (1 + np.e), 1 / (1 + 1 / np.e)]
    assert reference.softmax(np.array([0, 1], kind)).tolist() == pytest.approx(shares, rel=1e-15)


def test_pooling_windows_are_2x2_unless_given() -> None:
    image = np.arange(16.0).reshape(4, 4, 1)
    assert reference.max_pool2d(image).ravel().tolist() == [5, 7, 13, 15]
    assert reference.average_pool2d(image).ravel().tolist() == [2.5, 4.5, 10.5, 12.5]


THREE: Any = (2, 2, 2)  # of height and width


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: reference.conv2d(np.ones((5, 5, 3)), np.ones((3, 3, 1, 2))),
            "kernel must have the image's 3 channels, got 1",
        ),
        (
            lambda: reference.conv2d(np.ones((5, 2, 1)), np.ones((3, 3, 1, 2))),
            "kernel must fit in a valid input of size 2, got 3 (extent 3 at dilation 1)",
        ),
        (
            lambda: reference.conv2d(np.ones((5, 5, 2)), np.ones((3, 3, 2))),
            "image must have 3 axes and kernel 4, got shapes (5, 5, 2) and (3, 3, 2)",
        ),
        (
            lambda: reference.conv2d(np.ones((5, 5, 1)), np.ones((3, 3, 1, 1)), [1, 2, 3]),
            "bias must be one number, or one for each of 1 filters, got shape (3,)",
        ),
        (
            lambda: reference.conv2d(np.ones((5, 5, 1)), np.ones((3, 3, 1, 3)), [[1, 2, 3]]),
            "bias must be one number, or one for each of 3 filters, got shape (1, 3)",
        ),
        (lambda: reference.max_pool2d(np.ones((4, 4))), "image must have 3 axes, got shape (4, 4)"),
        (lambda: reference.average_pool2d(np.ones((2, 4, 4, 3))), "image must have 3 axes, got shape (2, 4, 4, 3)"),
        (lambda: reference.max_pool2d(np.ones((5, 2, 1)), 3), "pool must fit in a valid input of size 2, got 3"),
        (
            lambda: reference.average_pool2d(np.ones((5, 5, 1)), 2, 0),
            "stride must be a whole number, at least 1, got 0",
        ),
        (
            lambda: reference.average_pool2d(np.ones((5, 5, 1)), padding="full"),
            "padding must be one of ('valid', 'same'), got 'full'",
        ),
        (
            lambda: reference.max_pool2d(np.ones((5, 5, 1)), pool=THREE),
            "pool must be a whole number, at least 1, got (2, 2, 2)",
        ),
        (
            lambda: reference.conv2d(np.ones((5, 5, 1)), np.ones((1, 1, 1, 1)), stride=THREE),
            "stride must be a whole number, at least 1, got (2, 2, 2)",
        ),
    ],
)
def test_impossible_input_is_an_error_that_names_argument_and_value(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
