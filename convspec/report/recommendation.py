"""Recommend a rung of the ladder on somebody's pictures, and say in words what more pictures would bring."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from scipy import special

from convspec import BadInput
from convspec.accuracy import statistics
from convspec.accuracy.gate import AccuracyVerdict, gate
from convspec.data.layouts import printable
from convspec.ladder.learning_curve import Gain, LearningCurve
from convspec.ladder.result import Result
from convspec.report.answer import duration
from convspec.report.tables import Runs, best_rung, measures, summary

CHANCE = 0.05  # that some class is recognised so much worse than the others, where all are alike


@dataclass(frozen=True)
class Recommendation:
    """Lines of text, and the run whose model they recommend."""

    lines: list[str]
    run: Result | None = None


def recommend(runs: Runs, margin: float) -> Recommendation:
    """Recommend the cheapest rung that is no worse than the best by `margin`; all runs are of one dataset.

    With one seed a rung the test pictures are compared in pairs, else accuracies over seeds, as the gate does. A rung
    that starts from one that did not run is not compared by time: it is recommended only where it alone is good enough.
    """
    if not runs:
        return Recommendation(["No recommendation: no rung finished."])
    if len({tuple(group[0].test_names) for group in runs.values()}) > 1:
        raise BadInput("no recommendation: the rungs were not tested with the same pictures")
    costs = sorted(runs, key=lambda rung: _seconds(runs, rung))
    best = best_rung({rung: runs[rung] for rung in costs})  # of equals the cheapest
    if why := _nothing_learned(runs, best):
        left = f" What is left to try: {remedy}." if (remedy := _remedy(runs)) else ""
        return Recommendation([why + left])
    if len(runs) == 1:
        first = f"Only {best} ran, so that there is nothing to compare it with."
        return Recommendation([first, *_figures(runs, best)], _model_run(runs[best]))
    verdicts = {rung: _compare(runs, best, rung, margin) for rung in costs}
    known = [rung for rung in costs if _seconds(runs, rung) < inf]
    chosen = next((rung for rung in known if rung == best or _no_worse(verdicts[rung])), best)
    place, points = costs.index(chosen), f"{100 * margin:g} point{'s' * (margin != 0.01)}"
    of_known = " whose whole time is known" * (known != costs)
    lines = [f"Use {chosen}.", *_figures(runs, chosen)]
    if chosen != best:
        lines.append(
            f"It is the cheapest rung{of_known} that comes within {points} of the best, {best}, with confidence:"
            f" {_change(verdicts[chosen])}."
        )
    elif cheaper := known[:place]:
        next_best = max(cheaper, key=lambda rung: verdicts[rung].new)
        lines.append(
            f"It is the best, and no {'cheaper ' * (chosen in known)}rung{of_known} comes within {points} of it with"
            f" confidence: the best of those, {next_best}, takes {_duration(runs, next_best)} and differs by"
            f" {_change(verdicts[next_best])}."
        )
    else:
        lines.append(f"It is the best{f' and the cheapest{of_known}' * (chosen in known)}.")
    others = [*known[place + 1 :][:1], *(rung for rung in costs if rung not in (*known, chosen))]
    lines += [_describe_other(runs, chosen, other, margin, points) for other in others]
    if not others and chosen in known:
        lines.append("What a slower rung would gain is not known: none was run.")
    evidence = "from the test pictures in pairs: one seed a rung does not show how much seeds differ"
    counts = sorted({len(group) for group in runs.values()})
    if counts[-1] > 1:
        evidence = f"over {' to '.join(map(str, counts[:1] + counts[1:][-1:]))} seeds a rung"
    lines.append(f"Differences are given with their 90 % interval, {evidence}.")
    return Recommendation(lines, _model_run(runs[chosen]))


def describe_curve(curve: LearningCurve, margin: float) -> list[str]:
    """Return what more training pictures brought and would bring, in words."""
    points = [
        f"{np.mean(draws):.3f} with {pictures}" + (f" ({min(draws):.3f} to {max(draws):.3f})" if len(draws) > 1 else "")
        for pictures, draws in zip(curve.pictures, curve.accuracies, strict=True)
    ]
    gains = [_change(gain) for gain in curve.gains]
    change, low, high = curve.gains[-1]
    if high <= margin:
        outlook = "more pictures of this kind would hardly help"
    elif low > 0:
        outlook = f"another doubling would bring about {100 * change:.1f} points or less"
    else:
        outlook = f"the last may be chance, and another doubling would hardly bring more than {100 * high:.1f} points"
    return [
        f"More pictures: a linear probe on {curve.base}'s features reaches {', '.join(points)} training pictures"
        f" (lowest to highest of {len(curve.accuracies[0])} draws).",
        f"From a quarter to a half it gained {gains[0]}, from a half to all {gains[1]} (95 % intervals): {outlook}.",
    ]


def describe_better_probe(runs: Runs, rung: str, curve: LearningCurve, margin: float) -> str:
    """Return that the curve's probe, which was no rung, beats the recommended one by more than `margin`, else ""."""
    accuracy, probed = float(np.mean(curve.accuracies[-1])), _has_probe(runs)
    if probed or accuracy <= summary(runs[rung])["test_accuracy"] + margin:
        return ""
    probe = f"a linear probe on {curve.base}'s features gets {accuracy:.3f} of the same test pictures right"
    return f" But {probe}: {_remedy(runs)}."


