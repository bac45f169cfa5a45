"""Tests of the tests: they must fail on each seeded defect, and say what is wrong."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from defects import DEFECTS, ROOT, Defect

MAX_DEFECTS = 150
LIMIT = 240  # seconds for a test: a fault that hangs it is no failure that points at the fault
PARTS = 4  # in which the tests of the slow defects run without a defect
# Modules of which no defect is asked: what they hold is names from elsewhere.
NO_CODE = re.compile(r"__(init|main)__$")

Run = Callable[[Path | None, str, list[str]], dict[str, Any]]


@pytest.fixture(scope="session")
def run_tests() -> Iterator[Run]:
    """Return a function that runs tests against the package with one module rewritten, and says what failed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that forks processes")
    settings = {"PYTHONPATH": str(ROOT / "tests" / "meta"), "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas brings Arrow where it is installed
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    with subprocess.Popen(
        [sys.executable, "-m", "defects.server"],
        cwd=ROOT,
        env=inherited | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        stdin, stdout = server.stdin, server.stdout
        assert stdin
        assert stdout
        assert json.loads(stdout.readline()) == {"threads": 1}, "only a process with one thread forks safely"

        def run(file: Path | None, source: str, tests: list[str]) -> dict[str, Any]:
            request = {"file": file and str(file), "source": source, "tests": [f"tests/{test}" for test in tests]}
            stdin.write(json.dumps(request | {"limit": LIMIT * len(tests)}) + "\n")
            stdin.flush()
            return json.loads(stdout.readline())

        yield run
        stdin.close()


def by_speed(defect: Defect) -> Any:
    return pytest.param(defect, id=defect.name.replace(" ", "-"), marks=() if defect.quick else pytest.mark.slow)


@pytest.mark.parametrize("defect", [by_speed(defect) for defect in DEFECTS])
def test_a_seeded_defect_fails_the_tests_with_a_message_that_names_it(
    defect: Defect, run_tests: Run, record_property: Callable[[str, object], None]
) -> None:
    if defect.needs and not find_spec(defect.needs):
        pytest.skip(f"needs {defect.needs}")
    record_property("seeded", defect.name)
    answer = run_tests(defect.file, defect.seeded(), [defect.test])
    assert "error" not in answer, f"the run broke off: {answer['error']}"
    assert answer["code"] != pytest.ExitCode.OK, f"survived: {defect.test} passes"
    assert answer["code"] == pytest.ExitCode.TESTS_FAILED, f"pytest ended with {answer['code']}: {answer}"
    first = answer["failures"][0]
    assert first["when"] != "collect", f"the tests could not be collected: {first['message']}"
    assert re.search(defect.message, first["message"]), f"a message that does not point at it:\n{first['message']}"
    record_property("killed", defect.name)


@pytest.mark.parametrize("part", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in range(PARTS))])
def test_without_a_defect_the_same_tests_pass(part: int | None, run_tests: Run) -> None:
    there = [defect for defect in DEFECTS if not defect.needs or find_spec(defect.needs)]
    tests = sorted({defect.test for defect in there if defect.quick == (part is None)})
    answer = run_tests(None, "", tests[part::PARTS] if part is not None else tests)
    assert answer["code"] == pytest.ExitCode.OK, answer


def test_every_defect_has_its_place_and_its_test() -> None:
    stale = []
    for defect in DEFECTS:
        for find in (defect.seeded, defect.find_test):
            try:
                find()
            except (LookupError, SyntaxError) as error:
                stale.append(f"{defect.name}: {error}")
    assert not stale, f"{len(stale)} stale:\n" + "\n".join(stale)


def test_every_module_has_a_defect_and_no_two_share_a_name() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS) <= MAX_DEFECTS
    modules = {path.relative_to(ROOT) for path in (ROOT / "convspec").rglob("*.py") if not NO_CODE.search(path.stem)}
    assert modules - {defect.file for defect in DEFECTS} == set(), "without a defect"
