"""Judgement of runs of any model, without Keras or a backend."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convspec import BadInput
from convspec.accuracy import baselines, judgement

HEAVY = ("keras", "tensorflow", "jax", "torch", "cv2", "PIL", "matplotlib", "sklearn", "scipy.stats", "pytest")
GATE = """
import sys
from pathlib import Path
from convspec.accuracy import baselines, judgement

runs = judgement.results_from_predictions("mine", [[0, 1, 1, 0]] * 3, [0, 1, 1, 1])
for run in runs:
    baselines.write(Path(sys.argv[1]), run)
print(judgement.judge(Path(sys.argv[1]), runs).lines[0])
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_a_gate_imports_neither_keras_nor_a_backend(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GATE, str(tmp_path), *HEAVY]
    verdict, heavy = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert verdict.startswith("mine: pass: 0.750 against 0.750")
    assert heavy == "[]"
    assert [path.name for path in (tmp_path / "python").iterdir() if "seed1" in path.name] == ["mine-seed1.json"]


def test_versions_are_those_of_libraries_that_are_imported() -> None:
    versions = judgement.machine_facts()["versions"]
    assert versions["numpy"] == np.__version__
    assert versions.keys() == {"python"} | {name for name in judgement.LIBRARIES if name in sys.modules}


def test_labels_keep_their_numbers_whatever_is_predicted() -> None:
    (usual,) = judgement.results_from_predictions("mine", ["b", "d", "b"], ["b", "d", "d"])
    (other,) = judgement.results_from_predictions("mine", ["a", "d", "c"], ["b", "d", "d"])
    assert (usual.labels, usual.predicted) == ([0, 1, 1], [0, 1, 0])
    assert (other.labels, other.predicted) == ([0, 1, 1], [2, 1, 3])
    assert baselines.incomparable(usual, other) == []


@pytest.mark.parametrize(("keras", "known"), [("3.0", True), ("4.0", False)])
def test_other_predictions_on_an_unchanged_machine_have_no_known_reason(
    keras: str, known: bool, tmp_path: Path
) -> None:
    sides = [judgement.results_from_predictions("mine", [row, row], [0, 1, 1]) for row in ([0, 1, 1], [0, 1, 0])]
    for run in sides[0]:
        run.machine["versions"]["keras"] = "3.0"
        baselines.write(tmp_path, run)
    for run in sides[1]:
        run.machine["versions"]["keras"] = keras
    assert judgement.judge(tmp_path, sides[1]).differs_for_no_known_reason == known
    assert not judgement.judge(tmp_path, sides[0]).differs_for_no_known_reason


def test_predictions_and_labels_of_different_pictures_are_refused() -> None:
    with pytest.raises(BadInput, match=r"mine: predicted, .* got shapes \(1, 3\), \(1, 3\), \(4,\) and 4 names"):
        judgement.results_from_predictions("mine", np.zeros(3), np.zeros(4))


def test_each_row_of_predictions_is_the_run_of_one_seed() -> None:
    confidence = [[0.9, 0.6], [0.8, 0.7]]
    runs = judgement.results_from_predictions("mine", [[0, 1], [1, 1]], [0, 1], confidence=confidence)
    assert [(run.name, run.seed, run.accuracy) for run in runs] == [("mine", 0, 1.0), ("mine", 1, 0.5)]
    assert [run.confidence for run in runs] == confidence
