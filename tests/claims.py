"""Claims of the chapter: the decorator that marks their tests, their evidence, and effects over seeds.

    from claims import Evidence, Experiment, assert_effect, claim, paired

    @claim(45, "5.2.2", "The best entries achieved up to 95% accuracy", "refuted", source="text")
    @claim(46, "5.2.2", "less than 10% of the data that was available", "holds")
    def test_...(evidence: Evidence) -> None:
        evidence(f"first epoch {first:.3f}, last {last:.3f}")  # one short line, with numbers

    @claim(39, "5.1.2", "max pooling tends to work better", "holds", kind="measured")
    @pytest.mark.experiment
    def test_...(experiment: Experiment) -> None:
        effect = paired(max_pooling, average_pooling)  # an accuracy a seed each, at least five
        experiment(effect, "accuracy, max over average pooling", figure)  # a matplotlib.figure.Figure, or None
        assert_effect(effect, above=0, why="max pooling keeps the strongest response of a window")

The arguments of `claim` are literals, as the tables read them from the source. Several tests of one claim give the same
section, quote, verdict and source. An accuracy, and all that is shown in points, is from 0 to 1. Record first, then
assert: what failed is worth seeing, too.

The forty-four listings stand in `tests/chapter/listings.toml`, a table each:

    ["5.12"]
    title = "Displaying some randomly augmented training images"
    offered = "`convspec.report.images.view_rows`, the page"  # what convspec has in its place; Markdown
    meaning = "same"      # or "equivalent" (written otherwise, shown equal by a test), "differs", "absent"
    difference = ""       # what is not as in the listing; empty for "same"
    tests = ["test_..."]  # names of functions under tests/
"""

import base64
import io
import os
import re
import shlex
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import pytest
import threadpoolctl
from scipy import special

from convspec.accuracy import statistics
from convspec.plugin.session import SESSION
from convspec.report.tables import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["holds", "qualified", "refuted", "cannot tell"]
Kind = Literal["exact", "measured", "recorded"]
LAST = {"5.1": 40, "5.2": 78, "5.3": 118, "5.4": 141}  # claim of each section
UNTESTABLE = {  # section and quote by number
    18: ("5.1.1", "the visual world is fundamentally spatially hierarchical"),
    30: ("5.1.1", "Strided convolutions are rarely used in practice"),
    79: ("5.3", "A common and highly effective approach to deep learning"),
}
MIN_SEEDS = 5
LEVEL = 0.01  # of an experiment's verdict
UNCLEAR = "cannot tell here"  # why a test is skipped at its end
MAX_WORDS = 10
ATTRIBUTE = "claims"  # of a test's report


@dataclass(frozen=True)
class Claim:
    """What the chapter says somewhere, and what is true of it.

    A claim between two of the count has a decimal: 44.5.
    """

    number: float
    section: str
    quote: str
    verdict: Verdict
    source: str = "text"
    kind: Kind = "exact"

    def __post_init__(self) -> None:
        for name, kinds in (("verdict", Verdict), ("kind", Kind)):
            if (value := getattr(self, name)) not in get_args(kinds):
                raise ValueError(f"{name} of claim {self.number} must be one of {get_args(kinds)}, got {value!r}")
        if not re.fullmatch(r"5\.[1-4](\.[1-9])?", self.section):
            raise ValueError(f'section of claim {self.number} must be as "5.1" or "5.1.1", got {self.section!r}')
        if type(self.number) not in (int, float) or not 1 <= self.number < LAST["5.4"] + 1:
            raise ValueError(f"number must be from 1 to {LAST['5.4']} or a decimal such as 44.5, got {self.number!r}")
        if self.number in UNTESTABLE:
            raise ValueError(f"claim {self.number} is one of those that cannot be tested: {sorted(UNTESTABLE)}")
        if (right := next(name for name, last in LAST.items() if self.number < last + 1)) != self.section[:3]:
            raise ValueError(f"claim {self.number} stands in {right}, got section {self.section!r}")
        if not 1 <= len(self.quote.split()) <= MAX_WORDS:
            raise ValueError(f"quote of claim {self.number} must be of 1 to {MAX_WORDS} words, got {self.quote!r}")
        if not re.fullmatch(r"text|table|(listing|figure)s? 5\.\d+(( to |-| and |, )5\.\d+)*", self.source):
            raise ValueError(
                f'source of claim {self.number} must be "text", "table", "listing 5.8" or "figures 5.9 and 5.10",'
                f" got {self.source!r}"
            )


def claim(
    number: float, section: str, quote: str, verdict: Verdict, *, source: str = "text", kind: Kind = "exact"
) -> pytest.MarkDecorator:
    """Mark a test of a claim.

    Args:
        number: From 1 to 141, by and large in the chapter's order; a decimal for one between two of them.
        section: Where it stands: "5.1.1".
        quote: At most ten of the chapter's own words.
        verdict: What is true, as the test asserts it: "holds", "qualified" (under a condition), "refuted"; "cannot
            tell" where the evidence is too weak either way.
        source: "text", "table", "listing 5.8" or "figure 5.9".
        kind: Evidence of this test: "exact", "measured" in this run, or "recorded" earlier or elsewhere.
    """
    return pytest.mark.claim(Claim(number, section, quote, verdict, source, kind))


