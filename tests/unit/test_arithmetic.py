"""convspec.arithmetic against real Keras layers: every small case."""

import re
from collections.abc import Callable, Iterable
from itertools import product
from math import prod
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from keras import layers

from convspec import models
from convspec.arithmetic import (
    PADDINGS,
    Field,
    Window,
    batch_normalization_parameters,
    conv2d_parameters,
    conv_output_size,
    dense_parameters,
    depthwise_conv2d_parameters,
    multiply_adds,
    pool_output_size,
    receptive_field,
    receptive_fields,
    same_padding,
    separable_conv2d_parameters,
)

# Each family of layers: how Keras makes one from (window, stride, padding, dilation), and what arithmetic says of it.
FAMILIES: dict[str, tuple[Callable, Callable]] = {
    "convolution": (lambda w, s, p, d: layers.Conv2D(1, w, strides=s, padding=p, dilation_rate=d), conv_output_size),
    "max pooling": (lambda w, s, p, _: layers.MaxPooling2D(w, strides=s, padding=p), pool_output_size),
    "average pooling": (lambda w, s, p, _: layers.AveragePooling2D(w, strides=s, padding=p), pool_output_size),
}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_padding = pytest.mark.parametrize("padding", PADDINGS)


def _or_refused(compute: Callable[[], int]) -> int | str:
    try:
        return compute()
    except ValueError:
        return "refused"


def _keras_size(layer: keras.Layer, size: int) -> int | str:
    """Return the side of the output; what Keras refuses has a side below 1 before Keras 3.15."""
    side = _or_refused(lambda: layer.compute_output_shape((1, size, size, 1))[1])
    return "refused" if isinstance(side, int) and side < 1 else side


def _check_size(family: str, size: int, window: int, stride: int, padding: str, dilation: int = 1) -> None:
    make, predict = FAMILIES[family]
    more = (dilation,) if dilation > 1 else ()
    predicted = _or_refused(lambda: predict(size, window, stride, padding, *more))
    actual = _keras_size(make(window, stride, padding, dilation), size)
    assert predicted == actual, (
        f"{family} of size {size}, window {window}, stride {stride}, {padding}, dilation {dilation}:"
        f" arithmetic says {predicted}, Keras {actual}"
    )


def _ones(layer: keras.Layer, *shape: int) -> np.ndarray:
    """What a layer with all weights one makes of one image of ones: whole numbers, to which a GPU may add some dust."""
    if not layer.built:
        layer.build((1, *shape))
    layer.set_weights([np.ones(weight.shape) for weight in layer.weights])
    return np.rint(keras.ops.convert_to_numpy(layer(np.ones((1, *shape), "float32")))[0])


@each_family
@each_padding
def test_output_size_is_what_keras_computes_at_every_small_size(family: str, padding: str) -> None:
    dilations = (1,) if "pooling" in family else (1, 2, 3, 4)
    for size, window, stride, dilation in product(range(1, 12), range(1, 7), range(1, 5), dilations):
        if stride == 1 or dilation == 1:  # Keras's layers take no two at once
            _check_size(family, size, window, stride, padding, dilation)


@pytest.mark.skipif(keras.__version__.startswith(("3.13", "3.14")), reason="needs Keras 3.15")
@pytest.mark.parametrize(("height", "width"), [(5, 5), (9, 4), (28, 28)])
def test_stride_and_dilation_together_are_those_of_a_depthwise_layer(height: int, width: int) -> None:
    for kernel, stride, dilation in product((1, 2), (2, 3), (2, 3)):
        layer = layers.DepthwiseConv2D(kernel, strides=stride, dilation_rate=dilation)
        predicted = [conv_output_size(size, kernel, stride, "valid", dilation) for size in (height, width)]
        assert list(_ones(layer, height, width, 1).shape) == [*predicted, 1], f"{kernel}, {stride}, {dilation}"


