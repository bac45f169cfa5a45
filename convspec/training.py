"""Compile, fit, resume, evaluate."""

import json
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import TextIO

import keras
import numpy as np
from tqdm import tqdm

from convspec import BadInput, backend
from convspec.data.batches import Batches
from convspec.files import DAMAGED, atomic_write
from convspec.progress import Clock
from convspec.progress import bar as progress_bar

CHECKPOINT_EVERY = 20.0  # seconds: an interrupted run loses at most this and one epoch

PENALTIES = tuple(10.0 ** np.arange(-1, 4, 0.5))  # on the squared weights, beside the summed loss

History = dict[str, list[float]]


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """RMSprop, and binary crossentropy for one sigmoid unit, sparse categorical crossentropy for a softmax."""
    loss = "binary_crossentropy" if model.output_shape[-1] == 1 else "sparse_categorical_crossentropy"
    model.compile(optimizer=keras.optimizers.RMSprop(learning_rate=learning_rate), loss=loss, metrics=["accuracy"])
    model.optimizer.compiled_for = _trainable(model)  # on the optimizer, which every compilation makes anew
    told = model.get_compile_config
    model.get_compile_config = lambda: backend.portable(told())  # what is saved with the model


def _trainable(model: keras.Model) -> frozenset[str]:
    return frozenset(variable.path for variable in model.trainable_variables)


def _refuse_stale(model: keras.Model) -> None:
    """BadInput where `trainable` changed since `compile_model`: Keras ignores it, or not, depending on when."""
    changed = getattr(model.optimizer, "compiled_for", _trainable(model)) ^ _trainable(model)
    if layers := list(dict.fromkeys(v.path.split("/")[-2] for v in model.variables if v.path in changed)):
        raise BadInput(f"trainable of {', '.join(layers)} changed after compilation; compile the model again")


class Checkpoint:
    """All variables of model and optimizer, the history and the seconds so far, in one file that is replaced whole.

    `key` says which run it belongs to; a checkpoint with another key is ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def save(self, model: keras.Model, history: History, clock: Clock) -> None:
        values = [keras.ops.convert_to_numpy(variable) for variable in self._variables(model)]
        with atomic_write(self.path) as partial:
            np.savez(partial, *values, key=self.key, state=json.dumps([history, clock.seconds]))

    def restore(self, model: keras.Model, clock: Clock) -> History:
        """Set model, optimizer and clock to where the run stopped; an empty history if there is nothing to resume."""
        if not self.path.is_file():
            return {}
        try:
            with np.load(self.path) as saved:
                if str(saved["key"]) != self.key:
                    return {}
                for position, variable in enumerate(self._variables(model)):
                    variable.assign(saved[f"arr_{position}"])
                history, seconds = json.loads(str(saved["state"]))
                clock.seconds.update(seconds)
                return history
        except DAMAGED as error:
            raise BadInput(
                f"the checkpoint {str(self.path)!r} is damaged ({error}); delete it to start the run again"
            ) from error

    @staticmethod
    def _variables(model: keras.Model) -> list[keras.Variable]:
        model.optimizer.build(model.trainable_variables)
        # Includes the state of dropout's random generators, so that a resumed run repeats an unbroken one.
        return [*model.variables, *model.optimizer.variables]


class _FitMonitor(keras.callbacks.Callback):
    """Progress, history, phases and checkpoints of one fit, and its validation where Keras does not see to that."""

    def __init__(
        self,
        clock: Clock,
        bar: tqdm,
        history: History,
        checkpoint: Checkpoint | None,
        validation: "_PaddedBatches | None",
    ) -> None:
        super().__init__()
        self.clock, self.bar, self.history, self.checkpoint = clock, bar, history, checkpoint
        self.validation = validation
        self.first, self.began, self.saved = True, 0.0, time.perf_counter()

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.bar.update()
        if self.first:
            self._end("compile")
            self.first = False

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._end("train")

    def on_test_end(self, logs: dict | None = None) -> None:
        self._end("validate")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._end("train")
        logs = dict(logs or {})
        if self.validation:
            logs |= self.validation.evaluate(self.model)
            self._end("validate")
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        accuracies = {name: f"{values[-1]:.3f}" for name, values in self.history.items() if name.endswith("accuracy")}
        self.bar.set_postfix({"epoch": epoch + 1} | accuracies, refresh=False)
        if self.checkpoint and time.perf_counter() - self.saved > CHECKPOINT_EVERY:
            self.checkpoint.save(self.model, self.history, self.clock)
            self.saved = time.perf_counter()
            self.began = time.perf_counter()

    def _end(self, phase: str) -> None:
        now = time.perf_counter()
        self.clock.seconds[phase] += now - self.began
        self.began = now


class _PaddedBatches(keras.utils.PyDataset):
    """The batches of another with even shares for `devices`: the last is filled up with its own last input.

    Keras itself fails, or has a loss that is no number, where the last batch leaves a device too little or nothing.
    """

    def __init__(self, batches: Batches, devices: int) -> None:
        super().__init__()
        size = max(batches.batch_size // devices, 1) * devices
        self.batches = Batches(batches.inputs, batches.labels, size, batches.prepare)
        self.devices = devices

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> tuple[np.ndarray]:
        inputs = self.batches[batch][0]
        return (np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % self.devices, axis=0)]),)

    def evaluate(self, model: keras.Model) -> dict[str, float]:
        """Loss and accuracy, as Keras names those of validation."""
        labels = self.batches.labels
        probabilities = model.predict(self, verbose=0)[: len(labels)]
        losses = keras.losses.get(model.loss)(labels[:, None], probabilities)
        return {
            "val_accuracy": float(np.mean(predicted_classes(probabilities) == labels)),
            "val_loss": float(keras.ops.mean(losses)),
        }


class _BufferedBatches(keras.utils.PyDataset):
    """The batches that `draw` gives by number, all kept until training has begun: Keras looks at some before, and on
    several devices in TensorFlow draws some to build the model by, and then draws anew.
    """

    def __init__(self, draw: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__()
        self.draw, self.kept, self.training = draw, dict[int, tuple[np.ndarray, np.ndarray]](), False

    def begin(self, logs: dict | None = None) -> None:
        """As a callback of Keras's, when training begins."""
        self.training = True

    @property
    def num_batches(self) -> None:
        """Without end."""

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        if batch not in self.kept:
            self.kept[batch] = self.draw()
        return self.kept.pop(batch) if self.training else self.kept[batch]


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
    """Train to `epochs` epochs of `steps` batches, continuing after those in `history`; returns the whole history.

    Each of `devices` takes its share of every batch; the steps are those on one, but that in TensorFlow dropout draws
    one mask, which every share has.

    A generator of batches is closed at the end, and the threads that it may have end with it.

    Phases counted: compile (the first step, where the graph is built), train (all other steps), validate, and
    input (reading, augmenting and preparing batches, which overlaps the others). Raises BadInput where layers were
    frozen or thawed since `compile_model`, where memory does not suffice for a step, and as `backend.batch_share` does.
    """
    _refuse_stale(model)

    size, source, lock = 0, iter(batches), Lock()

    def draw() -> tuple[np.ndarray, np.ndarray]:
        nonlocal size
        with lock, clock("input"):
            batch = next(source)
        backend.batch_share(size := len(batch[1]), devices)
        return batch

    done, alone = len(history.get("loss", [])), devices == 1
    filled = None if alone or validation is None else _PaddedBatches(validation, devices)
    kept = _BufferedBatches(draw)
    with (
        progress_bar(epochs * steps, title, "step", progress, done * steps) as bar,
        backend.data_parallel(model, devices) as trained,
    ):
        try:
            trained.fit(
                backend.feed(kept),
                epochs=epochs,
                initial_epoch=done,
                steps_per_epoch=steps,
                validation_data=backend.feed(validation) if alone and validation else None,
                shuffle=False,
                verbose=0,
                callbacks=[
                    _FitMonitor(clock, bar, history, checkpoint, filled),
                    keras.callbacks.LambdaCallback(on_train_begin=kept.begin),
                ],
            )
        except Exception as error:
            if not backend.out_of_memory(error):
                raise
            raise BadInput(
                f"out of memory: {model.name} has no room for a step of {size} pictures, and with fewer it would be"
                " another result; change batch_size in the recipe, take smaller pictures, or a device with more memory"
            ) from error
        finally:
            if isinstance(source, Generator):  # TensorFlow never lets go of what it drew from, and may be drawing still
                with lock:
                    source.close()
    return history


