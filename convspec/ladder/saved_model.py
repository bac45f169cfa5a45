"""A trained model's file, which also tells what goes into the model and what comes out of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

import keras

from convspec import BadInput, backend
from convspec.files import DAMAGED, atomic_write

TOLD = "convspec.json"  # beside what Keras keeps in the archive that a .keras file is; Keras leaves it alone


class Saved(NamedTuple):
    """A model and what its file tells: the names of its classes, how pictures are prepared ("rescale" or a base's
    name, see `models.PREPROCESSING`) and resized (`images.load_image`). Files that convspec did not write tell None.
    """

    model: keras.Model
    classes: tuple[str, ...] | None = None
    preprocessing: str | None = None
    interpolation: str | None = None


def save(model: keras.Model, path: Path, classes: Sequence[str], preprocessing: str, interpolation: str) -> None:
    """Write a .keras file, whole or not at all, which Keras reads like any other."""
    told = {"classes": list(classes), "preprocessing": preprocessing, "interpolation": interpolation}
    with atomic_write(path) as partial:
        backend.save_model(model, partial)
        with ZipFile(partial, "a") as archive:
            archive.writestr(TOLD, json.dumps(told))


def load(path: Path) -> Saved:
    """Read what `save` or Keras wrote, as it is for use, not for training.

    Raises BadInput, with the reason, for a file that is not there or no model.
    """
    if not path.is_file():
        raise BadInput(f"no model file {str(path)!r}")
    try:
        model = keras.models.load_model(path, compile=False)
        told: dict[str, Any] = {}
        if is_zipfile(path):
            with ZipFile(path) as archive:
                told = json.loads(archive.read(TOLD)) if TOLD in archive.namelist() else {}
        return (
            Saved(model, tuple(told["classes"]), told["preprocessing"], told["interpolation"]) if told else Saved(model)
        )
    except (*DAMAGED, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{str(path)!r} is no model that Keras can read: {reason}") from error
