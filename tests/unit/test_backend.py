"""What is asked of the Keras backend, and what it says of the machine."""

import os
import sys
from itertools import islice
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from convspec import backend as backend_module
from convspec import reference
from convspec.backend import (
    accelerators,
    device_memory,
    feed,
    make_deterministic,
    portable,
    synchronise,
    threads,
    value_and_gradient,
)
from convspec.data.batches import Batches, identity


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process believe that Keras runs on another backend, which it gives."""

    def pretend(name: str, **inside: object) -> None:
        monkeypatch.setattr(keras.backend, "backend", lambda: name)
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**inside))

    return pretend


def test_determinism_is_asked_of_the_backend(other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    asked: list[object] = []
    experimental = SimpleNamespace(enable_op_determinism=lambda: asked.append("tensorflow"))
    other("tensorflow", config=SimpleNamespace(experimental=experimental))
    make_deterministic()
    # NVIDIA's matrix products add in one order with a workspace of fixed size only, and PyTorch refuses them without.
    other("torch", use_deterministic_algorithms=lambda on: asked.append((on, os.environ["CUBLAS_WORKSPACE_CONFIG"])))
    make_deterministic()
    assert asked == ["tensorflow", (True, ":4096:8")], (
        "the same seed gives the same result only with kernels that add in one order"
    )


def test_accelerators_go_by_the_names_of_their_models(other: Any) -> None:
    details = {"GPU:0": {"device_name": "NVIDIA H100"}, "GPU:1": {}}
    devices = [SimpleNamespace(name=name) for name in details]
    config = SimpleNamespace(
        list_physical_devices=lambda kind: devices if kind == "GPU" else [],
        experimental=SimpleNamespace(get_device_details=lambda device: details[device.name]),
    )
    other("tensorflow", config=config)
    assert accelerators() == ["NVIDIA H100", "GPU:1"], "the model's name, else the device's"
    kinds = {"cpu": "cpu", "gpu": "NVIDIA H100"}
    other("jax", devices=lambda: [SimpleNamespace(platform=name, device_kind=kind) for name, kind in kinds.items()])
    assert accelerators() == ["NVIDIA H100"]
    other(
        "torch",
        cuda=SimpleNamespace(device_count=lambda: 2, get_device_name=["NVIDIA H100", "NVIDIA A100"].__getitem__),
    )
    assert accelerators() == ["NVIDIA H100", "NVIDIA A100"]


@pytest.mark.parametrize("said", [3, 0])
def test_threads_are_those_the_backend_says_else_the_cores_of_this_process(said: int, other: Any) -> None:
    threading = SimpleNamespace(get_intra_op_parallelism_threads=lambda: said)
    other("tensorflow", config=SimpleNamespace(threading=threading))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert threads() == (said or cores)
    other("jax")
    assert threads() == cores
    other("torch", get_num_threads=lambda: 7)
    assert threads() == 7


@pytest.mark.parametrize(("affinity", "expected"), [({4, 7, 9}, 3), (None, 16)])
def test_cores_are_those_that_the_process_may_use_else_all(
    affinity: set[int] | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: affinity, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert backend_module.cores() == expected


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_before_a_clock_is_read_every_backend_is_waited_for(backend: str, other: Any) -> None:
    waited: list[object] = []
    if backend == "tensorflow":
        experimental = SimpleNamespace(sync_devices=lambda: waited.append("value"))
        other("tensorflow", test=SimpleNamespace(experimental=experimental))
    elif backend == "jax":
        other("jax", block_until_ready=waited.append)
    else:
        other("torch", cuda=SimpleNamespace(is_available=lambda: True, synchronize=lambda: waited.append("value")))
    synchronise("value")
    assert waited == ["value"], "else the clock says how fast work is handed over, not how fast it is done"


def test_torch_without_a_gpu_has_nothing_to_wait_for(other: Any) -> None:
    other("torch", cuda=SimpleNamespace(is_available=lambda: False))
    synchronise("value")
    assert device_memory()() is None


def test_the_peak_of_a_gpus_memory_is_that_since_the_watch_began(other: Any) -> None:
    peak = {"GPU:0": 900}
    experimental = SimpleNamespace(
        reset_memory_stats=lambda device: peak.update({device: 100}),
        get_memory_info=lambda device: {"current": 50, "peak": peak[device]},
    )
    devices = {"GPU": ["a GPU"]}
    other("tensorflow", config=SimpleNamespace(list_physical_devices=devices.get, experimental=experimental))
    watched = device_memory()
    assert watched() == 100, "900 bytes were in use before"
    peak["GPU:0"] = 300
    assert watched() == 300
    other(
        "torch",
        cuda=SimpleNamespace(
            is_available=lambda: True,
            reset_peak_memory_stats=lambda: peak.update({"GPU:0": 7}),
            max_memory_allocated=lambda: peak["GPU:0"],
        ),
    )
    assert device_memory()() == 7


def test_jax_never_forgets_a_peak_so_that_only_a_higher_one_is_this_watchs_own(other: Any) -> None:
    statistics = {"peak_bytes_in_use": 900}
    other("jax", devices=lambda: [SimpleNamespace(memory_stats=lambda: statistics)])
    watched = device_memory()
    assert watched() is None, "900 bytes were in use before, and since then some number up to that"
    statistics["peak_bytes_in_use"] = 1000
    assert watched() == 1000


def test_the_memory_of_a_cpu_is_no_devices_memory(other: Any) -> None:
    other("tensorflow", config=SimpleNamespace(list_physical_devices=lambda kind: []))
    assert device_memory()() is None
    other("jax", devices=lambda: [SimpleNamespace(memory_stats=lambda: None)])
    assert device_memory()() is None


def at_once(function: Any, at: np.ndarray) -> list[np.ndarray]:
    return [ops.convert_to_numpy(tensor) for tensor in value_and_gradient(function, at)]


def test_a_gradient_is_the_one_that_central_differences_find() -> None:
    """Of a smooth convnet, with respect to every value of a small batch; the differences in NumPy and in double
    precision, which not every backend has.
    """
    stack = [layers.Conv2D(3, 3, activation="softplus"), layers.Flatten(), layers.Dense(1, activation="tanh")]
    model = keras.Sequential([keras.Input((5, 4, 2)), *stack])
    rng = np.random.default_rng(0)
    kernel, bias, dense, offset = weights = [rng.normal(size=weight.shape) / 4 for weight in model.weights]
    model.set_weights(weights)
    batch = rng.normal(size=(2, 5, 4, 2))

    def smooth(batch: np.ndarray) -> np.ndarray:
        maps = np.log1p(np.exp([reference.conv2d(image, kernel, bias) for image in batch]))
        return np.tanh(maps.reshape(len(batch), -1) @ dense + offset)[:, 0]

    values, gradient = at_once(lambda x: model(x)[:, 0], batch.astype(np.float32))
    np.testing.assert_allclose(values, smooth(batch), atol=1e-6)
    differences = np.zeros(batch.shape)
    for place in np.ndindex(batch.shape):
        nudge = np.zeros(batch.shape)
        nudge[place] = 1e-5
        differences[place] = np.sum(smooth(batch + nudge) - smooth(batch - nudge)) / 2e-5
    assert np.abs(differences).max() > 0.01
    np.testing.assert_allclose(gradient, differences, atol=1e-6)


def test_each_sample_has_the_gradient_of_its_own_number() -> None:
    points = np.array([[1.0, 2.0], [3.0, 4.0]])
    values, gradient = at_once(lambda x: ops.sum(x**3, axis=-1), points)
    assert values.tolist() == [9, 91]
    assert gradient.tolist() == [[3, 12], [27, 48]]


@pytest.mark.parametrize(
    "cut", [lambda x: ops.sum(ops.stop_gradient(x)), lambda x: ops.sum(x - x), lambda x: ops.ones(2)]
)
def test_where_nothing_depends_on_the_input_the_gradient_is_0(cut: Any) -> None:
    _, gradient = at_once(cut, np.ones((2, 3)))
    assert gradient.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_saved_configuration_names_what_every_backend_has() -> None:
    """What Keras saves of RMSprop in PyTorch, also wrapped for float16, and of compiling the graph in JAX."""
    rmsprop = {
        "module": "keras.src.backend.torch.optimizers.torch_rmsprop",
        "class_name": "RMSprop",
        "config": {"rho": 0.9},
        "registered_name": "RMSprop",
    }
    public = {"module": "keras.optimizers", "class_name": "RMSprop", "config": {"rho": 0.9}, "registered_name": None}
    scaled = {"module": "keras.optimizers", "class_name": "LossScaleOptimizer", "config": {"inner_optimizer": rmsprop}}
    assert portable({"optimizer": rmsprop, "metrics": ["accuracy"], "jit_compile": True}) == {
        "optimizer": public, "metrics": ["accuracy"], "jit_compile": "auto",
    }  # fmt: skip
    assert portable({"optimizer": scaled})["optimizer"]["config"] == {"inner_optimizer": public}
    assert portable({"optimizer": public}) == {"optimizer": public}


@pytest.mark.parametrize("endless", [False, True])
def test_keras_is_fed_the_same_batches_in_the_same_order_by_what_does_not_tune_itself(
    endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tunes itself in TensorFlow may keep the end of a fit waiting for as long as a minute."""
    inputs = np.arange(7 * 2, dtype=np.float32).reshape(7, 2)
    batches = Batches(inputs, np.arange(7), 3, identity)
    expected = [batches[number] for number in (0, 1, 2)]
    if endless:
        monkeypatch.setattr(Batches, "num_batches", None)
        monkeypatch.setattr(Batches, "__getitem__", lambda _, number: expected[number % 3])
        expected *= 2
    fed = feed(batches)
    if keras.backend.backend() == "tensorflow":
        assert fed.options().autotune.enabled is False
        drawn = [tuple(part.numpy() for part in batch) for batch in islice(fed, len(expected) + 1)]
    else:
        drawn = [fed[number] for number in range(len(expected) + endless)]
    assert len(drawn) == len(expected) + endless
    for found, wanted in zip(drawn, expected, strict=False):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
