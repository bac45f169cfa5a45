"""Section 5.3, using a pretrained convnet, claim by claim; accuracies are in test_recorded_runs.py, and
freezing as behaviour in test_models_freezing.py.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import features, models, progress, training
from convspec.arithmetic import multiply_adds
from convspec.data.batches import Batches, rescale
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe


@pytest.fixture(scope="module")
def vgg16() -> keras.Model:
    return models.conv_base()


@pytest.fixture(scope="module")
def mini() -> keras.Model:
    """A pretrained base that is small enough to be run."""
    return models.conv_base("mini", models.MINI_WEIGHTS, (96, 96, 3))


def blot(row: int, column: int) -> np.ndarray:
    """A black picture with one bright blot."""
    picture = np.zeros((1, 96, 96, 3), np.float32)
    picture[0, row - 5 : row + 5, column - 5 : column + 5] = (1, 0.8, 0.2)
    return picture


def test_the_base_is_convolutions_and_poolings_and_no_dense_layer(vgg16: keras.Model) -> None:
    """Section 5.3.1, figure 5.14: the classifier is left out (`include_top=False`)."""
    assert {type(layer).__name__ for layer in vgg16.layers} == {"InputLayer", "Conv2D", "MaxPooling2D"}


def test_feature_maps_tell_where_an_object_is_and_dense_layers_do_not(mini: keras.Model) -> None:
    """Section 5.3.1: densely connected layers "get rid of the notion of space"."""
    empty = np.zeros((1, 96, 96, 3), np.float32)
    for place in ((24, 24), (24, 72), (72, 24), (72, 72)):
        gain = np.abs(mini.predict(blot(*place), verbose=0) - mini.predict(empty, verbose=0))[0].sum(axis=-1)
        row, column = np.unravel_index(gain.argmax(), gain.shape)
        assert abs(row * 16 + 8 - place[0]) <= 16
        assert abs(column * 16 + 8 - place[1]) <= 16
    assert len(models.end_to_end(mini).layers[-2].output.shape) == 2, "batch and units, no rows or columns"


def test_the_six_models_of_the_list_come_prepackaged() -> None:
    """Section 5.3.1: Xception, Inception V3, ResNet50, VGG16, VGG19, MobileNet."""
    names = {"xception", "inception_v3", "resnet50", "vgg16", "vgg19", "mobilenet"}
    assert names <= set(models.BASES)
    assert all(hasattr(keras.applications, models.BASES[name].__name__) for name in names)


def test_without_an_input_shape_inputs_may_have_any_size_from_32_up() -> None:
    """Listing 5.16: "inputs of any size": five poolings leave nothing of a picture below 32 pixels."""
    base = models.conv_base("vgg16", None, (None, None, 3))
    assert base.compute_output_shape((1, 150, 231, 3)) == (1, 4, 7, 512)
    with pytest.raises(ValueError, match="zero or negative"):
        base.compute_output_shape((1, 31, 31, 3))


def test_vgg16_ends_in_4_4_512_with_14714688_parameters(vgg16: keras.Model) -> None:
    """The summary after listing 5.16; section 5.3.2 calls it "15 million parameters"."""
    assert vgg16.output_shape == (None, 4, 4, 512)
    assert vgg16.count_params() == 14_714_688


def test_vgg16_pads_and_pools_after_two_or_three_convolutions(
    vgg16: keras.Model,
) -> None:
    """Section 5.3.1: "similar to the simple convnets you're already familiar with"."""
    convolutions = [layer for layer in vgg16.layers if isinstance(layer, keras.layers.Conv2D)]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), "same")}
    blocks = [sum(layer.name.startswith(f"block{n}_conv") for layer in convolutions) for n in range(1, 6)]
    assert blocks == [2, 2, 3, 3, 3]


def test_the_base_costs_3000_heads_and_an_epoch_on_features_two_pictures(vgg16: keras.Model) -> None:
    """Section 5.3.1: "by far the most expensive part", and "less than one second even on CPU": seconds depend on the
    machine, the work does not. A step multiplies three times as often as a prediction: forward, and for two gradients.
    """
    base, head = multiply_adds(vgg16), multiply_adds(models.feature_classifier((4, 4, 512)))
    assert base > 3000 * head
    assert 1.5 < 3 * 2000 * head / base < 2.5


def test_end_to_end_the_base_runs_30_times_as_often(vgg16: keras.Model) -> None:
    """Section 5.3.1: "far more expensive than the first": every picture passes the base every time it is seen."""
    seen = 30 * 2000
    head = multiply_adds(models.feature_classifier((4, 4, 512))) * 3
    end_to_end = seen * (multiply_adds(vgg16) + head)
    recorded = 2000 * multiply_adds(vgg16) + seen * head
    assert end_to_end / recorded > 28


def test_recorded_features_are_not_augmented_end_to_end_is() -> None:
    """Section 5.3.1, the two ways to proceed, as the ladder has them; fine-tuning augments, too."""
    assert find_recipe("feature_extraction", "full").augmentation is None
    for rung in ("frozen_end_to_end", "fine_tuned"):
        assert find_recipe(rung, "full").augmentation == CHAPTER_AUGMENTATION


def test_features_are_recorded_once_for_each_picture_beside_its_label(
    mini: keras.Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Listing 5.17: `predict` in batches of 20 and no picture twice; the shape is (samples, *the base's output)."""
    pixels = rng.integers(0, 256, (23, 96, 96, 3), np.uint8)
    batches = Batches(pixels, np.arange(23) % 2, 20, rescale)
    recorded = features.extract(mini, batches, tmp_path, clock=progress.Clock())
    assert recorded.shape == (23, *mini.output_shape[1:])
    alone = mini.predict(rescale(pixels[21:22].astype(np.float32)), verbose=0)
    np.testing.assert_allclose(recorded[21], alone[0], rtol=1e-4, atol=1e-5)


