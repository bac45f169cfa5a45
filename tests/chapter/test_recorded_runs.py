"""Claims about the accuracies and curves of whole trainings on the real pictures.

Runs at full of this session are judged where there are any, else those in fixtures/baselines, as recorded evidence.
"""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from builders import recorded_runs
from claims import LEVEL, Evidence, Kind, claim
from scipy import stats
from sklearn.svm import SVC

from convspec.accuracy import statistics
from convspec.data.datasets import load_dataset
from convspec.ladder.result import Result
from convspec.ladder.rungs import RECIPES, RUNGS, find_recipe
from convspec.plugin.session import Session
from convspec.report import claims as claims_module
from convspec.report import tables
from convspec.training import smooth_curve

RUNS = recorded_runs("full")


class Full:
    """Runs at full by rung, of this session or recorded, and evidence of the kind that they are."""

    def __init__(self, session: Session, evidence: Evidence) -> None:
        self._session, self._evidence = session, evidence
        self._kinds: set[Kind] = set()

    def __call__(self, rung: str) -> list[Result]:
        """Return the runs of a rung: those of this session, else the recorded ones."""
        here = self.of_this_session(rung)
        self._kinds.add("measured" if here else "recorded")
        return here or RUNS[rung]

    def of_this_session(self, rung: str) -> list[Result]:
        """Return the runs of a rung that this session trained at full on the chapter's pictures."""
        recipe = find_recipe(rung, "full")
        runs = self._session.runs.get(rung, ())
        return [run for run in runs if run.recipe == recipe and run.dataset["name"] == recipe.dataset]

    @property
    def kind(self) -> Kind:
        """Whether all runs that were asked for are of this session."""
        return "measured" if self._kinds == {"measured"} else "recorded"

    def judge(self, rung: str, part: str = "validation", published_for: str = "") -> claims_module.Verdict:
        """Return whether the published accuracy of a rung is reproduced, with the numbers as evidence.

        `published_for` names the rung that it was published for, where that is another one.
        """
        published = find_recipe(published_for or rung, "full").published
        runs = [replace(run, recipe=replace(run.recipe, published=published)) for run in self(rung)]
        figure = claims_module.judge(runs, part)
        best = f" (best epoch {figure.best:.3f})" if figure.best else ""
        seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        self.show(
            f"{rung} {part} {figure.measured:.3f}{best}, another run {figure.low:.3f} to {figure.high:.3f}, {seeds},"
            f" published {tables.format_range(*published[part])}: {figure.verdict}"
        )
        return figure.verdict

    def show(self, line: str) -> None:
        """Record a line of evidence."""
        self._evidence(line, self.kind)


@pytest.fixture
def full(convspec_session: Session, evidence: Evidence) -> Full:
    return Full(convspec_session, evidence)


def last_epochs(run: Result, metric: str = "val_accuracy") -> np.ndarray:
    """Return a metric in the last ten epochs, whose mean is where a run ends."""
    return np.array(run.history[metric][-claims_module.LAST :])


def title(run: Result) -> str:
    """Return the seed of a run, and the backend, where the same seed gives other weights."""
    return f"seed {run.seed} on {run.machine['backend']}"


@pytest.mark.parametrize("rung", RUNGS)
def test_a_run_with_the_chapters_schedule_is_recorded(rung: str) -> None:
    assert {len(run.history["loss"]) for run in RUNS[rung]} == {find_recipe(rung, "full").epochs}


def test_every_recorded_run_was_tested_on_all_test_pictures() -> None:
    for run in chain(*RUNS.values()):
        assert len(run.test_names) == {"mnist": 10_000}.get(run.dataset["name"], 1000)


def test_seeds_scatter_no_more_in_validation_than_chance_over_the_pictures() -> None:
    """Which is what the range of another run rests on where there is one seed; by a chi-square test at 0.01."""
    groups = [runs for scale in RECIPES for runs in recorded_runs(scale).values() if len(runs) > 2]
    groups = [runs for runs in groups if "val_accuracy" in runs[0].history]
    assert len(groups) >= 6
    for runs in groups:
        ends = [last_epochs(run).mean() for run in runs]
        mean = np.mean(ends)
        chance = mean * (1 - mean) / runs[0].dataset["pictures"]["validation"]
        assert stats.chi2.sf((len(ends) - 1) * np.var(ends, ddof=1) / chance, len(ends) - 1) > 0.01


