"""Progress bars: for people who watch, and sparse enough for a log."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm


def bar(total: int, title: str, unit: str, file: TextIO | None, initial: int = 0) -> tqdm:
    """A bar on `file` that appears after two seconds and goes when it is done; none where `file` is None."""
    watched = file is not None and file.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=title,
        unit=unit,
        file=file,
        disable=file is None,
        leave=False,
        delay=2 if watched else 10,
        mininterval=0.1 if watched else 30,
        dynamic_ncols=watched,
    )


class Clock:
    """Seconds by phase; phases may be entered many times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start
