"""Accuracy gate of a PyTorch model: copy this file to your project and run pytest there. Needs no Keras.

The first run writes tests/baselines and fails, as nobody has looked at it yet; later ones pass, until the model gets
worse by more than the margin.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from convspec.plugin.fixtures import AccuracyGate

STEPS = 100


def train(images: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_digits(accuracy_gate: AccuracyGate) -> None:
    images, labels = load_digits(return_X_y=True)
    data = train_test_split((images / 16).astype("float32"), labels, random_state=0)
    images, test_images, labels, test_labels = map(torch.from_numpy, data)
    models = [train(images, labels, seed) for seed in range(5)]
    predicted = np.array([model(test_images).argmax(dim=1).numpy() for model in models])
    accuracy_gate("digits-torch", predicted, test_labels.numpy())
