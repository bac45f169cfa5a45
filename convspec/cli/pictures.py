"""Read a saved model and a picture, and write PNG files, for `explain`, `activations` and `filters`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from convspec import BadInput
from convspec.cli.arguments import find_output
from convspec.data import decode
from convspec.files import DAMAGED, atomic_write
from convspec.ladder import saved_model

SOFTWARE = "convspec"  # in each PNG file, so that the next one may replace it


def load(options: argparse.Namespace) -> tuple[keras.Model, Sequence[str] | None, np.ndarray, np.ndarray]:
    """Return the saved model, its classes if its file tells them, the picture as uint8 RGB, and the model's input."""
    check_output(find_output(options), options.overwrite)
    saved, file = saved_model.load(options.model), options.picture.expanduser()
    return saved.model, saved.classes, decode.load_image(file), saved.prepare(file, options.preprocessing)


def check_output(file: Path, overwrite: bool) -> None:
    """Raise BadInput for a name that isn't .png, or that of a file not of convspec's own, unless `overwrite`."""
    if file.suffix.lower() != ".png":
        raise BadInput(f"output must be a .png, got {str(file)!r}")
    if file.is_dir() or (file.exists() and not overwrite and not _is_own(file)):
        raise BadInput(f"{str(file)!r} is there already and not convspec's own: name another, or give --overwrite")


def _is_own(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return picture.info.get("Software") == SOFTWARE
    except DAMAGED:
        return False


def write(picture: np.ndarray, file: Path) -> None:
    """Write a uint8 picture, (height, width) or (height, width, 3), as a PNG file of convspec's own."""
    metadata = PngInfo()
    metadata.add_text("Software", SOFTWARE)
    with atomic_write(file) as partial:
        Image.fromarray(picture).save(partial, "PNG", pnginfo=metadata)
