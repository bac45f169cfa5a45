"""Rules that this repository's own tests follow: skips cannot go stale, names are short, modules stand alone."""

import ast
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[2]
MAX_NAME, MAX_WORDS = 70, 20


@cache
def read_modules() -> dict[Path, ast.Module]:
    files = (file for folder in ("tests", "benchmarks") for file in sorted((ROOT / folder).rglob("test_*.py")))
    return {file: ast.parse(file.read_text()) for file in files}


def test_no_test_has_a_name_that_is_too_long() -> None:
    names = {
        f"{path.relative_to(ROOT)}::{node.name}": len(node.name)
        for path, module in read_modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    long = [f"{name} ({length})" for name, length in names.items() if length > MAX_NAME]
    assert not long, f"{len(long)} names of more than {MAX_NAME} characters:\n" + "\n".join(long)


def test_a_summary_has_at_most_20_words() -> None:
    long = []
    for path in sorted((ROOT / "convspec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                summary = (ast.get_docstring(node) or "").partition("\n")[0]
                long += [f"{path.relative_to(ROOT)}: {summary}"] * (len(summary.split()) > MAX_WORDS)
    assert not long, "\n".join(long)


def test_no_test_module_imports_from_another() -> None:
    modules = {path.stem for path in read_modules()}
    importing = [
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path, module in read_modules().items()
        for node in ast.walk(module)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and modules & set(".".join([getattr(node, "module", "") or "", *(a.name for a in node.names)]).split("."))
    ]
    assert not importing, "what two modules build belongs in tests/builders.py:\n" + "\n".join(importing)


@pytest.fixture
def two_tests(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((ROOT / "conftest.py").read_text())
    pytester.makepyfile(test_it="def test_one(): pass\ndef test_two(): pass")
    return pytester


@pytest.mark.parametrize("name", ["test_it.py::test_three", "test_gone.py::test_one"])
def test_an_id_under_deselect_that_matches_no_test_is_an_error(name: str, two_tests: pytest.Pytester) -> None:
    result = two_tests.runpytest("--deselect", name)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--deselect {name}: stale, no such test"])


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


def test_pytest_in_pytest_leaves_hypothesis_at_the_profile_it_has(two_tests: pytest.Pytester) -> None:
    """Though it reads conftest.py again, which loads one."""
    names = "quick", "thorough", "first-example"
    before = next(name for name in names if settings.get_profile(name) is settings.default)
    settings.load_profile("thorough")
    two_tests.runpytest().assert_outcomes(passed=2)
    after = settings.default
    settings.load_profile(before)
    assert after is settings.get_profile("thorough")


def test_real_data_of_which_a_part_is_missing_skip_their_tests(
    two_tests: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSPEC_DATA", str(two_tests.path))
    (two_tests.path / "mnist.npz").touch()
    two_tests.makepyfile(test_it="def test_one(data_folder): pass")
    result = two_tests.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*lacks dogs_vs_cats_small, vgg16_notop.weights.h5; get them with *"])
