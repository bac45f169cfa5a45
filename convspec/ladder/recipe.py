"""A rung as plain data."""

from dataclasses import dataclass, field

from convspec.data.augmentation import Augmentation


@dataclass(frozen=True)
class Recipe:
    """One rung: dataset, model, optimizer (RMSprop at `learning_rate`), schedule and augmentation as plain data.

    `steps` None means one pass over the training pictures an epoch. `thaw` names the first trainable layer of the
    base; None freezes it all. `starts_from` is the rung whose trained model this one goes on with. `interpolation`
    resizes the pictures, `preprocessing` is "rescale" or "base", which is what the base's weights were trained with.
    With `views` the frozen part of the base sees that many augmented views of each picture once, in `precision`,
    and training takes them in turn; with 0 it runs in every step, as in the listings. A linear probe sees each picture
    at the `extra_sizes` sizes, too. `published` holds the chapter's accuracies by part, (lowest, highest) where it names
    more than one.
    """

    name: str
    scale: str
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
    interpolation: str = "nearest"
    preprocessing: str = "rescale"
    views: int = 0
    precision: str = "float32"
    published: dict[str, tuple[float, float]] = field(default_factory=dict)
