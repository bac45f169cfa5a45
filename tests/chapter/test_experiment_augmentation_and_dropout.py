"""Experiment: augmentation and dropout, each alone and both together (section 5.2.5).

The convnet is that of listings 5.5 and 5.13 with three convolutions and a quarter of the filters, for `shapes` of
32 x 32; dropout of one half stands before its head, and augmentation is listing 5.11's. As in the chapter training
takes 100 epochs, here of 300 pictures in batches of 32, in each of five seeds. Overfitting is measured after training
as the accuracy on the training pictures themselves, neither augmented nor with dropout, less that on 800 others; and as
the chapter's figures show it, on what the network was trained on in the last ten epochs.
"""

from functools import cache, partial

import numpy as np
import pytest
from claims import Effect, Experiment, assert_effect, claim, paired, seeds
from experiments import SHAPES_SIZE, Learner, claim_chart, draw_parts, drawn_shapes, gap
from matplotlib.figure import Figure

from convspec import models
from convspec.data.augmentation import Augmentation
from convspec.ladder.rungs import CHAPTER_AUGMENTATION

pytestmark = [pytest.mark.experiment, pytest.mark.slow]

SEEDS, EPOCHS, STEPS, TRAINING, TEST = seeds(5), 100, 9, 300, 800
TREATMENTS = ((None, 0.0), (None, 0.5), (CHAPTER_AUGMENTATION, 0.0), (CHAPTER_AUGMENTATION, 0.5))
NEITHER, DROPOUT, AUGMENTED, BOTH = TREATMENTS


@cache
def learner(dropout: float) -> Learner:
    return Learner(partial(models.small_convnet, (SHAPES_SIZE, SHAPES_SIZE, 3), dropout, filters=(8, 16, 32)))


@cache
def accuracies(augmentation: Augmentation | None, dropout: float) -> np.ndarray:
    """Return accuracies on training pictures, on what was trained on at the end, and on test pictures, (3, seeds)."""
    network, results = learner(dropout), np.zeros((3, len(SEEDS)))
    for seed in SEEDS:
        train, test = draw_parts(drawn_shapes(4 * (TRAINING + TEST)), seed, TRAINING, TEST)
        history = network.train(train, seed, STEPS, epochs=EPOCHS, augmentation=augmentation)
        results[:, seed] = network.accuracy(train), np.mean(history["accuracy"][-10:]), network.accuracy(test)
    return results


def held_out(treatment: tuple[Augmentation | None, float]) -> np.ndarray:
    """Return the accuracy on test pictures, one a seed."""
    return accuracies(*treatment)[2]


def overfit(treatment: tuple[Augmentation | None, float]) -> np.ndarray:
    return gap(accuracies(*treatment))


def chart() -> Figure:
    """Draw the three accuracies of each treatment."""
    parts = "training pictures themselves", "training as the figures plot it", "test pictures"
    lines = dict(zip(parts, np.stack([accuracies(*each) for each in TREATMENTS], axis=1), strict=True))
    title = "Claim: augmentation fights overfitting, but doesn't end it; dropout fights it further"
    names = "neither", "dropout", "augmentation", "augmentation\nand dropout"
    return claim_chart(title, "", "accuracy (%)", range(4), lines, names, joined=False)


@claim(66.5, "5.2.5", "expose the model to more aspects ... and generalize better", "holds", kind="measured")
def test_augmented_pictures_make_the_network_right_more_often(experiment: Experiment) -> None:
    """By some four points of new pictures: five seeds may be too few to tell, ten are not."""
    experiment(effect := paired(held_out(AUGMENTED), held_out(NEITHER)), "test accuracy, augmentation over neither")
    assert_effect(effect, above=0, why="no picture is seen twice as it is")


@claim(68.5, "5.2.5", "may not be enough to completely get rid of overfitting", "holds", kind="measured")
def test_augmentation_alone_fights_overfitting_but_doesnt_end_it(experiment: Experiment) -> None:
    less, left = paired(overfit(AUGMENTED), overfit(NEITHER)), Effect(tuple(overfit(AUGMENTED)))
    experiment(less, "training over test accuracy, augmentation over neither", chart())
    experiment(left, "training over test accuracy with augmentation alone")
    assert_effect(less, below=-0.1, why="no picture is seen twice as it is")
    assert_effect(left, above=0, why="views of one picture are intercorrelated")


@claim(69, "5.2.5", "To further fight overfitting, you'll also add a Dropout layer", "qualified", kind="measured")
def test_dropout_fights_overfitting_alone_and_less_beside_augmentation(experiment: Experiment) -> None:
    """Beside augmentation it costs accuracy after 100 epochs of 300 pictures: both make learning slower."""
    alone, beside = paired(held_out(DROPOUT), held_out(NEITHER)), paired(held_out(BOTH), held_out(AUGMENTED))
    gap_alone, gap_beside = paired(overfit(DROPOUT), overfit(NEITHER)), paired(overfit(BOTH), overfit(AUGMENTED))
    experiment(alone, "test accuracy, dropout over neither")
    experiment(gap_alone, "training over test accuracy, dropout over neither")
    experiment(beside, "test accuracy, both over augmentation")
    experiment(gap_beside, "training over test accuracy, both over augmentation")
    assert_effect(gap_alone, below=0, why="units cannot rely on each other")
    assert_effect(alone, above=0, why="the network is an average of many")
    assert_effect(paired(beside.values, alone.values), below=0, why="augmentation has done that work already")


@claim(72.5, "5.2.5", "augmentation and dropout, you're no longer overfitting", "refuted", kind="measured")
def test_with_both_the_training_pictures_are_still_known_better(experiment: Experiment) -> None:
    """The figures plot the accuracy with dropout, on augmented pictures, which makes overfitting look less."""
    training, plotted, test = accuracies(*BOTH)
    known, less = paired(training, test), paired(overfit(BOTH), overfit(NEITHER))
    experiment(known, "training over test accuracy with both")
    experiment(paired(plotted, test), "the same as the figures plot it")
    experiment(less, "training over test accuracy, both over neither")
    assert_effect(less, below=-0.1, why="that is what both are for")
    assert_effect(known, above=0, why="300 pictures are few")
    of_dropout, as_plotted, _ = accuracies(*DROPOUT)
    assert_effect(paired(as_plotted, of_dropout), below=0, why="half the units are missing while it is measured")
