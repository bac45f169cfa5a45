"""Fitting, phases, checkpoints and predictions."""

import _thread
import json
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convspec import BadInput, models, progress, training
from convspec.data import batches as batches_module
from convspec.data.batches import Batches, identity


def model_and_batches(seed: int = 0) -> tuple[keras.Model, Batches]:
    """A small model with dropout, compiled, and 32 labelled points for it."""
    keras.utils.set_random_seed(seed)
    model = models.feature_classifier((4,), dropout=0.5)
    training.compile_model(model, 1e-2)
    points = np.random.default_rng(seed).normal(size=(32, 4)).astype(np.float32)
    return model, Batches(points, (points.sum(axis=1) > 0).astype(int), 8, identity)


def fit(model: keras.Model, batches: Batches, epochs: int, history: training.History, **options: Any) -> None:
    start = len(history.get("loss", [])) * 4
    training.fit(
        model,
        batches_module.stream(batches, 0, start=start),
        epochs,
        4,
        batches,
        clock=progress.Clock(),
        history=history,
        **options,
    )


def test_history_has_one_value_an_epoch_for_training_and_validation() -> None:
    model, batches = model_and_batches()
    history: training.History = {}
    fit(model, batches, 3, history)
    assert {name: len(values) for name, values in history.items()} == dict.fromkeys(
        ("loss", "accuracy", "val_loss", "val_accuracy"), 3
    )


def test_every_second_of_a_fit_belongs_to_one_phase() -> None:
    model, batches = model_and_batches()
    clock, total = progress.Clock(), progress.Clock()
    with total("fit"):
        training.fit(model, batches_module.stream(batches, 0), 3, 4, batches, clock=clock, history={})
    phases = dict(clock.seconds)
    phases.pop("input")
    assert set(phases) == {"compile", "train", "validate"}
    assert all(seconds > 0 for seconds in phases.values())
    # What Keras does before on_train_begin is outside the phases: setting up the iterator, well under a second.
    outside = total.seconds["fit"] - sum(phases.values())
    assert 0 <= outside < max(2, 0.25 * total.seconds["fit"])  # the share, where other work slows all of it


def test_every_batch_of_the_stream_is_a_step_from_the_first_on() -> None:
    """Keras looks at some before it trains."""
    (fitted, batches), (stepped, _) = model_and_batches(), model_and_batches()
    training.fit(fitted, batches_module.stream(batches, 0), 1, 3, None, clock=progress.Clock(), history={})
    stream = batches_module.stream(batches, 0)
    for _ in range(3):
        stepped.train_on_batch(*next(stream))
    for one, other in zip(fitted.get_weights(), stepped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_threads_that_made_the_batches_end_with_the_fit() -> None:
    """TensorFlow keeps the iterator that it drew from, and with it all that the iterator holds."""
    model, batches = model_and_batches()
    before = set(threading.enumerate())
    stream = batches_module.stream(batches, 0, threads=2)
    training.fit(model, stream, 1, 4, None, clock=progress.Clock(), history={})
    assert next(stream, None) is None, "the stream is closed"
    assert [thread.name for thread in set(threading.enumerate()) - before if "Pool" in thread.name] == []


def test_a_run_resumed_from_its_checkpoint_equals_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    whole, batches = model_and_batches()
    unbroken: training.History = {}
    fit(whole, batches, 4, unbroken)

    broken, batches = model_and_batches()
    history: training.History = {}
    fit(broken, batches, 2, history)
    training.Checkpoint(tmp_path / "run.npz", "key").save(broken, history, progress.Clock())

    resumed, batches = model_and_batches(seed=99)  # everything that counts must come from the checkpoint
    _, batches = model_and_batches()
    history = training.Checkpoint(tmp_path / "run.npz", "key").restore(resumed, progress.Clock())
    fit(resumed, batches, 4, history)
    assert history == unbroken
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fit_that_is_interrupted_leaves_a_checkpoint_of_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    model, batches = model_and_batches()
    checkpoint = training.Checkpoint(tmp_path / "run.npz", "key")

    def until_interrupted() -> Iterator:
        for number, batch in enumerate(batches_module.stream(batches, 0)):
            if number == 10:  # in the third epoch of four batches
                _thread.interrupt_main()  # what Ctrl-C does; batches are made in another thread
            yield batch

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the workers of xdist ignore Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        training.fit(
            model, until_interrupted(), 5, 4, None, clock=progress.Clock(), history={}, checkpoint=checkpoint
        )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    again, _ = model_and_batches()
    assert len(checkpoint.restore(again, progress.Clock())["loss"]) in (1, 2), "the batches run at most one epoch ahead"


def test_the_seconds_before_the_interruption_count_after_it(tmp_path: Path) -> None:
    model, _ = model_and_batches()
    before, after = progress.Clock(), progress.Clock()
    before.seconds["train"] = 120.0
    training.Checkpoint(tmp_path / "run.npz", "key").save(model, {"loss": [1.0]}, before)
    training.Checkpoint(tmp_path / "run.npz", "key").restore(model, after)
    assert after.seconds == {"train": 120.0}


def test_a_checkpoint_of_another_run_is_ignored(tmp_path: Path) -> None:
    model, _ = model_and_batches()
    training.Checkpoint(tmp_path / "run.npz", "one").save(model, {"loss": [1.0]}, progress.Clock())
    before = model.get_weights()
    assert training.Checkpoint(tmp_path / "run.npz", "two").restore(model, progress.Clock()) == {}
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path: Path) -> None:
    model, _ = model_and_batches()
    training.Checkpoint(tmp_path / "run.npz", "key").save(model, {}, progress.Clock())
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.npz").read_bytes()[:-200])
    with pytest.raises(BadInput, match=r"run.npz' is damaged .*delete it to start the run again"):
        training.Checkpoint(tmp_path / "run.npz", "key").restore(model, progress.Clock())


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


@pytest.mark.parametrize(("units", "loss"), [(1, "binary_crossentropy"), (3, "sparse_categorical_crossentropy")])
def test_models_are_compiled_with_rmsprop_at_the_given_rate_and_the_loss_of_their_head(units: int, loss: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])
    training.compile_model(model, 2e-5)
    assert isinstance(model.optimizer, keras.optimizers.RMSprop)
    assert float(model.optimizer.learning_rate) == pytest.approx(2e-5)
    assert model.loss == loss


def test_a_saved_model_names_nothing_that_only_this_backend_has_and_trains_on_once_loaded(tmp_path: Path) -> None:
    _, batches = model_and_batches()
    model = models.dense_baseline((4,), classes=2)
    training.compile_model(model, 1e-2)
    model.train_on_batch(*batches[0])
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as saved:
        config = json.loads(saved.read("config.json"))
    assert "keras.src" not in json.dumps(config), "a module of Keras's own insides, perhaps of one backend"
    assert config["compile_config"]["jit_compile"] == "auto", "compiled or not as suits where it is loaded"
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.train_on_batch(*batches[1])
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
