"""Everything that differs between Keras backends."""

import json
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np

from convspec import BadInput
from convspec.noise import without_noise

BACKENDS = ("tensorflow", "jax", "torch")
# "tf32" is float32 whose factors an NVIDIA GPU rounds to 10 bits in products; elsewhere it is float32.
Precision = Literal["float32", "tf32", "mixed_bfloat16", "mixed_float16"]

# By default both frameworks reserve nearly all of a GPU's memory, which other programs may need.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors

try:
    with without_noise():
        import keras

        BACKEND = keras.backend.backend()
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")  # looks for drivers, and says so where there are none
        elif BACKEND == "jax":
            import jax

            # Of small convnets on a GPU the same seed else gives other losses, in half the time. XLA reads it later.
            flags, own = os.environ.get("XLA_FLAGS", ""), "xla_gpu_deterministic_ops"
            os.environ["XLA_FLAGS"] = flags if own in flags else f"{flags} --{own}=true".strip()
        elif BACKEND == "torch":
            import torch
except ModuleNotFoundError as error:
    if error.name not in BACKENDS:
        raise
    installed = [f"KERAS_BACKEND={name}" for name in BACKENDS if find_spec(name)]
    raise BadInput(
        f'Keras is to run on {error.name}, which is not installed: pip install "convspec[{error.name}]"'
        + "".join(f", or set {setting}" for setting in installed)
    ) from error
except ValueError as error:  # of a name that Keras does not know, such as pytorch
    raise BadInput(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}: {error}") from error
