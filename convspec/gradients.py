"""The only room that knows which Keras backend is running."""

import os

import keras


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


def threads() -> int:
    """Threads that one operation may use; where the backend does not say, the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.config.threading.get_intra_op_parallelism_threads() or cores
    if keras.backend.backend() == "torch":
        import torch

        return torch.get_num_threads()
    return cores
