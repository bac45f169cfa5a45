"""Records of pytest-benchmark from any machines, side by side as a table or a chart. Nothing here fails on speed."""

import json
import math
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from convspec import BadInput
from convspec.files import atomic_write
from convspec.report.tables import MAX_NAME_WIDTH, Table
from convspec.timings.verdicts import format_figure, format_seconds, ratio_of_sessions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOOTNOTES = (
    "ratio: median time by that of the first record, above 1 is slower; [95 % interval: bootstrap over the rounds of"
    " these sessions, which do not show how sessions differ; none below five, or saved without --benchmark-save-data]",
    "of limit: the share of the speed that a matrix product reached on that machine in that run",
)
COLOURS, MARKERS = ("#4477aa", "#cc6633", "#228833", "#aa3377", "#888822", "#3399bb"), "os^Dv"
GREY = "#777777"


@dataclass(frozen=True)
class Timing:
    """One benchmark in one record, times in seconds; what was not measured is None or empty."""

    work: dict[str, str]  # the same wherever the same is timed
    median: float
    seconds: list[float]  # of each round
    images_per_second: float | None = None
    flops_per_second: float | None = None
    share_of_probe: float | None = None


@dataclass(frozen=True)
class Record:
    """The benchmarks of one session on one machine."""

    label: str
    path: str
    machine: str
    versions: dict[str, str]
    timings: dict[str, Timing]


class _Stats(msgspec.Struct):
    median: Annotated[float, msgspec.Meta(ge=1e-9, lt=1e9)]
    data: list[float] | None = None


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats
    group: str | None = None
    params: Any = None
    extra_info: dict[str, Any] = {}


class _File(msgspec.Struct):
    benchmarks: Annotated[list[_Benchmark], msgspec.Meta(min_length=1)]
    machine_info: dict[str, Any] = {}


def read(paths: Sequence[Path]) -> list[Record]:
    """Read files that pytest-benchmark wrote; records of one label are numbered.

    Raises BadInput for a file that is missing, damaged or something else.
    """
    records = [read_record(path) for path in paths]
    counts = Counter(record.label for record in records)
    numbers = {label: iter(range(1, count + 1)) for label, count in counts.items() if count > 1}
    return [replace(r, label=f"{r.label} #{next(numbers[r.label])}") if r.label in numbers else r for r in records]


def read_record(path: Path) -> Record:
    """Read one file; raises BadInput as `read` does."""
    remedy = "give files that pytest wrote with --benchmark-json or --benchmark-save"
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        content = msgspec.convert(json.loads(path.read_bytes()), _File)  # json, as it reads NaN
        timings: dict[str, Timing] = {}
        for benchmark in content.benchmarks:
            # Where the package is installed, its benchmarks lie elsewhere under the same names.
            name = re.sub(r"^[^:]*\bbenchmarks/", "", benchmark.fullname)
            timings[benchmark.fullname if name in timings else name] = _timing(benchmark)
        machines = [*filter(None, (benchmark.extra_info.get("machine") for benchmark in content.benchmarks))]
        processor = content.machine_info.get("cpu", {}).get("brand_raw")
        machine, versions = _machine(machines or [{"processor": processor}])
    except FileNotFoundError:
        raise BadInput(f"{shown!r} is missing; {remedy}") from None
    except OSError as error:
        raise BadInput(f"{shown!r} cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{shown!r} is damaged or no record of pytest-benchmark ({reason}); {remedy}") from error
    return Record(re.sub(r"^\d{4}_(?=.)", "", Path(shown).stem), shown, machine, versions, timings)


def _timing(benchmark: _Benchmark) -> Timing:
    info = benchmark.extra_info
    facts = {"group": benchmark.group or "no group", "params": benchmark.params}
    facts |= {fact: info.get(fact) for fact in ("recipe", "batch_size", "pictures")}
    # A parameter that JSON has no form for is kept with its address, which says nothing.
    work = {fact: re.sub(r" at 0x\w+", "", str(value)) for fact, value in facts.items() if value is not None}
    figures = (_positive(info.get(name)) for name in ("images_per_second", "flops_per_second", "share_of_probe"))
    return Timing(work, benchmark.stats.median, [*filter(_positive, benchmark.stats.data or [])], *figures)


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def _machine(machines: Sequence[dict[str, Any]]) -> tuple[str, dict[str, str]]:
    """Return a line on the machine, and its versions; runs of the ladder may have other threads than timings."""
    facts, settings = machines[0], []
    for fact in ("cores", "threads", "precision"):
        values = dict.fromkeys(str(machine.get(fact) or "unknown") for machine in machines)
        settings.append(f"{fact} {' or '.join(values)}")
    counts = Counter(map(str, facts.get("accelerators") or []))
    accelerators = [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]
    devices = " with ".join([*accelerators, str(facts.get("processor") or "unknown")])
    versions = {"backend": facts.get("backend")} | (facts.get("versions") or {})
    return ", ".join([devices, *settings]), {name: str(v) for name, v in versions.items() if v}


