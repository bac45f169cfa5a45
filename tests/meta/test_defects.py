"""Tests of the specification itself: it must fail on each seeded defect, and say what is wrong."""

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
from defects.seed import Defect
from defects.seeds import DEFECTS
from defects.stubs import public, speaking_of

ROOT = Path(__file__).parents[2]
MODULES = {file.stem: file.read_text() for file in sorted((ROOT / "convspec").glob("*.py")) if file.stem != "__init__"}
STUBS = [
    (module, name, kind)
    for module, source in MODULES.items()
    for name, kinds in public(source).items()
    for kind in kinds
]

# Stubs that the specification need not tell from the real thing, and why.
EXEMPT = {
    ("session", "terminal_stream", "constant"): "one stream serves a whole session",
    ("plugin", "pytest_report_header", "constant"): "a session has one header",
}

# Tests of functions that no test calls by name.
LADDER = "test_plugin.py::test_the_ladder_runs_on_a_users_own_folder_and_ends_in_table_picture_and_record"
CALLED_BY_OTHERS: dict[tuple[str, str], str] = {
    ("features", "outputs"): "test_recipes.py::test_features_are_computed_once_and_shared_by_the_seeds",
    ("gradients", "data_parallel"): "test_devices.py::test_each_of_two_devices_has_the_model",
    ("datasets", "check"): "test_datasets.py::test_an_unknown_dataset_is_refused_with_the_list_of_datasets",
    ("recipes", "Result.as_dict"): "test_report.py::test_the_record_holds_every_raw_run_and_reads_back",
    ("report", "chart"): "test_report.py::test_a_dot_stands_where_the_accuracy_is",
    ("report", "claim_rows"):
        "test_report.py::test_a_claim_is_reproduced_where_another_run_could_give_the_published_figure",
    ("report", "flipped_pictures"): "test_page.py::test_verdicts_and_the_pictures_that_flipped_are_there",
    ("page", "write"): "test_page.py::test_a_part_that_cannot_be_drawn_is_named_and_takes_no_other_with_it",
    ("report", "summary"): "test_report.py::test_each_line_has_the_figures_of_its_own_rung",
    ("plugin", "pytest_addoption"): "test_plugin.py::test_help_explains_every_option_in_one_group",
    ("plugin", "pytest_configure"): "test_plugin.py::test_what_cannot_work_is_a_usage_error_in_one_line",
    ("plugin", "pytest_report_header"): "test_plugin.py::test_the_header_shows_what_the_options_resolved_to",
    ("plugin", "pytest_sessionstart"): "test_plugin.py::test_without_a_gpu_require_gpu_fails_and_says_so",
    ("session", "skip_or_fail_on_bad_data"): "test_plugin.py::test_missing_pictures_are_a_skip_that_says_how_to_get_them",
    ("session", "terminal_stream"): "test_progress.py::test_a_bar_shows_past_pytests_capturing",
    ("plugin", "pytest_terminal_summary"): LADDER,
    ("plugin", "pytest_sessionfinish"):
        "test_gating.py::test_a_regression_fails_with_its_own_exit_code_and_names_what_flipped",
    ("session", "Session.finish"):
        "test_page.py::test_what_cannot_be_drawn_is_told_and_the_record_is_written_all_the_same",
    ("session", "Session.model"): "test_page.py::test_each_model_is_found_where_its_training_left_it",
    ("session", "Session.run"): LADDER,
    ("session", "Session.hold"):
        "test_gating.py::test_a_first_run_writes_the_baseline_and_fails_with_the_words_to_say_so",
    ("session", "Session.dataset"):
        "test_plugin.py::test_a_recipes_pictures_have_its_size_and_are_loaded_once_a_session",
}  # fmt: skip

# The stubs of the quick half.
QUICK_STUBS = {
    ("arithmetic", "conv_output_size", "shape"),
    ("datasets", "check", "nothing"),
    ("storage", "atomic_write", "shape"),
    ("training", "smooth_curve", "constant"),
}

Run = Callable[[str | None, str, list[str]], dict[str, Any]]


