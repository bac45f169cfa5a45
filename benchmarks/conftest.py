"""Order of the benchmarks, the fixture `record`, which times work in turn with a rival, and the table at the end.

No timing fails a run, unless --convspec-enforce-timings is given and a whole interval lies beyond its bound.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from convspec.plugin.options import Settings
from convspec.plugin.session import SESSION, Session

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from convspec.ladder.recipe import Recipe

HERE = Path(__file__).parent
ROUNDS = 7  # the first interval of pairs that a single round doesn't decide
TITLES = ["timing", "median", "img/s", "of limit", "time, ours / theirs", "at most", "verdict"]
FOOTNOTES = (
    "time, ours / theirs: for the same work, in turn, with its 95 % interval. at most: what convspec claims.",
    "verdict: slower: the whole interval lies above that, or 1.05; no slower: all of it below; faster: below 1, too.",
    "of limit: the share of what a matrix product reaches on this machine. --benchmark-verbose shows every figure.",
    "Nothing here fails a run, unless --convspec-enforce-timings is given.",
)
ROWS = pytest.StashKey[dict[str, list[list[str]]]]()  # by group


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide the tables of pytest-benchmark, and keep its records of somebody's pictures in the report folder."""
    config.stash[ROWS] = {}
    settings = Settings(config)  # the plugin has not made its session yet
    if settings.dataset and config.getoption("benchmark_storage", "") == "file://./.benchmarks":
        config.option.benchmark_storage = f"file://{settings.folder}/benchmarks"
    if not config.getoption("benchmark_compare", None):
        config.option.benchmark_quiet = True


@pytest.hookimpl(trylast=True)  # after plugins that shuffle tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the ladder first, in its order; leave timings out where rungs or pictures are chosen."""
    ours = [item for item in items if item.path.parent == HERE]
    ladder = sorted((item for item in ours if item.path.name == "test_ladder.py"), key=_place_in_file)
    timings = [item for item in ours if item not in ladder]
    if (chosen := config.stash[SESSION].settings).rungs or chosen.dataset:
        config.hook.pytest_deselected(items=timings)
        timings = []
    items[:] = [item for item in items if item not in ours] + ladder + timings


def _place_in_file(item: pytest.Item) -> tuple[int, list[int]]:
    assert isinstance(item, pytest.Function)
    return item.location[1] or 0, list(item.callspec.indices.values()) if hasattr(item, "callspec") else []


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Show all timings in one table."""
    if groups := config.stash[ROWS]:
        from convspec.report.tables import Table

        rows = [row for group, timings in groups.items() for row in ([group], *timings)]
        terminalreporter.section("timings")
        terminalreporter.write_line(Table(TITLES, rows, "<>>>>><", below=FOOTNOTES).text())
    if costs := config.stash[SESSION].costs:
        from convspec.timings import cost

        terminalreporter.section("cost of a rung, whole")
        terminalreporter.write_line(cost.table(costs, *cost.WHOLE[config.stash[SESSION].scale]).text())


def find_recipe(rung: str, session: Session, own_base: bool = False) -> "Recipe":
    """Return a rung with the base of --convspec-base; skip a timing that takes the rung's own base alone."""
    from convspec.ladder import rungs
    from convspec.ladder.recipe import with_base

    recipe = rungs.find_recipe(rung, session.scale)
    chosen = with_base(recipe, base) if (base := session.settings.base) else recipe
    if own_base and chosen != recipe:
        pytest.skip(f"times the base {recipe.base} alone, not {chosen.base} of --convspec-base")
    return chosen


class Side(NamedTuple):
    """Something to time; one call of `run` does so much `work`: pictures, steps or FLOP."""

    name: str
    run: Callable[[], object]
    work: float = 1


def _seconds(side: Side) -> float:
    """Call a side once; return the seconds for each unit of work."""
    from convspec import backend

    start = time.perf_counter()
    backend.synchronise(side.run())
    return (time.perf_counter() - start) / side.work


@pytest.fixture(scope="session")
def probes() -> dict[str, float]:
    """Return what this machine reaches at each probe, measured once a session."""
    from convspec import machine

    return machine.probe()


