"""Data parallelism: a step on two devices is the step on one. The two are a CPU that the backend takes for two."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from convspec import BadInput, backend, progress, training
from convspec.data import batches, shapes
from convspec.data.datasets import Dataset
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import find_recipe

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("tensorflow", "jax")])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """What `main` recorded on a backend."""
    if not find_spec(request.param):
        pytest.skip(f"needs {request.param}: pip install -e '.[{request.param}]'")
    file = tmp_path_factory.mktemp("devices") / "recorded.npz"
    settings = {"KERAS_BACKEND": request.param, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, __file__, str(file)], env=os.environ | settings, check=True, timeout=300)
    with np.load(file) as recorded:
        return dict(recorded)


def variables(trained: Arrays, name: str, kind: str) -> list[np.ndarray]:
    values = [value for key, value in trained.items() if key.startswith(f"{name} {kind} ")]
    assert len(values) >= 4, f"{name}: no {kind}"
    return values


def max_difference(ones: list[np.ndarray], others: list[np.ndarray]) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(ones, others, strict=True))


def test_each_of_two_devices_has_the_model(trained: Arrays) -> None:
    assert len(trained["devices"]) == 2
    assert trained["2 hold"] == 2


def test_two_devices_make_the_update_of_one(trained: Arrays) -> None:
    """To 1e-5, where the step itself is 3e-3 for every weight; half of the batch alone gives another."""
    weights = {name: variables(trained, name, "weights") for name in ("before", "1 after 1", "2 after 1", "half")}
    assert max_difference(weights["1 after 1"], weights["2 after 1"]) < 1e-5
    assert max_difference(weights["1 after 1"], weights["before"]) > 1e-3
    assert max_difference(weights["1 after 1"], weights["half"]) > 1e-3


def test_the_optimizer_has_the_slots_that_it_has_on_one_device(trained: Arrays) -> None:
    """They are means of squares, as small as 1e-6: to 1e-5 of the largest of each."""
    one, two, half = (variables(trained, name, "slots") for name in ("1 after 1", "2 after 1", "half"))
    for position, (expected, slots) in enumerate(zip(one, two, strict=True)):
        scale = np.abs(expected).max() or 1
        assert np.abs(slots - expected).max() < 1e-5 * scale, f"slot {position}"
    assert max_difference(one[2:], half[2:]) > 1e-6, "the slots of another batch are others"


def test_batches_come_in_the_same_order_and_none_is_left_out(trained: Arrays) -> None:
    """Keras draws batches before training begins, and in TensorFlow drops them.

    The losses of four steps, whose roundings each step makes larger: to 1e-4, a hundredth of the change.
    """
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(trained[f"2 after 4 {metric}"], trained[f"1 after 4 {metric}"], atol=1e-4)
    assert np.ptp(trained["1 after 4 loss"]) > 1e-2


def test_the_model_that_was_given_is_the_trained_one_in_the_end(trained: Arrays) -> None:
    for kind in ("weights", "slots"):
        assert max_difference(*(variables(trained, name, kind) for name in ("2 after 4", "2 at the end"))) == 0, kind


def test_validation_counts_each_picture_once_in_uneven_batches(trained: Arrays) -> None:
    for metric in ("val_loss", "val_accuracy"):
        assert len(trained[f"2 after 4 {metric}"]) == 4
        np.testing.assert_allclose(trained[f"2 after 4 {metric}"], trained[f"1 after 4 {metric}"], atol=1e-4)


def test_a_batch_without_even_shares_is_refused_in_training(trained: Arrays) -> None:
    assert str(trained["odd"]) == "BadInput: devices must divide the batch of 15 evenly, got 2: take one of 1, 3, 5, 15"


def test_too_many_devices_are_refused_before_anything_runs(few_shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"devices must be (1 on PyTorch|at most \d+, as .*:0 ).*, got 64"):
        run_recipe(find_recipe("dense_baseline", "mini"), few_shapes, 0, tmp_path, devices=64)
    assert not any(tmp_path.iterdir())


def main(file: str) -> None:
    """Train a model on one device and on two, validated on 21 pictures: an odd number, and one over a batch."""
    if backend.BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    pictures, labels = shapes.pictures(shapes.TARGETS, 40, seed=1)
    mixed = np.random.default_rng(0).permutation(len(labels))
    pictures, labels = pictures[mixed], labels[mixed]
    recorded: dict[str, object] = {"devices": backend._devices()}

    def part(chosen: slice, size: int) -> batches.Batches:
        return batches.Batches(pictures[chosen], labels[chosen], size, batches.rescale)

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        layers = keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.MaxPooling2D(4), keras.layers.Flatten()
        model = keras.Sequential([keras.Input((48, 48, 3)), *layers, keras.layers.Dense(1, activation="sigmoid")])
        training.compile_model(model, 1e-3)
        return model

    def record(name: str, model: keras.Model, history: training.History) -> None:
        for kind, variables in (("weights", model.weights), ("slots", model.optimizer.variables)):
            for number, variable in enumerate(variables):
                recorded[f"{name} {kind} {number:02d}"] = keras.ops.convert_to_numpy(variable)
        recorded.update({f"{name} {metric}": values for metric, values in history.items()})

    def fit(name: str, batch: batches.Batches, epochs: int, devices: int, **options: object) -> None:
        source = batches.stream(batch, 0)
        clock = progress.Clock()
        model = build()
        validation = part(slice(-21, None), 20)
        training.fit(model, source, epochs, 1, validation, clock=clock, history={}, devices=devices, **options)  # type: ignore[arg-type]
        record(name, model, {})

    class AfterEachStep(training.Checkpoint):
        def save(self, model: keras.Model, history: training.History, clock: progress.Clock) -> None:
            record(f"{self.key} after {len(history['loss'])}", model, history)
            if self.key == "2":
                kernel = model.weights[0].value
                copies = getattr(kernel, "values", [kernel]) if backend.BACKEND == "tensorflow" else kernel.devices()
                recorded["2 hold"] = len(copies)

    training.CHECKPOINT_EVERY = -1
    record("before", build(), {})
    for devices in (1, 2):
        checkpoint = AfterEachStep(Path(), str(devices))
        fit(f"{devices} at the end", part(slice(40), 20), 4, devices, checkpoint=checkpoint)
    fit("half", part(slice(10), 10), 1, 1)
    try:
        fit("odd", part(slice(40), 15), 1, 2)
    except BadInput as error:
        recorded["odd"] = f"BadInput: {error}"
    np.savez(file, **recorded)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
