"""The gate as a user meets it: what fails, what it says, the exit code, and what machines can read."""

import re
from xml.etree import ElementTree

import pytest
from builders import lines

from convspec.plugin import checks
from convspec.plugin.verdicts import NO_BASELINE, REGRESSED

OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED
MODEL = """
import numpy as np

labels = np.arange(1000) % 2
rng = np.random.default_rng({generator})

def test_model(accuracy_gate):
    wrong = rng.random(({runs}, 1000)) < np.where(np.arange(1000) < {hard}, 0.3, 0.001)
    accuracy_gate("model", np.where(wrong, 1 - labels, labels), labels)
"""
WORSE = {"hard": 150, "generator": 1}  # the pictures below `hard` are often wrong


def pytest_run(pytester: pytest.Pytester, *arguments: str) -> tuple[int, str]:
    """Return the exit code and what the terminal shows."""
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    return int(result.ret), lines(result)


def run(
    pytester: pytest.Pytester, *arguments: str, hard: int = 20, generator: int = 0, runs: int = 5
) -> tuple[int, str]:
    pytester.makepyfile(test_model=MODEL.format(hard=hard, generator=generator, runs=runs))
    return pytest_run(pytester, *arguments)


def baselines(pytester: pytest.Pytester) -> dict[str, str]:
    folder = pytester.path / "tests" / "baselines"
    return {file.name: file.read_text() for file in folder.rglob("*.json")}


@pytest.mark.parametrize("arguments", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_a_first_run_writes_the_baseline_and_fails(arguments: tuple[str, ...], pytester: pytest.Pytester) -> None:
    code, text = run(pytester, *arguments)
    assert code == NO_BASELINE == 11
    assert text.count("accuracy against the baseline") == 1
    assert "no baseline yet of model" in text
    assert re.search(
        r"become the baseline as the session ends, with an accuracy of 0\.99\d: .* keep '.*baselines' under version",
        text,
    )
    assert len(baselines(pytester)) == 5


REPEATED = """
def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("__number")
    metafunc.parametrize("__number", range(2))
"""
RERUN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for outcome in ("rerun", "failed"):
        item._initrequest()
        for report in runtestprotocol(item, log=False, nextitem=nextitem):
            report.outcome = outcome if report.failed else report.outcome
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""

RETRY = """
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    for _ in range(2 if report.failed else 0):
        item.ihook.pytest_runtest_teardown(item=item, nextitem=pytest.Class.from_parent(item.session, name="Other"))
        item._initrequest()
        item.ihook.pytest_runtest_setup(item=item)
        call = pytest.CallInfo.from_call(lambda: item.ihook.pytest_runtest_call(item=item), when="call")
        report.longrepr = pytest.TestReport.from_item_and_call(item, call).longrepr
    return report
"""


@pytest.mark.parametrize(
    ("conftest", "arguments", "files"),
    [
        (REPEATED, (), ["test_model"]),
        pytest.param(REPEATED, ("-n", "2"), ["test_model"], marks=pytest.mark.slow),
        (RERUN, (), ["test_model"]),
        (RETRY, (), ["test_model"]),
        ("", (), ["test_model", "test_second"]),
    ],
    ids=["repeated", "repeated under xdist", "rerun", "retried", "in a second test"],
)
def test_a_baseline_approves_no_run_of_the_session_that_writes_it(
    conftest: str, arguments: tuple[str, ...], files: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(conftest)

    def attempt(*options: str, hard: int, generator: int) -> tuple[int, str]:
        pytester.makepyfile(**dict.fromkeys(files, MODEL.format(hard=hard, generator=generator, runs=5)))
        return pytest_run(pytester, *arguments, *options)

    code, text = attempt(hard=20, generator=0)
    assert code == NO_BASELINE
    assert " passed" not in text
    assert text.count("\nmodel: no baseline yet of model") >= 2, "in the failure and in the summary"
    written = baselines(pytester)
    assert len(written) == 5
    assert attempt(hard=20, generator=0)[0] == OK
    assert "model: pass" not in attempt("--convspec-update-baselines", **WORSE)[1]
    assert baselines(pytester) != written


@pytest.mark.parametrize("arguments", [(), pytest.param(("-n", "2"), marks=pytest.mark.slow)], ids=["alone", "xdist"])
def test_two_tests_that_gate_one_name_are_an_error_that_names_both(
    arguments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_second=MODEL.format(hard=20, generator=2, runs=5))
    code, text = run(pytester, *arguments)
    assert code == FAILED
    assert "different predictions or pictures, in test_model.py::test_model and in test_second.py" in text
    assert "all seeds of one in a single call" in text
    assert not baselines(pytester), "neither is the baseline"
    assert text.count("no baseline of model was written: two gates have that name") == 1


def test_one_test_that_gates_a_name_twice_is_an_error(pytester: pytest.Pytester) -> None:
    run(pytester)
    written = baselines(pytester)
    twice = MODEL.format(hard=20, generator=0, runs=5) + '    accuracy_gate("model", labels[None], labels)\n'
    pytester.makepyfile(test_model=twice)
    code, text = pytest_run(pytester, "--convspec-update-baselines")
    assert code == FAILED
    assert "in test_model.py::test_model and in test_model.py::test_model" in text
    assert baselines(pytester) == written


@pytest.mark.parametrize("option", ["--collect-only", "--fixtures", "--setup-plan", "--setup-only"])
def test_a_session_that_only_looks_writes_and_says_nothing(option: str, pytester: pytest.Pytester) -> None:
    file = pytester.makefile("", ".convspec")  # no folder can be made where a file is
    _, text = run(pytester, option, "-o", f"convspec_baselines={file}/baselines")
    assert "ERROR" not in text
    assert "become the baseline" not in text
    assert not baselines(pytester)


TRAINING = MODEL.replace("    wrong", '    open("trained", "w").close()\n    wrong')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), pytest.ExitCode.USAGE_ERROR),
        (("--convspec-update-baselines",), pytest.ExitCode.USAGE_ERROR),
        (("-n", "1"), FAILED),
    ],
    ids=["first run", "update", "xdist"],
)
def test_baselines_that_cannot_be_written_end_the_session_before_it_trains(
    arguments: tuple[str, ...], expected: int, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_model=TRAINING.format(hard=20, generator=0, runs=5))
    file = pytester.makefile(".txt", "a file")
    code, text = pytest_run(pytester, *arguments, "-o", f"convspec_baselines={file}/baselines")
    assert code == expected
    assert f"nothing can be written in '{file}/baselines'" in text
    assert "convspec_baselines in the ini file, or -o convspec_baselines=DIR" in text
    assert not (pytester.path / "trained").exists()
    assert "INTERNALERROR" not in text


