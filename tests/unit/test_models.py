"""The chapter's architectures: every layer, shape and count, held against the text and against arithmetic."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, MissingData, models
from convspec.arithmetic import conv2d_parameters, conv_output_size, dense_parameters, pool_output_size

SUMMARIES = json.loads((Path(__file__).parents[2] / "fixtures" / "summaries.json").read_text())
BASES = ("xception", "inception_v3", "resnet50", "vgg16", "vgg19", "mobilenet")


def built(name: str) -> list[keras.layers.Layer]:
    """The layers that the text's summary of that name lists."""
    return {
        "mnist_convnet_base": lambda: models.mnist_convnet().layers[:5],
        "mnist_convnet": lambda: models.mnist_convnet().layers,
        "mnist_convnet_without_pooling": lambda: models.mnist_convnet_without_pooling().layers,
        "small_convnet": lambda: models.small_convnet().layers,
        "small_convnet_with_dropout": lambda: models.small_convnet(dropout=0.5).layers,
        "vgg16": lambda: models.conv_base().layers,
        "end_to_end": lambda: models.end_to_end(models.conv_base()).layers,
    }[name]()


def output_shape(layer: keras.layers.Layer) -> list[int]:
    return list(layer.output.shape[1:])


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_layer_is_as_the_text_prints_it(name: str) -> None:
    layers = [[type(layer).__name__, output_shape(layer), layer.count_params()] for layer in built(name)]
    assert layers == SUMMARIES[name]["layers"], f"{name} differs from the summary of {SUMMARIES[name]['source']}"


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_parameters_add_up_to_the_printed_total(name: str) -> None:
    assert sum(layer.count_params() for layer in built(name)) == SUMMARIES[name]["total"]


@pytest.mark.parametrize("name", [name for name in SUMMARIES if name != "end_to_end"])
def test_arithmetic_alone_predicts_every_shape_and_count(name: str) -> None:
    layers = built(name)
    shape = list(layers[0].input.shape[1:]) if not isinstance(layers[0].input, list) else output_shape(layers[0])
    for layer in layers:
        parameters = 0
        if isinstance(layer, keras.layers.Conv2D):
            parameters = conv2d_parameters(layer.kernel_size, shape[-1], layer.filters)
            sizes = [
                conv_output_size(n, k, padding=layer.padding) for n, k in zip(shape, layer.kernel_size, strict=False)
            ]
            shape = [*sizes, layer.filters]
        elif isinstance(layer, keras.layers.MaxPooling2D):
            shape = [pool_output_size(n, p) for n, p in zip(shape, layer.pool_size, strict=False)] + shape[-1:]
        elif isinstance(layer, keras.layers.Dense):
            parameters = dense_parameters(shape[0], layer.units)
            shape = [layer.units]
        elif isinstance(layer, keras.layers.Flatten):
            shape = [int(np.prod(shape))]
        assert (output_shape(layer), layer.count_params()) == (shape, parameters), f"{name}: {layer.name}"


def test_the_dense_baseline_is_784_512_10_with_407050_parameters() -> None:
    model = models.dense_baseline()
    assert [model.input_shape[1], *(layer.units for layer in model.layers)] == [784, 512, 10]
    assert model.count_params() == 407_050 == dense_parameters(784, 512) + dense_parameters(512, 10)


def test_without_pooling_30976_coefficients_would_need_15860224_parameters_in_a_dense_layer_of_512() -> None:
    model = models.mnist_convnet_without_pooling()
    coefficients = int(np.prod(model.output_shape[1:]))
    assert coefficients == 30_976
    dense = keras.layers.Dense(512)
    dense.build((None, coefficients))
    assert dense.count_params() == 15_860_224 == dense_parameters(30_976, 512)


def test_without_pooling_each_convolution_takes_two_rows_and_columns_of_any_picture() -> None:
    assert models.mnist_convnet_without_pooling((20, 30, 3)).output_shape == (None, 14, 24, 64)


def test_the_head_on_recorded_features_has_2097665_parameters_and_the_layers_of_listing_5_18() -> None:
    head = models.feature_classifier((8192,))
    assert [type(layer).__name__ for layer in head.layers] == ["Dense", "Dropout", "Dense"]
    assert head.count_params() == 2_097_665
    assert models.feature_classifier((4, 4, 512)).count_params() == 2_097_665, "flattening has no parameters"
    assert head.layers[1].rate == 0.5


def test_dropout_stands_right_before_the_dense_layers_and_adds_no_parameters() -> None:
    kinds = [type(layer).__name__ for layer in models.small_convnet(dropout=0.5).layers]
    assert kinds[-3:] == ["Dropout", "Dense", "Dense"]
    assert "Dropout" not in [type(layer).__name__ for layer in models.small_convnet().layers]


def test_the_seed_of_dropout_is_its_own_and_follows_from_that_of_the_session() -> None:
    seeds = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        seeds += [models.feature_classifier((8,)).layers[1].seed, models.small_convnet(dropout=0.5).layers[-3].seed]
    assert None not in seeds, "without one, PyTorch draws from a generator that no checkpoint has"
    assert seeds[:2] == seeds[2:4], "the same seed repeats a run"
    assert len(set(seeds)) == 4, "another run, or another layer, drops other units"


def test_there_are_30_trainable_tensors_then_4_once_frozen_and_10_once_block5_is_thawed() -> None:
    base = models.conv_base()
    model = models.end_to_end(base)
    counts = [len(model.trainable_weights)]
    models.freeze(base)
    counts.append(len(model.trainable_weights))
    models.thaw_from(base, "block5_conv1")
    counts.append(len(model.trainable_weights))
    assert counts == [30, 4, 10], "section 5.3: before freezing, after freezing, block5_conv1 and up thawed"
    thawed = [layer.name for layer in base.layers if layer.trainable_weights]
    assert thawed == ["block5_conv1", "block5_conv2", "block5_conv3"]