@given(size=st.integers(1, 500), pool=st.integers(1, 500))
def test_the_stride_of_pooling_is_its_window_unless_given(size: int, pool: int) -> None:
    assert _or_refused(lambda: pool_output_size(size, pool)) == _keras_size(layers.MaxPooling2D(pool), size)


def _measured_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int] | None:
    """Rows that Keras adds before and after, or None where its outer patches hold no pixel of the image to tell by."""
    # One filter for each row of the kernel hands over the patches themselves; pixels hold their place, counted from 1.
    layer = layers.Conv2D(
        kernel, (kernel, 1), strides=(stride, stride), dilation_rate=(dilation, 1), padding="same", use_bias=False
    )
    layer.build((1, size, 1, 1))
    layer.set_weights([np.eye(kernel).reshape(kernel, 1, 1, kernel)])
    image = np.arange(1, size + 1, dtype="float32").reshape(1, size, 1, 1)
    patches = np.rint(keras.ops.convert_to_numpy(layer(image)))[0, :, 0]
    if not (patches[0].any() and patches[-1].any()):
        return None
    starts = []
    for patch in patches[[0, -1]]:
        row = int(np.flatnonzero(patch)[0])
        starts.append(int(patch[row]) - 1 - row * dilation)
    return max(-starts[0], 0), max(starts[1] + dilation * (kernel - 1) + 1 - size, 0)


def test_same_padding_is_what_keras_adds_at_every_small_size() -> None:
    measured = 0
    for size, kernel, (stride, dilation) in product(
        range(1, 9), range(1, 6), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (1, 3)]
    ):
        if (actual := _measured_padding(size, kernel, stride, dilation)) is not None:
            measured += 1
            predicted = same_padding(size, kernel, stride, dilation)
            assert predicted == actual, f"size {size}, kernel {kernel}, stride {stride}, dilation {dilation}"
    assert measured > 200, "nearly every case must have been measured"


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int32])
def test_sizes_of_numpy_give_what_those_of_python_give(kind: type[np.integer]) -> None:
    for size, kernel, stride in product((27, 28, 200), (1, 3, 150), (1, 2, 3)):
        given: dict[str, Any] = {"size": kind(size), "kernel": kind(kernel), "stride": kind(stride)}
        assert conv_output_size(padding="same", **given) == conv_output_size(size, kernel, stride, "same")
        assert same_padding(**given) == same_padding(size, kernel, stride)
    two: Any = kind(2)
    many: Any = kind(200)  # twice that is more than a byte holds
    with pytest.raises(ValueError, match="extent 399 at dilation 2"):
        conv_output_size(many, many, dilation=two)
    assert same_padding(many, many, dilation=two) == same_padding(200, 200, dilation=2)
    assert conv2d_parameters((many, many), many, many) == 200**4 + 200
    assert depthwise_conv2d_parameters(two, many, many) == 5 * 200**2
    assert separable_conv2d_parameters(two, many, many, two) == 4 * 400 + 400 * 200 + 200
    assert dense_parameters(many, many) == 200**2 + 200
    assert batch_normalization_parameters(many) == (400, 800)
    assert receptive_field([(many, many)] * 2) == 200 * 200
    window = Window(two, two, "valid", many)
    assert receptive_fields(2000, [window] * 2) == receptive_fields(2000, [Window(2, 2, "valid", 200)] * 2)


def test_an_odd_row_of_padding_goes_after() -> None:
    assert [same_padding(6, kernel) for kernel in (1, 2, 3, 4)] == [(0, 0), (0, 1), (1, 1), (1, 2)]


