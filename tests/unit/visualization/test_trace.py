"""A recorded forward pass, and parts of it replayed."""

import keras
import numpy as np
import pytest
from builders import noting_layer
from keras import layers, ops

from convspec import BadInput
from convspec.visualization.trace import Trace, input_shape


@pytest.fixture(scope="module")
def branched() -> keras.Model:
    """Three convolutions, two of them in a row, and their sum."""
    inputs = keras.Input((6, 5, 3))
    one = layers.Conv2D(4, 3, padding="same", name="one")(inputs)
    two = layers.Conv2D(4, 3, padding="same", name="two")(one)
    other = layers.Conv2D(4, 1, name="other")(inputs)
    pooled = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([one, two, other]))
    return keras.Model(inputs, layers.Dense(2, "softmax", name="head")(pooled))


@pytest.fixture
def trace(branched: keras.Model, pictures: np.ndarray) -> Trace:
    return Trace(branched, pictures[0])


@pytest.fixture
def pictures(rng: np.random.Generator) -> np.ndarray:
    return rng.random((3, 6, 5, 3)).astype(np.float32)


def test_a_trace_of_one_picture_replays_any_others(branched: keras.Model, trace: Trace, pictures: np.ndarray) -> None:
    names = ["two", "sum", "head"]
    by_keras = keras.Model(branched.inputs, [branched.get_layer(name).output for name in names])
    replayed = trace.replay(pictures[1:])
    for name, expected in zip(names, by_keras.predict(pictures, verbose=0), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(trace.outputs[name]), expected[:1], atol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(replayed[name]), expected[1:], atol=1e-5)


def test_known_outputs_are_not_computed_and_nothing_after_the_end(pictures: np.ndarray) -> None:
    calls: list[str] = []
    one, two, last = (noting_layer(calls, name) for name in ("one", "two", "last"))
    inputs = keras.Input((6, 5, 3))
    trace = Trace(keras.Model(inputs, last(layers.Add()([inputs, two(one(inputs))]))), pictures[0])
    calls.clear()
    until = trace.replay(pictures, "two")
    assert calls == ["one", "two"]
    assert list(until) == ["one", "two"]
    calls.clear()
    outputs = trace.replay(pictures, known={"one": 0, "two": 2 * until["two"]})
    assert calls == ["last"]
    np.testing.assert_allclose(ops.convert_to_numpy(outputs["last"]), 3 * pictures, rtol=1e-6)


@pytest.mark.parametrize(("units", "activation"), [(1, "sigmoid"), (3, "softmax")])
def test_logits_are_before_the_final_activation_and_follow_the_weights(
    units: int, activation: str, pictures: np.ndarray
) -> None:
    dense = layers.Dense(units, activation)
    model = keras.Sequential([keras.Input((6, 5, 3)), layers.Flatten(), dense])
    before = dict(vars(dense))
    keras.utils.set_random_seed(1)
    drawn = ops.convert_to_numpy(keras.random.uniform((3,)))
    keras.utils.set_random_seed(1)
    trace = Trace(model, pictures[0])
    assert vars(dense) == before, "the model's own layer was changed"
    np.testing.assert_array_equal(ops.convert_to_numpy(keras.random.uniform((3,))), drawn, "random numbers were used")
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(
        ops.convert_to_numpy(trace.logits(trace.inputs, trace.outputs))[0], pictures[0].ravel() @ kernel + bias, 1e-4
    )
    dense.set_weights([-kernel, bias + 1])
    logits = ops.convert_to_numpy(trace.logits(pictures))
    np.testing.assert_allclose(logits, 1 + bias - pictures.reshape(3, -1) @ kernel, 1e-4)


def test_the_output_is_that_of_the_model_not_of_its_last_call(pictures: np.ndarray) -> None:
    inputs = keras.Input((6, 5, 3))
    flat = layers.Flatten()(inputs)
    inner = keras.Model(inputs, [layers.Dense(3, name="main")(flat), layers.Dense(5, name="aside")(flat)])
    model = keras.Model(inputs, inner(inputs)[0])
    trace = Trace(model, pictures[0])
    np.testing.assert_allclose(ops.convert_to_numpy(trace.logits(pictures)), model.predict(pictures, verbose=0), 1e-5)


def test_behind_a_softmax_a_cast_or_a_reshape_is_not_the_end(pictures: np.ndarray) -> None:
    """Whoever asks the last layer whether it gives probabilities must hear of the softmax."""
    stack = [layers.Conv2D(3, (6, 5), activation="softmax", name="scores", dtype="bfloat16"), layers.Flatten()]
    model = keras.Sequential([keras.Input((6, 5, 3)), *stack, layers.Activation("linear")])
    trace = Trace(model, pictures[0])
    assert trace.end == "scores"
    probabilities = ops.convert_to_numpy(trace.logits(pictures, without=()))
    np.testing.assert_allclose(probabilities.astype(np.float32), model.predict(pictures, verbose=0), atol=0.01)
    relu = [layers.Conv2D(3, (6, 5), activation="relu"), layers.Flatten(name="flat")]
    assert Trace(keras.Sequential([keras.Input((6, 5, 3)), *relu]), pictures[0]).end == "flat"


class Halving(keras.Model):
    """A graph with a `call` of its own around it."""

    def call(self, inputs: object, **_: object) -> object:
        return super().call(ops.multiply(inputs, 0.5))


def test_a_nested_model_is_followed_unless_its_class_has_a_call_of_its_own(pictures: np.ndarray) -> None:
    inputs = keras.Input((6, 5, 3))
    halving = Halving(inputs, layers.Conv2D(2, 3, name="hidden")(inputs), name="halving")
    plain = keras.Sequential([keras.Input((4, 3, 2)), layers.Conv2D(2, 3, name="inside")])
    model = keras.Model(inputs, plain(inputs=halving(inputs)))
    trace = Trace(model, pictures[0])
    assert list(trace.outputs) == ["halving", "inside"]
    np.testing.assert_allclose(ops.convert_to_numpy(trace.logits(pictures)), model.predict(pictures, verbose=0), 1e-4)
    with pytest.raises(BadInput, match="must be Sequential or functional"):
        input_shape(halving)


def test_channels_come_last() -> None:
    first = layers.Conv2D(4, 1, data_format="channels_first")
    with pytest.raises(BadInput, match="channels first: build it with data_format='channels_last'"):
        Trace(keras.Sequential([keras.Input((3, 6, 5)), first]), np.zeros((3, 6, 5), np.float32))


def test_convolutions_of_a_single_pixel_are_no_maps_to_look_at() -> None:
    """A head may be written as 1 x 1 convolutions of the pooled maps."""
    stack = [layers.Conv2D(4, 3, name="first"), layers.Conv2D(4, 3, padding="same"), layers.MaxPooling2D(2)]
    stack += [layers.Conv2D(4, 1, name="last"), layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(2, 1)]
    trace = Trace(keras.Sequential([keras.Input((6, 6, 3)), *stack]), np.zeros((6, 6, 3), np.float32))
    assert trace.find_maps(None) == "last"
    assert trace.first_convolutions() == ["first", "last"], "at each size of maps"


def test_a_pictures_shape_is_that_of_the_models_input(branched: keras.Model) -> None:
    assert input_shape(branched) == (6, 5, 3)
    assert input_shape(keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(1, 3)])) == (None, None, 1)
    with pytest.raises(BadInput, match="take one image"):
        input_shape(keras.Sequential([keras.Input((6,)), layers.Dense(1)]))