@pytest.fixture(scope="session")
def specification() -> Iterator[Run]:
    """Runs tests against the package with one module rewritten: what failed, and why."""
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that forks processes")
    settings = {"PYTHONPATH": str(ROOT / "tests"), "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # pandas brings Arrow where it is installed
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    with subprocess.Popen(
        [sys.executable, "-m", "defects.server"], cwd=ROOT, env=inherited | settings,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as server:  # fmt: skip
        assert server.stdin
        assert server.stdout
        assert json.loads(server.stdout.readline()) == {"threads": 1}, "only a process with one thread forks safely"

        def run(module: str | None, source: str, tests: list[str]) -> dict[str, Any]:
            request = {"module": module, "source": source, "arguments": [f"tests/{test}" for test in tests]}
            assert server.stdin
            assert server.stdout
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield run
        server.stdin.close()


def caught(answer: dict[str, Any], what: str) -> str:
    """The message of the first test that failed; an error where none did, or where it was none of the tests' doing."""
    assert "error" not in answer, f"{what}: the run broke off: {answer['error']}"
    assert answer["code"] != pytest.ExitCode.OK, f"{what} survived: the tests named for it pass"
    assert answer["code"] == pytest.ExitCode.TESTS_FAILED, f"{what}: pytest ended with {answer['code']}: {answer}"
    first = answer["failures"][0]
    assert first["when"] != "collect", f"{what}: the tests could not be collected: {first['message']}"
    return first["message"]


def by_speed(defect: Defect) -> Any:
    return pytest.param(defect, id=defect.name.replace(" ", "-"), marks=() if defect.quick else pytest.mark.slow)


@pytest.mark.parametrize("defect", [by_speed(defect) for defect in DEFECTS])
def test_the_specification_fails_on_a_defect_and_says_what_is_wrong(
    defect: Defect, specification: Run, record_property: Callable[[str, object], None]
) -> None:
    if defect.needs and not find_spec(defect.needs):
        pytest.skip(f"needs {defect.needs}")
    record_property("seeded", defect.name)
    source = MODULES[defect.module]
    assert source.count(defect.old) == 1, f"stale: {defect.old!r} must stand once in {defect.module}.py"
    message = caught(specification(defect.module, source.replace(defect.old, defect.new), [defect.test]), defect.name)
    assert re.search(defect.message, message), f"{defect.name}: a message that does not point at it:\n{message}"
    record_property("killed", defect.name)


@pytest.mark.parametrize(
    ("module", "name", "kind"),
    [
        pytest.param(*stub, marks=() if stub in QUICK_STUBS else pytest.mark.slow, id="-".join(stub))
        for stub in STUBS
        if stub not in EXEMPT
    ],
)
def test_the_specification_fails_on_a_stub(
    module: str, name: str, kind: str, specification: Run, record_property: Callable[[str, object], None]
) -> None:
    if module == "cluster" and not find_spec("ray"):
        pytest.skip("needs ray")
    record_property("seeded", f"{module}.{name} {kind}")
    source = f"{MODULES[module]}\n\nfrom defects.stubs import stubbed\n\n{name} = stubbed({name}, {kind!r})\n"
    given = CALLED_BY_OTHERS.get((module, name))
    tests = [given] if given else speaking_of(module, name.rpartition(".")[2])
    assert tests, f"no test speaks of {module}.{name}"
    answer = specification(module, source, tests)
    # Where a stub breaks pytest itself, or a module that its conftest imports, there is no failure but an error.
    assert not answer.get("error", "").startswith("status"), f"{module}.{name} as a stub ({kind}): {answer}"
    passed = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert answer["code"] not in passed, f"{module}.{name} survived as a stub ({kind}): {tests} pass"
    record_property("killed", f"{module}.{name} {kind}")


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["quick", "slow"])
def test_without_a_defect_the_same_tests_pass(quick: bool, specification: Run) -> None:
    named = {defect.test for defect in DEFECTS if defect.quick == quick}
    answer = specification(None, "", sorted(named))
    assert answer["code"] == pytest.ExitCode.OK, answer


def test_every_module_with_functions_is_seeded_and_each_defect_once() -> None:
    assert len(DEFECTS) >= 40
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    assert {module for module, _, _ in STUBS} - {defect.module for defect in DEFECTS} == set()
    for defect in DEFECTS:
        times = (ROOT / "convspec" / f"{defect.module}.py").read_text().count(defect.old)
        assert times == 1, f"{defect.name}: what it replaces stands {times} times in {defect.module}.py"


def test_every_exception_is_that_of_a_stub_that_exists() -> None:
    stubs = set(STUBS)
    assert set(EXEMPT) | QUICK_STUBS <= stubs, "stale: no such stub"
    assert set(CALLED_BY_OTHERS) <= {(module, name) for module, name, _ in stubs}, "stale: no such function"
    for named in [*CALLED_BY_OTHERS.values(), *(defect.test for defect in DEFECTS)]:
        file, test = named.partition("[")[0].split("::")
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), f"stale: no {named}"
