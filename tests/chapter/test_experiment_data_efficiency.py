"""Experiments: how many pictures a convnet and a dense network need (sections 5.1.1 and 5.2.1).

Both learn from 50, 100, 300 and 1,000 of scikit-learn's 1,797 digits, and the other 797 are the test. The digits have
12 x 12 pixels on pictures of 24 x 24, once all in the middle, as those of MNIST, and once anywhere, as translation is
the reason that the section gives. The convnet is that of listings 5.1 and 5.2 at half its filters, the dense network
chapter 2's. The "complex problem" is `shapes`: forms of any pose before textures and clutter; its convnet is that of
listing 5.5 with three convolutions. Training takes the same number of steps for any number of pictures, and each of
five seeds draws its own.
"""

from functools import cache, partial

import numpy as np
import pytest
from builders import (
    SHAPES_SIZE,
    Learner,
    all_digits,
    as_batches,
    claim_axes,
    digit_convnet,
    draw_parts,
    drawn_shapes,
    placed,
    plot_seeds,
)
from claims import Effect, Evidence, Experiment, assert_effect, claim, paired

from convspec import models
from convspec.report.charts import BLUE, GREEN, ORANGE

SEEDS, STEPS, SIDE, DIGIT = range(5), 250, 24, 12
COUNTS = (50, 100, 300, 1000)
TENS, HUNDREDS = COUNTS[0], COUNTS[2]
NETWORKS = {
    "convnet": partial(digit_convnet, SIDE),
    "dense network": partial(models.dense_baseline, (SIDE, SIDE, 1)),
}
ZERO = [0.0] * len(SEEDS)