# Each kind of layer from (kernel, channels, filters, multiplier, bias), and its parameters by arithmetic.
PARAMETERS: dict[str, tuple[Callable, Callable]] = {
    "convolution": (
        lambda k, c, f, m, b: layers.Conv2D(f, k, use_bias=b),
        lambda k, c, f, m, b: conv2d_parameters(k, c, f, b),
    ),
    "transposed": (
        lambda k, c, f, m, b: layers.Conv2DTranspose(f, k, use_bias=b),
        lambda k, c, f, m, b: conv2d_parameters(k, c, f, b),
    ),
    "depthwise": (
        lambda k, c, f, m, b: layers.DepthwiseConv2D(k, depth_multiplier=m, use_bias=b),
        lambda k, c, f, m, b: depthwise_conv2d_parameters(k, c, m, b),
    ),
    "separable": (
        lambda k, c, f, m, b: layers.SeparableConv2D(f, k, depth_multiplier=m, use_bias=b),
        lambda k, c, f, m, b: separable_conv2d_parameters(k, c, f, m, b),
    ),
    "dense": (lambda k, c, f, m, b: layers.Dense(f, use_bias=b), lambda k, c, f, m, b: dense_parameters(c, f, b)),
}


@pytest.mark.parametrize("kind", PARAMETERS)
@given(
    kernel=st.integers(1, 7) | st.tuples(st.integers(1, 7), st.integers(1, 7)),
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    multiplier=st.integers(1, 4),
    bias=st.booleans(),
)
@example(kernel=1, channels=1, filters=1, multiplier=1, bias=True)
def test_parameters_are_those_of_the_keras_layer(
    kind: str, kernel: int | tuple[int, int], channels: int, filters: int, multiplier: int, bias: bool
) -> None:
    make, count = PARAMETERS[kind]
    layer = make(kernel, channels, filters, multiplier, bias)
    layer.build((1, 9, 9, channels))
    assert count(kernel, channels, filters, multiplier, bias) == layer.count_params()


def test_a_bias_is_counted_unless_refused() -> None:
    assert conv2d_parameters(3, 4, 8) == 9 * 4 * 8 + 8
    assert dense_parameters(5, 3) == 5 * 3 + 3
    assert depthwise_conv2d_parameters(3, 4) == 9 * 4 + 4
    assert separable_conv2d_parameters(3, 4, 8) == 9 * 4 + 4 * 8 + 8


@given(channels=st.integers(1, 2000), center=st.booleans(), scale=st.booleans())
def test_batch_normalization_trains_beta_and_gamma_alone(channels: int, center: bool, scale: bool) -> None:
    layer = layers.BatchNormalization(center=center, scale=scale)
    layer.build((None, 4, 4, channels))
    trainable = sum(weight.shape[0] for weight in layer.trainable_weights)
    assert batch_normalization_parameters(channels, center, scale) == (trainable, layer.count_params())
    assert batch_normalization_parameters(channels) == (2 * channels, 4 * channels), "center and scale by default"


def _moved(model: keras.Model, size: int) -> np.ndarray:
    """moved[i, o]: does row o of the output move when the pixel at row i, column i of an empty image does?

    All weights are 1 and biases 0, so that nothing cancels, no relu is shut and what moves, moves by 1 or more.
    """
    for weight in model.weights:
        weight.assign(np.full(weight.shape, float(len(weight.shape) > 1)))
    images = np.zeros((size, size, size, model.input_shape[-1]), "float32")
    images[range(size), range(size), range(size)] = 1
    return (keras.ops.convert_to_numpy(model(images)) > 0.5).any(axis=(2, 3))


def _stack(size: int, windows: Iterable[Window], pooled: bool) -> keras.Model:
    model = keras.Sequential([keras.Input((size, size, 1))])
    for kernel, stride, padding, dilation in windows:
        if pooled and dilation == 1:
            model.add(layers.MaxPooling2D(kernel, strides=stride, padding=padding))
        else:
            model.add(layers.Conv2D(1, kernel, strides=stride, padding=padding, dilation_rate=dilation))
    return model


