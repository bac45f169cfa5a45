"""What the running Keras backend computes, is fed, writes and says of the machine."""

import gc
import json
import os
import runpy
import subprocess
import sys
import weakref
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import keras
import numpy as np
import pytest
from keras import layers, ops

from convspec import BadInput, backend, machine, models, reference, training
from convspec.data.batches import Batches, identity

PRECISIONS: list[backend.Precision] = ["mixed_bfloat16", "mixed_float16"]
MIXED = [name for name in PRECISIONS if backend.computes(name.removeprefix("mixed_"))]  # JAX 0.12 the latter alone
on_tensorflow = pytest.mark.skipif(backend.BACKEND != "tensorflow", reason="TensorFlow's own switch")
on_gpu = pytest.mark.skipif(not backend.accelerators(), reason="needs a GPU")


def test_channels_first_in_kerass_settings_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(BadInput, match="image_data_format must be channels_last, as pictures are, got channels_first"):
        runpy.run_path(str(backend.__file__))


def test_a_backend_that_keras_does_not_know_is_refused_by_name() -> None:
    code, settings = "import convspec.backend", os.environ | {"KERAS_BACKEND": "pytorch"}
    ended = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    line = ended.stderr.strip().splitlines()[-1]
    assert line == (
        "convspec.BadInput: KERAS_BACKEND must be one of tensorflow, jax, torch: Unable to import backend : pytorch"
    )


def test_the_backend_is_asked_for_deterministic_kernels() -> None:
    backend.make_deterministic()
    if backend.BACKEND == "jax":
        assert "--xla_gpu_deterministic_ops=true" in os.environ["XLA_FLAGS"]
        return
    if backend.BACKEND == "tensorflow":
        from tensorflow.python.framework.config import is_op_determinism_enabled

        assert is_op_determinism_enabled()
    else:
        import torch

        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"], "PyTorch refuses CUDA's matrix products without it"


@pytest.mark.skipif(backend.BACKEND != "jax", reason="XLA's own flags")
@pytest.mark.parametrize(("given", "expected"), [
    ("", "--xla_gpu_deterministic_ops=true"),
    ("--xla_cpu_enable_fast_math=false", "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true"),
    ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
])  # fmt: skip
def test_the_users_flags_for_xla_stay(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", given)
    runpy.run_path(str(backend.__file__))
    assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize(("affinity", "expected"), [({4, 7, 9}, 3), (None, 16)])
def test_cores_are_those_that_the_process_may_use_else_all(
    affinity: set[int] | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if affinity:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: affinity, raising=False)
    else:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert backend.cores() == expected


def test_threads_are_those_that_were_set_else_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    if backend.BACKEND == "torch":
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(3)
        assert backend.threads() == 3
        torch.set_num_threads(before)
    else:
        name = {"tensorflow": "TF_NUM_INTRAOP_THREADS", "jax": "NPROC"}[backend.BACKEND]
        monkeypatch.setenv(name, "3")
        assert backend.threads() == 3
        monkeypatch.delenv(name)
        assert backend.threads() == backend.cores()


def test_a_synchronised_value_is_computed() -> None:
    value = ops.ones((1000, 1000))
    for _ in range(10):
        value = ops.matmul(value, value) / 1000
    backend.synchronise(value)
    assert getattr(value, "is_ready", lambda: True)(), "JAX returns before it has computed"
    assert ops.convert_to_numpy(value)[0, 0] == 1


def test_without_a_gpu_device_memory_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "accelerators", list)
    assert backend.device_memory()() is None


@on_gpu
def test_device_memory_is_the_peak_since_the_watch_began() -> None:
    peak = backend.device_memory()
    block = ops.ones((2**30,), "float32")
    backend.synchronise(block)
    assert (peak() or 0) >= 2**32


def test_on_jax_only_a_higher_peak_than_before_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = {"peak_bytes_in_use": 900}
    jax = SimpleNamespace(devices=lambda: [SimpleNamespace(memory_stats=lambda: statistics)])
    monkeypatch.setattr(backend, "BACKEND", "jax")
    monkeypatch.setattr(backend, "jax", jax, raising=False)
    monkeypatch.setattr(backend, "accelerators", lambda: ["a GPU"])
    peak = backend.device_memory()
    assert peak() is None, "900 bytes were in use before, and since then some number up to that"
    statistics["peak_bytes_in_use"] = 1000
    assert peak() == 1000


def gradient_of(function: Callable[[Any], Any], at: np.ndarray) -> list[np.ndarray]:
    return [ops.convert_to_numpy(tensor) for tensor in backend.value_and_gradient(function, at)]