@cache
def digits(anywhere: bool, shuffled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of all digits, their places as in `digit_accuracies`, and their labels."""
    small, labels = all_digits(DIGIT)
    room, rng = SIDE - DIGIT, np.random.RandomState(5)
    places = rng.randint(room + 1, size=(len(small), 2)) if anywhere else np.full((len(small), 2), room // 2)
    pictures = placed(small, SIDE, places)
    order = rng.permutation(SIDE * SIDE) if shuffled else np.arange(SIDE * SIDE)
    return pictures.reshape(len(small), -1)[:, order].reshape(pictures.shape), labels


@cache
def digit_accuracies(
    network: str, anywhere: bool, counts: tuple[int, ...] = COUNTS, shuffled: bool = False
) -> np.ndarray:
    """Return test accuracies, (counts, seeds).

    Args:
        network: Key of NETWORKS.
        anywhere: Digits stand anywhere in their pictures, instead of in the middle.
        counts: Numbers of training digits.
        shuffled: All pixels change places, in every picture in the same way.
    """
    learner, accuracies = Learner(NETWORKS[network]), np.zeros((len(counts), len(SEEDS)))
    for seed in SEEDS:
        train, test = draw_parts(digits(anywhere, shuffled), seed, COUNTS[-1], 797)
        for row, count in enumerate(counts):
            learner.train(as_batches(train.inputs[:count], train.labels[:count]), seed, STEPS)
            accuracies[row, seed] = learner.accuracy(test)
    return accuracies


def gain(anywhere: bool, counts: tuple[int, ...] = COUNTS, shuffled: bool = False) -> np.ndarray:
    """Return what the convnet's accuracy is above the dense network's in the mean over `counts`, one a seed."""
    convnet, dense = (digit_accuracies(network, anywhere, counts, shuffled) for network in NETWORKS)
    return (convnet - dense).mean(axis=0)


def digits_needed(anywhere: bool) -> str:
    """Return with how many digits the dense network is as accurate as the convnet is with 300."""
    convnet, dense = (digit_accuracies(network, anywhere).mean(axis=1) for network in NETWORKS)
    reached = convnet[COUNTS.index(HUNDREDS)]
    if reached > dense[-1]:
        return f"more than {COUNTS[-1]:,}"
    return f"{np.exp(np.interp(reached, dense, np.log(COUNTS))):.0f}"


@pytest.mark.experiment
@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_a_convnet_needs_fewer_digits_where_digits_stand_anywhere(experiment: Experiment, evidence: Evidence) -> None:
    """In the middle of their pictures digits are learned as well by a dense network, from however few of them."""
    figure, axes = claim_axes("Claim: convnets need fewer training samples", "training digits", "test accuracy (%)")
    for anywhere, style, where in ((False, "-", "in the middle"), (True, "--", "anywhere")):
        for name, colour in zip(NETWORKS, (BLUE, ORANGE), strict=True):
            plot_seeds(axes, COUNTS, digit_accuracies(name, anywhere), colour, f"{name}, digits {where}", style)
    axes.set(xscale="log", xticks=COUNTS, xticklabels=[f"{count:,}" for count in COUNTS])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    moved, centred = (Effect(tuple(gain(anywhere))) for anywhere in (True, False))
    experiment(moved, "accuracy from 50 to 1,000 digits that stand anywhere, convnet over dense network", figure)
    experiment(centred, "the same of digits in the middle")
    evidence(
        f"as accurate as the convnet from {HUNDREDS}, the dense network needs {digits_needed(True)} digits that stand"
        f" anywhere, {digits_needed(False)} in the middle"
    )
    assert_effect(moved, above=0, why="a filter learns from every place of a digit")
    assert_effect(centred, below=0.03, why="a digit in the middle has the same pixels in every picture")
    assert_effect(paired(moved.values, centred.values), above=0, why="translation is the section's reason")


@pytest.mark.experiment
@claim(16, "5.1.1", "they need fewer training samples", "qualified", kind="measured")
def test_the_convnets_advantage_goes_when_pixels_change_places(experiment: Experiment) -> None:
    """The same digits without their local patterns; a dense network cannot tell the difference."""
    shuffled = gain(True, (HUNDREDS,), shuffled=True)
    experiment(Effect(tuple(shuffled)), "accuracy from 300 digits of shuffled pixels, convnet over dense network")
    lost = paired(gain(True, (HUNDREDS,)), shuffled)
    experiment(lost, "that accuracy, pixels in their places over shuffled ones")
    assert_effect(lost, above=0, why="convolutions look for patterns of pixels that are neighbours")


@cache
def shape_accuracies() -> np.ndarray:
    """Return test accuracies on `shapes`, (TENS and HUNDREDS, seeds)."""
    learner = Learner(partial(models.small_convnet, (SHAPES_SIZE, SHAPES_SIZE, 3), filters=(8, 16, 32)))
    accuracies = np.zeros((2, len(SEEDS)))
    for seed in SEEDS:
        train, test = draw_parts(drawn_shapes(2600), seed, HUNDREDS, 800)
        for row, count in enumerate((TENS, HUNDREDS)):
            learner.train(as_batches(train.inputs[:count], train.labels[:count]), seed, STEPS)
            accuracies[row, seed] = learner.accuracy(test)
    return accuracies


@pytest.mark.experiment
@claim(77, "5.2.1", "complex problem with just a few tens of samples", "holds", kind="measured")
@claim(77.5, "5.2.1", "a few hundred can potentially suffice", "holds", kind="measured")
def test_tens_of_pictures_dont_solve_a_complex_task_hundreds_a_simple_one(experiment: Experiment) -> None:
    """Solved is what has lost three quarters of the errors of guessing, by either task's number of classes."""
    simple, forms = digit_accuracies("convnet", anywhere=False)[[0, 2]], shape_accuracies()
    skills = {"digits (simple)": (simple - 0.1) / 0.9, "shapes (complex)": (forms - 0.5) / 0.5}
    figure, axes = claim_axes(
        "Claim: tens of samples don't solve a complex problem,\na few hundred can solve a simple one",
        "training pictures",
        "errors of guessing that are avoided (%)",
    )
    for colour, (name, skill) in zip((BLUE, GREEN), skills.items(), strict=True):
        plot_seeds(axes, [0, 1], skill, colour, name)
    axes.axhline(75, color="grey", linestyle=":", label="solved")
    axes.set(xticks=[0, 1], xticklabels=[TENS, HUNDREDS], xlim=(-0.3, 1.3), ylim=(-5, 103))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    effects = {name: [paired(values, ZERO) for values in skill] for name, skill in skills.items()}
    experiment(effects["shapes (complex)"][0], "errors of guessing avoided on shapes from 50 pictures", figure)
    experiment(effects["shapes (complex)"][1], "on shapes from 300")
    experiment(effects["digits (simple)"][0], "on digits from 50")
    experiment(effects["digits (simple)"][1], "on digits from 300")
    assert_effect(
        effects["shapes (complex)"][0], below=0.75, why="fifty pictures do not show what all fish have in common"
    )
    assert_effect(effects["digits (simple)"][1], above=0.75, why="digits are small, centred and without background")
