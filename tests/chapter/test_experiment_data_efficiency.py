"""Experiments: how many pictures a convnet and a dense network need (sections 5.1.1 and 5.2.1).

The chapter's two networks for digits, as listed, learn from 50, 100, 300 and 1,000 digits: MNIST's, with 4,000 others
for the test; or scikit-learn's, of 8 x 8 pixels enlarged to 28 x 28, with 797 others. Digits that stand in more than
one place are in the experiment on translation. The "complex problem" is `shapes`: forms of any pose before textures and
clutter; its convnet is that of listing 5.5 with three convolutions and a quarter of the filters, and learns from up to
9,600. Training takes the same number of steps for any number of pictures, and each of five seeds draws its own.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import keras
import numpy as np
import pytest
from claims import Effect, Experiment, assert_effect, claim, paired, seeds
from experiments import SHAPES_SIZE, Learner, all_digits, as_batches, claim_chart, draw_parts, drawn_shapes

from convspec import models

pytestmark = [pytest.mark.experiment, pytest.mark.slow]

SEEDS, STEPS, SIDE = seeds(5), 300, 28
COUNTS = (50, 100, 300, 1000)
SHAPES_COUNTS, SHAPES_STEPS = (50, 300, 9600), 1200
NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "convnet": models.mnist_convnet,
    "dense network": partial(models.dense_baseline, (SIDE, SIDE, 1)),
}
ZERO = [0.0] * len(SEEDS)


@cache
def digit_accuracies(network: str, mnist: Path | None) -> np.ndarray:
    """Return test accuracies, (counts, seeds), on scikit-learn's digits, or on MNIST's of a data folder."""
    return train_on_digits(network, mnist, COUNTS)


def train_on_digits(network: str, mnist: Path | None, counts: tuple[int, ...], *, shuffled: bool = False) -> np.ndarray:
    """Return test accuracies, (counts, seeds); `shuffled` pixels change places, in every picture in the same way."""
    digits = all_digits(SIDE, mnist)
    order = np.random.RandomState(5).permutation(SIDE * SIDE) if shuffled else np.arange(SIDE * SIDE)
    learner, accuracies = Learner(NETWORKS[network]), np.zeros((len(counts), len(SEEDS)))
    for seed in SEEDS:
        parts = draw_parts(digits, seed, COUNTS[-1], 4000 if mnist else 797)
        train, test = (
            as_batches(part.inputs.reshape(-1, SIDE * SIDE)[:, order].reshape(part.inputs.shape), part.labels)
            for part in parts
        )
        for row, count in enumerate(counts):
            learner.train(as_batches(train.inputs[:count], train.labels[:count]), seed, STEPS)
            accuracies[row, seed] = learner.accuracy(test)
    return accuracies


def compare(experiment: Experiment, digits: str, mnist: Path | None = None) -> list[Effect]:
    """Return by how much the convnet is ahead of the dense network from each number of digits; both learn."""
    convnet, dense = (digit_accuracies(network, mnist) for network in NETWORKS)
    title, lines = f"Claim: convnets need fewer training samples ({digits})", {"convnet": convnet, "dense": dense}
    figure = claim_chart(title, "training digits (logarithmic)", "test accuracy (%)", COUNTS, lines, log=True)
    effects = [paired(*both) for both in zip(convnet, dense, strict=True)]
    for count, effect in zip(COUNTS, effects, strict=True):
        shown = figure if count == COUNTS[0] else None
        experiment(effect, f"accuracy from {count:,} {digits}, convnet over dense network", shown)
    assert min(convnet[-1].min(), dense[-1].min()) > 0.8, "a network has not learned"
    return effects


@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_of_mnists_digits_a_convnet_needs_a_third_of_a_dense_networks(
    experiment: Experiment, data_folder: Path
) -> None:
    """From 300 it is as often right as a dense network from 1,000, if neighbours are neighbours in the picture."""
    for effect in compare(experiment, "of MNIST's digits", data_folder):
        assert_effect(effect, above=0, why="a filter learns from every place of a digit")
    convnet, dense = (digit_accuracies(network, data_folder) for network in NETWORKS)
    shuffled = train_on_digits("convnet", data_folder, (300,), shuffled=True)[0]
    fewer, lost = paired(convnet[2], dense[3]), paired(convnet[2], shuffled)
    experiment(fewer, "of MNIST's digits, convnet from 300 over dense network from 1,000")
    experiment(lost, "of the convnet from 300 of MNIST's digits, pixels in their places over shuffled ones")
    assert_effect(fewer, above=-0.01, why="a filter learns from every place of a digit")
    assert_effect(lost, above=0.05, why="no local pattern is left")


@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_a_convnet_needs_no_fewer_digits_of_8_by_8_pixels(experiment: Experiment) -> None:
    """Enlarged they have little local detail, and all stand in one place: a dense network learns as much from them."""
    for effect in compare(experiment, "digits")[2:]:
        assert_effect(effect, below=0.02, why="nothing moves in these pictures")


@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_of_digits_of_8_by_8_a_convnet_learns_shuffled_pixels_as_well(experiment: Experiment) -> None:
    """All pixels change places, in every digit in the same way: no local pattern is left, and none is missed."""
    shuffled = train_on_digits("convnet", None, (300,), shuffled=True)[0]
    lost = paired(digit_accuracies("convnet", None)[2], shuffled)
    experiment(lost, "accuracy of the convnet from 300 digits, pixels in their places over shuffled ones")
    assert_effect(lost, below=0.01, why="the Dense layer behind the convolutions sees all places")


@cache
def shape_accuracies() -> np.ndarray:
    """Return test accuracies on `shapes`, (counts, seeds)."""
    learner = Learner(partial(models.small_convnet, (SHAPES_SIZE, SHAPES_SIZE, 3), filters=(8, 16, 32)))
    accuracies = np.zeros((len(SHAPES_COUNTS), len(SEEDS)))
    for seed in SEEDS:
        train, test = draw_parts(drawn_shapes(12_000), seed, SHAPES_COUNTS[-1], 2400)
        for row, count in enumerate(SHAPES_COUNTS):
            learner.train(as_batches(train.inputs[:count], train.labels[:count]), seed, SHAPES_STEPS)
            accuracies[row, seed] = learner.accuracy(test)
    return accuracies


@claim(77, "5.2.1", "complex problem with just a few tens of samples", "holds", kind="measured")
@claim(77.5, "5.2.1", "a few hundred can potentially suffice", "holds", kind="measured")
def test_tens_of_pictures_dont_solve_a_complex_task_hundreds_a_simple_one(experiment: Experiment) -> None:
    """From tens less than a quarter of the errors of guessing is avoided, from thousands half, in as many steps. Of the
    simple task nine in ten are avoided from hundreds, and not from tens.
    """
    simple, forms = digit_accuracies("convnet", None)[[0, 2]], shape_accuracies()
    skills = {"digits (simple)": (simple - 0.1) / 0.9, "shapes (complex)": (forms - 0.5) / 0.5}
    title = "Claim: tens of samples don't solve a complex problem,\na few hundred can solve a simple one"
    ylabel = "errors of guessing that are avoided (%)"
    figure = claim_chart(title, "training pictures", ylabel, SHAPES_COUNTS, skills, log=True)
    tens, hundreds, thousands = (paired(values, ZERO) for values in skills["shapes (complex)"])
    simple_tens, simple_hundreds = (paired(values, ZERO) for values in skills["digits (simple)"])
    experiment(tens, "errors of guessing avoided on shapes from 50 pictures", figure)
    experiment(hundreds, "on shapes from 300")
    experiment(thousands, "on shapes from 9,600")
    experiment(simple_tens, "on digits from 50")
    experiment(simple_hundreds, "on digits from 300")
    assert_effect(tens, below=0.25, why="fifty pictures do not show what all fish have in common")
    assert_effect(thousands, above=0.5, why="the network and its steps would do")
    assert_effect(simple_hundreds, above=0.9, why="digits are small, centred and without background")
    assert_effect(simple_tens, below=0.9, why="five of each digit do not show all ways to write it")
