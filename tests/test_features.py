"""The base's output, computed once: in the order of the pictures, kept on disk, never mixed up."""

from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, features, images, models
from convspec.datasets import Dataset
from convspec.training import Clock


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


@pytest.fixture
def batches(few_shapes: Dataset) -> images.Batches:
    return images.Batches(few_shapes.test.images, few_shapes.test.labels, 8, images.rescale)


def extract(base: keras.Model, batches: images.Batches, folder: Path) -> np.ndarray:
    return features.extract(base, batches, folder, clock=Clock())


def test_row_k_is_the_bases_output_for_picture_k(base: keras.Model, batches: images.Batches, tmp_path: Path) -> None:
    recorded = extract(base, batches, tmp_path)
    assert recorded.shape == (len(batches.inputs), 3, 3, 96)
    assert recorded.dtype == np.float32
    for k in (0, 7, 8, len(recorded) - 1):
        alone = base.predict(images.rescale(batches.inputs[k : k + 1].astype(np.float32)), verbose=0)
        # One picture and a batch may add products in another order: 864 terms of float32.
        np.testing.assert_allclose(recorded[k], alone[0], rtol=1e-4, atol=1e-5, err_msg=f"picture {k}")


def test_features_on_disk_are_read_back_as_they_were(
    base: keras.Model, batches: images.Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(base, batches, tmp_path)
    monkeypatch.setattr(keras.Model, "predict_on_batch", None)
    np.testing.assert_array_equal(extract(base, batches, tmp_path), first)


@pytest.mark.parametrize("change", ["pictures", "order", "weights", "preparation"])
def test_features_of_other_pictures_weights_or_preparation_are_never_taken(
    change: str, base: keras.Model, batches: images.Batches, tmp_path: Path
) -> None:
    first = extract(base, batches, tmp_path)
    inputs, prepare = batches.inputs, batches.prepare
    if change == "pictures":
        inputs = 255 - inputs
    elif change == "order":
        inputs = inputs[::-1]
    elif change == "weights":
        base = models.conv_base("mini", None, (48, 48, 3))
    else:
        prepare = images.unchanged
    other = extract(base, images.Batches(inputs, batches.labels, 8, prepare), tmp_path)
    assert not np.allclose(first, other)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_seconds_of_the_extraction_count_whenever_its_features_are_used(
    base: keras.Model, batches: images.Batches, tmp_path: Path
) -> None:
    first, again = Clock(), Clock()
    features.extract(base, batches, tmp_path, clock=first)
    features.extract(base, batches, tmp_path, clock=again)
    assert again.seconds["features"] == first.seconds["features"] > 0


def test_damaged_features_are_refused_by_name(base: keras.Model, batches: images.Batches, tmp_path: Path) -> None:
    extract(base, batches, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadInput, match=rf"{file.name}' are damaged .*delete it"):
        extract(base, batches, tmp_path)


def test_an_extraction_that_is_cut_off_leaves_no_features_behind(
    base: keras.Model, batches: images.Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        extract(base, batches, tmp_path)
    assert not list(tmp_path.iterdir())
