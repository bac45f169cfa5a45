"""Experiment: feature extraction from pictures as they are, and from ten augmented views of each (section 5.3.1).

The mini base's features of 400 `shapes` train the head of listing 5.18, with its dropout of one half, for the chapter's
30 epochs, in each of six seeds; the rate is that of the ladder's rung at mini. What differs is whether every epoch
shows the same features or those of the next of ten views, which listing 5.11's augmentation makes. As the base is
frozen, that is training end to end, but for ten views in turn in place of ever new ones. Overfitting is measured after
training as the accuracy on the training pictures themselves, without dropout, less that on 800 others.
"""

from functools import cache, partial

import keras
import numpy as np
import pytest
from builders import Learner, claim_axes, draw_parts, drawn_shapes, plot_seeds
from claims import Effect, Experiment, assert_effect, claim, paired, seeds

from convspec import features, models
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, View, identity
from convspec.data.shapes import SIZE
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe
from convspec.report.charts import BLUE, ORANGE

SEEDS, EPOCHS, TRAINING, TEST = seeds(6), 30, 400, 800
AUGMENTATIONS = {"views": CHAPTER_AUGMENTATION, "views that are all the same": Augmentation()}


@cache
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (SIZE, SIZE, 3))


def extract(pictures: Batches) -> Batches:
    output = np.concatenate(list(features.predict_batches(base(), pictures, 0)))
    return Batches(output, pictures.labels, pictures.batch_size, identity)


@cache
def extracted(seed: int) -> list[Batches]:
    """Return the features of training and test pictures as they are."""
    return [extract(part) for part in parts(seed)]


def parts(seed: int) -> list[Batches]:
    return draw_parts(drawn_shapes(2400, SIZE), seed, TRAINING, TEST)


@cache
def accuracies(views: int, augmentation: str = "views", seeds: int = len(SEEDS), epochs: int = EPOCHS) -> np.ndarray:
    """Return accuracies on training and test pictures, (2, seeds)."""
    recipe = find_recipe("feature_extraction", "mini")
    learner = Learner(partial(models.feature_classifier, base().output_shape[1:], recipe.dropout), recipe.learning_rate)
    results = np.zeros((2, seeds))
    for seed in range(seeds):
        pictures, (plain, test) = parts(seed)[0], extracted(seed)
        shown = [View(pictures, AUGMENTATIONS[augmentation], seed, number) for number in range(views)]
        steps = -(-TRAINING // pictures.batch_size)
        learner.train([extract(view) for view in shown] or plain, seed, steps, epochs=epochs)
        results[:, seed] = learner.accuracy(plain), learner.accuracy(test)
    return results


def gap(views: int) -> np.ndarray:
    """Return how much higher the accuracy is on the training pictures themselves than on test pictures, one a seed."""
    training, test = accuracies(views)
    return training - test


@pytest.mark.experiment
@claim(99, "5.3.1", "That's because this technique doesn't use data augmentation", "holds", kind="measured")
def test_extraction_overfits_for_lack_of_augmented_views(experiment: Experiment) -> None:
    """With views the training pictures are known no better than others; these are not known better for that."""
    figure, axes = claim_axes(
        "Claim: feature extraction overfits because it doesn't use data augmentation", "", "accuracy (%)"
    )
    values = np.stack([accuracies(views) for views in (0, 10)])
    plot_seeds(axes, [0, 1], values[:, 0], ORANGE, "training pictures", "--")
    plot_seeds(axes, [0, 1], values[:, 1], BLUE, "test pictures")
    axes.set(xticks=[0, 1], xticklabels=["features of the pictures", "features of ten views of each"], xlim=(-0.4, 1.4))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    without, beside, less = Effect(tuple(gap(0))), Effect(tuple(gap(10))), paired(gap(10), gap(0))
    experiment(less, "training over test accuracy, views over none", figure)
    experiment(without, "training over test accuracy without views")
    experiment(beside, "training over test accuracy with views")
    experiment(paired(accuracies(10)[1], accuracies(0)[1]), "test accuracy, views over none")
    assert_effect(without, above=0, why="400 pictures are few for 221,000 parameters")
    assert_effect(less, below=0, why="each epoch shows other features of a picture")
    assert_effect(beside, below=0.01, why="nothing else is left that would be overfitted")


@pytest.mark.experiment
@claim(98, "5.3.1", "you’re overfitting almost from the start", "qualified", kind="measured")
def test_after_3_epochs_extraction_knows_its_own_pictures_better(experiment: Experiment) -> None:
    """Without dropout, which what the chapter plots is measured with."""
    training, test = accuracies(0, epochs=3)
    experiment(early := paired(training, test), "training over test accuracy after 3 of 30 epochs, without dropout")
    assert_effect(early, above=0, why="400 pictures are few for 221,000 parameters")


@pytest.mark.experiment
@claim(99, "5.3.1", "That's because this technique doesn't use data augmentation", "holds", kind="measured")
def test_views_that_are_all_the_same_change_nothing(experiment: Experiment) -> None:
    """Augmentation off: features of the pictures themselves, twice."""
    same, none = accuracies(2, "views that are all the same", 5, 2), accuracies(0, seeds=5, epochs=2)
    effect = paired(same[1], none[1])
    experiment(effect, "test accuracy, two views that are the same over none")
    assert effect.mean == pytest.approx(0, abs=0.005)
