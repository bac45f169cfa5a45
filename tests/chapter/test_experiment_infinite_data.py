"""Experiment: the same training with ever more pictures, up to new ones in each step (section 5.2.5).

`shapes` are drawn, so that there is no end of them. The convnet is that of listing 5.5 with three convolutions and a
quarter of its filters, for pictures of 32 x 32. It takes 300 steps of 32 pictures, 9,600 in all, in each of five seeds:
from 300 pictures, each seen 32 times, from 1,700, or from 9,600, of which none is seen twice. Overfitting is measured
after training as the accuracy on its pictures, at most 2,400 of them, less that on 2,400 others.
"""

from functools import cache, partial

import numpy as np
import pytest
from claims import Effect, Experiment, assert_control, assert_effect, claim, paired, seeds
from experiments import SHAPES_SIZE, Learner, as_batches, claim_chart, draw_parts, drawn_shapes, gap

from convspec import models

pytestmark = [pytest.mark.experiment, pytest.mark.slow]

SEEDS, STEPS, TEST = seeds(5), 300, 2400
NEW, COUNTS = STEPS * 32, (300, 1700, STEPS * 32)


@cache
def learner() -> Learner:
    return Learner(partial(models.small_convnet, (SHAPES_SIZE, SHAPES_SIZE, 3), filters=(8, 16, 32)))


@cache
def accuracies(count: int, copies: int = 1) -> np.ndarray:
    """Return the accuracy on training and test pictures, (2, seeds), from `count` pictures, each in `copies`."""
    results = np.zeros((2, len(SEEDS)))
    for seed in SEEDS:
        pool, test = draw_parts(drawn_shapes(NEW + TEST), seed, NEW, TEST)
        chosen = np.tile(np.arange(count), copies)
        train, judged = (as_batches(pool.inputs[part], pool.labels[part]) for part in (chosen, chosen[:TEST]))
        learner().train(train, seed, STEPS)
        results[:, seed] = learner().accuracy(judged), learner().accuracy(test)
    return results


@claim(65, "5.2.5", "Given infinite data, ... you would never overfit", "holds", kind="measured")
@claim(65.5, "5.2.5", "Overfitting is caused by having too few samples", "holds", kind="measured")
def test_with_new_pictures_in_each_step_nothing_is_overfitted(experiment: Experiment) -> None:
    title, xlabel = "Claim: given infinite data, you would never overfit", f"different pictures in {STEPS} steps of 32"
    both = np.stack([accuracies(count) for count in COUNTS], axis=1)
    lines = dict(zip(("pictures of the training", "other pictures"), both, strict=True))
    figure = claim_chart(title, xlabel, "accuracy (%)", COUNTS, lines, log=True)
    few, many, new = (Effect(tuple(gap(accuracies(count)))) for count in COUNTS)
    experiment(new, "training over test accuracy, all pictures new", figure)
    experiment(few, "training over test accuracy, 300 pictures again and again")
    experiment(many, "training over test accuracy, 1,700 pictures again and again")
    assert_effect(new, above=-0.03, below=0.03, why="what was trained on is a sample as any other")
    assert_effect(few, above=0.03, why="three hundred pictures can be learned by heart")
    assert_effect(paired(few.values, many.values), above=0, why="more pictures are harder to learn by heart")


@claim(65, "5.2.5", "Given infinite data, ... you would never overfit", "holds", kind="measured")
def test_copies_of_pictures_are_no_new_data(experiment: Experiment) -> None:
    """9,600 pictures that are 300 under other numbers: overfitted as much as those 300."""
    effect = paired(copied := gap(accuracies(300, copies=32)), gap(accuracies(300)))
    experiment(effect, "training over test accuracy, 32 copies of 300 pictures over 300 pictures")
    assert_control(effect, of_data := paired(copied, gap(accuracies(NEW))))
    assert_effect(of_data, above=0, why="copies are not new")
