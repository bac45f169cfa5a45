"""The chapter's published accuracies beside the measured ones."""

import numpy as np

from convspec.accuracy import statistics
from convspec.ladder.rungs import RECIPES, RUNGS
from convspec.report.tables import Runs, Table, format_range


def claims(runs: Runs) -> Table:
    """Return a row for each accuracy that the chapter publishes for a rung at full on its own pictures.

    A row is "reproduced" where the published figure lies within the 95 % range of another run, "not reproduced" where
    it doesn't, and "not run here" for a rung without runs of its own recipe. Other recipes have rows if they were run.
    """
    rows = []
    for name, recipe in RECIPES["full"].items():
        group = [run for run in runs.get(name, ()) if run.recipe == recipe and run.dataset["name"] == recipe.dataset]
        for part, span in recipe.published.items() if group or name in RUNGS else ():
            cells = ["-", "-", "-", "not run here"]
            if group:
                accuracies = [run.test_accuracy if part == "test" else run.validation_accuracy or 0.0 for run in group]
                low, high = statistics.next_run(accuracies, group[0].dataset["pictures"][part])
                verdict = "reproduced" if low <= span[1] and span[0] <= high else "not reproduced"
                cells = [f"{np.mean(accuracies):.3f}", str(len(group)), f"{low:.3f} to {high:.3f}", verdict]
            rows.append([name, part, format_range(*span), *cells])
    return Table(["rung", "part", "published", "measured", "seeds", "next run", "verdict"], rows, "<" * 7)