def test_a_folder_that_cannot_be_written_is_enough_to_compare_with(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pytester)
    monkeypatch.setattr(checks, "why_unwritable", lambda folder: "nothing can be written")
    assert run(pytester)[0] == OK
    pytester.makepyfile(test_other=BESIDE)
    code, text = pytest_run(pytester)
    assert code == NO_BASELINE
    assert "These runs cannot be kept as a baseline: nothing can be written; give a folder" in text


def test_the_same_runs_again_pass_and_say_what_they_are_compared_with(pytester: pytest.Pytester) -> None:
    run(pytester)
    written = baselines(pytester)
    code, text = run(pytester)
    assert code == OK
    assert "model: pass: 0.99" in text
    assert "against python, seeds 0, 1, 2, 3, 4: the environment of this run" in text
    assert baselines(pytester) == written, "without --convspec-update-baselines nothing is written"


@pytest.mark.parametrize("runs", [5, pytest.param(4, id="4, too few to tell flips from chance")])
def test_a_regression_has_an_exit_code_and_names_what_flipped(runs: int, pytester: pytest.Pytester) -> None:
    run(pytester, runs=runs)
    code, text = run(pytester, runs=runs, **WORSE)
    assert code == REGRESSED == 10
    assert re.search(r"model: regressed: 0\.95\d against 0\.99\d, -\d\.\d points", text)
    flipped = re.search(r"flipped most consistently: (\d+) \(-[\d.]+\)", text)
    assert flipped, "the pictures that flipped should be named"
    assert 20 <= int(flipped[1]) < 150, "those that became hard"
    assert "changed: nothing that is recorded of versions and machine" in text
    assert "To compare runs with these from now on: --convspec-update-baselines" in text


BESIDE = MODEL.format(hard=20, generator=0, runs=2).replace('"model"', '"other"')
TEARDOWN = """
import pytest

@pytest.fixture(autouse=True)
def broken():
    yield
    assert False
"""


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("test_other", "def test_other(): assert False", FAILED),
        ("test_other", "import no_such_module", FAILED),
        ("conftest", TEARDOWN, FAILED),
        ("test_other", BESIDE, REGRESSED),
    ],
    ids=["failure", "broken file", "teardown", "first baseline"],
)
def test_another_failure_beside_a_regression_keeps_pytests_exit_code(
    file: str, content: str, expected: int, pytester: pytest.Pytester
) -> None:
    run(pytester)
    pytester.makepyfile(**{file: content})
    code, text = run(pytester, "--continue-on-collection-errors", **WORSE)
    assert code == expected
    assert "model: regressed" in text


