"""Verdicts of gates: how a test gets its own, and how all reach the summary and the exit code.

A test's verdicts are kept in its stash, travel as an attribute of its report, which pytest-xdist carries from process
to process, and are collected by the `Channel` of the session.
"""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import pytest

from convspec.plugin.options import Settings

if TYPE_CHECKING:
    from convspec.accuracy.judgement import Judgement
    from convspec.plugin.session import Session

REGRESSED, NO_BASELINE = 10, 11  # exit codes beside pytest's own, where nothing else failed
ATTRIBUTE = "convspec_verdicts"


class Verdict(TypedDict):
    """One gate's `outcome`, its `text` for people, and whether it `failed` the test; plain data, to be serialised."""

    outcome: str
    text: str
    failed: bool


class Channel:
    """Hooks that collect the verdicts of a session, and set the exit code of one in which only gates failed."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Move the verdicts of a test to its report."""
        report = yield
        if verdicts := item.stash.get(VERDICTS, None):
            setattr(report, ATTRIBUTE, verdicts[:])
            verdicts.clear()
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the verdicts of a test that ran in this process or another."""
        for verdict in getattr(report, ATTRIBUTE, ()):
            self.verdicts.append(verdict | {"failed": verdict["failed"] and report.failed})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Set an exit code of its own for a session in which nothing failed but gates."""
        failed = [verdict["outcome"] for verdict in self.verdicts if verdict["failed"]]
        if failed and exitstatus == pytest.ExitCode.TESTS_FAILED and len(failed) == session.testsfailed:
            session.exitstatus = REGRESSED if "regressed" in failed else NO_BASELINE


CHANNEL = pytest.StashKey[Channel]()
VERDICTS = pytest.StashKey[list[Verdict]]()


def judge(settings: Settings, runs: Sequence[Any]) -> "Judgement":
    """Compare runs of one model with its baseline, by --margin and the number of looks of --seeds."""
    from convspec.accuracy import judgement

    return judgement.judge(settings.baselines, runs, settings.margin, len(settings.looks))


def apply_gate(session: "Session", judgement: "Judgement", item: pytest.Item) -> None:
    """Pass, fail or skip a test by the verdict on its runs, and write them where a baseline begins or is updated.

    The verdict goes to the summary and to the properties of JUnit's XML. A first baseline fails the test, as nobody
    has approved it yet.
    """
    from convspec.accuracy import baselines

    session.judgements.append(judgement)
    lines, repeat = list(judgement.lines), session.repeats.get(judgement.properties["rung"])
    if repeat and repeat.outcome == "bit-identical" and judgement.differs_for_no_known_reason:
        lines.append("it repeats itself bit by bit here, and neither versions nor machine changed: code or data did")
    text, folder = "\n".join(lines), session.settings.baselines
    missing, update = judgement.outcome == "missing", session.settings.update_baselines
    begins = missing and not judgement.left_out
    if update or begins:
        for run in judgement.runs:
            baselines.write(folder, run)
    failed = begins or (judgement.outcome in ("missing", "regressed") and not update)
    item.user_properties += [*judgement.properties.items(), ("verdict", text)]
    verdict: Verdict = {"outcome": judgement.outcome, "text": text, "failed": failed}
    item.stash.setdefault(VERDICTS, []).append(verdict)
    if begins:
        text += (
            f"\nThese runs are the baseline from now on: look at {str(folder)!r}, keep it under version control, and"
            " run again."
        )
    elif missing:
        text += "\nTo compare runs with these from now on: --update-baselines."
    if failed:
        pytest.fail(text, pytrace=False)
    if judgement.outcome == "underpowered":
        pytest.skip(text)
