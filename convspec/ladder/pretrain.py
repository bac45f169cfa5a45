"""Train the package's mini base on the source classes of `shapes`: `python -m convspec.ladder.pretrain`.

The ladder's target classes are never shown. Batch normalization makes the training quick; it is folded into the
convolutions at the end, so that the base itself has convolutions and pooling only, like VGG16.
"""

import sys
from collections.abc import Iterator
from typing import TextIO

import keras
import numpy as np
from keras import layers

from convspec import backend, models, training
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.files import atomic_write
from convspec.progress import Clock

BATCH = 64
HELD_OUT = 50  # pictures a class


def _normalised(base: keras.Model, classes: int) -> keras.Model:
    """Return the base's layers with batch normalization after each convolution, and a softmax on top."""
    x = inputs = keras.Input(base.input_shape[1:])
    for layer in base.layers[1:]:
        if isinstance(layer, layers.Conv2D):
            x = layers.Conv2D(layer.filters, layer.kernel_size, padding="same", use_bias=False, name=layer.name)(x)
            x = layers.BatchNormalization(name=f"{layer.name}_norm")(x)
            x = layers.ReLU()(x)
        else:
            x = layers.MaxPooling2D(layer.pool_size, name=layer.name)(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def _fold(trained: keras.Model, base: keras.Model) -> None:
    """Set the base's kernels and biases to those of the trained convolutions and normalizations together."""
    for layer in base.layers:
        if isinstance(layer, layers.Conv2D):
            (kernel,) = trained.get_layer(layer.name).get_weights()
            norm = trained.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            layer.set_weights([kernel * scale, beta - mean * scale])


def _batches(pictures: np.ndarray, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw random batches without end, each picture turned by quarters and mirrored at random."""
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(len(pictures), size=BATCH)
        batch = [
            np.rot90(pictures[i], turns)[:, ::mirror]
            for i, turns, mirror in zip(chosen, rng.integers(4, size=BATCH), rng.choice([1, -1], BATCH), strict=True)
        ]
        yield rescale(np.stack(batch).astype(np.float32)), labels[chosen]


def pretrain(
    per_class: int = 800, epochs: int = 30, seed: int = 0, progress: TextIO | None = None
) -> tuple[keras.Model, float]:
    """Train on `per_class` pictures a source class; return the base and its accuracy on held-out source pictures."""
    backend.make_deterministic()
    keras.utils.set_random_seed(seed)
    pictures, labels = shapes.pictures(shapes.SOURCES, per_class + HELD_OUT, seed=seed)
    held_out = HELD_OUT * len(shapes.SOURCES)
    base = models.conv_base("mini", None, (shapes.SIZE, shapes.SIZE, 3))
    model = _normalised(base, len(shapes.SOURCES))
    steps = (len(pictures) - held_out) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps * epochs)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-3)
    model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    batches, title = _batches(pictures[held_out:], labels[held_out:], seed), "pretraining the mini base"
    training.fit(model, batches, epochs, steps, None, clock=Clock(), history={}, title=title, progress=progress)
    _, accuracy = model.evaluate(rescale(pictures[:held_out].astype(np.float32)), labels[:held_out], verbose=0)
    _fold(model, base)
    return base, accuracy


if __name__ == "__main__":
    trained_base, accuracy = pretrain(progress=sys.stderr)
    with atomic_write(models.MINI_WEIGHTS) as partial:
        trained_base.save_weights(partial)
    print(f"{accuracy:.3f} of the held-out source pictures right; weights written to {models.MINI_WEIGHTS}")
