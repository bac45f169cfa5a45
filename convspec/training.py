"""Compile, fit, resume and evaluate models."""

import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import TextIO
from weakref import WeakKeyDictionary

import keras
import numpy as np
from tqdm import tqdm

from convspec import BadInput, backend
from convspec.data.batches import Batches
from convspec.files import DAMAGED, atomic_write
from convspec.progress import Clock, bar

CHECKPOINT_EVERY = 20.0  # seconds: an interrupted run loses at most this and one epoch
CHECKPOINT_SCHEMA = 1  # a checkpoint of another schema is ignored
DIVERGED = "{}: the loss is no number any more: take a lower learning rate"
PENALTIES = tuple(10.0 ** np.arange(-1, 4, 0.5))  # on the squared weights, beside the summed loss

History = dict[str, list[float]]

# The paths of the variables that were trainable when `compile_model` made the optimizer.
_COMPILED_FOR: WeakKeyDictionary[keras.Optimizer, frozenset[str]] = WeakKeyDictionary()


def compile_model(model: keras.Model, learning_rate: float, ema_momentum: float = 0.0) -> None:
    """Compile with RMSprop and the crossentropy of the model's head: one sigmoid unit or a softmax.

    With an `ema_momentum` above 0 the weights end as their exponential moving average over the steps. The optimizer
    has all its variables then.
    """
    loss: str = "sparse_categorical_crossentropy"
    accuracy: keras.Metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if model.output_shape[-1] == 1:
        loss, accuracy = "binary_crossentropy", keras.metrics.BinaryAccuracy(name="accuracy")
    averaging = {"use_ema": True, "ema_momentum": ema_momentum} if ema_momentum else {}
    model.compile(keras.optimizers.RMSprop(learning_rate, **averaging), loss=loss, metrics=[accuracy])
    model.optimizer.build(model.trainable_variables)  # of a step that makes variables TensorFlow builds the graph twice
    _COMPILED_FOR[model.optimizer] = _trainable(model)


def _trainable(model: keras.Model) -> frozenset[str]:
    return frozenset(variable.path for variable in model.trainable_variables)


def _refuse_stale(model: keras.Model) -> None:
    """Raise BadInput where `trainable` changed since `compile_model`; Keras may or may not notice."""
    changed = _COMPILED_FOR.get(model.optimizer, _trainable(model)) ^ _trainable(model)
    if layers := list(dict.fromkeys(v.path.split("/")[-2] for v in model.variables if v.path in changed)):
        raise BadInput(f"trainable of {', '.join(layers)} changed after compilation; compile the model again")


