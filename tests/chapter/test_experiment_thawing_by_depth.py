"""Experiment: what thawing one, two, three and all blocks of a base brings, and costs (section 5.3.2).

As in the ladder at mini but for views: a head on the mini base, 180 steps of 20 pictures at 2e-4 with all frozen, then
240 at 1e-4 with none, one, two, three or four blocks thawed, from the top. The training pictures are 60, so that the
base's 199,000 parameters are 3,300 for each; the chapter's 14.7 million are 7,400 for each of 2,000. Gain: accuracy on
600 new pictures, over what the frozen base reaches in as many steps. Gap: accuracy on the training pictures less that
on the new ones. Each seed has 60 pictures of its own.
"""

from functools import cache

import keras
import numpy as np
import pytest
from builders import claim_axes, plot_seeds
from claims import LEVEL, Effect, Experiment, assert_effect, claim, paired
from matplotlib.figure import Figure

from convspec import backend, models, training
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.report.charts import BLUE, ORANGE

pytestmark = pytest.mark.experiment

SEEDS = range(8)
DEPTHS = range(5)  # number of thawed blocks
PICTURES, BATCH = 60, 20
HEAD, THAWED = (180, 2e-4), (240, 1e-4)  # steps and rate


@cache
def draw(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = shapes.pictures(shapes.TARGETS, per_class, seed)
    return rescale(images.astype(np.float32)), labels


class Lab:
    """A base with a head, cut before what is thawed: the trunk's outputs are computed once, what follows is trained."""

    def __init__(self, depth: int) -> None:
        backend.make_deterministic()
        base = models.conv_base("mini", models.MINI_WEIGHTS, (shapes.SIZE, shapes.SIZE, 3))
        trunk, top = models.cut_before(base, f"block{5 - depth}_conv1") if depth else (base, None)
        head = models.feature_classifier(base.output_shape[1:], dropout=0.0)
        self.model = keras.Sequential([keras.Input(trunk.output_shape[1:]), *([top] if top else []), *head.layers])
        self.seen = [
            trunk.predict(pictures, batch_size=100, verbose=0)
            for pictures in (draw(len(SEEDS) * PICTURES // 2, 5)[0], draw(300, 902)[0])
        ]
        training.compile_model(self.model, THAWED[1])
        self.model.optimizer.build(self.model.trainable_variables)
        self.untouched = top.get_weights() if top else []

    def train(self, head: list[np.ndarray], seed: int, steps: int, rate: float) -> None:
        """Train from a head on what the seed's pictures are behind the trunk."""
        self.model.set_weights([*self.untouched, *head])
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
        self.model.optimizer.learning_rate = rate
        rng, own = np.random.default_rng([seed, steps]), self.own(seed)
        chosen = np.concatenate([rng.permutation(own) for _ in range(steps * BATCH // PICTURES)])
        labels = draw(len(SEEDS) * PICTURES // 2, 5)[1]
        self.model.fit(self.seen[0][chosen], labels[chosen], batch_size=BATCH, shuffle=False, verbose=0)

    def accuracies(self, seed: int) -> tuple[float, float]:
        """Return the accuracy on the seed's pictures, and on new ones."""
        own = self.own(seed)
        parts = (self.seen[0][own], draw(len(SEEDS) * PICTURES // 2, 5)[1][own]), (self.seen[1], draw(300, 902)[1])
        found = [
            float(np.mean(training.predicted_classes(self.model.predict(inputs, batch_size=300, verbose=0)) == labels))
            for inputs, labels in parts
        ]
        return found[0], found[1]

    @staticmethod
    def own(seed: int) -> np.ndarray:
        return np.arange(seed * PICTURES, (seed + 1) * PICTURES)


lab = cache(Lab)


@cache
def trained_head(seed: int) -> list[np.ndarray]:
    """Return the head after training with all of the base frozen."""
    keras.utils.set_random_seed(seed)
    new = models.feature_classifier((3, 3, 96), dropout=0.0)
    lab(0).train(new.get_weights(), seed, *HEAD)
    return lab(0).model.get_weights()


@cache
def accuracies(depth: int, seed: int, rate: float) -> tuple[float, float]:
    """Return training and test accuracy with so many blocks thawed."""
    head = trained_head(seed)
    lab(depth).train(head, seed, THAWED[0], rate)
    return lab(depth).accuracies(seed)


def gains(depth: int, rate: float = THAWED[1]) -> list[float]:
    """Return the test accuracy over that of the frozen base, seed by seed."""
    return [accuracies(depth, seed, rate)[1] - accuracies(0, seed, rate)[1] for seed in SEEDS]


def gaps(depth: int) -> list[float]:
    """Return the training accuracy over the test accuracy, seed by seed."""
    return [one - other for one, other in (accuracies(depth, seed, THAWED[1]) for seed in SEEDS)]


def first_over_next(rate: float = THAWED[1]) -> Effect:
    """Return by how much the first block's gain exceeds the mean of what each further one adds."""
    first, last = gains(1, rate), gains(DEPTHS[-1], rate)
    return paired(first, [(all_ - one) / (DEPTHS[-1] - 1) for one, all_ in zip(first, last, strict=True)])


def chart() -> Figure:
    figure, axes = claim_axes(
        "Claim: thawing more blocks than the top one brings fast-decreasing\nreturns, and a risk of overfitting",
        "thawed blocks, from the top (0: only the head is trained)",
        "points of accuracy (%)",
    )
    plot_seeds(axes, DEPTHS, np.array([gains(depth) for depth in DEPTHS]), BLUE, "gain on new pictures, over 0 blocks")
    plot_seeds(
        axes, DEPTHS, np.array([gaps(depth) for depth in DEPTHS]), ORANGE, "gap, training less new pictures", "--"
    )
    axes.set_xticks(DEPTHS)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


@claim(109, "5.3.2", "fast-decreasing returns in fine-tuning lower layers", "holds", kind="measured")
def test_the_top_block_brings_more_than_each_further_one(experiment: Experiment) -> None:
    experiment(first := Effect(tuple(gains(1))), "test accuracy, top block thawed over none", chart())
    experiment(Effect(tuple(gains(4))), "test accuracy, all four blocks thawed over none")
    experiment(effect := first_over_next(), "gain of the top block over the mean of what each further one adds")
    assert_effect(first, above=0, why="the top block is the one made for other classes")
    assert_effect(effect, above=0, why="earlier blocks are of use as they are")


@claim(110, "5.3.2", "The more parameters you're training, the more", "qualified", kind="measured")
def test_thawing_all_blocks_overfits(experiment: Experiment) -> None:
    experiment(
        effect := paired(gaps(4), gaps(0)), "gap of training over test accuracy, all blocks thawed over none", chart()
    )
    assert_effect(effect, above=0, why="more parameters")


def test_thawing_without_training_brings_nothing() -> None:
    """The defect that thawed blocks stay as they are: the rate is 0."""
    assert first_over_next(rate=0.0).p_value() >= LEVEL
