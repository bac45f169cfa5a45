"""Verdicts of gates: how a test gets its own, and how all reach the summary and the exit code.

A test's verdicts are kept in its stash, travel as an attribute of its report, which pytest-xdist carries from process
to process, and are collected by the `Channel` of the session. It writes baselines when the session ends, so that no
run is judged by another of its own session: not in a rerun, a repeat, another worker or another test.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pytest

from convspec import BadInput
from convspec.plugin import checks

if TYPE_CHECKING:
    from convspec.accuracy.baselines import Run
    from convspec.plugin.session import Session

REGRESSED, NO_BASELINE = 10, 11  # exit codes beside pytest's own, where nothing else failed
ATTRIBUTE = "convspec_verdicts"


class Verdict(TypedDict):
    """One gate's verdict; plain data, to be serialised."""

    outcome: str
    text: str  # for people
    failed: bool  # whether it failed the test
    test: str  # its node id, the same for all repeats
    item: str  # the node id of this repeat
    model: str
    predictions: str  # their checksum
    staged: str  # folder of the runs that become baselines when the session ends, else empty


class GateFailed(pytest.fail.Exception):  # type: ignore[name-defined]
    """Failure of a test by the verdict of a gate."""

    __module__ = "builtins"  # as pytest's own, so that it is shown without a module, too
    __qualname__ = "Failed"


class Channel:
    """Hooks that collect the verdicts of a session, write its baselines, and set its exit code if only gates failed.

    `errors` are those that no test could report.
    """

    def __init__(self, baselines: Path) -> None:
        self.verdicts: list[Verdict] = []
        self.errors: list[str] = []
        self._failures = 0  # of tests, by their gates
        self._broken: set[str] = set()  # node ids of tests that failed otherwise
        self._baselines = baselines

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Forget the figures of an earlier attempt, and verdicts that had no report, as in pytest-retry."""
        _discard(item)
        if own := {id(pair) for pair in item.stash.get(FIGURES, ())}:
            item.user_properties[:] = [pair for pair in item.user_properties if id(pair) not in own]
        item.stash[VERDICTS], item.stash[ATTEMPT], item.stash[FIGURES] = [], [], []

    @pytest.hookimpl(wrapper=True, trylast=True)  # a skipped test is one to `xfail`, too
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Move the verdicts of a test to its report, and skip one that passed where any is underpowered."""
        report = yield
        verdicts = item.stash.get(VERDICTS, None)
        if verdicts and not (report.when == "setup" and report.passed):  # a fixture's gates must not keep the test away
            by_gate = call.excinfo is None or _is_of_a_gate(call.excinfo.value)
            setattr(report, ATTRIBUTE, [verdict | {"failed": verdict["failed"] and by_gate} for verdict in verdicts])
            unsure = [verdict["text"] for verdict in verdicts if verdict["outcome"] == "underpowered"]
            if unsure and report.passed:
                line = (item.location[1] or 0) + 1
                report.outcome, report.longrepr = "skipped", (str(item.path), line, "Skipped: " + "\n".join(unsure))
            verdicts.clear()
        return report

    @pytest.hookimpl(tryfirst=True)  # before the terminal fails a test for its subtests, as pytest counts failures
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the verdicts of a test that ran in this process or another."""
        verdicts = [each | {"failed": each["failed"] and report.failed} for each in getattr(report, ATTRIBUTE, ())]
        self.verdicts += verdicts
        # From a worker of pytest-xdist it comes failed for its subtests, each of which has a report of its own.
        contains = report.failed and re.fullmatch(r"contains \d+ failed subtests?", str(report.longrepr))
        by_gates = bool(contains) or any(verdict["failed"] for verdict in verdicts)
        self._failures += by_gates
        if report.failed and not by_gates:
            self._broken.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the baselines, and set an exit code of its own for a session in which nothing failed but gates."""
        for item in getattr(session, "items", ()):
            _discard(item)
        if hasattr(session.config, "workerinput"):
            return
        failed = [verdict["outcome"] for verdict in self.verdicts if verdict["failed"]]
        gates_alone = self._failures == session.testsfailed and "conflict" not in failed
        if failed and exitstatus == pytest.ExitCode.TESTS_FAILED and gates_alone:
            session.exitstatus = REGRESSED if "regressed" in failed else NO_BASELINE
        self._write_baselines()
        if self.errors and session.exitstatus in (pytest.ExitCode.OK, REGRESSED, NO_BASELINE):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def conflict(self, verdict: Verdict, earlier_in_test: Sequence[Verdict] = ()) -> str | None:
        """Return a message where another test, or this one earlier, gates other predictions under the same name."""
        others = [other for other in self.verdicts if other["test"] != verdict["test"]]
        for other in (*others, *earlier_in_test):
            if other["model"] == verdict["model"] and other["predictions"] != verdict["predictions"]:
                first, second = sorted((other["test"], verdict["test"]))
                return (
                    f"two gates of {verdict['model']!r} with different predictions or pictures, in {first} and in"
                    f" {second}: give each model a name of its own, and all seeds of one in a single call, a row each"
                )
        return None

    def _write_baselines(self) -> None:
        """Write the runs that tests have staged, but for those of tests that are in conflict or failed otherwise."""
        shown = {verdict["text"]: verdict["model"] for verdict in self.verdicts if verdict["outcome"] == "conflict"}
        unseen = {text: verdict["model"] for verdict in self.verdicts if (text := self.conflict(verdict))}
        self.errors += [text for text in unseen if text not in shown]
        refused = dict.fromkeys([*shown.values(), *unseen.values()], "two gates have that name")
        for verdict in self.verdicts:
            if verdict["item"] in self._broken:
                refused.setdefault(verdict["model"], f"{verdict['item']} failed for another reason than its gates")
        staged = {verdict["staged"]: verdict["model"] for verdict in self.verdicts if verdict["staged"]}
        lost = {*staged.values()} - refused.keys()
        for folder, model in staged.items():
            from convspec.accuracy import baselines

            try:
                for run in () if model in refused else baselines.read(Path(folder)):
                    baselines.write(self._baselines, run)
                    lost.discard(model)
            except (BadInput, OSError) as error:
                self.errors.append(f"the baseline of {model} could not be written: {error}; {checks.OTHER_BASELINES}")
                lost.discard(model)
            shutil.rmtree(folder, ignore_errors=True)
        self.errors += [f"the baseline of {model} is lost: its temporary folder is gone" for model in sorted(lost)]
        left = sorted(refused.keys() & {*staged.values()})
        self.errors += [f"no baseline of {model} was written: {refused[model]}" for model in left]


