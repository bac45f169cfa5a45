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
from claims import Effect, Experiment, assert_effect, claim, paired, seeds
from experiments import Learner, claim_chart, draw_parts, drawn_shapes, gap

from convspec import features, models
from convspec.data.batches import Batches, View, identity
from convspec.data.shapes import SIZE
from convspec.ladder.rungs import CHAPTER_AUGMENTATION, find_recipe

pytestmark = pytest.mark.experiment

SEEDS, EPOCHS, TRAINING, TEST = seeds(6), 30, 400, 800


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
def accuracies(views: int, epochs: int = EPOCHS) -> np.ndarray:
    """Return accuracies on training and test pictures, (2, seeds)."""
    recipe = find_recipe("feature_extraction", "mini")
    learner = Learner(partial(models.feature_classifier, base().output_shape[1:], recipe.dropout), recipe.learning_rate)
    results = np.zeros((2, len(SEEDS)))
    for seed in SEEDS:
        pictures, (plain, test) = parts(seed)[0], extracted(seed)
        shown = [View(pictures, CHAPTER_AUGMENTATION, seed, number) for number in range(views)]
        steps = -(-TRAINING // pictures.batch_size)
        learner.train([extract(view) for view in shown] or plain, seed, steps, epochs=epochs)
        results[:, seed] = learner.accuracy(plain), learner.accuracy(test)
    return results


@claim(99, "5.3.1", "That's because this technique doesn't use data augmentation", "holds", kind="measured")
def test_extraction_overfits_for_lack_of_augmented_views(experiment: Experiment) -> None:
    """With views the training pictures are known no better than others; these are not known better for that."""
    title = "Claim: feature extraction overfits because it doesn't use data augmentation"
    plain, viewed = accuracies(0), accuracies(10)
    lines = dict(zip(("training pictures", "test pictures"), np.stack([plain, viewed], axis=1), strict=True))
    names = "features of the pictures", "features of ten views of each"
    figure = claim_chart(title, "", "accuracy (%)", range(2), lines, names)
    without, beside, less = Effect(tuple(gap(plain))), Effect(tuple(gap(viewed))), paired(gap(viewed), gap(plain))
    experiment(less, "training over test accuracy, views over none", figure)
    experiment(without, "training over test accuracy without views")
    experiment(beside, "training over test accuracy with views")
    experiment(paired(viewed[1], plain[1]), "test accuracy, views over none")
    assert_effect(without, above=0, why="400 pictures are few for 221,000 parameters")
    assert_effect(less, below=0, why="each epoch shows other features of a picture")
    assert_effect(beside, below=0.01, why="nothing else is left that would be overfitted")


@claim(98, "5.3.1", "you’re overfitting almost from the start", "qualified", kind="measured")
def test_after_3_epochs_extraction_knows_its_own_pictures_better(experiment: Experiment) -> None:
    """Without dropout, which what the chapter plots is measured with."""
    training, test = accuracies(0, epochs=3)
    experiment(early := paired(training, test), "training over test accuracy after 3 of 30 epochs, without dropout")
    assert_effect(early, above=0, why="400 pictures are few for 221,000 parameters")
