"""Tables as text and Markdown; the ladder's figures, its two tables and its record."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convspec.accuracy import statistics
from convspec.accuracy.measures import Measures, measure
from convspec.data.layouts import printable
from convspec.files import atomic_write

if TYPE_CHECKING:
    from convspec.accuracy.judgement import Judgement
    from convspec.ladder.result import Result

Runs = Mapping[str, Sequence["Result"]]  # by rung, in the ladder's order

SCHEMA = 1  # of ladder.json; one more where a reader of the last one would misread it
MAX_NAME_WIDTH, MAX_CLASS_WIDTH = 44, 16
COLUMNS = {
    "rung": "<", "pictures": "<", "published": "<", "test": "<", "val": ">", "train": ">", "seeds": ">",
    "s/run": ">", "img/s": ">", "base img": ">", "peak MiB": ">",
}  # fmt: skip
FOOTNOTES = (
    "test: mean and 95 % interval: Student's t over seeds; for one seed, or equal ones, Wilson's over pictures.",
    "val: best epoch. train: last epoch. s/run: median wall time, the base's features included. img/s: training alone.",
    "base img: pictures that went forward through the base in one run.",
)

WORTH_COLUMNS = {
    "rung": "<", "test": ">", "balanced": ">", "lowest recall": "<", "most frequent mistake": "<",
    "calibration error": ">",
}  # fmt: skip
WORTH_FOOTNOTES = (
    "balanced: mean of the recalls. recall: share of the test pictures of a class that is recognised.",
    "calibration error: mean distance of confidence and accuracy.",
)


@dataclass(frozen=True)
class Table:
    """Rows of text under titles, between lines of text; a row of a single cell names a group of rows.

    `alignment` has "<" (left) or ">" (right) for each column; by default all but the first are right-aligned.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    alignment: str = ""
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    @property
    def _sides(self) -> str:
        return self.alignment or "<" + ">" * (len(self.titles) - 1)

    def text(self) -> str:
        """Return the table for a terminal; a long name in the first column continues on lines of its own."""
        rows = [self.titles, *self.rows]
        widths = [max(map(len, column)) for column in zip(*(row for row in rows if len(row) > 1), strict=True)]
        widths[0] = min(widths[0], MAX_NAME_WIDTH)
        lines = []
        for name, *cells in rows:
            if not cells:
                lines += ["", name]
                continue
            first, *more = textwrap.wrap(name, MAX_NAME_WIDTH, subsequent_indent="  ", break_on_hyphens=False) or [""]
            padded = (f"{c:{side}{width}}" for c, side, width in zip([first, *cells], self._sides, widths, strict=True))
            lines += ["  ".join(padded).rstrip(), *more]
        return "\n\n".join("\n".join(part) for part in (self.above, lines, self.below) if part)

    def markdown(self) -> str:
        """Return the table for a page, between two lists of the lines above and below."""
        blank = [""] * (len(self.titles) - 1)
        rules = ["---" if side == "<" else "---:" for side in self._sides]
        cells = [[*map(escape, row)] if len(row) > 1 else [f"**{escape(row[0])}**", *blank] for row in self.rows]
        table = [f"| {' | '.join(row)} |".replace("\n", " ") for row in ([*map(escape, self.titles)], rules, *cells)]
        above, below = ([f"- {escape(line)}" for line in lines] for lines in (self.above, self.below))
        return "\n\n".join("\n".join(part) for part in (above, table, below) if part) + "\n"


def escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\|<*`~&]|\](?=\()|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)


def format_range(low: float, high: float) -> str:
    """Return "0.7-0.72", or "0.9" for a range of one value."""
    return f"{low:.3g}" + (f"-{high:.3g}" if high > low else "")


def published(result: "Result") -> dict[str, tuple[float, float]]:
    """Return the chapter's accuracies by part; none unless the run is of a rung at full on the chapter's pictures."""
    recipe = result.recipe
    return recipe.published if recipe.scale == "full" and result.dataset["name"] == recipe.dataset else {}


def format_published(result: "Result") -> str:
    """Return the chapter's accuracies as one cell of a table, "-" where there are none."""
    spans = published(result).items()
    return ", ".join(f"{part.replace('validation', 'val')} {format_range(*span)}" for part, span in spans) or "-"


def summary(runs: Sequence["Result"]) -> dict[str, Any]:
    """Return the figures of one rung over its seeds; what was not measured is None."""
    accuracies = [run.test_accuracy for run in runs]
    low, high = statistics.interval(accuracies, len(runs[0].test_labels))
    validation = [run.validation_accuracy for run in runs if run.validation_accuracy is not None]
    speeds = [run.images_per_second for run in runs if run.images_per_second]
    return {
        "test_accuracy": float(np.mean(accuracies)),
        "test_interval": [max(low, 0.0), min(high, 1.0)],
        "validation_accuracy": float(np.mean(validation)) if validation else None,
        "train_accuracy": float(np.mean([run.history["accuracy"][-1] for run in runs])),
        "seconds": float(np.median([run.wall_seconds for run in runs])),
        "images_per_second": float(np.median(speeds)) if speeds else None,
        "peak_memory_mib": max((run.peak_memory_mib for run in runs if run.peak_memory_mib), default=None),
        "seeds": [run.seed for run in runs],
    }


def _row(rung: str, runs: Sequence["Result"]) -> list[str]:
    figures = summary(runs)
    low, high = figures["test_interval"]
    validation, speed = figures["validation_accuracy"], figures["images_per_second"]
    return [
        rung,
        runs[0].dataset["name"],
        format_published(runs[0]),
        f"{figures['test_accuracy']:.3f} [{low:.3f}, {high:.3f}]",
        "-" if validation is None else f"{validation:.3f}",
        f"{figures['train_accuracy']:.3f}",
        str(len(runs)),
        f"{figures['seconds']:.1f}",
        "unknown" if speed is None else f"{speed:.0f}",
        "-" if runs[0].base_pictures is None else str(runs[0].base_pictures),
        str(figures["peak_memory_mib"] or "unknown"),
    ]


def ladder(runs: Runs) -> Table:
    """Return the ladder's table, a row for each rung, with its pictures where rungs have different ones."""
    columns, rows = dict(COLUMNS), [_row(rung, group) for rung, group in runs.items()]
    if len(by_dataset(runs)) == 1:
        rows = [[rung, *cells] for rung, _, *cells in rows]
        del columns["pictures"]
    beside = [f"timed in one thread each, {count} runs at once."] if (count := at_once(runs)) > 1 else []
    return Table([*columns], rows, "".join(columns.values()), below=[*FOOTNOTES, *beside])


def at_once(runs: Runs) -> int:
    """Return how many runs shared the machine."""
    return max((run.machine.get("processes", 1) for group in runs.values() for run in group), default=1)


def by_dataset(runs: Runs) -> dict[str, Runs]:
    """Return the runs of each dataset: accuracies on others cannot be compared."""
    names = dict.fromkeys(group[0].dataset["name"] for group in runs.values())
    return {name: {rung: group for rung, group in runs.items() if group[0].dataset["name"] == name} for name in names}


def best_rung(runs: Runs) -> str:
    """Return the rung with the highest mean test accuracy, on the dataset that most rungs have."""
    common = max(by_dataset(runs).values(), key=len)
    return max(common, key=lambda rung: summary(common[rung])["test_accuracy"])


def measures(runs: Sequence["Result"]) -> Measures:
    """Return the measures beside accuracy of one rung, over its seeds."""
    return measure([run.as_run() for run in runs], runs[0].dataset["classes"])


def short(name: str) -> str:
    """Return the name of a class, as `printable` has it, in up to 16 characters."""
    name = printable(name)
    return name if len(name) <= MAX_CLASS_WIDTH else f"{name[: MAX_CLASS_WIDTH - 3]}..."


def worth(runs: Runs) -> Table:
    """Return the table of measures beside accuracy, with the rungs for which they say more than the accuracy."""
    rows, majorities = [], []
    for rung, group in runs.items():
        if (measured := measures(group)).say_more_than_accuracy:
            (name, recall), confusions = measured.lowest, measured.confusions
            accuracies = (f"{value:.3f}" for value in (summary(group)["test_accuracy"], measured.balanced))
            mistake = " as ".join(map(short, confusions[0][:2])) if confusions else "-"
            calibration = f"{measured.calibration_error:.3f}"
            rows.append([rung, *accuracies, f"{recall:.3f} {short(name)}", mistake, calibration])
            common = f"{measured.commonest!r} reaches {measured.majority:.3f}"
            majorities.append(f"{group[0].dataset['name']}: always answering {common}")
    above = [*dict.fromkeys(majorities)]
    return Table([*WORTH_COLUMNS], rows, "".join(WORTH_COLUMNS.values()), above, WORTH_FOOTNOTES)


def markdown(
    runs: Runs, judgements: Sequence["Judgement"], advice: Sequence[str], code: Sequence[str], path: Path
) -> None:
    """Write the ladder, a gate's outcome for each rung, the verdicts, and lines of advice and of code as Markdown."""
    table, outcomes = ladder(runs), {judgement.name: judgement.outcome for judgement in judgements}
    gates = {name: "no baseline" if outcome == "missing" else outcome for name, outcome in outcomes.items()}
    rows = [[*row, gates.get(row[0], "-")] for row in table.rows]
    below = [*("\n  ".join(judgement.lines) for judgement in judgements), *table.below]
    text = Table([*table.titles, "gate"], rows, table.alignment + "<", below=below).markdown()
    if (beside := worth(runs)).rows:
        text += f"\n{beside.markdown()}"
    if advice:
        lines = [f"- {escape(line)}" for line in advice] + (["", "```python", *code, "```"] if code else [])
        text += "\n".join(["", "## Recommendation", "", *lines, ""])
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def skipped(runs: Runs) -> list[str]:
    """Return how many files of each dataset were left out or read in part, and why each was."""
    lines = []
    for name, dataset in {run.dataset["name"]: run.dataset for group in runs.values() for run in group}.items():
        for key, outcome in (("skipped", "left out"), ("incomplete", "read in part")):
            if reasons := dataset.get(key, []):
                lines.append(f"{name}: {len(reasons)} file{'s' * (len(reasons) > 1)} {outcome}")
                lines += [f"  {reason}" for reason in reasons]
    return lines


def record(runs: Runs, path: Path, **session: Any) -> None:
    """Write one JSON file with facts on the session, the summary and measures of each rung, and the raw runs."""
    rungs = {}
    for rung, group in runs.items():
        measured = measures(group)
        rungs[rung] = summary(group) | {
            "majority_share": measured.majority,
            "balanced_accuracy": measured.balanced,
            "recalls": measured.recalls,
            "calibration_error": measured.calibration_error,
        }
    raw = [run.as_dict() for group in runs.values() for run in group]
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"schema": SCHEMA} | session | {"rungs": rungs, "runs": raw}))
