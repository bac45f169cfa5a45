"""A base's features: in the order of the pictures, kept on disk, never mixed up; training on them."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from builders import contents, store_in

from convspec import BadInput, backend, features, machine, models
from convspec.data.batches import Batches, View, identity, rescale, stream
from convspec.data.datasets import Dataset
from convspec.files import lock
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.progress import Clock

ROW = 3 * 3 * 96 * 4  # bytes of one picture's features
HEADER = 128
NOTHING = features.Engine(lambda *_: iter([]))  # computes no batch


@pytest.fixture(scope="module")
def base() -> keras.Model:
    return models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))


@pytest.fixture
def batches(few_shapes: Dataset) -> Batches:
    return Batches(few_shapes.test.images, few_shapes.test.labels, 8, rescale)


def extract(base: keras.Model, batches: Batches, folder: Path) -> np.ndarray:
    return features.extract(base, batches, folder, clock=Clock())


def cap(pictures: np.ndarray) -> np.ndarray:
    """Rescale, with all that is brighter than 127 as bright as that."""
    return np.minimum(rescale(pictures), np.float32(0.5))


def stores(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()]


def test_channels_first_in_memory_is_recorded_channels_last(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    """As PyTorch gives them."""
    ones = np.arange(len(batches.inputs) * 864, dtype=np.float32).reshape(-1, 96, 3, 3).transpose(0, 2, 3, 1)
    parts = np.split(ones, range(8, len(ones), 8))
    recorded = features.extract(base, batches, tmp_path, clock=Clock(), engine=features.Engine(lambda *_: iter(parts)))
    np.testing.assert_array_equal(recorded, ones)


def test_features_on_disk_are_mapped_and_never_computed_again(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    clocks = Clock(), Clock()
    first = features.extract(base, batches, tmp_path, clock=clocks[0])
    again = features.extract(base, batches, tmp_path, clock=clocks[1], engine=NOTHING)
    np.testing.assert_array_equal(again, first)
    assert isinstance(again, np.memmap)
    assert json.loads((store_in(tmp_path) / "store.json").read_text())["schema"] == features.SCHEMA
    assert clocks[1].seconds == clocks[0].seconds, "the seconds count whenever the features are used"
    assert clocks[0].seconds["features"] > 0


@pytest.mark.parametrize(
    "change",
    ["pictures", "order", "weights", "precision", "preparation", "bright", "schema", "framework", "accelerator"],
)
def test_features_of_anything_else_are_never_taken(
    change: str, base: keras.Model, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = extract(base, batches, tmp_path)
    inputs, prepare = batches.inputs, batches.prepare
    if change == "pictures":
        inputs = 255 - inputs
    elif change == "order":
        inputs = inputs[::-1]
    elif change == "weights":
        base = models.conv_base("mini", None, (48, 48, 3))
    elif change == "precision":
        half = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3), "mixed_float16")
        base = keras.Model(half.input, half.output, name=half.name)  # has Keras's own precision itself, as a trunk
    elif change == "preparation":
        prepare = identity
    elif change == "bright":
        prepare = cap  # rescales dark values as before
    elif change == "schema":
        monkeypatch.setattr(features, "SCHEMA", features.SCHEMA + 1)
    elif change == "accelerator":
        monkeypatch.setattr(backend, "accelerators", lambda: ["NVIDIA H200"])
        monkeypatch.setattr(backend, "precision", lambda: "float32")  # there TF32 unless it is chosen
    else:
        newer = machine.versions() | {backend.BACKEND: "99.0"}
        monkeypatch.setattr(machine, "versions", lambda: newer)
    other = extract(base, Batches(inputs, batches.labels, 8, prepare), tmp_path)
    assert np.allclose(first, other) == (change in ("schema", "framework", "accelerator"))
    assert len(stores(tmp_path)) == 2


def make_base(
    activation: str = "relu", dilation: int = 1, pooling: type[keras.Layer] = keras.layers.MaxPooling2D
) -> keras.Model:
    """Return a base with weights that do not depend on the arguments; Keras names its layers, with numbers."""
    pictures, options = keras.Input((48, 48, 3)), {"padding": "same", "kernel_initializer": "ones"}
    convolution = keras.layers.Conv2D(4, 3, activation=activation, dilation_rate=dilation, **options)
    branches = convolution(pictures), keras.layers.RandomCrop(48, 48)(keras.layers.Conv2D(4, 3, **options)(pictures))
    return keras.Model(pictures, pooling(2)(keras.layers.Add()(branches)), name="same")


@pytest.mark.parametrize(
    "other",
    [{"activation": "tanh"}, {"dilation": 2}, {"pooling": keras.layers.AveragePooling2D}],
    ids=["activation", "dilation", "pooling"],
)
def test_bases_of_one_name_and_weights_that_compute_otherwise_share_none(
    other: dict[str, Any], batches: Batches, tmp_path: Path
) -> None:
    first, second = (extract(base, batches, tmp_path) for base in (make_base(), make_base(**other)))
    assert not np.allclose(first, second)


def test_a_base_that_is_built_again_or_loaded_has_the_store_of_the_first(batches: Batches, tmp_path: Path) -> None:
    """Though Keras gives its layers other names, and layers that augment another seed, each time."""
    first, again = make_base(), make_base()
    again.trainable = False
    again.save(tmp_path / "again.keras")
    assert first.layers[0].name != again.layers[0].name
    for base in (first, again, keras.models.load_model(tmp_path / "again.keras")):
        extract(base, batches, tmp_path / "features")
    assert len(stores(tmp_path / "features")) == 1


def test_other_labels_leave_the_features_as_they_are(base: keras.Model, batches: Batches, tmp_path: Path) -> None:
    extract(base, batches, tmp_path)
    extract(base, Batches(batches.inputs, 1 - batches.labels, 8, rescale), tmp_path)
    assert len(stores(tmp_path)) == 1


def test_a_stream_of_features_closes_the_batches_that_it_is_of(base: keras.Model, batches: Batches) -> None:
    """Whose threads would go on drawing."""
    pictures, labels = next(stream(batches, 0))
    streamed = features.stream_through(base, source := stream(batches, 0))
    output, same = next(streamed)
    np.testing.assert_allclose(output, base.predict_on_batch(pictures), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same, labels)
    streamed.close()
    assert next(source, None) is None


def test_each_view_has_a_store_of_its_own(base: keras.Model, batches: Batches, tmp_path: Path) -> None:
    views = [View(batches, CHAPTER_AUGMENTATION, seed, number) for seed, number in ((0, 0), (0, 1), (1, 0))]
    recorded = [extract(base, view, tmp_path) for view in (*views, batches)]
    assert len(stores(tmp_path)) == 4
    for one, other in itertools.combinations(recorded, 2):
        assert not np.allclose(one, other)


def rename_another(store: Path) -> None:
    """Put a store of other pictures into the place of this one."""
    shutil.rmtree(store)
    shutil.copytree(store_in(store.parent.parent / "other"), store)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda store: (store / "features.npy").write_bytes(b"\x93NUMPY"), "checksum is not that of the record"),
        (lambda store: os.truncate(store / "features.npy", 1000), "checksum is not that of the record"),
        (lambda store: (store / "features.npy").unlink(), "No such file"),
        (lambda store: (store / "store.json").write_text("{"), "Expecting property name"),
        (lambda store: (store / "store.json").write_text("{}"), "identity"),
        (lambda store: (store / "store.json").unlink(), "No such file"),
        (rename_another, "they were made for another pictures"),
    ],
    ids=["overwritten", "cut off", "gone", "damaged record", "other record", "no record", "another's"],
)
def test_a_damaged_store_is_computed_again_with_a_warning(
    spoil: Callable[[Path], object], reason: str, base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    extract(base, Batches(255 - batches.inputs, batches.labels, 8, rescale), tmp_path / "other")
    first = np.array(extract(base, batches, tmp_path / "one"))
    before = contents(store_in(tmp_path / "one"))
    spoil(store_in(tmp_path / "one"))
    with pytest.warns(UserWarning, match=rf"{store_in(tmp_path / 'one').name}' cannot be used .*again: .*{reason}"):
        again = extract(base, batches, tmp_path / "one")
    np.testing.assert_array_equal(again, first)
    assert contents(store_in(tmp_path / "one")) == before


def test_a_store_that_another_process_computes_is_waited_for_and_read(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    extract(base, batches, tmp_path / "other")
    store = tmp_path / "one" / store_in(tmp_path / "other").name
    recorded: list[np.ndarray] = []

    def read() -> None:
        recorded.append(features.extract(base, batches, tmp_path / "one", clock=Clock(), engine=NOTHING))

    thread = threading.Thread(target=read)
    with lock(store):
        thread.start()
        thread.join(timeout=1)  # long enough to fail in, where nothing is waited for
        assert thread.is_alive()
        shutil.copytree(store_in(tmp_path / "other"), store)
    thread.join()
    np.testing.assert_array_equal(recorded[0], extract(base, batches, tmp_path / "other"))


@pytest.mark.parametrize("written", [0, 1, 60, HEADER, 5000, 8 * ROW + HEADER, 20 * ROW, 23 * ROW + HEADER])
def test_an_extraction_that_was_killed_ends_as_if_it_had_not_been(
    written: int, base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    """Whatever part of the file was written: nothing, a part of its header, of a row, of a batch, or all."""
    extract(base, batches, tmp_path / "whole")
    whole = store_in(tmp_path / "whole")
    partial = tmp_path / "killed" / f"{whole.name}.partial"
    partial.mkdir(parents=True)
    (partial / "features.npy").write_bytes((whole / "features.npy").read_bytes()[:written])
    (partial / "seconds.json").touch()  # cut short, too
    starts: list[int] = []

    def predict(base: keras.Model, batches: Batches, first: int) -> Iterator[np.ndarray]:
        starts.append(first)
        return features.predict_batches(base, batches, first)

    features.extract(base, batches, tmp_path / "killed", clock=Clock(), engine=features.Engine(predict))
    assert contents(store_in(tmp_path / "killed")) == contents(whole)
    assert starts == [max(written - HEADER, 0) // (8 * ROW)], "whole batches are not computed again"


def test_half_the_bytes_hold_the_same_features_to_three_digits(
    base: keras.Model, batches: Batches, tmp_path: Path
) -> None:
    whole = extract(base, batches, tmp_path)
    half = features.extract(base, batches, tmp_path, dtype="float16", clock=Clock())
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, whole, rtol=2**-11, atol=2**-24)  # float16 has 11 binary digits, down to 2**-24


def test_features_too_large_for_float16_are_refused(batches: Batches, tmp_path: Path) -> None:
    base = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(1e6)], name="huge")
    with pytest.raises(BadInput, match="huge's output does not fit into float16: take float32"):
        features.extract(base, batches, tmp_path, dtype="float16", clock=Clock())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_no_numbers_are_not_blamed_on_the_dtype(dtype: str, batches: Batches, tmp_path: Path) -> None:
    base = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(np.nan)], name="lost")
    with pytest.raises(BadInput, match="lost's output has NaN or infinity: look at its weights"):
        features.extract(base, batches, tmp_path, dtype=dtype, clock=Clock())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_base_with_weights_of_half_precision_has_features(precision: str, batches: Batches, tmp_path: Path) -> None:
    pooled = [keras.layers.Conv2D(2, 8, 8, dtype=precision), keras.layers.GlobalAveragePooling2D(dtype=precision)]
    base = keras.Sequential([keras.Input((48, 48, 3)), *pooled])
    expected = keras.ops.convert_to_numpy(base.predict_on_batch(rescale(batches.inputs))).astype(np.float32)
    np.testing.assert_allclose(extract(base, batches, tmp_path), expected, atol=0.02)
    first, *others = base.get_weights()
    base.set_weights([-first, *others])
    np.testing.assert_allclose(extract(base, batches, tmp_path), -expected, atol=0.02, err_msg="other weights")


class Own(keras.Model):
    """A model with a `call` of its own."""

    def call(self, inputs: Any) -> Any:
        return inputs


def test_a_base_without_one_input_and_one_output_is_refused(batches: Batches, tmp_path: Path) -> None:
    one, other = keras.Input((48, 48, 3)), keras.Input((48, 48, 3))
    own = Own()
    own(batches.inputs[:1])
    for base in (keras.Model(one, [one, one + 1]), keras.Model([one, other], one + other), own):
        with pytest.raises(BadInput, match="must be Sequential or functional, built, with one input and one output"):
            extract(base, batches, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("side", "dtype", "message"),
    [
        (48, "int8", r"dtype must be 'float32' or 'float16', got 'int8'"),
        (40, "float32", r"mini takes \(40, 40\), got pictures of \(48, 48\): load them so, or build the base for"),
        (None, "float32", r"mini must be built for pictures of one size, got one for \(None, None\): take \(48, 48\)"),
    ],
)
def test_what_has_no_features_is_refused_before_anything_is_written(
    side: int | None, dtype: str, message: str, batches: Batches, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"^{message}"):
        features.extract(models.conv_base("mini", None, (side, side, 3)), batches, tmp_path, dtype=dtype, clock=Clock())
    assert not any(tmp_path.iterdir())


def test_features_without_maps_need_no_size_of_the_base(batches: Batches, tmp_path: Path) -> None:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (None, None, 3))
    pooled = keras.Model(base.input, keras.layers.GlobalAveragePooling2D()(base.output))
    assert extract(pooled, batches, tmp_path).shape == (len(batches.inputs), 96)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """In a process of its own; the least of three readings, as JAX now and then has a batch more in flight."""
    command = [sys.executable, __file__, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    peaks = json.loads(output.splitlines()[-1])
    growth, batch = min(peaks["900"]) - min(peaks["300"]), 50 * 48 * 48 * 3 * 4
    assert growth < 1.1 * batch, f"2.1 MB of features more take no memory, a batch in flight 1.4 MB; peaks: {peaks}"


def measure_peaks(folder: Path) -> dict[int, list[int]]:
    """Return the peaks of Python's memory, in bytes, of three extractions of each number of pictures."""
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    peaks: dict[int, list[int]] = {300: [], 900: []}
    for again, count in itertools.product(range(3), peaks):
        batches = Batches(np.zeros((count, 48, 48, 3), np.uint8), np.zeros(count, np.int64), 50, rescale)
        tracemalloc.start()
        extract(base, batches, folder / str(again))
        peaks[count].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks


