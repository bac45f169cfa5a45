"""Section 5.3: networks and trainings of listings 5.18 to 5.23, run as they are written beside the package's own."""

import random
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from builders import assert_builds_as_listed, assert_trains_as_listed, mini_base
from claims import Evidence, claim
from keras import layers, optimizers

from convspec import models
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, rescale, stream
from convspec.data.datasets import Dataset
from convspec.ladder.recipe import Recipe
from convspec.ladder.rungs import find_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")  # as the listings do


def listing_5_18(*start: keras.Layer) -> keras.Model:
    """With other layers before it in the place of `input_dim`."""
    model = keras.Sequential(start or [keras.Input((4 * 4 * 512,))])
    dense, sigmoid = layers.Dense(256, activation="relu"), layers.Dense(1, activation="sigmoid")
    model.add(dense)
    model.add(layers.Dropout(0.5, seed=random.randint(1, 10**9)))  # after those of the weights, as the package draws it
    model.add(sigmoid)
    return model


@claim(95.5, "5.3.1", "note the use of dropout for regularization", "holds", source="listing 5.18")
def test_the_head_on_features_is_that_of_listing_5_18_in_every_setting() -> None:
    assert_builds_as_listed(lambda: models.feature_classifier((8192,)), listing_5_18)


def listing_5_20(conv_base: keras.Model) -> keras.Model:
    model = keras.Sequential()
    model.add(conv_base)
    model.add(layers.Flatten())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    return model


def compiled(model: keras.Model, learning_rate: float) -> keras.Model:
    """Listings 5.18, 5.21 and 5.23."""
    optimizer = optimizers.RMSprop(learning_rate=learning_rate)
    model.compile(optimizer=optimizer, loss="binary_crossentropy", metrics=["acc"])
    return model


@claim(101, "5.3.1", "just like you would add a layer", "holds", source="listing 5.20")
@claim(102, "5.3.1", "The classifier you’re adding on top has 2 million parameters", "holds", source="listing 5.20")
def test_the_network_is_that_of_listing_5_20_and_its_head_has_2_million() -> None:
    """The summary after it: 16,812,353."""
    vgg16 = models.conv_base()
    assert_builds_as_listed(lambda: models.end_to_end(mini_base()), lambda: listing_5_20(mini_base()))
    model = models.end_to_end(vgg16)
    assert model.layers[0] is vgg16
    assert model.count_params() == 16_812_353
    assert model.count_params() - vgg16.count_params() == 2_097_665


# What the listings fit at full, all fields.
FIELDS: dict[str, Any] = {
    "scale": "full", "dataset": "dogs_vs_cats", "size": 150, "batch_size": 20, "steps": 100, "base": "vgg16",
    "ema_momentum": 0.0, "filters": (32, 64, 128, 128), "extra_sizes": (), "interpolation": "nearest",
    "preprocessing": "rescale", "exact": False, "views": 0, "precision": "float32", "thaw": None, "starts_from": None,
}  # fmt: skip
LISTING_5_21 = Augmentation(
    rotation_range=40, width_shift_range=0.2, height_shift_range=0.2, shear_range=0.2, zoom_range=0.2,
    horizontal_flip=True, fill_mode="nearest",
)  # fmt: skip
EXTRACTION = Recipe(
    "feature_extraction", listings="5.16-5.19", model="feature_classifier", learning_rate=2e-5, epochs=30, dropout=0.5,
    augmentation=None, **FIELDS,
)  # fmt: skip
FROZEN = Recipe(
    "frozen_end_to_end", listings="5.20-5.21", model="end_to_end", learning_rate=2e-5, epochs=30, dropout=0.0,
    augmentation=LISTING_5_21, **FIELDS,
)  # fmt: skip
TUNED = replace(
    FROZEN, name="fine_tuned", listings="5.22-5.24", learning_rate=1e-5, epochs=100, thaw="block5_conv1",
    starts_from=FROZEN,
)  # fmt: skip