def test_two_gates_in_one_test_both_reach_the_summary(pytester: pytest.Pytester) -> None:
    twice = MODEL.format(hard=20, generator=0, runs=3) + '    accuracy_gate("second", labels[None], labels)\n'
    pytester.makepyfile(test_model=twice)
    for expected in (NO_BASELINE, NO_BASELINE, OK):  # each gate in turn begins a baseline
        code, text = pytest_run(pytester)
        assert code == expected
    assert "model: pass" in text
    assert "second: pass" in text


def test_too_few_runs_skip_and_say_what_could_have_been_seen(pytester: pytest.Pytester) -> None:
    run(pytester, runs=2, hard=500)
    code, text = run(pytester, "-rs", runs=2, hard=500, generator=1)
    assert code == OK
    assert re.search(r"SKIPPED.* test_model\.py:\d+: model: underpowered", text)
    assert re.search(r"smallest drop that would have been seen: \d+\.\d points", text)
    assert re.search(r"\d+ more baseline runs and \d+ more runs would see 1\.0", text)


@pytest.mark.parametrize("fixture", [False, True], ids=["in the test", "in a fixture"])
def test_a_regression_does_not_hide_behind_a_gate_that_cannot_tell(fixture: bool, pytester: pytest.Pytester) -> None:
    single = '    accuracy_gate("single", np.where(rng.random(1000) < 0.01, 1 - labels, labels), labels)\n'
    before = f"import pytest\n\n@pytest.fixture(autouse=True)\ndef single(accuracy_gate):\n{single}\n"
    place, lines_before = ("def test", before) if fixture else ("    wrong", single)
    model = MODEL.replace(place, lines_before + place)
    pytester.makepyfile(test_model=model.format(hard=20, generator=0, runs=5))
    assert [pytest_run(pytester)[0] for _ in range(3)] == [NO_BASELINE, NO_BASELINE, OK]
    pytester.makepyfile(test_model=model.format(runs=5, **WORSE))
    code, text = pytest_run(pytester)
    assert code == REGRESSED
    assert "single: underpowered" in text
    assert "model: regressed" in text


@pytest.mark.parametrize("mark", ["@pytest.mark.xfail(strict=True)", "@pytest.mark.xfail"])
def test_a_gate_that_cannot_tell_is_skipped_where_a_failure_is_expected(mark: str, pytester: pytest.Pytester) -> None:
    run(pytester, runs=1)
    marked = MODEL.format(hard=20, generator=1, runs=1).replace("def test", f"import pytest\n\n{mark}\ndef test")
    pytester.makepyfile(test_model=marked)
    code, text = pytest_run(pytester)
    assert code == OK
    assert "1 skipped" in text


def test_a_wider_margin_lets_more_pass(pytester: pytest.Pytester) -> None:
    run(pytester)
    assert [run(pytester, "--convspec-margin", margin, **WORSE)[0] for margin in ("0.01", "0.1")] == [REGRESSED, OK]


@pytest.mark.parametrize(
    ("measure", "code", "words"), [("accuracy", OK, ": pass"), ("balanced", REGRESSED, "balanced accuracy: regressed")]
)
def test_a_rare_class_that_is_lost_fails_the_balanced_gate_alone(
    measure: str, code: int, words: str, pytester: pytest.Pytester
) -> None:
    """Of 1,000 pictures 10 are of the rare class: one point of accuracy, half of the balanced one."""
    model = """
    import numpy as np
    labels = np.arange(1000) < 10
    def test_model(accuracy_gate):
        predicted = np.tile(labels, (5, 1)) & {recognised}
        predicted[range(5), range(100, 105)] = True
        accuracy_gate("model", predicted, labels)
    """
    pytester.makeini(f"[pytest]\nconvspec_measure = {measure}\nconvspec_margin = 0.02")
    pytester.makepyfile(test_model=model.format(recognised=True))
    pytest_run(pytester)
    pytester.makepyfile(test_model=model.format(recognised=False))
    ended, text = pytest_run(pytester)
    assert ended == code
    assert words in text