if BACKEND not in BACKENDS:
    raise BadInput(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, got {BACKEND!r}")
if (layout := keras.config.image_data_format()) != "channels_last":
    raise BadInput(f"image_data_format must be channels_last, as pictures are, got {layout}: set it in keras.json")


def make_deterministic() -> None:
    """Use kernels that give the same result for the same seed; JAX does from its start."""
    if BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    elif BACKEND == "torch":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's matrix products are refused
        torch.use_deterministic_algorithms(True)


def accelerators() -> list[str]:
    """Return the names of the GPUs or TPUs that the backend will use; none on a CPU."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(device).get("device_name", device.name) for device in devices]
    if BACKEND == "jax":
        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Return the number of threads that one operation may use; by default the number of cores."""
    if BACKEND == "tensorflow":
        given = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS")
        return int(given or 0) or cores()
    return torch.get_num_threads() if BACKEND == "torch" else int(os.environ.get("NPROC", 0)) or cores()


@cache
def computes(dtype: str) -> bool:
    """Return whether a small convnet in `dtype` gives what it does in float32, but for rounding.

    On a CPU, JAX 0.11.2 and 0.12.0.1 give noise in bfloat16 where a rectified convolution follows such a one and
    a pooling.
    """
    draw, ops = np.random.default_rng(0), keras.ops
    maps = draw.random((1, 16, 16, 16), np.float32)
    kernels = [draw.standard_normal((3, 3, channels, 64), np.float32) / 16 for channels in (16, 64, 64)]

    def convnet(maps: Any, *kernels: Any) -> Any:
        for number, kernel in enumerate(kernels):
            maps = ops.relu(ops.conv(maps, kernel, padding="same"))
            maps = maps if number else ops.max_pool(maps, 2, 2)
        return maps

    run = compiled(convnet, [])
    rounded, whole = (run(*(ops.cast(array, name) for array in (maps, *kernels))) for name in (dtype, "float32"))
    rounded, whole = (ops.convert_to_numpy(ops.cast(output, "float32")) for output in (rounded, whole))
    return bool(np.allclose(rounded, whole, rtol=0, atol=0.05 * np.abs(whole).max()))


def set_precision(name: Precision) -> None:
    """Set the precision in which layers that are made from now on compute.

    Raises BadInput for one in which the backend computes wrongly.
    """
    if name.startswith("mixed") and not computes(name.removeprefix("mixed_")):
        raise BadInput(f"precision {name}: this version of {BACKEND} computes it wrongly on this device; take float32")
    keras.config.set_dtype_policy("float32" if name == "tf32" else name)
    if BACKEND == "tensorflow":
        tf.config.experimental.enable_tensor_float_32_execution(name != "float32")
    elif BACKEND == "jax":
        jax.config.update("jax_default_matmul_precision", "highest" if name == "float32" else "tensorfloat32")
    else:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"


def precision() -> Precision:
    """Return the precision in which layers that are made now compute."""
    policy = keras.config.dtype_policy().name
    if policy != "float32" or not accelerators():
        return policy
    if BACKEND == "tensorflow":
        rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    elif BACKEND == "jax":
        rounded = jax.config.jax_default_matmul_precision not in ("highest", "float32")
    else:
        rounded = torch.backends.cudnn.allow_tf32
    return "tf32" if rounded else "float32"


def synchronise(value: object) -> None:
    """Block until `value` is computed.

    Accelerators go on computing after a call has returned: read a clock only after this.
    """
    if BACKEND == "tensorflow":
        tf.test.experimental.sync_devices()
    elif BACKEND == "jax":
        jax.block_until_ready(value)
    elif torch.cuda.is_available():
        torch.cuda.synchronize()


def device_memory() -> Callable[[], int | None]:
    """Return a function that gives the peak memory of the first accelerator from now on, in bytes.

    It gives None on a CPU, and on JAX, which knows the peak of the whole process only, until that rises.
    """
    if not accelerators():
        return lambda: None
    if BACKEND == "tensorflow":
        tf.config.experimental.reset_memory_stats("GPU:0")
        return lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if BACKEND == "jax":

        def peak() -> int:
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

        before = peak()
        return lambda: now if (now := peak()) > before else None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` reports that the memory of a device or of the machine ran out."""
    names = {kind.__name__ for kind in type(error).__mro__}
    words = "RESOURCE_EXHAUSTED", "DefaultCPUAllocator"  # of JAX, and of PyTorch on a CPU: no types of their own
    return bool(names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}) or any(
        word in str(error) for word in words
    )


def value_and_gradient(function: Callable[[Any], Any], at: Any) -> tuple[Any, Any]:
    """Return what `function` gives at the tensor `at`, and the gradient of its sum by `at`.

    `function` gives a number, or a number for each sample of a batch; where samples do not mix, each sample's gradient
    is that of its own number. The gradient has the shape of `at` and is zero where nothing depends on it. Both are
    tensors of the backend. May be used inside a `compiled` function.
    """
    point = keras.ops.convert_to_tensor(at)
    if BACKEND == "tensorflow":
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            values = function(point)
        return values, tape.gradient(values, point, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if BACKEND == "jax":
        values, pull_back = jax.vjp(function, point)
        return values, pull_back(jax.numpy.ones_like(values))[0]
    point = point.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = function(point)
        (gradient,) = torch.autograd.grad(values.sum(), point, allow_unused=True) if values.requires_grad else (None,)
    return values.detach(), torch.zeros_like(point) if gradient is None else gradient


def compiled(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Compile `function`, from tensors to tensors, at its first call for each shape of inputs.

    `variables` are those of Keras that it reads; their current values are used on every call. On PyTorch the function
    runs uncompiled.
    """
    if BACKEND == "tensorflow":
        run = tf.function(function, autograph=False)
        return lambda *inputs: run(*map(tf.convert_to_tensor, inputs))
    if BACKEND == "jax":

        def stateless(values: list[Any], *inputs: Any) -> Any:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return function(*inputs)

        jitted = jax.jit(stateless)
        return lambda *inputs: jitted([variable.value for variable in variables], *inputs)
    return lambda *inputs: torch.no_grad()(function)(*map(keras.ops.convert_to_tensor, inputs))


def feed(batches: keras.utils.PyDataset) -> Any:
    """Return what Keras draws `batches` from while these exist: themselves, or a dataset of TensorFlow's."""
    if BACKEND != "tensorflow":
        return batches
    number, shapes = batches.num_batches, [(None, *array.shape[1:]) for array in batches[0]]
    source: Any = weakref.proxy(batches)  # TensorFlow never lets go of `draw`
    types = [array.dtype for array in batches[0]]

    def draw(position: Any) -> tuple[Any, ...]:
        arrays = tf.numpy_function(lambda number: source[int(number)], [position], types)
        return tuple(tf.ensure_shape(array, shape) for array, shape in zip(arrays, shapes, strict=True))

    # A dataset of a generator takes 10 ms to begin, in each epoch's validation anew.
    dataset = tf.data.Dataset.range(np.iinfo(np.int64).max if number is None else number).map(draw)
    # A dataset that tunes itself may take a minute to end: TensorFlow wakes its thread before that can see the end.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(1).with_options(options)


def portable_config(config: Any) -> Any:
    """Return Keras's configuration of a compiled model with nothing that only one backend understands."""
    if isinstance(config, list):  # of layers, of which one may be a compiled model
        return [portable_config(each) for each in config]
    if not isinstance(config, dict):
        return config
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):
        config = config | {"module": "keras.optimizers", "registered_name": None}
    # Keras stores what "auto" meant here: on JAX that is True, which would keep PyTorch compiling for minutes.
    return {name: "auto" if name == "jit_compile" else portable_config(value) for name, value in config.items()}


def save_model(model: keras.Model, path: Path) -> None:
    """Write a .keras file that every backend can load and train further."""
    model.save(path)
    with ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["config.json"] = json.dumps(portable_config(json.loads(files["config.json"]))).encode()
    with ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def batch_share(batch_size: int, devices: int) -> int:
    """Return how many pictures of each batch one of `devices` takes under `data_parallel`.

    Raises BadInput, with the remedy, where the backend trains on one device only, where there are fewer, and where the
    shares would be uneven: the mean over them would not be the mean over the batch.
    """
    if devices == 1:
        return batch_size
    if devices < 1:
        raise BadInput(f"devices must be at least 1, got {devices}")
    if BACKEND == "torch":
        raise BadInput(
            f"devices must be 1 on PyTorch, where Keras has no data parallelism, got {devices}: set"
            " KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow"
        )
    if devices > len(names := _devices()):
        raise BadInput(f"devices must be at most {len(names)}, as {', '.join(names)} are all there are, got {devices}")
    if batch_size % devices:
        even = ", ".join(str(count) for count in range(1, batch_size + 1) if batch_size % count == 0)
        raise BadInput(f"devices must divide the batch of {batch_size} evenly, got {devices}: take one of {even}")
    return batch_size // devices


def _devices() -> list[str]:
    """Return the names of the accelerators, or without any of the CPU, which may be split into several for tests."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in devices]
    return keras.distribution.list_devices()


@contextmanager
def data_parallel(model: keras.Model, devices: int) -> Iterator[keras.Model]:
    """Give the model to train in place of the compiled `model`, replicated on `devices`; for one, `model` itself.

    Each device takes its share of every batch, and all apply the mean of their gradients. Gives the same updates as
    one device, except for dropout on TensorFlow. `model`'s weights, optimizer and random generators go into the
    replicas, and come back at the end.
    """
    if devices == 1:
        yield model
        return
    names = _devices()[:devices]
    if BACKEND == "tensorflow":
        building, training = tf.distribute.MirroredStrategy(names).scope(), nullcontext()
    else:
        building, training = nullcontext(), keras.distribution.DataParallel(devices=names).scope()
    with training:
        with building:
            replica = keras.models.clone_model(model)
            replica.compile_from_config(portable_config(model.get_compile_config()))
        _copy_state(model, replica)
        yield replica
        _copy_state(replica, model)


def variables(model: keras.Model) -> list[keras.Variable]:
    """Return those of a compiled model and its optimizer, the state of dropout's random generators included."""
    if not model.optimizer.built:  # one that scales the loss, for float16, would get more of them each time
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _copy_state(source: keras.Model, target: keras.Model) -> None:
    """Copy all variables of a compiled model and its optimizer to another of the same architecture."""
    for read, written in zip(variables(source), variables(target), strict=True):
        written.assign(keras.ops.convert_to_numpy(read))