def _is_of_a_gate(error: BaseException) -> bool:
    """Return whether a gate failed, alone or with others in a group, or caused the error."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_a_gate, error.exceptions))
    return isinstance(error, GateFailed) or (error.__cause__ is not None and _is_of_a_gate(error.__cause__))


CHANNEL = pytest.StashKey[Channel]()
VERDICTS = pytest.StashKey[list[Verdict]]()  # that no report has yet
ATTEMPT = pytest.StashKey[list[Verdict]]()  # of this attempt at a test, those of its subtests included
FIGURES = pytest.StashKey[list[tuple[str, object]]]()  # of this attempt, among the properties of its test


def _discard(item: pytest.Item) -> None:
    """Remove what a test has staged and not reported, as one that is interrupted."""
    for verdict in item.stash.get(VERDICTS, ()):
        shutil.rmtree(verdict["staged"], ignore_errors=True)


def apply_gate(session: "Session", runs: "Sequence[Run]", item: pytest.Item) -> None:
    """Pass, fail or skip a test by the gate's verdict on its runs, and stage a first or updated baseline.

    A test to be skipped goes on to its end, so that no later gate hides behind one that cannot tell. The verdict goes
    to the summary and to JUnit's properties. A first baseline fails the test: nobody has approved it.
    """
    from convspec.accuracy.baselines import name_seeds

    judgement = session.judge(runs)
    lines, repeat = judgement.lines, session.repeats.get(judgement.name)
    if repeat and repeat.outcome == "bit-identical" and judgement.differs_for_no_known_reason:
        lines.append("it repeats itself bit by bit here, and neither versions nor machine changed: code or data did")
    text, folder = "\n".join(lines), session.settings.baselines
    update = session.settings.update_baselines
    begins = judgement.outcome == "missing" and not judgement.left_out
    predictions = repr([(run.predicted, run.labels, run.pictures) for run in runs])
    verdict: Verdict = {
        "outcome": judgement.outcome,
        "text": text,
        "failed": begins or (judgement.outcome in ("missing", "regressed") and not update),
        "test": _test(item),
        "item": item.nodeid,
        "model": " on ".join(filter(None, (runs[0].name, runs[0].dataset))),
        "predictions": hashlib.sha256(predictions.encode()).hexdigest(),
        "staged": "",
    }
    verdicts, earlier = (item.stash.setdefault(key, []) for key in (VERDICTS, ATTEMPT))
    if conflict := item.config.stash[CHANNEL].conflict(verdict, earlier):
        verdicts.append(verdict | {"outcome": "conflict", "text": conflict, "failed": True})
        pytest.fail(conflict, pytrace=False)
    earlier.append(verdict)
    session.judgements.append(judgement)
    item.user_properties += (figures := [*judgement.properties.items(), ("verdict", text)])
    item.stash.setdefault(FIGURES, []).extend(figures)
    if (update or begins) and (unwritable := checks.why_unwritable(folder)):
        text += f"\nThese runs cannot be kept as a baseline: {unwritable}; {checks.OTHER_BASELINES}."
        verdict["failed"] = True
    elif update or begins:
        verdict["staged"] = _stage(runs)
        if begins:
            text += (
                f"\nThese runs become the baseline as the session ends, with {judgement.measured}: if you expect that,"
                f" keep {str(folder)!r} under version control, and run again."
            )
    elif verdict["failed"]:
        text += "\nTo compare runs with these from now on: --convspec-update-baselines."
    verdicts.append(verdict)
    seeds = {run.seed for run in runs}
    if update and (kept := [run for run in judgement.baseline if run.seed not in seeds]):
        verdict["text"] += f"\n{name_seeds(kept)} of the old baseline still count: train as many, or delete their files"
    if verdict["failed"]:
        raise GateFailed(text, pytrace=False)


def _stage(runs: "Sequence[Run]") -> str:
    """Write runs to a temporary folder, which any process of the session may read; return its name."""
    from convspec.accuracy import baselines

    folder = tempfile.mkdtemp(prefix="convspec-baselines-")
    try:
        for run in runs:
            baselines.write(Path(folder), run)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _test(item: pytest.Item) -> str:
    """Return the node id without the parameters that plugins add to repeat a test: their names begin with __."""
    callspec = getattr(item, "callspec", None)
    if not (callspec and isinstance(item, pytest.Function) and any(name[:2] == "__" for name in callspec.params)):
        return item.nodeid
    own = [str(value) for name, value in callspec.params.items() if name[:2] != "__"]
    parent = item.parent.nodeid if item.parent else ""
    return f"{parent}::{item.originalname}" + (f"[{'-'.join(own)}]" if own else "")