@dataclass(frozen=True)
class Effect:
    """A difference between two sides, or a trend: one value a seed."""

    values: tuple[float, ...]
    unit: str = "points"  # then the values are shares, shown as hundredths

    def __post_init__(self) -> None:
        if len(self.values) < MIN_SEEDS or not np.isfinite(self.values).all():
            raise ValueError(f"an effect needs at least {MIN_SEEDS} seeds, all finite, got {self.values}")

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, by Student's t."""
        return statistics.interval(self.values, 1) if len(set(self.values)) > 1 else (self.mean, self.mean)

    def p_value(self, bound: float = 0.0) -> float:
        """Return the two-sided p-value that the mean is `bound`, by Student's t."""
        error = float(np.std(self.values, ddof=1)) / len(self.values) ** 0.5
        if error == 0:
            return float(self.mean == bound)
        return float(2 * special.stdtr(len(self.values) - 1, -abs(self.mean - bound) / error))

    def __str__(self) -> str:
        low, high = self.interval
        mean, *ends = (f"{100 * v:.1f}" if self.unit == "points" else f"{v:.3g}" for v in (self.mean, low, high))
        sign = "" if mean.startswith("-") else "+"
        return f"{sign}{mean} {self.unit} [{', '.join(ends)}], {_format_p(self.p_value())}, {len(self.values)} seeds"


def _format_p(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def paired(
    treated: Sequence[float] | np.ndarray, control: Sequence[float] | np.ndarray, unit: str = "points"
) -> Effect:
    """Return the effect of a treatment: its value less that of the control, seed by seed."""
    return Effect(tuple(float(one - other) for one, other in zip(treated, control, strict=True)), unit)


def seeds(count: int) -> range:
    """Return the seeds of an experiment: so many, or as many as --experiment-seeds asks for if that is more."""
    return range(max(count, _wanted))


_wanted, _unclear = 0, list[str]()


def expect(shown: bool, text: str) -> None:
    """Skip the test at its end, saying why, where this machine or these seeds don't show what others do.

    What contradicts the claim is for an assertion.
    """
    if not shown:
        _unclear.append(text)


def assert_effect(effect: Effect, *, above: float | None = None, below: float | None = None, why: str) -> None:
    """Expect at p < 0.01 that an effect lies above a bound, below one, or between two (as good as none).

    A mean on the wrong side fails the test. On the right side but not at that level, as may be on a machine that
    rounds otherwise, the test is skipped at its end: its seeds are too few. Bounds are in the unit of the effect's
    values: shares for points. `why` says what makes the chapter expect it, or what refutes it.
    """
    assert above is not None or below is not None, "give a bound: above or below"
    for side, bound, sign in (("above", above, 1), ("below", below, -1)):
        if bound is not None:
            p = effect.p_value(bound)
            text = f"expected {side} {bound:g} ({why}), got {effect}, and against {bound:g} {_format_p(p)}"
            assert sign * (effect.mean - bound) > 0, text
            expect(p < LEVEL, f"{text}: too few seeds")


def assert_control(control: Effect, effect: Effect) -> None:
    """Assert that an effect is gone, or three quarters of it, where a defect on purpose leaves no cause for it."""
    assert abs(control.mean) < abs(effect.mean) / 4, f"expected none without its cause: {control}, with it {effect}"


@dataclass
class Entry:
    """What a test of claims came to in this run: one test, or one of its parameters."""

    numbers: list[float]  # of its claims
    outcome: str  # "passed", "failed", "skipped" or "error": its setup failed
    reason: str = ""  # the first line of why it failed or was skipped
    evidence: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)  # PNG in base64
    kind: str = ""  # of the evidence, where it isn't that of the claim


class Evidence(Protocol):
    """Fixture `evidence`: records a line with numbers, and their kind where it isn't that of the claim."""

    def __call__(self, line: str, kind: Kind | None = None) -> None: ...


class Experiment(Protocol):
    """Fixture `experiment`: records an effect, what it is an effect on, and a picture of it."""

    def __call__(self, effect: Effect, about: str, figure: "Figure | None" = None) -> None: ...


