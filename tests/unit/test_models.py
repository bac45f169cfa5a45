"""The chapter's architectures and the bases: layers, parameters, weights and refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import assert_builds_as_listed, vgg_by_hand

from convspec import BadInput, MissingData, models

SUMMARIES = json.loads((Path(__file__).parents[2] / "fixtures" / "summaries.json").read_text())
BUILT: dict[str, Callable[[], list[keras.Layer]]] = {
    "mnist_convnet_base": lambda: models.mnist_convnet().layers[:5],
    "mnist_convnet": lambda: models.mnist_convnet().layers,
    "mnist_convnet_without_pooling": lambda: models.mnist_convnet_without_pooling().layers,
    "small_convnet": lambda: models.small_convnet().layers,
    "small_convnet_with_dropout": lambda: models.small_convnet(dropout=0.5).layers,
    "vgg16": lambda: models.conv_base().layers,
    "end_to_end": lambda: models.end_to_end(models.conv_base()).layers,
}


def mini(weights: str | Path | None = None) -> keras.Model:
    return models.conv_base("mini", weights, (48, 48, 3))


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_layer_and_the_total_are_as_the_text_prints_them(name: str) -> None:
    layers = [[type(layer).__name__, [*layer.output.shape[1:]], layer.count_params()] for layer in BUILT[name]()]
    assert layers == SUMMARIES[name]["layers"], f"{name} differs from the summary of {SUMMARIES[name]['source']}"
    assert sum(count for *_, count in layers) == SUMMARIES[name]["total"]


def test_the_small_convnet_has_four_dense_units_for_each_last_filter() -> None:
    assert models.small_convnet((20, 20, 3), filters=(8, 16)).layers[-2].units == 64


def test_each_dropout_has_a_seed_that_follows_from_the_sessions() -> None:
    seeds = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        seeds += [models.feature_classifier((8,)).layers[1].seed, models.small_convnet(dropout=0.5).layers[-3].seed]
    assert None not in seeds, "without one, PyTorch draws from a generator that no checkpoint has"
    assert seeds[:2] == seeds[2:4], "the same seed repeats a run"
    assert len(set(seeds)) == 4, "another run, or another layer, drops other units"


def test_thawing_works_whether_or_not_the_base_was_frozen_before() -> None:
    base = mini()
    models.thaw_from(base, "block4_conv1")
    first = [layer.trainable for layer in base.layers]
    models.freeze(base)
    models.thaw_from(base, "block4_conv1")
    assert [layer.trainable for layer in base.layers] == first


def test_the_mini_base_has_vggs_pattern_in_every_setting() -> None:
    """Two blocks of one convolution and two of two, each pooled; the weights are not of another network."""
    blocks = (16, 1), (32, 1), (64, 2), (96, 2)
    assert_builds_as_listed(lambda: mini(), lambda: vgg_by_hand(48, *blocks))


@pytest.mark.parametrize(
    ("name", "size", "output_shape", "parameters"),
    [
        ("xception", 150, (5, 5, 2048), 20_861_480),
        ("inception_v3", 150, (3, 3, 2048), 21_802_784),
        ("resnet50", 150, (5, 5, 2048), 23_587_712),
        ("vgg19", 150, (4, 4, 512), 20_024_384),
        ("mobilenet", 150, (4, 4, 1024), 3_228_864),
        ("EfficientNetV2B0", 150, (5, 5, 1280), 5_919_312),
        ("ConvNeXtTiny", 150, (4, 4, 768), 27_820_128),
        ("MobileNetV3Small", 150, (5, 5, 576), 939_120),
        ("MobileNetV3Large", 150, (5, 5, 960), 2_996_352),
        ("mini", 48, (3, 3, 96), 198_944),
    ],
)
def test_a_base_is_the_one_of_its_name_without_its_top(
    name: str, size: int, output_shape: tuple[int, ...], parameters: int
) -> None:
    with keras.StatelessScope(initialize_variables=False):  # the weights are counted, not drawn
        base = models.conv_base(name, None, (size, size, 3))
    assert (base.output_shape[1:], base.count_params()) == (output_shape, parameters)


@pytest.mark.parametrize(
    "make", [models.mnist_convnet, models.dense_baseline, models.feature_classifier, models.small_convnet]
)
def test_two_classes_end_in_one_sigmoid_unit_and_more_in_a_softmax(make: Callable[..., keras.Model]) -> None:
    two, three = (make((60, 60, 3), classes=classes).layers[-1] for classes in (2, 3))
    assert (two.units, two.activation.__name__) == (1, "sigmoid")
    assert (three.units, three.activation.__name__) == (3, "softmax")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.mnist_convnet(classes=1), "classes must be at least 2, got 1"),
        (lambda: models.small_convnet(filters=()), r"filters must have a number for each convolution, got \(\)"),
        (
            lambda: models.small_convnet((None, None, 3)),  # type: ignore[arg-type]
            "small_convnet takes pictures of at least 46 x 46, got None x None",
        ),
        (lambda: models.end_to_end(keras.Model((base := mini()).input, [base.output])), "one output, in no list"),
        (lambda: models.end_to_end(keras.Model((base := mini()).input, [base.output] * 2)), "with one input and one"),
        (lambda: models.end_to_end(keras.Sequential([keras.layers.Flatten()])), "must be .*, built, with one input"),
        (
            lambda: models.end_to_end(models.conv_base("mini", None, (None, None, 3))),
            r"mini must be built for pictures of one size, got input_shape \(None, None, 3\)",
        ),
        (
            lambda: models.linear_probe(mini(), 48, 2, (32,)),
            r"mini takes \(48, 48, 3\) only, got size 32: build it for",
        ),
        (lambda: models.linear_probe(mini(), 32), r"mini takes \(48, 48, 3\) only, got size 32"),
        (
            lambda: models.cut_before(base := mini(), base.layers[0].name),
            "mini cannot be cut before '.*', its input: take a later layer",
        ),
        (lambda: models.cut_before(mini(), "block9"), "mini has no layer 'block9'; choose from .*block1_conv1"),
        (lambda: models.conv_base("vgg61"), "unknown base 'vgg61'; choose from .*vgg16, .*mini"),
        (lambda: models.thaw_from(mini(), "block9_conv1"), "no layer 'block9_conv1'; choose from .*block4_conv2"),
        (lambda: models.conv_base("vgg16", None, (16, 16, 3)), r"vgg16 base cannot take input_shape \(16, 16, 3\)"),
        (lambda: models.conv_base("vgg19", models.MINI_WEIGHTS), "h5' does not hold the weights of a vgg19 base"),
        (lambda: mini(__file__), r"test_models.py' does not hold the weights of a mini base"),
        (
            lambda: models.conv_base("mini", None, (48, 48, 3), include_top=True),
            "mini base has no classifier: take another",
        ),
        (
            lambda: models.conv_base("vgg16", None, include_top=True, input_shape=(None, None, 3)),
            "vgg16 base cannot take",
        ),
        (lambda: mini("imagenet"), "mini base has no ImageNet weights; its own are in .*mini_base.weights.h5"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(build: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build()


@pytest.mark.parametrize(("side", "parameters"), [(224, 138_357_544), (150, 69_151_528)])
def test_a_classifier_is_made_for_the_size_of_the_pictures(side: int, parameters: int) -> None:
    with keras.StatelessScope(initialize_variables=False):  # the weights are counted, not drawn
        model = models.conv_base("vgg16", None, (side, side, 3), include_top=True)
    assert model.count_params() == parameters


@pytest.mark.parametrize(("of", "into"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_weights_of_a_shallower_or_deeper_relative_are_refused(of: str, into: str, tmp_path: Path) -> None:
    file = tmp_path / f"{of}.weights.h5"
    models.conv_base(of, None, (48, 48, 3)).save_weights(file)
    with pytest.raises(BadInput, match=f"does not hold the weights of a {into} base"):
        models.conv_base(into, file, (48, 48, 3))


def test_a_file_with_the_top_has_the_bases_weights_and_not_the_reverse(tmp_path: Path) -> None:
    shape = (32, 32, 3)
    whole, cut = (models.conv_base("mobilenet", None, shape, include_top=top) for top in (True, False))
    for model, name in ((whole, "whole.weights.h5"), (cut, "cut.weights.h5")):
        model.save_weights(tmp_path / name)
    base = models.conv_base("mobilenet", tmp_path / "whole.weights.h5", shape)
    for expected, weight in zip(whole.get_weights(), base.get_weights(), strict=False):
        np.testing.assert_array_equal(weight, expected)
    with pytest.raises(BadInput, match=r"cut.weights.h5' does not hold the weights of a mobilenet base with its"):
        models.conv_base("mobilenet", tmp_path / "cut.weights.h5", shape, include_top=True)


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(MissingData, match=r"no weights file 'nowhere.weights.h5'"):
        mini("nowhere.weights.h5")


def test_default_weights_are_the_packages_the_folders_or_imagenet(tmp_path: Path) -> None:
    file = tmp_path / "vgg16_notop.weights.h5"
    file.touch()
    assert models.default_weights("mini", tmp_path) == models.MINI_WEIGHTS
    assert models.default_weights("vgg16", tmp_path) == file
    assert models.default_weights("vgg19", tmp_path) == models.default_weights("vgg16") == "imagenet"
    for name in ("vgg16_weights_tf_dim_ordering_tf_kernels.h5", "vgg16.weights.h5"):  # Keras's own is taken first
        assert models.default_weights("vgg16", tmp_path, include_top=True) != tmp_path / name
        (tmp_path / name).touch()
        assert models.default_weights("vgg16", tmp_path, include_top=True) == tmp_path / name
    assert models.default_weights("vgg16", tmp_path) == file


def test_weights_from_a_file_are_the_ones_the_base_computes_with(tmp_path: Path) -> None:
    first, other = mini(), mini()
    first.save_weights(tmp_path / "first.weights.h5")
    again = mini(tmp_path / "first.weights.h5")
    pictures = np.random.default_rng(0).random((2, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), first.predict(pictures, verbose=0))
    assert not np.array_equal(other.predict(pictures, verbose=0), first.predict(pictures, verbose=0))


def test_vgg16s_published_weights_load_into_the_base(data_folder: Path) -> None:
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder))
    kernel = base.get_layer("block1_conv1").get_weights()[0]
    np.testing.assert_allclose(kernel.ravel()[:2], [0.42947057, 0.11727387], rtol=1e-6)
