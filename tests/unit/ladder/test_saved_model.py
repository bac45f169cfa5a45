"""Files of trained models, with their classes and the preparation of their pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import keras
import numpy as np
import pytest
from keras import layers

from convspec import BadInput, models
from convspec.ladder import saved_model
from convspec.ladder.result import Result


@pytest.fixture(scope="module")
def model() -> keras.Model:
    stack = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack])


@pytest.fixture(scope="module")
def file(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "it.keras"
    saved_model.save(model, path, ("cat", "dog", "emu"), "vgg16", "bilinear")
    return path


def test_a_saved_model_comes_back_and_keras_reads_it_too(
    model: keras.Model, file: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = rng.random((2, 12, 12, 3)).astype(np.float32)
    expected = model.predict(inputs, verbose=0)
    loaded = saved_model.load(file)
    assert loaded[1:] == (("cat", "dog", "emu"), "vgg16", "bilinear")
    with ZipFile(file) as archive:
        assert json.loads(archive.read("convspec.json"))["schema"] == 1
    for same in (loaded.model, keras.models.load_model(file)):
        np.testing.assert_array_equal(same.predict(inputs, verbose=0), expected)
    model.save(tmp_path / "foreign.keras")
    assert saved_model.load(tmp_path / "foreign.keras")[1:] == (None, None, None)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_model_that_is_cut_off_is_no_model(share: float, file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput, match=r"cut.keras' is no model that Keras can read: \S"):
        saved_model.load(tmp_path / "cut.keras")


def test_a_model_is_saved_whole_or_not_at_all(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ZipFile, "writestr", cut_off)
    with pytest.raises(OSError, match="no space left"):
        saved_model.save(model, tmp_path / "it.keras", ("a", "b", "c"), "rescale", "nearest")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_the_ladder_leaves_its_model_with_the_classes(
    trained: Callable[[str], Result], run_folder: Path
) -> None:
    trained("feature_extraction")
    (file,) = run_folder.glob("models/feature_extraction-*seed0-*.keras")
    assert saved_model.load(file)[1:] == (("fish", "key"), "rescale", "nearest")


@pytest.mark.parametrize("schema", [{}, {"schema": 1}, {"schema": 7}], ids=str)
def test_a_file_without_a_schema_is_of_schema_1_and_another_is_refused(schema: dict, tmp_path: Path) -> None:
    file, facts = tmp_path / "it.keras", {"classes": ["a", "b"], "preprocessing": "rescale", "interpolation": "area"}
    models.dense_baseline((4,), classes=2).save(file)
    with ZipFile(file, "a") as archive:
        archive.writestr("convspec.json", json.dumps(schema | facts))
    if schema != {"schema": 7}:
        assert saved_model.load(file)[1:] == (("a", "b"), "rescale", "area")
        return
    with pytest.raises(BadInput, match=r"it.keras' is no model .*convspec.json has schema 7, not 1"):
        saved_model.load(file)
