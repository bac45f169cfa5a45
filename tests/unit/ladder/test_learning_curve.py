"""The learning curve on cached features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import short_recipe

from convspec import BadInput
from convspec.data.batches import Batches, identity
from convspec.data.datasets import Dataset, Split
from convspec.ladder import learning_curve as module
from convspec.ladder.learning_curve import learning_curve
from convspec.ladder.result import Result
from convspec.ladder.rungs import find_recipe

PROBE = find_recipe("feature_extraction_fast", "mini")


def features(count: int, classes: int, seed: int) -> Batches:
    """Return features of classes that lie apart by little beside the noise of 60 dimensions."""
    labels = np.arange(count) % classes
    noise = np.random.default_rng(seed).standard_normal((count, 60))
    noise[np.arange(count), labels] += 2.0
    return Batches(noise.astype(np.float32), labels, 20, identity)


def curve_of(monkeypatch: pytest.MonkeyPatch, classes: int, last: Batches | None = None) -> module.LearningCurve:
    parts = features(240, classes, 0), last or features(200, classes, 1), features(400, classes, 2)
    monkeypatch.setattr(module, "base_features", lambda *_: parts)
    empty = np.zeros((0, 1, 1, 3), np.uint8)
    names = tuple(map(str, range(classes)))
    train, rest = (Split(empty, labels, ()) for labels in (parts[0].labels, parts[2].labels))
    return learning_curve(PROBE, Dataset("it", names, train, None, rest), Path())


@pytest.mark.parametrize("classes", [2, 3])
def test_more_pictures_help_where_the_noise_is_large(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = curve_of(monkeypatch, classes)
    assert curve.pictures == [60, 120, 240]
    assert [len(draws) for draws in curve.accuracies] == [3, 3, 1]
    quarter, half, whole = (float(np.mean(draws)) for draws in curve.accuracies)
    assert quarter < half < whole
    assert [gain.change for gain in curve.gains] == pytest.approx([half - quarter, whole - half])
    for gain in curve.gains:
        assert gain.low < gain.change < gain.high
    assert curve == curve_of(monkeypatch, classes), "the draws are the same each time"


def test_a_draw_has_its_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [40, 80, 20])
    for share, counts in ((0.25, [10, 20, 5]), (0.5, [20, 40, 10]), (1.0, [40, 80, 20])):
        draws = list(module._draws(labels, share))
        assert [np.bincount(labels[chosen]).tolist() for chosen in draws] == [counts] * len(draws)
        assert len({tuple(chosen) for chosen in draws}) == len(draws), "each draw is another"


def test_the_features_that_a_rung_left_are_read_again(
    trained: Callable[[str], Result], few_shapes: Dataset, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("feature_extraction_fast")
    stores = {path: path.stat().st_mtime_ns for path in (run_folder / "features").iterdir()}
    monkeypatch.setattr(module, "MIN_OF_CLASS", 8)
    curve = learning_curve(short_recipe("feature_extraction_fast"), few_shapes, run_folder)
    assert stores == {path: path.stat().st_mtime_ns for path in (run_folder / "features").iterdir()}
    assert (curve.base, curve.pictures[-1]) == ("mini", len(few_shapes.train))


def test_a_class_of_few_pictures_has_no_curve(
    few_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_OF_CLASS", 1000)
    with pytest.raises(BadInput, match=r"too few pictures for a learning curve: .* a curve takes 1000 of each class"):
        learning_curve(PROBE, few_shapes, tmp_path)
