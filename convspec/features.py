"""Disk cache of a frozen base's features."""

import hashlib
import io
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import keras
import numpy as np

from convspec import BadInput, backend, machine
from convspec.data.batches import Batches, BatchStream
from convspec.files import DAMAGED, atomic_write, checksum, lock, remove
from convspec.progress import Clock, bar

SCHEMA = 1  # of a store; a part of its name, so that a store of another schema is never read


def predict_batches(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
    """Give the base's output for each batch from number `first` on, in smaller parts where memory runs out.

    A `ladder.ncnn.Network` may stand in for the base.
    """
    size = batches.batch_size  # no picture's output depends on the others', but for rounding
    weights = base.get_weights() if isinstance(base, keras.Model) else None
    for number in range(first, len(batches)):
        inputs = batches[number][0]
        while True:
            try:
                parts = [base.predict_on_batch(inputs[start : start + size]) for start in range(0, len(inputs), size)]
                break
            except Exception as error:
                if not backend.out_of_memory(error):
                    raise
                if weights:  # on a GPU, JAX has put what it could not compute in their place
                    base.set_weights(weights)
                if size == 1:
                    raise BadInput(
                        f"out of memory: {base.name} has no room for a single picture of {inputs.shape[1:]}; take"
                        " smaller pictures, or a device with more memory"
                    ) from error
                size = -(-size // 2)
                warnings.warn(
                    f"out of memory: {base.name} goes on with {size} pictures at a time, which changes its output by no"
                    " more than rounding",
                    stacklevel=2,
                )
        yield np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def stream_through(trunk: keras.Model, batches: BatchStream) -> BatchStream:
    """Yield each batch's features, which nothing keeps, and labels; closing this closes `batches`."""
    with closing(batches):
        for inputs, labels in batches:
            yield keras.ops.convert_to_numpy(trunk.predict_on_batch(inputs)), labels


class Engine(NamedTuple):
    """How a frozen base's output is computed: here by Keras, else as `ladder.ncnn` or `ladder.ray` do."""

    predict: Callable[[keras.Model, Batches, int], Iterator[np.ndarray]] = predict_batches  # from a batch's number on
    stream: Callable[[keras.Model, BatchStream], BatchStream] = stream_through
    versions: tuple[tuple[str, str], ...] = ()  # name and version of what takes part in the result beside the backend
    mixed: bool = True  # whether it computes in mixed precision, too
    name: str = "keras"


KERAS = Engine()


def extract(
    base: keras.Model,
    batches: Batches,
    folder: Path,
    *,
    dtype: str = "float32",
    clock: Clock,
    engine: Engine = KERAS,
    title: str = "",
    progress: TextIO | None = None,
) -> np.ndarray:
    """Return a base's output for every picture (listing 5.17), computed once and kept on disk.

    A store depends on the base, its weights, the pictures, their preparation and all else that `_identity` lists. An
    interrupted run continues its partial store; a damaged store is computed again, with a warning. Of several processes
    that need one store, one computes it and the others wait.

    Args:
        base: A frozen base.
        batches: Pictures, in the order of the features.
        folder: Where stores are kept.
        dtype: What features are stored in, "float32" or "float16".
        clock: Counts the seconds of the computation, whenever it was, as the phase "features".
        engine: Computes the features.
        title: Text before the progress bar.
        progress: Where a bar is shown, and which lock is waited for.

    Returns:
        Features, (n, *base.output_shape[1:]), mapped into memory.

    Raises:
        BadInput: The base has several inputs or outputs, no size of its own or the pictures another one, `dtype` is
            another, memory does not suffice for a picture, or the features are not finite or do not fit into `dtype`.
    """
    _validate(base, batches, dtype)
    identity = _identity(base, batches, dtype, engine)
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    store = folder / f"{base.name}-{key}"
    with lock(store, progress):
        if store.is_dir():
            try:
                return _open(store, identity, clock)
            except DAMAGED as error:
                warnings.warn(
                    f"the features in {str(store)!r} cannot be used and are computed again: {error}", stacklevel=2
                )
                shutil.rmtree(store)
        _compute(base, batches, store, identity, engine, title, progress)
        return _open(store, identity, clock)


def _validate(base: keras.Model, batches: Batches, dtype: str) -> None:
    if any(len(getattr(base, tensors, ())) != 1 for tensors in ("inputs", "outputs")):
        raise BadInput(f"{base.name} must be Sequential or functional, built, with one input and one output")
    taken, given = base.input_shape[1:-1], batches.inputs.shape[1:-1]  # `prepare` may add channels
    if dtype not in ("float32", "float16"):
        raise BadInput(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    if None in base.output_shape[1:]:
        raise BadInput(f"{base.name} must be built for pictures of one size, got one for {taken}: take {given}")
    if len(taken) != len(given) or any(own not in (None, side) for own, side in zip(taken, given, strict=True)):
        raise BadInput(f"{base.name} takes {taken}, got pictures of {given}: load them so, or build the base for these")


def _identity(base: keras.Model, batches: Batches, dtype: str, engine: Engine) -> dict[str, Any]:
    """Return everything that the features depend on."""
    weights, framework = hashlib.sha256(), machine.versions()[backend.BACKEND]
    for weight in base.get_weights():
        weights.update(weight.tobytes())  # no buffer, which bfloat16 cannot have
    # The probe stands for the preprocessing, whatever function that is: each value of a pixel, in each channel.
    probe = batches.prepare((np.arange(256 * 3, dtype=np.float32) % 256).reshape(1, 16, 16, 3))
    return {
        "schema": SCHEMA,
        "base": base.name,
        "architecture": _hash_architecture(base),
        "weights": weights.hexdigest(),
        "pictures": _digest(batches.inputs),
        "preprocessing": _digest(probe),
        "view": repr(batches.view),
        "batch": batches.batch_size,
        # Of each layer: a cut base, or one with pooling on top, has the dtype of the session itself.
        "dtype": [dtype, *sorted({layer.compute_dtype for layer in base._flatten_layers()})]
        + ["tf32"] * (backend.precision() == "tf32"),
        "backend": [backend.BACKEND, keras.__version__, framework, *map(" ".join, engine.versions)],
        "accelerators": sorted({*backend.accelerators()}),  # their kinds; a CPU has other last bits
    }


def _hash_architecture(base: keras.Model) -> str:
    """Return a hash of the layers and how they are connected, without names, which Keras counts up."""
    places = {layer.name: place for place, layer in enumerate(base._flatten_layers())}
    ignored = "trainable", "seed"  # when predicting; layers that augment draw a seed where none is given

    def without_names(config: Any) -> Any:
        if isinstance(config, dict):
            named = config | {"name": places.get(config["name"])} if config.get("name") in places else config
            return {key: without_names(value) for key, value in named.items() if key not in ignored}
        if isinstance(config, list):  # a layer's output is [NAME, node, number]
            return [places.get(each, each) if isinstance(each, str) else without_names(each) for each in config]
        return config

    architecture = without_names(json.loads(base.to_json())["config"])
    return hashlib.sha256(json.dumps(architecture, sort_keys=True).encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _compute(
    base: keras.Model,
    batches: Batches,
    store: Path,
    identity: dict[str, Any],
    engine: Engine,
    title: str,
    progress: TextIO | None,
) -> None:
    """Append what is missing to the partial store, and rename it to `store`."""
    partial = store.with_name(f"{store.name}.partial")
    partial.mkdir(exist_ok=True)
    spent, seconds = partial / "seconds.json", 0.0
    with suppress(*DAMAGED):  # not there, or cut short
        seconds = float(json.loads(spent.read_text()))
    shape, dtype = (len(batches.inputs), *map(int, base.output_shape[1:])), np.dtype(identity["dtype"][0])
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    start = header.tell()
    batch_bytes = batches.batch_size * int(np.prod(shape[1:])) * dtype.itemsize
    with open(partial / "features.npy", "a+b") as file:
        # Whole batches are kept: the same batches give the same bytes, however often the run was killed.
        done = max(file.tell() - start, 0) // batch_bytes
        file.truncate(start + done * batch_bytes if done else 0)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")

        def write(content: Any) -> None:
            file.write(content)
            digest.update(content)

        if not done:
            write(header.getvalue())
        with bar(shape[0], title, "picture", progress, done * batches.batch_size) as shown:
            began = saved = time.perf_counter()
            for _, predicted in zip(range(done, len(batches)), engine.predict(base, batches, done), strict=True):
                with np.errstate(over="ignore"):
                    output = np.ascontiguousarray(predicted, dtype)  # PyTorch lays channels out first
                if not np.isfinite(output).all():
                    if np.isfinite(predicted).all():
                        raise BadInput(f"{base.name}'s output does not fit into {dtype}: take float32")
                    raise BadInput(f"{base.name}'s output has NaN or infinity: look at its weights and preprocessing")
                write(output.data)
                shown.update(len(output))
                if (now := time.perf_counter()) - saved > 1:
                    file.flush()
                    with atomic_write(spent) as new:
                        new.write_text(json.dumps(seconds + now - began))
                    saved = now
            seconds += time.perf_counter() - began
    record = {"schema": SCHEMA, "identity": identity, "seconds": round(seconds, 3), "sha256": digest.hexdigest()}
    (partial / "store.json").write_text(json.dumps(record, indent=1))
    remove(spent)
    os.replace(partial, store)


def _open(store: Path, identity: dict[str, Any], clock: Clock) -> np.ndarray:
    """Read a store; one of the errors DAMAGED says why it cannot be used."""
    record = json.loads((store / "store.json").read_text())
    if differing := [name for name in identity if record["identity"][name] != identity[name]]:
        raise ValueError(f"they were made for another {', '.join(differing)}")
    if checksum(store / "features.npy") != record["sha256"]:
        raise ValueError("their checksum is not that of the record")
    clock.seconds["features"] += float(record["seconds"])
    return np.load(store / "features.npy", mmap_mode="r")
