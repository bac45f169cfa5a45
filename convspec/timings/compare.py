"""Timings side by side: pytest-benchmark's records from any machines, and two versions in turn on this one.

Between machines everything is reported and nothing fails. On one machine two versions are timed in alternating
processes, and a benchmark is called slower only by the rule of `regression.judge`.
"""

import json
import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from convspec import BadInput
from convspec.accuracy import statistics
from convspec.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MIN_DATA = 5  # the whole range of fewer rounds holds their median less than 93 times in 100
NAME_WIDTH = 44
FOOTNOTES = [
    "ratio: median time by that of the first record, above 1 is slower; [95 % interval: bootstrap over the rounds of"
    " these sessions, which do not show how sessions differ]",
    "of limit: the share of what a probe of the same shape of work reached on that machine in that run",
]
COLOURS, MARKERS = ("#4477aa", "#cc6633", "#228833", "#aa3377", "#888822", "#3399bb"), "os^Dv"


@dataclass(frozen=True)
class Timing:
    """One benchmark in one record; what the record does not say is None or empty."""

    work: dict[str, str]  # the same wherever the same is timed
    median: float
    seconds: list[float]  # of each round
    images_per_second: float | None
    flops_per_second: float | None
    share_of_probe: float | None


@dataclass(frozen=True)
class Record:
    """The benchmarks of one session on one machine."""

    label: str
    path: str
    machine: str
    versions: dict[str, str]
    timings: dict[str, Timing]


@dataclass(frozen=True)
class Table:
    """Lines above, titles, rows (one of a single cell names a group), lines below."""

    above: list[str]
    titles: list[str]
    rows: list[list[str]]
    below: list[str]

    def text(self) -> str:
        """For a terminal; a long name runs on in lines of its own."""
        full = [row for row in [self.titles, *self.rows] if len(row) > 1]
        widths = [max(map(len, column)) for column in list(zip(*full, strict=True))[1:]]
        lines = []
        for name, *cells in [self.titles, *self.rows]:
            first, *more = textwrap.wrap(name, NAME_WIDTH, subsequent_indent="  ", break_on_hyphens=False)
            if cells:
                figures = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
                lines += [f"{first:<{NAME_WIDTH}}  {figures}", *more]
            else:
                lines += ["", name]
        return "\n".join([*self.above, "", *lines, "", *self.below])

    def markdown(self) -> str:
        """For a page: the same as a table between two lists."""

        def escaped(texts: list[str]) -> list[str]:
            return [re.sub(r"([\\|<*_`])", r"\\\1", text) for text in texts]

        empty = [""] * (len(self.titles) - 1)
        titles, *rows = (escaped(row) for row in [self.titles, *self.rows])
        rows = [row if len(row) > 1 else [f"**{row[0]}**", *empty] for row in rows]
        table = [f"| {' | '.join(row)} |" for row in (titles, ["---", *["---:" for _ in empty]], *rows)]
        above, below = ([f"- {line}" for line in escaped(lines)] for lines in (self.above, self.below))
        return "\n".join([*above, "", *table, "", *below, ""])


def read(paths: Sequence[Path]) -> list[Record]:
    """Files that pytest-benchmark wrote; those of one name get numbers.

    Raises BadInput for a file that is missing, damaged or something else.
    """
    records = [_record(path) for path in paths]
    counts = Counter(record.label for record in records)
    numbers = {label: iter(range(1, count + 1)) for label, count in counts.items() if count > 1}
    return [replace(r, label=f"{r.label} #{next(numbers[r.label])}") if r.label in numbers else r for r in records]


