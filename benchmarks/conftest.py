"""Order of the benchmarks, and the fixture `record`, which times one piece of work or two in turn."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from convspec.plugin.session import SESSION, Session, terminal_stream

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HERE = Path(__file__).parent
ROUNDS = 5


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


class Side(NamedTuple):
    """Something to time; one call of `run` does so much `work`: pictures, steps or FLOP."""

    name: str
    run: Callable[[], object]
    work: float


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
def record(benchmark: "BenchmarkFixture", convspec_session: Session, probes: dict[str, float]) -> Callable[..., None]:
    """Return a function that times a side, in turn with a rival if there is one, and keeps the record."""
    from convspec import backend, machine

    def recorded(
        group: str,
        ours: Side,
        rival: Side | None = None,
        pictures: int = 0,
        flop: float = 0,
        max_ratio: float | None = None,
    ) -> None:
        """Time both sides.

        Args:
            group: Heading in the table of benchmarks.
            ours: The side whose time, speed and memory are recorded.
            rival: The side that it is compared with, work for work.
            pictures: How many one call of `ours` goes through.
            flop: The arithmetic that each of them takes.
            max_ratio: Largest median of ours / rival; not on a GPU, where other things limit small steps.
        """
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
        speed = pictures / (float(np.median(own_seconds[1:])) * ours.work)  # the first round warms up
        mib, device_mib = zip(*peaks[1:], strict=True)
        benchmark.extra_info.update(
            images_per_second=round(speed, 1) if pictures else "unknown",
            flops_per_second=speed * flop if flop else "unknown",
            share_of_probe=round(speed * flop / probes["matrix_product_float32"], 3) if flop else "unknown",
            peak_memory_mib=round(max(mib)),
            device_memory_mib="unknown" if "unknown" in device_mib else round(max(device_mib)),
            machine=machine.machine(),
            probe=probes,
        )
        if rival:
            ratio = float(np.median(np.divide(own_seconds[1:], rival_seconds[1:])))
            benchmark.extra_info.update(ratio=round(ratio, 4), rival=rival.name)
            figures = {name: benchmark.extra_info[name] for name in ("images_per_second", "share_of_probe")}
            outcome = f"{group}: {ours.name} took {ratio:.3f} of the time of {rival.name}, work for work; {figures}"
            terminal_stream(convspec_session.config).write(f"\n{outcome}\n")
            assert not max_ratio or ratio <= max_ratio or backend.accelerators(), f"{outcome}; at most {max_ratio}"

    return recorded