@pytest.mark.parametrize(
    ("measure", "words"), [("accuracy", "an accuracy of 0.950"), ("balanced", "a balanced accuracy of 0.500")]
)
def test_a_first_baseline_says_the_measure_that_is_judged(measure: str, words: str, pytester: pytest.Pytester) -> None:
    commonest = """
    import numpy as np
    def test_model(accuracy_gate):
        accuracy_gate("model", np.zeros((3, 100), int), np.arange(100) < 5)
    """
    pytester.makepyfile(test_model=commonest)
    assert (
        f"become the baseline as the session ends, with {words}:"
        in pytest_run(pytester, "--convspec-measure", measure)[1]
    )


def test_updated_baselines_are_compared_with_the_old_ones_first(pytester: pytest.Pytester) -> None:
    run(pytester)
    before = baselines(pytester)
    code, text = run(pytester, "--convspec-update-baselines", **WORSE, runs=6)
    assert code == OK
    assert "model: regressed" in text, "so that the reviewer of the update sees it"
    after = baselines(pytester)
    assert len(after) == 6
    assert all(after[name] != before[name] for name in before)
    assert run(pytester, **WORSE, runs=6)[0] == OK


@pytest.mark.parametrize(("runs", "seeds"), [(4, "seed 3"), (5, "seeds 3, 4"), (12, "seeds 3-11")])
def test_seeds_that_an_update_leaves_in_place_are_named(runs: int, seeds: str, pytester: pytest.Pytester) -> None:
    run(pytester, runs=runs)
    code, text = run(pytester, "--convspec-update-baselines", generator=1, runs=3)
    assert code == OK
    assert f"\n    {seeds} of the old baseline still count: train as many, or delete their files" in text


def test_a_baseline_that_cannot_be_written_in_the_end_is_one_error(pytester: pytest.Pytester) -> None:
    (pytester.mkdir("tests") / "baselines").symlink_to("gone")
    code, text = run(pytester)
    assert code == FAILED
    assert "the baseline of model could not be written" in text
    assert "is lost" not in text


def test_a_baseline_whose_temporary_folder_is_gone_is_an_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        import glob, os, shutil, tempfile
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            for folder in glob.glob(os.path.join(tempfile.gettempdir(), "convspec-baselines-*")):
                shutil.rmtree(folder)
        """
    )
    monkeypatch.setattr("tempfile.tempdir", str(pytester.mkdir("temporary")))
    code, text = run(pytester)
    assert code == FAILED
    assert "the baseline of model is lost: its temporary folder is gone" in text


def test_an_unsound_baseline_is_one_clear_error_and_never_a_pass(pytester: pytest.Pytester) -> None:
    """For more ways to be so see test_baselines.py."""
    run(pytester)
    file = next((pytester.path / "tests" / "baselines").rglob("*seed3.json"))
    written = file.read_text()
    file.write_text(written.replace(", 0, 1, 0", ", 0, 1, 1", 1))
    assert file.read_text() != written
    code, text = run(pytester)
    assert code == FAILED
    assert re.search(r"baseline '.*model-.*seed3\.json': .*-update-baselines", text)
    assert "Traceback" not in text


def test_junit_xml_has_verdict_and_figures_as_properties(pytester: pytest.Pytester) -> None:
    run(pytester)
    run(pytester, "--junit-xml", "junit.xml", **WORSE)
    tree = ElementTree.parse(pytester.path / "junit.xml")
    properties = {entry.attrib["name"]: entry.attrib["value"] for entry in tree.iter("property")}
    assert (properties["name"], properties["outcome"], properties["flips"]) == ("model", "regressed", "change")
    assert properties["verdict"].startswith("model: regressed")
    new, baseline, change, low, high, margin = (
        float(properties[name]) for name in ("new", "baseline", "change", "low", "high", "margin")
    )
    assert change == pytest.approx(new - baseline)
    assert low < change < high
    assert margin == 0.01


def test_a_changed_test_set_is_named_and_not_compared(pytester: pytest.Pytester) -> None:
    run(pytester)
    written = baselines(pytester)
    changed = MODEL.format(hard=20, generator=0, runs=5).replace("% 2", "% 2 == 0")
    pytester.makepyfile(test_model=changed)
    code, text = pytest_run(pytester)
    assert code == NO_BASELINE
    assert "no comparable baseline of model" in text
    assert "not comparable, classes is ['False', 'True'], was ['0', '1']" in text
    assert "To compare runs with these from now on: --convspec-update-baselines" in text
    assert baselines(pytester) == written, "what cannot be compared is not replaced unasked"
    assert [pytest_run(pytester, *options)[0] for options in (["--convspec-update-baselines"], [])] == [OK, OK]
