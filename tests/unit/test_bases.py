"""Every base and small convnet at many sizes: layer by layer what arithmetic alone predicts, and an error below."""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convspec import BadInput, models
from convspec.arithmetic import (
    batch_normalization_parameters,
    conv2d_parameters,
    conv_output_size,
    dense_parameters,
    depthwise_conv2d_parameters,
    pool_output_size,
    receptive_field,
    separable_conv2d_parameters,
)

Shape = tuple[int, ...]
Built = dict[str, tuple[Shape, int]]  # for each layer, its output's shape and its parameters

SMALLEST = {"xception": 71, "inception_v3": 75, "resnet50": 32, "vgg16": 32, "vgg19": 32, "mobilenet": 32, "mini": 16}
CONVNETS: dict[str, tuple[Callable[..., keras.Model], int]] = {
    "mnist_convnet": (models.mnist_convnet, 18),
    "mnist_convnet_without_pooling": (models.mnist_convnet_without_pooling, 7),
    "small_convnet": (models.small_convnet, 46),
}
KEEPING = {"Activation", "Add", "Dropout", "ReLU"}  # layers that neither reshape nor hold weights
each_base = pytest.mark.parametrize("name", models.BASES)
each_convnet = pytest.mark.parametrize("name", CONVNETS)


def _sources(nested: Any) -> Iterator[str]:
    """Names of the layers whose outputs a layer takes, out of its "inbound_nodes"."""
    if isinstance(nested, dict):
        if "keras_history" in nested:
            yield nested["keras_history"][0]
        else:
            yield from _sources(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for inner in nested:
            yield from _sources(inner)


def _layer(kind: str, config: dict[str, Any], shapes: list[Shape]) -> tuple[Shape, int]:
    """Output shape and parameters of one layer, from its settings and the shapes of its inputs."""
    shape = shapes[0]
    *sides, channels = shape
    padding, bias = config.get("padding", "valid"), config.get("use_bias", True)
    if kind in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D"):
        kernel = tuple(config["kernel_size"])
        windows = zip(sides, kernel, config["strides"], config["dilation_rate"], strict=True)
        sizes = [conv_output_size(size, window, step, padding, gap) for size, window, step, gap in windows]
        if kind == "Conv2D":
            return (*sizes, config["filters"]), conv2d_parameters(kernel, channels, config["filters"], bias)
        multiplier = config["depth_multiplier"]
        if kind == "DepthwiseConv2D":
            return (*sizes, channels * multiplier), depthwise_conv2d_parameters(kernel, channels, multiplier, bias)
        count = separable_conv2d_parameters(kernel, channels, config["filters"], multiplier, bias)
        return (*sizes, config["filters"]), count
    if kind in ("MaxPooling2D", "AveragePooling2D"):
        pools = zip(sides, config["pool_size"], config["strides"], strict=True)
        return (*(pool_output_size(size, pool, step, padding) for size, pool, step in pools), channels), 0
    if kind == "ZeroPadding2D":
        return (*(size + sum(rows) for size, rows in zip(sides, padding, strict=True)), channels), 0
    if kind == "BatchNormalization":
        return shape, batch_normalization_parameters(channels, config["center"], config["scale"])[1]
    if kind == "Dense":
        return (config["units"],), dense_parameters(channels, config["units"], bias)
    if kind == "Flatten":
        return (prod(shape),), 0
    if kind == "Concatenate":
        return (*sides, sum(other[-1] for other in shapes)), 0
    assert kind in KEEPING, f"no prediction for {kind}"
    assert len(set(shapes)) == 1, f"{kind} of {shapes}"
    return shape, 0


def predicted(model: keras.Model, picture: Shape) -> Built:
    """What arithmetic makes of a picture (height, width, channels) on its way through the model's settings."""
    return _along(model.get_config()["layers"], picture)


def _along(layers: list[dict[str, Any]], picture: Shape) -> Built:
    shapes: dict[str, Shape] = {}
    built: Built = {}
    before = ""
    for layer in layers:
        kind, config, name = layer["class_name"], layer["config"], layer["config"]["name"]
        if kind == "InputLayer":
            shapes[name] = picture
        else:
            sources = list(_sources(layer["inbound_nodes"])) if "inbound_nodes" in layer else [before]
            built[name] = _layer(kind, config, [shapes[source] for source in sources])
            shapes[name] = built[name][0]
        before = name
    return built


def actual(model: keras.Model) -> Built:
    """What Keras built: the same, of all layers but the input."""
    return {
        layer.name: (tuple(layer.output.shape[1:]), layer.count_params())
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }


@cache
def base_of_any_size(name: str) -> tuple[keras.Model, keras.Model]:
    """The base built by Keras once for any size, and a model that tells the shape of every layer of it."""
    base = models.conv_base(name, None, (None, None, 3))
    return base, keras.Model(base.input, {layer.name: layer.output for layer in base.layers[1:]})


def differences(ours: Built, keras_has: Built) -> list[str]:
    """The layers on which the two sides differ, in the model's order; layers that only one side has, too."""
    return [
        f"{name}: arithmetic says {ours.get(name)}, Keras {keras_has.get(name)}"
        for name in {**ours, **keras_has}
        if ours.get(name) != keras_has.get(name)
    ]


def _compare_at(name: str, height: int, width: int) -> None:
    base, shapes = base_of_any_size(name)
    outputs = {layer: tuple(shape[1:]) for layer, shape in shapes.compute_output_shape((1, height, width, 3)).items()}
    keras_has = {layer.name: (outputs[layer.name], layer.count_params()) for layer in base.layers[1:]}
    assert differences(predicted(base, (height, width, 3)), keras_has) == [], f"{name} at {height} x {width}"


@each_base
def test_at_the_smallest_size_the_base_that_keras_builds_is_the_predicted_one(name: str) -> None:
    picture = (SMALLEST[name], SMALLEST[name], 3)
    base = models.conv_base(name, None, picture)
    assert differences(predicted(base, picture), actual(base)) == []


@each_base
@pytest.mark.parametrize("size", [150, 224])
def test_at_150_and_224_every_layer_is_as_predicted(name: str, size: int) -> None:
    _compare_at(name, size, size)


@each_base
@settings(max_examples=12)
@given(extra=st.tuples(st.integers(0, 180), st.integers(0, 180)))
def test_at_any_height_and_width_from_the_smallest_on_every_layer_is_as_predicted(
    name: str, extra: tuple[int, int]
) -> None:
    _compare_at(name, SMALLEST[name] + extra[0], SMALLEST[name] + extra[1])


@each_base
def test_32_sizes_in_a_row_from_the_smallest_on_are_as_predicted_layer_by_layer(name: str) -> None:
    """All strides of a base multiply to 32 or less: 32 sizes in a row leave every remainder at every layer."""
    for size in range(SMALLEST[name], SMALLEST[name] + 32):
        _compare_at(name, size, size)


@each_base
def test_32_pixels_more_add_32_over_the_jump_at_every_layer_which_carries_the_prediction_to_all_larger_sizes(
    name: str,
) -> None:
    layers = base_of_any_size(name)[0].get_config()["layers"]
    smallest = SMALLEST[name]
    heights = {
        size: {layer: shape[0] for layer, (shape, _) in _along(layers, (size, size, 3)).items()}
        for size in range(smallest, 289)
    }
    gains = {layer: heights[smallest + 32][layer] - height for layer, height in heights[smallest].items()}
    assert set(gains.values()) <= {1, 2, 4, 8, 16, 32}, f"{name}: 32 over a jump that is no power of two: {gains}"
    for size in range(smallest, 257):
        found = {layer: heights[size + 32][layer] - height for layer, height in heights[size].items()}
        assert found == gains, f"{name} from {size} to {size + 32}"


@each_base
@pytest.mark.slow
def test_every_size_from_the_smallest_to_300_is_as_predicted_layer_by_layer(name: str) -> None:
    for size in range(SMALLEST[name], 301):
        _compare_at(name, size, size)


@each_base
def test_the_parameters_do_not_depend_on_the_size(name: str) -> None:
    base, _ = base_of_any_size(name)
    for size in (SMALLEST[name], 97, 224):
        assert sum(count for _, count in predicted(base, (size, size, 3)).values()) == base.count_params()


@each_base
def test_one_pixel_below_the_smallest_size_is_refused_with_the_size_given(name: str) -> None:
    size = SMALLEST[name] - 1
    for shape in ((size, size, 3), (size, 224, 3), (224, size, 3)):
        with pytest.raises(BadInput, match=rf"{name} base cannot take input_shape \({shape[0]}, {shape[1]}, 3\)"):
            models.conv_base(name, None, shape)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_refusal_says_how_large_a_picture_must_be(name: str) -> None:
    size = SMALLEST[name]
    with pytest.raises(BadInput, match=f"must be at least {size}x{size}"):
        models.conv_base(name, None, (size - 1, size - 1, 3))


@pytest.mark.parametrize(
    ("name", "least"),
    [("vgg16", 32), ("vgg19", 32), ("mini", 16), ("inception_v3", 75), ("mobilenet", 31), ("xception", 7)],
)
def test_the_architecture_itself_can_go_as_low_as_this_and_arithmetic_and_keras_refuse_alike_below(
    name: str, least: int
) -> None:
    """Keras asks 32 of MobileNet and 71 of Xception, whose layers would take less; for the others this is its limit.
    (ResNet50's layers, all padded, would take a single pixel.)
    """
    base, _ = base_of_any_size(name)
    for size in (least, least + 1):
        assert (
            predicted(base, (size, size, 3))[base.layers[-1].name][0]
            == base.compute_output_shape((1, size, size, 3))[1:]
        )
    for compute in (
        lambda: predicted(base, (least - 1, least - 1, 3)),
        lambda: base.compute_output_shape((1, least - 1, least - 1, 3)),
    ):
        with pytest.raises(ValueError, match=r"must fit in a valid input|Computed output size would be zero"):
            compute()


@each_convnet
@settings(max_examples=15)
@given(extra=st.tuples(st.integers(0, 60), st.integers(0, 60)), channels=st.integers(1, 4))
def test_a_small_convnet_is_as_predicted_at_any_height_width_and_depth(
    name: str, extra: tuple[int, int], channels: int
) -> None:
    make, smallest = CONVNETS[name]
    picture = (smallest + extra[0], smallest + extra[1], channels)
    model = make(input_shape=picture)
    assert differences(predicted(model, picture), actual(model)) == []


@pytest.mark.parametrize("size", [46, 47, 61, 63, 150])
def test_the_convnet_of_section_5_2_is_as_predicted_with_dropout_and_other_filters(size: int) -> None:
    model = models.small_convnet((size, size, 3), dropout=0.5, classes=5, filters=(8, 16, 16, 24))
    ours = predicted(model, (size, size, 3))
    assert differences(ours, actual(model)) == []
    assert sum(count for _, count in ours.values()) == model.count_params()


@each_convnet
@pytest.mark.parametrize("sizes", [range(17), pytest.param(range(17, 120), marks=pytest.mark.slow)], ids=["", "more"])
def test_every_size_from_the_smallest_on_is_as_predicted_layer_by_layer(name: str, sizes: range) -> None:
    """All strides of a small convnet multiply to 16 or less."""
    make, smallest = CONVNETS[name]
    for picture in ((smallest + more, smallest + more, 3) for more in sizes):
        model = make(input_shape=picture)
        assert differences(predicted(model, picture), actual(model)) == [], f"{name} at {picture}"


@each_convnet
def test_the_smallest_picture_is_as_large_as_what_one_last_feature_sees(name: str) -> None:
    """Without padding the last feature map has a first pixel only where the picture holds its receptive field."""
    make, smallest = CONVNETS[name]
    windows = [
        (config["kernel_size"][0], 1) if "kernel_size" in config else (config["pool_size"][0], config["strides"][0])
        for layer in make().get_config()["layers"]
        if (config := layer["config"]).get("kernel_size") or config.get("pool_size")
    ]
    assert receptive_field(windows) == smallest
    before_the_head = make(input_shape=(smallest, smallest, 1)).layers[len(windows) - 1]
    assert before_the_head.output.shape[1:3] == (1, 1)


@each_convnet
def test_one_pixel_below_the_smallest_size_a_small_convnet_is_refused(name: str) -> None:
    make, smallest = CONVNETS[name]
    for shape in ((smallest - 1, smallest, 3), (smallest, smallest - 1, 3)):
        with pytest.raises(ValueError, match=r"at least|size would be zero"):
            make(input_shape=shape)


@each_convnet
def test_the_refusal_of_a_small_convnet_names_the_size_given_and_the_smallest(name: str) -> None:
    make, smallest = CONVNETS[name]
    with pytest.raises(BadInput, match=rf"at least {smallest} x {smallest}, got {smallest - 1} x 99"):
        make(input_shape=(smallest - 1, 99, 3))
