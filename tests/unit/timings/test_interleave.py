"""Two versions timed in turn: slower is told from noise by a rule with known errors."""

import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convspec import BadInput
from convspec.cli.main import main
from convspec.report.tables import Table
from convspec.timings import interleave
from convspec.timings.compare import Record, Timing
from convspec.timings.interleave import PYTEST


def outcomes(
    slowdown: float, noise: float = 0.1, rounds: int = 10, seconds: float = 0.1, trials: int = 2000
) -> list[str]:
    """Verdicts on sides that differ by `slowdown` and by noise, which half of the time meets both sides of a round."""
    rng = np.random.default_rng(0)
    verdicts: list[str] = []
    for _ in range(trials):
        common = rng.normal(0, noise, rounds)
        base, new = (np.exp(common + rng.normal(0, noise, rounds)) * seconds for _ in range(2))
        verdicts.append(interleave.judge_rounds(base, new * slowdown)[1])
    return verdicts


@pytest.mark.parametrize("rounds", [interleave.MIN_PAIRS, interleave.ROUNDS])
def test_equal_sides_are_called_slower_less_than_once_in_100_times(rounds: int) -> None:
    assert outcomes(1, rounds=rounds).count("slower") < 20


def test_a_slow_down_by_30_percent_is_caught_95_times_in_100() -> None:
    assert outcomes(1.3).count("slower") > 1900


def test_a_slow_down_within_5_percent_or_2_ms_is_no_alarm_however_sure() -> None:
    assert outcomes(1.04, noise=0.001, trials=100) == ["no slower"] * 100
    assert outcomes(2, noise=0.001, seconds=0.0019, trials=100) == ["no slower"] * 100
    assert outcomes(2, noise=0.001, seconds=0.0022, trials=100) == ["slower"] * 100


def test_what_noise_hides_is_not_called_the_same() -> None:
    assert outcomes(1.1, noise=0.3, trials=200).count("cannot tell") > 180


ONES = [1.0] * 6


def record(**seconds: list[float]) -> Record:
    """A side's merged record, with the times of each benchmark."""
    timings = {name: Timing({"group": "g"}, float(np.median(times)), times) for name, times in seconds.items()}
    return Record("side", "folder", "machine", {}, timings)


@pytest.mark.parametrize(
    ("base", "new", "outcome", "passed"),
    [
        ({"it": ONES}, {"it": ONES}, "no slower", True),
        ({"it": ONES}, {"it": [0.5] * 6}, "faster", True),
        ({"it": ONES}, {"it": [0.5, 2, 8, 1, 1, 1]}, "cannot tell", True),
        ({"it": ONES}, {"it": [2, 2, 2, 2, 2, 2.1]}, "slower", False),
        ({"it": ONES}, {}, "vanished", False),
        ({}, {"it": ONES}, "not in base", True),
    ],
)
def test_only_a_slower_or_a_vanished_benchmark_fails(base: Any, new: Any, outcome: str, passed: bool) -> None:
    other = {"other": ONES}
    table, result = interleave.compare_sides(record(**other, **base), record(**other, **new))
    assert [row[-1] for row in table.rows] == ["g", "no slower", outcome]
    assert result == passed


def test_a_benchmark_that_a_round_lacks_is_not_in_the_merged_record() -> None:
    merged = interleave.merge_rounds("new", Path("f"), [record(a=[1, 2, 9], b=[1]), record(a=[4]), record(a=[3])])
    assert (merged.label, merged.path, list(merged.timings)) == ("new", "f", ["a"])
    assert merged.timings["a"].seconds == [2, 4, 3], "the median of each round"
    assert merged.timings["a"].median == 3


