"""Two versions timed in turn on one machine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from scipy import stats

from convspec import BadInput
from convspec.accuracy.statistics import CONFIDENCE

if TYPE_CHECKING:
    pass

from convspec.timings.compare import Record, Table, _differences, _figure, _headings, _named, _record, _same_work, _time

RELATIVE_FLOOR = 0.05
ABSOLUTE_FLOOR = 0.002  # seconds: a tick of the system's scheduler is 1 to 4 ms


@dataclass(frozen=True)
class Verdict:
    """Of one benchmark: the outcome, and the ratio of the new times to the old ones with its 95 % interval."""

    outcome: str
    ratio: float
    low: float
    high: float


def judge(base: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray) -> Verdict:
    """Whether `new` takes longer than `base`: medians of at least three rounds, paired by round, in seconds.

    "slower" only where the whole 95 % interval of the ratio (Student's t on its logarithm) lies above 1.05 and the
    medians differ by more than 2 ms; "no slower" where the interval ends at 1.05, or at 2 ms more than `base`;
    else "cannot tell".
    """
    logarithms = np.log(new) - np.log(base)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(logarithms) - 1) * stats.sem(logarithms)
    low, ratio, high = (float(np.exp(logarithms.mean() + step)) for step in (-half, 0, half))
    old, absolute = float(np.median(base)), float(np.median(new) - np.median(base))
    if low > 1 + RELATIVE_FLOOR and absolute > ABSOLUTE_FLOOR:
        outcome = "slower"
    elif high <= 1 + max(RELATIVE_FLOOR, ABSOLUTE_FLOOR / old):
        outcome = "no slower"
    else:
        outcome = "cannot tell"
    return Verdict(outcome, ratio, low, high)


# What --interleave times where --bench says nothing: what convspec itself does to each picture.
QUICK = "(augmented_in_a_fraction and ImageDataGenerator) or (read_as_fast and nearest)"
ROUNDS, MIN_ROUNDS = 10, 3  # with two, and noise of 10 %, over 1 in 100 equal sides would be called slower
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


def interleave(base: Path, expression: str, rounds: int, progress: TextIO) -> tuple[Table, bool]:
    """Time the benchmarks that pytest's -k `expression` picks, of the version in `base` and of this one, in turn.

    Each run is a process of its own; which side comes first alternates. False beside the table where a benchmark is
    slower by the rule of `regression.judge`, or has vanished. Raises BadInput where a side cannot be run.
    """
    if rounds < MIN_ROUNDS:
        raise BadInput(f"--rounds {rounds} cannot tell a difference from noise; give {MIN_ROUNDS} or more")
    sides = {"base": Path(os.path.abspath(base)), "new": Path(__file__).parents[2]}
    runs: dict[str, list[Record]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="convspec-compare-") as folder:
        for number in range(rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                start = time.monotonic()
                runs[side].append(_timed(sides[side], expression, Path(folder, f"{number}-{side}")))
                seconds = time.monotonic() - start
                print(f"round {number + 1} of {rounds}: {side}, {seconds:.1f} s", file=progress, flush=True)
    records = [_merged(side, sides[side], runs[side]) for side in sides]
    names, groups = _named(records)
    rows, passed = [], True
    for group, keys in groups.items():
        rows.append([group])
        for key in keys:
            old, new = (record.timings.get(key) for record in records)
            if old and new and _same_work(old, new):
                verdict = judge(old.seconds, new.seconds)
                outcome = verdict.outcome
                ratio = f"{_figure(verdict.ratio)} [{_figure(verdict.low)}, {_figure(verdict.high)}]"
            else:
                outcome, ratio = "changed" if old and new else "vanished" if old else "not in base", "-"
            passed = passed and outcome not in ("slower", "vanished")
            rows.append([names[key], _time(old), _time(new), ratio, outcome])
    below = _differences(records, names)
    for file in dict.fromkeys(key.partition("::")[0] for key in names):
        texts = {path.read_bytes() for side in sides.values() if (path := _benchmarks(side) / file).is_file()}
        if len(texts) > 1:
            below.append(f"{file} differs between the sides: so may what it times")
    below.append(
        f"{rounds} rounds, paired. slower: the whole 95 % interval of new / base is above"
        f" {1 + RELATIVE_FLOOR:g}, and the medians differ by more than {ABSOLUTE_FLOOR * 1000:g}"
        " ms. no slower: the interval ends below one of these two. cannot tell: neither; more rounds narrow the"
        " interval."
    )
    return Table(_headings(records), ["benchmark", "base", "new", "new / base", "verdict"], rows, below), passed


def _benchmarks(folder: Path) -> Path:
    """A side's benchmarks, in its package where that is installed, else beside it."""
    places = [place for place in (folder / "convspec" / "benchmarks", folder / "benchmarks") if place.is_dir()]
    if not places or not (folder / "convspec" / "__init__.py").is_file():
        raise BadInput(
            f"{str(folder)!r} has no convspec/ with benchmarks/ in or beside it; give the folder of a version: a git"
            " worktree, or what pip install --target made"
        )
    return places[0]


def _timed(side: Path, expression: str, folder: Path) -> Record:
    """One run of a side's benchmarks; what it writes goes to `folder`."""
    benchmarks, file = _benchmarks(side), folder / "record.json"
    folder.mkdir()
    # Neither settings of another pytest, around this one, nor plugins that happen to be installed.
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
    return _record(file)


def _merged(label: str, folder: Path, runs: Sequence[Record]) -> Record:
    """Of each benchmark that every run has, the runs' medians."""
    timings = {}
    for key in runs[0].timings:
        medians = [run.timings[key].median for run in runs if key in run.timings]
        if len(medians) == len(runs):
            timings[key] = replace(runs[0].timings[key], median=float(np.median(medians)), seconds=medians)
    return replace(runs[0], label=label, path=str(folder), timings=timings)
