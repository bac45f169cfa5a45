"""`convspec explain`, `activations` and `filters`."""

import json
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from convspec import models
from convspec.cli.main import main
from convspec.data import decode
from convspec.ladder import saved_model
from convspec.visualization import class_activation_map, filter_patterns, superimpose
from convspec.visualization.maps import activations, channel_tiles, occlusion_map, tile, viridis

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    rng = np.random.default_rng(0)  # the same weights on every backend
    stack = [layers.Conv2D(9, 3, activation="relu", name="first"), layers.MaxPooling2D(2)]
    stack += [layers.Conv2D(17, 3, name="last"), layers.Flatten(), layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((12, 12, 3)), *stack], name="three")
    model.set_weights([rng.normal(0, 0.1, weight.shape) for weight in model.get_weights()])
    kernel, bias = model.get_layer("first").get_weights()
    model.get_layer("first").set_weights([kernel, np.where(np.arange(9) < 2, -1e6, bias + 1)])  # two dead filters
    return model


@pytest.fixture(scope="module")
def own(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file with its classes and preparation, as the ladder leaves it."""
    path = tmp_path_factory.mktemp("models") / "own.keras"
    saved_model.save(model, path, ("cat", "dog", "emu"), "vgg16", "bilinear")
    return path


@pytest.fixture(scope="module")
def foreign(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model.save(path := tmp_path_factory.mktemp("models") / "foreign.keras")
    return path


@pytest.fixture
def picture(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture elsewhere; the current folder is an empty one."""
    path = tmp_path / "elsewhere" / "some.cat.png"
    path.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that succeeds; return the lines that it prints."""

    def succeeds(*arguments: object) -> list[str]:
        assert main([*map(str, arguments)]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    return succeeds


def read(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def seen(path: Path, width: int = 12, height: int = 12) -> np.ndarray:
    """The picture as the chapter's models see it: nearest pixels, 0 to 1."""
    with Image.open(path) as picture:
        return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


# explain


def test_the_map_lies_on_the_whole_picture_beside_the_likeliest(
    model: keras.Model, foreign: Path, picture: Path, run: Run
) -> None:
    names = ("cat", "dog", "emu")
    heatmaps = [class_activation_map(model, seen(picture), index) for index in range(3)]
    index = max(range(3), key=lambda index: heatmaps[index].any())  # a class that something speaks for
    lines = run("explain", foreign, picture, "--classes", "cat,dog,emu", "--class", names[index])
    np.testing.assert_array_equal(read("some.cat-explain.png"), superimpose(read(picture), heatmaps[index]))
    shares = model.predict(seen(picture)[None], verbose=0)[0]
    assert lines[:3] == [f"{shares[n]:.3f}  {names[n]}" for n in np.argsort(-shares)]
    assert lines[3:] == [f"some.cat-explain.png: what speaks for {names[index]}, by Grad-CAM of last"]


@pytest.mark.parametrize(
    ("how", "prepare"),
    [
        (None, lambda pixels: pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)),
        ("rescale", lambda pixels: pixels / 255),
        ("none", lambda pixels: pixels),
        ("mobilenet", lambda pixels: pixels / 127.5 - 1),
    ],
)
def test_preparation_is_as_asked_for_else_as_the_file_tells(
    how: str | None, prepare: Callable[..., np.ndarray], model: keras.Model, own: Path, picture: Path, run: Run
) -> None:
    """The file tells of vgg16's, bilinear resizing, and the names of the classes."""
    lines = run("explain", own, picture, "--class", "Emu", *(["--preprocessing", how] if how else []))
    prepared = prepare(decode.load_image(picture, 12, "bilinear").astype(np.float32))
    expected = superimpose(read(picture), class_activation_map(model, prepared, 2))
    assert np.abs(read("some.cat-explain.png").astype(int) - expected).max() <= 1
    assert {line.split()[1] for line in lines[:3]} == {"cat", "dog", "emu"}


def test_without_names_classes_go_by_number(foreign: Path, picture: Path, run: Run) -> None:
    lines = run("explain", foreign, picture)
    assert lines[0] == "classes go by their numbers here: --classes A,B,... names them"
    best = lines[1].split()[1]
    assert f"what speaks for {best}, by Grad-CAM" in lines[-1], "the class predicted is the one explained"
    assert "--classes" not in run("explain", foreign, picture, "--classes", "0,1,2", "--overwrite")[0], "named so"


