"""`convspec explain`, `activations` and `filters`, and the files of models that they read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from convspec import BadInput
from convspec.cli import explain
from convspec.cli.main import main
from convspec.data import decode
from convspec.data.datasets import Dataset
from convspec.ladder import run, rungs, saved_model
from convspec.visualization import maps
from convspec.visualization.patterns import filter_patterns


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(4)
    convolutions = [layers.Conv2D(9, 3, activation="relu", name="first"), layers.MaxPooling2D(2)]
    convolutions.append(layers.Conv2D(17, 3, name="last"))
    model = keras.Sequential(
        [keras.Input((12, 12, 3)), *convolutions, layers.Flatten(), layers.Dense(3, "softmax")], name="three"
    )
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel, np.where(np.arange(9) < 2, -1e6, bias + 1)])  # two dead filters
    return model


@pytest.fixture(scope="module")
def own(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file that tells what it knows, as the ladder leaves it."""
    path = tmp_path_factory.mktemp("models") / "own.keras"
    saved_model.save(model, path, ("cat", "dog", "emu"), "vgg16", "bilinear")
    return path


@pytest.fixture(scope="module")
def foreign(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "foreign.keras"
    model.save(path)
    return path


@pytest.fixture
def picture(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture elsewhere; the current folder is an empty one."""
    path = tmp_path / "elsewhere" / "some.cat.png"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return path


def read(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def succeeds(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


# explain


def test_the_map_of_the_class_lies_on_the_whole_picture_beside_the_three_likeliest(
    model: keras.Model, foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model sees the picture as the chapter's do: nearest pixels, 0 to 1."""
    lines = succeeds(capsys, "explain", foreign, picture, "--classes", "cat,dog,emu", "--class", "dog")
    seen = np.asarray(Image.open(picture).resize((12, 12), Image.Resampling.NEAREST), np.float32) / 255
    heatmap = maps.class_activation_map(model, seen, 1)
    np.testing.assert_array_equal(read("some.cat-explain.png"), maps.superimpose(read(picture), heatmap))
    shares = model.predict(seen[None], verbose=0)[0]
    expected = [f"{shares[n]:.3f}  {('cat', 'dog', 'emu')[n]}" for n in np.argsort(-shares)]
    assert lines[:3] == expected
    assert lines[-1] == "some.cat-explain.png: what speaks for dog, by Grad-CAM of last"


def test_a_file_of_convspecs_own_tells_names_preparation_and_interpolation(
    model: keras.Model, own: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "explain", own, picture, "--class", "Emu", "--output", "emu.png")
    seen = decode.load_image(picture, 12, "bilinear").astype(np.float32)
    prepared = keras.applications.vgg16.preprocess_input(seen[None].copy())[0]
    expected = maps.superimpose(read(picture), maps.class_activation_map(model, prepared, 2))
    np.testing.assert_array_equal(read("emu.png"), expected)
    assert {line.split()[1] for line in lines[:3]} == {"cat", "dog", "emu"}


@pytest.mark.parametrize(
    ("how", "prepare"),
    [
        ("rescale", lambda seen: seen / 255),
        ("none", lambda seen: seen),
        ("mobilenet", lambda seen: seen / 127.5 - 1),
    ],
)
def test_what_is_asked_for_comes_before_what_the_file_tells(
    how: str, prepare: Callable[[np.ndarray], np.ndarray], model: keras.Model, own: Path, picture: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    succeeds(capsys, "explain", own, picture, "--class", 0, "--preprocessing", how)
    prepared = prepare(decode.load_image(picture, 12, "bilinear").astype(np.float32))
    expected = maps.superimpose(read(picture), maps.class_activation_map(model, prepared, 0))
    assert np.abs(read("some.cat-explain.png").astype(int) - expected).max() <= 1


def test_without_names_classes_go_by_number_and_a_line_says_so(
    foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "explain", foreign, picture)
    assert lines[0] == "classes go by their numbers here: --classes A,B,... names them"
    best = lines[1].split()[1]
    assert f"what speaks for {best}, by Grad-CAM" in lines[-1], "the class predicted is the one explained"


def test_a_thousand_classes_have_imagenets_names_where_keras_has_its_list(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing 5.42: number 386 is the African elephant."""
    stack = [layers.Conv2D(1, 3), layers.Flatten(), layers.Dense(1000, "softmax")]
    model = keras.Sequential([keras.Input((5, 5, 3)), *stack])
    bias = np.where(np.arange(1000) == 386, 50, 0)
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], bias])
    model.save("many.keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert succeeds(capsys, "explain", "many.keras", picture)[1] == "1.000  386"
    names = {str(n): [f"n{n:08}", "African_elephant" if n == 386 else f"name{n}"] for n in range(1000)}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "imagenet_class_index.json").write_text(json.dumps(names))
    assert succeeds(capsys, "explain", "many.keras", picture)[0] == "1.000  African_elephant"


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_unit_has_two_classes_and_a_logit_is_told_as_a_probability(
    activation: str | None, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1, activation, kernel_initializer="zeros")]
    model = keras.Sequential([keras.Input((5, 5, 1)), *stack])
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], np.array([2.0])])
    model.save("two.keras")
    lines = succeeds(capsys, "explain", "two.keras", picture, "--classes", "cat,dog")
    assert lines[:2] == ["0.881  dog", "0.119  cat"], "1 / (1 + exp(-2)) = 0.881"
    assert lines[2] == "nothing in the picture speaks for dog: the map is 0 everywhere"
    np.testing.assert_array_equal(read("some.cat-explain.png"), maps.superimpose(read(picture), np.zeros((1, 1))))


def test_occlusion_instead_of_gradients(
    model: keras.Model, foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "explain", foreign, picture, "--class", 1, "--occlusion")
    heatmap = maps.occlusion_map(model, decode.load_image(picture, 12) / np.float32(255), 1)
    np.testing.assert_array_equal(read("some.cat-explain.png"), maps.superimpose(read(picture), heatmap))
    assert "by parts of the picture covered" in lines[-1]


def test_a_model_whose_input_is_not_square_or_of_any_size_sees_the_whole_picture(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sides in ((6, 9), (None, None)):
        stack = [layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
        model = keras.Sequential([keras.Input((*sides, 3)), *stack])
        model.save("it.keras")
        succeeds(capsys, "explain", "it.keras", picture, "--class", 1)
        width, height = (9, 6) if sides[0] else (224, 224)
        seen = np.asarray(Image.open(picture).resize((width, height), Image.Resampling.NEAREST), np.float32) / 255
        expected = maps.superimpose(read(picture), maps.class_activation_map(model, seen, 1))
        np.testing.assert_array_equal(read("some.cat-explain.png"), expected)


# activations


def test_every_channel_of_every_layer_is_drawn_and_each_layers_dead_share_told(
    model: keras.Model, foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "activations", foreign, picture)
    names = [layer.name for layer in model.layers[:3]]
    assert [line.partition(":")[0] for line in lines[:-1]] == names
    assert lines[0] == "first: 9 maps of 10 x 10, 22% of them dead"
    found = maps.activations(model, decode.load_image(picture, 12) / np.float32(255))
    drawn, top = read("some.cat-activations.png"), 0
    for name in names:
        tiles = Image.fromarray(maps.channel_tiles(found[name]))
        scaled = tiles.resize((960, round(tiles.height * 960 / tiles.width)), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(drawn[top + 24 : top + 24 + scaled.height], np.asarray(scaled), err_msg=name)
        top += 24 + scaled.height
    assert top == len(drawn)


def test_activations_of_some_layers_alone(foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = succeeds(capsys, "activations", foreign, picture, "first", "--output", "one.png")
    assert [line.partition(":")[0] for line in lines] == ["first", "one.png"]


# filters


def test_the_grid_is_that_of_the_first_convolution_at_each_size(
    model: keras.Model, foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "filters", foreign, "--size", 10, "--steps", 2, "--seed", 3)
    assert [line.partition(":")[0] for line in lines] == ["foreign-first.png", "foreign-last.png"]
    patterns = filter_patterns(model, "first", range(9), 10, 2, seed=3, value_range=(0, 1))
    np.testing.assert_array_equal(read("foreign-first.png"), maps.tile(patterns, 8, 5))


def test_patterns_of_a_model_whose_inputs_are_bgr_are_shown_in_rgb(
    model: keras.Model, own: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VGG16's weights were trained with OpenCV's order, less a mean of 104 to 124 for each channel."""
    succeeds(capsys, "filters", own, "first", "--size", 10, "--steps", 2, "--count", 3, "--folder", "new")
    low = -float(np.mean([103.939, 116.779, 123.68]))
    patterns = filter_patterns(model, "first", range(3), 10, 2, value_range=(low, low + 255))
    found, expected = read("new/own-first.png").astype(int), maps.tile(patterns[..., ::-1], 8, 5)
    assert np.abs(found - expected).max() <= 1, "red and blue are swapped"


def test_a_base_has_its_own_weights_and_takes_its_name_for_a_file(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = succeeds(capsys, "filters", "mini", "block2_conv1", "--count", 2, "--size", 8, "--steps", 1)
    assert lines == ["mini-block2_conv1.png: patterns of 2 filters of block2_conv1"]
    assert read("mini-block2_conv1.png").shape == (8, 8 * 13 - 5, 3)


# What is there stays there


def test_its_own_output_is_replaced_and_whatever_else_lies_there_is_not_unless_asked(
    foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path("map.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(output)
    before = output.read_bytes()
    arguments = ["explain", foreign, picture, "--output", output]
    for _ in range(2):
        assert main([*map(str, arguments)]) == 1
        assert "'map.png' is there already and not convspec's own: name another, or give --overwrite" in (
            capsys.readouterr().err
        )
        assert output.read_bytes() == before
    succeeds(capsys, *arguments, "--overwrite")
    assert output.read_bytes() != before
    succeeds(capsys, *arguments, "--class", 2)
    output.write_text("no picture")
    assert main([*map(str, arguments)]) == 1


def test_an_output_is_whole_or_not_there(
    foreign: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(_: Image.Image, file: Path, *__: object, **___: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", cut_off)
    assert main(["explain", str(foreign), str(picture)]) == 1
    assert "no space left" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


# What cannot work


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("explain gone.keras PICTURE", "no model file 'gone.keras'"),
        ("explain PICTURE PICTURE", "some.cat.png' is no model that Keras can read: "),
        ("explain MODEL gone.jpg", "no picture 'gone.jpg'"),
        ("explain MODEL MODEL", "foreign.keras' is not a readable picture: "),
        ("explain MODEL PICTURE --class owl", "no class 'owl'; choose from 0, 1, 2, or a number from 0 to 2"),
        ("explain MODEL PICTURE --class 3", "no class '3'; choose from 0, 1, 2"),
        ("explain MODEL PICTURE --classes a,b", "classes must be 3 names, as three has, got a, b"),
        ("explain MODEL PICTURE --layer x", "has no layer 'x' with maps; choose from first, "),
        ("explain MODEL PICTURE --preprocessing x", "preprocessing must be one of inception_v3, mini, mobilenet, none"),
        ("explain MODEL PICTURE --output x.jpg", "output must be a .png, got 'x.jpg'"),
        ("activations MODEL PICTURE first x", "has no layer 'x' with maps; choose from first, "),
        ("filters gone", "no model file 'gone'"),
        ("filters MODEL x", "has no layer 'x' with maps; choose from first, "),
        ("filters MODEL first --size 2", "size must leave something of 'first'"),
        ("filters mini --weights gone.h5", "no weights file 'gone.h5'"),
    ],
)
def test_what_cannot_work_is_an_error_of_one_line_and_writes_nothing(
    arguments: str, message: str, foreign: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(foreign), "PICTURE": str(picture)}
    assert main([places.get(word, word) for word in arguments.split()]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("convspec: error: ")
    assert err.count("\n") == 1, "one line"
    assert message in err
    assert not out
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("option", ["--size=0", "--steps=-1", "--count=x", "--seed=-1"])
def test_numbers_that_cannot_be_are_usage_errors(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["filters", "mini", option])
    assert "must be a whole number from" in capsys.readouterr().err


# Models' files


def test_a_saved_model_comes_back_with_what_its_file_tells_and_keras_reads_it_too(
    model: keras.Model, own: Path, foreign: Path, rng: np.random.Generator
) -> None:
    inputs = rng.random((2, 12, 12, 3)).astype(np.float32)
    back = saved_model.load(own)
    assert back[1:] == (("cat", "dog", "emu"), "vgg16", "bilinear")
    assert saved_model.load(foreign)[1:] == (None, None, None)
    expected = model.predict(inputs, verbose=0)
    for reread in (back.model, keras.models.load_model(own)):
        np.testing.assert_array_equal(reread.predict(inputs, verbose=0), expected)


def test_a_model_that_is_cut_off_is_no_model(own: Path, tmp_path: Path) -> None:
    whole = own.read_bytes()
    for share in (0.0, 0.5, 0.99):
        (tmp_path / "cut.keras").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInput, match=r"cut.keras' is no model that Keras can read: \S"):
            saved_model.load(tmp_path / "cut.keras")


def test_a_model_is_saved_whole_or_not_at_all(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(ZipFile, "writestr", cut_off)
    with pytest.raises(OSError, match="no space left"):
        saved_model.save(model, tmp_path / "it.keras", ("a", "b", "c"), "rescale", "nearest")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_are_functions_that_tell_what_they_did(foreign: Path, picture: Path) -> None:
    told = explain.filters(str(foreign), ["first"], Path(), size=8, steps=1)
    assert told == ["foreign-first.png: patterns of 9 filters of first"]
    assert "emu.png" in explain.explain(foreign, picture, Path("emu.png"))[-1]
    assert "all.png" in explain.activations(foreign, picture, Path("all.png"))[-1]
    assert {path.name for path in Path().iterdir()} == {"foreign-first.png", "emu.png", "all.png"}


def test_a_run_of_the_ladder_leaves_a_model_that_can_be_asked_for_a_class_by_name(
    few_shapes: Dataset, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(rungs.find_recipe("feature_extraction", "mini"), epochs=1)
    run.run_recipe(recipe, few_shapes, 0, Path("run"))
    (file,) = Path("run", "models").glob("*.keras")
    assert saved_model.load(file)[1:] == (("fish", "key"), "rescale", "nearest")
    lines = succeeds(capsys, "explain", file, picture, "--class", "fish")
    assert lines[-1] == "some.cat-explain.png: what speaks for fish, by Grad-CAM of block4_conv2"
