"""What models compute in: a choice for a session, recorded with its runs and kept apart in baselines."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import backend, models
from convspec.accuracy import baselines
from convspec.data.datasets import Dataset
from convspec.ladder.run import run_key, run_recipe
from convspec.ladder.rungs import find_recipe

MIXED = ["mixed_bfloat16", "mixed_float16"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = backend.precision()
    yield
    backend.set_precision(before)


@pytest.mark.parametrize("name", ["float32", *MIXED])
def test_a_precision_that_was_set_is_the_one_that_is_told_and_that_layers_compute_in(name: str) -> None:
    backend.set_precision(name)
    assert backend.precision() == name
    assert keras.layers.Dense(1).compute_dtype == name.removeprefix("mixed_")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own switch")
@pytest.mark.parametrize(("name", "on"), [("float32", False), ("tf32", True), ("mixed_float16", True)])
def test_only_float32_forbids_a_gpu_to_round_factors(name: str, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    backend.set_precision(name)
    assert tf.config.experimental.tensor_float_32_execution_enabled() == on
    monkeypatch.setattr(backend, "accelerators", lambda: ["a GPU"])
    assert backend.precision() == name


def test_without_a_gpu_tf32_is_float32() -> None:
    if backend.accelerators():
        pytest.skip("there is a GPU")
    backend.set_precision("tf32")
    assert backend.precision() == "float32"


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", MIXED)
def test_probabilities_are_float32_whatever_the_layers_before_compute_in(name: str, classes: int) -> None:
    backend.set_precision(name)
    model = models.small_convnet((48, 48, 3), classes=classes, filters=(4, 4))
    assert model.layers[0].compute_dtype == name.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) == "float32"


@pytest.mark.parametrize("name", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_a_run_in_mixed_precision_learns_as_in_float32_and_is_kept_apart_from_it(
    name: str, few_shapes: Dataset, tmp_path: Path
) -> None:
    """To 3 of some 20 test pictures: the digits that are left are 8 or 11 of 24."""
    recipe = replace(find_recipe("feature_extraction", "mini"), epochs=3, learning_rate=1e-3)
    results, keys = {}, set()
    for precision in ("float32", name):
        backend.set_precision(precision)
        keys.add(run_key(recipe, few_shapes, 0))
        results[precision] = run_recipe(recipe, few_shapes, 0, tmp_path)
    assert results[name].test_accuracy == pytest.approx(results["float32"].test_accuracy, abs=3 / 20)
    assert results[name].history["loss"] != results["float32"].history["loss"], "nothing was computed otherwise"
    assert np.isfinite(results[name].history["loss"]).all()
    assert len(keys) == 2, "a run in one precision would be taken for one in the other"
    assert baselines.environment(results[name].machine) == f"{baselines.environment(results['float32'].machine)}-{name}"


def test_a_precision_that_the_session_asks_for_wins_over_the_one_that_a_fast_recipe_measures(
    few_shapes: Dataset, tmp_path: Path
) -> None:
    backend.set_precision("mixed_float16")
    result = run_recipe(find_recipe("feature_extraction_fast", "mini"), few_shapes, 0, tmp_path)
    assert result.machine["precision"] == "mixed_float16"


def test_the_option_sets_it_and_the_header_tells_it(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--precision", "mixed_bfloat16")
    assert backend.precision() == "mixed_bfloat16"
    result.stdout.re_match_lines([r"convspec: keras .*, precision mixed_bfloat16"])
