"""Accuracy gate of a Keras model, on any backend: copy this file to your project and run pytest there.

The first run writes tests/baselines and fails, as nobody has looked at it yet; later ones pass, until the model gets
worse by more than the margin.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from convspec.plugin.fixtures import AccuracyGate

EPOCHS = 20


def train(images: np.ndarray, labels: np.ndarray, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, epochs=EPOCHS, batch_size=64, verbose=0)
    return model


def test_digits(accuracy_gate: AccuracyGate) -> None:
    images, labels = load_digits(return_X_y=True)
    images, test_images, labels, test_labels = train_test_split(
        images.reshape(-1, 8, 8, 1) / 16, labels, random_state=0
    )
    models = [train(images, labels, seed) for seed in range(5)]
    predicted = np.array([model.predict(test_images, verbose=0).argmax(axis=1) for model in models])
    accuracy_gate("digits-keras", predicted, test_labels)
