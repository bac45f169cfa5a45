"""Progress bars: nothing for nobody, soon for a person, seldom for a log."""

import io

import pytest

from convspec.progress import bar


class Terminal(io.StringIO):
    """A stream that someone watches."""

    def isatty(self) -> bool:
        return True


def test_without_a_stream_there_is_no_bar() -> None:
    assert bar(3, "reading", "file", None).disable


@pytest.mark.parametrize(("stream", "delay", "interval"), [(Terminal(), 2, 0.1), (io.StringIO(), 10, 30)])
def test_a_person_sees_a_bar_after_2_seconds_and_a_log_a_line_every_30(
    stream: io.StringIO, delay: float, interval: float
) -> None:
    with bar(3, "reading", "file", stream) as shown:
        assert (shown.delay, shown.mininterval, shown.fp) == (delay, interval, stream)
        assert not shown.leave, "a bar that is done must go"


def test_each_bar_has_its_own_title_total_and_start() -> None:
    for total, initial in ((10, 0), (20, 5)):
        with bar(total, f"title {total}", "step", Terminal(), initial) as shown:
            assert (shown.desc, shown.unit, shown.total, shown.n) == (f"title {total}", "step", total, initial)
            shown.update(2)
            assert shown.n == initial + 2


def test_a_bar_shows_past_pytests_capturing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from convspec.session import terminal_stream

        def test_speaks(pytestconfig):
            print("captured")
            print("shown", file=terminal_stream(pytestconfig))
        """
    )
    result = pytester.runpytest_subprocess()
    assert "shown" in result.errlines
    assert "captured" not in result.outlines
