"""Out of memory: the base goes on with fewer pictures at a time, training stops with the words to say why."""

import os
import runpy
import warnings
from itertools import repeat
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convspec import BadInput, features, models, progress, training
from convspec import backend as backend_module
from convspec.backend import out_of_memory
from convspec.data import batches


class ResourceExhaustedError(Exception):
    """As TensorFlow's is called."""


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is called."""


class AcceleratorOutOfMemory(OutOfMemoryError):
    """One of a kind."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ResourceExhaustedError("OOM when allocating tensor"), True),
        (AcceleratorOutOfMemory("CUDA out of memory"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("INVALID_ARGUMENT: shapes"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_every_backends_words_for_it_are_understood(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) == expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own error")
def test_tensorflows_own_error_is_understood() -> None:
    import tensorflow as tf

    assert out_of_memory(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"))


def mini_base(most: int, error: type[Exception] = MemoryError) -> tuple[keras.Model, list[int]]:
    """A base with room for that many pictures, and how many it was given each time; its weights are lost as on JAX."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    predict, given = base.predict_on_batch, []

    def predict_if_it_fits(inputs: np.ndarray) -> Any:
        given.append(len(inputs))
        if len(inputs) > most:
            base.set_weights([np.full_like(weight, np.nan) for weight in base.get_weights()])
            raise error
        return predict(inputs)

    base.predict_on_batch = predict_if_it_fits
    return base, given


@pytest.fixture
def pictures() -> batches.Batches:
    drawn = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    return batches.Batches(drawn, np.arange(20) % 2, 8, batches.rescale)


def test_a_base_without_room_for_a_batch_goes_on_with_parts_of_it(pictures: batches.Batches, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # with room for every batch nothing is said
        expected = features.extract(mini_base(8)[0], pictures, tmp_path / "whole", clock=progress.Clock())
    base, given = mini_base(3)
    with pytest.warns(UserWarning, match="out of memory: mini goes on with") as said:
        found = features.extract(base, pictures, tmp_path / "parts", clock=progress.Clock())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert sum("out of memory" in str(warning.message) for warning in said) == 2
    assert given == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2], "a size that was too large is not tried again"


@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_base_without_room_for_one_picture_is_a_clear_error(pictures: batches.Batches, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mini has no room for a single picture of \(48, 48, 3\)"):
        features.extract(mini_base(0)[0], pictures, tmp_path, clock=progress.Clock())
    with pytest.raises(ZeroDivisionError):  # another error is not taken for it
        features.extract(mini_base(0, ZeroDivisionError)[0], pictures, tmp_path, clock=progress.Clock())


def test_numbers_that_end_pytorchs_gpu_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.dense_baseline((4,), 2)
    training.compile_model(model, 1e-3)

    def fit(source: keras.utils.PyDataset, **_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(model, "fit", fit)
    with pytest.raises(BadInput, match=r"no number any more: take a lower learning rate; what runs after it .* fails"):
        training.fit(model, repeat((np.zeros((7, 4)), np.zeros(7))), 1, 1, None, clock=progress.Clock(), history={})


@pytest.mark.parametrize(("error", "expected"), [(MemoryError, BadInput), (ZeroDivisionError, ZeroDivisionError)])
def test_training_without_room_for_a_step_stops_and_names_the_batch(
    error: type[Exception], expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smaller batch would train another model."""
    model = models.dense_baseline((4,), 2)
    training.compile_model(model, 1e-3)
    batch = np.zeros((7, 4), np.float32), np.zeros(7)

    def fit(source: keras.utils.PyDataset, **_: Any) -> None:
        assert len(source[0][1]) == 7
        raise error

    monkeypatch.setattr(model, "fit", fit)
    monkeypatch.setattr(backend_module, "feed", lambda source: source)
    with pytest.raises(expected) as raised:
        training.fit(model, repeat(batch), 1, 1, None, clock=progress.Clock(), history={})
    if expected is BadInput:
        assert "dense_baseline has no room for a step of 7 pictures" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "frugal", "greedy"),
    [("TF_FORCE_GPU_ALLOW_GROWTH", "true", "false"), ("XLA_PYTHON_CLIENT_PREALLOCATE", "false", "true")],
    ids=["TensorFlow", "JAX"],
)
def test_a_gpus_memory_is_not_grabbed_whole_unless_the_user_says_so(
    name: str, frugal: str, greedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    for expected in (frugal, greedy):
        runpy.run_path(str(backend_module.__file__))
        assert os.environ[name] == expected
        monkeypatch.setenv(name, greedy)