@claim(104.6, "5.3.1", "the same data-augmentation configuration", "holds", source="listing 5.21")
@claim(108.5, "5.3.2", "starting from where you left off in the previous example", "holds")
@pytest.mark.parametrize("expected", [EXTRACTION, FROZEN, TUNED], ids=lambda recipe: recipe.name)
def test_a_rung_with_a_base_is_that_of_its_listings_in_every_field(expected: Recipe) -> None:
    """100 steps of 20 are a pass over the 2,000 pictures of listing 5.18. Fine-tuning goes on with the frozen rung."""
    assert {field.name for field in fields(Recipe)} == {
        "name", "listings", "model", "learning_rate", "epochs", "dropout", "augmentation", "published", *FIELDS
    }  # fmt: skip
    recipe = find_recipe(expected.name, "full")
    start = recipe.starts_from and replace(recipe.starts_from, published={})
    assert replace(recipe, published={}, starts_from=start) == expected


MINI: dict[str, Any] = {"base": "mini", "size": 48, "steps": 3}


def test_feature_extraction_trains_as_listing_5_18_by_keras_itself(few_shapes: Dataset, tmp_path: Path) -> None:
    """With the base in front, frozen, in the place of its recorded output."""

    def listing() -> keras.Model:
        conv_base = mini_base()
        conv_base.trainable = False
        return compiled(listing_5_18(keras.Input((48, 48, 3)), conv_base, layers.Flatten()), 2e-5)

    assert_trains_as_listed("feature_extraction", few_shapes, listing, 20, tmp_path, **MINI)


def frozen_as_listed() -> keras.Model:
    conv_base = mini_base()
    model = listing_5_20(conv_base)
    conv_base.trainable = False
    return compiled(model, 2e-5)


def test_the_frozen_network_trains_as_listing_5_21_by_keras_itself(few_shapes: Dataset, tmp_path: Path) -> None:
    assert_trains_as_listed("frozen_end_to_end", few_shapes, frozen_as_listed, 20, tmp_path, **MINI)


def thaw_as_listed(conv_base: keras.Model, first: str) -> None:
    """Listing 5.22."""
    conv_base.trainable = True
    set_trainable = False
    for layer in conv_base.layers:
        if layer.name == first:
            set_trainable = True
        if set_trainable:
            layer.trainable = True
        else:
            layer.trainable = False


@claim(112, "5.3.2", "the RMSProp optimizer, using a very low learning rate", "holds", source="listing 5.23")
def test_fine_tuning_trains_as_listings_5_22_and_5_23_by_keras_itself(few_shapes: Dataset, tmp_path: Path) -> None:
    """At half the learning rate of the step before, whose trained network it goes on with."""
    start = replace(find_recipe("frozen_end_to_end", "full"), epochs=1, **MINI)

    def listing() -> keras.Model:
        model = frozen_as_listed()
        batches = Batches(few_shapes.train.images, few_shapes.train.labels, 20, rescale)
        model.fit(stream(batches, 3, LISTING_5_21), epochs=1, steps_per_epoch=3, verbose=0)
        thaw_as_listed(model.layers[0], "block4_conv2")
        return compiled(model, 1e-5)

    changes = MINI | {"thaw": "block4_conv2", "starts_from": start}
    assert_trains_as_listed("fine_tuned", few_shapes, listing, 20, tmp_path, **changes)
    assert TUNED.learning_rate / FROZEN.learning_rate == 0.5


@claim(106, "5.3.2", "unfreezing a few of the top layers", "holds", source="figure 5.19")
@claim(108, "5.3.2", "all layers up to block4_pool should be frozen", "holds", source="listing 5.22")
@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])
def test_layers_are_thawed_as_listing_5_22_thaws_them(name: str, evidence: Evidence) -> None:
    """Of VGG16 three convolutions: 48 % of the base that is "risky to attempt to train"; and with normalisations."""
    base, listed = (models.conv_base(name, None, (48, 48, 3)) for _ in range(2))
    first = "block5_conv1" if name == "vgg16" else "conv_pw_11"
    models.freeze(base)
    models.thaw_from(base, first)
    thaw_as_listed(listed, first)
    assert [layer.trainable for layer in base.layers] == [layer.trainable for layer in listed.layers]
    assert len(base.trainable_weights) == len(listed.trainable_weights) > 0
    if name == "vgg16":
        assert [layer.name for layer in base.layers if not layer.trainable][-1] == "block4_pool"
        assert [layer.name for layer in base.layers if layer.trainable_weights] == [
            f"block5_conv{n}" for n in (1, 2, 3)
        ]
        trained = sum(int(np.prod(weight.shape)) for weight in base.trainable_weights)
        evidence(f"{trained:,} of {base.count_params():,} parameters thawed")
        assert (trained, base.count_params()) == (7_079_424, 14_714_688)