def test_runs_of_this_session_are_judged_in_the_place_of_recorded_ones() -> None:
    recorded, lines = RUNS["feature_extraction"][0], []
    here = replace(recorded, history=recorded.history | {"val_accuracy": [0.8] * 30})
    stub = SimpleNamespace(runs={"feature_extraction": [here], "from_scratch": [replace(here, recipe=here.recipe)]})
    full = Full(cast(Session, stub), lambda line, kind=None: lines.append((line, kind)))
    assert full.judge("feature_extraction") == "not reproduced"
    assert full("from_scratch") == RUNS["from_scratch"], "what is not of its recipe does not count"
    full.show("both")
    assert [kind for _, kind in lines] == ["measured", "recorded"]
    assert lines[0][0].startswith("feature_extraction validation 0.800 (best epoch 0.800), another run 0.76")


# Published accuracies.


@pytest.mark.parametrize(("rung", "part"), [
    pytest.param("dense_baseline", "test", marks=claim(
        10, "5.1", "our test accuracy then was 97.8%", "holds", kind="recorded")),
    pytest.param("mnist_convnet", "test", marks=claim(
        11, "5.1", "the basic convnet has a test accuracy of 99.3%", "qualified", kind="recorded")),
    pytest.param("from_scratch", "validation", marks=claim(
        64, "5.2", "a classification accuracy of 71%", "cannot tell", kind="recorded")),
    pytest.param("feature_extraction", "validation", marks=claim(
        97, "5.3.1", "a validation accuracy of about 90%", "holds", kind="recorded")),
])  # fmt: skip
def test_the_published_accuracy_is_what_runs_give(
    rung: str, part: str, full: Full, request: pytest.FixtureRequest
) -> None:
    """Of a claim that is marked "cannot tell", runs of this session may tell more, but not that it is wrong.

    One is qualified: 99.3 % is in the prose alone, and the output's 0.9908 is what runs give.
    """
    marked, verdict = request.node.get_closest_marker("claim").args[0].verdict, full.judge(rung, part)
    if full.kind == "recorded" or marked == "holds":
        assert verdict == {"holds": "reproduced", "qualified": "reproduced"}.get(marked, marked)
    assert verdict != "not reproduced"


@claim(74, "5.2.5", "You now reach an accuracy of 82%", "qualified", kind="recorded")
def test_augmented_has_82_percent_in_its_mean_best_epoch_not_at_its_end(full: Full) -> None:
    """The best epoch of a hundred is 1 to 4 points above the mean of the last ten; in one run of five it has 81.5 %."""
    best = [max(run.history["val_accuracy"]) for run in full("augmented")]
    full.show(f"best epochs {min(best):.3f} to {max(best):.3f}")
    assert min(best) > 0.81
    assert np.mean(best) > 0.82
    verdict = full.judge("augmented")
    assert verdict == "not reproduced" or full.kind == "measured"


@claim(10.5, "5.1", "its accuracy will blow out of the water that", "holds", kind="recorded")
def test_every_convnet_beats_every_dense_network(full: Full) -> None:
    dense, convnet = ([1 - run.test_accuracy for run in full(rung)] for rung in ("dense_baseline", "mnist_convnet"))
    full.show(f"errors {min(convnet):.4f} to {max(convnet):.4f}, dense {min(dense):.4f} to {max(dense):.4f}")
    assert max(convnet) < min(dense)


@claim(12, "5.1", "we decreased the error rate by 68% (relative)", "refuted", kind="recorded")
def test_the_errors_fall_by_less_than_68_percent_between_any_two_seeds(full: Full) -> None:
    """0.993 is not what the chapter's own output says: 0.9908, which makes it 58 %."""
    dense, convnet = ([1 - run.test_accuracy for run in full(rung)] for rung in ("dense_baseline", "mnist_convnet"))
    full.show(
        f"errors fall by {1 - np.mean(convnet) / np.mean(dense):.0%}, at most {1 - min(convnet) / max(dense):.0%}"
    )
    assert 1 - min(convnet) / max(dense) < 0.68


# From scratch, figures 5.9 and 5.10.


@claim(78, "5.2.1", "will still yield reasonable results despite a relative lack", "holds", kind="recorded")
def test_training_from_scratch_on_2000_pictures_is_far_above_chance(full: Full) -> None:
    """Beyond chance in 1,000 test pictures, a fifth of the errors that guessing makes are avoided, and more."""
    for run in full("from_scratch"):
        right = int(np.sum(np.equal(run.predicted, run.test_labels)))
        full.show(f"{title(run)}: {run.test_accuracy:.3f} of {len(run.predicted)} test pictures, where chance has 0.5")
        assert stats.binomtest(right, len(run.predicted), 0.6, alternative="greater").pvalue < LEVEL


