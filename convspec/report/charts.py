"""Curves of training over the epochs (figures 5.9 to 5.23), and of dead channels over the depth of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convspec.files import atomic_write
from convspec.ladder.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from typing import TYPE_CHECKING

from convspec import BadInput
from convspec.report import tables
from convspec.report.tables import Runs, published, summary
from convspec.training import smooth_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def picture(runs: Runs, path: Path) -> None:
    """The ladder as a chart, in a file."""
    save_figure(chart(runs), path)


def chart(runs: Runs, width: float = 8) -> "Figure":
    """Each seed's test accuracy, the mean with its interval, and the published figures; `width` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 0.55 * len(runs) + 1.6), layout="constrained")
    axes = figure.subplots()
    for row, group in enumerate(runs.values()):
        figures = summary(group)
        axes.hlines(
            row, *figures["test_interval"], color="#4477aa", linewidth=9, alpha=0.3, label="test, 95 % interval"
        )
        accuracies = [run.test_accuracy for run in group]
        axes.plot(accuracies, [row] * len(group), "o", color="#4477aa", markersize=5, label="test, one seed")
        mean = figures["test_accuracy"]
        axes.annotate(f"{mean:.3f}", (mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        if figures["validation_accuracy"] is not None:
            axes.plot(
                figures["validation_accuracy"], row, "|", color="#228833", markersize=14, label="validation, best"
            )
        if published(group[0]) != "-":
            for span in group[0].recipe.published.values():
                axes.plot(np.mean(span), row, "D", color="#cc6633", fillstyle="none", label="published")
    results = [run for group in runs.values() for run in group]
    datasets = dict.fromkeys(run.dataset["name"] for run in results)
    title = f"The ladder: {', '.join(datasets)} at --scale {results[0].recipe.scale}"
    axes.set_title(ascii(title)[1:-1], loc="left", fontsize=11, parse_math=False)
    axes.set(yticks=range(len(runs)), yticklabels=list(runs), xlabel="accuracy", ylim=(len(runs) - 0.5, -0.7))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        once.values(), once.keys(), loc="outside lower center", ncols=int(width // 2), frameon=False, fontsize=9
    )
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=110)


# Blue and orange, which all common kinds of colour blindness tell apart; and solid and dashed, for those who see none.
PARTS = {"training": ("", "#4477aa", "-"), "validation": ("val_", "#cc6633", "--")}
GREY = "#777777"
SIZE = (5.2, 3.4)  # inches: still to be read where it is as wide as a phone


def curve(runs: Sequence[Result], metric: str) -> "Figure":
    """One metric of the runs of a rung over the epochs, "accuracy" or "loss", in training and validation.

    Dots are raw values, in the mean over the seeds; lines are smoothed by `smooth_curve`, in the mean again, and shaded
    from the lowest to the highest seed. Over accuracy lie the chapter's figures, where the runs are the chapter's own.
    Raises BadInput for runs without that metric.
    """
    figure, axes = _figure()
    for part, values in values_by_part(runs, metric).items():
        _, colour, style = PARTS[part]
        epochs = np.arange(1, values.shape[1] + 1)
        smoothed = np.array([smooth_curve(row) for row in values])
        axes.plot(epochs, values.mean(axis=0), "o", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
        axes.plot(epochs, smoothed.mean(axis=0), style, color=colour, linewidth=2, label=part)
        if len(runs) > 1:
            axes.fill_between(epochs, smoothed.min(axis=0), smoothed.max(axis=0), color=colour, alpha=0.25, linewidth=0)
    if metric == "accuracy" and tables.published(runs[0]) != "-":
        for part, (low, high) in runs[0].recipe.published.items():
            style = ":" if part == "test" else "-."
            axes.axhspan(low, high, color=GREY, alpha=0.2, linewidth=0)
            axes.axhline((low + high) / 2, color=GREY, linestyle=style, linewidth=1.5, label=f"{part}, published")
    axes.set(xlabel="epoch", ylabel=metric)
    axes.locator_params("x", integer=True)
    axes.margins(x=0.02)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def values_by_part(runs: Sequence[Result], metric: str) -> dict[str, np.ndarray]:
    """The metric in "training", and "validation" if there is any: (seeds, epochs). BadInput where there is none."""
    found = {}
    for part, (prefix, _, _) in PARTS.items():
        histories = [run.history.get(prefix + metric, []) for run in runs]
        if epochs := min(map(len, histories), default=0):
            found[part] = np.array([history[:epochs] for history in histories])
    if not found:
        raise BadInput(f"runs must have a history of {metric}, got {[sorted(run.history) for run in runs]}")
    return found


def dead_by_depth(shares: Mapping[str, float]) -> "Figure":
    """The share of dead channels, 0 to 1, of each layer, as a bar, the first layer at the top (section 5.4.1)."""
    figure, axes = _figure(height=0.28 * len(shares) + 1)
    rows = np.arange(len(shares))
    axes.barh(rows, [100 * share for share in shares.values()], color=PARTS["training"][1])
    for row, share in zip(rows, shares.values(), strict=True):
        axes.annotate(f"{share:.0%}", (100 * share, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set(yticks=rows, yticklabels=list(shares), xlabel="% of channels that are 0 everywhere")
    axes.set(xlim=(0, max(115 * max(shares.values()), 5)), ylim=(len(shares) - 0.4, -0.6))
    return figure


def _figure(height: float = SIZE[1]) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
