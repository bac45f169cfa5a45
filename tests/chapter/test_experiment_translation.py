"""Experiment: a digit is learned in one corner and looked for in the other (section 5.1.1).

Digits of 8 x 8 pixels stand anywhere in the lower right quarter of a 24 x 24 picture in training, and in the upper left
quarter in the test. The convnet is that of listings 5.1 and 5.2 at half its filters: once as listed, and once without
what ties it to a place, its borders (by padding) and Flatten (replaced by the maximum of each feature map). The dense
network is chapter 2's. Each of six seeds draws 900 of scikit-learn's 1,797 digits for training, and all places.
"""

from collections.abc import Callable
from functools import cache, partial

import keras
import numpy as np
import pytest
from claims import Experiment, assert_control, assert_effect, claim, paired, seeds
from experiments import Learner, all_digits, as_batches, claim_chart
from keras import layers

from convspec import models
from convspec.data.batches import Batches

pytestmark = pytest.mark.experiment

SEEDS, STEPS, RATE, TRAINING = seeds(6), 400, 3e-3, 900
SIDE, DIGIT, QUARTER = 24, 8, 12
CORNERS = {"learned": QUARTER, "same": QUARTER, "other": 0}  # first row and column; places are drawn anew for each


def convnet(padding: str = "valid", gather: type[layers.Layer] = layers.Flatten) -> keras.Model:
    """Return the convnet of listings 5.1 and 5.2 at half its filters; `gather` makes a vector of the last maps."""
    stack: list[layers.Layer] = [keras.Input((SIDE, SIDE, 1))]
    for filters in (16, 32):
        stack.append(layers.Conv2D(filters, (3, 3), padding=padding, activation="relu"))
        stack.append(layers.MaxPooling2D((2, 2)))
    stack += [layers.Conv2D(32, (3, 3), padding=padding, activation="relu"), gather()]
    head = [layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]
    return keras.Sequential([*stack, *head])


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "convnet, padded, with the maximum of each map": partial(convnet, "same", layers.GlobalMaxPooling2D),
    "convnet as listed, with Flatten": convnet,
    "dense network": partial(models.dense_baseline, (SIDE, SIDE, 1)),
}
ANYWHERE, LISTED, DENSE = NETWORKS


def pictures(chosen: np.ndarray, start: int, rng: np.random.RandomState) -> Batches:
    """Return the chosen digits, each anywhere in the quarter that begins at row and column `start`."""
    digits, labels = all_digits(DIGIT)
    placed = np.zeros((len(chosen), SIDE, SIDE, 1), np.uint8)
    places = start + rng.randint(QUARTER - DIGIT + 1, size=(len(chosen), 2))
    for picture, digit, (row, column) in zip(placed, digits[chosen], places, strict=True):
        picture[row : row + DIGIT, column : column + DIGIT] = digit
    return as_batches(placed, labels[chosen])


@cache
def accuracies(network: str) -> dict[str, np.ndarray]:
    """Return test accuracies by corner, one a seed."""
    learner, results = Learner(NETWORKS[network], RATE), {corner: np.zeros(len(SEEDS)) for corner in CORNERS}
    for seed in SEEDS:
        rng = np.random.RandomState(seed)
        train, test = np.split(rng.permutation(1797), [TRAINING])
        learner.train(pictures(train, CORNERS["learned"], rng), seed, STEPS)
        for corner, start in CORNERS.items():
            results[corner][seed] = learner.accuracy(pictures(test, start, rng))
    return results


@claim(15, "5.1.1", "a convnet can recognize it anywhere", "qualified", kind="measured")
def test_a_convnet_knows_a_digit_elsewhere_if_its_head_forgets_the_place(experiment: Experiment) -> None:
    """What Flatten and Dense learn is tied to the place; the padding of the borders costs the convolutions a little."""
    title = "Claim: learned in the lower right, a convnet recognizes a digit\nin the upper left, a dense one doesn't"
    results = {name: accuracies(name) for name in NETWORKS}
    lines = {name: [by_corner[corner] for corner in ("learned", "other")] for name, by_corner in results.items()}
    names = "lower right, as learned", "upper left"
    figure = claim_chart(title, "place of the digit in the test", "test accuracy (%)", range(2), lines, names)
    loss = {name: paired(by_corner["learned"], by_corner["other"]) for name, by_corner in results.items()}
    gain = paired(results[ANYWHERE]["other"], results[DENSE]["other"])
    experiment(gain, "accuracy in the new corner, convnet with the maximum of each map over dense network", figure)
    for name in NETWORKS:
        experiment(loss[name], f"accuracy lost by the move, {name}")
    assert_effect(gain, above=0.5, why="a convolution's response moves with the pattern")
    spared = paired(loss[LISTED].values, loss[ANYWHERE].values)
    assert_effect(spared, above=0, why="the maximum of a map is the same wherever the pattern stands")
    assert_effect(loss[DENSE], above=0.5, why="each pixel has weights of its own")
    assert_effect(loss[LISTED], above=0.5, why="after Flatten each place of a map has weights of its own, too")


@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_of_digits_that_move_a_convnet_learns_more_if_it_forgets_the_place(experiment: Experiment) -> None:
    """From the same 900 digits, tested where they were learned; as listed it learns no more than a dense network."""
    learned = {name: accuracies(name)["learned"] for name in NETWORKS}
    gain, listed = (paired(learned[name], learned[DENSE]) for name in (ANYWHERE, LISTED))
    experiment(gain, "accuracy in the learned corner, convnet with the maximum of each map over dense network")
    experiment(listed, "accuracy in the learned corner, convnet as listed over dense network")
    assert_effect(gain, above=0.05, why="a filter learns from every place of a digit")
    assert_effect(listed, below=0.05, why="after Flatten each place is learned anew")


@claim(15, "5.1.1", "a convnet can recognize it anywhere", "qualified", kind="measured")
@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_move_no_network_loses_accuracy(experiment: Experiment, name: str) -> None:
    """The same experiment with the same corner in training and test."""
    unmoved, moved = (paired(accuracies(name)["learned"], accuracies(name)[corner]) for corner in ("same", "other"))
    experiment(unmoved, f"accuracy lost by no move, {name}")
    assert_control(unmoved, moved)
