"""The base run once: its output for every picture, written as it is computed, kept on disk, never mixed up."""

import errno
import hashlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np

from convspec import BadInput, backend
from convspec.data.batches import Batches
from convspec.files import DAMAGED, atomic_write
from convspec.progress import Clock
from convspec.progress import bar as progress_bar


def predict_batches(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
    """The base's output for each batch from number `first` on, in smaller parts where there is no room for a whole one:
    no picture's output depends on the others'.
    """
    most = batches.batch_size
    for number in range(first, len(batches)):
        inputs = batches[number][0]
        while True:
            try:
                parts = [base.predict_on_batch(inputs[start : start + most]) for start in range(0, len(inputs), most)]
                break
            except Exception as error:
                if not backend.out_of_memory(error):
                    raise
                if most == 1:
                    raise BadInput(
                        f"out of memory: {base.name} has no room for a single picture of {inputs.shape[1:]}; take"
                        " smaller pictures, or a device with more memory"
                    ) from error
                most = -(-most // 2)
                warnings.warn(
                    f"out of memory: {base.name} goes on with {most} pictures at a time, which changes its output by no"
                    " more than rounding",
                    stacklevel=2,
                )
        yield np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


BatchPredictor = Callable[[keras.Model, Batches, int], Iterator[np.ndarray]]


def extract(
    base: keras.Model,
    batches: Batches,
    folder: Path,
    *,
    dtype: str = "float32",
    clock: Clock,
    predict: BatchPredictor = predict_batches,
    title: str = "",
    progress: TextIO | None = None,
) -> np.ndarray:
    """The base's output for every picture of `batches`, in order: (n, *base.output_shape[1:]) of `dtype`, mapped into
    memory (listing 5.17).

    Computed once and kept in `folder`, a store for each base, cut, weights, pictures, preprocessing, augmented view,
    batch size, dtype and version. A store grows picture by picture under the name of a partial one, so that an
    interrupted run goes on where it was killed, and gets its own name when it is whole. The seconds that it took count
    under the phase "features" whether or not it was computed in this run. `predict` computes them: here, or with
    `ray.predict_batches` on many machines, which gives the same store. Raises BadInput for a store that is damaged
    or was made for something else, and where there is no room for it.
    """
    identity = _identity(base, batches, dtype)
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    store = folder / f"{base.name}-{key}"
    if not store.is_dir():
        try:
            _compute(base, batches, store, identity, predict, title, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise BadInput(
                f"no room for the features of {len(batches.inputs)} pictures in {str(folder)!r}: free some, or name"
                " another folder with --report; what is computed is kept"
            ) from error
    try:
        return _open(store, identity, batches, clock)
    except DAMAGED as error:
        raise BadInput(
            f"the features in {str(store)!r} cannot be used: {error}; delete that folder to compute them again"
        ) from error


def _identity(base: keras.Model, batches: Batches, dtype: str) -> dict[str, Any]:
    """What the features depend on."""
    weights = hashlib.sha256()
    for weight in base.get_weights():
        weights.update(np.ascontiguousarray(weight).data)
    # The probe stands for the preprocessing, whatever function that is.
    probe = batches.prepare(np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3))
    return {
        "base": base.name,
        "cut": [base.layers[-1].name, list(base.output_shape[1:])],
        "weights": weights.hexdigest(),
        "pictures": _digest(batches.inputs),
        "labels": _digest(batches.labels),
        "preprocessing": _digest(probe),
        "view": repr(batches.view),
        "batch": batches.batch_size,
        "dtype": [dtype, base.compute_dtype],
        "backend": [keras.backend.backend(), keras.__version__],
    }


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _compute(
    base: keras.Model,
    batches: Batches,
    store: Path,
    identity: dict[str, Any],
    predict: BatchPredictor,
    title: str,
    progress: TextIO | None,
) -> None:
    """Append what is missing to the partial store, and give it its name."""
    partial = store.with_name(f"{store.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    shape, dtype = (len(batches.inputs), *base.output_shape[1:]), np.dtype(identity["dtype"][0])
    buffer = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        buffer, {"descr": dtype.str, "fortran_order": False, "shape": tuple(map(int, shape))}
    )
    header = buffer.getvalue()
    row = int(np.prod(shape[1:])) * dtype.itemsize
    spent = partial / "seconds.json"
    seconds = json.loads(spent.read_text()) if spent.is_file() else 0.0
    with open(partial / "features.npy", "ab+") as file:
        # Whole batches are kept: the same batches give the same bytes, however often the run was killed.
        done = max(file.tell() - len(header), 0) // (row * batches.batch_size)
        done = min(done, len(batches))
        file.truncate(len(header) + done * row * batches.batch_size if done else 0)
        if not done:
            file.write(header)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        first = min(done * batches.batch_size, shape[0])
        with progress_bar(shape[0], title, "picture", progress, first) as bar:
            began = saved = time.perf_counter()
            for _, predicted in zip(range(done, len(batches)), predict(base, batches, done), strict=True):
                with np.errstate(over="ignore"):
                    output = np.ascontiguousarray(predicted, dtype)  # PyTorch lays channels out first
                if not np.isfinite(output).all():
                    raise BadInput(f"{base.name}'s output does not fit into {dtype}: take float32")
                file.write(output.data)
                digest.update(output.data)
                bar.update(len(output))
                now = time.perf_counter()
                if now - saved > 1:
                    file.flush()
                    with atomic_write(spent) as new:
                        new.write_text(json.dumps(seconds + now - began))
                    saved = now
            seconds += time.perf_counter() - began
    np.save(partial / "labels.npy", batches.labels)
    record = {"identity": identity, "seconds": round(seconds, 3), "sha256": digest.hexdigest()}
    (partial / "store.json").write_text(json.dumps(record, indent=1))
    spent.unlink(missing_ok=True)
    os.replace(partial, store)


def _open(store: Path, identity: dict[str, Any], batches: Batches, clock: Clock) -> np.ndarray:
    record = json.loads((store / "store.json").read_text())
    if differing := [name for name in identity if record["identity"][name] != identity[name]]:
        raise ValueError(f"they were made for another {', '.join(differing)}")
    with open(store / "features.npy", "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
            raise ValueError("their checksum is not that of the record")
    if not np.array_equal(np.load(store / "labels.npy"), batches.labels):
        raise ValueError("they stand beside other labels")
    clock.seconds["features"] += float(record["seconds"])
    return np.load(store / "features.npy", mmap_mode="r")
