"""The ladder is climbed from the bottom, and alone where rungs or pictures are chosen; what times two sides in turn."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from convspec.plugin.session import Session, terminal_stream

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

HERE = Path(__file__).parent
ROUNDS = {"mini": 5, "full": 5}


@pytest.hookimpl(trylast=True)  # after plugins that shuffle tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.parent == HERE]
    ladder = sorted((item for item in ours if item.path.name == "test_ladder.py"), key=_as_written)
    timings = [item for item in ours if item not in ladder]
    if config.option.rungs or config.option.dataset:
        config.hook.pytest_deselected(items=timings)
        timings = []
    items[:] = [item for item in items if item not in ours] + ladder + timings


def _as_written(item: pytest.Item) -> tuple[int, list[int]]:
    assert isinstance(item, pytest.Function)
    return item.location[1] or 0, list(item.callspec.indices.values()) if hasattr(item, "callspec") else []


class Side(NamedTuple):
    """What is timed, and how much work one call of it is: pictures, or FLOP."""

    name: str
    run: Callable[[], object]
    work: float


@pytest.fixture(scope="session")
def reached() -> dict[str, float]:
    """What this machine reaches at each probe, once a session."""
    from convspec import machine

    return machine.probe()


@pytest.fixture
def record(benchmark: "BenchmarkFixture", convspec_session: Session, reached: dict[str, float]) -> Callable[..., None]:
    """Times a side, in turn with another if there is one, and leaves the record.

    `pictures` is how many one call goes through, `flop` the arithmetic that each takes. The first side may take
    `most` of the other's time, work for work; not on a GPU, where other things limit small steps.
    """
    from convspec import backend, machine

    def recorded(
        group: str,
        ours: Side,
        rival: Side | None = None,
        pictures: int = 0,
        flop: float = 0,
        most: float | None = None,
    ) -> None:
        seconds: dict[str, list[float]] = {side.name: [] for side in (ours, rival) if side}
        memory = machine.PeakMemory()
        peaks: list[tuple[float, float | str]] = []

        def timed(side: Side) -> None:
            start = time.perf_counter()
            backend.synchronise(side.run())
            seconds[side.name].append((time.perf_counter() - start) / side.work)

        def other() -> None:
            if rival:
                timed(rival)

        def metered() -> None:
            with memory:
                timed(ours)
            peaks.append((memory.mib, memory.device_mib))

        benchmark.group = f"{group}, {convspec_session.scale}"
        rounds = ROUNDS[convspec_session.scale]
        benchmark.pedantic(metered, setup=other, rounds=rounds, warmup_rounds=1)
        if benchmark.disabled:  # then each has run once, and nothing is known of their speed
            return
        mine, *others = (np.array(times[1:]) for times in seconds.values())
        a_second = pictures / (float(np.median(mine)) * ours.work)
        ratio = float(np.median(mine / others[0])) if others else None
        mib, device_mib = zip(*peaks[1:], strict=True)
        benchmark.extra_info.update(
            images_per_second=round(a_second, 1) if pictures else "unknown",
            flops_per_second=a_second * flop if flop else "unknown",
            share_of_probe=round(a_second * flop / reached["matrix_product_float32"], 3) if flop else "unknown",
            peak_memory_mib=round(max(mib)),
            device_memory_mib="unknown" if "unknown" in device_mib else round(max(device_mib)),
            machine=machine.machine(),
            probe=reached,
        )
        if rival and ratio:
            benchmark.extra_info.update(ratio=round(ratio, 4), rival=rival.name)
            told = {name: benchmark.extra_info[name] for name in ("images_per_second", "share_of_probe")}
            outcome = f"{group}: {ours.name} took {ratio:.3f} of the time of {rival.name}, work for work; {told}"
            terminal_stream(convspec_session.config).write(f"\n{outcome}\n")
            assert not most or ratio <= most or backend.accelerators(), f"{outcome}, but should take {most} at most"

    return recorded