def test_features_flatten_to_8192_in_the_order_of_a_flatten_layer(vgg16: keras.Model, rng: np.random.Generator) -> None:
    """After listing 5.17: `np.reshape(train_features, (2000, 4 * 4 * 512))`."""
    maps = rng.random((2, *vgg16.output_shape[1:])).astype(np.float32)
    flat = np.reshape(maps, (2, 4 * 4 * 512))
    whole, head = models.feature_classifier((4, 4, 512)), models.feature_classifier((8192,))
    head.set_weights(whole.get_weights())
    np.testing.assert_allclose(whole.predict(maps, verbose=0), head.predict(flat, verbose=0), rtol=1e-5)


def test_the_classifier_trains_with_dropout_at_2e_5_for_30_epochs() -> None:
    """Listing 5.18."""
    recipe = find_recipe("feature_extraction", "full")
    assert (recipe.dropout, recipe.learning_rate, recipe.epochs, recipe.batch_size) == (0.5, 2e-5, 30, 20)


def test_a_base_is_added_like_a_layer_and_the_classifier_adds_2_million(vgg16: keras.Model) -> None:
    """Listing 5.20 and the summary after it: 16,812,353."""
    model = models.end_to_end(vgg16)
    assert model.layers[0] is vgg16
    assert model.count_params() == 16_812_353
    assert model.count_params() - vgg16.count_params() == 2_097_665


def test_each_dense_layer_has_two_trainable_tensors(mini: keras.Model) -> None:
    """Section 5.3.1: "a total of four weight tensors: two per layer"."""
    model = models.end_to_end(mini)
    assert [[len(weight.shape) for weight in layer.trainable_weights] for layer in model.layers[-2:]] == [[2, 1]] * 2