def _record(path: Path) -> Record:
    remedy = "give files that pytest wrote with --benchmark-json or --benchmark-save"
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        content = json.loads(path.read_bytes())
        timings: dict[str, Timing] = {}
        for entry in content["benchmarks"]:
            # Where the package is installed, its benchmarks lie elsewhere under the same names.
            name = re.sub(r"^[^:]*\bbenchmarks/", "", entry["fullname"])
            timings[entry["fullname"] if name in timings else name] = _timing(entry)
        if not timings:
            raise ValueError("no benchmarks in it")
        told = [entry.get("extra_info", {}).get("machine") for entry in content["benchmarks"]]
        processor = content.get("machine_info", {}).get("cpu", {}).get("brand_raw")
        machine, versions = _machine(next(filter(None, told), {"processor": processor}))
    except FileNotFoundError:
        raise BadInput(f"{shown!r} is missing; {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise BadInput(f"{shown!r} is damaged or no record of pytest-benchmark ({what}); {remedy}") from error
    return Record(re.sub(r"^\d{4}_(?=.)", "", Path(shown).stem), shown, machine, versions, timings)


def _timing(entry: dict[str, Any]) -> Timing:
    told, times = entry.get("extra_info", {}), entry["stats"]
    median, seconds = _positive(times["median"]), list(filter(None, map(_positive, times.get("data") or [])))
    if median is None:
        raise ValueError(f"the median of {entry['fullname']} is {times['median']!r}")
    facts = {"group": entry.get("group") or "no group", "params": entry.get("params")}
    facts |= {fact: told.get(fact) for fact in ("recipe", "batch_size", "pictures")}
    # A parameter that JSON has no form for is kept with its address, which says nothing.
    work = {fact: re.sub(r" at 0x\w+", "", str(value)) for fact, value in facts.items() if value is not None}
    figures = (_positive(told.get(name)) for name in ("images_per_second", "flops_per_second", "share_of_probe"))
    return Timing(work, median, seconds, *figures)


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else None


def _machine(told: dict[str, Any]) -> tuple[str, dict[str, str]]:
    processor, cores, threads = (told.get(fact) or "unknown" for fact in ("processor", "cores", "threads"))
    devices = " with ".join(map(str, [*(told.get("accelerators") or []), processor]))
    versions = {"backend": told.get("backend")} | (told.get("versions") or {})
    return f"{devices}, cores {cores}, threads {threads}", {name: str(v) for name, v in versions.items() if v}


def compare(records: Sequence[Record]) -> Table:
    """One row a benchmark, and for each record its median time, speed, share of the machine's own limit and, after the
    first record, ratio to that. What is missing or changed, and versions that differ, stand below.
    """
    names, groups = _named(records)
    first, *others = records
    titles = ["benchmark", f"{first.label}: median", "speed", "of limit"]
    for record in others:
        titles += [f"{record.label}: median", "speed", "of limit", "ratio"]
    rows = []
    for group, keys in groups.items():
        rows.append([group])
        for key in keys:
            timings = [record.timings.get(key) for record in records]
            row = [names[key]]
            for timing in timings:
                row += [_time(timing), _speed(timing), _share(timing), _ratio(timings[0], timing)]
            rows.append(row[:4] + row[5:])  # the first record has no ratio to itself
    return Table(_headings(records), titles, rows, [*_differences(records, names), *FOOTNOTES])


def _named(records: Sequence[Record]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """A readable name for each benchmark of any record, and the benchmarks of each group."""
    timings = {key: timing for record in reversed(records) for key, timing in record.timings.items()}
    names: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for record in records for key in record.timings):
        groups.setdefault(timings[key].work["group"], []).append(key)
        function, bracket, params = key.partition("[")
        names[key] = function.rpartition("::")[2].removeprefix("test_").replace("_", " ") + bracket + params
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}, groups


def _headings(records: Sequence[Record]) -> list[str]:
    versions = (", ".join(f"{name} {number}" for name, number in r.versions.items()) or "unknown" for r in records)
    return [f"{r.label} ({r.path}): {r.machine}; versions: {v}" for r, v in zip(records, versions, strict=True)]


