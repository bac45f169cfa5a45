"""The metadata in a saved model's file, and its schema number."""

import json
from pathlib import Path
from zipfile import ZipFile

import keras
import pytest

from convspec import BadInput, models
from convspec.ladder import saved_model


def write(file: Path, metadata: dict | None) -> None:
    model = models.dense_baseline((4,), classes=2)
    model.save(file)
    if metadata:
        with ZipFile(file, "a") as archive:
            archive.writestr("convspec.json", json.dumps(metadata))


def test_the_schema_number_stands_in_the_file_of_a_saved_model(tmp_path: Path) -> None:
    file = tmp_path / "it.keras"
    saved_model.save(models.dense_baseline((4,), classes=2), file, ("a", "b"), "rescale", "area")
    with ZipFile(file) as archive:
        assert json.loads(archive.read("convspec.json"))["schema"] == 1
    assert saved_model.load(file)[1:] == (("a", "b"), "rescale", "area")


def test_a_file_without_a_schema_number_is_read_as_before(tmp_path: Path) -> None:
    file = tmp_path / "old.keras"
    write(file, {"classes": ["a", "b"], "preprocessing": "rescale", "interpolation": "nearest"})
    assert saved_model.load(file)[1:] == (("a", "b"), "rescale", "nearest")


def test_a_file_of_another_schema_is_refused_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "new.keras"
    write(file, {"schema": 7, "classes": ["a", "b"], "preprocessing": "rescale", "interpolation": "nearest"})
    with pytest.raises(BadInput, match=r"new.keras' is no model .*convspec.json has schema 7, not 1"):
        saved_model.load(file)


def test_a_file_of_keras_alone_has_no_metadata(tmp_path: Path) -> None:
    write(tmp_path / "keras.keras", None)
    loaded = saved_model.load(tmp_path / "keras.keras")
    assert isinstance(loaded.model, keras.Model)
    assert loaded[1:] == (None, None, None)
