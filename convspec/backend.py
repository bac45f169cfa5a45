"""The only room that knows which Keras backend is running."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from itertools import count
from typing import Any

from convspec import BadInput

BACKENDS = ("tensorflow", "jax", "torch")

# A GPU's memory is taken as it is needed, and not nearly all of it at once: others may use the device, too.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

try:
    import keras
except ModuleNotFoundError as error:
    if error.name not in BACKENDS:
        raise
    there = [f"KERAS_BACKEND={name}" for name in BACKENDS if find_spec(name)]
    raise BadInput(
        f"Keras is to run on {error.name}, which is not installed: pip install -e '.[{error.name}]'"
        + "".join(f", or set {setting}" for setting in there)
    ) from error
if keras.backend.backend() not in BACKENDS:
    raise BadInput(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, got {keras.backend.backend()!r}")


def make_deterministic() -> None:
    """Same seed, same machine, same result: asks the backend for kernels that always add in the same order.

    JAX has such on a CPU; on a GPU it wants XLA_FLAGS=--xla_gpu_deterministic_ops=true before it starts.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's matrix products are refused
        torch.use_deterministic_algorithms(True)


def portable(config: Any) -> Any:
    """Keras's configuration of a compiled model as every backend can take it up.

    PyTorch's optimizers would be saved as classes that are not there without PyTorch, and what "auto" meant for
    compiling the graph, which is yes on JAX, would keep PyTorch busy for minutes.
    """
    if not isinstance(config, dict):
        return config
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):
        config = config | {"module": "keras.optimizers", "registered_name": None}
    return {name: "auto" if name == "jit_compile" else portable(value) for name, value in config.items()}


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


def set_precision(name: str) -> None:
    """What layers that are made from now on compute in: "float32", "tf32" (float32 whose factors an NVIDIA GPU may
    round to 10 bits in products; elsewhere plain float32), or a mixed Keras dtype policy, such as "mixed_bfloat16".
    """
    keras.config.set_dtype_policy("float32" if name == "tf32" else name)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(name != "float32")
    elif keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest" if name == "float32" else "tensorfloat32")
    else:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"


def precision() -> str:
    """What layers are made in now, as `set_precision` names it, whoever set it."""
    policy = keras.config.dtype_policy().name
    if policy != "float32" or not accelerators():
        return policy
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        rounds = tf.config.experimental.tensor_float_32_execution_enabled()
    elif keras.backend.backend() == "jax":
        import jax

        rounds = jax.config.jax_default_matmul_precision not in ("highest", "float32")
    else:
        import torch

        rounds = torch.backends.cudnn.allow_tf32
    return "tf32" if rounds else "float32"


def synchronise(value: object) -> None:
    """Return when `value`, arrays that the backend was asked for, is there: accelerators work on behind a call that
    has returned, so a clock is read after this only.
    """
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


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that device or machine had no room for what was asked of them, in any backend's words."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}) or (
        "RESOURCE_EXHAUSTED" in str(error)  # JAX has no type of its own for it
    )


