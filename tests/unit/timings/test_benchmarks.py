"""The fixtures of `pytest benchmarks`: what a timing shows, what its record keeps, and when it fails."""

import json

import numpy as np
import pytest
from builders import lines

from convspec.data import shapes

TIMINGS = """
import pytest

@pytest.mark.parametrize("bound", [1.2, None])
@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_it(seconds, bound, benchmark, report):
    benchmark.group = "sleeping"
    benchmark.pedantic(int, rounds=1)
    report("ours / theirs", ([seconds] * 7, [1.0] * 7), bound, images_per_second=12.5)
"""
IN_TURN = """
from benchmarks import conftest
from benchmarks.conftest import Side, pytest

@pytest.fixture
def probes():
    return {"matrix_product_float32": 1000.0}

def test_it(record, benchmark, monkeypatch):
    order = []
    monkeypatch.setattr(conftest, "_seconds", lambda side: order.append(side.name) or side.run())
    record("sleeping", Side("ours", lambda: 0.25, 4), Side("theirs", lambda: 0.5, 2), pictures=4, flop=100)
    assert order == ["theirs", "ours"] * (1 + conftest.ROUNDS)
"""


def timed(
    monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester, source: str, *arguments: str
) -> tuple[pytest.RunResult, list[dict]]:
    """The result of a session with the benchmarks' fixtures, and the facts that its record keeps."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # there pytest-benchmark would time nothing
    pytester.makeconftest("from benchmarks.conftest import *")
    pytester.makepyfile(source)
    options = "--benchmark-json=record.json", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist"
    result = pytester.runpytest_inprocess(*options, *arguments)
    entries = json.loads((pytester.path / "record.json").read_text())["benchmarks"]
    return result, [entry["extra_info"] for entry in entries]


def test_no_timing_fails_a_run_and_all_stand_in_one_table(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, facts = timed(monkeypatch, pytester, TIMINGS)
    result.assert_outcomes(passed=4)
    rows = [line.split() for line in lines(result).splitlines() if line.startswith("ours / theirs")]
    assert [row[-1] for row in rows] == ["faster", "faster", "slower", "slower"]
    assert rows[2][5:] == ["12.5", "-", "2.00", "[2.00,", "2.00]", "1.20", "slower"]
    assert "Rounds" not in lines(result), "pytest-benchmark has a table for each group"
    kept = {name: facts[2][name] for name in ("ratio", "interval", "max_ratio", "verdict")}
    assert kept == {"ratio": 2.0, "interval": [2.0, 2.0], "max_ratio": 1.2, "verdict": "slower"}
    assert all(each["machine"]["versions"] for each in facts), "every record says where it was made"


def test_where_timings_are_enforced_only_what_is_claimed_fails(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, facts = timed(monkeypatch, pytester, TIMINGS, "--convspec-enforce-timings")
    result.assert_outcomes(passed=3, failed=1)
    assert "sleeping: ours / theirs: 2.00 [2.00, 2.00] of the time, at most 1.2" in lines(result)
    assert facts[2]["verdict"] == "slower", "the record is kept all the same"


def test_two_sides_run_in_turn_and_the_first_round_warms_up(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, (facts,) = timed(monkeypatch, pytester, IN_TURN)
    result.assert_outcomes(passed=1)
    assert (facts["ratio"], facts["verdict"], facts["rival"]) == (0.5, "faster", "theirs")
    assert (facts["images_per_second"], facts["share_of_probe"]) == (4.0, 0.4)


READING = """
from benchmarks.test_pipeline import folder, noted_pictures, paths, pytest

@pytest.mark.usefixtures("noted_pictures")
def test_it(benchmark, paths):
    benchmark.pedantic(len, [paths])
    assert len(paths) == 80
"""


@pytest.mark.parametrize(("count", "pictures"), [(42, "Dogs vs. Cats"), (41, "drawn")])
def test_the_record_of_a_reading_says_which_pictures_were_read(
    count: int, pictures: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the data folder holds fewer than are timed, they are drawn."""
    for label in ("cats", "dogs"):
        (part := pytester.path / "data" / "dogs_vs_cats_small" / "train" / label).mkdir(parents=True)
        for number in range(count):
            (part / f"{number}.jpg").touch()
    monkeypatch.setenv("CONVSPEC_DATA", str(pytester.path / "data"))
    monkeypatch.setattr(shapes, "draw", lambda *_: np.zeros((500, 500, 3), np.uint8))  # drawing takes a while
    result, (facts,) = timed(monkeypatch, pytester, READING)
    result.assert_outcomes(passed=1)
    assert facts["pictures"] == pictures


def test_a_small_share_of_the_limit_is_neither_0_nor_unknown(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little work on a GPU reaches less than a thousandth of its matrix product."""
    result, (facts,) = timed(monkeypatch, pytester, IN_TURN.replace("flop=100", "flop=0.05"))
    assert facts["share_of_probe"] == pytest.approx(0.0002)
    assert "0.0200 %" in lines(result)


PROFILED = IN_TURN.replace("lambda: 0.25", "lambda: 99 if order[16:] else 0.25").replace("t order", "t order[:16]")


def test_a_round_under_a_profiler_is_not_counted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    result, (facts,) = timed(monkeypatch, pytester, PROFILED, "--benchmark-cprofile=cumtime")
    result.assert_outcomes(passed=1)
    assert (facts["interval"], facts["images_per_second"]) == ([0.5, 0.5], 4.0)


BASE = """
from benchmarks.conftest import find_recipe

def test_any_base(convspec_session):
    assert find_recipe("fine_tuned", convspec_session).base == "resnet50"

def test_its_own_alone(convspec_session):
    find_recipe("fine_tuned", convspec_session, own_base=True)
"""


def test_a_timing_takes_another_base_or_names_the_one_that_it_takes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from benchmarks.conftest import *")
    pytester.makepyfile(BASE)
    result = pytester.runpytest_inprocess("-rs", "--convspec-base=resnet50", "-p", "no:randomly", "-p", "no:xdist")
    result.assert_outcomes(passed=1, skipped=1)
    assert "times the base mini alone, not resnet50 of --convspec-base" in lines(result)
