"""The examples of docs/gates.md, as their readers run them."""

import shutil
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "file", "training", "too_little"),
    [
        ("sklearn", "test_digits.py", "max_iter=500", "max_iter=5"),
        ("torch", "test_torch.py", "STEPS = 100", "STEPS = 10"),
        ("keras", "test_keras.py", "EPOCHS = 20", "EPOCHS = 1"),
    ],
)
def test_an_example_begins_a_baseline_then_passes_then_sees_damage(
    package: str, file: str, training: str, too_little: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other take minutes on a busy machine
    example = Path(shutil.copy(EXAMPLES / file, pytester.path))
    assert [pytester.runpytest_subprocess("-W", "error").ret for _ in range(2)] == [11, 0]
    code = example.read_text()
    assert code.count(training) == 1
    example.write_text(code.replace(training, too_little))
    assert pytester.runpytest_subprocess().ret == 10


def test_every_example_stands_in_the_guide_to_gates() -> None:
    guide = (EXAMPLES.parent / "docs" / "gates.md").read_text()
    missing = [file.name for file in EXAMPLES.glob("*.py") if f"](../examples/{file.name})" not in guide]
    assert not missing
