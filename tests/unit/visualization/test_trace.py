"""An image followed through a model, and parts of its way gone again."""

from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from convspec import BadInput
from convspec.visualization.trace import INPUT, LOGITS, Trace, input_shape


@pytest.fixture(scope="module")
def branched() -> keras.Model:
    """A convolution that two others, one before it and one beside it, go around."""
    inputs = keras.Input((6, 5, 3))
    one = layers.Conv2D(4, 3, padding="same", name="one")(inputs)
    two = layers.Conv2D(4, 3, padding="same", name="two")(one)
    other = layers.Conv2D(4, 1, name="other")(inputs)
    pooled = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([one, two, other]))
    return keras.Model(inputs, layers.Dense(2, "softmax", name="head")(pooled))


def outputs(model: keras.Model, images: np.ndarray, *names: str) -> list[np.ndarray]:
    """Keras's own word on what layers give."""
    return keras.Model(model.inputs, [model.get_layer(name).output for name in names]).predict(images, verbose=0)


def test_an_image_of_its_own_going_the_same_way_gives_what_keras_gives(
    branched: keras.Model, rng: np.random.Generator
) -> None:
    """A trace of one image serves any number of others."""
    images = rng.random((3, 6, 5, 3)).astype(np.float32)
    trace = Trace(branched, images[0])
    found = trace.replay({INPUT: images[1:]}, "two", "sum", "head")
    for new, expected in zip(found, outputs(branched, images[1:], "two", "sum", "head"), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(new), expected, atol=1e-5)
    (first,) = outputs(branched, images[:1], "sum", "head")[:1]
    np.testing.assert_allclose(ops.convert_to_numpy(trace.output("sum")), first, atol=1e-5)


def test_from_a_layer_on_what_goes_around_it_must_be_given_or_is_that_of_the_traced_image(
    branched: keras.Model, rng: np.random.Generator
) -> None:
    images = rng.random((2, 6, 5, 3)).astype(np.float32)
    trace = Trace(branched, images[0])
    assert sorted(trace.bypasses("two", LOGITS)) == ["one", "other"]
    assert trace.bypasses("one", LOGITS) == ["other"]
    assert trace.bypasses("sum", LOGITS) == []
    two, one, other = trace.replay({INPUT: images}, "two", "one", "other")
    (whole,) = trace.replay({"two": two, "one": one, "other": other}, "head")
    np.testing.assert_allclose(ops.convert_to_numpy(whole), branched.predict(images, verbose=0), atol=1e-5)
    (alone,) = trace.replay({"two": two[:1]}, "head")
    np.testing.assert_allclose(ops.convert_to_numpy(alone), ops.convert_to_numpy(whole[:1]), atol=1e-5)


def test_only_what_is_on_the_way_is_called_again(branched: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(branched, np.zeros((6, 5, 3), np.float32))
    called: list[str] = []

    def noted(name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return call(*args, **kwargs)

    for name in trace.calls:
        layer = branched.get_layer(name)
        monkeypatch.setattr(layer, "call", partial(noted, name, layer.call))
    trace.replay({INPUT: np.ones((1, 6, 5, 3), np.float32)}, "two")
    assert called == ["one", "two"], "the model is cut at the layer that is asked for"
    called.clear()
    trace.replay({"two": trace.output("two")}, LOGITS)
    assert called == ["sum", "pool", "head"]


def test_shapes_alone_are_worked_out_for_any_size(branched: keras.Model) -> None:
    trace = Trace(branched, np.zeros((6, 5, 3), np.float32))
    (maps,) = trace.replay({INPUT: keras.KerasTensor((7, 40, 30, 3))}, "sum")
    assert maps.shape == (7, 40, 30, 4)


@pytest.mark.parametrize("units", [1, 3])
def test_logits_are_what_the_final_activation_was_given_and_the_model_stays_as_it_was(
    units: int, rng: np.random.Generator
) -> None:
    activation = "softmax" if units > 1 else "sigmoid"
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(units, activation)])
    image = rng.random((4, 4, 3)).astype(np.float32)
    keras.utils.set_random_seed(1)
    expected = keras.random.uniform((3,), seed=None)
    keras.utils.set_random_seed(1)
    logits = Trace(model, image).output(LOGITS)
    np.testing.assert_array_equal(
        keras.random.uniform((3,), seed=None), expected, "Keras's random numbers were used up"
    )
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(ops.convert_to_numpy(logits)[0], image.ravel() @ kernel + bias, atol=1e-5)
    active = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}[activation]
    np.testing.assert_allclose(model.predict(image[None], verbose=0), ops.convert_to_numpy(active(logits)), atol=1e-6)


def test_the_last_convolution_with_more_than_a_pixel_is_found_and_any_layer_with_maps_by_name(
    branched: keras.Model,
) -> None:
    trace = Trace(branched, np.zeros((6, 5, 3), np.float32))
    assert trace.find_maps(None) in ("two", "other")
    assert trace.find_maps("sum") == "sum"
    with pytest.raises(BadInput, match="has no layer 'pool' with maps; choose from one, "):
        trace.find_maps("pool")


def test_the_shape_of_an_image_is_that_of_the_models_input(branched: keras.Model) -> None:
    assert input_shape(branched) == (6, 5, 3)
    assert input_shape(keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 3)])) == (None, None, 1)
    with pytest.raises(BadInput, match="take one image"):
        input_shape(keras.Sequential([keras.Input((6,)), layers.Dense(1)]))
