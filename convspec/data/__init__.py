"""Pictures: decoding, folders, datasets, splits, downloads, augmentation, batches. Begin reading in `datasets`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convspec.data.datasets import load_dataset
    from convspec.data.decode import load_image

__all__ = ["load_dataset", "load_image"]


def __getattr__(name: str) -> Any:
    """Import OpenCV and Pillow with the first use, so that the command line starts at once."""
    if name == "load_dataset":
        from convspec.data.datasets import load_dataset

        return load_dataset
    if name == "load_image":
        from convspec.data.decode import load_image

        return load_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
