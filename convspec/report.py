"""The ladder as a table for the terminal, a picture, and a JSON record; the pictures it was climbed with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convspec import regression
from convspec.augmentation import Augmentation
from convspec.datasets import Dataset
from convspec.images import generator
from convspec.judgement import Judgement
from convspec.recipes import RECIPES, RUNGS, Result
from convspec.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Mapping[str, Sequence[Result]]

FOOTNOTE = (
    "test: mean and its 95 % interval (Student's t over seeds; for one seed Wilson over pictures). val: best epoch."
    "\ntrain: last epoch. s/run: median wall time, the base's features included. img/s: training steps alone."
    "\nbase img: pictures that went through the base, forward, in one run."
)
COLUMNS = {
    "rung": "<", "published": "<", "test": "<", "val": ">", "train": ">", "seeds": ">",
    "s/run": ">", "img/s": ">", "base img": ">", "peak MiB": ">",
}  # fmt: skip
COLUMNS_OF_PICTURES = 8
MOST_ROWS = 10


def published(result: Result) -> str:
    """The chapter's figures, where it has any and the run used its own pictures and schedule; "-" elsewhere."""
    recipe = result.recipe
    if recipe.scale != "full" or result.dataset["name"] != recipe.dataset:
        return "-"
    figures = [
        f"{'val' if part == 'validation' else part} {low:.3g}" + (f"-{high:.3g}" if high > low else "")
        for part, (low, high) in recipe.published.items()
    ]
    return ", ".join(figures) or "-"


def summary(runs: Sequence[Result]) -> dict[str, Any]:
    """The figures of one rung over its seeds."""
    accuracies = [run.test_accuracy for run in runs]
    low, high = regression.interval(accuracies, len(runs[0].test_labels))
    validation = [run.validation_accuracy for run in runs if run.validation_accuracy is not None]
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_interval": [max(low, 0.0), min(high, 1.0)],
        "validation_accuracy": float(np.mean(validation)) if validation else None,
        "train_accuracy": float(np.mean([run.history["accuracy"][-1] for run in runs])),
        "seconds": float(np.median([run.wall_seconds for run in runs])),
        "images_per_second": float(np.median([run.images_per_second or np.nan for run in runs])),
        "peak_memory_mib": max(run.peak_memory_mib or 0 for run in runs),
        "seeds": [run.seed for run in runs],
    }


def table(runs: Runs) -> list[str]:
    """One line a rung, under a line of titles."""
    rows = [{title: title for title in COLUMNS}]
    for rung, group in runs.items():
        figures = summary(group)
        low, high = figures["test_interval"]
        validation = figures["validation_accuracy"]
        cells = (
            rung,
            published(group[0]),
            f"{figures['test_accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            "-" if validation is None else f"{validation:.3f}",
            f"{figures['train_accuracy']:.3f}",
            str(len(group)),
            f"{figures['seconds']:.1f}",
            f"{figures['images_per_second']:.0f}",
            "-" if group[0].base_pictures is None else str(group[0].base_pictures),
            str(figures["peak_memory_mib"]),
        )
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    widths = {title: max(len(row[title]) for row in rows) for title in COLUMNS}
    return ["  ".join(format(row[t], f"{side}{widths[t]}") for t, side in COLUMNS.items()).rstrip() for row in rows]


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
            low, high = regression.next_run(found, group[0].dataset["pictures"][part])
            verdict = "reproduced" if low <= highest and lowest <= high else "not reproduced"
            measured = f"{np.mean(found):.3f}"
            rows.append((name, part, chapter, measured, str(len(group)), f"{low:.3f} to {high:.3f}", verdict))
    return rows


