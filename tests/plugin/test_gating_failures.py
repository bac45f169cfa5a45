"""Runs become the baseline only where their test did not fail for another reason than its gates."""

from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from builders import lines

from convspec.plugin.verdicts import NO_BASELINE

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
UPDATE = "--convspec-update-baselines"
GATES = """
import unittest
import numpy as np
import pytest

labels = np.arange(1000) % 2
worse = np.where(np.arange(1000) < {wrong}, 1 - labels, labels)

def gate(accuracy_gate, name="model"):
    accuracy_gate(name, np.array([worse] * 3), labels)

"""
PASSING = "def test_model(accuracy_gate):\n    gate(accuracy_gate)\n"
ASSERTION = PASSING + "    assert False\n"
TEARDOWN = """
@pytest.fixture
def broken():
    yield
    assert False

def test_model(broken, accuracy_gate):
    gate(accuracy_gate)
"""
UNITTEST = """
class TestModel(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def keep(self, accuracy_gate):
        self.gate = accuracy_gate

    def test_model(self):
        gate(self.gate)
        self.fail()
"""
SUBTESTS = """
def test_model(accuracy_gate, subtests):
    with subtests.test("model"):
        gate(accuracy_gate)
    with subtests.test("other"):
        assert False
"""
CAUGHT = """
def test_model(accuracy_gate):
    try:
        gate(accuracy_gate)
    except pytest.fail.Exception:
        pass
    assert False
"""
RAISED_LATER = """
def test_model(accuracy_gate):
    failures = []
    for name in ("model", "second"):
        try:
            gate(accuracy_gate, name)
        except pytest.fail.Exception as failure:
            failures.append(failure)
    if failures:
        raise {error}
"""
with_subtests = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="pytest has subtests from 9.0 on")
with_reruns = pytest.mark.skipif(not find_spec("pytest_rerunfailures"), reason="needs pytest-rerunfailures")
with_repeats = pytest.mark.skipif(not find_spec("pytest_repeat"), reason="needs pytest-repeat")


def run(pytester: pytest.Pytester, test: str, *arguments: str, wrong: int = 20) -> tuple[int, str]:
    """Return the exit code and what the terminal shows."""
    pytester.makepyfile(test_model=GATES.replace("{wrong}", str(wrong)) + test)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments, no_reraise_ctrlc=True)
    return int(result.ret), lines(result)


def baselines(pytester: pytest.Pytester) -> dict[str, str]:
    folder = pytester.path / "tests" / "baselines"
    return {file.name: file.read_text() for file in folder.rglob("*.json")}


@pytest.fixture(autouse=True)
def temporary(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary ones, of which none is to stay."""
    folder = pytester.mkdir("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("test", "arguments"),
    [
        pytest.param(ASSERTION, (), id="its own assertion"),
        pytest.param(ASSERTION, ("--reruns", "1"), id="rerun", marks=with_reruns),
        pytest.param(ASSERTION, ("--count", "2"), id="repeated", marks=with_repeats),
        pytest.param(TEARDOWN, (), id="teardown"),
        pytest.param(TEARDOWN, ("-n", "1"), id="teardown under xdist", marks=pytest.mark.slow),
        pytest.param(UNITTEST, (), id="unittest"),
        pytest.param(SUBTESTS, (), id="subtests", marks=with_subtests),
        pytest.param(SUBTESTS, ("-n", "1"), id="subtests under xdist", marks=[with_subtests, pytest.mark.slow]),
        pytest.param("@pytest.mark.xfail(strict=True)\n" + PASSING, (), id="unexpected pass"),
    ],
)
def test_a_test_that_fails_otherwise_leaves_its_baseline_as_it_is(
    test: str, arguments: tuple[str, ...], pytester: pytest.Pytester, temporary: Path
) -> None:
    run(pytester, PASSING, wrong=20)
    written = baselines(pytester)
    assert len(written) == 3
    code, text = run(pytester, test, UPDATE, *arguments, wrong=200)
    assert code == FAILED
    assert baselines(pytester) == written
    assert text.count("no baseline of model was written: test_model.py::") == 1
    assert " failed for another reason than its gates" in text
    assert not list(temporary.glob("convspec-baselines-*"))


@pytest.mark.parametrize("test", [CAUGHT, TEARDOWN], ids=["after the gate", "teardown"])
def test_a_test_that_fails_otherwise_writes_no_first_baseline(test: str, pytester: pytest.Pytester) -> None:
    code, text = run(pytester, test)
    assert code == FAILED
    assert not baselines(pytester)
    assert "no baseline of model was written: test_model.py::test_model failed for another reason" in text


@with_reruns
def test_a_test_that_passes_when_it_is_rerun_updates_its_baseline(pytester: pytest.Pytester) -> None:
    run(pytester, PASSING)
    written = baselines(pytester)
    flaky = "attempts = []\n" + PASSING + "    attempts.append(0)\n    assert len(attempts) == 2\n"
    code, text = run(pytester, flaky, UPDATE, "--reruns", "1", "--junit-xml=junit.xml", wrong=200)
    assert code == OK
    assert "1 rerun" in text
    for case in ElementTree.parse("junit.xml").iter("properties"):
        assert [figure.get("name") for figure in case].count("outcome") == 1, "of the last attempt alone"
    assert baselines(pytester).keys() == written.keys()
    assert baselines(pytester) != written


@pytest.mark.parametrize(
    "error", ["failures[-1]", "BaseExceptionGroup('gates', failures)", "AssertionError('gates') from failures[0]"]
)
def test_failures_of_gates_that_a_test_collects_are_still_of_gates(error: str, pytester: pytest.Pytester) -> None:
    code, text = run(pytester, RAISED_LATER.replace("{error}", error))
    assert code == NO_BASELINE
    assert "no baseline of" not in text
    assert len(baselines(pytester)) == 6


KEPT = """
kept = []

@pytest.fixture(autouse=True)
def keep(accuracy_gate):
    kept.append(accuracy_gate)

def test_first():
    pass

def test_second():
    gate(kept[0])
"""


def test_a_gate_that_is_kept_beyond_its_test_is_a_clear_error(pytester: pytest.Pytester, temporary: Path) -> None:
    code, text = run(pytester, KEPT, "-p", "no:randomly")
    assert code == FAILED
    assert "model: accuracy_gate belongs to the test that asked for it; ask for it in each" in text
    assert "baseline" not in text
    assert not list(temporary.glob("convspec-baselines-*"))


def test_an_interrupted_test_leaves_nothing_behind(pytester: pytest.Pytester, temporary: Path) -> None:
    code, _ = run(pytester, CAUGHT.replace("assert False", "raise KeyboardInterrupt"))
    assert code == pytest.ExitCode.INTERRUPTED
    assert not baselines(pytester)
    assert not list(temporary.glob("convspec-baselines-*"))


IN_TEARDOWN = """
@pytest.fixture
def judged(accuracy_gate):
    yield
    gate(accuracy_gate)

def test_model(judged):
    pass
"""


def test_a_fixture_may_judge_when_its_test_is_over(pytester: pytest.Pytester) -> None:
    assert [run(pytester, IN_TEARDOWN)[0] for _ in range(2)] == [NO_BASELINE, OK]


def test_a_gates_failure_looks_as_any_other_in_the_summary(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # pytest cuts the line at the width of the terminal
    _, text = run(pytester, PASSING)
    assert "FAILED test_model.py::test_model - Failed: model: no baseline yet of model" in text
