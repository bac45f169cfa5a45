"""Fitting, phases, checkpoints, predictions and smoothed curves."""

import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convspec import BadInput, backend, models, training
from convspec.data.batches import Batches, identity, stream
from convspec.progress import Clock
from convspec.training import Checkpoint, smooth_curve


def model_and_batches(seed: int = 0) -> tuple[keras.Model, Batches]:
    """Return a small compiled model with dropout, and 32 labelled points for it."""
    keras.utils.set_random_seed(seed)
    model = models.feature_classifier((4,), dropout=0.5)
    training.compile_model(model, 1e-2)
    points = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    return model, Batches(points, (points.sum(axis=1) > 0).astype(int), 8, identity)


def fit(model: keras.Model, batches: Batches, epochs: int, history: training.History, **options: Any) -> Clock:
    """Train with 4 steps an epoch, and return the clock."""
    source = stream(batches, 0, start=len(history.get("loss", [])) * 4)
    training.fit(model, source, epochs, 4, batches, clock=(clock := Clock()), history=history, **options)
    return clock


@pytest.mark.parametrize(("units", "loss"), [(1, "binary_crossentropy"), (3, "sparse_categorical_crossentropy")])
def test_models_are_compiled_with_rmsprop_and_the_loss_of_their_head(units: int, loss: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    training.compile_model(model, 2e-5)
    assert isinstance(model.optimizer, keras.optimizers.RMSprop)
    assert float(model.optimizer.learning_rate) == pytest.approx(2e-5)
    assert model.loss == loss


def test_history_and_phases_cover_training_and_validation() -> None:
    model, batches = model_and_batches()
    history: training.History = {}
    total = Clock()
    with total("fit"):
        clock = fit(model, batches, 3, history)
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(names, 3)
    assert set(clock.seconds) == {"compile", "train", "validate", "input"}
    assert all(seconds > 0 for seconds in clock.seconds.values())
    clock.seconds.pop("input")  # which overlaps the others
    assert sum(clock.seconds.values()) <= total.seconds["fit"], "no second counts twice"


@pytest.mark.parametrize("classes", [2, 3])
def test_accuracy_is_the_share_of_the_pictures_whose_class_is_predicted(classes: int) -> None:
    keras.utils.set_random_seed(0)
    model = models.feature_classifier((4,), classes=classes)
    training.compile_model(model, 1e-2)
    points = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    batches = Batches(points, np.arange(300) % classes, 8, identity)
    history: training.History = {}
    fit(model, batches, 1, history)
    predicted = training.predicted_classes(model.predict(points, verbose=0))
    assert history["val_accuracy"] == [pytest.approx(np.mean(predicted == batches.labels))]


@pytest.mark.skipif(backend.BACKEND != "tensorflow", reason="its own: KERAS_BACKEND=tensorflow")
def test_tensorflow_builds_the_graph_of_a_step_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first step makes variables it builds two, of which each takes half a second."""
    model, batches = model_and_batches()
    built: list[Any] = []
    train_step = model.train_step

    def counted(data: Any) -> Any:
        built.append(data)
        return train_step(data)

    monkeypatch.setattr(model, "train_step", counted)
    fit(model, batches, 2, {})
    assert len(built) == 1


@pytest.mark.parametrize("momentum", [0.0, 0.75])
def test_every_batch_is_a_step_and_the_average_of_the_weights_is_saved(momentum: float, tmp_path: Path) -> None:
    """Keras looks at some batches before it trains; a momentum of 0 leaves the weights of the last step.

    On JAX, Keras's optimizer keeps the arrays that the model then has, and a prediction deletes the model's.
    """
    (fitted, batches), (stepped, _) = model_and_batches(), model_and_batches()
    training.compile_model(fitted, 1e-2, momentum)
    fit(fitted, batches, 1, {})
    source, averages = stream(batches, 0), None
    for _ in range(4):
        stepped.train_on_batch(*next(source))
        averages = [
            momentum * average + (1 - momentum) * weights
            for average, weights in zip(averages or stepped.get_weights(), stepped.get_weights(), strict=True)
        ]
    for one, other in zip(fitted.get_weights(), averages or [], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    predicted = fitted.predict(batches.inputs, verbose=0)
    fitted.save(tmp_path / "model.keras")
    saved = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(saved.predict(batches.inputs, verbose=0), predicted, atol=1e-6)


def test_the_threads_that_made_the_batches_end_with_the_fit() -> None:
    """TensorFlow keeps the iterator that it drew from, and with it all that the iterator holds."""
    model, batches = model_and_batches()
    before = set(threading.enumerate())
    source = stream(batches, 0, threads=2)
    training.fit(model, source, 1, 4, None, clock=Clock(), history={})
    assert next(source, None) is None, "the stream is closed"
    assert [thread.name for thread in set(threading.enumerate()) - before if "Pool" in thread.name] == []


@pytest.mark.usefixtures("own_precision")
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    """Also where the optimizer scales the loss; a rung that is resumed does the same in float32."""
    backend.set_precision("mixed_float16")
    whole, batches = model_and_batches()
    unbroken: training.History = {}
    fit(whole, batches, 4, unbroken)

    broken, _ = model_and_batches()
    history: training.History = {}
    clock = fit(broken, batches, 2, history)
    Checkpoint(tmp_path / "run.npz", "key").save(broken, history, clock)

    resumed, _ = model_and_batches(seed=99)  # everything that counts must come from the checkpoint
    history = Checkpoint(tmp_path / "run.npz", "key").restore(resumed, restored := Clock())
    assert restored.seconds == clock.seconds, "the seconds before the interruption count after it"
    fit(resumed, batches, 4, history)
    assert history == unbroken
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_fit_leaves_a_checkpoint_of_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    model, batches = model_and_batches()
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")

    def until_interrupted() -> Iterator:
        for number, batch in enumerate(stream(batches, 0)):
            if number == 10:  # in the third epoch of four batches
                signal.raise_signal(signal.SIGINT)  # what Ctrl-C does; batches are made in another thread
            yield batch

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the workers of xdist ignore Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        training.fit(model, until_interrupted(), 5, 4, None, clock=Clock(), history={}, checkpoint=checkpoint)
    signal.signal(signal.SIGINT, before)
    again, _ = model_and_batches()
    assert len(checkpoint.restore(again, Clock())["loss"]) in (1, 2), "the batches run at most one epoch ahead"


@pytest.mark.parametrize("change", ["key", "schema", "no schema"])
def test_a_checkpoint_of_another_run_or_schema_is_ignored(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = model_and_batches()
    file = tmp_path / "run.npz"
    Checkpoint(file, "one").save(model, {"loss": [1.0]}, Clock())
    if change == "schema":
        monkeypatch.setattr(training, "CHECKPOINT_SCHEMA", training.CHECKPOINT_SCHEMA + 1)
    elif change == "no schema":
        with np.load(file) as saved:
            arrays = dict(saved)
        del arrays["schema"]
        np.savez(file, **arrays)
    other, _ = model_and_batches(seed=1)
    before = other.get_weights()
    assert Checkpoint(file, "two" if change == "key" else "one").restore(other, Clock()) == {}
    for one, unchanged in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, unchanged)


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path: Path) -> None:
    model, _ = model_and_batches()
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    checkpoint.save(model, {}, Clock())
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"run.npz' is damaged .*delete it to start the run again"):
        checkpoint.restore(model, Clock())


def probe_data(classes: int) -> tuple[Batches, Batches]:
    """Return overlapping clouds of points, one a class, for training and validation."""
    generator = np.random.default_rng(classes)
    centres = generator.normal(size=(classes, 6))
    parts = []
    for count in (90, 60):
        labels = np.arange(count) % classes
        points = (centres[labels] + generator.normal(size=(count, 6))).astype(np.float32)
        parts.append(Batches(points, labels, 10, identity))
    return parts[0], parts[1]


def linear_head(classes: int) -> keras.Model:
    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(units, activation=activation)])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fitted_layer_computes_what_its_history_says(classes: int) -> None:
    train, validation = probe_data(classes)
    head = linear_head(classes)
    history = training.fit_linear(head.layers[-1], train, validation)
    training.compile_model(head, 1e-3)
    for prefix, batches in (("", train), ("val_", validation)):
        loss, accuracy = head.evaluate(batches, verbose=0)
        assert history[f"{prefix}loss"] == [pytest.approx(loss, rel=1e-4)], f"{prefix}loss"
        assert history[f"{prefix}accuracy"] == [pytest.approx(accuracy)], f"{prefix}accuracy"


def test_validation_may_lack_a_class() -> None:
    train, validation = probe_data(3)
    chosen = validation.labels < 2
    validation.inputs, validation.labels = validation.inputs[chosen], validation.labels[chosen]
    assert training.fit_linear(linear_head(3).layers[-1], train, validation)["val_accuracy"][0] > 0.5


@pytest.mark.parametrize(("classes", "penalty"), [(2, 0.3), (2, 30.0), (3, 3.0)])
def test_the_fit_minimises_the_summed_loss_and_half_the_squares(classes: int, penalty: float) -> None:
    """There its gradient is 0: of the weights of features in one scale, which `penalty` weighs, and of the bias."""
    train, validation = probe_data(classes)
    train.inputs[:, 0] *= 20  # a feature of another scale keeps it
    head = linear_head(classes)
    training.fit_linear(head.layers[-1], train, validation, [penalty])
    scale = np.std(train.inputs)
    errors = head.predict(train.inputs, verbose=0).astype(float)
    errors -= np.eye(classes)[train.labels] if classes > 2 else train.labels[:, None]
    weights = head.layers[-1].get_weights()[0] * scale
    centred = (train.inputs - train.inputs.mean(axis=0)) / scale
    # The solver stops at a gradient of 1e-4 a picture, of which there are 90.
    np.testing.assert_allclose(centred.T @ errors + penalty * weights, 0, atol=0.02)
    np.testing.assert_allclose(errors.sum(axis=0), 0, atol=0.02)


def test_the_penalty_is_the_one_with_the_lowest_validation_loss() -> None:
    def loss(*penalties: float) -> float:
        return training.fit_linear(linear_head(2).layers[-1], *probe_data(2), penalties)["val_loss"][0]

    losses = [loss(penalty) for penalty in training.PENALTIES]
    assert loss(*training.PENALTIES) == min(losses)
    assert len(set(losses)) == len(losses), "each penalty should give another fit"


@pytest.mark.parametrize(
    ("probabilities", "classes", "confidence"),
    [
        ([[0.2], [0.5], [0.51], [1.0]], [0, 0, 1, 1], [0.8, 0.5, 0.51, 1.0]),
        ([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]], [1, 0], [0.7, 0.6]),
    ],
    ids=["sigmoid", "softmax"],
)
def test_the_predicted_class_is_the_likelier_one(probabilities: list, classes: list, confidence: list) -> None:
    assert training.predicted_classes(np.array(probabilities)).tolist() == classes
    np.testing.assert_allclose(training.confidence(np.array(probabilities)), confidence)


def test_the_smoothing_factor_is_what_is_kept_of_the_past_by_default_0_8() -> None:
    points = [0.0, 8.0, 8.0]
    assert smooth_curve(points, 0.75) == [0.0, 2.0, 3.5]
    assert points == [0.0, 8.0, 8.0], "the points are left as they were"
    assert smooth_curve([0.0, 8.0, 3.0]) == smooth_curve([0.0, 8.0, 3.0], 0.8)
    assert smooth_curve([]) == []


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("points", [[], [1.0, 2.0]], ids=["empty", "two points"])
def test_a_factor_outside_0_to_1_is_an_error_that_names_it(points: list[float], factor: float) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(f'factor must be from 0 to 1, got {factor}')}$"):
        smooth_curve(points, factor)
