"""Save and load trained models with their classes and how their pictures are prepared."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

import keras

from convspec import BadInput, backend
from convspec.files import DAMAGED, atomic_write

METADATA = "convspec.json"  # in the archive that a .keras file is; Keras ignores it
SCHEMA = 1  # of the metadata; files without a number are read as 1


class SavedModel(NamedTuple):
    """A model and its metadata, each None for a file that Keras alone wrote.

    Attributes:
        model: Takes prepared pictures.
        classes: Names of the classes, in the order of the outputs.
        preprocessing: "rescale" or a key of `models.PREPROCESSING`.
        interpolation: How pictures are resized, see `data.load_image`.
    """

    model: keras.Model
    classes: tuple[str, ...] | None = None
    preprocessing: str | None = None
    interpolation: str | None = None


def save(model: keras.Model, path: Path, classes: Sequence[str], preprocessing: str, interpolation: str) -> None:
    """Write a .keras file, atomically, which Keras reads like any other; the arguments are those of `SavedModel`."""
    settings = {"classes": list(classes), "preprocessing": preprocessing, "interpolation": interpolation}
    with atomic_write(path) as partial:
        backend.save_model(model, partial)
        with ZipFile(partial, "a") as archive:
            archive.writestr(METADATA, json.dumps({"schema": SCHEMA, **settings}))


def load(path: Path) -> SavedModel:
    """Read a model for use, not for training; BadInput, with the reason, for a missing file or one without a model."""
    if not path.is_file():
        raise BadInput(f"no model file {str(path)!r}")
    try:
        model = keras.models.load_model(path, compile=False)
        metadata: dict[str, Any] = {}
        if is_zipfile(path):
            with ZipFile(path) as archive:
                metadata = json.loads(archive.read(METADATA)) if METADATA in archive.namelist() else {}
        if (schema := metadata.pop("schema", 1)) != SCHEMA:
            raise ValueError(f"{METADATA} has schema {schema}, not {SCHEMA}: another version of convspec wrote it")
        return (
            SavedModel(model, **metadata | {"classes": tuple(metadata["classes"])}) if metadata else SavedModel(model)
        )
    except (*DAMAGED, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{str(path)!r} is no model that Keras can read: {reason}") from error
