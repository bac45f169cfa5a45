"""Verdicts of gates: how a test gets its own, and how all reach the summary and the exit code.

A test's verdicts are kept in its stash, travel as an attribute of its report, which pytest-xdist carries from process
to process, and are collected by the `Channel` of the session.
"""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, TypedDict

import pytest

if TYPE_CHECKING:
    from convspec.accuracy.baselines import Run
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


def apply_gate(session: "Session", runs: "Sequence[Run]", item: pytest.Item) -> None:
    """Pass, fail or skip a test by the gate's verdict on its runs, and write a first or updated baseline.

    The verdict goes to the summary and to JUnit's properties. A first baseline fails the test: nobody has approved it.
    """
    from convspec.accuracy import baselines

    session.judgements.append(judgement := session.judge(runs))
    lines, repeat = judgement.lines, session.repeats.get(judgement.name)
    if repeat and repeat.outcome == "bit-identical" and judgement.differs_for_no_known_reason:
        lines.append("it repeats itself bit by bit here, and neither versions nor machine changed: code or data did")
    text, folder = "\n".join(lines), session.settings.baselines
    missing, update = judgement.outcome == "missing", session.settings.update_baselines
    begins = missing and not judgement.left_out
    if update or begins:
        for run in runs:
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
        text += "\nTo compare runs with these from now on: --convspec-update-baselines."
    if failed:
        pytest.fail(text, pytrace=False)
    if judgement.outcome == "underpowered":
        pytest.skip(text)
