"""The chapter's bases and small convnets at many sizes: each layer is as predicted, and an error below."""

from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import keras
import pytest

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
each_base = pytest.mark.parametrize("name", SMALLEST)
each_convnet = pytest.mark.parametrize("name", CONVNETS)


def _sources(nested: Any) -> Iterator[str]:
    """Yield the names of the layers whose outputs a layer takes, out of its "inbound_nodes"."""
    if isinstance(nested, dict):
        if "keras_history" in nested:
            yield nested["keras_history"][0]
        else:
            yield from _sources(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for inner in nested:
            yield from _sources(inner)


def _layer(kind: str, config: dict[str, Any], shapes: list[Shape]) -> tuple[Shape, int]:
    """Return output shape and parameters of one layer, from its settings and the shapes of its inputs."""
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


@cache
def _settings(model: keras.Model) -> list[tuple[str, dict[str, Any], list[str]]]:
    """Return kind, settings and sources of each layer; Keras takes longer for them than the arithmetic does."""
    settings: list[tuple[str, dict[str, Any], list[str]]] = []
    before: list[str] = []
    for layer in model.get_config()["layers"]:
        sources = list(_sources(layer["inbound_nodes"])) if "inbound_nodes" in layer else before
        settings.append((layer["class_name"], layer["config"], sources))
        before = [layer["config"]["name"]]
    return settings


def predicted(model: keras.Model, picture: Shape) -> Built:
    """Return what arithmetic makes of a picture (height, width, channels) on its way through the model's settings."""
    shapes: dict[str, Shape] = {}
    built: Built = {}
    for kind, config, sources in _settings(model):
        name = config["name"]
        if kind == "InputLayer":
            shapes[name] = picture
        else:
            built[name] = _layer(kind, config, [shapes[source] for source in sources])
            shapes[name] = built[name][0]
    return built


def actual(model: keras.Model) -> Built:
    """Return what Keras built: the same, of all layers but the input."""
    return {
        layer.name: (tuple(layer.output.shape[1:]), layer.count_params())
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }


@cache
def base_of_any_size(name: str) -> tuple[keras.Model, keras.Model]:
    """Return the base built by Keras once for any size, and a model that tells the shape of each of its layers."""
    base = models.conv_base(name, None, (None, None, 3))
    return base, keras.Model(base.input, {layer.name: layer.output for layer in base.layers[1:]})


def compare(name: str, ours: Built, keras_has: Built) -> None:
    differences = [
        f"{layer}: arithmetic says {ours.get(layer)}, Keras {keras_has.get(layer)}"
        for layer in {**ours, **keras_has}
        if ours.get(layer) != keras_has.get(layer)
    ]
    assert not differences, name


def compare_at(name: str, height: int, width: int) -> None:
    base, shapes = base_of_any_size(name)
    outputs = shapes.compute_output_shape((1, height, width, 3))
    keras_has = {layer.name: (tuple(outputs[layer.name][1:]), layer.count_params()) for layer in base.layers[1:]}
    compare(f"{name} at {height} x {width}", predicted(base, (height, width, 3)), keras_has)


@each_base
def test_32_sizes_in_a_row_are_as_predicted_layer_by_layer(name: str) -> None:
    """All strides of a base multiply to 32 or less: 32 sizes in a row leave every remainder at every layer."""
    for extra in range(32):
        compare_at(name, SMALLEST[name] + extra, SMALLEST[name] + 31 - extra)


@each_base
def test_32_pixels_more_add_32_over_the_jump_at_every_layer(name: str) -> None:
    """This carries the prediction from 32 sizes in a row to all larger ones."""
    base, _ = base_of_any_size(name)
    smallest = SMALLEST[name]
    heights = {
        size: {layer: shape[0] for layer, (shape, _) in predicted(base, (size, size, 3)).items()}
        for size in range(smallest, smallest + 64)
    }
    gains = {layer: heights[smallest + 32][layer] - height for layer, height in heights[smallest].items()}
    assert set(gains.values()) <= {1, 2, 4, 8, 16, 32}, f"{name}: 32 over a jump that is no power of two: {gains}"
    for size in range(smallest, smallest + 32):
        assert gains == {layer: heights[size + 32][layer] - height for layer, height in heights[size].items()}, size


@each_base
def test_one_pixel_below_the_smallest_size_is_refused_with_both_sizes(name: str) -> None:
    smallest = SMALLEST[name]
    for height, width in ((smallest - 1, smallest), (smallest - 1, 224), (224, smallest - 1)):
        message = rf"{name} base cannot take input_shape \({height}, {width}, 3\).*at least {smallest}x{smallest}"
        with pytest.raises(BadInput, match=message):
            models.conv_base(name, None, (height, width, 3))


@pytest.mark.parametrize("size", [46, 63, 150])
def test_small_convnet_is_as_predicted_with_dropout_and_other_filters(size: int) -> None:
    model = models.small_convnet((size, size, 3), dropout=0.5, classes=5, filters=(8, 16, 16, 24))
    compare(f"at {size}", predicted(model, (size, size, 3)), actual(model))


@each_convnet
def test_17_sizes_in_a_row_are_as_predicted_layer_by_layer(name: str) -> None:
    """All strides of a small convnet multiply to 16 or less."""
    make, smallest = CONVNETS[name]
    for extra in range(17):
        picture = (smallest + extra, smallest + 16 - extra, 1 + extra % 4)
        model = make(input_shape=picture)
        compare(f"{name} at {picture}", predicted(model, picture), actual(model))


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
@pytest.mark.parametrize("turned", [False, True])
def test_a_small_convnet_refuses_one_pixel_less_and_names_both_sizes(name: str, turned: bool) -> None:
    make, smallest = CONVNETS[name]
    height, width = (99, smallest - 1) if turned else (smallest - 1, 99)
    with pytest.raises(BadInput, match=rf"at least {smallest} x {smallest}, got {height} x {width}"):
        make(input_shape=(height, width, 3))
