"""Whether a rung repeats itself on this backend and device: bit by bit, closely, or until some step."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convspec.data.datasets import Dataset, Split
from convspec.ladder.recipe import Recipe
from convspec.ladder.run import run

TOLERANCE = 1e-5  # of the loss, relative: some hundred roundings of float32
STEPS, PICTURES = 8, 40


@dataclass(frozen=True)
class Repeat:
    """`outcome` is "bit-identical", "within 1e-05" or "diverging from step 3"; `largest` the largest relative
    difference between the losses of two runs in any step.
    """

    outcome: str
    largest: float


def repeat(recipe: Recipe, dataset: Dataset, seed: int, folder: Path, weights: str | Path | None = None) -> Repeat:
    """Train the first steps of `recipe` twice with one seed, on some of the pictures, each time from the start.

    `folder` receives what `run` leaves behind. Predictions count as well: they are to be the same to the last digit.
    """
    short = replace(recipe, epochs=min(STEPS, recipe.epochs), steps=1)
    if short.starts_from:
        short = replace(short, starts_from=replace(short.starts_from, epochs=1, steps=1))
    parts = {name: _some(getattr(dataset, name)) for name in ("train", "validation", "test")}
    few = replace(dataset, **parts)  # type: ignore[arg-type]
    once, again = (run(short, few, seed, folder / name, weights=weights) for name in ("once", "again"))
    return _compared(once.history["loss"], again.history["loss"], once.confidence == again.confidence)


def _some(split: Split | None) -> Split | None:
    if split is None:
        return None
    step = max(len(split) // PICTURES, 1) | 1  # odd, so that all classes stay where they alternate
    return Split(split.images[::step], split.labels[::step], split.names[::step])


def _compared(once: list[float], again: list[float], same_predictions: bool) -> Repeat:
    apart = np.abs(np.subtract(once, again)) / np.maximum(np.abs(once), 1e-12)
    if not apart.any() and same_predictions:
        return Repeat("bit-identical", 0.0)
    beyond = np.flatnonzero(~(apart <= TOLERANCE))
    outcome = f"diverging from step {beyond[0] + 1}" if len(beyond) else f"within {TOLERANCE:g}"
    return Repeat(outcome, float(apart.max()))