def claims(runs: Runs) -> list[str]:
    """The rows of `claim_rows` as lines."""
    rows = claim_rows(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def picture(runs: Runs, path: Path) -> None:
    """The ladder as a chart, in a file."""
    _save(chart(runs), path)


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


def skipped(runs: Runs) -> list[str]:
    """How many files of each dataset were left out, and why each was."""
    found = {run.dataset["name"]: run.dataset["skipped"] for group in runs.values() for run in group}
    lines = []
    for name, reasons in found.items():
        if reasons:
            lines += [
                f"{name}: {len(reasons)} file{'s' * (len(reasons) > 1)} left out",
                *(f"  {reason}" for reason in reasons),
            ]
    return lines


def samples(dataset: Dataset, path: Path) -> None:
    """The rows of `sample_rows` as a picture."""
    _save_grid(*sample_rows(dataset), path)


def sample_rows(dataset: Dataset) -> tuple[list[list[np.ndarray]], list[str]]:
    """The first training pictures of each of up to ten classes, and for each its name and counts (figure 5.8)."""
    rows, titles = [], []
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for label, name in enumerate(dataset.classes[:MOST_ROWS]):
        rows.append(list(dataset.train.images[np.flatnonzero(dataset.train.labels == label)[:COLUMNS_OF_PICTURES]]))
        counts = [f"{np.sum(split.labels == label):,} {part}" for part, split in parts.items() if split is not None]
        titles.append(f"{name}: {', '.join(counts)}")
    return rows, titles


def views(dataset: Dataset, augmentation: Augmentation, path: Path, seed: int = 0) -> None:
    """The rows of `view_rows` as a picture."""
    _save_grid(*view_rows(dataset, augmentation, seed), path)


def view_rows(dataset: Dataset, augmentation: Augmentation, seed: int = 0) -> tuple[list[list[np.ndarray]], list[str]]:
    """The first training picture of each of up to ten classes, and how training with `seed` shows it in its first
    passes (figure 5.11)."""
    rows, titles = [], []
    for label, name in enumerate(dataset.classes[:MOST_ROWS]):
        index = np.flatnonzero(dataset.train.labels == label)[0]
        picture = dataset.train.images[index]
        shown = [augmentation(picture, generator(seed, number, index)) for number in range(COLUMNS_OF_PICTURES - 1)]
        rows.append([picture, *shown])
        titles.append(f"{name}: {dataset.train.names[index]}, then as augmented")
    return rows, titles


def flipped(dataset: Dataset, judgement: Judgement, path: Path) -> None:
    """The pictures of `flipped_pictures` as a contact sheet."""
    pictures, titles = flipped_pictures(dataset, judgement)
    if pictures:
        _save_sheet(pictures, titles, COLUMNS_OF_PICTURES // 2, path)


def flipped_pictures(dataset: Dataset, judgement: Judgement) -> tuple[list[np.ndarray], list[str]]:
    """The test pictures that flipped most consistently, with their label, the change in their rate of being right, and
    what both sides gave them in the mean: the class of most runs, and the confidence in it."""
    if not judgement.flips:
        return [], []
    shown = judgement.flips.pictures[: MOST_ROWS * COLUMNS_OF_PICTURES // 2]
    rows, titles = [], []
    for place, change in zip(shown, judgement.flips.changes, strict=False):
        said = []
        for side in (judgement.baseline, judgement.runs):
            classes = [run.predicted[place] for run in side]
            most = max(set(classes), key=classes.count)
            sure = np.mean([run.confidence[place] for run in side if run.predicted[place] == most])
            said.append(f"{dataset.classes[most]} {sure:.2f}")
        rows.append(dataset.test.images[place])
        label = dataset.classes[dataset.test.labels[place]]
        titles.append(f"{label} ({change:+.1f})\n{said[0]} > {said[1]}")
    return rows, titles


def markdown(runs: Runs, judgements: Sequence[Judgement], path: Path) -> None:
    """The ladder and its verdicts in Markdown, as a pull request shows it."""
    judged = {judgement.runs[0].recipe.name: judgement for judgement in judgements}
    lines = ["| rung | published | test [95 %] | val | seeds | s/run | gate |", "|---|---|---|---|---|---|---|"]
    for rung, group in runs.items():
        figures = summary(group)
        low, high = figures["test_interval"]
        validation = figures["validation_accuracy"]
        cells = [
            rung, published(group[0]), f"{figures['test_accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            "-" if validation is None else f"{validation:.3f}", str(len(group)), f"{figures['seconds']:.1f}",
            f"**{judged[rung].outcome}**" if rung in judged else "-",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for judgement in judgements:
        lines += ["", *(f"{'- ' if place == 0 else '  '}{line}" for place, line in enumerate(judgement.lines))]
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def _save_grid(rows: list[list[np.ndarray]], titles: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    height = 1.45 * len(rows)
    figure = Figure(figsize=(1.2 * COLUMNS_OF_PICTURES, height))
    figure.subplots_adjust(0.005, 0.05 / height, 0.995, 1 - 0.25 / height, wspace=0.04, hspace=0.25)
    grid = figure.subplots(len(rows), COLUMNS_OF_PICTURES, squeeze=False)
    for row, pictures, title in zip(grid, rows, titles, strict=True):
        row[0].set_title(ascii(title)[1:-1], loc="left", fontsize=9, parse_math=False)
        for axes in row:
            axes.axis("off")
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
    _save(figure, path)


def _save_sheet(pictures: list[np.ndarray], titles: list[str], columns: int, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=8, parse_math=False)
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)


def record(runs: Runs, path: Path, **session: Any) -> None:
    """One JSON file: what the session was, the summary of each rung, and the raw runs."""
    rungs = {rung: summary(group) for rung, group in runs.items()}
    raw = [run.as_dict() for group in runs.values() for run in group]
    with replacing(path) as partial:
        partial.write_text(json.dumps(session | {"rungs": rungs, "runs": raw}))
