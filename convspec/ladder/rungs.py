"""The table of rungs at both scales: as in the listings, in exact form and in fast form."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convspec import BadInput
from convspec.data.augmentation import Augmentation
from convspec.ladder.recipe import Mode, Recipe, Scale

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


def _full() -> dict[str, Recipe]:
    def digits(name: str, listings: str, batch_size: int, test: tuple[float, float]) -> Recipe:
        return Recipe(name, "full", listings, "mnist", name, 28, 1e-3, 5, batch_size, published={"test": test})

    def dogs(name: str, listings: str, model: str, validation: tuple[float, float], **settings: Any) -> Recipe:
        shared: dict[str, Any] = {"dataset": "dogs_vs_cats", "size": 150, "batch_size": 20, "steps": 100}
        return Recipe(name, "full", listings, model=model, published={"validation": validation}, **shared | settings)

    augmented: dict[str, Any] = {"augmentation": CHAPTER_AUGMENTATION}
    vgg16: dict[str, Any] = {"learning_rate": 2e-5, "epochs": 30, "base": "vgg16"}
    frozen = dogs("frozen_end_to_end", "5.20-5.21", "end_to_end", (0.96, 0.96), **vgg16, **augmented)
    fine_tuning: dict[str, Any] = {"learning_rate": 1e-5, "epochs": 100, "thaw": "block5_conv1", "starts_from": frozen}
    tuned = {"validation": (0.97, 0.97), "test": (0.968, 0.97)}
    regularised = {"learning_rate": 1e-4, "epochs": 100, "batch_size": 32, "dropout": 0.5, **augmented}
    return _ladder(
        digits("dense_baseline", "ch. 2", 128, (0.978, 0.978)),
        digits("mnist_convnet", "5.1-5.3", 64, (0.991, 0.993)),
        dogs("from_scratch", "5.5-5.10", "small_convnet", (0.70, 0.72), learning_rate=1e-4, epochs=30),
        dogs("augmented", "5.11-5.15", "small_convnet", (0.82, 0.83), **regularised),
        dogs("feature_extraction", "5.16-5.19", "feature_classifier", (0.90, 0.90), dropout=0.5, **vgg16),
        frozen,
        replace(frozen, name="fine_tuned", listings="5.22-5.24", published=tuned, **fine_tuning),
    )


def _mini() -> dict[str, Recipe]:
    """Return the same rungs on `digits` and `shapes`: fewer and smaller pictures, narrower layers, shorter schedules.

    What is tested without a base is the moving average of the weights: those of the last step scatter between seeds.
    """
    full = _full()

    def digits(name: str, epochs: int) -> Recipe:
        return replace(full[name], scale="mini", dataset="digits", epochs=epochs, batch_size=32, ema_momentum=0.98)

    def mini(name: str, epochs: int, learning_rate: float, **changes: Any) -> Recipe:
        shared: dict[str, Any] = {"scale": "mini", "dataset": "shapes", "size": 48, "batch_size": 20, "steps": None}
        shared |= {"filters": (16, 32, 64, 64), "epochs": epochs, "learning_rate": learning_rate}
        return replace(full[name], **shared | changes)

    frozen = mini("frozen_end_to_end", 4, 2e-4, base="mini")
    return _ladder(
        digits("dense_baseline", 10),
        digits("mnist_convnet", 12),
        mini("from_scratch", 25, 1e-3, ema_momentum=0.99),
        mini("augmented", 54, 1e-3, ema_momentum=0.99, dropout=0.25),
        mini("feature_extraction", 7, 1e-4, base="mini"),
        frozen,
        mini("fine_tuned", 5, 1e-4, base="mini", thaw="block3_conv1", starts_from=frozen),
    )


def _fast(rungs: dict[str, Recipe], views: int, epochs: int, size: int) -> dict[str, Recipe]:
    """Return the fast form of the rungs with a base.

    Pictures are resized by area and prepared as those that the base was trained with; the base's frozen part runs once
    for each view; fine-tuning takes `epochs`; feature extraction is a linear probe on pictures of `size`.
    """

    def fast(name: str, **changes: Any) -> Recipe:
        changes |= {"interpolation": "area", "preprocessing": "base", "precision": "fast", "published": {}}
        return replace(rungs[name], name=f"{name}_fast", **changes)

    frozen = fast("frozen_end_to_end", views=views)
    return _ladder(
        fast("feature_extraction", model="linear_probe", dropout=0.0, epochs=1, size=size),
        frozen,
        fast("fine_tuned", starts_from=frozen, views=views, epochs=epochs),
    )


def _exact(rungs: dict[str, Recipe]) -> dict[str, Recipe]:
    """Return the rungs that train on a base, with the same steps, each computation of the frozen part done once."""
    names = "frozen_end_to_end", "fine_tuned"
    frozen, tuned = (replace(rungs[name], name=f"{name}_exact", exact=True) for name in names)
    return _ladder(frozen, replace(tuned, starts_from=frozen))


def _extra(full: dict[str, Recipe]) -> dict[str, Recipe]:
    """Return recipes that run when they are named.

    `feature_extraction_best` is the best that the base's features alone gave, from two larger sizes. The others test
    the 0.96 published for a frozen base: as written but with cached views, with the preprocessing of the base's
    weights, and with the base left trainable.
    """
    recorded = replace(full["frozen_end_to_end"], name="frozen_end_to_end_recorded", views=3)
    return _ladder(
        replace(full["feature_extraction_fast"], name="feature_extraction_best", size=288, extra_sizes=(224,)),
        recorded,
        replace(recorded, name="frozen_end_to_end_preprocessed", preprocessing="base"),
        replace(full["frozen_end_to_end"], name="frozen_end_to_end_trainable", thaw="block1_conv1"),
    )


RUNGS = tuple(_full())
RECIPES = {
    "mini": _mini() | _exact(_mini()) | _fast(_mini(), views=2, epochs=5, size=48),
    "full": _full() | _exact(_full()) | _fast(_full(), views=3, epochs=30, size=160),
}
RECIPES["full"] |= _extra(RECIPES["full"])


def select_recipes(scale: Scale, mode: Mode, rungs: Sequence[str] = RUNGS) -> list[Recipe]:
    """Return the recipes of `rungs` in the ladder's order.

    They are as in the listings ("literal"), with each frozen computation done once ("exact"), in their fast form
    ("fast"), or literal and fast ("both"). A rung without that form stays as it is. A name that is not in RUNGS is a
    recipe of its own and comes after them.
    """
    recipes = RECIPES[scale]
    ends = {"literal": ("",), "exact": ("_exact",), "fast": ("_fast",), "both": ("", "_fast")}[mode]
    names = [rung + end if rung + end in recipes else rung for rung in RUNGS if rung in rungs for end in ends]
    names += [name for name in rungs if name not in RUNGS]
    return [find_recipe(name, scale) for name in dict.fromkeys(names)]


def find_recipe(name: str, scale: Scale) -> Recipe:
    """Return the recipe of that name; BadInput, listing all, if there is none."""
    if name not in RECIPES[scale]:
        raise BadInput(f"unknown rung {name!r} at scale {scale}; choose from {', '.join(RECIPES[scale])}")
    return RECIPES[scale][name]
