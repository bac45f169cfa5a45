"""Judgement of runs of any model, without Keras or a backend."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def judged(folder: Path, baseline: Sequence[int], new: Sequence[int]) -> str:
    """The verdict's line of new runs by a baseline, each run given by how many of 1,000 pictures it has right."""
    for run in of_counts(baseline):
        baselines.write(folder, run)
    return judgement.judge(folder, of_counts(new)).lines[0]


def of_counts(counts: Sequence[int]) -> list[baselines.Run]:
    predicted = np.arange(1000) >= np.array(counts)[:, None]
    return judgement.results_from_predictions("mine", predicted, np.arange(1000) >= 1000)


OLD, BETTER = (800, 797, 803, 799, 801), (900, 903, 897, 901, 899)


@pytest.mark.parametrize(
    ("baseline", "new", "outcome", "groups"),
    [
        (
            (*BETTER, *OLD),
            (850, 847, 851),
            "underpowered",
            "seeds 0, 1, 2, 3, 4 at 0.900 and seeds 5, 6, 7, 8, 9 at 0.800",
        ),
        ((*BETTER, *OLD), BETTER, "pass", "seeds 0, 1, 2, 3, 4 at 0.900 and seeds 5, 6, 7, 8, 9 at 0.800"),
        ((*BETTER[:3], *OLD[3:]), (899, 904, 896), "underpowered", "seeds 0, 1, 2 at 0.900 and seeds 3, 4 at 0.800"),
        ((800, 900, 801, 902), (850, 852, 851), "underpowered", "seeds 0, 2 at 0.800 and seeds 1, 3 at 0.901"),
        ((900, 900, 800, 800), (850, 850, 850), "underpowered", "seeds 0, 1 at 0.900 and seeds 2, 3 at 0.800"),
    ],
    ids=["merged", "merged, pass", "fewer seeds", "mixed", "without randomness"],
)
def test_a_baseline_of_two_models_is_named_in_place_of_more_runs(
    baseline: Sequence[int], new: Sequence[int], outcome: str, groups: str, tmp_path: Path
) -> None:
    verdict = judged(tmp_path, baseline, new)
    assert verdict.startswith(f"mine: {outcome}")
    assert f"; the baseline's runs fall into two groups, {groups}, as if of two models: run" in verdict
    assert "more baseline runs" not in verdict


@pytest.mark.parametrize(
    ("baseline", "new"),
    [
        ((900, 870, 930, 915, 880), (880, 920, 850, 905, 890)),
        ((900, 903, 897, 901, 600), (899, 904, 896)),
        ((900, 901, 800, 801), (900, 800, 850)),
        ((900, 901, 800, 801), (850, 851)),
    ],
    ids=["scattered", "one seed that failed", "new runs that differ as much", "two new runs"],
)
def test_a_baseline_of_one_model_is_not_taken_for_two(
    baseline: Sequence[int], new: Sequence[int], tmp_path: Path
) -> None:
    verdict = judged(tmp_path, baseline, new)
    assert verdict.startswith("mine: underpowered")
    assert "more baseline runs" in verdict
    assert "two groups" not in verdict


LABELS = [0, 1, 1]
STRINGS: Any = np.dtypes.StringDType(na_object=np.nan) if hasattr(np.dtypes, "StringDType") else object