@pytest.fixture
def pictures(few_shapes: Dataset) -> Batches:
    return Batches(few_shapes.train.images, few_shapes.train.labels, 8, rescale)


def cut_model(
    thaw: str | None, pictures: Batches, views: int, folder: Path
) -> tuple[keras.Model, keras.Model, list[Batches]]:
    """Return a whole model, what is trained of it, and the features that that is trained on."""
    keras.utils.set_random_seed(0)
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    model = models.end_to_end(base)
    if thaw:
        models.thaw_from(base, thaw)
    else:
        models.freeze(base)
    trunk, top = models.cut_before(base, thaw) if thaw else (base, None)
    trained = keras.Sequential([keras.Input(trunk.output_shape[1:]), *([top] if top else []), *model.layers[1:]])
    passes = []
    for number in range(views):
        recorded = extract(trunk, View(pictures, CHAPTER_AUGMENTATION, 0, number), folder)
        passes.append(Batches(recorded, pictures.labels, pictures.batch_size, identity))
    return model, trained, passes


@pytest.mark.parametrize("thaw", [None, "block4_conv1", "block3_conv1"])
def test_loss_and_gradients_on_features_are_those_of_the_whole_model(
    thaw: str | None, pictures: Batches, tmp_path: Path
) -> None:
    """A step of plain gradient descent at rate 1 moves each weight by its gradient, on every backend."""
    losses, gradients = [], []
    for whole in (True, False):
        model, trained, passes = cut_model(thaw, pictures, 1, tmp_path)
        source, trainee = (View(pictures, CHAPTER_AUGMENTATION, 0, 0), model) if whole else (passes[0], trained)
        trainee.compile(optimizer=keras.optimizers.SGD(1.0), loss="binary_crossentropy")
        before = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        losses.append(float(trainee.train_on_batch(*source[0])))
        after = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
        gradients.append([old - new for old, new in zip(before, after, strict=True)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for expected, ours in zip(*gradients, strict=True):
        scale = np.abs(expected).max()
        assert scale > 0
        # The weights themselves, of up to 1, are rounded to 6e-8 before they are subtracted.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * scale + 2e-7)


if __name__ == "__main__":
    print(json.dumps(measure_peaks(Path(sys.argv[1]))))
