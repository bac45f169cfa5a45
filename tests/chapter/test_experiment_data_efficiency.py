"""Experiments: how many pictures a convnet and a dense network need (sections 5.1.1 and 5.2.1).

Both of the chapter's networks for digits, as they are, learn from 50, 100, 300 and 1,000 of scikit-learn's 1,797
digits; the other 797 are the test. The digits are enlarged from 8 x 8 to 20 x 20 pixels, about the smallest that the
convnet takes. The "complex problem" is `shapes`: forms of any pose before textures and clutter. Its convnet is that of
listing 5.5 with one convolution less, for 32 x 32 pixels. Training takes the same number of steps, 300 batches of 32,
for any number of pictures, and each seed draws its own.
"""

from functools import cache, partial

import numpy as np
import pytest
from builders import SHAPES_SIZE, Learner, all_digits, as_batches, claim_axes, draw_parts, drawn_shapes, plot_seeds
from claims import Experiment, assert_effect, claim, paired

from convspec import models
from convspec.report.charts import BLUE, GREEN, ORANGE

SEEDS, STEPS, SIZE = range(6), 300, 20
COUNTS = (50, 100, 300, 1000)
TENS, HUNDREDS = COUNTS[0], COUNTS[2]
NETWORKS = {
    "convnet": partial(models.mnist_convnet, (SIZE, SIZE, 1)),
    "dense network": partial(models.dense_baseline, (SIZE, SIZE, 1)),
}


@cache
def digit_accuracies(network: str, counts: tuple[int, ...] = COUNTS, shuffled: bool = False) -> np.ndarray:
    """Return test accuracies, (counts, seeds); `shuffled` pixels change places, in all pictures in the same way."""
    digits, labels = all_digits(SIZE)
    if shuffled:
        places = np.random.RandomState(0).permutation(SIZE * SIZE)
        digits = digits.reshape(len(digits), -1)[:, places].reshape(digits.shape)
    learner, accuracies = Learner(NETWORKS[network]), np.zeros((len(counts), len(SEEDS)))
    for seed in SEEDS:
        train, test = draw_parts((digits, labels), seed, COUNTS[-1], len(digits) - COUNTS[-1])
        for row, count in enumerate(counts):
            learner.train(as_batches(train.inputs[:count], train.labels[:count]), seed, STEPS)
            accuracies[row, seed] = learner.accuracy(test)
    return accuracies


def digits_needed(accuracy: float, curve: np.ndarray) -> float:
    """Return with how many digits a learning curve reaches an accuracy, from COUNTS's first to its last."""
    rising = np.maximum.accumulate(curve)
    return float(np.exp(np.interp(accuracy, rising, np.log(COUNTS))))


@pytest.mark.experiment
@claim(16, "5.1.1", "they need fewer training samples", "holds", kind="measured")
def test_a_convnet_needs_fewer_digits_than_a_dense_network(experiment: Experiment) -> None:
    """For the accuracy that the convnet has from 300 digits; at most 1,000, as that is all the dense network gets."""
    convnet, dense = (digit_accuracies(network) for network in NETWORKS)
    figure, axes = claim_axes(
        "Claim: convnets need fewer training samples", "training digits (logarithmic)", "test accuracy (%)"
    )
    for name, curve, colour in zip(NETWORKS, (convnet, dense), (BLUE, ORANGE), strict=True):
        plot_seeds(axes, COUNTS, curve, colour, name)
    axes.set(xscale="log", xticks=COUNTS, xticklabels=COUNTS)
    axes.minorticks_off()
    axes.legend(frameon=False)
    reached = convnet[COUNTS.index(HUNDREDS)]
    doublings = [
        np.log2(digits_needed(accuracy, curve) / HUNDREDS) for accuracy, curve in zip(reached, dense.T, strict=True)
    ]
    needed = paired(doublings, [0] * len(SEEDS), "doublings")
    experiment(needed, "digits that the dense network needs, over the convnet's 300", figure)
    for row, count in enumerate(COUNTS):
        experiment(paired(convnet[row], dense[row]), f"accuracy from {count} digits, convnet over dense network")
    assert_effect(needed, above=0, why="a filter learns from every place of every digit")


@pytest.mark.experiment
@claim(16, "5.1.1", "they need fewer training samples", "holds", kind="measured")
def test_the_convnets_advantage_goes_when_pixels_change_places(experiment: Experiment) -> None:
    """The same digits without their local patterns; a dense network cannot tell the difference."""
    gains = []
    for shuffled in (False, True):
        convnet, dense = (digit_accuracies(network, (HUNDREDS,), shuffled)[0] for network in NETWORKS)
        gains.append(convnet - dense)
    lost = paired(*gains)
    experiment(lost, "convnet's gain over the dense network from 300 digits, as they are over shuffled")
    assert_effect(lost, above=0, why="convolutions look for patterns of pixels that are neighbours")
    assert np.mean(gains[1]) < 0 or paired(gains[1], [0] * len(SEEDS)).p_value() >= 0.01


@cache
def shape_accuracies() -> np.ndarray:
    """Return test accuracies on `shapes`, (TENS and HUNDREDS, seeds)."""
    learner = Learner(partial(models.small_convnet, (SHAPES_SIZE, SHAPES_SIZE, 3), filters=(16, 32, 64)))
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
    digits, forms = digit_accuracies("convnet")[[0, 2]], shape_accuracies()
    skills = {"digits (simple)": (digits - 0.1) / 0.9, "shapes (complex)": (forms - 0.5) / 0.5}
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
    zero = [0.0] * len(SEEDS)
    tens_complex, hundreds_simple = (
        paired(values, zero) for values in (skills["shapes (complex)"][0], skills["digits (simple)"][1])
    )
    experiment(tens_complex, "errors of guessing avoided on shapes from 50 pictures", figure)
    experiment(hundreds_simple, "errors of guessing avoided on digits from 300 pictures")
    experiment(paired(skills["digits (simple)"][0], zero), "errors of guessing avoided on digits from 50 pictures")
    experiment(paired(skills["shapes (complex)"][1], zero), "errors of guessing avoided on shapes from 300 pictures")
    assert_effect(tens_complex, below=0.75, why="fifty pictures do not show what all fish have in common")
    assert_effect(hundreds_simple, above=0.75, why="digits are small, centred and without background")