LINES, FIGURES = pytest.StashKey[list[str]](), pytest.StashKey[list[str]]()
KIND = pytest.StashKey[str]()
BEGUN: dict[Path, float] = {}  # when the first test of a file was set up: tests of one file share what they train


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Iterator[Evidence]:
    """Record a line with numbers, and their kind where it isn't that of the claim.

    Recorded evidence is what docs/claims.md says, whose pages would otherwise outlive the runs that it is of.
    """

    def record(line: str, kind: Kind | None = None) -> None:
        request.node.stash[LINES].append(line)
        request.node.stash[KIND] = kind or request.node.stash[KIND]

    yield record
    import claims_table

    page = request.config.rootpath / "docs" / "claims.md"
    written = dict(claims_table.read_evidence(page.read_text(encoding="utf-8"))) if page.exists() else {}
    for mark in request.node.iter_markers("claim"):
        if (request.node.stash[KIND] or mark.args[0].kind) == "recorded" and written:
            rest = [line for line in request.node.stash[LINES] if escape(line) not in written[mark.args[0].number]]
            assert not rest, f"{page} lacks {rest}: run `python tests/claims_table.py` with this run's claims.json"


@pytest.fixture
def experiment(request: pytest.FixtureRequest) -> Experiment:
    """Record an effect with its interval, p-value, seeds and seconds since its file began, and a picture of it."""

    def record(effect: Effect, about: str, figure: "Figure | None" = None) -> None:
        seconds = time.perf_counter() - BEGUN[request.path]
        request.node.stash[LINES].append(f"{about}: {effect}, {seconds:.0f} s")
        if figure:
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
            request.node.stash[FIGURES].append(base64.b64encode(file.getvalue()).decode())

    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--experiment-seeds", type=int, default=0, metavar="N", help="at least N seeds in each experiment")


def pytest_configure(config: pytest.Config) -> None:
    global _wanted
    _wanted = config.getoption("experiment_seeds", 0)
    config.addinivalue_line("markers", "claim: tests a claim of the chapter; by the decorator of tests/claims.py")
    config.addinivalue_line("markers", "experiment: minutes of training at mini; runs with -m experiment only")
    if hasattr(config, "workerinput"):
        # A thread each: with small networks, threads that share cores with other workers only wait.
        names = "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "OMP_NUM_THREADS"
        os.environ |= dict.fromkeys(names, "1")
        threadpoolctl.threadpool_limits(1)
    else:
        config.pluginmanager.register(_Run(config), "claims of this run")


@pytest.hookimpl(trylast=True)  # after what shuffles
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of recorded runs come last: they judge the runs of this session where there are any."""
    items.sort(key=lambda item: item.path.name == "test_recorded_runs.py")


@pytest.hookimpl(tryfirst=True)  # so that the time of shared fixtures counts
def pytest_runtest_setup(item: pytest.Item) -> None:
    BEGUN.setdefault(item.path, time.perf_counter())
    item.stash[LINES], item.stash[FIGURES], item.stash[KIND] = [], [], ""  # of this attempt, where a test is repeated


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip at its end what was neither shown nor contradicted."""
    _unclear.clear()
    result = yield
    if _unclear:
        reasons = "; ".join(_unclear)
        _unclear.clear()
        pytest.skip(f"{UNCLEAR}: {reasons}")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put claims and evidence of a test on its report, which pytest-xdist carries from process to process."""
    report = yield
    if numbers := [mark.args[0].number for mark in item.iter_markers("claim")]:
        lines, figures, kind = item.stash.get(LINES, []), item.stash.get(FIGURES, []), item.stash.get(KIND, "")
        content = {"numbers": numbers, "evidence": lines, "figures": figures, "kind": kind}
        setattr(report, ATTRIBUTE, content)
    return report


class _Run:
    """Hooks that collect what the tests of claims found, in whatever process, and write the tables at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._entries: dict[str, Entry] = {}
        self._summary = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        content = getattr(report, ATTRIBUTE, None)
        if content is None or report.outcome not in ("passed", "failed", "skipped"):  # a rerun says nothing yet
            return
        if report.when == "call" or (report.when == "setup" and not report.passed):
            outcome = "error" if report.failed and report.when == "setup" else report.outcome
            self._entries[report.nodeid] = Entry(outcome=outcome, reason=_reason(report), **content)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._entries:
            import claims_table

            folder = self._config.stash[SESSION].folder
            facts = {
                "command": shlex.join(["pytest", *map(str, self._config.invocation_params.args)]),
                "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            }
            try:
                tests = claims_table.read_tests(self._config.rootpath)
                rows = claims_table.write_run(folder, self._entries, facts, tests)
            except (OSError, ValueError) as error:
                self._summary = f"no page of claims: {error}"
            else:
                numbers = ", ".join(f"{number} {name}" for name, number in claims_table.counts(rows).items())
                extent = claims_table.extent(rows)
                self._summary = f"claims of the chapter, {extent}: {numbers}; {folder / 'claims.html'}"

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        if self._summary:
            terminalreporter.write_line(self._summary)


def _reason(report: pytest.TestReport) -> str:
    """Return the first line of why a test failed or was skipped; empty for one that passed."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # of a skip
        text = report.longrepr[2].removeprefix("Skipped: ")
    else:
        error = re.search(r"^E +(.*)", report.longreprtext, re.MULTILINE)
        text = error[1].removeprefix("AssertionError: ") if error else report.longreprtext
    return text.strip().partition("\n")[0] or getattr(report, "wasxfail", report.outcome)
