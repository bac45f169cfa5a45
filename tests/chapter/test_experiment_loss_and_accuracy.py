"""Experiment: can accuracy rise while the average loss gets worse (section 5.3.2)?

The chapter sees it in fine-tuning and says why: the loss is an average, accuracy a threshold, so that a few pictures
that are wrong with ever more confidence raise the one and not the other. So here: the last block of the mini base is
thawed under a trained head, on the ladder's 600 pictures at its rate of 1e-4, for 30 epochs instead of eight, without
views, so that the loss turns. After each epoch each of 600 other pictures has its loss noted. From the epoch with the
lowest mean on (five epochs around it) to the last five: the mean should rise, the median fall, accuracy not fall. A seed
draws the head and the order of the pictures. The recorded runs at mini are those that the ladder's table is made of.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from builders import claim_axes
from claims import LEVEL, Effect, Experiment, assert_effect, claim, paired
from matplotlib.figure import Figure

from convspec import backend, models, training
from convspec.accuracy import baselines
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.ladder.result import Result
from convspec.report.charts import BLUE, ORANGE

pytestmark = pytest.mark.experiment

SEEDS, EPOCHS, BATCH, WINDOW = range(5), 30, 20, 5
HEAD_STEPS, HEAD_RATE, RATE = 180, 2e-4, 1e-4
ROOT = Path(__file__).parents[2]


@cache
def block3(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what the last block gets of pictures of fish and keys, and their labels."""
    images, labels = shapes.pictures(shapes.TARGETS, per_class, seed)
    base = models.conv_base("mini", models.MINI_WEIGHTS, (shapes.SIZE, shapes.SIZE, 3))
    trunk, _ = models.cut_before(base, "block4_conv1")
    return trunk.predict(rescale(images.astype(np.float32)), batch_size=100, verbose=0), labels


@cache
def losses(seed: int) -> np.ndarray:
    """Fine-tune, and return the loss of each picture that isn't trained on after each epoch, (epochs, pictures)."""
    backend.make_deterministic()
    keras.utils.set_random_seed(seed)
    (inputs, labels), (others, truth) = block3(300, 5), block3(300, 902)
    base = models.conv_base("mini", models.MINI_WEIGHTS, (shapes.SIZE, shapes.SIZE, 3))
    top = models.cut_before(base, "block4_conv1")[1]
    head = models.feature_classifier(base.output_shape[1:], dropout=0.0)
    rng = np.random.default_rng(seed)
    training.compile_model(head, HEAD_RATE)
    epochs = HEAD_STEPS * BATCH // len(labels)
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(epochs)])
    head.fit(top.predict(inputs, batch_size=100, verbose=0)[order], labels[order], BATCH, shuffle=False, verbose=0)
    model = keras.Sequential([keras.Input(inputs.shape[1:]), top, *head.layers])
    training.compile_model(model, RATE)
    after = []
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))
        model.fit(inputs[order], labels[order], batch_size=BATCH, shuffle=False, verbose=0)
        positive = model.predict(others, batch_size=300, verbose=0)[:, 0].astype(np.float64)
        after.append(-np.log(np.clip(np.where(truth == 1, positive, 1 - positive), 1e-7, 1)))  # as Keras clips
    return np.array(after)


class Curves(NamedTuple):
    """Averages over the pictures, one an epoch."""

    mean: np.ndarray
    median: np.ndarray
    accuracy: np.ndarray


def curves(seed: int, bounded: bool = False) -> Curves:
    """Return mean and median loss and accuracy; `bounded` makes the loss what the threshold does: right or wrong."""
    each = losses(seed)
    right = each < np.log(2)
    if bounded:
        each = (~right).astype(float)
    return Curves(each.mean(axis=1), np.median(each, axis=1), right.mean(axis=1))


def changes(of: Curves) -> Curves:
    """Return how each average changes from around the lowest mean loss to the end."""
    lowest = int(np.clip(of.mean.argmin(), WINDOW // 2, len(of.mean) - 1 - WINDOW // 2))
    around = slice(lowest - WINDOW // 2, lowest + WINDOW // 2 + 1)
    return Curves(*(float(curve[-WINDOW:].mean() - curve[around].mean()) for curve in of))


def both_rise(loss: np.ndarray, accuracy: np.ndarray) -> float:
    """Return the share of epochs after which both are higher than before."""
    return float(np.mean((np.diff(loss) > 0) & (np.diff(accuracy) > 0)))


def chart() -> Figure:
    figure, axes = claim_axes(
        "Claim: accuracy may improve while the average loss gets worse, as what\ncounts is how losses are distributed",
        "epoch of fine-tuning",
        "loss of new pictures, relative to its lowest (log)",
        7,
    )
    epochs = range(1, EPOCHS + 1)
    for share, colour in ((50, GREEN), (90, BLUE), (99, ORANGE)):
        by_seed = np.array([np.percentile(losses(seed), share, axis=1) for seed in SEEDS])
        label = "median" if share == 50 else f"{share} % of pictures have less"
        axes.plot(epochs, by_seed.mean(axis=0), color=colour, label=label)
    axes.plot(epochs, np.mean([curves(seed).mean for seed in SEEDS], axis=0), "k--", label="mean")
    axes.set_yscale("log")
    errors = axes.twinx()
    return figure
