"""Every base: spelling, sizes, preprocessing, where it is cut, and what of it trains."""

import re
from functools import cache
from pathlib import Path
from urllib.error import URLError

import keras
import numpy as np
import pytest
from keras import layers

from convspec import MissingData, models

QUICK = ("efficientnetv2b0", "convnexttiny", "mobilenetv3small")
any_base = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in models.BASES]
)
LAST_STAGES = {  # the first layer behind the last halving, as the architectures' authors name their blocks
    "convnext": r"convnext_\w+_downsampling_block_2",
    "densenet": "conv5_block1_0_bn",
    "efficientnetv2": "block6a_expand_conv",
    "inceptionresnetv2": "conv2d_164",  # the first convolution behind mixed_7a
    "inception_v3": "conv2d_80",  # the first behind mixed8
    "mobilenet$": "conv_pad_12",
    "mobilenetv2": "block_13_expand",
    "mobilenetv3large": "expanded_conv_12_expand",
    "mobilenetv3small": "expanded_conv_8_expand",
    r"resnet\d+$": "conv5_block1_1_conv",
    r"resnet\d+v2": "conv5_block1_preact_bn",
    "vgg": "block5_conv1",
    "xception": "block14_sepconv1",
    "mini": "block4_conv1",
}


@cache
def build(name: str) -> keras.Model:
    """Return the base with random weights at its smallest size, thawed from its last stage on."""
    side, _ = models.sizes(name)
    base = models.conv_base(name, None, (side, side, 3))
    models.thaw_from(base, models.first_thawed(base, models.LAST_STAGE))
    return base


def pictures(base: keras.Model, count: int = 3) -> np.ndarray:
    shape = (count, *base.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def output(model: keras.Model, inputs: object, training: bool = False) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(inputs, training=training))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("EfficientNetV2B0", "efficientnetv2b0"),
        ("efficientnet_v2_b0", "efficientnetv2b0"),
        ("efficientnetv2-b0", "efficientnetv2b0"),
        ("ConvNeXt-Tiny", "convnexttiny"),
        ("convnext_tiny", "convnexttiny"),
        ("MobileNet_V3_Small", "mobilenetv3small"),
        ("InceptionV3", "inception_v3"),
        ("VGG16", "vgg16"),
        ("ResNet50V2", "resnet50v2"),
        ("MINI", "mini"),
    ],
)
def test_a_base_is_known_by_the_spellings_that_people_use(spelling: str, name: str) -> None:
    assert models.find_base(spelling) == name


def test_every_class_of_keras_is_a_base_by_its_own_name_but_two_kinds() -> None:
    kinds = {kind for kind in dir(keras.applications) if kind[0].isupper()}
    left_out = {kind for kind in kinds if re.match(r"NASNet|EfficientNetB\d", kind)}
    assert {models.BASES[models.find_base(kind)] for kind in kinds - left_out} == set(models.BASES.values()) - {
        models.BASES["mini"]
    }


@pytest.mark.parametrize("name", models.BASES)
def test_a_base_takes_its_smallest_size_and_keras_refuses_one_less(name: str) -> None:
    smallest, default = models.sizes(name)
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest}"):
        models.BASES[name](weights=None, include_top=False, input_shape=(smallest - 1, smallest - 1, 3))
    assert smallest <= default


@pytest.mark.parametrize("name", [name for name in models.BASES if not re.match("mini|mobilenetv3", name)])
def test_the_default_size_is_that_of_the_published_weights(name: str) -> None:
    """MobileNetV3 takes any size with its top, too: Keras documents 224."""
    default = models.sizes(name)[1]
    with pytest.raises(ValueError, match=rf"should be \({default}, {default}, 3\)"):
        models.BASES[name](weights="imagenet", include_top=True, input_shape=(1, 1, 3))


@any_base
def test_the_first_convolution_gets_pictures_scaled_once(name: str) -> None:
    """Scaled to 0..1, to -1..1 or by ImageNet's deviation; only Caffe's weights (ResNet, VGG) are for pixels."""
    base = build(name)
    first = next(layer for layer in base.layers if getattr(layer, "kernel", None) is not None or layer.weights)
    while isinstance(first, keras.Sequential | layers.Normalization):
        inner = first.layers if isinstance(first, keras.Sequential) else base.layers[base.layers.index(first) + 1 :]
        first = next(layer for layer in inner if layer.weights)
    black, white = np.zeros((1, *base.input_shape[1:])), np.full((1, *base.input_shape[1:]), 255.0)
    prepared = [models.PREPROCESSING[name](each.astype(np.float32)) for each in (black, white)]
    inside = [layer for layer in base.layers if isinstance(layer, layers.Rescaling | layers.Normalization)]
    for layer in inside:
        prepared = [layer(each) for each in prepared]
    low, high = (float(np.mean(keras.ops.convert_to_numpy(each))) for each in prepared)
    caffe = name.startswith(("resnet", "vgg")) and not name.endswith("v2")
    assert (high - low == pytest.approx(255)) if caffe else 0.9 < high - low < 5
    assert models.prepares_itself(name) == bool(inside)