def _check_field(field: Field, moved: np.ndarray, exact: bool) -> int:
    """Nothing outside its field moves an output, and both ends of the field do; returns how many ends were seen to."""
    size, outputs = moved.shape
    assert field.outputs == outputs
    checked = 0
    for output in range(outputs):
        first = field.start + output * field.jump
        last = first + field.size - 1
        rows = np.flatnonzero(moved[:, output])
        assert all(first <= row <= last for row in rows), f"output {output} sees {rows}, not only {first} to {last}"
        # Near the border what lies in the padding, or was dropped by a valid layer before it, is not there to be seen.
        if exact or (first >= 0 and last + field.jump < size):
            assert (rows[0], rows[-1]) == (first, last), f"output {output} sees {rows}, not {first} to {last}"
            checked += 1
    return checked


@st.composite
def _windows(draw: st.DrawFn, paddings: tuple[str, ...]) -> Window:
    stride = draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 3)) if stride == 1 else 1
    return Window(draw(st.integers(1, 4)), stride, draw(st.sampled_from(paddings)), dilation)


@given(windows=st.lists(_windows(("valid",)), min_size=1, max_size=3), spare=st.integers(0, 9), pooled=st.booleans())
def test_every_output_of_a_valid_keras_stack_sees_its_receptive_field(
    windows: list[Window], spare: int, pooled: bool
) -> None:
    # The smallest image that the stack takes is one receptive field.
    size = receptive_field((window.dilation * (window.kernel - 1) + 1, window.stride) for window in windows) + spare
    moved = _moved(_stack(size, windows, pooled), size)
    assert _check_field(receptive_fields(size, windows)[-1], moved, exact=True)


@given(windows=st.lists(_windows(PADDINGS), min_size=1, max_size=3), pooled=st.booleans())
def test_every_output_of_a_padded_keras_stack_sees_its_receptive_field(windows: list[Window], pooled: bool) -> None:
    windows = [window._replace(kernel=max(window.kernel, window.stride)) for window in windows]
    field = receptive_field((window.dilation * (window.kernel - 1) + 1, window.stride) for window in windows)
    size = field + 2 * prod(window.stride for window in windows)  # one output at least is clear of the borders
    moved = _moved(_stack(size, windows, pooled), size)
    assert _check_field(receptive_fields(size, windows)[-1], moved, exact=False)


@given(windows=st.lists(_windows(("valid",)), min_size=1, max_size=6))
def test_receptive_field_is_the_size_of_the_last_layers_field(windows: list[Window]) -> None:
    windows = [window._replace(dilation=1) for window in windows]
    pairs = [(window.kernel, window.stride) for window in windows]
    assert receptive_field(pairs) == receptive_fields(10_000, windows)[-1].size
    assert receptive_field([]) == 1, "without layers an output is a pixel"


def test_receptive_fields_follow_a_stack_layer_by_layer() -> None:
    stack = [Window(3), Window(2, 2), Window(3, padding="same"), Window(3, dilation=2)]
    fields = receptive_fields(28, stack)
    assert fields == [Field(26, 3, 1, 0), Field(13, 4, 2, 0), Field(13, 8, 2, -2), Field(9, 16, 2, -2)]


MULTIPLYING = {
    "convolution": lambda kernel, stride: layers.Conv2D(3, kernel, strides=stride, use_bias=False),
    "transposed": lambda kernel, stride: layers.Conv2DTranspose(3, kernel, strides=stride, use_bias=False),
    "depthwise": lambda kernel, stride: layers.DepthwiseConv2D(
        kernel, strides=stride, depth_multiplier=3, use_bias=False
    ),
    "grouped": lambda kernel, stride: layers.Conv2D(4, kernel, strides=stride, groups=2, use_bias=False),
    "dense": lambda kernel, stride: layers.Dense(kernel * stride, use_bias=False),
}


@pytest.mark.parametrize("kind", MULTIPLYING)
def test_on_ones_a_layers_outputs_add_up_to_its_multiply_adds(kind: str) -> None:
    """Where every weight and pixel is one, each product is one, so that the sum of all outputs is their number."""
    for size, kernel, stride in product((4, 5, 7), (1, 2, 3), (1, 2)):
        layer = MULTIPLYING[kind](kernel, stride)
        keras.Sequential([keras.Input((size, size + 1, 2)), layer])
        products = _ones(layer, size, size + 1, 2).sum()
        assert multiply_adds(layer) == products, f"size {size}, kernel {kernel}, stride {stride}"