@claim(61, "5.2.4", "increases linearly over time, until it reaches nearly 100%", "qualified", kind="recorded")
def test_from_scratch_training_nears_its_limits_and_the_loss_linearly(full: Full) -> None:
    """The loss falls as fast in the second half as in the first; the accuracy rises ever slower."""
    for run in full("from_scratch"):
        accuracy, loss = np.array(run.history["accuracy"]), np.array(run.history["loss"])
        halves = {
            name: [np.polyfit(np.arange(15), half, 1)[0] for half in np.split(curve, 2)]
            for name, curve in (("accuracy", accuracy), ("loss", loss))
        }
        slower = {name: first / second for name, (first, second) in halves.items()}
        full.show(
            f"{title(run)}: accuracy ends at {accuracy[-1]:.3f}, {slower['accuracy']:.1f} times slower in the second"
            f" half; loss {loss[-1]:.3f}, {slower['loss']:.1f} times"
        )
        assert accuracy[-1] > 0.95
        assert loss[-1] < loss[0] / 5
        assert slower["loss"] < 1.5 < slower["accuracy"]


@claim(62, "5.2.4", "the validation accuracy stalls at 70–72%", "qualified", kind="recorded")
def test_from_scratch_validation_accuracy_stalls_while_training_goes_on(full: Full) -> None:
    """It stalls, in four of six runs at 72 %, in one at 70 and in one at 75."""
    plateaus = []
    for run in full("from_scratch"):
        training, validation = (last_epochs(run, name) for name in ("accuracy", "val_accuracy"))
        rises = [9 * np.polyfit(np.arange(10), curve, 1)[0] for curve in (training, validation)]
        full.show(
            f"{title(run)}: last ten epochs {validation.mean():.3f}, {100 * rises[1]:+.1f} points over them,"
            f" training {training.mean():.3f}, {100 * rises[0]:+.1f}"
        )
        plateaus.append(validation.mean())
        assert abs(rises[1]) < 0.02 < rises[0]
        assert training.mean() - validation.mean() > 0.15
    assert full.judge("from_scratch") != "not reproduced"
    if full.kind == "recorded":
        assert sorted(round(100 * plateau) for plateau in plateaus) == [70, 72, 72, 72, 72, 75]


@claim(63, "5.2.4", "reaches its minimum after only five epochs and then stalls", "refuted", kind="recorded")
def test_from_scratch_validation_loss_falls_past_epoch_5_then_rises(full: Full) -> None:
    """In each run."""
    for run in full("from_scratch"):
        losses = run.history["val_loss"]
        lowest = int(np.argmin(losses)) + 1
        full.show(
            f"{title(run)}: lowest, {min(losses):.3f}, in epoch {lowest}; {min(losses[:5]):.3f} by epoch 5,"
            f" {losses[-1]:.3f} in the last"
        )
        assert lowest > 5
        assert min(losses[:5]) > min(losses) * 1.05
        assert losses[-1] > min(losses) * 1.1


# Augmented, figures 5.12 and 5.13.


@claim(75, "5.2.5", "a 15% relative improvement over the non-regularized model", "cannot tell", kind="recorded")
def test_another_run_of_each_may_improve_by_15_percent_or_by_half_of_it(full: Full) -> None:
    """By Welch's 95 % range of the difference between another run of each, in logarithms of where they end.

    As for a published accuracy: 15 % lies in it, but it reaches further than three points each way.
    """
    logs = [np.log([last_epochs(run).mean() for run in full(rung)]) for rung in ("from_scratch", "augmented")]
    if min(map(len, logs)) < 2:
        pytest.skip("one seed does not show how much seeds scatter: --convspec-seeds 3")
    runs = [*map(len, logs)]
    variances = [float(np.var(side, ddof=1)) * (count + 1) for side, count in zip(logs, runs, strict=True)]
    degrees, error = statistics.welch(variances, runs)  # of one run, and of the mean that it is guessed by
    gain, reach = logs[1].mean() - logs[0].mean(), stats.t.ppf(0.975, degrees) * error
    low, middle, high = np.exp([gain - reach, gain, gain + reach]) - 1
    without, beside = (np.exp(side).mean() for side in logs)
    full.show(f"validation {without:.3f} to {beside:.3f}, {middle:+.0%}, another run of each {low:+.0%} to {high:+.0%}")
    assert middle > 0
    if full.kind == "recorded":
        assert 0 < low < 0.075 < 0.145 < high
        assert high - low > 2 * claims_module.WIDEST