def test_a_gradient_is_that_of_central_differences() -> None:
    """Of a smooth convnet, by every value of a small batch; the differences in NumPy and in double precision."""
    stack = [layers.Conv2D(3, 3, activation="softplus"), layers.Flatten(), layers.Dense(1, activation="tanh")]
    model = keras.Sequential([keras.Input((5, 4, 2)), *stack])
    rng = np.random.default_rng(0)
    kernel, bias, dense, offset = weights = [rng.normal(size=weight.shape) / 4 for weight in model.weights]
    model.set_weights(weights)
    batch = rng.normal(size=(2, 5, 4, 2))

    def smooth(batch: np.ndarray) -> np.ndarray:
        maps = np.log1p(np.exp([reference.conv2d(image, kernel, bias) for image in batch]))
        return np.tanh(maps.reshape(len(batch), -1) @ dense + offset)[:, 0]

    values, gradient = gradient_of(lambda x: model(x)[:, 0], batch.astype(np.float32))
    np.testing.assert_allclose(values, smooth(batch), atol=1e-6)
    differences = np.zeros(batch.shape)
    for place in np.ndindex(batch.shape):
        nudge = np.zeros(batch.shape)
        nudge[place] = 1e-5
        differences[place] = np.sum(smooth(batch + nudge) - smooth(batch - nudge)) / 2e-5
    assert np.abs(differences).max() > 0.01
    np.testing.assert_allclose(gradient, differences, atol=1e-6)


def test_each_sample_has_the_gradient_of_its_own_number() -> None:
    values, gradient = gradient_of(lambda x: ops.sum(x**3, axis=-1), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert values.tolist() == [9, 91]
    assert gradient.tolist() == [[3, 12], [27, 48]]


@pytest.mark.parametrize(
    "cut", [lambda x: ops.sum(ops.stop_gradient(x)), lambda x: ops.sum(x - x), lambda x: ops.ones(2)]
)
def test_where_nothing_depends_on_the_input_the_gradient_is_0(cut: Callable[[Any], Any]) -> None:
    _, gradient = gradient_of(cut, np.ones((2, 3)))
    assert gradient.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_compiled_function_reads_its_variables_anew_at_every_call() -> None:
    variable = keras.Variable(np.float32(2))
    twice = backend.compiled(lambda x: x * variable, [variable])
    outputs = []
    for value in (2, 5):
        variable.assign(value)
        outputs.append(ops.convert_to_numpy(twice(np.array([1, 3], np.float32))).tolist())
    assert outputs == [[2, 6], [5, 15]]


@pytest.mark.parametrize("endless", [False, True])
def test_keras_is_fed_the_same_batches_in_the_same_order(endless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = np.arange(7 * 2, dtype=np.float32).reshape(7, 2)
    batches = Batches(inputs, np.arange(7), 3, identity)
    expected = [batches[number] for number in (0, 1, 2)]
    if endless:
        monkeypatch.setattr(Batches, "num_batches", None)
        monkeypatch.setattr(Batches, "__getitem__", lambda _, number: expected[number % 3])
        expected *= 2
    source = backend.feed(batches)
    if backend.BACKEND == "tensorflow":
        assert source.options().autotune.enabled is False, "else its end may take a minute"
        drawn = [tuple(part.numpy() for part in batch) for batch in islice(source, len(expected) + 1)]
    else:
        drawn = [source[number] for number in range(len(expected) + endless)]
    assert len(drawn) == len(expected) + endless
    for batch, wanted in zip(drawn, expected, strict=False):
        for one, other in zip(batch, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    held = weakref.ref(batches)
    del batches, source
    gc.collect()
    assert held() is None, "each run would leave the features that it maps in memory"


def test_a_portable_configuration_names_what_every_backend_has() -> None:
    """From what Keras saves of RMSprop in PyTorch, also wrapped for float16, and of compiling the graph in JAX."""
    rmsprop = {
        "module": "keras.src.backend.torch.optimizers.torch_rmsprop",
        "class_name": "RMSprop",
        "config": {"rho": 0.9},
        "registered_name": "RMSprop",
    }
    public = {"module": "keras.optimizers", "class_name": "RMSprop", "config": {"rho": 0.9}, "registered_name": None}
    scaled = {"module": "keras.optimizers", "class_name": "LossScaleOptimizer", "config": {"inner_optimizer": rmsprop}}
    assert backend.portable_config({"optimizer": rmsprop, "metrics": ["accuracy"], "jit_compile": True}) == {
        "optimizer": public,
        "metrics": ["accuracy"],
        "jit_compile": "auto",
    }
    assert backend.portable_config({"optimizer": scaled})["optimizer"]["config"] == {"inner_optimizer": public}
    assert backend.portable_config({"optimizer": public}) == {"optimizer": public}
    assert backend.portable_config({"layers": [{"optimizer": rmsprop}]}) == {"layers": [{"optimizer": public}]}


def test_a_model_with_a_compiled_one_in_it_is_saved_for_every_backend(tmp_path: Path) -> None:
    """A head that was trained on features, and then put upon its base."""
    head = models.dense_baseline((4,), classes=2)
    training.compile_model(head, 1e-2)
    backend.save_model(keras.Sequential([keras.Input((4,)), head]), tmp_path / "model.keras")
    with ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json").decode()
    assert "RMSprop" in config
    assert "keras.src.backend" not in config
    assert '"jit_compile": "auto"' in config


def test_a_saved_model_is_portable_and_trains_on_once_loaded(tmp_path: Path, rng: np.random.Generator) -> None:
    inputs, labels = rng.normal(size=(8, 4)).astype(np.float32), np.arange(8) % 2
    model = models.dense_baseline((4,), classes=2)
    training.compile_model(model, 1e-2)
    model.train_on_batch(inputs, labels)
    backend.save_model(model, tmp_path / "model.keras")
    with ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert "keras.src" not in json.dumps(config), "a module of Keras's own insides, perhaps of one backend"
    assert config["compile_config"]["jit_compile"] == "auto", "compiled or not as suits where it is loaded"
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.train_on_batch(inputs, labels)
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, other)))


