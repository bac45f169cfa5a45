"""Pictures: decoding, folders, datasets, splits, downloads, augmentation, batches. Begin reading in `datasets`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convspec.data.datasets import load_dataset
    from convspec.data.decode import load_image

__all__ = ["load_dataset", "load_image"]


def __getattr__(name: str) -> Any:
    """Import OpenCV and Pillow with the first use, so that the command line starts at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("convspec.data." + {"load_dataset": "datasets", "load_image": "decode"}[name]), name)