@pytest.mark.parametrize(("size", "kernel", "stride"), [(5, 3, 1), (6, 3, 2), (7, 4, 3)])
def test_multiply_adds_count_the_zeros_of_padding(size: int, kernel: int, stride: int) -> None:
    padded = size + sum(same_padding(size, kernel, stride))
    same, valid = (layers.Conv2D(2, kernel, strides=stride, padding=padding) for padding in ("same", "valid"))
    keras.Sequential([keras.Input((size, size, 3)), same])
    keras.Sequential([keras.Input((padded, padded, 3)), valid])
    assert multiply_adds(same) == multiply_adds(valid)


def test_a_separable_convolution_multiplies_like_its_two_halves() -> None:
    separable = keras.Sequential([keras.Input((9, 8, 3)), layers.SeparableConv2D(5, 3, strides=2, depth_multiplier=2)])
    depthwise = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)
    halves = keras.Sequential([keras.Input((9, 8, 3)), depthwise, layers.Conv2D(5, 1)])
    assert multiply_adds(separable) == multiply_adds(halves) == 4 * 3 * (9 * 3 * 2 + 6 * 5)


def test_a_model_multiplies_as_often_as_the_layers_inside_it() -> None:
    base = models.conv_base("mini", input_shape=(48, 48, 3))
    model = models.end_to_end(base)
    head = dense_parameters(3 * 3 * 96, 256, bias=False) + dense_parameters(256, 1, bias=False)
    assert multiply_adds(model) == multiply_adds(base) + head > head


def test_vgg16_multiplies_15_billion_times_a_picture_as_published() -> None:
    """Of its convolutions at 224 x 224."""
    assert multiply_adds(models.conv_base("vgg16", input_shape=(224, 224, 3))) == 15_346_630_656


def test_pooling_normalisation_and_activations_multiply_nothing() -> None:
    pointless = [layers.MaxPooling2D(), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *pointless, layers.Flatten(), layers.Dense(2)])
    assert multiply_adds(model) == 4 * 4 * 3 * 2, "the Dense layer's alone"


def test_channels_first_multiply_like_channels_last() -> None:
    first, last = (layers.Conv2D(4, 3, data_format=f"channels_{place}") for place in ("first", "last"))
    keras.Sequential([keras.Input((2, 8, 7)), first])
    keras.Sequential([keras.Input((8, 7, 2)), last])
    assert multiply_adds(first) == multiply_adds(last) == 6 * 5 * 9 * 2 * 4


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(3, name="first")

    def call(self, inputs: Any) -> Any:
        return self.first(inputs)


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    "make",
    [lambda: layers.Dense(3, name="first"), lambda: keras.Sequential([layers.LSTM(3, name="first")]), Subclassed],
    ids=["layer", "Sequential", "subclassed"],
)
def test_multiply_adds_refuse_a_layer_without_a_known_input(make: Callable[[], Any], called: bool) -> None:
    model = make()
    if called and not isinstance(model, keras.Sequential):
        model(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"^layer must be built, got first, which has seen no keras.Input$"):
        multiply_adds(model)


@pytest.mark.parametrize(("height", "width", "shape"), [(None, 8, "None, 6"), (8, None, "6, None")])
def test_multiply_adds_refuse_an_unknown_size(height: int | None, width: int | None, shape: str) -> None:
    model = keras.Sequential([keras.Input((height, width, 3)), layers.Conv2D(4, 3, name="first")])
    message = f"layer must have a known size, got first with shape (None, {shape}, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        multiply_adds(model)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(layers.LSTM, [3]), (layers.EinsumDense, ["abc,cd->abd", (4, 3)])],
    ids=["LSTM", "EinsumDense"],
)
def test_multiply_adds_refuse_a_layer_whose_weights_they_cannot_count(kind: type, arguments: list) -> None:
    known = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense")
    message = f"layer must be one of {known}, or without a matrix of weights, got odd ({kind.__name__})"
    model = keras.Sequential([keras.Input((4, 2)), kind(*arguments, name="odd")])
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        multiply_adds(model)


