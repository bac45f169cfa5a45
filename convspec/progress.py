"""Progress bars and the phase clock."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(total: int, title: str, unit: str, file: TextIO | None, initial: int = 0) -> "tqdm":
    """Return a progress bar on `file` that vanishes when it is done.

    It appears after two seconds on a terminal, and after ten, with a line every 30 seconds, elsewhere.

    Args:
        total: Number of units until it is done.
        title: Text before the bar.
        unit: Name of one unit.
        file: Stream to write to; None shows nothing.
        initial: Number of units that are done already.
    """
    from tqdm import tqdm

    terminal = file is not None and file.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        file=file,
        disable=file is None,
        leave=False,
        delay=2 if terminal else 10,
        mininterval=0.1 if terminal else 30,
        dynamic_ncols=terminal,
    )


class Clock:
    """Seconds by phase; a phase may be entered many times."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the seconds of a block under `phase`."""
        start = self.now()
        try:
            yield
        finally:
            self.seconds[phase] += self.now() - start
