"""The settings that this repository's own tests run under: profiles, options, and skips that cannot go stale."""

from pathlib import Path

import pytest
from hypothesis import settings

CONFTEST = (Path(__file__).parents[2] / "conftest.py").read_text()


@pytest.fixture
def two_tests(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it="def test_one(): pass\ndef test_two(): pass")
    return pytester


def test_an_id_under_deselect_that_matches_no_test_is_an_error(two_tests: pytest.Pytester) -> None:
    result = two_tests.runpytest("--deselect", "test_it.py::test_three")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--deselect test_it.py::test_three: stale, no such test"])


def test_an_id_under_deselect_of_a_file_that_is_gone_is_an_error(two_tests: pytest.Pytester) -> None:
    assert two_tests.runpytest("--deselect", "test_gone.py::test_one").ret == pytest.ExitCode.USAGE_ERROR


def test_an_id_under_deselect_that_matches_deselects(two_tests: pytest.Pytester) -> None:
    two_tests.runpytest("--deselect", "test_it.py::test_one").assert_outcomes(passed=1, deselected=1)


def test_an_id_under_deselect_of_a_file_that_is_not_run_is_left_alone(two_tests: pytest.Pytester) -> None:
    two_tests.makepyfile(test_other="def test_other(): pass")
    two_tests.runpytest("test_other.py", "--deselect", "test_it.py::test_one").assert_outcomes(passed=1)


def test_a_skip_that_nothing_can_end_is_refused(two_tests: pytest.Pytester) -> None:
    two_tests.makepyfile(test_other="import pytest\n@pytest.mark.skip\ndef test_other(): pass")
    result = two_tests.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*test_other.py::test_other: skipped for good; mark it xfail*"])


def test_an_expected_failure_that_passes_is_a_failure(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("xfail_strict")


@pytest.mark.parametrize(("profile", "examples"), [("quick", 30), ("thorough", 500)])
def test_there_are_a_quick_and_a_thorough_profile(profile: str, examples: int) -> None:
    assert settings.get_profile(profile).max_examples == examples
