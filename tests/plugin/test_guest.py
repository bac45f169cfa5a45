"""pytest with convspec installed, in projects that don't use it, or use the gate alone."""

import subprocess
import sys
from pathlib import Path

import pytest
from builders import lines

from convspec import EXTRAS
from convspec.cli.main import main
from convspec.plugin.session import SESSION

GATE = """
import numpy as np

def test_model(accuracy_gate):
    labels = np.arange(200) % 2
    accuracy_gate("model", np.tile(labels, (3, 1)), labels)
"""
HEAVY = [*EXTRAS - {"pytest"}, "tensorflow", "jax", "torch"]
WITHOUT_EXTRAS = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n"


@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_broken_files_and_odd_properties_keep_pytests_summary(
    arguments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        test_broken="import no_such_module",
        test_odd="""
        def test_good(): pass

        def test_list(record_property):
            record_property("outcome", ["a"])
            assert False

        def test_no_pair(request):
            request.node.user_properties.append("alone")
            assert False
        """,
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--continue-on-collection-errors", *arguments)
    result.assert_outcomes(passed=1, failed=2, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "INTERNALERROR" not in lines(result)
    assert "AttributeError" not in lines(result)


def test_a_session_without_convspec_imports_and_writes_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # other plugins import some of these packages
    pytester.makepyfile(
        test_it=f"""
        import sys

        def test_imports():
            assert "convspec.plugin.hooks" in sys.modules
            heavy = {set(HEAVY) | {"numpy", "scipy", "msgspec"}}
            assert not heavy & set(sys.modules)
            own = {{name for name in sys.modules if name.startswith("convspec.")}}
            assert all(name.startswith("convspec.plugin") for name in own), own
        """
    )
    result = pytester.runpytest_subprocess("-p", "convspec.plugin.hooks", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    assert "convspec:" not in lines(result)
    assert not {path.name for path in pytester.path.iterdir()} & {".convspec", "fixtures"}


def test_a_projects_own_fixtures_and_markers_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmarkers = full: theirs")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def recipe():
            return "pancakes"

        @pytest.mark.full
        @pytest.mark.parametrize("rung", ["upper", "lower"])
        def test_theirs(recipe, rung):
            assert recipe == "pancakes"
        """
    )
    pytester.runpytest().assert_outcomes(passed=2)


def test_an_ini_option_counts_where_the_command_line_has_none(pytester: pytest.Pytester) -> None:
    ini = "convspec_margin = 0.02\nconvspec_seeds = 4\nconvspec_strict_images = true\nconvspec_data_root = data"
    pytester.makeini(f"[pytest]\n{ini}\nconvspec_baselines = kept\nconvspec_truncated = fill")
    settings = pytester.parseconfigure("--convspec-margin", "0.03").stash[SESSION].settings
    assert (settings.margin, settings.looks, settings.strict_images, settings.require_data) == (0.03, (4,), True, False)
    assert settings.truncated == "fill"
    assert settings.data_root == pytester.path / "data", "from the folder of the ini file"
    assert settings.baselines == pytester.path / "kept"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convspec_margin = 2", "convspec_margin must be a number between 0 and 1"),
        ("convspec_scale = huge", "convspec_scale must be one of mini, full, got 'huge'"),
    ],
)
def test_an_ini_option_that_cannot_be_is_named_with_its_file(
    line: str, message: str, pytester: pytest.Pytester
) -> None:
    file = pytester.makeini(f"[pytest]\n{line}")
    result = pytester.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {file}: {message}" in lines(result)


def test_the_command_ladder_passes_its_pictures_and_options_to_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def run_pytest(arguments: list[str]) -> int:
        calls.append(arguments)
        return 10

    monkeypatch.setattr(pytest, "main", run_pytest)
    pytester.mkdir("my pictures")
    assert main(["ladder", "my pictures", "--scale", "full", "--seeds", "auto", "--", "-x", "-k", "fine"]) == 10
    (arguments,) = calls
    assert Path(arguments[0], "test_ladder.py").is_file()
    assert {
        f"--convspec-dataset={pytester.path / 'my pictures'}",
        "--convspec-require-data",
        "--convspec-scale=full",
        "--convspec-seeds=auto",
    } <= {*arguments}
    assert f"--rootdir={pytester.path}" in arguments
    assert arguments[-3:] == ["-x", "-k", "fine"]


def test_a_gate_and_its_options_need_no_package_of_an_extra(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(WITHOUT_EXTRAS)
    pytester.makepyfile(GATE)
    options = "--convspec-update-baselines", "--convspec-margin=0.02", "--convspec-seeds=3", "-p", "no:benchmark"
    assert "no baseline yet of model" in lines(pytester.runpytest_subprocess(*options))
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=1)
    assert "model: pass" in lines(result)


@pytest.mark.parametrize("arguments", [("--convspec-rungs", "fine_tuned"), ("--convspec-scale", "full")])
def test_an_option_of_the_ladder_names_the_extra_that_it_needs(
    arguments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(WITHOUT_EXTRAS)
    result = pytester.runpytest_subprocess("-p", "no:benchmark", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(['ERROR: keras is not installed: pip install "convspec*tensorflow*"*'])
    assert "Traceback" not in lines(result)


@pytest.mark.parametrize(
    "without", [WITHOUT_EXTRAS, "import sys\nsys.modules['pytest'] = None\n"], ids=["no extra", "no pytest"]
)
def test_a_command_names_the_extra_that_it_needs(without: str) -> None:
    code = f"{without}from convspec.cli.main import main\nsys.exit(main(['fetch', 'mnist']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("convspec: error: ")
    assert ended.stderr.endswith(
        'is not installed: pip install "convspec[tensorflow]", or with jax or torch in its place\n'
    )
    assert ended.stderr.count("\n") == 1


def test_progress_reaches_the_terminal_with_and_without_capture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from convspec.plugin.session import terminal_stream

        def test_progress(pytestconfig):
            stream = terminal_stream(pytestconfig)
            stream.write("half" + "way")
            stream.flush()
            stream.isatty()
        """
    )
    for arguments in ((), ("-p", "no:capture")):
        result = pytester.runpytest_subprocess(*arguments)
        result.assert_outcomes(passed=1)
        assert "halfway" in result.stderr.str(), arguments
