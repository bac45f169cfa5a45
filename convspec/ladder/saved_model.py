"""Save and load trained models with their classes and how their pictures are prepared."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

import keras
import numpy as np
from PIL import Image
from scipy import special

from convspec import BadInput, backend, models
from convspec.data import batches, decode
from convspec.files import DAMAGED, atomic_write, expand
from convspec.visualization.trace import DEFAULT_SIDE, Trace, input_shape, to_array

METADATA = "convspec.json"  # in the archive that a .keras file is; Keras ignores it
SCHEMA = 1  # of the metadata; files without a number are read as 1


class SavedModel(NamedTuple):
    """A model and its metadata, each None for a file that Keras alone wrote."""

    model: keras.Model  # of prepared pictures
    classes: tuple[str, ...] | None = None  # names, in the order of the outputs
    preprocessing: str | None = None  # "rescale" or a key of `models.PREPROCESSING`
    interpolation: str | None = None  # resizes pictures, see `data.load_image`

    def classify(self, picture: str | Path) -> dict[str, float]:
        """Return the probability of each class for a picture file; classes without a name go by their numbers."""
        probabilities = find_probabilities(self.model, self.prepare(expand(picture)))
        return dict(zip(self.classes or map(str, range(len(probabilities))), probabilities.tolist(), strict=True))

    def prepare(self, picture: Path, preprocessing: str | None = None) -> np.ndarray:
        """Return a picture file as the model's input, prepared as in training or as `preprocessing` names it."""
        height, width, channels = input_shape(self.model)
        sides = width or DEFAULT_SIDE, height or DEFAULT_SIDE
        if channels not in (1, 3):
            raise BadInput(f"{self.model.name} takes {channels} channels, and a picture has 1 or 3")
        preparation = find_preparation(name := preprocessing or self.preprocessing)
        if channels == 1 and name in models.PREPROCESSING:
            raise BadInput(f"{self.model.name} takes 1 channel, and {name} prepares three: rescale, or none")
        if sides[0] == sides[1]:
            resized = Image.fromarray(decode.load_image(picture, sides[0], self.interpolation or "nearest"))
        else:
            resized = Image.fromarray(decode.load_image(picture)).resize(sides, Image.Resampling.NEAREST)
        pixels = np.asarray(resized.convert("L") if channels == 1 else resized, np.float32)
        return preparation(pixels.reshape(1, *sides[::-1], channels))[0]


def find_preparation(name: str | None) -> batches.Prepare:
    """Return the preprocessing of that name: "rescale" (that of None, too), "none" or that of a base."""
    known = models.PREPROCESSING | {"rescale": batches.rescale, "none": batches.identity}
    if (name := name or "rescale") not in known:
        raise BadInput(f"preprocessing must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]


def find_probabilities(model: keras.Model, inputs: np.ndarray) -> np.ndarray:
    """Return the probability of each class for one prepared picture; of one unit, class 0 has the rest to 1."""
    trace = Trace(model, inputs)
    output = to_array(trace.logits(trace.inputs, trace.outputs, without=()))[0].astype(np.float64)
    if output.ndim != 1:
        raise BadInput(f"model must end in a score for each class, {model.name} has {output.shape}: add a head")
    linear = getattr(trace.layers[str(trace.end)], "activation", None) is keras.activations.linear
    if linear or output.min() < 0 or output.max() > 1:  # logits
        output = special.expit(output) if len(output) == 1 else special.softmax(output)
    return np.array([1 - output[0], output[0]]) if len(output) == 1 else output


def save(model: keras.Model, path: Path, classes: Sequence[str], preprocessing: str, interpolation: str) -> None:
    """Write a .keras file, atomically, which Keras reads like any other; the arguments are those of `SavedModel`."""
    settings = {"classes": list(classes), "preprocessing": preprocessing, "interpolation": interpolation}
    with atomic_write(path) as partial:
        backend.save_model(model, partial)
        with ZipFile(partial, "a") as archive:
            archive.writestr(METADATA, json.dumps({"schema": SCHEMA, **settings}))


def load(path: str | Path) -> SavedModel:
    """Read a model for use, not for training; BadInput, with the reason, where there is none."""
    path = expand(path)
    if not path.is_file():
        raise BadInput(f"no model file {str(path)!r}: give a .keras file")
    try:
        model = keras.models.load_model(path, compile=False)
        metadata: dict[str, Any] = {}
        if is_zipfile(path):
            with ZipFile(path) as archive:
                metadata = json.loads(archive.read(METADATA)) if METADATA in archive.namelist() else {}
        if (schema := metadata.pop("schema", 1)) != SCHEMA:
            raise ValueError(f"{METADATA} has schema {schema}, not {SCHEMA}: another version of convspec wrote it")
        return SavedModel(model, **metadata | ({"classes": tuple(metadata["classes"])} if metadata else {}))
    except (*DAMAGED, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{str(path)!r} is no model that Keras can read: {reason}") from error
