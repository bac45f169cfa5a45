"""What the options for devices and precision reach, and where progress is shown."""

import os
from importlib.util import find_spec

import pytest

from convspec import backend


def test_the_option_devices_reaches_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from convspec import BadInput
        from convspec.ladder.rungs import find_recipe

        def test_it(convspec_session):
            for train in (lambda: convspec_session.run(find_recipe("dense_baseline", "mini"), 0),
                          lambda: convspec_session.repeat("dense_baseline")):
                with pytest.raises(BadInput, match="devices must be .*1.*got 64"):
                    train()
        """
    )
    pytester.runpytest("--convspec-devices", "64").assert_outcomes(passed=1)


@pytest.mark.skipif(not find_spec("ncnn"), reason="needs ncnn: pip install -e '.[ncnn]'")
def test_the_option_engine_reaches_the_run_and_its_record(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from dataclasses import replace
        from convspec.ladder.rungs import find_recipe

        def test_it(convspec_session):
            recipe = replace(find_recipe("feature_extraction", "mini"), epochs=1)
            result = convspec_session.run(recipe, 0)
            assert "ncnn" in result.machine["versions"]
            assert convspec_session.model(result).is_file()
        """
    )
    pytester.runpytest("--convspec-engine", "ncnn").assert_outcomes(passed=1)


@pytest.mark.usefixtures("own_precision")
def test_the_option_precision_is_set_and_shown_in_the_header(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--convspec-precision", "mixed_float16")
    assert backend.precision() == "mixed_float16"
    result.stdout.re_match_lines([r"convspec: keras .*, precision mixed_float16"])


def test_a_missing_backend_is_an_error_in_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(hidden="import sys\nsys.modules['jax'] = None")
    paths = [str(pytester.path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    result = pytester.runpytest_subprocess("-p", "hidden", "--convspec-rungs", "from_scratch")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: Keras is to run on jax, which is not installed: *"])
    assert "Traceback" not in str(result.stderr)
