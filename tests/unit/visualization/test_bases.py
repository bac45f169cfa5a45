"""Grad-CAM, activations and filter patterns of newer bases."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from convspec import models
from convspec.backend import value_and_gradient
from convspec.visualization.maps import activations, class_activation_map
from convspec.visualization.patterns import filter_patterns, input_range, trace_grey
from convspec.visualization.trace import Trace

LAST = {
    "efficientnetv2b0": "top_conv",
    "convnexttiny": "convnext_tiny_stage_3_block_2_depthwise_conv",
    "mobilenetv3small": "conv_1",
}
PICTURE = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.float32)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name == "mobilenetv3small" else pytest.mark.slow) for name in LAST],
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    return models.conv_base(name, None, (64, 64, 3))


def test_grad_cam_weighs_the_last_convolutions_maps_by_their_gradients(name: str, base: keras.Model) -> None:
    """The gradient of a channel's bias is the sum over its map; so is, but for one factor, that of the next layer's."""
    model = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(2)])
    kernel = np.random.default_rng(3).normal(size=(base.output_shape[-1], 1))
    model.layers[-1].set_weights([np.hstack([kernel, -kernel]), np.zeros(2)])  # what speaks against one speaks for two
    convolution = base.get_layer(LAST[name])
    after = base.layers[base.layers.index(convolution) + 1]
    bias = convolution.bias if convolution.use_bias else after.beta
    fixed = [variable.value for variable in model.non_trainable_variables]
    maps = keras.Model(base.input, convolution.output)(PICTURE[None])[0]

    def expect(label: int) -> np.ndarray:
        def score(value: object) -> object:
            values = [value if variable is bias else variable.value for variable in model.trainable_variables]
            scores, _ = model.stateless_call(values, fixed, PICTURE[None], training=False)
            return scores[:, label]

        _, gradient = value_and_gradient(score, ops.copy(bias.value))
        return np.maximum((ops.convert_to_numpy(maps) * ops.convert_to_numpy(gradient)).mean(axis=-1), 0)

    expected = [expect(label) for label in range(2)]
    assert np.any(expected)
    for label, evidence in enumerate(expected):
        heatmap = class_activation_map(model, PICTURE, label)
        assert heatmap.shape == (2, 2)
        np.testing.assert_allclose(heatmap, evidence / (evidence.max() or 1), atol=1e-3)
    assert Trace(model, PICTURE).find_maps(None) == LAST[name]


def test_activations_are_of_every_layer_of_the_nested_base(name: str, base: keras.Model) -> None:
    outputs = activations(models.end_to_end(base), PICTURE)
    names = {layer.name for layer in base.layers if not isinstance(layer, layers.InputLayer | keras.Sequential)}
    assert names <= outputs.keys()
    (last,) = keras.ops.convert_to_numpy(base(PICTURE[None]))
    np.testing.assert_allclose(outputs[base.layers[-1].name], last, atol=1e-5)


def test_patterns_respond_more_than_the_noise_that_they_begin_with(name: str, base: keras.Model) -> None:
    layer = trace_grey(base, 0).first_convolutions()[1]
    noise, patterns = (
        filter_patterns(base, layer, [0], 64, steps, as_pictures=False, value_range=input_range(prepare, 3))
        for prepare in [models.PREPROCESSING[name]]
        for steps in (0, 5)
    )
    response, before = (activations(base, inputs[0])[layer][..., 0].mean() for inputs in (patterns, noise))
    assert response > before
