"""The backends agree: the same weights and the same pictures give the same numbers on TensorFlow, JAX and PyTorch.

Keras has one backend a process: for each that is installed, this file runs as a program of its own, and what they
computed is compared here. Where they do not agree, and cannot, a test says so.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
LADDER = ("mnist_convnet", "feature_extraction", "fine_tuned")
SEEDS = 5
Arrays = dict[str, np.ndarray]
Pair = tuple[str, str]

each_pair = pytest.mark.parametrize("pair", [*combinations(BACKENDS, 2)], ids="-".join)
each_way = pytest.mark.parametrize("pair", [*permutations(BACKENDS, 2)], ids="-to-".join)


def start(backend: str, *arguments: object) -> subprocess.Popen:
    """Start this file as a program on `backend`; on one thread, as several run at a time."""
    settings = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *map(str, arguments)]
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env=os.environ | settings, text=True, **streams)


def skip_unless_installed(*backends: str) -> None:
    for backend in backends:
        if not find_spec(backend):
            pytest.skip(f"{backend} is not installed: pip install -e '.[{backend}]'")


def test_a_missing_backend_is_named_with_what_installs_it() -> None:
    code = "import sys; sys.modules['jax'] = None; import convspec.backend"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "jax"}, stderr=subprocess.PIPE, text=True)
    message = ended.stderr.splitlines()[-1]
    assert 'Keras is to run on jax, which is not installed: pip install "convspec[jax]"' in message
    others = [name for name in ("tensorflow", "torch") if find_spec(name)]
    assert all(f"or set KERAS_BACKEND={name}" in message for name in others), "what is installed would do, too"


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    """What the program computed on each backend that is installed."""
    folder = tmp_path_factory.mktemp("backends")
    running = {backend: start(backend, "compute", folder) for backend in BACKENDS if find_spec(backend)}
    for backend, program in running.items():  # all have saved their model before one loads another's
        assert program.stdout
        assert program.stdout.readline() == "written\n", f"the program broke off on {backend}"
    for program in running.values():
        assert program.stdin
        program.stdin.close()  # go on
    for backend, program in running.items():
        assert program.wait() == 0, f"the program broke off on {backend}"
    return {
        backend: {**np.load(folder / f"{backend}.npz"), **np.load(folder / f"{backend}-loaded.npz")}
        for backend in running
    }


@pytest.fixture
def sides(pair: Pair, request: pytest.FixtureRequest) -> list[Arrays]:
    skip_unless_installed(*pair)
    computed = request.getfixturevalue("computed")  # not before it is known that it is needed
    return [computed[backend] for backend in pair]


def assert_agree(sides: list[Arrays], group: str, tolerance: float) -> None:
    """Compare every array of the group, to `tolerance` of its largest value, or of 1 where that is more."""
    one, other = sides
    names = {name for name in one if name.startswith(f"{group}/")}
    assert names == {name for name in other if name.startswith(f"{group}/")} != set()
    for name in names:
        largest = np.abs(one[name]).max()
        assert largest > 0, f"{name}: nothing to compare"
        np.testing.assert_allclose(other[name], one[name], rtol=0, atol=tolerance * min(largest, 1), err_msg=name)


@each_pair
@pytest.mark.parametrize(
    ("group", "tolerance"),
    [
        ("activations", 1e-4),  # of every layer, for one picture
        ("kinds", 1e-4),  # layers of every kind, at odd sizes, with strides and padding
        ("gradient", 1e-3),  # of a score by the picture
        ("seen", 1e-3),  # a class activation map, and the pattern of a filter
    ],
)
def test_a_picture_gives_the_same_numbers(group: str, tolerance: float, sides: list[Arrays]) -> None:
    assert_agree(sides, group, tolerance)


@each_pair
def test_a_step_of_training_leaves_the_same_weights_and_slots_of_rmsprop(sides: list[Arrays]) -> None:
    """The slots are means of squared gradients, far below 1, and have the gradients' tolerance."""
    assert_agree(sides, "step-weights", 1e-4)
    assert_agree(sides, "step-slots", 1e-3)
    np.testing.assert_allclose(sides[1]["step/loss"], sides[0]["step/loss"], rtol=1e-5)
    moved = np.abs(sides[0]["step-weights/0"] - sides[0]["before/0"]).max()
    assert moved > 1e-3, "ten times the tolerance at least, else anything would do"


@each_way
def test_a_model_saved_under_one_predicts_the_same_under_another(pair: Pair, sides: list[Arrays]) -> None:
    saved, loaded = sides[0]["saved"], sides[1][f"loaded/{pair[0]}"]
    assert np.ptp(saved) > 0.1
    np.testing.assert_allclose(loaded, saved, rtol=0, atol=1e-4)