# Each function with arguments that it takes, each of which must be at least 1.
COUNTS: list[tuple[Callable, dict[str, int], dict[str, Any]]] = [
    (conv_output_size, {"size": 5, "kernel": 3, "stride": 1, "dilation": 1}, {}),
    (same_padding, {"size": 5, "kernel": 3, "stride": 1, "dilation": 1}, {}),
    (pool_output_size, {"size": 5, "pool": 2, "stride": 2}, {}),
    (conv2d_parameters, {"in_channels": 3, "filters": 4}, {"kernel": 3}),
    (depthwise_conv2d_parameters, {"in_channels": 3, "multiplier": 1}, {"kernel": 3}),
    (separable_conv2d_parameters, {"in_channels": 3, "filters": 4, "multiplier": 1}, {"kernel": 3}),
    (dense_parameters, {"inputs": 3, "units": 4}, {}),
    (batch_normalization_parameters, {"channels": 3}, {}),
    (receptive_fields, {"size": 5}, {"layers": []}),
    (lambda kernel, stride: receptive_field([(3, 1), (kernel, stride)]), {"kernel": 3, "stride": 1}, {}),
]


@pytest.mark.parametrize(("function", "counts", "others"), COUNTS)
def test_a_count_that_is_none_is_refused_with_argument_and_value(
    function: Callable, counts: dict[str, int], others: dict[str, Any]
) -> None:
    for name, value in product(counts, (0, -1, 2.5)):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number, at least 1, got {value}$"):
            function(**counts | {name: value}, **others)


NO_KERNEL = "kernel must be one whole number or (height, width), each at least 1, got "
NOT_BOTH = 'padding "same" allows stride or dilation over 1, not both: got stride 2, dilation 2'


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv_output_size(5, 3, 1, "full"), "padding must be one of ('valid', 'same'), got 'full'"),
        (lambda: pool_output_size(5, 2, padding="Same"), "padding must be one of ('valid', 'same'), got 'Same'"),
        (lambda: conv_output_size(5, 6), "kernel must fit in a valid input of size 5, got 6 (extent 6 at dilation 1)"),
        (
            lambda: conv_output_size(6, 4, dilation=2),
            "kernel must fit in a valid input of size 6, got 4 (extent 7 at dilation 2)",
        ),
        (
            lambda: receptive_fields(4, [Window(3), Window(3)]),
            "kernel must fit in a valid input of size 2, got 3 (extent 3 at dilation 1)",
        ),
        (lambda: pool_output_size(1, 2), "pool must fit in a valid input of size 1, got 2"),
        (lambda: conv_output_size(9, 3, 2, "same", 2), NOT_BOTH),
        (lambda: same_padding(9, 3, 2, 2), NOT_BOTH),
        (lambda: conv2d_parameters(0, 3, 4), f"{NO_KERNEL}0"),
        (lambda: conv2d_parameters(-3, 3, 4), f"{NO_KERNEL}-3"),
        (lambda: conv2d_parameters((-3, -3), 3, 4), f"{NO_KERNEL}(-3, -3)"),
        (lambda: conv2d_parameters((3, 3, 3), 3, 4), f"{NO_KERNEL}(3, 3, 3)"),  # type: ignore[arg-type]
        (lambda: depthwise_conv2d_parameters((3, 0), 1), f"{NO_KERNEL}(3, 0)"),
        (lambda: conv2d_parameters("3", 3, 4), f"{NO_KERNEL}'3'"),  # type: ignore[arg-type]
        (
            lambda: dense_parameters("5", 4),  # type: ignore[arg-type]
            "inputs must be a whole number, at least 1, got '5'",
        ),
    ],
)
def test_impossible_input_is_an_error_that_names_argument_and_value(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