def usage(model: Path, picture: Path) -> list[str]:
    """Return two lines of Python that classify a picture file with a saved model."""
    call = f"print(saved_model.load({str(model)!r}).classify({str(picture)!r}))"
    return ["from convspec.ladder import saved_model", call]


def _seconds(runs: Runs, rung: str) -> float:
    """Return the seconds of one run and of those that it starts from: infinite where one did not run."""
    start = runs[rung][0].recipe.starts_from
    before = 0.0 if start is None else _seconds(runs, start.name) if start.name in runs else inf
    return before + float(summary(runs[rung])["seconds"])


def _duration(runs: Runs, rung: str) -> str:
    start = runs[rung][0].recipe.starts_from
    if start and start.name not in runs:
        return f"{duration(summary(runs[rung])['seconds'])}, without {start.name} before it"
    return duration(_seconds(runs, rung)) + (f" with {start.name} before it" if start else "")


def _compare(runs: Runs, one: str, other: str, margin: float) -> AccuracyVerdict:
    sides = (np.equal([run.predicted for run in runs[rung]], runs[rung][0].test_labels) for rung in (one, other))
    return gate(*sides, margin=margin)


def _no_worse(verdict: AccuracyVerdict) -> bool:
    """Return whether the gate passes; of one run a side, which it never passes, whether the pictures alone would."""
    return verdict.outcome == "pass" or (verdict.runs == (1, 1) and verdict.low > -verdict.margin)


def _change(of: AccuracyVerdict | Gain) -> str:
    return f"{100 * of.change:+.1f} points [{100 * of.low:+.1f}, {100 * of.high:+.1f}]"


def _figures(runs: Runs, rung: str) -> list[str]:
    """Return accuracy and time of a rung, and its worst class if that is worse by more than chance."""
    group, figures = runs[rung], summary(runs[rung])
    low, high = figures["test_interval"]
    pictures, accuracy = len(group[0].test_labels), figures["test_accuracy"]
    average, a_run = (f", on average over {len(group)} seeds", " a run") if len(group) > 1 else ("", "")
    lines = [
        f"It gets {accuracy:.3f} of the {pictures} test pictures right{average} (95 % interval {low:.3f} to"
        f" {high:.3f}), in {_duration(runs, rung)}{a_run}."
    ]
    measured, labels = measures(group), group[0].test_labels
    worst, recall = measured.lowest
    tested = labels.count(measured.classes.index(worst))
    if special.bdtr(round(recall * tested), tested, accuracy) * len(measured.recalls) < CHANCE:
        taken = next(given for true, given, _ in measured.confusions if true == worst)
        confused = f", and the others are most often taken for {printable(taken)}" if len(measured.classes) > 2 else ""
        lines.append(f"The worst class is {printable(worst)}: {recall:.3f} of its {tested} are right{confused}.")
    return lines


def _nothing_learned(runs: Runs, best: str) -> str:
    """Return why no rung is worth recommending, "" where one beats the majority class with confidence."""
    measured, pictures = measures(runs[best]), len(runs[best][0].test_labels)
    for rung in runs:
        accuracies = [run.test_accuracy for run in runs[rung]]
        over_pictures = statistics.interval([float(np.mean(accuracies))], pictures)
        if min(over_pictures[0], statistics.interval(accuracies, pictures)[0]) > measured.majority:
            return ""
    return (
        f"No recommendation: no rung is shown to do better than always answering {printable(measured.commonest)},"
        f" which is right for {measured.majority:.3f} of the {pictures} test pictures; the best, {best}, gets"
        f" {summary(runs[best])['test_accuracy']:.3f}."
    )


def _has_probe(runs: Runs) -> bool:
    return any(group[0].recipe.model == "linear_probe" for group in runs.values())


def _remedy(runs: Runs) -> str:
    """Return the options that add what does with few pictures, as far as it did not run."""
    adds, recipes = [], [group[0].recipe for group in runs.values()]
    if not _has_probe(runs):
        option = "--mode both" if "feature_extraction" in runs else "--rungs ...,feature_extraction_fast"
        adds.append(f"{option} adds the linear probe feature_extraction_fast")
    if all(recipe.scale == "mini" and recipe.base in (None, "mini") for recipe in recipes):
        adds.append("--scale full adds a base trained on photographs")
    return ", and ".join(adds)


def _describe_other(runs: Runs, chosen: str, other: str, margin: float, points: str) -> str:
    verdict = _compare(runs, chosen, other, margin)
    if verdict.high < 0:
        says = "is worse"
    elif verdict.high <= margin:
        says = f"gains less than {points}"
    elif verdict.low > 0:
        says = "gains"
    else:
        says = "is not shown to gain"
    takes = f"takes {_duration(runs, other)}"
    if _seconds(runs, other) == inf:
        return f"Not compared by time, {other} {takes}, and {says}: {_change(verdict)}."
    return f"The next by time, {other}, {takes} and {says}: {_change(verdict)}."


def _model_run(runs: Sequence[Result]) -> Result:
    """Return the run that is best on the validation pictures as it ends, the first where there are none.

    A model file has the weights of the last epoch, or their average over the last ones.
    """
    return max(runs, key=lambda run: run.history.get("val_accuracy", [0.0])[-1])
