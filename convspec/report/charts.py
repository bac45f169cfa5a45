"""Charts: accuracy of each rung, training curves (figures 5.9 to 5.23), confusions, reliability, dead channels."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from textwrap import fill
from typing import Any
from unicodedata import bidirectional

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from convspec import BadInput
from convspec.accuracy.measures import BINS, Measures
from convspec.files import atomic_write
from convspec.ladder.result import Result
from convspec.report.tables import Runs, published, short, summary
from convspec.training import smooth_curve

BLUE, ORANGE, GREEN, GREY = "#4477aa", "#cc6633", "#228833", "#777777"
# Blue and orange differ under all common kinds of colour blindness; solid and dashed differ without colour.
PARTS = {"training": ("", BLUE, "-"), "validation": ("val_", ORANGE, "--")}
SHORT = 15  # epochs, up to which curves are not smoothed
WIDTH = 5.2  # inches: labels stay legible at the width of a phone


def picture(runs: Runs, path: Path) -> None:
    """Write the chart of the ladder to a file, at 110 pixels an inch."""
    with atomic_write(path) as partial:
        chart(runs).savefig(partial, dpi=110)


def chart(runs: Runs, width: float = 8) -> Figure:
    """Draw each seed's test accuracy, the mean with its interval, and the published figures; `width` in inches."""
    figure = Figure(figsize=(width, 0.55 * len(runs) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(runs.values()):
        figures = summary(group)
        mean, validation = figures["test_accuracy"], figures["validation_accuracy"]
        axes.hlines(row, *figures["test_interval"], color=BLUE, linewidth=9, alpha=0.3, label="test, 95 % interval")
        accuracies = [run.test_accuracy for run in group]
        axes.plot(accuracies, [row] * len(group), "o", color=BLUE, markersize=5, label="test, one seed")
        axes.annotate(f"{mean:.3f}", (mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        if validation is not None:
            axes.plot(validation, row, "|", color=GREEN, markersize=14, label="validation, best")
        for span in published(group[0]).values():
            axes.plot(np.mean(span), row, "D", color=ORANGE, fillstyle="none", label="published")
    labels, datasets = list(runs), [group[0].dataset["name"] for group in runs.values()]
    if len(set(datasets)) > 1:  # whose accuracies cannot be compared
        labels = [f"{rung}\n{short(_drawable(name))}" for rung, name in zip(runs, datasets, strict=True)]
        for row, (above, below) in enumerate(pairwise(datasets)):
            if above != below:
                axes.axhline(row + 0.4, color=GREY, linewidth=1)
    title = f"The ladder: {', '.join(dict.fromkeys(datasets))} at scale {next(iter(runs.values()))[0].recipe.scale}"
    axes.set_title(fill(_drawable(title), 64), loc="left", fontsize=11, parse_math=False)  # as wide as the bars
    axes.set(xlabel="accuracy", ylim=(len(runs) - 0.5, -0.7))
    axes.set_yticks(range(len(runs)), labels, parse_math=False)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one for each label
    style: dict[str, Any] = {"loc": "outside lower center", "ncols": int(width // 2), "frameon": False, "fontsize": 9}
    figure.legend(handles.values(), handles.keys(), **style)
    return figure


def curve(runs: Sequence[Result], metric: str) -> Figure:
    """Draw one metric, "accuracy" or "loss", of the runs of a rung over the epochs, in training and validation.

    Dots are means of the raw values over seeds. Lines are means of the smoothed ones (`smooth_curve`), or of the raw
    ones up to 15 epochs, shaded from the lowest to the highest seed. The published accuracy is drawn, too, for the
    chapter's own rung and pictures. Raises BadInput for runs without that metric.
    """
    figure, axes = empty()
    for part, values in values_by_part(runs, metric).items():
        _, colour, style = PARTS[part]
        epochs = np.arange(1, values.shape[1] + 1)
        smoothed = values if len(epochs) <= SHORT else np.array([smooth_curve(row) for row in values])
        axes.plot(epochs, values.mean(axis=0), "o", color=colour, markersize=4, alpha=0.75, markeredgewidth=0)
        axes.plot(epochs, smoothed.mean(axis=0), style, color=colour, linewidth=2, label=part)
        if len(runs) > 1:
            axes.fill_between(epochs, smoothed.min(axis=0), smoothed.max(axis=0), color=colour, alpha=0.25, linewidth=0)
    for part, (low, high) in published(runs[0]).items() if metric == "accuracy" else ():
        style = ":" if part == "test" else "-."
        axes.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0)
        axes.axhline((low + high) / 2, color=GREY, linestyle=style, linewidth=1.5, label=f"{part}, published")
    axes.set(xlabel="epoch", ylabel=metric)
    axes.locator_params("x", integer=True)
    axes.margins(x=0.02)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def values_by_part(runs: Sequence[Result], metric: str) -> dict[str, np.ndarray]:
    """Return the metric, (seeds, epochs), in "training" and, if there is any, "validation".

    Where seeds differ in epochs, those that all have are returned. Raises BadInput for runs without that metric.
    """
    values = {}
    for part, (prefix, _, _) in PARTS.items():
        histories = [run.history.get(prefix + metric, []) for run in runs]
        if epochs := min(map(len, histories), default=0):
            values[part] = np.array([history[:epochs] for history in histories])
    if not values:
        raise BadInput(f"runs must have a history of {metric}, got {[sorted(run.history) for run in runs]}")
    return values


def confusion(measured: Measures) -> Figure:
    """Draw the mean number of pictures by true and predicted class, shaded by the share of the true class."""
    names, count = [short(_drawable(name)) for name in measured.classes], len(measured.classes)
    shares = measured.confusion / np.maximum(measured.confusion.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(0.36 * count + 2.6, 0.36 * count + 1.7), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    for row, column in zip(*np.nonzero(measured.confusion), strict=True):
        ink, text = "white" if shares[row, column] > 0.6 else "black", count_of(measured.confusion[row, column])
        axes.text(column + 0.5, row + 0.5, text, color=ink, ha="center", va="center", fontsize=9 if count <= 10 else 7)
    places = np.arange(count) + 0.5
    axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=8, parse_math=False)
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set(xlabel="answer", ylabel="true class", ylim=(count, 0), aspect="equal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def reliability(measured: Measures) -> Figure:
    """Draw the accuracy of the answers of each confidence, and how many answers have it."""
    figure, axes = empty()
    confidences, accuracies, shares = zip(*measured.reliability, strict=True)
    low = 0.5 if min(confidences) >= 0.5 else 0.0
    axes.bar(confidences, shares, width=0.6 / BINS, color=GREY, alpha=0.4, label="share of the answers")
    axes.plot([low, 1], [low, 1], ":", color=GREY, label="accuracy = confidence")
    axes.plot(confidences, accuracies, "o-", color=BLUE, markersize=5, label="accuracy")
    axes.set(xlabel="confidence", ylabel="share", xlim=(low - 0.02, 1.04), ylim=(-0.02, 1.04))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def count_of(pictures: float) -> str:
    """Return a mean number of pictures with three digits, or all of a whole number."""
    return f"{pictures:.3g}" if pictures < 1000 else f"{pictures:,.0f}"


def _drawable(text: str) -> str:
    """Return the text, or its escapes where the font lacks a glyph, or the letters run from right to left."""
    font = get_font(findfont(FontProperties()))
    known = text.isprintable() and all(font.get_char_index(ord(letter)) for letter in text)
    return text if known and not {"R", "AL"} & {*map(bidirectional, text)} else ascii(text)[1:-1]


def dead_by_depth(shares: Mapping[str, float]) -> Figure:
    """Draw the share of dead channels of each layer as a bar, the first on top (section 5.4.1)."""
    figure, axes = empty(height=0.28 * len(shares) + 1)
    bars = axes.barh([*shares], [100 * share for share in shares.values()], color=BLUE)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=4, fontsize=9)
    axes.set(xlabel="% of channels that are 0 everywhere")
    axes.set(xlim=(0, max(115 * max(shares.values()), 5)), ylim=(len(shares) - 0.4, -0.6))
    return figure


def empty(width: float = WIDTH, height: float = 3.4) -> tuple[Figure, Axes]:
    """Return a figure of that size in inches, and its axes with a grid."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
