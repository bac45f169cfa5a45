"""Progress bars: for people who watch, and sparse enough for a log."""

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