def fit_linear(last: keras.layers.Dense, train: Batches, validation: Batches) -> History:
    """Fit the last layer of a linear probe to recorded features: logistic regression with the penalty of PENALTIES
    that leaves the least loss on the validation pictures.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    # One scale for all features: a deviation of its own for each would raise those that hardly ever fire.
    mean, scale = np.mean(train.inputs, axis=0), np.std(train.inputs)
    inputs, held_out = ((batches.inputs - mean) / scale for batches in (train, validation))
    fits = []
    for penalty in PENALTIES:
        fitted = LogisticRegression(C=1 / penalty, max_iter=2000).fit(inputs, train.labels)
        fits.append((log_loss(validation.labels, fitted.predict_proba(held_out)), fitted))
    loss, best = min(fits, key=lambda fit: fit[0])
    kernel = best.coef_.T / scale
    last.set_weights([kernel, best.intercept_ - mean @ kernel])
    return {
        "loss": [log_loss(train.labels, best.predict_proba(inputs))],
        "accuracy": [best.score(inputs, train.labels)],
        "val_loss": [loss],
        "val_accuracy": [best.score(held_out, validation.labels)],
    }


def predicted_classes(probabilities: np.ndarray) -> np.ndarray:
    """The class of each row: above one half for a sigmoid unit, the largest for a softmax."""
    if probabilities.shape[-1] == 1:
        return (probabilities[:, 0] > 0.5).astype(np.int64)
    return probabilities.argmax(axis=-1)


def confidence(probabilities: np.ndarray) -> np.ndarray:
    """The probability that each row gives to its own predicted class."""
    if probabilities.shape[-1] == 1:
        return np.maximum(probabilities[:, 0], 1 - probabilities[:, 0])
    return probabilities.max(axis=-1)


def smooth_curve(points: Sequence[float], factor: float = 0.8) -> list[float]:
    """Exponential moving average of listing 5.24: starts at the first point; `factor` (0 to 1) is what is kept.

    Raises ValueError for a factor outside 0..1.
    """
    if not 0 <= factor <= 1:
        raise ValueError(f"factor must be from 0 to 1, got {factor}")
    smoothed: list[float] = []
    for point in points:
        smoothed.append(smoothed[-1] * factor + point * (1 - factor) if smoothed else point)
    return smoothed
