"""The chapter's published accuracies beside the measured ones."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from convspec.accuracy import statistics
from convspec.ladder.result import Result
from convspec.ladder.rungs import RECIPES, RUNGS
from convspec.report.tables import Runs, Table, format_range

LAST = 10  # epochs at a curve's end, whose mean is judged: the best of many noisy epochs is too high
WIDEST = 0.03  # each way: three points, the drop that every gate must be able to see
FOOTNOTES = (
    "measured: validation, mean of the last ten epochs; test, of the last weights. Means over the seeds.",
    "another run: its 95 % range, by the scatter between seeds; for one seed by that of chance over the pictures.",
    "verdict: whether the published figure, half a unit of its last digit either way, lies in that range.",
    "cannot tell: it does, but the range reaches further than three points each way.",
)
Verdict = Literal["reproduced", "not reproduced", "cannot tell"]


class Figure(NamedTuple):
    """What runs of a rung say of a published accuracy."""

    measured: float
    best: float | None  # mean of the best epochs; None for the test part
    low: float  # 95 % range of another run
    high: float
    verdict: Verdict


def judge(runs: Sequence[Result], part: str) -> Figure:
    """Return whether runs of one recipe reproduce the published accuracy of a part, "validation" or "test"."""
    if part == "test":
        values, best = [run.test_accuracy for run in runs], None
    else:
        curves = [run.history["val_accuracy"] for run in runs]
        values, best = [float(np.mean(curve[-LAST:])) for curve in curves], float(np.mean([*map(max, curves)]))
    low, high = statistics.next_run(values, runs[0].dataset["pictures"][part])
    verdict: Verdict = "cannot tell" if high - low > 2 * WIDEST else "reproduced"
    lowest, highest = runs[0].recipe.published[part]
    if high < lowest - _rounding(lowest) or highest + _rounding(highest) < low:
        verdict = "not reproduced"
    return Figure(float(np.mean(values)), best, low, high, verdict)


def _rounding(published: float) -> float:
    """Return half a unit of the last digit of an accuracy in whole percent or tenths of one."""
    return 0.005 if round(published, 2) == published else 0.0005


def claims(runs: Runs) -> Table:
    """Return a row for each accuracy that the chapter publishes for a rung at full on its own pictures.

    A rung without runs of its own recipe was "not run here", unless its exact form was. Other recipes have rows if they
    were run.
    """
    groups = {
        name: [run for run in runs.get(name, ()) if run.recipe == recipe and run.dataset["name"] == recipe.dataset]
        for name, recipe in RECIPES["full"].items()
    }
    rows = []
    for name, group in groups.items():
        recipe = RECIPES["full"][name]
        for part, span in recipe.published.items() if group or name in RUNGS else ():
            cells = ["-"] * 4 + [f"see {name}_exact" if groups.get(f"{name}_exact") else "not run here"]
            if group:
                figure = judge(group, part)
                best = "-" if figure.best is None else f"{figure.best:.3f}"
                cells = [f"{figure.measured:.3f}", best, str(len(group))]
                cells += [f"{figure.low:.3f} to {figure.high:.3f}", figure.verdict]
            rows.append([name, part, format_range(*span), *cells])
    titles = ["rung", "part", "published", "measured", "best epoch", "seeds", "another run", "verdict"]
    return Table(titles, rows, "<" * 8, below=FOOTNOTES)
