"""The only room that knows which Keras backend is running."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def make_deterministic() -> None:
    """Same seed, same machine, same result: asks the backend for kernels that always add in the same order."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)


def accelerators() -> list[str]:
    """Names of the GPUs or TPUs that the backend will use; empty on a CPU."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in found]
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Threads that one operation may use; where the backend does not say, the cores that this process may use."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.config.threading.get_intra_op_parallelism_threads() or cores()
    if keras.backend.backend() == "torch":
        import torch

        return torch.get_num_threads()
    return cores()


def synchronise(value: object) -> None:
    """Return when `value`, arrays that the backend was asked for, is there: accelerators work on behind a call that
    has returned, so a clock is read after this only."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    elif keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(value)
    else:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def device_memory() -> Callable[[], int | None]:
    """Begin to watch the first accelerator's memory: what is returned tells the peak since, in bytes.

    It tells None where that is not known: on a CPU, and in JAX, whose peak is that of the whole process, unless it
    has risen since.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            return lambda: None
        tf.config.experimental.reset_memory_stats("GPU:0")
        return lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if keras.backend.backend() == "jax":
        import jax

        def peak() -> int:
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)  # no statistics on a CPU

        before = peak()
        return lambda: now if (now := peak()) > before else None
    import torch

    if not torch.cuda.is_available():
        return lambda: None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated


def value_and_gradient(function: Callable[[Any], Any], at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `function` gives at the array `at`, and the gradient of that, of the shape of `at`.

    `function` takes a tensor of the backend's and gives one: a number, or a number for each sample of a batch. The
    gradient is that of their sum: sample by sample that of its own number, where no sample has a part in another's.
    It is zero where nothing depends on the input. Weights get no gradient.
    """
    point = keras.ops.convert_to_tensor(at)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            values = function(point)
        gradient = tape.gradient(values, point, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    elif keras.backend.backend() == "jax":
        import jax

        values, pull_back = jax.vjp(function, point)
        (gradient,) = pull_back(jax.numpy.ones_like(values))
    else:
        import torch

        point = point.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = function(point)
        connected = torch.autograd.grad(values.sum(), point, allow_unused=True) if values.requires_grad else (None,)
        gradient = torch.zeros_like(point) if connected[0] is None else connected[0]
    return keras.ops.convert_to_numpy(values), keras.ops.convert_to_numpy(gradient)
