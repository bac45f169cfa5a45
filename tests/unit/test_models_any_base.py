"""Every base: spelling, sizes, preprocessing, where it is cut, and what of it trains."""

import re
from pathlib import Path
from urllib.error import URLError

import keras
import numpy as np
import pytest
from keras import layers

from convspec import BadInput, MissingData, models

QUICK = "mobilenetv3small"
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


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in models.BASES],
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(name: str) -> keras.Model:
    """Return the base with random weights at its smallest size, thawed from its last stage on."""
    return build(name)


def build(name: str) -> keras.Model:
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
    ("spelling", "key"),
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
def test_a_base_is_known_by_the_spellings_that_people_use(spelling: str, key: str) -> None:
    assert models.find_base(spelling) == key


def test_every_class_of_keras_is_a_base_by_its_own_name_but_two_kinds() -> None:
    kinds = {kind for kind in dir(keras.applications) if kind[0].isupper()}
    left_out = {kind for kind in kinds if re.match(r"NASNet|EfficientNetB\d", kind)}
    assert {models.BASES[models.find_base(kind)] for kind in kinds - left_out} == set(models.BASES.values()) - {
        models.BASES["mini"]
    }


@pytest.mark.parametrize("key", models.BASES)
def test_one_pixel_below_the_smallest_size_is_refused_with_both_sizes(key: str) -> None:
    smallest, default = models.sizes(key)
    for height, width in ((smallest - 1, smallest), (smallest - 1, 224), (224, smallest - 1)):
        message = rf"{key} base cannot take input_shape \({height}, {width}, 3\).*at least {smallest}x{smallest}"
        with pytest.raises(BadInput, match=message):
            models.conv_base(key, None, (height, width, 3))
    assert smallest <= default


@pytest.mark.parametrize("key", [key for key in models.BASES if not re.match("mini|mobilenetv3", key)])
def test_the_default_size_is_that_of_the_published_weights(key: str) -> None:
    """MobileNetV3 takes any size with its top, too: Keras documents 224."""
    default = models.sizes(key)[1]
    with pytest.raises(ValueError, match=rf"should be \({default}, {default}, 3\)"):
        models.BASES[key](weights="imagenet", include_top=True, input_shape=(1, 1, 3))


def test_the_first_convolution_gets_pictures_scaled_once(name: str, base: keras.Model) -> None:
    """Scaled to 0..1, to -1..1 or by ImageNet's deviation; only Caffe's weights (ResNet, VGG) are for pixels."""
    inside = [layer for layer in base.layers if isinstance(layer, layers.Rescaling | layers.Normalization)]
    shades = np.array([0, 255], np.float32).reshape(2, 1, 1, 1) * np.ones((1, *base.input_shape[1:]), np.float32)
    prepared = models.PREPROCESSING[name](shades.copy())
    assert np.array_equal(prepared, shades) == bool(inside), "pictures are prepared before the base or in it"
    if inside:
        prepared = output(keras.Model(base.input, inside[-1].output), prepared)
    spread = float(prepared[1].mean() - prepared[0].mean())
    pixels = name.startswith(("resnet", "vgg")) and not name.endswith("v2")
    assert spread == pytest.approx(255) if pixels else 0.9 < spread < 5


def test_the_last_stage_begins_behind_the_last_halving(name: str, base: keras.Model) -> None:
    (pattern,) = (pattern for kind, pattern in LAST_STAGES.items() if re.match(kind, name))
    assert re.fullmatch(pattern, models.first_thawed(base, models.LAST_STAGE))
    side = base.input_shape[1] + 64
    larger = models.conv_base(name, None, (side, side, 3))
    assert models.first_thawed(larger, models.LAST_STAGE) == models.first_thawed(base, models.LAST_STAGE)


def test_what_is_cached_before_the_last_stage_leads_to_the_same_output(name: str, base: keras.Model) -> None:
    trunk, top = models.cut_before(base, models.first_thawed(base, models.LAST_STAGE))
    batch = models.PREPROCESSING[name](pictures(base))
    np.testing.assert_array_equal(output(top, output(trunk, batch)), output(base, batch))
    assert 0 < trunk.count_params() < base.count_params() == trunk.count_params() + top.count_params()


def test_all_weights_behind_the_cut_train_and_none_before(name: str, base: keras.Model) -> None:
    trunk, top = models.cut_before(base, models.first_thawed(base, models.LAST_STAGE))
    assert not trunk.trainable_weights
    assert {id(weight) for weight in base.trainable_weights} == {id(weight) for weight in top.trainable_weights}
    still = {weight.path.rpartition("/")[2] for weight in top.non_trainable_weights}
    assert still <= {"moving_mean", "moving_variance"}, "of thawed layers, only batch statistics have no gradient"


def test_a_frozen_base_computes_in_training_what_it_does_in_use(name: str, base: keras.Model) -> None:
    """Batch normalisation takes no statistics of the batch, and no branch is dropped."""
    trunk, _ = models.cut_before(base, models.first_thawed(base, models.LAST_STAGE))
    batch = models.PREPROCESSING[name](pictures(base))
    np.testing.assert_array_equal(output(trunk, batch, training=True), output(trunk, batch))


def test_a_cut_inside_of_a_residual_branch_or_at_its_end_is_refused() -> None:
    base = build("efficientnetv2b0")
    for layer in ("block6b_dwconv2", "block6b_add", "block5b_se_excite"):
        with pytest.raises(BadInput, match=f"cannot be cut before '{layer}', which is not on every path"):
            models.cut_before(base, layer)


def test_the_last_stage_of_a_base_of_any_size_is_refused() -> None:
    with pytest.raises(BadInput, match="can be found for pictures of a given size only"):
        models.first_thawed(models.conv_base("mini", None, (None, None, 3)), models.LAST_STAGE)


def test_layers_have_the_same_names_whatever_was_built_before() -> None:
    first = models.conv_base("MobileNetV3Small", None, (32, 32, 3))
    ours = layers.Activation("relu")
    assert [layer.name for layer in build("mobilenetv3small").layers] == [layer.name for layer in first.layers]
    assert layers.Activation("relu").name != ours.name, "Keras goes on counting outside"


def test_without_a_network_the_error_names_what_to_do_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))  # not the user's own
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    with pytest.raises(MissingData) as caught:
        models.conv_base("EfficientNetV2B0", "imagenet", (48, 48, 3))
    assert re.search(
        "give a file with --convspec-weights, or put efficientnetv2b0_notop.weights.h5 into", str(caught.value)
    )
    assert "\n" not in str(caught.value)