@claim(72.5, "5.2.5", "augmentation and dropout, you're no longer overfitting", "refuted", kind="recorded")
@claim(73, "5.2.5", "the training curves are closely tracking the validation curves", "qualified", kind="recorded")
def test_augmented_curves_stay_within_5_points_and_the_loss_falls_on(full: Full) -> None:
    """Of training on augmented pictures with dropout, both of which hold the training accuracy down."""
    gaps = {}
    for rung in ("from_scratch", "augmented"):
        ends = [[last_epochs(run, name).mean() for name in ("accuracy", "val_accuracy")] for run in full(rung)]
        gaps[rung] = max(float(training - validation) for training, validation in ends)
    lowest = [int(np.argmin(run.history["val_loss"])) + 1 for run in full("augmented")]
    full.show(
        f"last ten epochs {100 * gaps['augmented']:.1f} points apart, from scratch {100 * gaps['from_scratch']:.1f};"
        f" validation loss lowest in epoch {', '.join(map(str, lowest))} of 100"
    )
    assert 0.02 < gaps["augmented"] < min(0.05, gaps["from_scratch"] / 4)
    assert min(lowest) > 75


# Feature extraction, figures 5.15 and 5.16, and a frozen base, figures 5.17 and 5.18.


@claim(97.5, "5.3.1", "much better than you achieved in the previous section", "holds", kind="recorded")
@claim(105.5, "5.3.1", "much better than you achieved with the small convnet", "holds", kind="recorded")
@pytest.mark.parametrize("rung", ["feature_extraction", "frozen_end_to_end"])
def test_a_pretrained_base_is_far_ahead_of_a_network_from_scratch(rung: str, full: Full) -> None:
    """By more than ten points in validation, in the mean of the last ten epochs, run against run."""
    pretrained, scratch = ([float(last_epochs(run).mean()) for run in full(name)] for name in (rung, "from_scratch"))
    full.show(f"{rung} {min(pretrained):.3f} to {max(pretrained):.3f}, from scratch at most {max(scratch):.3f}")
    assert min(pretrained) > max(scratch) + 0.1


@claim(98, "5.3.1", "you’re overfitting almost from the start", "qualified", kind="recorded")
def test_feature_extraction_as_plotted_does_not_overfit_in_5_epochs(full: Full) -> None:
    """The training accuracy that is plotted is with dropout, and a mean over each epoch while it is learned. By it the
    network overfits from epoch 6 or 7 of 30 on; the validation loss falls for 20 epochs and more.
    """
    for run in full("feature_extraction"):
        ahead = np.array(run.history["accuracy"]) > np.array(run.history["val_accuracy"])
        lowest = int(np.argmin(run.history["val_loss"])) + 1
        full.show(
            f"{title(run)}: training passes validation in epoch {np.argmax(ahead) + 1}, validation loss lowest in"
            f" epoch {lowest} of {len(ahead)}"
        )
        assert not ahead[:5].any()
        assert lowest > 5


@claim(105, "5.3.1", "you reach a validation accuracy of about 96%", "qualified", kind="recorded")
def test_a_frozen_base_comes_near_96_percent_with_its_own_preprocessing(full: Full) -> None:
    """Its one run ends at 0.953, in whose range for another run 0.96 is. As written, with inputs / 255, it is not, and
    no more on three recorded views of each picture in turn.

    With the base left trainable it is reached, as the published run may have done: see docs/results.md.
    """
    for inputs_by_255 in ("frozen_end_to_end", "frozen_end_to_end_recorded"):
        assert full.judge(inputs_by_255) == "not reproduced"
    for otherwise in ("frozen_end_to_end_preprocessed", "frozen_end_to_end_trainable"):
        assert full.judge(otherwise) == "reproduced"


@claim(45.5, "5.2.2", "you'll get fairly close to this accuracy", "qualified", kind="recorded")
def test_95_percent_is_reached_with_the_weights_own_preprocessing(full: Full) -> None:
    """Not with inputs / 255, as listed: with these fine-tuning comes nearest, at 93 to 94 %."""
    rungs = "feature_extraction", "frozen_end_to_end", "fine_tuned", "frozen_end_to_end_preprocessed"
    *listed, preprocessed = ([run.test_accuracy for run in full(rung)] for rung in rungs)
    full.show(f"test {min(preprocessed):.3f}; as listed {min(chain(*listed)):.3f} to {max(chain(*listed)):.3f}")
    assert max(chain(*listed)) < 0.945 < 0.95 < min(preprocessed)


