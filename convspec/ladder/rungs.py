"""The rungs of the ladder at both scales, literal and fast."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convspec import BadInput
from convspec.data.augmentation import Augmentation
from convspec.ladder.recipe import Recipe

CHAPTER_AUGMENTATION = Augmentation(
    rotation_range=40,
    width_shift_range=0.2,
    height_shift_range=0.2,
    shear_range=0.2,
    zoom_range=0.2,
    horizontal_flip=True,
)  # listing 5.11


def _ladder(*rungs: Recipe) -> dict[str, Recipe]:
    return {rung.name: rung for rung in rungs}


def _fast(rungs: dict[str, Recipe], views: int, epochs: int, size: int) -> dict[str, Recipe]:
    """The rungs with a base as an expert climbs them: pictures reduced by area and prepared as those that the base
    was trained with, the frozen part of the base run once for each view, `epochs` of fine-tuning instead of the
    listing's, and feature extraction as a linear probe at `size`.
    """
    expert: dict[str, Any] = {"interpolation": "area", "preprocessing": "base", "precision": "fast", "published": {}}
    frozen = replace(rungs["frozen_end_to_end"], name="frozen_end_to_end_fast", views=views, **expert)
    return _ladder(
        replace(
            rungs["feature_extraction"], name="feature_extraction_fast", model="linear_probe", dropout=0.0, epochs=1,
            size=size, **expert,
        ),
        frozen,
        replace(
            rungs["fine_tuned"], name="fine_tuned_fast", starts_from=frozen, views=views, epochs=epochs, **expert
        ),
    )  # fmt: skip


def _full() -> dict[str, Recipe]:
    dogs: dict[str, Any] = {"scale": "full", "dataset": "dogs_vs_cats", "size": 150, "batch_size": 20, "steps": 100}
    digits: dict[str, Any] = {"scale": "full", "dataset": "mnist", "size": 28, "learning_rate": 1e-3, "epochs": 5}
    frozen = Recipe(
        "frozen_end_to_end",
        listings="5.20-5.21",
        model="end_to_end",
        learning_rate=2e-5,
        epochs=30,
        base="vgg16",
        augmentation=CHAPTER_AUGMENTATION,
        published={"validation": (0.96, 0.96)},
        **dogs,
    )
    return _ladder(
        Recipe(
            "dense_baseline", listings="ch. 2", model="dense_baseline", batch_size=128,
            published={"test": (0.978, 0.978)}, **digits,
        ),
        Recipe(
            "mnist_convnet", listings="5.1-5.3", model="mnist_convnet", batch_size=64,
            published={"test": (0.991, 0.993)}, **digits,
        ),
        Recipe(
            "from_scratch", listings="5.5-5.10", model="small_convnet", learning_rate=1e-4, epochs=30,
            published={"validation": (0.70, 0.72)}, **dogs,
        ),
        Recipe(
            "augmented", listings="5.11-5.15", model="small_convnet", learning_rate=1e-4, epochs=100, dropout=0.5,
            augmentation=CHAPTER_AUGMENTATION, published={"validation": (0.82, 0.83)}, **dogs | {"batch_size": 32},
        ),
        Recipe(
            "feature_extraction", listings="5.16-5.19", model="feature_classifier", learning_rate=2e-5, epochs=30,
            dropout=0.5, base="vgg16", published={"validation": (0.90, 0.90)}, **dogs,
        ),
        frozen,
        replace(
            frozen, name="fine_tuned", listings="5.22-5.24", learning_rate=1e-5, epochs=100, thaw="block5_conv1",
            starts_from=frozen, published={"validation": (0.97, 0.97), "test": (0.968, 0.97)},
        ),
    )  # fmt: skip


def _mini() -> dict[str, Recipe]:
    """The same rungs on `shapes`: fewer and extra_sizes pictures, narrower layers, fewer and larger steps."""
    full = _full()

    def mini(name: str, epochs: int, learning_rate: float, **changes: Any) -> Recipe:
        return replace(
            full[name], scale="mini", dataset="shapes", size=48, batch_size=20, steps=None, filters=(16, 32, 64, 64),
            epochs=epochs, learning_rate=learning_rate, **changes,
        )  # fmt: skip

    frozen = mini("frozen_end_to_end", 6, 2e-4, base="mini")
    return _ladder(
        mini("dense_baseline", 3, 1e-3),
        mini("mnist_convnet", 6, 1e-3),
        mini("from_scratch", 40, 1e-3),
        mini("augmented", 100, 1e-3),
        mini("feature_extraction", 10, 1e-4, base="mini"),
        frozen,
        mini("fine_tuned", 8, 1e-4, base="mini", thaw="block3_conv1", starts_from=frozen),
    )


RUNGS = tuple(_full())
RECIPES: dict[str, dict[str, Recipe]] = {
    "mini": _mini() | _fast(_mini(), views=2, epochs=8, size=48),
    "full": _full() | _fast(_full(), views=3, epochs=30, size=160),
}


def _extra_recipes() -> dict[str, Recipe]:
    """What stands beside the rungs at full and runs when it is named.

    The best that the base's features alone gave, from two larger sizes; and the trial of the 0.96 that the chapter has
    for a frozen base: as written, but with recorded views; so with the preprocessing that the base's weights were
    trained with; and as written with the base left trainable, for a single epoch, too.
    """
    full = RECIPES["full"]
    recorded = replace(full["frozen_end_to_end"], name="frozen_end_to_end_recorded", views=3)
    trainable = replace(full["frozen_end_to_end"], name="frozen_end_to_end_trainable", thaw="block1_conv1")
    return _ladder(
        replace(full["feature_extraction_fast"], name="feature_extraction_best", size=288, extra_sizes=(224,)),
        recorded,
        replace(recorded, name="frozen_end_to_end_preprocessed", preprocessing="base"),
        trainable,
        replace(trainable, name="frozen_end_to_end_trainable_1_epoch", epochs=1),
    )


RECIPES["full"] |= _extra_recipes()


def select_recipes(scale: str, mode: str, rungs: Sequence[str] = RUNGS) -> list[Recipe]:
    """The recipes of those rungs in the ladder's order, which a rung that starts from another needs: as in the
    listings ("literal"), as an expert climbs them ("fast"; a rung without a base is the same), or "both". A name that
    is not one of RUNGS is a recipe of its own, which runs after them.
    """
    recipes = RECIPES[scale]
    forms = {"literal": ("{}",), "fast": ("{}_fast",), "both": ("{}", "{}_fast")}[mode]
    names = [form.format(rung) for rung in RUNGS if rung in rungs for form in forms]
    names = [name if name in recipes else name.removesuffix("_fast") for name in names]
    return [recipes[name] for name in dict.fromkeys([*names, *(name for name in rungs if name not in RUNGS)])]


def find_recipe(name: str, scale: str) -> Recipe:
    """The rung of that name, or another form of one; BadInput, listing all, for any other."""
    if name not in RECIPES[scale]:
        raise BadInput(f"unknown rung {name!r} at scale {scale}; choose from {', '.join(RECIPES[scale])}")
    return RECIPES[scale][name]
