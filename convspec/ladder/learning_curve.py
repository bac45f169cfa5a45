"""Learning curve: the accuracy of a linear probe on a quarter, a half and all of the training pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TextIO

import keras
import numpy as np
from scipy import special

from convspec import BadInput, training
from convspec.accuracy.statistics import CONFIDENCE
from convspec.data.batches import Batches, identity
from convspec.data.datasets import Dataset
from convspec.features import KERAS, Engine
from convspec.ladder.recipe import Recipe
from convspec.ladder.run import base_features
from convspec.progress import bar

SHARES = (0.25, 0.5, 1.0)
DRAWS = 3  # of the training pictures, for each share below 1
MIN_OF_CLASS = 20  # training pictures: a quarter then has five


class Gain(NamedTuple):
    """Change of the accuracy from one share to the next, and its 95 % interval."""

    change: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Accuracies on the test pictures, from 0 to 1, by number of training pictures."""

    base: str
    pictures: list[int]  # in training, for each of SHARES
    accuracies: list[list[float]]  # for each of SHARES one a draw
    gains: list[Gain]  # of each doubling


def learning_curve(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    weights: str | Path | None = None,
    engine: Engine = KERAS,
    progress: TextIO | None = None,
) -> LearningCurve:
    """Fit a linear probe to stratified draws of the training pictures, on cached features of the base.

    Args:
        recipe: A linear probe.
        dataset: Its pictures; the penalty is chosen on the validation part, else on the draw.
        folder: As `run_recipe` takes it; features that a run of `recipe` left there are read.
        weights: As `run_recipe` takes them.
        engine: As `run_recipe` takes it.
        progress: Where bars are shown.

    Raises:
        BadInput: A class has fewer than MIN_OF_CLASS training pictures.
    """
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    if (rarest := int(counts.min())) < MIN_OF_CLASS:
        raise BadInput(
            f"too few pictures for a learning curve: {dataset.classes[int(counts.argmin())]} has {rarest} in training,"
            f" and a curve takes {MIN_OF_CLASS} of each class"
        )
    train, validation, test = base_features(recipe, dataset, folder, weights, engine, progress)
    sizes, right = [], []
    with bar(len(SHARES) * DRAWS - DRAWS + 1, "learning curve", "fit", progress) as shown:
        for share in SHARES:
            draws = []
            for chosen in _draws(train.labels, share):
                subset = Batches(train.inputs[chosen], train.labels[chosen], train.batch_size, identity)
                draws.append(_fit(subset, validation, test, len(dataset.classes)))
                shown.update()
            sizes.append(len(chosen))
            right.append(np.array(draws))
    accuracies = [draws.mean(axis=1).tolist() for draws in right]
    return LearningCurve(str(recipe.base), sizes, accuracies, [_gain(less, more) for less, more in pairwise(right)])


def _draws(labels: np.ndarray, share: float) -> Iterator[np.ndarray]:
    """Yield positions of that share of each class: the first of an order that a draw's number alone decides."""
    for draw in range(DRAWS if share < 1 else 1):
        rng = np.random.default_rng(draw)
        orders = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        yield np.sort(np.concatenate([order[: round(share * len(order))] for order in orders]))


def _fit(train: Batches, validation: Batches | None, test: Batches, classes: int) -> np.ndarray:
    """Return which test pictures a linear probe that is fitted to `train` gets right."""
    layer = keras.layers.Dense(1 if classes == 2 else classes)
    layer.build((None, train.inputs.shape[1]))
    training.fit_linear(layer, train, validation)
    kernel, bias = layer.get_weights()
    scores = test.inputs @ kernel + bias
    return (scores[:, 0] > 0 if classes == 2 else scores.argmax(axis=1)) == test.labels


def _gain(less: np.ndarray, more: np.ndarray) -> Gain:
    """Compare matrices of draws by test pictures; the pictures are paired, and the draws scatter beside them."""
    paired = more.mean(axis=0) - less.mean(axis=0)
    variances = [draws.mean(axis=1).var(ddof=1) / len(draws) for draws in (less, more) if len(draws) > 1]
    half = special.ndtri((1 + CONFIDENCE) / 2) * np.sqrt(paired.var(ddof=1) / len(paired) + sum(variances))
    change = float(paired.mean())
    return Gain(change, change - float(half), change + float(half))
