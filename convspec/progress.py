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

    It appears after two seconds on a terminal, and after ten, as a line of its own every 30 seconds, elsewhere.

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
        file=file if terminal or file is None else _Lines(file),
        disable=file is None,
        leave=False,
        delay=2 if terminal else 10,
        mininterval=0.1 if terminal else 30,
        dynamic_ncols=terminal,
        position=None if terminal else 0,  # lines of a log are not for moving up and down
    )


class _Lines:
    """A log: each state of a bar is a whole line, and nothing is wiped out."""

    def __init__(self, log: TextIO) -> None:
        self.log, self.flush = log, log.flush

    def write(self, text: str) -> None:
        if state := text.strip("\r "):
            self.log.write(f"\n{state}\n")  # pytest may be in the middle of a line


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