class Checkpoint:
    """A file with the state of a run: variables of model and optimizer, history, and seconds so far.

    A checkpoint with another `key` belongs to another run and is ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def save(self, model: keras.Model, history: History, clock: Clock) -> None:
        """Replace the file atomically."""
        values = [keras.ops.convert_to_numpy(variable) for variable in backend.variables(model)]
        state = json.dumps([history, clock.seconds])
        with atomic_write(self.path) as partial:
            np.savez(partial, *values, schema=CHECKPOINT_SCHEMA, key=self.key, state=state)

    def restore(self, model: keras.Model, clock: Clock) -> History:
        """Set model, optimizer and clock to the saved state, and return the history: empty if there is none."""
        if not self.path.is_file():
            return {}
        try:
            with np.load(self.path) as saved:
                if saved.get("schema") != CHECKPOINT_SCHEMA or saved["key"] != self.key:
                    return {}
                for position, variable in enumerate(backend.variables(model)):
                    variable.assign(saved[f"arr_{position}"])
                history, seconds = json.loads(str(saved["state"]))
                clock.seconds.update(seconds)
                return history
        except DAMAGED as error:
            reason = " ".join(str(error).split())[:200]
            raise BadInput(
                f"the checkpoint {str(self.path)!r} is damaged ({reason}); delete it to start the run again"
            ) from error


class _FitMonitor(keras.callbacks.Callback):
    """Progress, history, phases and checkpoints of one fit, and its validation on several devices."""

    def __init__(
        self, clock: Clock, bar: tqdm, history: History, checkpoint: Checkpoint | None, batches: "_BufferedBatches"
    ) -> None:
        super().__init__()
        self.clock, self.bar, self.history, self.checkpoint, self.batches = clock, bar, history, checkpoint, batches
        self.validation: Batches | None = None  # what Keras does not validate on itself
        self.first, self.phase_start, self.last_save = True, 0.0, time.perf_counter()

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.batches.training = True
        self.phase_start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.bar.update()
        if self.first:
            self._end("compile")  # the first step builds the graph
            self.first = False

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._end("train")

    def on_test_end(self, logs: dict | None = None) -> None:
        self._end("validate")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._end("train")
        logs = dict(logs or {})
        if self.validation:
            logs |= _evaluate(self.model, self.validation, self.batches.devices)
            self._end("validate")
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        accuracies = {name: f"{values[-1]:.3f}" for name, values in self.history.items() if name.endswith("accuracy")}
        self.bar.set_postfix({"epoch": epoch + 1} | accuracies, refresh=False)
        if self.checkpoint and time.perf_counter() - self.last_save > CHECKPOINT_EVERY:
            self.checkpoint.save(self.model, self.history, self.clock)
            self.last_save = self.phase_start = time.perf_counter()

    def _end(self, phase: str) -> None:
        now = time.perf_counter()
        self.clock.seconds[phase] += now - self.phase_start
        self.phase_start = now


def _evaluate(model: keras.Model, batches: Batches, devices: int) -> dict[str, float]:
    """Return the loss and accuracy of a model on several devices, as Keras names those of validation."""
    size = max(batches.batch_size // devices, 1) * devices
    # Keras fails, or has a loss that is no number, where the last batch has no even shares: repeat the last input.
    padding = np.repeat(batches.inputs[-1:], -len(batches.inputs) % devices, axis=0)
    inputs = np.concatenate([batches.inputs, padding])
    padded = Batches(inputs, np.zeros(len(inputs)), size, batches.prepare)
    probabilities = model.predict(padded, verbose=0)[: len(batches.labels)]
    losses = keras.losses.get(model.loss)(batches.labels[:, None], probabilities)
    return {
        "val_accuracy": float(np.mean(predicted_classes(probabilities) == batches.labels)),
        "val_loss": float(keras.ops.mean(losses)),
    }


class _BufferedBatches(keras.utils.PyDataset):
    """The batches of an iterator by number, kept until training begins.

    Keras looks at some batches before that, and on several devices in TensorFlow then draws them anew.
    """

    num_batches = None  # without end

    def __init__(self, batches: Iterable, clock: Clock, devices: int) -> None:
        super().__init__()
        self.source, self.clock, self.devices, self.lock = iter(batches), clock, devices, Lock()
        self.kept, self.training, self.size = dict[int, tuple[np.ndarray, np.ndarray]](), False, 0

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        if batch not in self.kept:
            with self.lock, self.clock("input"):
                self.kept[batch] = next(self.source)
            self.size = len(self.kept[batch][1])
            backend.batch_share(self.size, self.devices)
        return self.kept.pop(batch) if self.training else self.kept[batch]

    def close(self) -> None:
        """Close a generator of batches, from which TensorFlow may be drawing still."""
        if isinstance(self.source, Generator):
            with self.lock:
                self.source.close()


@contextmanager
def _steps(model: keras.Model, batches: _BufferedBatches, title: str) -> Iterator[None]:
    """Close the batches after a block that trains on them; BadInput where memory or numbers do not suffice."""
    try:
        yield
    except Exception as error:
        if "input should be between 0 and 1" in str(error):  # PyTorch's word for a probability that is no number
            raise BadInput(DIVERGED.format(title)) from error
        if "device-side assert" in str(error):  # its word on a GPU, which this process has lost
            raise BadInput(f"{DIVERGED.format(title)}; what runs after it in this process fails, too") from error
        if not backend.out_of_memory(error):
            raise
        raise BadInput(
            f"out of memory: {model.name} has no room for a step of {batches.size} pictures, and with fewer it would be"
            " another result; change batch_size in the recipe, take smaller pictures, or a device with more memory"
        ) from error
    finally:
        batches.close()


def fit(
    model: keras.Model,
    batches: Iterable,
    epochs: int,
    steps: int,
    validation: Batches | None,
    *,
    clock: Clock,
    history: History,
    checkpoint: Checkpoint | None = None,
    devices: int = 1,
    title: str = "",
    progress: TextIO | None = None,
) -> History:
    """Train a compiled model on batches without end.

    Args:
        model: A model that `compile_model` compiled.
        batches: Pairs of inputs and labels; a generator is closed at the end, and the threads that it may have end.
        epochs: Number of epochs, with those in `history`, after which training continues.
        steps: Number of batches in an epoch.
        validation: What is evaluated after each epoch.
        clock: Counts the phases compile (the first step, which builds the graph), train, validate and input (making
            batches, which overlaps the others).
        history: Values of loss and metrics, one an epoch; new ones are appended, and it is returned.
        checkpoint: Where the state is saved every CHECKPOINT_EVERY seconds.
        devices: Number of devices, see `backend.data_parallel`.
        title: Text before the progress bar.
        progress: Where a bar is shown.

    Raises:
        BadInput: Layers were frozen or thawed since `compile_model`, memory does not suffice for a step, the loss is no
            number, or the devices cannot share a batch evenly.
    """
    _refuse_stale(model)
    done = len(history.get("loss", []))
    source = _BufferedBatches(batches, clock, devices)
    with (
        bar(epochs * steps, title, "step", progress, done * steps) as shown,
        backend.data_parallel(model, devices) as trained,
        _steps(model, source, title or model.name),
    ):
        monitor = _FitMonitor(clock, shown, history, checkpoint, source)
        if devices > 1:
            monitor.validation, validation = validation, None
        trained.fit(
            backend.feed(source),
            epochs=epochs,
            initial_epoch=done,
            steps_per_epoch=steps,
            validation_data=backend.feed(validation) if validation else None,
            shuffle=False,
            verbose=0,
            callbacks=[monitor],
        )
    # On JAX the model now shares its averaged weights with the optimizer, and would delete them with its own.
    model.set_weights(model.get_weights())
    if not np.isfinite(history["loss"]).all():
        raise BadInput(DIVERGED.format(title or model.name))
    return history


def fit_linear(
    layer: keras.layers.Dense, train: Batches, validation: Batches | None, penalties: Sequence[float] = PENALTIES
) -> History:
    """Fit a dense layer to features by logistic regression with the penalty that has the lowest validation loss.

    Args:
        layer: The last layer of a linear probe: one sigmoid unit, or a softmax.
        train: Features, (n, d), and labels to fit to.
        validation: Features and labels that choose the penalty; None leaves that to `train`.
        penalties: Factors of the squared weights, beside the summed loss.

    Returns:
        A history of one epoch, without validation where there is none.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from threadpoolctl import threadpool_limits

    # One scale for all features: a deviation of its own for each would raise those that hardly ever fire.
    mean, scale = np.mean(train.inputs, axis=0), np.std(train.inputs)
    chosen_on = validation or train
    inputs, held_out = ((batches.inputs - mean) / scale for batches in (train, chosen_on))
    fits = []
    with threadpool_limits(1):  # threads that wait for each other take 50 times as long on a busy machine
        for penalty in penalties:
            fitted = LogisticRegression(C=1 / penalty, max_iter=2000).fit(inputs, train.labels)
            fits.append((log_loss(chosen_on.labels, fitted.predict_proba(held_out), labels=fitted.classes_), fitted))
    loss, best = min(fits, key=lambda fit: fit[0])
    kernel = best.coef_.T / scale
    layer.set_weights([kernel, best.intercept_ - mean @ kernel])
    history = {
        "loss": [log_loss(train.labels, best.predict_proba(inputs))],
        "accuracy": [best.score(inputs, train.labels)],
    }
    if validation:
        history |= {"val_loss": [loss], "val_accuracy": [best.score(held_out, validation.labels)]}
    return history


def predicted_classes(probabilities: np.ndarray) -> np.ndarray:
    """Return the class of each row: above one half for a sigmoid unit, the largest for a softmax."""
    if probabilities.shape[-1] == 1:
        return (probabilities[:, 0] > 0.5).astype(np.int64)
    return probabilities.argmax(axis=-1)


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """Return the probability that each row gives to its own predicted class."""
    if probabilities.shape[-1] == 1:
        return np.maximum(probabilities[:, 0], 1 - probabilities[:, 0])
    return probabilities.max(axis=-1)


def smooth_curve(points: Sequence[float], factor: float = 0.8) -> list[float]:
    """Return the exponential moving average of listing 5.24, which starts at the first point.

    `factor` is the share of the past that each value keeps. Raises ValueError for a factor outside 0..1.
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"factor must be from 0 to 1, got {factor}")
    return list(accumulate(points, lambda smoothed, point: smoothed * factor + point * (1 - factor)))
