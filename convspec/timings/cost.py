"""Cost of whole rungs by epochs and pictures, and from how many epochs on recording features pays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import optimize

from convspec.report.charts import BLUE, GREEN, ORANGE, empty
from convspec.report.tables import Table
from convspec.timings.verdicts import format_figure

WHOLE = {"mini": (30, 600), "full": (30, 2000)}  # epochs and pictures of the run that a scale's table speaks of
STYLES = (BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), ("#aa3377", ":", "D")


@dataclass(frozen=True)
class Point:
    """One measured run of a rung, with its seconds of recording and training; a linear probe has no epochs."""

    epochs: int
    pictures: int
    seconds: float
    recording: float = 0.0
    training: float = 0.0


@dataclass(frozen=True)
class Cost:
    """Seconds of a rung: `fixed`, `once` a training picture, and `each` a picture in each epoch, fitted to `points`."""

    rung: str
    fixed: float
    once: float  # 0 where the base runs in each epoch instead
    each: float
    points: list[Point]

    def seconds(self, epochs: int, pictures: int) -> float:
        """Return what the line gives for a run, measured or not."""
        return self.fixed + self.once * pictures + self.each * epochs * pictures


def fit(rung: str, points: Sequence[Point]) -> Cost:
    """Return the cost that fits the measured points best: a line for recording, one for training, and the rest.

    By least squares, so that the longest runs count most; no part is below 0.
    """

    def line(columns: list[list[float]], seconds: list[float]) -> list[float]:
        return optimize.nnls(np.array(columns, float), np.array(seconds))[0].tolist()

    start, once = line([[1, point.pictures] for point in points], [point.recording for point in points])
    (each,) = line([[point.epochs * point.pictures] for point in points], [point.training for point in points])
    rest = float(np.median([point.seconds - point.recording - point.training for point in points]))
    return Cost(rung, start + rest, once, each, list(points))


def pays_from(recorded: Cost, other: Cost, pictures: int) -> int | None:
    """Return the number of epochs from which on `recorded` costs less than `other`; None where there is none."""
    gain = (other.each - recorded.each) * pictures
    start = recorded.seconds(0, pictures) - other.seconds(0, pictures)
    if gain <= 0:  # an advantage at the start lasts only where an epoch costs as much
        return 1 if gain == 0 and start < 0 else None
    return max(math.floor(start / gain) + 1, 1)


def table(costs: Sequence[Cost], epochs: int, pictures: int) -> Table:
    """Return a row for each rung: what was measured, the parts of its cost, and a whole run."""
    whole = f"{epochs} x {pictures:,}, s"
    titles = ["rung", "measured", "s", "fixed, s", "once, ms", "each, ms", "epoch, s", whole, "pays from"]
    literal = next((cost for cost in costs if not any(point.recording for point in cost.points)), None)
    rows = []
    for cost in costs:
        largest, since = max(cost.points, key=lambda point: (point.epochs, point.pictures)), "-"
        if literal and cost is not literal:
            first = pays_from(cost, literal, pictures)
            since = "never" if first is None else f"epoch {first}"
        cells = [largest.seconds, cost.fixed, cost.once * 1e3, cost.each * 1e3, cost.each * pictures]
        figures = [format_figure(cell) if cell else "-" for cell in [*cells, cost.seconds(epochs, pictures)]]
        rows.append([cost.rung, f"{max(largest.epochs, 1)} x {largest.pictures}", *figures, since])
    below = [
        "measured: epochs x pictures of the largest run; s: its time. fixed, once a picture, each picture in each",
        "epoch: lines through all measured runs, in training pictures, without validation.",
        f"epoch: on {pictures:,} pictures. {epochs} x {pictures:,}: by the line, extrapolated unless it was measured.",
    ]
    if literal:
        below.append(f"pays from: the number of epochs from which it costs less than {literal.rung}.")
    return Table(titles, rows, below=below)


def chart(costs: Sequence[Cost], epochs: int, pictures: int) -> Figure:
    """Draw each rung's seconds over the epochs on `pictures`, with the runs measured on as many."""
    figure, axes = empty(6.4, 3.8)
    for cost, (colour, line, marker) in zip(costs, STYLES, strict=False):
        over = range(1, epochs + 1)
        axes.plot(over, [cost.seconds(number, pictures) for number in over], line, color=colour, label=cost.rung)
        for point in cost.points:
            if point.pictures == pictures:
                axes.plot(max(point.epochs, 1), point.seconds, marker, color=colour, markersize=6)
    axes.set(xlabel="epochs", ylabel=f"s, on {pictures:,} pictures", xlim=(0, epochs + 1))
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
