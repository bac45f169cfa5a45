"""Experiment: what thawing one, two, three and all blocks of a base brings, and costs (section 5.3.2).

As in the ladder at mini but for views: a head on the mini base, 180 steps of 20 pictures at 2e-4 with all frozen, then
180 at 1e-4 with none, one, two, three or four blocks thawed, from the top. The training pictures are 60, so that the
base's 199,000 parameters are 3,300 for each; the chapter's 14.7 million are 7,400 for each of 2,000. Gain: accuracy on
600 new pictures, over what the frozen base reaches in as many steps. Gap: accuracy on the training pictures less that
on the new ones. Each seed has 60 pictures of its own.
"""

from functools import cache

import keras
import numpy as np
import pytest
from builders import mini_base
from claims import Effect, Experiment, assert_effect, claim, paired, seeds
from experiments import claim_chart
from matplotlib.figure import Figure

from convspec import backend, models, training
from convspec.data import shapes
from convspec.data.batches import rescale

pytestmark = [pytest.mark.experiment, pytest.mark.slow]

SEEDS = seeds(5)
DEPTHS = range(5)  # number of thawed blocks
PICTURES, BATCH = 60, 20
POOL = max(10, len(SEEDS)) * PICTURES // 2  # a class: the same pictures for any number of seeds up to ten
HEAD, THAWED = (180, 2e-4), (180, 1e-4)  # steps and rate


@cache
def draw(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = shapes.pictures(shapes.TARGETS, per_class, seed)
    return rescale(images.astype(np.float32)), labels


class Lab:
    """A base with a head, cut before what is thawed: the trunk's outputs are computed once, what follows is trained."""

    def __init__(self, depth: int) -> None:
        backend.make_deterministic()
        base = mini_base()
        trunk, top = models.cut_before(base, f"block{5 - depth}_conv1") if depth else (base, None)
        head = models.feature_classifier(base.output_shape[1:], dropout=0.0)
        self.model = keras.Sequential([keras.Input(trunk.output_shape[1:]), *([top] if top else []), *head.layers])
        self.seen = [
            trunk.predict(pictures, batch_size=100, verbose=0) for pictures in (draw(POOL, 5)[0], draw(300, 902)[0])
        ]
        training.compile_model(self.model, THAWED[1])
        self.untouched = top.get_weights() if top else []

    def train(self, head: list[np.ndarray], seed: int, steps: int, rate: float) -> None:
        """Train from a head on what the seed's pictures are behind the trunk."""
        self.model.set_weights([*self.untouched, *head])
        for variable in self.model.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        self.model.optimizer.learning_rate = rate
        rng, labels = np.random.default_rng([seed, steps]), draw(POOL, 5)[1]
        if steps:
            chosen = np.concatenate([rng.permutation(self.own(seed)) for _ in range(steps * BATCH // PICTURES)])
            self.model.fit(self.seen[0][chosen], labels[chosen], batch_size=BATCH, shuffle=False, verbose=0)

    def accuracies(self, seed: int) -> tuple[float, float]:
        """Return the accuracy on the seed's pictures, and on new ones."""
        own = self.own(seed)
        parts = (self.seen[0][own], draw(POOL, 5)[1][own]), (self.seen[1], draw(300, 902)[1])
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
def accuracies(depth: int, seed: int, steps: int, rate: float) -> tuple[float, float]:
    """Return training and test accuracy with so many blocks thawed."""
    lab(depth).train(trained_head(seed), seed, steps, rate)
    return lab(depth).accuracies(seed)


def gains(depth: int, steps: int = THAWED[0], rate: float = THAWED[1]) -> Effect:
    """Return the test accuracy over that of the frozen base."""
    one, other = ([accuracies(blocks, seed, steps, rate)[1] for seed in SEEDS] for blocks in (depth, 0))
    return paired(one, other)


def gaps(depth: int) -> list[float]:
    """Return the training accuracy over the test accuracy, seed by seed."""
    return [one - other for one, other in (accuracies(depth, seed, *THAWED) for seed in SEEDS)]


def chart() -> Figure:
    lines = {
        "gain on new pictures, over 0 blocks": [gains(depth).values for depth in DEPTHS],
        "gap, training less new pictures": [gaps(depth) for depth in DEPTHS],
    }
    title = "Claim: thawing more blocks than the top one brings fast-decreasing\nreturns, and a risk of overfitting"
    return claim_chart(title, "thawed blocks, from the top", "points of accuracy (%)", DEPTHS, lines)


@claim(109, "5.3.2", "fast-decreasing returns in fine-tuning lower layers", "holds", kind="measured")
def test_the_top_block_returns_half_a_point_and_the_lower_ones_less(experiment: Experiment) -> None:
    """Where the frozen base has 96 %, as the chapter's, whose gain is one point."""
    for depth in DEPTHS[1:]:
        experiment(gains(depth), f"test accuracy, {depth} blocks thawed over none", chart() if depth == 1 else None)
    top, lower = gains(1), paired(gains(4).values, gains(1).values)
    experiment(lower, "test accuracy, all blocks thawed over the top one")
    assert_effect(top, above=0, below=0.01, why="the base's classes are much like the new ones")
    assert_effect(paired(lower.values, top.values), below=0, why="lower blocks have what any picture needs already")


@claim(110, "5.3.2", "The more parameters you're training, the more", "cannot tell", kind="measured")
def test_where_all_pictures_are_known_thawing_changes_the_gap_little(experiment: Experiment) -> None:
    """Of 60 pictures all are right in training with any number of blocks: of overfitting this can't tell."""
    assert min(accuracies(depth, seed, *THAWED)[0] for depth in (0, 4) for seed in SEEDS) > 0.98, "not all are known"
    effect = paired(gaps(4), gaps(0))
    experiment(effect, "gap of training over test accuracy, all blocks thawed over none", chart())
    assert_effect(effect, above=-0.01, below=0.01, why="small updates leave the base about as it is")


def test_blocks_that_are_not_trained_gain_nothing() -> None:
    """The defect that thawed blocks stay as they are."""
    assert gains(4, steps=0).mean == pytest.approx(0, abs=0.002)


def test_a_hundred_times_the_rate_loses_points_with_all_blocks_thawed() -> None:
    """The defect that updates are large: 30 steps suffice."""
    assert_effect(gains(4, steps=30, rate=1e-2), below=-0.01, why="the blocks forget what they were trained for")
