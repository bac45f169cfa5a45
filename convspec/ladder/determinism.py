"""Measure whether a recipe gives the same losses and predictions twice, on this backend and device."""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from convspec.features import KERAS, Engine
from convspec.ladder.result import Result
from convspec.ladder.run import Run, run_recipe

TOLERANCE = 1e-5  # of the loss, relative: some hundred roundings of float32
STEPS, PICTURES = 8, 40


@dataclass(frozen=True)
class Repeat:
    """How closely two runs agree."""

    outcome: str  # "bit-identical", "within 1e-05" or "diverging from step 3"
    largest: float  # relative difference between the losses of any step


def repeat(run: Run, engine: Engine = KERAS, devices: int = 1) -> Repeat:
    """Train the first steps of a run twice, without validation, and compare.

    The recipe is cut to STEPS epochs of one step, the dataset to PICTURES pictures a part.
    """
    recipe, dataset, seed, weights = run
    start = recipe.starts_from and replace(recipe.starts_from, epochs=1, steps=1)
    short = replace(recipe, epochs=min(STEPS, recipe.epochs), steps=1, starts_from=start)
    few = replace(dataset, train=dataset.train.cut(PICTURES), validation=None, test=dataset.test.cut(PICTURES))
    results = []
    for _ in range(2):
        with TemporaryDirectory() as folder:  # else the second would take what the first has cached
            results.append(run_recipe(short, few, seed, Path(folder), weights=weights, engine=engine, devices=devices))
    return compare(*results)


def compare(first: Result, second: Result) -> Repeat:
    """Compare the losses of two runs by step, and their predictions to the last digit."""
    losses, others = np.array([first.history["loss"], second.history["loss"]])
    differences = np.abs(losses - others) / np.maximum(np.abs(losses), 1e-12)
    if not differences.any() and first.confidence == second.confidence:
        return Repeat("bit-identical", 0.0)
    beyond = np.flatnonzero(~(differences <= TOLERANCE))
    outcome = f"diverging from step {beyond[0] + 1}" if len(beyond) else f"within {TOLERANCE:g}"
    return Repeat(outcome, float(differences.max()))