class Tensor:
    """Refuses to become an array, as PyTorch's tensors with a gradient do."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("Use tensor.detach().numpy() instead.")

    def __repr__(self) -> str:
        return "tensor"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param({"predicted": [0, 1]}, r"got predicted \(1, 2\), labels \(3,\)$", id="fewer pictures"),
        pytest.param({"predicted": [[0], [1], [1]]}, r"got predicted \(3, 1\), labels \(3,\)$", id="a column"),
        pytest.param({"confidence": [1, 1]}, r"labels \(3,\), confidence \(1, 2\)$", id="fewer confidences"),
        pytest.param({"names": ["a"]}, r"labels \(3,\), names \(1,\)$", id="fewer names"),
        pytest.param(
            {"predicted": [[0, 1, 1], [0]]}, r"predicted must be .* rows of one length, got \[\[", id="ragged"
        ),
        pytest.param({"names": ["a", "b", "a"]}, "names must tell the pictures apart, got 'a' 2 times", id="one name"),
        pytest.param({"names": 5}, "names must be those of the pictures, got 5", id="a number for names"),
        pytest.param({"predicted": [0.2, 0.9, 1]}, r"predicted must be classes, .*, got 0\.2; .* > 0\.5", id="sigmoid"),
        pytest.param({"predicted": [0, np.nan, 1]}, "predicted must be classes, .*, got nan", id="NaN"),
        pytest.param({"labels": ["a", np.nan, "b"]}, "labels must be classes, .*, got nan", id="NaN among names"),
        pytest.param({"labels": np.array(["a", np.nan, "b"], STRINGS)}, "must be classes, .* nan;", id="NaN in text"),
        pytest.param({"labels": ["a", None, "b"]}, "labels must be classes, .*, got None", id="no label"),
        pytest.param(
            {"predicted": ["a", "b", "c"]}, r"predicted, 'a', 'b', 'c', is one of the labels, 0, 1$", id="other classes"
        ),
        pytest.param({"confidence": [1, 1.5, 1]}, r"probabilities from 0 to 1, got 1\.5", id="percent"),
        pytest.param({"confidence": [[1, 1], [1]]}, "confidence must be numbers, in rows of", id="ragged confidences"),
        pytest.param({"confidence": ["sure"] * 3}, "confidence must be numbers, in rows of", id="words"),
        pytest.param({"predicted": [1e19, 2e19, 0]}, "predicted must be classes, .*, got 1e.19", id="not exact"),
        pytest.param({"predicted": Tensor()}, r"got tensor \(Use tensor\.detach", id="a tensor with a gradient"),
        pytest.param({"confidence": Tensor()}, r"got tensor \(Use tensor\.detach", id="confidence with a gradient"),
        pytest.param({"labels": np.ma.masked_equal(LABELS, 0)}, "labels must be .*none masked", id="masked"),
        pytest.param({"predicted": {0: [0] * 999}}, r"got \{0: \[0,.{,60}; the classes of", id="a dictionary"),
        pytest.param({"predicted": np.empty((0, 3), int)}, r"got predicted \(0, 3\)", id="no runs"),
        pytest.param({"predicted": [1], "labels": [1]}, r"two or more pictures.*labels \(1,\)", id="one picture"),
        pytest.param({"name": ""}, "name must be that of the model, one line of text, got ''", id="no name"),
        pytest.param({"name": "a\n"}, r"name must be .* one line of text, got 'a\\n'", id="a name with a line's end"),
        pytest.param({"name": 5}, "name must be that of the model, one line of text, got 5", id="a number for a name"),
    ],
)
def test_predictions_that_cannot_be_judged_are_refused_in_a_line(bad: dict[str, Any], message: str) -> None:
    """Their accuracy would be near nothing, and a baseline of it would be passed for ever."""
    with pytest.raises(BadInput, match=message) as refusal:
        judgement.results_from_predictions(**{"name": "mine", "predicted": LABELS, "labels": LABELS} | bad)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0.0, 1.0, 0.0], [0, 1, 1]),
        (np.array([0, 1, 0], np.float16), [0, 1, 1]),
        ([False, True, False], [0, 1, 1]),
        (np.array([0, 1, 0], object), [0, 1, 1]),
        (np.array(["a", "b", "a"], object), ["a", "b", "b"]),
        (np.array(["a", "b", "a"], STRINGS), ["a", "b", "b"]),
        ([2**70, 2**71, 2**70], [2**70, 2**71, 2**71]),
    ],
    ids=["whole floats", "half floats", "booleans", "objects", "names as objects", "NumPy's text", "more than 64 bits"],
)
def test_classes_are_the_same_in_whatever_form_they_come(predicted: Any, labels: list) -> None:
    (run,) = judgement.results_from_predictions("mine", predicted, labels)
    assert (run.predicted, run.labels) == ([0, 1, 0], [0, 1, 1])
    assert run.conditions["classes"] == [str(label) for label in labels[:2]]


def test_names_are_such_that_every_plugin_can_send_them() -> None:
    (run,) = judgement.results_from_predictions("K\udcffatze", [0, 1], [0, 1], names=["a", "\udcff.jpg"])
    assert (run.name, run.pictures) == ("K\\udcffatze", ["a", "\\udcff.jpg"])


def test_each_row_of_predictions_is_the_run_of_one_seed() -> None:
    confidence = [[0.9, 0.6], [0.8, 0.7]]
    runs = judgement.results_from_predictions("mine", [[0, 1], [1, 1]], [0, 1], confidence=confidence)
    assert [(run.name, run.seed, run.accuracy) for run in runs] == [("mine", 0, 1.0), ("mine", 1, 0.5)]
    assert [run.confidence for run in runs] == confidence


def test_a_confidence_may_miss_its_bounds_by_the_rounding_of_a_float() -> None:
    (run,) = judgement.results_from_predictions("mine", [0, 1], [0, 1], confidence=[1.0000001, -1e-8])
    assert run.confidence == [1, 0]
