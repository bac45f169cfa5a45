"""Read a model and a picture, and write picture files, for `explain`, `activations` and `filters`."""

import argparse
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from convspec import BadInput, MissingData, models
from convspec.cli.arguments import find_output
from convspec.data import decode
from convspec.data.datasets import data_folder
from convspec.files import DAMAGED, atomic_write
from convspec.ladder import saved_model
from convspec.plugin.checks import why_unwritable

SOFTWARE = "convspec"  # in each file, so that the next one may replace it
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def load(options: argparse.Namespace, include_top: bool) -> tuple[saved_model.SavedModel, np.ndarray, np.ndarray]:
    """Return the model, see `load_model`, the picture as uint8 RGB, and the model's input."""
    check_output(find_output(options), options.overwrite)
    if not options.picture.is_file():
        raise MissingData(f"no picture file {str(options.picture)!r}: give a JPEG, a PNG or another picture")
    saved, file = load_model(options.model, options.weights, include_top), options.picture
    return saved, decode.load_image(file), saved.prepare(file, options.preprocessing)


def load_model(source: str, weights: str | None, include_top: bool) -> saved_model.SavedModel:
    """Read a .keras file, or build the base of that name, with ImageNet's classifier or for pictures of any size."""
    try:
        base = models.find_base(source)
    except BadInput as unknown:  # a file
        if not Path(source).suffix and not Path(source).exists():
            raise BadInput(f"no model file {source!r}, and {unknown}") from None
        return saved_model.load(source)
    side = models.sizes(base)[1] if include_top else None
    weights_file = weights or models.default_weights(base, data_folder(), include_top)
    model = models.conv_base(base, weights_file, (side, side, 3), include_top=include_top)
    if include_top and weights_file == "imagenet":
        _fetch_class_names()
    return saved_model.SavedModel(model, preprocessing=base)


def _fetch_class_names() -> None:
    """Have Keras fetch its list of ImageNet's classes, if it isn't on this machine and can be fetched."""
    try:
        keras.applications.imagenet_utils.decode_predictions(np.zeros((1, 1000)))
    except Exception as error:  # keras.utils.get_file raises no narrower one; the classes then go by their numbers
        if "fetch failure" not in str(error):
            raise


def check_output(file: Path, overwrite: bool) -> None:
    """Raise BadInput for another format, a read-only folder, and, unless `overwrite`, a file not of convspec's own."""
    if file.suffix.lower() not in FORMATS:
        raise BadInput(f"output must be a .png or a .jpg, got {str(file)!r}")
    if why := why_unwritable(file.parent):
        raise BadInput(f"{why}; name another folder")
    if file.is_dir() or (file.exists() and not overwrite and not _is_own(file)):
        raise BadInput(f"{str(file)!r} is there already and not convspec's own: name another, or give --overwrite")


def _is_own(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return bool({picture.info.get("Software"), picture.info.get("comment")} & {SOFTWARE, SOFTWARE.encode()})
    except (*DAMAGED, Image.DecompressionBombError):
        return False


def write(picture: np.ndarray, file: Path) -> None:
    """Write a uint8 picture, (height, width) or (height, width, 3), as a file of convspec's own."""
    metadata = PngInfo()
    metadata.add_text("Software", SOFTWARE)
    with atomic_write(file) as partial:  # the quality is that of OpenCV's `imwrite`, which listing 5.44 takes
        format_ = FORMATS[file.suffix.lower()]
        Image.fromarray(picture).save(partial, format_, pnginfo=metadata, comment=SOFTWARE, quality=95)