def compare(records: Sequence[Record]) -> Table:
    """Return a row for each benchmark: its median time, speed, share of the machine's limit and ratio by record.

    The ratio is to the first record. What is missing or changed, and versions that differ, stand below.
    """
    names, groups = name_benchmarks(records)
    titles = [title for r in records for title in (f"{r.label}: median", "speed", "of limit", "ratio")]
    rows = []
    for group, keys in groups.items():
        rows.append([group])
        for key in keys:
            first, *others = (record.timings.get(key) for record in records)
            cells = [names[key], *_cells(None, first)[:3]]  # the first record has no ratio to itself
            rows.append(cells + [cell for timing in others for cell in _cells(first, timing)])
    below = [*list_differences(records, names), *FOOTNOTES]
    return Table(["benchmark", *titles[:3], *titles[4:]], rows, above=describe(records), below=below)


def name_benchmarks(records: Sequence[Record]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return a readable name for each benchmark of any record, and the benchmarks of each group."""
    timings = {key: timing for record in reversed(records) for key, timing in record.timings.items()}
    names: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for record in records for key in record.timings):
        groups.setdefault(timings[key].work["group"], []).append(key)
        function, bracket, params = key.partition("[")
        names[key] = function.rpartition("::")[2].removeprefix("test_").replace("_", " ") + bracket + params
    counts = Counter(names.values())
    return {key: name if counts[name] == 1 else key for key, name in names.items()}, groups


def describe(records: Sequence[Record]) -> list[str]:
    """Return a line on each record: its label, file, machine and versions."""
    versions = (", ".join(f"{name} {number}" for name, number in r.versions.items()) or "unknown" for r in records)
    return [f"{r.label} ({r.path}): {r.machine}; versions: {v}" for r, v in zip(records, versions, strict=True)]


def list_differences(records: Sequence[Record], names: dict[str, str]) -> list[str]:
    """Return a line for what a record lacks, and for versions or a benchmark's work that differ between records."""
    absent = {r.label: [name for key, name in names.items() if key not in r.timings] for r in records}
    lines = [f"missing in {label}: {'; '.join(missing)}" for label, missing in absent.items() if missing]
    facts_by_topic = {"differs: version of ": {record.label: record.versions for record in records}}
    for key, name in names.items():
        facts_by_topic[f"changed: {name}: "] = {r.label: r.timings[key].work for r in records if key in r.timings}
    for topic, by_label in facts_by_topic.items():
        for fact in dict.fromkeys(fact for facts in by_label.values() for fact in facts):
            values = {label: facts[fact] for label, facts in by_label.items() if fact in facts}
            if len(set(values.values())) > 1:
                lines.append(f"{topic}{fact}: {', '.join(f'{value} ({label})' for label, value in values.items())}")
    return lines


def is_same_work(*timings: Timing) -> bool:
    """Return whether no two timings differ in a fact about their work that both have."""
    facts = {fact for timing in timings for fact in timing.work.items()}
    return len(facts) == len(dict(facts))


def _cells(first: Timing | None, timing: Timing | None) -> list[str]:
    """Return a record's cells for a benchmark: time, speed, share of the machine's limit, ratio to the first record."""
    if timing is None:
        return [format_time(timing), "-", "-", "-"]
    speed, share = "unknown", "unknown"
    if timing.images_per_second:
        speed = f"{format_figure(timing.images_per_second)} img/s"
    elif timing.flops_per_second:
        speed = f"{format_figure(timing.flops_per_second / 1e9)} GFLOP/s"
    if timing.share_of_probe:
        share = f"{format_figure(timing.share_of_probe * 100)} %"
    ratio = "-" if first is None else "changed"
    if first and is_same_work(first, timing):
        ratio = str(ratio_of_sessions(first.seconds, timing.seconds) or format_figure(timing.median / first.median))
    return [format_time(timing), speed, share, ratio]


def format_time(timing: Timing | None) -> str:
    """Return the median in the unit that suits it, "missing" for None."""
    return format_seconds(timing.median) if timing else "missing"


def plot(records: Sequence[Record], path: Path) -> None:
    """Draw each benchmark's speed and its share of the machine's limit, a dot for each record.

    Speed is in images per second or, where no record has them, runs of the benchmark per second. Raises BadInput where
    `path` does not end like an image file.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if path.suffix.lower() not in (endings := (".png", ".svg", ".pdf")):
        raise BadInput(f"{str(path)!r} is no name of a picture; end it in {', '.join(endings)}")
    figure = Figure(layout="constrained")
    speeds, shares = figure.subplots(1, 2, sharey=True)
    names, groups = name_benchmarks(records)
    ticks: list[tuple[float, str, str]] = []
    bottom = 0.0  # inches from the top
    for group, keys in groups.items():
        ticks.append((bottom + 0.2, group, "bold"))
        bottom += 0.35
        for key in keys:
            timings = [record.timings.get(key) for record in records]
            name = names[key] if is_same_work(*filter(None, timings)) else f"{names[key]} (changed)"
            label = textwrap.wrap(name, MAX_NAME_WIDTH, break_on_hyphens=False)
            height = max(0.17 * len(label), 0.2 * len(records)) + 0.12
            ticks.append((bottom + height / 2, "\n".join(label), "normal"))
            _draw_timings(speeds, shares, bottom + height / 2 - 0.1 * (len(records) - 1), timings)
            bottom += height
    places, labels, weights = zip(*ticks, strict=True)
    speeds.set_yticks(places, labels, fontsize=9, parse_math=False)
    for tick, weight in zip(speeds.get_yticklabels(), weights, strict=True):
        tick.set_fontweight(weight)
    speeds.set(
        xscale="log", ylim=(bottom, 0), title="raw speed", xlabel="images, else runs of the benchmark, per second"
    )
    shares.set(title="share of the machine's own limit", xlabel="% of what a matrix product reached")
    low, high = speeds.get_xlim()
    speeds.set_xlim(low, high * (high / low) ** 0.35)  # room for the figures beside the dots
    shares.set_xlim(0, max(100.0, *shares.dataLim.intervalx[1:]) * 1.25)
    shares.axvline(100, color=GREY, linewidth=1, linestyle=":")
    for axes in (speeds, shares):
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(left=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
    handles = [Line2D([], [], linestyle="", **_marker(place)) for place in range(len(records))]
    titles = [f"{record.label}: {record.machine}".replace("$", r"\$") for record in records]
    figure.legend(handles, titles, loc="outside lower center", frameon=False, fontsize=9)
    figure.set_size_inches(13, bottom + 1.2 + 0.22 * len(records))
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=110)


def _draw_timings(speeds: "Axes", shares: "Axes", top: float, timings: Sequence[Timing | None]) -> None:
    """Draw a benchmark's dots with their figures, a record below the other."""
    of_images = any(timing and timing.images_per_second for timing in timings)
    for place, timing in enumerate(timings):
        speed = share = None
        if timing:
            speed = timing.images_per_second if of_images else 1 / timing.median
            share = timing.share_of_probe and timing.share_of_probe * 100
        for axes, value, unit in ((speeds, speed, "img/s" if of_images else "runs/s"), (shares, share, "%")):
            lane, style = top + 0.2 * place, dict[str, Any](va="center", fontsize=8, textcoords="offset points")
            if value is None:
                text, where = "unknown" if timing else "missing", ("axes fraction", "data")
                axes.annotate(text, (0, lane), (4, 0), xycoords=where, color=GREY, **style)
            else:
                axes.plot(value, lane, clip_on=False, **_marker(place))
                axes.annotate(f"{format_figure(value)} {unit}", (value, lane), (7, 0), **style)


def _marker(place: int) -> dict[str, Any]:
    return {"marker": MARKERS[place % len(MARKERS)], "color": COLOURS[place % len(COLOURS)]}
