"""The chapter's published accuracies beside the measured ones."""

from typing import TYPE_CHECKING

import numpy as np

from convspec.accuracy import statistics
from convspec.ladder.rungs import RECIPES, RUNGS

if TYPE_CHECKING:
    pass

from convspec.report.tables import Runs


def claim_rows(runs: Runs) -> list[tuple[str, ...]]:
    """A row for each accuracy that the chapter publishes, under a row of titles: what was measured, where another run
    would lie, and whether the published figure lies there, too ("reproduced", "not reproduced", or "not run here").

    Of the rungs at full on the chapter's own pictures, and what stands beside them there.
    """
    rows: list[tuple[str, ...]] = [("rung", "part", "published", "measured", "seeds", "next run", "verdict")]
    for name, recipe in RECIPES["full"].items():
        group = [run for run in runs.get(name, ()) if run.recipe == recipe and run.dataset["name"] == recipe.dataset]
        if not group and name not in RUNGS:
            continue
        for part, (lowest, highest) in recipe.published.items():
            chapter = f"{lowest:.3g}" + (f"-{highest:.3g}" if highest > lowest else "")
            if not group:
                rows.append((name, part, chapter, "-", "-", "-", "not run here"))
                continue
            found = [run.test_accuracy if part == "test" else run.validation_accuracy or 0.0 for run in group]
            low, high = statistics.next_run(found, group[0].dataset["pictures"][part])
            verdict = "reproduced" if low <= highest and lowest <= high else "not reproduced"
            measured = f"{np.mean(found):.3f}"
            rows.append((name, part, chapter, measured, str(len(group)), f"{low:.3f} to {high:.3f}", verdict))
    return rows


def claims(runs: Runs) -> list[str]:
    """The rows of `claim_rows` as lines."""
    rows = claim_rows(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
