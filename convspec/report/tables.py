"""The ladder as a table for the terminal, a picture, and a JSON record; the pictures it was climbed with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convspec.accuracy import statistics
from convspec.accuracy.judgement import Judgement
from convspec.files import atomic_write
from convspec.ladder.result import Result

if TYPE_CHECKING:
    pass


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
    low, high = statistics.interval(accuracies, len(runs[0].test_labels))
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


def markdown(runs: Runs, judgements: Sequence[Judgement], path: Path) -> None:
    """The ladder and its verdicts in Markdown, as a pull request shows it."""
    judged = {judgement.name: judgement for judgement in judgements}
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
    with atomic_write(path) as partial:
        partial.write_text("\n".join(lines) + "\n")


def record(runs: Runs, path: Path, **session: Any) -> None:
    """One JSON file: what the session was, the summary of each rung, and the raw runs."""
    rungs = {rung: summary(group) for rung, group in runs.items()}
    raw = [run.as_dict() for group in runs.values() for run in group]
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(session | {"rungs": rungs, "runs": raw}))
