"""A rung as plain data."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from convspec import models
from convspec.data.augmentation import Augmentation

Scale = Literal["mini", "full"]  # embedded pictures, or the chapter's
Mode = Literal["literal", "exact", "fast", "both"]  # which form of the rungs, see `rungs.select_recipes`


@dataclass(frozen=True)
class Recipe:
    """A rung: dataset, model, schedule and augmentation; the optimizer is RMSprop. A comment explains each field."""

    name: str
    scale: Scale
    listings: str  # numbers in the chapter
    dataset: str  # name that `data.load_dataset` takes
    model: str  # key of `run.ARCHITECTURES`
    size: int  # height and width of the pictures in pixels
    learning_rate: float
    epochs: int
    batch_size: int
    steps: int | None = None  # an epoch; None passes once over the training pictures
    ema_momentum: float = 0.0  # of the moving average of the weights that is tested; 0 tests those of the last step
    dropout: float = 0.0  # rate, before the head
    filters: tuple[int, ...] = (32, 64, 128, 128)  # of each convolution of `models.small_convnet`
    base: str | None = None  # key of `models.BASES`
    thaw: str | None = None  # first trainable layer of the base, see `models.first_thawed`; None freezes it all
    starts_from: "Recipe | None" = None  # rung whose trained model this one goes on with
    augmentation: Augmentation | None = None  # of the training pictures
    extra_sizes: tuple[int, ...] = ()  # at which a linear probe sees each picture, too
    interpolation: Literal["nearest", "bilinear", "area"] = "nearest"  # resizes the pictures
    preprocessing: Literal["rescale", "base"] = "rescale"  # inputs / 255, or that of the base's weights
    views: int = 0  # of each picture, cached from the base's frozen part and shown in turn; 0 runs it in each step
    exact: bool = False  # the base's frozen part sees validation and test pictures once, not once an epoch
    precision: Literal["float32", "fast"] = "float32"  # of the base; the fast one is measured on the device
    published: dict[str, tuple[float, float]] = field(default_factory=dict)  # lowest and highest accuracy, by part


def with_base(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe with another base, in any spelling that `models.find_base` takes.

    Pictures have at least the base's smallest size, and at full, in a recipe of one size, the one that its weights
    were made for. They are prepared as those weights expect, but for VGG16, whose preparation is the recipe's. A
    recipe without a base, or with that one, stays as it is.
    """
    base = models.find_base(name)
    if recipe.base in (None, base):
        return recipe
    smallest, default = models.sizes(base)
    size = default if recipe.scale == "full" and not recipe.extra_sizes else max(recipe.size, smallest)
    thaw = recipe.thaw and (
        models.FIRST_LAYER if recipe.thaw in ("block1_conv1", models.FIRST_LAYER) else models.LAST_STAGE
    )
    start = with_base(recipe.starts_from, name) if recipe.starts_from else None
    extra = tuple(max(side, smallest) for side in recipe.extra_sizes)
    changes: dict[str, Any] = {} if base == "vgg16" else {"preprocessing": "base"}  # no listing divides theirs by 255
    changes |= {"base": base, "size": size, "extra_sizes": extra, "thaw": thaw, "starts_from": start, "published": {}}
    return replace(recipe, **changes)
