"""Models cut in two before a layer, and linear probes."""

import keras
import numpy as np
import pytest

from convspec import models
from convspec.arithmetic import dense_parameters


@pytest.mark.parametrize("layer", [layer.name for layer in models.conv_base("mini", None, (48, 48, 3)).layers[1:]])
def test_before_the_cut_and_from_it_on_are_together_the_base(layer: str, rng: np.random.Generator) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    trunk, top = models.cut_before(base, layer)
    batch = rng.random((4, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (top(trunk(batch)), base(batch))))
    assert top.layers[1].name == layer
    assert trunk.count_params() + top.count_params() == base.count_params()


def test_a_linear_probe_reads_mean_and_maximum_of_each_feature_map(rng: np.random.Generator) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    probe = models.linear_probe(base, 48)
    batch = rng.random((2, 48, 48, 3), np.float32)
    maps = keras.ops.convert_to_numpy(base(batch))
    pooled = keras.Model(probe.input, probe.get_layer("pooled").output).predict(batch, verbose=0)
    np.testing.assert_allclose(pooled, np.concatenate([maps.mean(axis=(1, 2)), maps.max(axis=(1, 2))], axis=1), 1e-5)


def test_a_linear_probe_at_two_sizes_has_the_features_of_both(rng: np.random.Generator) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (None, None, 3))
    probe = models.linear_probe(base, 64, 2, (48,))
    large = rng.random((2, 64, 64, 3), np.float32)
    small = keras.ops.convert_to_numpy(keras.ops.image.resize(large, (48, 48), antialias=True))
    pooled = keras.Model(probe.input, probe.get_layer("pooled").output).predict(large, verbose=0)
    maps = [keras.ops.convert_to_numpy(base(pictures)) for pictures in (large, small)]
    expected = [pool(one, axis=(1, 2)) for one in maps for pool in (np.mean, np.max)]
    np.testing.assert_allclose(pooled, np.concatenate(expected, axis=1), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_a_linear_probe_ends_in_one_linear_layer_on_twice_the_feature_maps(classes: int) -> None:
    base = models.conv_base("mini", None, (48, 48, 3))
    probe, units = models.linear_probe(base, 48, classes), 1 if classes == 2 else classes
    assert probe.count_params() - base.count_params() == dense_parameters(2 * 96, units)
