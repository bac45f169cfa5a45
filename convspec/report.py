"""The ladder as a table for the terminal, a picture, and a JSON record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convspec import regression
from convspec.recipes import Recipe, Result
from convspec.training import write_atomically

Runs = Mapping[str, Sequence[Result]]

FOOTNOTE = (
    "test: mean over seeds with its 95 % interval (Student's t over seeds; one seed: Wilson over pictures);"
    " val: best epoch, mean over seeds; s/run: wall time a seed, features included; img/s: training alone"
)


def published(recipe: Recipe, dataset: str) -> str:
    """The chapter's figures, where the run used the chapter's own pictures."""
    if recipe.scale != "full" or dataset != recipe.dataset:
        return "-"
    return ", ".join(
        f"{'val' if part == 'validation' else part} {low:.3g}" + (f"-{high:.3g}" if high > low else "")
        for part, (low, high) in recipe.published.items()
    )


def summary(runs: Sequence[Result]) -> dict[str, object]:
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
        "images_per_second": float(np.median([run.images_per_second for run in runs])),
        "peak_memory_mib": max(run.peak_memory_mib for run in runs),
        "seeds": [run.seed for run in runs],
    }


def table(runs: Runs) -> list[str]:
    """One line a rung, under a header."""
    lines = [f"{'rung':<18}  {'published':<24}  {'test':^22}  {'val':>5}  {'train':>5}  {'seeds':>5}  {'s/run':>7}  {'img/s':>7}  {'MiB':>6}"]
    for name, group in runs.items():
        figures = summary(group)
        low, high = figures["test_interval"]
        validation = figures["validation_accuracy"]
        lines.append(
            f"{name:<18}  {published(group[0].recipe, group[0].dataset['name']):<24}"
            f"  {figures['test_accuracy']:.3f} [{low:.3f}, {high:.3f}]"
            f"  {'-' if validation is None else format(validation, '.3f'):>5}  {figures['train_accuracy']:.3f}"
            f"  {len(group):>5}  {figures['seconds']:>7.1f}  {figures['images_per_second']:>7.0f}  {figures['peak_memory_mib']:>6}"
        )
    return lines


def picture(runs: Runs, path: Path) -> None:
    """The ladder as a chart: every seed's test accuracy, the mean with its interval, and the published figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.62 * len(runs) + 1.5), layout="constrained")
    axes = figure.subplots()
    for row, (name, group) in enumerate(runs.items()):
        figures = summary(group)
        low, high = figures["test_interval"]
        axes.plot([low, high], [row, row], color="#4477aa", linewidth=6, alpha=0.35, solid_capstyle="butt", label="95 % interval" if row == 0 else None)
        axes.plot([run.test_accuracy for run in group], [row] * len(group), "o", color="#4477aa", markersize=5, alpha=0.7, label="measured, test, one seed" if row == 0 else None)
        axes.annotate(f"{figures['test_accuracy']:.3f}", (figures["test_accuracy"], row), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        recipe = group[0].recipe
        if published(recipe, group[0].dataset["name"]) != "-":
            for part, (least, most) in recipe.published.items():
                axes.plot((least + most) / 2, row, marker="D" if part == "test" else "d", color="#cc6633", markersize=7, linestyle="none", fillstyle="none")
    if any(published(group[0].recipe, group[0].dataset["name"]) != "-" for group in runs.values()):
        axes.plot([], [], "d", color="#cc6633", fillstyle="none", label="published")
    first = next(iter(runs.values()))[0]
    axes.set(yticks=range(len(runs)), yticklabels=list(runs), xlabel="accuracy", ylim=(len(runs) - 0.5, -0.7))
    axes.set_title(f"The ladder at --scale {first.recipe.scale}, {', '.join(dict.fromkeys(g[0].dataset['name'] for g in runs.values()))}", loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.42 if len(runs) < 5 else -0.3), ncols=3, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    figure.savefig(partial, dpi=110)
    partial.replace(path)


def record(runs: Runs, path: Path, **session: object) -> None:
    """Everything in one JSON file: what the session was, the summary of each rung, and the raw runs."""
    content = session | {"rungs": {name: summary(group) for name, group in runs.items()}, "runs": [run.as_dict() for group in runs.values() for run in group]}
    write_atomically(path, json.dumps(content, indent=1).encode())