def test_where_the_sides_time_in_other_ways_the_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("convspec/__init__.py", "benchmarks/conftest.py"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    monkeypatch.setattr(interleave, "_time_side", lambda *_: record(it=[1.0]))
    table, _ = interleave.interleave(tmp_path, "it", 6, StringIO())
    assert "conftest.py differs between the sides: so may what it times" in table.below


@pytest.mark.parametrize("side", ["base", "new"])
def test_a_benchmark_that_one_round_lacks_is_named_and_fails(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_side(_: Path, __: str, folder: Path) -> Record:
        return record(same=[1.0]) if folder.name == f"3-{side}" else record(same=[1.0], it=[1.0])

    monkeypatch.setattr(interleave, "_time_side", time_side)
    table, passed = interleave.interleave(Path(interleave.__file__).parents[2], "it", 6, StringIO())
    assert f"not in every round of {side}, and so not judged: it" in table.below
    assert not passed


BENCHMARKS = """
import itertools
import pytest

def takes(seconds):
    reads = itertools.count()
    return pytest.mark.benchmark(timer=lambda: next(reads) * seconds)

@takes({seconds})
def test_sleep(benchmark):
    benchmark.group = "sleeping"
    benchmark.pedantic(int, rounds=3)
    benchmark.extra_info["pictures"] = 1

@takes(0.03)
def test_same(benchmark):
    benchmark.pedantic(int, rounds=3)
    assert benchmark.disabled, "timed, and failed after that"

def test_left_out(benchmark):
    benchmark.pedantic(int, rounds=1)

def test_only_in_{side}(benchmark):
    benchmark.pedantic(int, rounds=1)

def test_changed(benchmark):
    benchmark.group = "group of {side}"
    benchmark.pedantic(int, rounds=1)
"""


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Path]:
    """Two installed versions of the package: copies whose benchmarks have clocks of their own, the new one's faster."""
    folders = {}
    for side, seconds in (("base", 0.02), ("new", 0.06)):
        folders[side] = tmp_path / side
        package = folders[side] / "convspec"
        ignored = shutil.ignore_patterns("*.h5", "__pycache__")
        shutil.copytree(Path(interleave.__file__).parents[1], package, ignore=ignored)
        (package / "benchmarks").mkdir()
        (package / "benchmarks" / "test_it.py").write_text(BENCHMARKS.format(side=side, seconds=seconds))
    return folders


@pytest.mark.slow
def test_two_versions_in_turn_end_in_a_verdict_on_each_benchmark(sides: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convspec", "compare", "--interleave", str(sides["base"]), "--rounds", "6"]
    environment = os.environ | {"PYTHONPATH": str(sides["new"]), "PYTEST_ADDOPTS": "--no-such-option"}
    run = subprocess.run(
        [*command, "--bench", "not left_out", "--markdown", "table.md"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    order = re.findall(r"round (\d) of 6: (\w+), [\d.]+ s\n", run.stderr)
    assert order[:6] == [("1", "base"), ("1", "new"), ("2", "new"), ("2", "base"), ("3", "base"), ("3", "new")]
    assert len(order) == 12, run.stderr
    lines = run.stdout.splitlines()
    rows = [re.split(r"\s\s+", line.strip()) for line in lines]
    cells = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert cells.pop("benchmark") == ["base", "new", "new / base", "verdict"]
    assert cells.pop("same")[2] == "1.00 [1.00, 1.00]", "what fails after it was timed is judged"
    assert {name: row[-1] for name, row in cells.items()} == {
        "sleep": "slower", "changed": "changed", "only in base": "vanished", "only in new": "not in base",
    }  # fmt: skip
    assert [float(cell.removesuffix(" ms")) for cell in cells["sleep"][:2]] == [20, 60]
    assert list(map(float, re.findall(r"[\d.]+", cells["sleep"][2]))) == [3, 3, 3], "ratio and interval"
    assert cells["only in base"][1:3] == ["missing", "-"]
    assert lines[0].startswith(f"base ({sides['base']}): ")
    assert lines[1].startswith(f"new ({sides['new']}): ")
    assert "missing in new: only in base" in lines
    assert "test_it.py differs between the sides: so may what it times" in lines
    assert lines[-1].startswith("6 rounds, paired. slower: the whole 95 % interval of new / base lies above 1.05, and")
    assert "| sleep |" in (tmp_path / "table.md").read_text()
    written = {path.name for side in sides.values() for path in side.rglob(".*")}
    assert not written, "nothing is left in either side's folder"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no package", "'{base}' has no convspec/ with benchmarks/ in or beside it; give the folder of a version: a"),
        ("no benchmarks", "'{base}' has no convspec/ with benchmarks/ in or beside it; give the folder of a version:"),
        ("none picked", "--bench 'sleep and same' picks no benchmark of '{base}/convspec/benchmarks'; see pytest --co"),
        ("broken", "the benchmarks in '{base}/convspec/benchmarks' timed nothing, pytest ended with 2:"),
        ("another's package", "the benchmarks in '{base}/convspec/benchmarks' timed nothing, pytest ended with 1:"),
    ],
)
def test_a_side_that_cannot_be_run_is_named_with_the_reason(
    fault: str, message: str, sides: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, reason = sides["base"] / "convspec", ""
    if fault == "no package":
        (package / "__init__.py").unlink()
    elif fault == "no benchmarks":
        shutil.rmtree(package / "benchmarks")
    elif fault == "broken":
        (package / "benchmarks" / "test_it.py").write_text("import no_such_module_at_all")
        reason = "No module named 'no_such_module_at_all'"
    elif fault == "another's package":
        monkeypatch.setenv("PYTHONSAFEPATH", "1")
        monkeypatch.setattr(interleave, "PYTEST", f"import sys; sys.path.insert(0, {str(sides['new'])!r})\n" + PYTEST)
        reason = f"PYTHONPATH={sides['base']}, but convspec is imported from {sides['new']}/convspec/__init__.py"
    with pytest.raises(BadInput) as error:
        interleave.interleave(sides["base"], "sleep and same" if fault == "none picked" else "sleep", 6, StringIO())
    assert str(error.value).startswith(message.format(base=sides["base"]))
    assert reason in str(error.value)


def test_the_benchmarks_picked_by_default_are_there() -> None:
    sources = "".join(file.read_text() for file in (Path(__file__).parents[3] / "benchmarks").glob("test_*.py"))
    words = set(re.findall(r"\w+", interleave.QUICK)) - {"and", "or", "not"}
    assert [word for word in sorted(words) if word not in sources] == []
    assert len(words) == 4


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interleave", "x", "--plot", "x.png"], "--plot draws records; leave it out with --interleave"),
        (["a.json", "--bench", "x"], "--bench and --rounds go with --interleave; leave them out with records"),
        (["a.json", "--rounds", "0"], "--bench and --rounds go with --interleave; leave them out with records"),
        (["--interleave", "x", "--rounds", "5"], "--rounds 5 cannot tell a difference from noise; give 6 or more"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["compare", *arguments]) == 1
    assert capsys.readouterr().err == f"convspec: error: {message}\n"


@pytest.mark.parametrize("arguments", [[], ["a.json", "--interleave", "base"], ["--interleave", "b", "--rounds", "x"]])
def test_either_records_or_a_base_must_be_given(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        main(["compare", *arguments])
    assert error.value.code == 2
    assert "usage: convspec compare" in capsys.readouterr().err


def test_the_command_passes_options_on_and_returns_the_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[tuple] = []

    def recorded(*arguments: Any) -> tuple[Table, bool]:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Table(["benchmark", "base"], []), len(calls) == 1

    monkeypatch.setattr(interleave, "interleave", recorded)
    assert main(["compare", "--interleave", "base"]) == 0
    assert main(["compare", "--interleave", "base", "--bench", "x and y", "--rounds", "6"]) == 1
    usual = (Path("base"), interleave.QUICK, 10, sys.stderr)
    assert calls == [usual, (Path("base"), "x and y", 6, sys.stderr)]
    assert main(["compare", "--interleave", "base"]) == 130
    assert capsys.readouterr().err == "convspec: interrupted; the same command starts again\n"
