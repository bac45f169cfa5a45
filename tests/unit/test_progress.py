"""Progress bars on a terminal and in a log, and the phase clock."""

import io

import pytest

from convspec.progress import Clock, bar


class Terminal(io.StringIO):
    """A stream that someone watches."""

    def isatty(self) -> bool:
        return True


def test_without_a_stream_there_is_no_bar() -> None:
    assert bar(3, "reading", "file", None).disable


@pytest.mark.parametrize(("stream", "delay", "interval"), [(Terminal(), 2, 0.1), (io.StringIO(), 10, 30)])
def test_a_terminal_shows_a_bar_after_2_seconds_and_a_log_a_line_every_30(
    stream: io.StringIO, delay: float, interval: float
) -> None:
    with bar(20, "reading", "file", stream, 5) as shown:
        assert (shown.delay, shown.mininterval) == (delay, interval)
        assert (shown.desc, shown.unit, shown.total, shown.n) == ("reading", "file", 20, 5)
        assert not shown.leave, "a bar that is done must go"


def test_a_log_gets_whole_lines_and_no_carriage_returns() -> None:
    log = io.StringIO("test_ladder.py ..")
    log.seek(0, io.SEEK_END)
    with bar(2, "report", "part", log), bar(20, "reading", "file", log) as shown:
        shown.delay = shown.mininterval = 0
        shown.update(5)
        shown.update(5)
    assert not {"\r", "\x1b"} & {*log.getvalue()}
    first, *others = log.getvalue().splitlines()
    assert (first, log.getvalue()[-1]) == ("test_ladder.py ..", "\n")
    assert [line[:12] for line in others if line] == ["reading:  25", "reading:  50"]


def test_a_clock_adds_up_the_seconds_of_each_phase_also_of_one_that_fails() -> None:
    times = iter([0.0, 2.0, 10.0, 13.0, 20.0, 25.0])
    clock = Clock(lambda: next(times))
    with clock("train"), pytest.raises(ZeroDivisionError), clock("input"):
        raise ZeroDivisionError
    with clock("input"):
        pass
    assert clock.seconds == {"train": 13.0, "input": 8.0 + 5.0}
