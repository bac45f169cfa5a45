"""Grad-CAM, activations and filter patterns of newer bases."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from convspec import models
from convspec.backend import value_and_gradient
from convspec.visualization.maps import activations, class_activation_map
from convspec.visualization.patterns import filter_pictures, trace_grey
from convspec.visualization.trace import Trace

LAST = {
    "efficientnetv2b0": "top_conv",
    "convnexttiny": "convnext_tiny_stage_3_block_2_depthwise_conv",
    "mobilenetv3small": "conv_1",
}
PICTURE = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=LAST)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(name: str) -> keras.Model:
    keras.utils.set_random_seed(1)
    return models.conv_base(name, None, (64, 64, 3))


def test_grad_cam_is_of_the_last_convolution_by_the_gradient_of_the_rest(name: str, base: keras.Model) -> None:
    model = models.end_to_end(base, classes=3)
    assert Trace(model, PICTURE).find_maps(None) == LAST[name]
    convolution = base.get_layer(LAST[name])
    ends = [convolution.output]
    if isinstance(convolution, layers.DepthwiseConv2D):  # a residual path goes around it
        ends.append(convolution.input)
    maps, *around = (ops.convert_to_tensor(end) for end in keras.Model(base.input, ends)(PICTURE[None]))
    rest = keras.Model(ends, base.output)

    def score(maps: object) -> tuple[object, object]:
        *hidden, last = model.layers[model.layers.index(base) + 1 :]
        x = rest([maps, *around])
        for layer in hidden:
            x = layer(x)
        logits = ops.matmul(x, last.kernel) + last.bias
        return logits[:, 1]

    _, gradient = value_and_gradient(score, maps)
    maps, gradient = (ops.convert_to_numpy(each)[0].astype(float) for each in (maps, gradient))
    expected = np.maximum((maps * gradient.mean(axis=(0, 1))).mean(axis=-1), 0)
    heatmap = class_activation_map(model, PICTURE, 1)
    assert heatmap.shape == (2, 2)
    np.testing.assert_allclose(heatmap, expected / (expected.max() or 1), atol=1e-3)


def test_activations_are_of_every_layer_of_the_nested_base(name: str, base: keras.Model) -> None:
    outputs = activations(models.end_to_end(base), PICTURE)
    names = {layer.name for layer in base.layers if not isinstance(layer, layers.InputLayer | keras.Sequential)}
    assert names <= outputs.keys()
    (last,) = keras.ops.convert_to_numpy(base(PICTURE[None]))
    np.testing.assert_allclose(outputs[base.layers[-1].name], last, atol=1e-5)


def test_patterns_respond_more_than_the_noise_that_they_begin_with(name: str, base: keras.Model) -> None:
    layer = trace_grey(base, 0).first_convolutions()[1]
    patterns = [filter_pictures(base, models.PREPROCESSING[name], layer, [0, 1], 64, steps) for steps in (0, 5)]
    assert patterns[1].shape == (2, 64, 64, 3)
    assert not np.array_equal(*patterns)