def test_thawing_works_whether_or_not_the_base_was_frozen_before() -> None:
    base = models.conv_base("mini", input_shape=(48, 48, 3))
    models.thaw_from(base, "block4_conv1")
    first = [layer.trainable for layer in base.layers]
    models.freeze(base)
    models.thaw_from(base, "block4_conv1")
    assert [layer.trainable for layer in base.layers] == first


@pytest.mark.parametrize(("name", "size"), [(name, 150) for name in BASES] + [("mini", 48)])
def test_a_base_through_one_call_is_the_one_of_keras_applications_without_its_top(name: str, size: int) -> None:
    base = models.conv_base(name, None, (size, size, 3))
    oracle = {
        "xception": (5, 5, 2048, 20_861_480),
        "inception_v3": (3, 3, 2048, 21_802_784),
        "resnet50": (5, 5, 2048, 23_587_712),
        "vgg16": (4, 4, 512, 14_714_688),
        "vgg19": (4, 4, 512, 20_024_384),
        "mobilenet": (4, 4, 1024, 3_228_864),
        "mini": (3, 3, 96, 198_944),
    }[name]
    assert (*base.output_shape[1:], base.count_params()) == oracle


@pytest.mark.parametrize(
    "make", [models.mnist_convnet, models.dense_baseline, models.feature_classifier, models.small_convnet]
)
def test_two_classes_end_in_one_sigmoid_unit_and_more_in_a_softmax(make: Callable[..., keras.Model]) -> None:
    shape = (60, 60, 3)
    two, three = (make(shape, classes=classes).layers[-1] for classes in (2, 3))
    assert (two.units, two.activation.__name__) == (1, "sigmoid")
    assert (three.units, three.activation.__name__) == (3, "softmax")


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="classes must be at least 2, got 1"):
        models.mnist_convnet(classes=1)


def test_an_unknown_base_is_refused_with_the_list_of_bases() -> None:
    with pytest.raises(BadInput, match=r"unknown base 'vgg61'; choose from xception.*mini"):
        models.conv_base("vgg61")


def test_thawing_from_an_unknown_layer_is_refused_with_the_list_of_layers() -> None:
    base = models.conv_base("mini", input_shape=(48, 48, 3))
    with pytest.raises(BadInput, match=r"no layer 'block9_conv1'; choose from .*block4_conv2"):
        models.thaw_from(base, "block9_conv1")


def test_a_picture_too_small_for_the_base_is_refused_with_its_size() -> None:
    with pytest.raises(BadInput, match=r"vgg16 base cannot take input_shape \(16, 16, 3\)"):
        models.conv_base("vgg16", None, (16, 16, 3))


def test_weights_of_another_architecture_are_refused_with_file_and_base() -> None:
    with pytest.raises(BadInput, match=r"mini_base.weights.h5' does not hold the weights of a vgg19 base"):
        models.conv_base("vgg19", models.MINI_WEIGHTS)


@pytest.mark.parametrize(("of", "into"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_weights_of_a_shallower_or_deeper_relative_are_refused(of: str, into: str, tmp_path: Path) -> None:
    file = tmp_path / f"{of}.weights.h5"
    models.conv_base(of, None, (48, 48, 3)).save_weights(file)
    with pytest.raises(BadInput, match=f"does not hold the weights of a {into} base"):
        models.conv_base(into, file, (48, 48, 3))


def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "notes.weights.h5"
    file.write_text("not weights")
    with pytest.raises(BadInput, match=r"notes.weights.h5' does not hold the weights of a mini base"):
        models.conv_base("mini", file, (48, 48, 3))


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(MissingData, match=r"no weights file 'nowhere.weights.h5'"):
        models.conv_base("mini", "nowhere.weights.h5", (48, 48, 3))


def test_imagenet_weights_that_cannot_be_fetched_are_missing_data_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise Exception("URL fetch failure on https://example.org/vgg16.h5: None -- Name or service not known")

    monkeypatch.setitem(models.BASES, "vgg16", offline)
    with pytest.raises(MissingData, match=r"give a file with --weights, or put vgg16_notop.weights.h5 into the data"):
        models.conv_base("vgg16", "imagenet")


def test_the_mini_base_says_where_its_own_weights_are_instead_of_looking_for_imagenet() -> None:
    with pytest.raises(BadInput, match=r"mini base has no ImageNet weights; its own are in"):
        models.conv_base("mini", "imagenet", (48, 48, 3))


def test_weights_from_a_file_are_the_ones_the_base_computes_with(tmp_path: Path) -> None:
    first, other = (models.conv_base("mini", None, (48, 48, 3)) for _ in range(2))
    first.save_weights(tmp_path / "first.weights.h5")
    again = models.conv_base("mini", tmp_path / "first.weights.h5", (48, 48, 3))
    pictures = np.random.default_rng(0).random((2, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(again.predict(pictures, verbose=0), first.predict(pictures, verbose=0))
    assert not np.array_equal(other.predict(pictures, verbose=0), first.predict(pictures, verbose=0))


def test_vgg16s_published_weights_load_into_the_base(data_folder: Path) -> None:
    base = models.conv_base("vgg16", data_folder / "vgg16_notop.weights.h5")
    kernel = base.get_layer("block1_conv1").get_weights()[0]
    np.testing.assert_allclose(kernel.ravel()[:2], [0.42947057, 0.11727387], rtol=1e-6)
