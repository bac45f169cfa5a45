"""Experiment: is it necessary to freeze the base until the head is trained (sections 5.3.1 and 5.3.2)?

The network is that of listing 5.20 on the mini base, and its task is 600 of the ladder's pictures of fish and keys. A
stage is an epoch of listing 5.21: 100 steps of 20 pictures, by RMSprop, at the listing's rate of 2e-5, at ten times
that (the ladder's own at mini) or at a hundred times that. Compared are: all thawed under a random head; the base
frozen under the same head; all thawed under that head once it has been trained with the base frozen, by the ladder's
six epochs at 2e-4. "Destroying the representations previously learned" is what a linear probe on the base loses at
telling the 24 classes that it was trained on; a base with random weights shows what all of it would be. Without views
and dropout, so that only freezing differs. A seed draws the head's first weights and the order of the pictures.
"""

from functools import cache
from typing import Literal, NamedTuple

import keras
import numpy as np
import pytest
from builders import mini_base, recorded_runs
from claims import Effect, Evidence, Experiment, assert_effect, claim, paired, seeds
from experiments import claim_chart, one_hot_accuracy, ridge
from matplotlib.figure import Figure

from convspec import backend, models, training
from convspec.data import shapes
from convspec.data.batches import rescale

SEEDS = seeds(5)
RATES = (2e-5, 2e-4, 2e-3)
BATCH, STAGE, HEAD_STEPS, HEAD_RATE = 20, 100, 180, 2e-4
Way = Literal["thawed, random head", "frozen, random head", "thawed, trained head", "frozen, trained head"]
Kind = Literal["train", "test", "probe", "probed"]
WAYS: tuple[Way, ...] = ("thawed, random head", "thawed, trained head", "frozen, random head")


class Outcome(NamedTuple):
    """What training left."""

    accuracy: float  # on new pictures of fish and keys
    probe: float  # accuracy of a linear probe on the base, for the source classes
    drift: float  # of the base's weights, as a share of their norm


