"""Experiment: a digit is learned in one corner and looked for in the other (section 5.1.1).

Digits of 10 x 10 pixels stand anywhere in the lower right quarter of a 28 x 28 picture in training, and in the upper
left quarter in the test. The convnet is that of listings 5.1 and 5.2 at half its filters, once as listed, with Flatten
before its classifier, and once with the maximum of each feature map instead, which forgets the place. The dense network
is chapter 2's. Each of six seeds draws 900 of the 1,797 digits for training, and all places.
"""

from functools import partial

import keras
import numpy as np
import pytest
from builders import Learner, all_digits, as_batches, claim_axes, plot_seeds
from claims import Experiment, assert_effect, claim, paired
from keras import layers

from convspec import models
from convspec.report.charts import BLUE, GREEN, ORANGE

SEEDS, STEPS, SIDE, DIGIT, TRAINING = range(6), 250, 28, 10, 900
LOWER_RIGHT, UPPER_LEFT = SIDE // 2, 0  # first row and column of the quarter
CORNERS = {"learned": LOWER_RIGHT, "same": LOWER_RIGHT, "other": UPPER_LEFT}  # places are drawn anew for each
Accuracies = dict[str, dict[str, np.ndarray]]


def convnet(head: layers.Layer) -> keras.Model:
    """Return the convnet of listings 5.1 and 5.2 at half its filters, with a new layer of `head`'s kind."""
    stack: list[layers.Layer] = [keras.Input((SIDE, SIDE, 1))]
    for filters in (16, 32):
        stack += [layers.Conv2D(filters, (3, 3), activation="relu"), layers.MaxPooling2D((2, 2))]
    stack += [layers.Conv2D(32, (3, 3), activation="relu"), type(head)()]
    return keras.Sequential([*stack, layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")])


NETWORKS = {
    "convnet, maximum of each map": partial(convnet, layers.GlobalMaxPooling2D()),
    "convnet as listed": partial(convnet, layers.Flatten()),
    "dense network": partial(models.dense_baseline, (SIDE, SIDE, 1)),
}
ANYWHERE, LISTED, DENSE = NETWORKS


def placed(digits: np.ndarray, corner: int, rng: np.random.RandomState) -> np.ndarray:
    """Return black pictures with a digit each, anywhere in the quarter that begins at row and column `corner`."""
    pictures = np.zeros((len(digits), SIDE, SIDE, 1), np.uint8)
    places = corner + rng.randint(SIDE // 2 - DIGIT + 1, size=(len(digits), 2))
    for picture, digit, (row, column) in zip(pictures, digits, places, strict=True):
        picture[row : row + DIGIT, column : column + DIGIT] = digit
    return pictures


@pytest.fixture(scope="module")
def accuracies() -> Accuracies:
    """Return test accuracies by network and corner, one a seed."""
    digits, labels = all_digits(DIGIT)
    results: Accuracies = {}
    for name, build in NETWORKS.items():
        learner, results[name] = Learner(build), {corner: np.zeros(len(SEEDS)) for corner in CORNERS}
        for seed in SEEDS:
            rng = np.random.RandomState(seed)
            train, test = np.split(rng.permutation(len(digits)), [TRAINING])
            learner.train(as_batches(placed(digits[train], LOWER_RIGHT, rng), labels[train]), seed, STEPS)
            for corner, start in CORNERS.items():
                tested = as_batches(placed(digits[test], start, rng), labels[test])
                results[name][corner][seed] = learner.accuracy(tested)
    return results


@pytest.mark.experiment
@claim(15, "5.1.1", "a convnet can recognize it anywhere", "qualified", kind="measured")
def test_a_convnet_knows_a_digit_elsewhere_if_its_head_forgets_the_place(
    accuracies: Accuracies, experiment: Experiment
) -> None:
    """The convolutions find the pattern anywhere; what Flatten and Dense learn of it is tied to the place."""
    figure, axes = claim_axes(
        "Claim: learned in the lower right, a convnet recognizes a digit\nin the upper left, a dense network doesn't",
        "place of the digit in the test",
        "test accuracy (%)",
    )
    for colour, (name, by_corner) in zip((BLUE, GREEN, ORANGE), accuracies.items(), strict=True):
        plot_seeds(axes, [0, 1], np.stack([by_corner["learned"], by_corner["other"]]), colour, name)
    axes.axhline(10, color="grey", linestyle=":", label="guessing")
    axes.set(xticks=[0, 1], xticklabels=["lower right, as learned", "upper left"], xlim=(-0.3, 1.3), ylim=(0, 103))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    other = {name: by_corner["other"] for name, by_corner in accuracies.items()}
    loss = {name: paired(by["learned"], by["other"]) for name, by in accuracies.items()}
    gain = paired(other[ANYWHERE], other[DENSE])
    experiment(gain, "accuracy in the new corner, convnet with the maximum of each map over dense network", figure)
    for name in NETWORKS:
        experiment(loss[name], f"accuracy lost by the move, {name}")
    assert_effect(gain, above=0.5, why="a convolution's response moves with the pattern")
    assert_effect(loss[ANYWHERE], below=0.05, why="the maximum of a map is the same wherever the pattern stands")
    assert_effect(loss[DENSE], above=0.5, why="each pixel has weights of its own")
    assert_effect(loss[LISTED], above=0.5, why="after Flatten each place of a map has weights of its own, too")


@pytest.mark.experiment
@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_move_no_network_loses_accuracy(accuracies: Accuracies, experiment: Experiment, name: str) -> None:
    """The same experiment with the same corner in training and test."""
    loss = paired(accuracies[name]["learned"], accuracies[name]["same"])
    experiment(loss, f"accuracy lost by no move, {name}")
    assert loss.p_value() >= 0.01
