"""A rung as plain data."""

from dataclasses import dataclass, field
from typing import Literal

from convspec.data.augmentation import Augmentation

Scale = Literal["mini", "full"]
Mode = Literal["literal", "fast", "both"]


@dataclass(frozen=True)
class Recipe:
    """A rung of the ladder: dataset, model, schedule and augmentation. The optimizer is RMSprop.

    Attributes:
        name: Name of the rung.
        scale: Embedded pictures ("mini") or the chapter's ("full").
        listings: Numbers of the chapter's listings.
        dataset: Name that `data.load_dataset` takes.
        model: Key of `run.ARCHITECTURES`.
        size: Height and width of the pictures, in pixels.
        learning_rate: Of RMSprop.
        epochs: Number of epochs.
        batch_size: Pictures a step.
        steps: Steps an epoch; None passes once over the training pictures.
        dropout: Rate before the head.
        filters: Of each convolution of `models.small_convnet`.
        base: Key of `models.BASES`; None for a network without one.
        thaw: First trainable layer of the base; None freezes it all.
        starts_from: Rung whose trained model this one goes on with.
        augmentation: Random transform of the training pictures.
        extra_sizes: Further sizes, in pixels, at which a linear probe sees each picture.
        interpolation: How pictures are resized.
        preprocessing: Inputs / 255 ("rescale"), or what the base's weights were trained with ("base").
        views: Augmented views of each picture that the base's frozen part sees once, taken in turn; 0 runs it each step.
        precision: Of the base: "float32", or "fast" for the fastest on this device.
        published: The chapter's accuracies by part, as (lowest, highest).
    """

    name: str
    scale: Scale
    listings: str
    dataset: str
    model: str
    size: int
    learning_rate: float
    epochs: int
    batch_size: int
    steps: int | None = None
    dropout: float = 0.0
    filters: tuple[int, ...] = (32, 64, 128, 128)
    base: str | None = None
    thaw: str | None = None
    starts_from: "Recipe | None" = None
    augmentation: Augmentation | None = None
    extra_sizes: tuple[int, ...] = ()
    interpolation: Literal["nearest", "bilinear", "area"] = "nearest"
    preprocessing: Literal["rescale", "base"] = "rescale"
    views: int = 0
    precision: Literal["float32", "fast"] = "float32"
    published: dict[str, tuple[float, float]] = field(default_factory=dict)
