"""Gates in subtests: a test whose gates fail there ends as a gate does."""

import pytest
from builders import lines

from convspec.plugin.verdicts import NO_BASELINE

FAILED = pytest.ExitCode.TESTS_FAILED
with_subtests = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="pytest has subtests from 9.0 on")
SEEDS = """
import numpy as np

labels = np.arange(1000) % 2

def test_model(accuracy_gate, subtests):
    for seed in range(2):
        with subtests.test(seed=seed):
            accuracy_gate("model", np.where(np.arange(1000) < seed, 1 - labels, labels), labels)
"""


@with_subtests
def test_subtests_that_gate_other_predictions_under_one_name_are_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_model=SEEDS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert result.ret == FAILED
    assert "no baseline of model was written: two gates have that name" in lines(result)
    assert not list(pytester.path.rglob("*.json"))


SUBTESTS = """
import numpy as np

labels = np.arange(1000) % 2

def test_models(accuracy_gate, subtests):
    for name in "ab":
        with subtests.test(name):
            accuracy_gate(name, np.array([labels, labels]), labels)
    with subtests.test():
        assert {sound}
"""


@with_subtests
@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=["alone", "xdist"])
@pytest.mark.parametrize(("sound", "expected"), [(True, NO_BASELINE), (False, FAILED)])
def test_a_test_whose_gates_fail_in_subtests_ends_as_a_gate(
    sound: bool, expected: int, arguments: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_models=SUBTESTS.format(sound=sound))
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments).ret == expected
