"""Accuracy gate of a scikit-learn model: copy this file to your project and run pytest there. Needs no Keras.

The first run writes tests/baselines and fails, as nobody has looked at it yet; later ones pass, until the model gets
worse by more than the margin.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from convspec.plugin.fixtures import AccuracyGate


def test_digits(accuracy_gate: AccuracyGate) -> None:
    images, test_images, labels, test_labels = train_test_split(*load_digits(return_X_y=True), random_state=0)
    models = [MLPClassifier((64,), max_iter=500, random_state=seed).fit(images / 16, labels) for seed in range(5)]
    accuracy_gate("digits", np.array([model.predict(test_images / 16) for model in models]), test_labels)