@pytest.mark.usefixtures("own_precision")
@pytest.mark.parametrize("name", ["float32", *MIXED])
def test_layers_compute_in_the_precision_that_was_set(name: backend.Precision) -> None:
    backend.set_precision(name)
    assert backend.precision() == name
    assert layers.Dense(1).compute_dtype == name.removeprefix("mixed_")


@pytest.mark.usefixtures("own_precision")
def test_a_precision_that_the_backend_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JAX 0.12 does on a CPU; fast mode takes float32 there."""
    before, convolve = backend.precision(), ops.conv

    def convolve_wrongly(maps: Any, kernel: Any, **options: Any) -> Any:
        sign = -1 if keras.backend.standardize_dtype(maps.dtype) == "bfloat16" else 1
        return sign * convolve(maps, kernel, **options)

    monkeypatch.setattr(ops, "conv", convolve_wrongly)
    assert [backend.computes.__wrapped__(dtype) for dtype in ("bfloat16", "float16")] == [False, True]
    monkeypatch.setattr(backend, "computes", lambda dtype: dtype != "bfloat16")
    with pytest.raises(BadInput, match=rf"precision mixed_bfloat16: .*{backend.BACKEND} computes it wrongly"):
        backend.set_precision("mixed_bfloat16")
    assert backend.precision() == before
    monkeypatch.setattr(machine, "faster_precision", lambda *_: "mixed_bfloat16")
    assert machine.fast_precision.__wrapped__() == "float32", "however fast it is"


@on_tensorflow
@pytest.mark.usefixtures("own_precision")
@pytest.mark.parametrize(("name", "on"), [("float32", False), ("tf32", True), ("mixed_float16", True)])
def test_only_float32_forbids_a_gpu_to_round_factors(
    name: backend.Precision, on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    backend.set_precision(name)
    assert tf.config.experimental.tensor_float_32_execution_enabled() == on
    monkeypatch.setattr(backend, "accelerators", lambda: ["a GPU"])
    assert backend.precision() == name


@pytest.mark.usefixtures("own_precision")
def test_without_a_gpu_tf32_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "accelerators", list)
    backend.set_precision("tf32")
    assert backend.precision() == "float32"


@pytest.mark.usefixtures("own_precision")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", MIXED)
def test_probabilities_are_float32_in_mixed_precision(name: backend.Precision, classes: int) -> None:
    backend.set_precision(name)
    model = models.small_convnet((48, 48, 3), classes=classes, filters=(4, 4))
    assert model.layers[0].compute_dtype == name.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) == "float32"


@pytest.mark.parametrize(
    ("name", "batch_size", "devices", "outcome"),
    [
        ("jax", 20, 1, 20),
        ("jax", 20, 2, 10),
        ("jax", 20, 4, 5),
        ("torch", 20, 1, 20),
        ("jax", 15, 2, "devices must divide the batch of 15 evenly, got 2: take one of 1, 3, 5, 15"),
        ("jax", 20, 5, "devices must be at most 4, as GPU:0, GPU:1, GPU:2, GPU:3 are all there are, got 5"),
        ("torch", 20, 2, "on PyTorch, .* got 2: set KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow"),
    ],
)
def test_a_share_is_an_even_part_of_the_batch_or_refused(
    name: str, batch_size: int, devices: int, outcome: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "BACKEND", name)
    monkeypatch.setattr(backend, "_devices", lambda: ["GPU:0", "GPU:1", "GPU:2", "GPU:3"])
    if isinstance(outcome, int):
        assert backend.batch_share(batch_size, devices) == outcome
    else:
        with pytest.raises(BadInput, match=outcome):
            backend.batch_share(batch_size, devices)
