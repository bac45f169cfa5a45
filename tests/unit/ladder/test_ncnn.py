"""A frozen base computed by ncnn has the features that Keras gives it, in less time, or is refused in one line."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from builders import short_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from convspec import BadInput, features, models
from convspec.accuracy import baselines
from convspec.data.batches import Batches, rescale
from convspec.data.datasets import Dataset
from convspec.ladder.run import base_features, run_key, run_recipe
from convspec.ladder.rungs import find_recipe
from convspec.progress import Clock

if not find_spec("ncnn"):
    pytest.skip("needs ncnn: pip install -e '.[ncnn]'", allow_module_level=True)
from convspec.ladder import ncnn

SIDES = st.integers(1, 4)
KERNELS = st.sampled_from([1, 3, 5])
CONVOLUTIONS = st.fixed_dictionaries(
    {
        "filters": st.integers(1, 20),
        "kernel_size": st.tuples(KERNELS, KERNELS),
        "padding": st.sampled_from(["same", "valid"]),
        "activation": st.just("relu"),
        "bias_initializer": st.just("random_normal"),
    }
)
POOLINGS = st.fixed_dictionaries({"pool_size": st.tuples(SIDES, SIDES), "strides": st.tuples(SIDES, SIDES)})


def chain(layers: list[keras.Layer], side: int = 48) -> keras.Model:
    inputs = output = keras.Input((side, side, 3))
    for layer in layers:
        output = layer(output)
    return keras.Model(inputs, output, name="chain")


@pytest.mark.filterwarnings("ignore:.*triggered tf.function retracing")
@settings(max_examples=10, deadline=None)
@given(st.lists(CONVOLUTIONS | POOLINGS, min_size=1, max_size=3), st.integers(0, 9))
def test_any_chain_of_convolutions_and_poolings_gives_kerass_output(layers: list[dict[str, Any]], seed: int) -> None:
    """For pictures as large as those that VGG16's own preparation makes."""
    kinds = keras.layers.MaxPooling2D, keras.layers.Conv2D
    base = chain([kinds["filters" in config](**config) for config in layers], 19)
    pictures = np.random.default_rng(seed).uniform(-128, 128, (2, 19, 19, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(base(pictures))
    output = ncnn.Network(base).predict_on_batch(pictures)
    assert output.shape == expected.shape
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_run_on_ncnn_has_the_losses_of_keras_and_names_the_version(few_shapes: Dataset, tmp_path: Path) -> None:
    """Through what is cached, and in exact mode through the stream of augmented pictures."""
    for rung in ("feature_extraction", "fine_tuned_exact"):
        recipe = short_recipe(rung)
        by_keras = run_recipe(recipe, few_shapes, 0, tmp_path)
        by_ncnn = run_recipe(recipe, few_shapes, 0, tmp_path, engine=ncnn.ENGINE)
        for name in ("loss", "val_loss"):
            np.testing.assert_allclose(by_ncnn.history[name], by_keras.history[name], rtol=1e-5, err_msg=name)
        versions = [run.machine["versions"] for run in (by_keras, by_ncnn)]
        assert versions[1] == versions[0] | {"ncnn": ncnn.ncnn.__version__}
        assert baselines.changes([by_keras.as_run()], [by_ncnn.as_run()]) == ["engine keras -> ncnn"]
        assert run_key(recipe, few_shapes, 0) != run_key(recipe, few_shapes, 0, engine=ncnn.ENGINE)


def test_features_of_ncnn_have_a_store_of_their_own(few_shapes: Dataset, tmp_path: Path) -> None:
    """They differ by rounding, which a baseline's predictions may hang on."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    pictures = Batches(few_shapes.test.images, few_shapes.test.labels, 8, rescale)
    by_keras, by_ncnn = (
        features.extract(base, pictures, tmp_path, clock=Clock(), engine=engine)
        for engine in (features.KERAS, ncnn.ENGINE)
    )
    assert len([store for store in tmp_path.iterdir() if store.is_dir()]) == 2
    np.testing.assert_allclose(by_ncnn, by_keras, rtol=0, atol=1e-5 * by_keras.max())


def test_a_linear_probe_on_ncnn_is_in_float32_and_leaves_its_features(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = find_recipe("feature_extraction_fast", "mini")
    result = run_recipe(recipe, few_shapes, 0, tmp_path, engine=ncnn.ENGINE)
    assert result.machine["precision"] == "float32"
    stores = set((tmp_path / "features").iterdir())
    base_features(recipe, few_shapes, tmp_path, engine=ncnn.ENGINE)
    assert set((tmp_path / "features").iterdir()) == stores


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (keras.layers.BatchNormalization(name="own"), "'own', a BatchNormalization in float32"),
        (keras.layers.Conv2D(2, 3, strides=2, activation="relu", name="own"), "'own', a Conv2D"),
        (keras.layers.Conv2D(2, 2, padding="same", activation="relu", name="own"), "'own', a Conv2D"),
        (keras.layers.Conv2D(2, 3, name="own"), "'own', a Conv2D"),
        (keras.layers.Conv2D(2, 3, activation="relu", dtype="mixed_bfloat16", name="own"), "in bfloat16"),
        (keras.layers.MaxPooling2D(2, padding="same", name="own"), "'own', a MaxPooling2D"),
    ],
)
def test_a_layer_that_ncnn_is_not_given_is_named(layer: keras.Layer, named: str) -> None:
    with pytest.raises(BadInput, match=f"ncnn computes chains of .*; chain has .*{named}.*: leave the option out"):
        ncnn.Network(chain([layer]))


def test_features_that_are_not_kerass_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a version of ncnn computed in half precision after all."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    halved = lambda self, inputs: np.float32(np.float16(base.predict_on_batch(inputs)))  # noqa: E731
    monkeypatch.setattr(ncnn.Network, "predict_on_batch", halved)
    with pytest.raises(BadInput, match=r"computes mini otherwise than Keras does: features differ by \d\.\de-0\d, the"):
        ncnn.Network(base)


def test_without_ncnn_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "convspec.ladder.ncnn")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(BadInput, match=r'^ncnn is not installed: pip install "convspec\[ncnn\]"$'):
        import_module("convspec.ladder.ncnn")