@pytest.fixture
def report(benchmark: "BenchmarkFixture", convspec_session: Session) -> Callable[..., None]:
    """Return a function that adds a row to the table, and its facts to the benchmark's record."""

    def reported(
        name: str,  # in the row's first cell
        pairs: Any = None,  # seconds of our side and of the rival's, round by round, for the same work
        max_ratio: float | None = None,  # the largest of ours / theirs that convspec claims
        **facts: Any,  # what else the record keeps
    ) -> None:
        from convspec import machine
        from convspec.timings.verdicts import format_figure, format_seconds, judge, ratio_of_pairs

        speed, share = facts.get("images_per_second", "unknown"), facts.get("share_of_probe", "unknown")
        cells = [name, format_seconds(benchmark.stats.stats.median)]
        cells += ["-" if speed == "unknown" else format_figure(speed)]
        cells += ["-" if share == "unknown" else f"{format_figure(share * 100)} %"]
        outcome = ""
        if pairs:
            ratio = ratio_of_pairs(*pairs)
            outcome = judge(ratio, max_ratio) if max_ratio else judge(ratio)
            facts |= {"ratio": ratio.value, "interval": [ratio.low, ratio.high], "max_ratio": max_ratio}
            facts |= {"verdict": outcome}
        cells += [str(ratio), format_figure(max_ratio) if max_ratio else "-", outcome] if pairs else ["-"] * 3
        convspec_session.config.stash[ROWS].setdefault(str(benchmark.group), []).append(cells)
        benchmark.extra_info.update(facts, machine=machine.machine())
        if outcome == "slower" and max_ratio and convspec_session.settings.enforce_timings:
            pytest.fail(f"{benchmark.group}: {name}: {ratio} of the time, at most {max_ratio:.3g}", pytrace=False)

    return reported


@pytest.fixture
def record(
    benchmark: "BenchmarkFixture", convspec_session: Session, probes: dict[str, float], report: Callable[..., None]
) -> Callable[..., None]:
    """Return a function that times a side, in turn with a rival if there is one, and keeps the record."""
    from convspec import machine

    def recorded(
        group: str,  # heading in the table of timings
        ours: Side,  # whose time, speed and memory are recorded
        rival: Side | None = None,  # what it is compared with, work for work
        pictures: int = 0,  # that one call of `ours` goes through
        flop: float = 0,  # that each of them takes
        max_ratio: float | None = None,  # the largest of ours / rival that convspec claims
    ) -> None:
        own_seconds: list[float] = []
        rival_seconds: list[float] = []
        peaks: list[tuple[float, float | str]] = []
        memory = machine.PeakMemory()

        def time_rival() -> None:
            if rival:
                rival_seconds.append(_seconds(rival))

        def time_ours() -> None:
            with memory:
                own_seconds.append(_seconds(ours))
            peaks.append((memory.mib, memory.device_mib))

        benchmark.group = f"{group}, {convspec_session.scale}"
        benchmark.pedantic(time_ours, setup=time_rival, rounds=ROUNDS, warmup_rounds=1)
        if benchmark.disabled:  # then each has run once, and nothing is known of their speed
            return
        timed = slice(1, 1 + ROUNDS)  # the first round warms up, and one after the last is for --benchmark-cprofile
        speed = pictures / (float(np.median(own_seconds[timed])) * ours.work)
        mib, device_mib = zip(*peaks[timed], strict=True)
        report(
            f"{ours.name} / {rival.name}" if rival else ours.name,
            (own_seconds[timed], rival_seconds[timed]) if rival else None,
            max_ratio,
            rival=rival.name if rival else "none",
            images_per_second=round(speed, 1) if pictures else "unknown",
            flops_per_second=speed * flop if flop else "unknown",
            share_of_probe=speed * flop / probes["matrix_product_float32"] if flop else "unknown",
            peak_memory_mib=round(max(mib)),
            device_memory_mib="unknown" if "unknown" in device_mib else round(max(device_mib)),
            probe=probes,
        )

    return recorded