def value_and_gradient(function: Callable[[Any], Any], at: Any) -> tuple[Any, Any]:
    """What `function` gives at the tensor `at`, and the gradient of that, of the shape of `at`: tensors of the
    backend's, inside of what is `compiled`, too.

    `function` takes a tensor and gives one: a number, or a number for each sample of a batch. The gradient is that of
    their sum: sample by sample that of its own number, where no sample has a part in another's. It is zero where
    nothing depends on the input. Weights get no gradient.
    """
    point = keras.ops.convert_to_tensor(at)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            values = function(point)
        return values, tape.gradient(values, point, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if keras.backend.backend() == "jax":
        import jax

        values, pull_back = jax.vjp(function, point)
        return values, pull_back(jax.numpy.ones_like(values))[0]
    import torch

    point = point.detach().clone().requires_grad_()
    with torch.enable_grad():
        values = function(point)
        (gradient,) = torch.autograd.grad(values.sum(), point, allow_unused=True) if values.requires_grad else (None,)
    return values.detach(), torch.zeros_like(point) if gradient is None else gradient


def compiled(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """`function`, which takes tensors and gives tensors, compiled at its first call for inputs of each shape; in
    PyTorch it runs as it is. `variables` are those of Keras's that it reads, each time as they are then.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(function, autograph=False)
        return lambda *inputs: run(*map(tf.convert_to_tensor, inputs))
    if keras.backend.backend() == "jax":
        import jax

        def stateless(values: list[Any], *inputs: Any) -> Any:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return function(*inputs)

        jitted = jax.jit(stateless)
        return lambda *inputs: jitted([variable.value for variable in variables], *inputs)
    import torch

    return lambda *inputs: torch.no_grad()(function)(*map(keras.ops.convert_to_tensor, inputs))


def feed(batches: keras.utils.PyDataset) -> Any:
    """What Keras is to draw `batches` from: themselves, but in TensorFlow a dataset that does not tune itself. The end
    of one that does may wait, up to a minute, for a thread that sleeps: TensorFlow wakes it before the thread can see
    that it is to end, and so it sleeps on.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    most = batches.num_batches

    def drawn() -> Iterator[Any]:
        return map(batches.__getitem__, count() if most is None else range(most))

    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    dataset = tf.data.Dataset.from_generator(drawn, output_signature=signature)
    if most is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(most))
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(1).with_options(options)


def batch_share(batch_size: int, devices: int) -> int:
    """Pictures of each batch that one of `devices` takes under `data_parallel`.

    Raises BadInput, with the remedy, where the backend trains on one device only, where there are fewer, and where the
    shares would not be even: only then is the mean over them that over the batch.
    """
    if devices == 1:
        return batch_size
    if keras.backend.backend() == "torch":
        raise BadInput(
            f"devices must be 1 on PyTorch, where Keras has no data parallelism, got {devices}: set"
            " KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow"
        )
    if devices > len(there := _devices()):
        raise BadInput(f"devices must be at most {len(there)}, as {', '.join(there)} are all there are, got {devices}")
    if batch_size % devices:
        even = ", ".join(str(count) for count in range(1, batch_size + 1) if batch_size % count == 0)
        raise BadInput(f"devices must divide the batch of {batch_size} evenly, got {devices}: take one of {even}")
    return batch_size // devices


def _devices() -> list[str]:
    """The accelerators, or where there are none the CPU, which a backend can be told to take for several."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in found]
    return keras.distribution.list_devices()


@contextmanager
def data_parallel(model: keras.Model, devices: int) -> Iterator[keras.Model]:
    """What to train in the place of the compiled `model`: itself, or with more `devices` than one a copy that each
    of them has, of which each takes its `share` of every batch before all apply the mean of their gradients.

    Weights, optimizer and random generators of the copy begin as those of `model`, which has them at the end.
    """
    if devices == 1:
        yield model
        return
    making: AbstractContextManager = nullcontext()
    training: AbstractContextManager = nullcontext()
    names = _devices()[:devices]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        making = tf.distribute.MirroredStrategy(names).scope()
    else:
        training = keras.distribution.DataParallel(devices=names).scope()
    with training:
        with making:
            replica = keras.models.clone_model(model)
            replica.compile_from_config(model.get_compile_config())
        _copy_state(model, replica)
        yield replica
        _copy_state(replica, model)


def _copy_state(source: keras.Model, target: keras.Model) -> None:
    """All variables of a compiled model and its optimizer into one of the same make."""
    variables = []
    for model in (source, target):
        model.optimizer.build(model.trainable_variables)
        variables.append([*model.variables, *model.optimizer.variables])
    for read, written in zip(*variables, strict=True):
        written.assign(keras.ops.convert_to_numpy(read))