@each_way
def test_training_goes_on_under_another_backend_as_under_its_own(pair: Pair, sides: list[Arrays]) -> None:
    """The optimizer's slots are saved with the model."""
    own, other = sides
    prefix = f"resumed-{pair[0]}"
    resumed = {name.replace(prefix, "next"): array for name, array in other.items() if name.startswith(prefix)}
    assert_agree([own, resumed], "next-weights", 1e-4)
    assert_agree([own, resumed], "next-slots", 1e-3)


@each_pair
def test_only_pytorchs_average_pooling_repeats_the_edge_in_uneven_padding(pair: Pair, sides: list[Arrays]) -> None:
    """A window of 3 in steps of 2 over 48 pixels has one row of padding, after; the others leave it out of the mean.

    None of the six bases and of the chapter's models pools so.
    """
    one, other = (side["uneven/average"] for side in sides)
    np.testing.assert_allclose(one[:, :-1, :-1], other[:, :-1, :-1], rtol=0, atol=1e-6)
    assert np.allclose(one, other, rtol=0, atol=1e-6) == ("torch" not in pair)


@each_pair
def test_a_seed_shows_the_same_pictures_but_draws_other_weights(sides: list[Arrays]) -> None:
    """Each backend has random numbers of its own: runs with one seed are no pairs, and a gate does not pair them."""
    one, other = sides
    np.testing.assert_array_equal(one["seed/pictures"], other["seed/pictures"])
    assert one["seed/weights"].std() == pytest.approx(other["seed/weights"].std(), rel=0.1)
    assert not np.allclose(one["seed/weights"], other["seed/weights"], atol=0.01)


@each_pair
def test_dropout_keeps_its_generator_in_the_model_only_with_a_seed(pair: Pair, sides: list[Arrays]) -> None:
    """Without one, PyTorch draws from a generator that no checkpoint has, so that the models here give one."""
    assert all(side["dropout/seeded"] for side in sides)
    assert [bool(side["dropout/unseeded"]) for side in sides] == [backend != "torch" for backend in pair]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    """For each backend and rung whether each test picture was right, a row for each seed."""
    skip_unless_installed(*BACKENDS)
    right = {}
    for backend in BACKENDS:
        folder = tmp_path_factory.mktemp(backend)
        assert start(backend, "train", folder).wait() == 0, f"the program broke off on {backend}"
        right[backend] = dict(np.load(folder / "right.npz"))
    return right


@pytest.mark.slow
@pytest.mark.parametrize("rung", LADDER)
@each_pair
def test_the_accuracies_of_a_rung_do_not_differ_by_the_gates_own_test(
    rung: str, pair: Pair, trained: dict[str, Arrays], capsys: pytest.CaptureFixture
) -> None:
    """At mini, over the default seeds; neither side as the baseline of the other has regressed."""
    from convspec.accuracy import gate

    one, other = (trained[backend][rung] for backend in pair)
    verdicts = gate.gate(one, other), gate.gate(other, one)
    with capsys.disabled():
        print(f"\n{rung}, {pair[1]} against {pair[0]}: {verdicts[0]}")
    assert "regressed" not in [verdict.outcome for verdict in verdicts]