@cache
def draw(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    forms, per_class, seed = {
        "train": (shapes.TARGETS, 300, 5),
        "test": (shapes.TARGETS, 300, 902),
        "probe": (shapes.SOURCES, 20, 903),
        "probed": (shapes.SOURCES, 25, 901),
    }[kind]
    images, labels = shapes.pictures(forms, per_class, seed)
    return rescale(images.astype(np.float32)), labels


def see(base: keras.Model, kind: Kind) -> np.ndarray:
    return base.predict(draw(kind)[0], batch_size=100, verbose=0)


def probe(base: keras.Model) -> float:
    """Return what a linear probe on a base reaches at telling the source classes."""
    fitted = ridge(see(base, "probe"), see(base, "probed"))
    return one_hot_accuracy(fitted, draw("probe")[1], draw("probed")[1])


class Lab:
    """A base with a head, both compiled once: the whole, and the head alone on the base's maps."""

    def __init__(self) -> None:
        backend.make_deterministic()
        self.base = mini_base()
        self.untouched = self.base.get_weights()
        self.whole = models.end_to_end(self.base)
        self.head = keras.Sequential([keras.Input(self.base.output_shape[1:]), *self.whole.layers[1:]])
        for model in (self.whole, self.head):
            training.compile_model(model, HEAD_RATE)
        self.maps, self.new_maps = (see(self.base, kind) for kind in ("train", "test"))
        self.probe = probe(self.base)

    def train(self, thawed: bool, seed: int, steps: int, rate: float) -> None:
        """Train everything, or the head alone, which is the same with the base frozen."""
        model, inputs = (self.whole, draw("train")[0]) if thawed else (self.head, self.maps)
        for variable in model.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
        model.optimizer.learning_rate = rate
        rng, labels = np.random.default_rng(seed), draw("train")[1]
        order = np.concatenate([rng.permutation(len(labels)) for _ in range(1 + steps * BATCH // len(labels))])
        chosen = order[: steps * BATCH]
        model.fit(inputs[chosen], labels[chosen], batch_size=BATCH, shuffle=False, verbose=0)

    def judge(self, thawed: bool) -> Outcome:
        maps, reached = (see(self.base, "test"), probe(self.base)) if thawed else (self.new_maps, self.probe)
        right = training.predicted_classes(self.head.predict(maps, batch_size=100, verbose=0)) == draw("test")[1]
        moved, norm = (
            np.sqrt(sum(np.sum(np.square(weight)) for weight in weights))
            for weights in (
                [now - before for now, before in zip(self.base.get_weights(), self.untouched, strict=True)],
                self.untouched,
            )
        )
        return Outcome(float(np.mean(right)), reached, float(moved / norm))


lab = cache(Lab)


@cache
def first_head(trained: bool, seed: int) -> list[np.ndarray]:
    """Return random weights of the head, or what training with the base frozen makes of them."""
    if not trained:
        keras.utils.set_random_seed(seed)
        return models.feature_classifier(lab().base.output_shape[1:]).get_weights()
    lab().head.set_weights(first_head(False, seed))
    lab().train(False, 1000 + seed, HEAD_STEPS, HEAD_RATE)
    return lab().head.get_weights()


@cache
def outcome(way: Way, rate: float, seed: int) -> Outcome:
    """Return what a stage of training leaves."""
    thawed = "thawed" in way
    lab().base.set_weights(lab().untouched)
    lab().head.set_weights(first_head("trained head" in way, seed))
    lab().train(thawed, seed, STAGE, rate)
    return lab().judge(thawed)


@cache
def random_base() -> float:
    """Return what the probe reaches on a base that has learned nothing."""
    keras.utils.set_random_seed(0)
    return probe(mini_base(weights=None))


def values(measure: str, way: Way, rate: float) -> list[float]:
    """Return a measure of a way of training, seed by seed."""
    return [getattr(outcome(way, rate, seed), measure) for seed in SEEDS]


def compare(measure: str, rate: float, one: Way, other: Way) -> Effect:
    """Return by how much one way of training leaves more than another."""
    return paired(values(measure, one, rate), values(measure, other, rate))


def chart(title: str, measure: str, ylabel: str, lines: dict[str, float]) -> Figure:
    xlabel, ways = "learning rate of the stage", {way: [values(measure, way, rate) for rate in RATES] for way in WAYS}
    figure = claim_chart(title, xlabel, ylabel, RATES, ways, log=True)
    for axes, (label, value) in zip(figure.axes * len(lines), lines.items(), strict=True):
        axes.axhline(100 * value, color="black", linewidth=0.8)
        axes.annotate(label, (0.01, 100 * value), (0, 3), xycoords=axes.get_yaxis_transform(), fontsize=8,
                      textcoords="offset points")  # fmt: skip
    return figure


def lost(way: Way, rate: float) -> Effect:
    """Return the share that is lost of what the base says of its classes more than a random one, seed by seed."""
    before, nothing = lab().probe, random_base()
    return Effect(tuple((before - probe) / (before - nothing) for probe in values("probe", way, rate)))


def probe_chart() -> Figure:
    return chart(
        "Claim: unless the base is frozen until the head is trained,\nwhat it has learned is destroyed",
        "probe",
        "source classes told by a\nprobe on the base (%)",
        {"the base before": lab().probe, "a random base": random_base()},
    )


@pytest.mark.experiment
@pytest.mark.slow
@claim(103, "5.3.1", "effectively destroying the representations previously learned", "refuted", kind="measured")
def test_a_random_head_does_not_destroy_a_thawed_base_at_2e_5(experiment: Experiment) -> None:
    """At the listing's rate, in the first of its thirty epochs; and the network as a whole is the better for it."""
    effects = {rate: lost("thawed, random head", rate) for rate in RATES}
    for rate, effect in effects.items():
        experiment(effect, f"lost of what the base knew, all thawed under a random head, rate {rate:g}",
                   probe_chart() if rate == RATES[0] else None)  # fmt: skip
    gains = {rate: compare("accuracy", rate, "thawed, random head", "frozen, random head") for rate in RATES}
    figure = chart(
        "Claim: unless the base is frozen until the head is trained,\nthe network is the worse for it",
        "accuracy",
        "new pictures of fish and keys: accuracy (%)",
        {},
    )
    for rate, effect in gains.items():
        experiment(effect, f"test accuracy, all thawed over frozen under the same random head, rate {rate:g}",
                   figure if rate == RATES[0] else None)  # fmt: skip
    assert_effect(effects[2e-5], below=0.1, why="updates are as small as the rate, whatever the error")
    assert_effect(gains[2e-5], above=0, why="base and head learn together")


@pytest.mark.experiment
@pytest.mark.slow
@claim(107, "5.3.2", "once the classifier on top has already been trained", "qualified", kind="measured")
def test_a_trained_head_spares_the_base_something_but_is_no_condition(experiment: Experiment) -> None:
    """Though the trained head has had 180 steps more, which favours it in accuracy."""
    for rate in RATES:
        experiment(
            kept := compare("probe", rate, "thawed, trained head", "thawed, random head"),
            f"source classes by a probe on the base, thawed under a trained over a random head, rate {rate:g}",
            probe_chart() if rate == RATES[0] else None,
        )
        ahead = compare("accuracy", rate, "thawed, trained head", "thawed, random head")
        experiment(ahead, f"test accuracy, thawed under a trained over a random head, rate {rate:g}")
        if rate == 2e-5:
            assert_effect(ahead, below=0.05, why="a random head begins behind, and no more")
        if rate == 2e-4:
            assert_effect(kept, above=0, why="smaller errors move the base less")


@pytest.mark.experiment
@pytest.mark.slow
@claim(111, "5.3.2", "Updates that are too large may harm these representations", "holds", kind="measured")
def test_a_hundred_times_the_rate_harms_the_base_under_any_head(experiment: Experiment) -> None:
    for way in ("thawed, trained head", "thawed, random head"):
        experiment(harm := lost(way, 2e-3), f"lost of what the base knew, {way}, rate 0.002", probe_chart())
        assert_effect(harm, above=0.1, why="the drift grows with the rate")
        drifts = [np.mean(values("drift", way, rate)) for rate in RATES]
        assert drifts == sorted(drifts)


@claim(103, "5.3.1", "effectively destroying the representations previously learned", "refuted", kind="recorded")
def test_training_thawed_under_a_random_head_beats_the_frozen_base(evidence: Evidence) -> None:
    """VGG16 on Dogs vs. Cats as in listing 5.21, but thawed from the start: its end against the frozen one's best."""
    runs = recorded_runs("full", "GPU")
    thawed = [float(np.mean(run.history["val_accuracy"][-10:])) for run in runs["frozen_end_to_end_trainable"]]
    frozen = [max(run.history["val_accuracy"]) for run in runs["frozen_end_to_end"]]
    evidence(
        f"validation {min(thawed):.3f} to {max(thawed):.3f} thawed, frozen at best {max(frozen):.3f}, 3 seeds each"
    )
    assert min(thawed) > max(frozen) + 0.05
