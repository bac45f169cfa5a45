"""The base run once: its output for every picture, kept on disk."""

import hashlib
from pathlib import Path
from typing import TextIO

import keras
import numpy as np

from convspec import BadInput
from convspec.images import Batches
from convspec.progress import bar as progress_bar
from convspec.storage import DAMAGED, replacing
from convspec.training import Clock


def _key(base: keras.Model, batches: Batches) -> str:
    """What the features depend on: the base and its weights, the pictures, and how they are prepared."""
    digest = hashlib.sha256(repr((keras.backend.backend(), keras.__version__, base.name, base.input_shape)).encode())
    for weight in base.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    digest.update(np.ascontiguousarray(batches.inputs).tobytes())
    # The probe stands for the preprocessing, whatever function that is.
    probe = batches.prepare(np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3))
    digest.update(np.ascontiguousarray(probe).tobytes())
    return digest.hexdigest()[:16]


def extract(
    base: keras.Model,
    batches: Batches,
    folder: Path,
    *,
    clock: Clock,
    title: str = "",
    progress: TextIO | None = None,
) -> np.ndarray:
    """The base's output for every picture of `batches`, in order: float32 (n, *base.output_shape[1:]) (listing 5.17).

    Computed once and kept in `folder`, beside the seconds that it took, which count under the phase "features"
    whether or not it was computed in this run.
    """
    file = folder / f"{base.name}-{_key(base, batches)}.npz"
    if file.is_file():
        try:
            with np.load(file) as kept:
                clock.seconds["features"] += float(kept["seconds"])
                return kept["features"]
        except DAMAGED as error:
            raise BadInput(
                f"the features in {str(file)!r} are damaged ({error}); delete it to compute them again"
            ) from error
    own = Clock()
    with own("features"), progress_bar(len(batches.inputs), title, "picture", progress) as bar:
        parts = []
        for number in range(len(batches)):
            parts.append(np.asarray(base.predict_on_batch(batches[number][0]), np.float32))
            bar.update(len(parts[-1]))
        features = np.concatenate(parts)
    with replacing(file) as partial:
        np.savez(partial, features=features, seconds=own.seconds["features"])
    clock.seconds["features"] += own.seconds["features"]
    return features