def _differences(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """What is missing, and what two records say differently of their versions or of a benchmark's work."""
    absent = {r.label: [name for key, name in names.items() if key not in r.timings] for r in records}
    lines = [f"missing in {label}: {'; '.join(missing)}" for label, missing in absent.items() if missing]
    told = {"differs: version of ": {record.label: record.versions for record in records}}
    for key, name in names.items():
        told[f"changed: {name}: "] = {r.label: r.timings[key].work for r in records if key in r.timings}
    for what, by_label in told.items():
        for fact in dict.fromkeys(fact for facts in by_label.values() for fact in facts):
            values = {label: facts[fact] for label, facts in by_label.items() if fact in facts}
            if len(set(values.values())) > 1:
                lines.append(f"{what}{fact}: {', '.join(f'{value} ({label})' for label, value in values.items())}")
    return lines


def _same_work(*timings: Timing) -> bool:
    told = {fact for timing in timings for fact in timing.work.items()}
    return len(told) == len(dict(told))


def _ratio(first: Timing | None, timing: Timing | None) -> str:
    if first is None or timing is None:
        return "-"
    if not _same_work(first, timing):
        return "changed"
    ratio = _figure(timing.median / first.median)
    data = first.seconds, timing.seconds
    if min(map(len, data)) < MIN_DATA:
        return ratio

    def of_medians(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.median(other, axis=axis) / np.median(one, axis=axis)

    low, high = stats.bootstrap(
        data, of_medians, n_resamples=1000, batch=max(10**6 // max(map(len, data)), 1), vectorized=True,
        method="percentile", confidence_level=statistics.CONFIDENCE, random_state=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return f"{ratio} [{_figure(low)}, {_figure(high)}]"


def _figure(value: float) -> str:
    """Three significant digits, or all of a whole number."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def _time(timing: Timing | None) -> str:
    if timing is None:
        return "missing"
    scale, unit = next((s, u) for s, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if timing.median * s >= 1 or u == "us")
    return f"{_figure(timing.median * scale)} {unit}"


def _speed(timing: Timing | None) -> str:
    if timing and timing.images_per_second:
        return f"{_figure(timing.images_per_second)} img/s"
    if timing and timing.flops_per_second:
        return f"{_figure(timing.flops_per_second / 1e9)} GFLOP/s"
    return "unknown" if timing else "-"


def _share(timing: Timing | None) -> str:
    if timing and timing.share_of_probe:
        return f"{_figure(timing.share_of_probe * 100)} %"
    return "unknown" if timing else "-"


def plot(records: Sequence[Record], path: Path) -> None:
    """The same as a chart: each record's speed, and beside it the share of its machine's own limit.

    Where no record knows images per second, speed is runs of the benchmark per second. Raises BadInput where the
    ending of `path` is not that of a picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if path.suffix not in (endings := (".png", ".svg", ".pdf")):
        raise BadInput(f"{str(path)!r} is no name of a picture; end it in {', '.join(endings)}")
    figure = Figure(layout="constrained")
    speeds, shares = figure.subplots(1, 2, sharey=True)
    names, groups = _named(records)
    ticks: list[tuple[float, str, str]] = []
    bottom = 0.0  # inches from the top
    for group, keys in groups.items():
        ticks.append((bottom + 0.2, group, "bold"))
        bottom += 0.35
        for key in keys:
            timings = [record.timings.get(key) for record in records]
            told = [timing for timing in timings if timing]
            name = names[key] if _same_work(*told) else f"{names[key]} (changed)"
            label = textwrap.wrap(name, NAME_WIDTH, break_on_hyphens=False)
            height = max(0.17 * len(label), 0.2 * len(records)) + 0.12
            ticks.append((bottom + height / 2, "\n".join(label), "normal"))
            of_images = any(timing.images_per_second for timing in told)
            for place, timing in enumerate(timings):
                lane = bottom + height / 2 + 0.2 * (place - (len(records) - 1) / 2)
                speed = share = None
                if timing:
                    speed = timing.images_per_second if of_images else 1 / timing.median
                    share = timing.share_of_probe and timing.share_of_probe * 100
                _dot(speeds, place, lane, speed, "img/s" if of_images else "runs/s", timing is None)
                _dot(shares, place, lane, share, "%", timing is None)
            bottom += height
    places, labels, weights = zip(*ticks, strict=True)
    speeds.set_yticks(places, labels, fontsize=9, parse_math=False)
    for tick, weight in zip(speeds.get_yticklabels(), weights, strict=True):
        tick.set_fontweight(weight)
    speeds.set(
        xscale="log", ylim=(bottom, 0), title="raw speed", xlabel="images, else runs of the benchmark, per second"
    )
    shares.set(title="share of the machine's own limit", xlabel="% of what a probe of the same shape of work reached")
    low, high = speeds.get_xlim()
    speeds.set_xlim(low, high * (high / low) ** 0.35)  # room for the figures beside the dots
    shares.set_xlim(0, max(100.0, *shares.dataLim.intervalx[1:]) * 1.25)
    shares.axvline(100, color="#777777", linewidth=1, linestyle=":")
    for axes in (speeds, shares):
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(left=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [
        Line2D([], [], linestyle="", marker=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)])
        for place in range(len(records))
    ]
    whom = [f"{record.label}: {record.machine}".replace("$", r"\$") for record in records]
    figure.legend(handles, whom, loc="outside lower center", frameon=False, fontsize=9)
    figure.set_size_inches(13, bottom + 1.2 + 0.22 * len(records))
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=110)


def _dot(axes: "Axes", place: int, lane: float, value: float | None, unit: str, missing: bool) -> None:
    style: dict[str, Any] = {"va": "center", "fontsize": 8, "textcoords": "offset points"}
    if value is None:
        text, where = "missing" if missing else "unknown", ("axes fraction", "data")
        axes.annotate(text, (0, lane), (4, 0), xycoords=where, color="#777777", **style)
    else:
        marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
        axes.plot(value, lane, marker, color=colour, clip_on=False)
        axes.annotate(f"{_figure(value)} {unit}", (value, lane), (7, 0), **style)
