"""Two versions timed in turn on one machine; a benchmark is called slower only where noise cannot explain it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np

from convspec import BadInput
from convspec.report.tables import Table
from convspec.timings import compare
from convspec.timings.compare import Record
from convspec.timings.verdicts import MIN_PAIRS, RELATIVE_FLOOR, Outcome, Ratio, Times, judge, ratio_of_pairs

ABSOLUTE_FLOOR = 0.002  # seconds: a tick of the system's scheduler is 1 to 4 ms
# What --interleave times where --bench says nothing: what convspec itself does to each picture.
QUICK = "(augmented_in_a_fraction and ImageDataGenerator) or (read_as_fast and nearest)"
ROUNDS = 10
# Run by a side's process: pytest, if the package is the side's own.
PYTEST = """
import importlib.util, os, sys
side, *arguments = sys.argv[1:]
origin = importlib.util.find_spec("convspec").origin
if not os.path.samefile(os.path.dirname(os.path.dirname(origin)), side):
    sys.exit(f"PYTHONPATH={side}, but convspec is imported from {origin}")
import pytest
sys.exit(pytest.main(arguments))
"""


def judge_rounds(base: Times, new: Times) -> tuple[Ratio, Outcome]:
    """Return the ratio of `new` to `base`, paired, and what it says; up to 2 ms more is no slower."""
    ratio = ratio_of_pairs(new, base)
    return ratio, judge(ratio, 1 + max(RELATIVE_FLOOR, ABSOLUTE_FLOOR / float(np.median(base))))


def interleave(base: Path, expression: str, rounds: int, progress: TextIO) -> tuple[Table, bool]:
    """Time the benchmarks of another version and of this one in turn, each run in a process of its own.

    Args:
        base: folder of the other version.
        expression: pytest's -k, which picks the benchmarks.
        rounds: runs of each version; which of them comes first alternates.
        progress: stream for a line after each run.

    Returns:
        The table, and False where a benchmark is slower (see `judge_rounds`) or has vanished, be it from one round.

    Raises:
        BadInput: if a version cannot be run, or the rounds are too few.
    """
    if rounds < MIN_PAIRS:
        raise BadInput(f"--rounds {rounds} cannot tell a difference from noise; give {MIN_PAIRS} or more")
    sides = {"base": Path(os.path.abspath(base)), "new": Path(__file__).parents[2]}
    runs: dict[str, list[Record]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="convspec-compare-") as folder:
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                start = time.monotonic()
                runs[side].append(_time_side(sides[side], expression, Path(folder, f"{number}-{side}")))
                seconds = time.monotonic() - start
                print(f"round {number + 1} of {rounds}: {side}, {seconds:.1f} s", file=progress, flush=True)
    records = [merge_rounds(side, sides[side], runs[side]) for side in sides]
    table, passed = compare_sides(*records)
    differing = []
    for record in records:
        if lost := {key for run in runs[record.label] for key in run.timings} - record.timings.keys():
            differing.append(f"not in every round of {record.label}, and so not judged: {'; '.join(sorted(lost))}")
            passed = False
    for file in dict.fromkeys(["conftest.py", *(key.partition("::")[0] for r in records for key in r.timings)]):
        texts = {path.read_bytes() for side in sides.values() if (path := find_benchmarks(side) / file).is_file()}
        if len(texts) > 1:
            differing.append(f"{file} differs between the sides: so may what it times")
    rule = (
        f"{rounds} rounds, paired. slower: the whole 95 % interval of new / base lies above {1 + RELATIVE_FLOOR:g}, and"
        f" {ABSOLUTE_FLOOR * 1000:g} ms above base. faster: it ends below 1. no slower: it ends below one of these two."
        " cannot tell: none of these; more rounds narrow the interval."
    )
    return replace(table, below=[*table.below, *differing, rule]), passed


def merge_rounds(label: str, folder: Path, rounds: Sequence[Record]) -> Record:
    """Return one record of the benchmarks that every round has, with the median of each round as its times."""
    timings = {}
    for key, timing in rounds[0].timings.items():
        if all(key in record.timings for record in rounds):
            medians = [record.timings[key].median for record in rounds]
            timings[key] = replace(timing, median=float(np.median(medians)), seconds=medians)
    return replace(rounds[0], label=label, path=str(folder), timings=timings)


def compare_sides(base: Record, new: Record) -> tuple[Table, bool]:
    """Return the table of two merged records, and False where a benchmark is slower or has vanished."""
    names, groups = compare.name_benchmarks([base, new])
    rows, passed = [], True
    for group, keys in groups.items():
        rows.append([group])
        for key in keys:
            old, now = base.timings.get(key), new.timings.get(key)
            ratio, outcome = "-", "changed" if old and now else "vanished" if old else "not in base"
            if old and now and compare.is_same_work(old, now):
                figure, outcome = judge_rounds(old.seconds, now.seconds)
                ratio = str(figure)
            passed = passed and outcome not in ("slower", "vanished")
            rows.append([names[key], compare.format_time(old), compare.format_time(now), ratio, outcome])
    titles = ["benchmark", "base", "new", "new / base", "verdict"]
    above, below = compare.describe([base, new]), compare.list_differences([base, new], names)
    return Table(titles, rows, above=above, below=below), passed


def find_benchmarks(folder: Path) -> Path:
    """Return the folder of a version's benchmarks: in its package where that is installed, else beside it."""
    places = [place for place in (folder / "convspec" / "benchmarks", folder / "benchmarks") if place.is_dir()]
    if not places or not (folder / "convspec" / "__init__.py").is_file():
        raise BadInput(
            f"{str(folder)!r} has no convspec/ with benchmarks/ in or beside it; give the folder of a version: a git"
            " worktree, or what pip install --target made"
        )
    return places[0]


def _time_side(side: Path, expression: str, folder: Path) -> Record:
    """Run a version's benchmarks once, in a new `folder` for what they write."""
    benchmarks, file = find_benchmarks(side), folder / "record.json"
    folder.mkdir()
    # Neither the settings of a pytest around this one nor plugins that happen to be installed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    others = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
    arguments = ["-p", "convspec.plugin.hooks", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider", "-q"]
    arguments += [str(benchmarks), f"-k{expression}", f"--benchmark-json={file}", f"--rootdir={folder}"]
    run = subprocess.run(
        [sys.executable, "-c", PYTEST, str(side), *arguments],
        cwd=folder, env=environment | {"PYTHONPATH": os.pathsep.join([str(side), *others])},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if run.returncode == 5:  # pytest's code for no tests
        raise BadInput(f"--bench {expression!r} picks no benchmark of {str(benchmarks)!r}; see pytest --collect-only")
    # A benchmark that was timed and then failed, on speed beside a rival's, is timed all the same: code 1.
    if run.returncode not in (0, 1) or not file.is_file() or not file.stat().st_size:
        tail = "\n".join((run.stdout + run.stderr).strip().splitlines()[-15:])
        raise BadInput(
            f"the benchmarks in {str(benchmarks)!r} timed nothing, pytest ended with {run.returncode}:\n{tail}"
        )
    return compare.read_record(file)