def test_a_frozen_base_with_a_head_computes_what_the_head_does_on_features(
    mini: keras.Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Section 5.3.1 reports 90 % one way and "about 96%" the other. Frozen, both compute the same function of a
    picture: only augmentation and the missing dropout can tell them apart, or a base that was not frozen.
    """
    models.freeze(mini)
    model, head = models.end_to_end(mini), models.feature_classifier(mini.output_shape[1:])
    head.set_weights([weight for layer in model.layers[-2:] for weight in layer.get_weights()])
    batches = Batches(rng.integers(0, 256, (5, 96, 96, 3), np.uint8), np.zeros(5), 5, rescale)
    recorded = features.extract(mini, batches, tmp_path, clock=progress.Clock())
    np.testing.assert_allclose(model.predict(batches, verbose=0), head.predict(recorded, verbose=0), rtol=1e-4)


def test_the_frozen_network_trains_for_30_epochs_at_2e_5_without_dropout() -> None:
    """Listings 5.20 and 5.21."""
    recipe = find_recipe("frozen_end_to_end", "full")
    assert (recipe.epochs, recipe.steps, recipe.batch_size, recipe.learning_rate) == (30, 100, 20, 2e-5)
    assert (recipe.dropout, recipe.thaw) == (0.0, None)


def test_fine_tuning_starts_from_the_network_whose_head_is_trained_already() -> None:
    """Section 5.3.2, steps 1 to 5: the base is thawed only after the part that was added has been trained."""
    assert find_recipe("fine_tuned", "full").starts_from == find_recipe("frozen_end_to_end", "full")


def test_layers_up_to_block4_pool_are_frozen_and_three_convolutions_thawed(vgg16: keras.Model) -> None:
    """Listing 5.22. The three hold 7,079,424 parameters: 48 % of the base that is "risky to attempt to train"."""
    thaw = find_recipe("fine_tuned", "full").thaw
    assert thaw == "block5_conv1"
    models.thaw_from(vgg16, thaw)
    frozen = [layer.name for layer in vgg16.layers if not layer.trainable]
    assert frozen[-1] == "block4_pool"
    assert [layer.name for layer in vgg16.layers if layer.trainable_weights] == [f"block5_conv{n}" for n in (1, 2, 3)]
    trained = sum(int(np.prod(weight.shape)) for weight in vgg16.trainable_weights)
    assert trained == 7_079_424
    assert trained / vgg16.count_params() == pytest.approx(0.48, abs=0.002)


def test_fine_tuning_uses_half_the_learning_rate_of_the_step_before() -> None:
    """Listing 5.23: "a very low learning rate": 1e-5, for 100 epochs."""
    before, recipe = find_recipe("frozen_end_to_end", "full"), find_recipe("fine_tuned", "full")
    assert (recipe.learning_rate, recipe.epochs) == (1e-5, 100)
    assert recipe.learning_rate / before.learning_rate == pytest.approx(0.5)


def test_the_moving_average_makes_noise_a_third_as_high(rng: np.random.Generator) -> None:
    """Listing 5.24: "more readable"; with factor 0.8 the variance of noise falls to (1 - 0.8) / (1 + 0.8) = 1/9."""
    noise = rng.normal(size=20_000)
    smoothed = training.smooth_curve(noise.tolist())
    assert smoothed[:2] == pytest.approx([noise[0], 0.8 * noise[0] + 0.2 * noise[1]])
    assert np.std(smoothed) / np.std(noise) == pytest.approx(1 / 3, abs=0.02)


def test_a_smoothed_curve_lags_behind_so_its_end_understates_a_rise() -> None:
    """Listing 5.24, figure 5.22: "from about 96% to above 97%" is read off curves that trail by 4 epochs."""
    rise = np.arange(100.0)
    assert rise[-1] - training.smooth_curve(rise.tolist())[-1] == pytest.approx(4)


def test_accuracy_can_improve_while_the_average_loss_gets_worse() -> None:
    """Section 5.3.2: accuracy comes of "a binary thresholding", the loss of averaging; here 3 of 4 right against 2."""
    labels = np.array([[0], [0], [1], [1]])
    before, after = np.array([[0.4], [0.6], [0.6], [0.4]]), np.array([[0.4], [0.4], [0.6], [0.01]])
    right = [np.mean(training.predicted_classes(p) == labels[:, 0]) for p in (before, after)]
    loss = [float(keras.ops.mean(keras.losses.binary_crossentropy(labels, p))) for p in (before, after)]
    assert right == [0.5, 0.75]
    assert loss[1] > loss[0]


def test_97_percent_took_a_tenth_of_20000_samples_or_8_percent_of_all() -> None:
    """Section 5.3.2: "only a small fraction of the training data available (about 10%)"; the competition had 25,000."""
    recipe = find_recipe("fine_tuned", "full")
    assert (recipe.steps, recipe.batch_size) == (100, 20)
    assert (100 * 20 / 20_000, 100 * 20 / 25_000) == (0.1, 0.08)
    assert recipe.published["test"] == (0.968, 0.97), "97 % in the text, 0.968 in its notebook's output"