def test_a_thousand_classes_have_imagenets_names_if_keras_has_them(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Listing 5.42: number 386 is the African elephant."""
    stack = [layers.Conv2D(1, 3), layers.Flatten(), layers.Dense(1000, "softmax")]
    model = keras.Sequential([keras.Input((5, 5, 3)), *stack])
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], np.where(np.arange(1000) == 386, 50, 0)])
    model.save("many.keras")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert run("explain", "many.keras", picture)[1] == "1.000  386"
    names = {str(n): [f"n{n:08}", "African_elephant" if n == 386 else f"name{n}"] for n in range(1000)}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "imagenet_class_index.json").write_text(json.dumps(names))
    for wanted in ([], ["--class", "N00000386"], ["--class", "african_elephant"]):
        lines = run("explain", "many.keras", picture, *wanted)
        assert lines[0] == "1.000  African_elephant (n00000386, 386)"
        assert "for African_elephant, by" in lines[-1]


@pytest.mark.parametrize(("activation", "logit"), [("sigmoid", 2.0), (None, 2.0), (None, 0.4)])
def test_one_unit_has_two_classes_and_a_logit_a_probability(
    activation: str | None, logit: float, picture: Path, run: Run
) -> None:
    stack = [layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1, activation, kernel_initializer="zeros")]
    model = keras.Sequential([keras.Input((5, 5, 1)), *stack])
    model.layers[-1].set_weights([model.layers[-1].get_weights()[0], np.array([logit])])
    model.save("two.keras")
    lines = run("explain", "two.keras", picture, "--classes", "cat,dog")
    dog = 1 / (1 + np.exp(-logit))
    assert lines[:2] == [f"{dog:.3f}  dog", f"{1 - dog:.3f}  cat"]
    assert lines[2] == "nothing in the picture speaks for dog: the map is 0 everywhere"
    np.testing.assert_array_equal(read("some.cat-explain.png"), superimpose(read(picture), np.zeros((1, 1))))


def test_the_probability_instead_of_the_score(model: keras.Model, foreign: Path, picture: Path, run: Run) -> None:
    lines = run("explain", foreign, picture, "--class", 1, "--probability")
    heatmap = class_activation_map(model, seen(picture), 1, of="probability")
    np.testing.assert_array_equal(read("some.cat-explain.png"), superimpose(read(picture), heatmap))
    assert lines[-1].endswith("what speaks for 1, by Grad-CAM of last, of the probability")


@pytest.mark.parametrize("name", ["map.jpg", "map.JPEG"])
def test_a_jpeg_is_written_where_one_is_named_and_replaced_by_the_next(
    name: str, foreign: Path, picture: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Listing 5.44 writes one."""
    for _ in range(2):
        run("explain", foreign, picture, "--output", name)
    with Image.open(name) as written:
        assert written.format == "JPEG"
    run("explain", foreign, picture)
    Image.fromarray(read("some.cat-explain.png")).save("expected.jpg", quality=95)
    np.testing.assert_array_equal(read(name), read("expected.jpg"))
    assert main(["explain", str(foreign), str(picture), "--output", "expected.jpg"]) == 1
    assert "not convspec's own" in capsys.readouterr().err


def test_a_base_by_its_name_has_its_classifier_and_own_preparation(
    picture: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Listings 5.40 and 5.41, of a smaller base."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    keras.utils.set_random_seed(1)
    base = models.conv_base("mobilenet", None, (224, 224, 3), include_top=True)
    base.save_weights("top.weights.h5")
    lines = run("explain", "MobileNet", picture, "--weights", "top.weights.h5")
    prepared = models.PREPROCESSING["mobilenet"](255 * seen(picture, 224, 224)[None])
    shares = base.predict(prepared, verbose=0)[0]
    assert shares.shape == (1000,)
    assert lines[1] == f"{shares.max():.3f}  {shares.argmax()}"


def test_occlusion_instead_of_gradients(model: keras.Model, foreign: Path, picture: Path, run: Run) -> None:
    lines = run("explain", foreign, picture, "--class", 1, "--occlusion")
    expected = superimpose(read(picture), occlusion_map(model, seen(picture), 1))
    np.testing.assert_array_equal(read("some.cat-explain.png"), expected)
    assert "by parts of the picture covered" in lines[-1]


def test_what_cannot_be_shown_of_a_model_is_refused(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = [keras.Input((5, 5, 3)), layers.Flatten(), layers.Dense(2, "softmax")]
    keras.Sequential(flat, name="flat").save("flat.keras")
    pairs = [keras.Input((5, 5, 2)), layers.Conv2D(2, 3), layers.Flatten()]
    keras.Sequential(pairs, name="pairs").save("pairs.keras")
    maps = layers.Flatten()(layers.Conv2D(2, 3)(inputs := keras.Input((5, 5, 3))))
    keras.Model(inputs, [layers.Dense(2)(maps), layers.Dense(3)(maps)], name="forked").save("forked.keras")
    grey = [keras.Input((5, 5, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2, "softmax")]
    keras.Sequential(grey, name="grey").save("grey.keras")
    for arguments, message in (
        (["explain", "grey.keras", picture, "--preprocessing", "vgg16"], "grey takes 1 channel, and vgg16 prepares"),
        (["explain", "flat.keras", picture], "flat has no convolution with maps"),
        (["explain", "flat.keras", picture, "--occlusion", "--layer", "x"], "--layer is Grad-CAM's; leave it out"),
        (["explain", "flat.keras", picture, "--occlusion"], ""),
        (["explain", "forked.keras", picture], "model must end in one output of a layer, forked does not"),
        (["filters", "pairs.keras"], "pairs takes 2 channels, and a picture has 1 or 3"),
    ):
        assert main([str(argument) for argument in arguments]) == bool(message)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("sides", "size"), [((6, 9), (9, 6)), ((None, None), (224, 224))])
def test_the_whole_picture_is_resized_to_any_input(
    sides: tuple[int | None, int | None], size: tuple[int, int], picture: Path, run: Run
) -> None:
    stack = [layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input((*sides, 3)), *stack])
    model.save("it.keras")
    run("explain", "it.keras", picture, "--class", 1)
    expected = superimpose(read(picture), class_activation_map(model, seen(picture, *size), 1))
    np.testing.assert_array_equal(read("some.cat-explain.png"), expected)


# activations


@pytest.mark.parametrize("names", [["first", "max_pooling2d", "last"], ["first"]])
def test_every_channel_of_the_layers_is_drawn_under_the_dead_share(
    names: list[str], model: keras.Model, foreign: Path, picture: Path, run: Run
) -> None:
    names = [layer.name for layer in model.layers[: len(names)]]  # Keras numbers its own names
    lines = run("activations", foreign, picture, *(names if len(names) == 1 else []))
    assert [line.partition(":")[0] for line in lines] == [*names, "some.cat-activations.png"]
    assert lines[0] == "first: 9 maps of 10 x 10, 22% of them dead"
    maps = activations(model, seen(picture))
    drawn, top = read("some.cat-activations.png"), 0
    for name in names:
        tiles = Image.fromarray(channel_tiles(maps[name]))
        scaled = tiles.resize((960, round(tiles.height * 960 / tiles.width)), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(drawn[top + 24 : top + 24 + scaled.height], np.asarray(scaled), err_msg=name)
        top += 24 + scaled.height
    assert top == len(drawn)


def test_a_channel_alone_has_its_colours_and_its_range(
    model: keras.Model, foreign: Path, picture: Path, run: Run
) -> None:
    """Listings 5.29 and 5.30."""
    channel = activations(model, seen(picture))["first"][..., 4]
    lines = run("activations", foreign, picture, "first", "--channel", 4)
    assert lines == [
        f"first, channel 4: 10 x 10, {channel.min():.3g} to {channel.max():.3g}",
        "some.cat-activations.png: channel 4 alone",
    ]
    expected = viridis(channel).repeat(96, axis=0).repeat(96, axis=1)
    np.testing.assert_array_equal(read("some.cat-activations.png")[24:], expected)


def test_a_dead_channel_alone_is_black_and_says_so(foreign: Path, picture: Path, run: Run) -> None:
    assert run("activations", foreign, picture, "first", "--channel", 0)[0] == "first, channel 0: 10 x 10, 0 to 0, dead"
    assert not read("some.cat-activations.png")[24:].any()


def test_a_base_by_its_name_shows_the_picture_as_it_is_prepared_for_it(picture: Path, run: Run) -> None:
    lines = run("activations", "mini", picture, "block4_conv2")
    base = models.conv_base("mini", models.MINI_WEIGHTS, (224, 224, 3))
    (maps,) = base.predict(seen(picture, 224, 224)[None], verbose=0)
    assert lines[0].startswith("block4_conv2: 96 maps of 28 x 28, ")
    pooled = run("activations", "mini", picture, "block4_pool")
    assert pooled[0] == f"block4_pool: 96 maps of 14 x 14, {np.mean(~maps.any(axis=(0, 1))):.0%} of them dead"


# filters


def test_the_grid_is_of_the_first_convolution_at_each_size(
    model: keras.Model, foreign: Path, picture: Path, run: Run
) -> None:
    lines = run("filters", foreign, "--size", 10, "--steps", 2, "--seed", 3)
    assert [line.partition(":")[0] for line in lines] == ["foreign-first.png", "foreign-last.png"]
    patterns = filter_patterns(model, "first", range(9), 10, 2, seed=3, value_range=(0, 1))
    np.testing.assert_array_equal(read("foreign-first.png"), tile(patterns, 8, 5, down=True))


def test_patterns_of_a_model_whose_inputs_are_bgr_are_shown_in_rgb(
    model: keras.Model, own: Path, picture: Path, run: Run
) -> None:
    """VGG16's weights were trained with OpenCV's order, less a mean of 104 to 124 for each channel."""
    run("filters", own, "first", "--size", 10, "--steps", 2, "--count", 3, "--folder", "new")
    low = -float(np.mean([103.939, 116.779, 123.68]))
    patterns = filter_patterns(model, "first", range(3), 10, 2, value_range=(low, low + 255))
    drawn, expected = read("new/own-first.png").astype(int), tile(patterns[..., ::-1], 3, 5, down=True)
    assert np.abs(drawn - expected).max() <= 1, "red and blue are swapped"


def test_a_base_goes_by_its_name_and_has_its_own_weights(picture: Path, run: Run) -> None:
    lines = run("filters", "mini", "block2_conv1", "--count", 2, "--size", 8, "--steps", 1)
    assert lines == ["mini-block2_conv1.png: patterns of 2 filters of block2_conv1"]
    assert read("mini-block2_conv1.png").shape == (2 * 13 - 5, 8, 3)


# What is there stays there, and what cannot work


def test_only_files_of_its_own_are_replaced_unless_asked(
    foreign: Path, picture: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path("map.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(output)
    before = output.read_bytes()
    arguments = ["explain", str(foreign), str(picture), "--output", str(output)]
    assert main(arguments) == 1
    refusal = "'map.png' is there already and not convspec's own: name another, or give --overwrite"
    assert refusal in capsys.readouterr().err
    assert output.read_bytes() == before
    run(*arguments, "--overwrite")
    assert output.read_bytes() != before
    run(*arguments, "--class", 2)
    output.write_text("no picture")
    assert main(arguments) == 1


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("explain gone.keras PICTURE", "no model file 'gone.keras': give a .keras file"),
        ("explain PICTURE PICTURE", "some.cat.png' is no model that Keras can read: "),
        ("explain MODEL gone.jpg", "no picture file 'gone.jpg': give a JPEG, a PNG or another picture"),
        ("explain MODEL MODEL", "foreign.keras' is not a readable picture: "),
        ("explain MODEL PICTURE --class owl", "no class 'owl'; choose from 0, 1, 2, or a number from 0 to 2"),
        ("explain MODEL PICTURE --class 3", "no class '3'; choose from 0, 1, 2"),
        ("explain MODEL PICTURE --classes a,b", "classes must be 3 names, as three has, got a, b"),
        ("explain MODEL PICTURE --layer x", "has no layer 'x' with maps; choose from first, "),
        ("explain MODEL PICTURE --preprocessing x", "preprocessing must be one of convnextbase, "),
        ("explain MODEL PICTURE --output x.gif", "output must be a .png or a .jpg, got 'x.gif'"),
        ("explain MODEL PICTURE --output /proc/x.png", "nothing can be written in '/proc' ("),
        ("explain mini PICTURE", "the mini base has no classifier: take another base, or a model's file"),
        ("explain VGG16 PICTURE --weights gone.h5", "no weights file 'gone.h5'"),
        ("activations MODEL PICTURE first --channel 9", "channel must be from 0 to 8, which first has, got 9"),
        ("activations MODEL PICTURE first x", "has no layer 'x' with maps; choose from first, "),
        ("filters gone", "no model file 'gone', and unknown base 'gone'; choose from convnextbase, "),
        ("filters MODEL first x", "has no layer 'x' with maps; choose from first, "),
        ("filters MODEL first --size 2", "size must leave something of 'first'"),
        ("filters mini --convspec-weights gone.h5", "no weights file 'gone.h5'; give a file"),
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


def test_an_unknown_option_is_answered_with_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["filters", "mini", "--filters", "3"])
    err = capsys.readouterr().err
    assert err.startswith("usage: convspec filters [-h]")
    assert "convspec filters: error: unrecognized arguments: --filters" in err