# Fine-tuning, figures 5.20 to 5.23: as written; in fast form on recorded views with the weights' own preprocessing.


@claim(117, "5.3.2", "a test accuracy of 97%", "qualified", kind="recorded")
@pytest.mark.parametrize("part", ["validation", "test"])
def test_fine_tuning_comes_near_97_percent_in_fast_form_not_as_written(part: str, full: Full) -> None:
    """Prepared as the weights expect, its one run ends at 0.961, in whose range for another run 0.97 is."""
    assert full.judge("fine_tuned", part) == "not reproduced"
    assert full.judge("fine_tuned_fast", part, published_for="fine_tuned") == "reproduced"


@claim(113, "5.3.2", "a nice 1% absolute improvement in accuracy", "qualified", kind="recorded")
@pytest.mark.parametrize(("rung", "clear", "low", "high"), [
    ("fine_tuned", True, 0.03, 0.06), ("fine_tuned_fast", False, 0.0, 0.01)
])  # fmt: skip
def test_fine_tuning_gains_four_points_on_90_percent_but_not_one_on_96(
    rung: str, clear: bool, low: float, high: float, full: Full
) -> None:
    """On the 1,000 test pictures, by McNemar's exact test."""
    for tuned in full(rung):
        assert tuned.recipe.starts_from
        (frozen,) = [run for run in full(tuned.recipe.starts_from.name) if title(run) == title(tuned)]
        assert tuned.test_names == frozen.test_names
        right, before = (np.equal(run.predicted, run.test_labels) for run in (tuned, frozen))
        won, lost = int(np.sum(right & ~before)), int(np.sum(before & ~right))
        p = stats.binomtest(won, won + lost).pvalue
        full.show(
            f"{tuned.recipe.name} over {frozen.recipe.name}: {won} of {len(right):,} test pictures won and {lost} lost,"
            f" p = {p:.2g}"
        )
        assert low <= (won - lost) / len(right) < high
        assert (p < LEVEL) == clear


@claim(114.5, "5.3.2", "from about 96% to above 97%", "refuted", source="figure 5.22", kind="recorded")
def test_the_smoothed_accuracy_rises_from_91_to_94_percent(full: Full) -> None:
    """As written. In fast form the start is at 96 %, and there is no rise (claim 114.7)."""
    for run in full("fine_tuned"):
        smoothed = smooth_curve(run.history["val_accuracy"])
        full.show(f"{run.recipe.name}, {title(run)}: smoothed validation {smoothed[0]:.3f} to {smoothed[-1]:.3f}")
        assert smoothed[0] < 0.93 < smoothed[-1] < 0.96


@claim(114.7, "5.3.2", "in fact, it's deteriorating", "holds", kind="recorded")
@pytest.mark.parametrize("rung", ["fine_tuned", "fine_tuned_fast"])
def test_the_loss_of_fine_tuning_rises_and_the_accuracy_hardly_falls(rung: str, full: Full) -> None:
    """The first ten epochs against the last ten, in validation: by less than half a point, if at all."""
    for run in full(rung):
        loss, accuracy = (np.array(run.history[name]) for name in ("val_loss", "val_accuracy"))
        full.show(
            f"{run.recipe.name}, {title(run)}: validation loss {loss[:10].mean():.4f} to {loss[-10:].mean():.4f},"
            f" accuracy {accuracy[:10].mean():.3f} to {accuracy[-10:].mean():.3f}"
        )
        assert loss[-10:].mean() > loss[:10].mean()
        assert accuracy[-10:].mean() - accuracy[:10].mean() > -0.005


@claim(118.5, "5.3.3", "Convnets are the best type of machine-learning models", "qualified", kind="recorded")
def test_of_digits_of_8_by_8_pixels_a_support_vector_machine_knows_more(evidence: Evidence) -> None:
    """On MNIST the convnet is ahead of the dense network (claim 10.5); on scikit-learn's digits not even of this."""
    digits = load_dataset("digits", 28)
    (train, truth), (test, expected) = (
        (part.images.reshape(len(part), -1) / 255, part.labels) for part in (digits.train, digits.test)
    )
    machine = SVC().fit(train, truth).score(test, expected)
    convnets = [run.test_accuracy for run in recorded_runs("mini")["mnist_convnet"]]
    evidence(f"test {machine:.3f}, the convnet {min(convnets):.3f} to {max(convnets):.3f}, from 900 digits")
    assert max(convnets) < machine