def compute(folder: Path) -> None:
    """Compute everything on this process's backend, and in a second part with the others' models."""
    import keras
    from keras import ops

    from convspec import backend, models, training
    from convspec.data import batches, shapes
    from convspec.ladder.rungs import CHAPTER_AUGMENTATION
    from convspec.visualization import maps, patterns

    rng = np.random.default_rng(0)
    arrays: Arrays = {}

    def note(group: str, **values: Any) -> None:
        arrays.update({f"{group}/{name}": ops.convert_to_numpy(value) for name, value in values.items()})

    def note_state(group: str, model: keras.Model) -> None:
        for kind, variables in (("weights", model.trainable_variables), ("slots", model.optimizer.variables)):
            note(f"{group}-{kind}", **{str(place): variable for place, variable in enumerate(variables)})

    def draw_weights(model: keras.Model) -> None:
        """Draw the same on every backend, of a size that keeps signals as large as they are."""
        for weight in model.weights:
            if weight.trainable or "moving" in weight.name:
                drawn = rng.normal(size=weight.shape) / max(np.prod(weight.shape[:-1]), 4) ** 0.5
                weight.assign(1 + np.abs(drawn) if weight.name in ("gamma", "moving_variance") else drawn)

    images, labels = shapes.pictures(shapes.TARGETS, 30, seed=5)
    picture = batches.rescale(images[0].astype(np.float32))
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    model = models.end_to_end(base)
    for layer in model.layers[1:]:
        draw_weights(layer)
    note("activations", **maps.activations(model, picture))
    odd = picture[None, :47, :40]
    kinds = every_kind_of_layer(odd.shape[1:])
    draw_weights(kinds)
    note("kinds", **kinds.predict_on_batch(odd))
    note("uneven", average=keras.ops.average_pool(picture[None], 3, 2, "same"))
    score, gradient = backend.value_and_gradient(lambda x: model(x, training=False)[:, 0], picture[None])
    note("gradient", score=score, picture=gradient)
    note("seen", cat=maps.class_activation_map(model, picture, 0))
    note("seen", dog=maps.class_activation_map(model, picture, 1))
    pattern = patterns.filter_patterns(
        model, "block3_conv1", [0, 1], size=32, steps=5, value_range=(0.0, 1.0), as_pictures=False
    )
    note("seen", pattern=pattern)

    pictures = batches.Batches(images, labels, 20, batches.rescale)
    batch = next(batches.stream(pictures, 0, CHAPTER_AUGMENTATION))
    training.compile_model(model, 1e-3)
    note("before", **{"0": model.trainable_variables[0]})
    note("step", loss=model.train_on_batch(*batch)[0])
    note_state("step", model)
    arrays["saved"] = model.predict(pictures, verbose=0)
    backend.save_model(model, folder / f"{backend.BACKEND}.keras")
    model.train_on_batch(*batch)
    note_state("next", model)

    keras.utils.set_random_seed(0)
    note("seed", pictures=batch[0], weights=models.feature_classifier((64,)).weights[0])
    for name, seed in (("seeded", 1), ("unseeded", None)):
        dropout = keras.layers.Dropout(0.5, seed=seed)
        state = [ops.convert_to_numpy(variable) for variable in dropout.variables]
        once = ops.convert_to_numpy(dropout(np.ones((1, 64)), training=True))
        for variable, value in zip(dropout.variables, state, strict=True):
            variable.assign(value)
        arrays[f"dropout/{name}"] = np.equal(ops.convert_to_numpy(dropout(np.ones((1, 64)), training=True)), once).all()
    np.savez(folder / f"{backend.BACKEND}.npz", **arrays)  # type: ignore[arg-type]

    print("written", flush=True)
    sys.stdin.read()
    arrays = {}
    for path in sorted(folder.glob("*.keras")):
        loaded = keras.models.load_model(path)
        arrays[f"loaded/{path.stem}"] = loaded.predict(pictures, verbose=0)
        loaded.train_on_batch(*batch)
        note_state(f"resumed-{path.stem}", loaded)
    np.savez(folder / f"{backend.BACKEND}-loaded.npz", **arrays)  # type: ignore[arg-type]


def every_kind_of_layer(shape: tuple[int, ...]) -> Any:
    """Return a model that gives what each kind makes of one picture."""
    import keras
    from keras import layers

    kinds = {
        "strided": layers.Conv2D(4, 3, strides=2, padding="same"),
        "dilated": layers.Conv2D(4, 3, dilation_rate=2, padding="same"),
        "even": layers.Conv2D(4, 4, strides=3, padding="same"),
        "depthwise": layers.DepthwiseConv2D(3, strides=2, padding="same"),
        "separable": layers.SeparableConv2D(4, 3, padding="same"),
        "transposed": layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        "maximum": layers.MaxPooling2D(3, strides=2, padding="same"),
        "average": layers.AveragePooling2D(3, padding="same", strides=1),
        "normalised": layers.BatchNormalization(),
        "smaller": layers.Resizing(20, 20, antialias=True),
        "all": layers.GlobalAveragePooling2D(),
    }
    inputs = keras.Input(shape)
    return keras.Model(inputs, {name: layer(inputs) for name, layer in kinds.items()})


def train(folder: Path) -> None:
    """Run some rungs of the ladder with all seeds."""
    from convspec.data import datasets
    from convspec.ladder import rungs
    from convspec.ladder.run import run_recipe

    shapes = datasets.load_dataset("shapes", 48, Path())
    right = {}
    for rung in LADDER:
        recipe = rungs.find_recipe(rung, "mini")
        runs = [run_recipe(recipe, shapes, seed, folder) for seed in range(SEEDS)]
        right[rung] = np.array([np.equal(run.predicted, run.test_labels) for run in runs])
    np.savez(folder / "right.npz", **right)  # type: ignore[arg-type]


if __name__ == "__main__":
    {"compute": compute, "train": train}[sys.argv[1]](Path(sys.argv[2]))
