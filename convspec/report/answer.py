"""Two sentences that a report begins with: is it still as accurate, and how fast."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from convspec.accuracy.gate import Outcome
from convspec.accuracy.judgement import Judgement
from convspec.report.tables import Runs, at_once, best_rung, by_dataset, summary

OUTCOMES: dict[Outcome | Literal["missing"], str] = {
    "regressed": "regressed",
    "underpowered": "underpowered",
    "missing": "without baseline",
    "pass": "passed",
}


def answer(runs: Runs, judgements: Sequence[Judgement], advice: str = "") -> list[str]:
    """Return a sentence on the verdicts, else the advice, and with runs one on the best rung and the time."""
    latest = {judgement.name: judgement for judgement in judgements}  # of a gate that was run again
    compared = any(judgement.verdict for judgement in judgements)
    first = _accuracy([*latest.values()]) if compared or not advice else advice
    return [first, *([_speed(runs)] if runs else [])]


def _accuracy(judgements: Sequence[Judgement]) -> str:
    verdicts = {judgement.name: judgement.verdict for judgement in judgements if judgement.verdict}
    if not verdicts:
        return "Nothing was compared with a baseline."
    outcomes = Counter(judgement.outcome for judgement in judgements)
    counts = [f"{outcomes[name]} {words}" for name, words in OUTCOMES.items() if outcomes[name]]
    gates = f"of {len(judgements)} gate{'s' * (len(judgements) > 1)}"
    text = ", ".join([counts[0].replace(" ", f" {gates} ", 1), *counts[1:]])
    balanced = " in balanced accuracy" if any(each.measure == "balanced" for each in judgements) else ""
    drops = [verdict.smallest_drop for verdict in verdicts.values() if verdict.smallest_drop is not None]
    if outcomes["regressed"]:
        drop, name = max((-each.change, name) for name, each in verdicts.items() if each.outcome == "regressed")
        return f"No longer as accurate{balanced}: {text}; the largest drop is {100 * drop:.1f} points, of {name}."
    if outcomes["pass"] < len(judgements):
        return f"Not certain to be as accurate{balanced}: {text}."
    if len(drops) < len(judgements):
        seen = f"{len(judgements) - len(drops)} could have seen no drop"
    else:
        seen = f"each would have seen a drop of {100 * max(drops):.1f} points"
    return f"Still as accurate{balanced}: {text}; {seen}."


def _speed(runs: Runs) -> str:
    rung, results = best_rung(runs), [run for group in runs.values() for run in group]
    best, machine, own = summary(runs[rung]), runs[rung][0].machine, runs[rung][0].dataset["name"]
    others = [f", on {name} {_best(group)}" for name, group in by_dataset(runs).items() if name != own]
    where = f" on {own}" if others else ""
    device = ", ".join(machine.get("accelerators") or [machine.get("processor", "an unknown processor")])
    speed = f" ({best['images_per_second']:,.0f} pictures a second in training)" if best["images_per_second"] else ""
    sentence = _best(runs, f" is the most accurate{where}")
    seconds = sum(run.wall_seconds for run in results)
    took = f", and the {len(results)} runs took {duration(seconds)}" if len(results) > 1 else ""
    took += f", {count} at once" if took and (count := at_once(runs)) > 1 else ""
    start = runs[rung][0].recipe.starts_from
    alone = f", without {start.name} before it," if start else ""
    time = f"{rung if others else 'it'} takes {duration(best['seconds'])} a run{alone} on {device}{speed}"
    return f"{sentence}{''.join(others)}; {time}{took}."


def _best(runs: Runs, verb: str = "") -> str:
    figures = summary(runs[rung := best_rung(runs)])
    low, high = figures["test_interval"]
    return f"{rung}{verb} with {figures['test_accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def duration(seconds: float) -> str:
    """Return seconds in the unit in which they are two or more, with a digit behind the point below ten."""
    unit, length = ("h", 3600) if seconds >= 7200 else ("min", 60) if seconds >= 120 else ("s", 1)
    return f"{seconds / length:.{0 if seconds >= 10 * length else 1}f} {unit}"
