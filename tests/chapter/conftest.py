"""VGG16's weights with its classifier, for the tests of the chapter."""

import os
from pathlib import Path

import pytest

KERAS_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"


@pytest.fixture(scope="session")
def top_weights(data_folder: Path) -> Path:
    """Return the file of VGG16's weights with its dense top; skip where it isn't on this machine."""
    from convspec import models

    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models", KERAS_FILE)
    found = models.default_weights("vgg16", data_folder, include_top=True)
    if (file := home if found == "imagenet" else Path(found)).is_file():
        return file
    pytest.skip(
        f"needs VGG16's weights with its dense top: vgg16.weights.h5 or {KERAS_FILE} in the data folder, or the latter"
        " where keras.applications.VGG16(weights='imagenet') puts it, in Keras's own"
    )
