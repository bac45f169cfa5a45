"""Results, folders and files that several test modules build."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.ladder.recipe import Recipe, Scale
from convspec.ladder.result import Result
from convspec.ladder.rungs import find_recipe

if TYPE_CHECKING:
    import keras


def result(rung: str, scale: Scale, accuracy: float, seed: int = 0, dataset: str | None = None) -> Result:
    """A run that got `accuracy` of 1,000 test pictures right."""
    recipe = find_recipe(rung, scale)
    right = round(accuracy * 1000)
    return Result(
        recipe=recipe,
        seed=seed,
        dataset={
            "name": dataset or recipe.dataset,
            "fingerprint": "0",
            "classes": ["a", "b"],
            "skipped": [],
            "pictures": {"validation": 1000, "test": 1000},
        },
        weights=None,
        history={"accuracy": [0.5, 0.9], "val_accuracy": [0.75, 0.625]},
        test_accuracy=accuracy,
        test_names=[str(i) for i in range(1000)],
        test_labels=[1] * 1000,
        predicted=[1] * right + [0] * (1000 - right),
        confidence=[0.9] * 1000,
        seconds={"features": 2.0, "train": 10.0, "input": 5.0},
        images_per_second=123.4,
        peak_memory_mib=900 + seed,
        machine={"backend": "tensorflow"},
    )


def result_with_history(rung: str, scale: Scale, accuracy: float, seed: int = 0) -> Result:
    """Return a run that overfits, as figures 5.9 and 5.10 show it; its noise is a wave, the same everywhere."""
    run = result(rung, scale, accuracy, seed)
    epochs = np.arange(run.recipe.epochs)
    wave = 0.02 * np.sin(epochs * (2.1 + seed)) + 0.06 * seed
    history = {
        "accuracy": 1 - 0.5 * np.exp(-epochs / 12) + wave / 4,
        "val_accuracy": 0.72 - 0.2 * np.exp(-epochs / 5) + wave,
        "loss": 0.7 * np.exp(-epochs / 10) + wave / 4 + 0.02,
        "val_loss": 0.55 + 0.15 * np.exp(-epochs / 3) + 0.0004 * epochs**2 + wave,
    }
    return replace(run, history={name: values.tolist() for name, values in history.items()})


def store_in(folder: Path) -> Path:
    """Return the one feature store in a folder."""
    (store,) = (entry for entry in folder.iterdir() if entry.is_dir())
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Return the content of all files, but for the seconds in the record."""
    files = {file.name: file.read_bytes() for file in store.iterdir()}
    record = json.loads(files["store.json"])
    return files | {"store.json": json.dumps(record | {"seconds": 0}).encode()}


def short_recipe(rung: str, **changes: Any) -> Recipe:
    """Return a rung at mini cut to two epochs, and its predecessor to one."""
    recipe = find_recipe(rung, "mini")
    start = replace(recipe.starts_from, epochs=1, **changes) if recipe.starts_from else None
    return replace(recipe, epochs=2, starts_from=start, **changes)


def noting_layer(calls: list[str], name: str) -> "keras.Layer":
    """Return a layer that hands on its input and appends its name to `calls` each time it is called."""
    import keras

    def note(inputs: Any) -> Any:
        calls.append(name)
        return inputs * 1

    return keras.layers.Lambda(note, name=name)


# pytest in pytest.
LADDER = str(Path(__file__).parents[1] / "benchmarks" / "test_ladder.py")


def lines(result: pytest.RunResult) -> str:
    """Return what the terminal shows of a run of pytest."""
    return "\n".join(result.outlines + result.errlines)


# Experiments on the chapter's arguments.
class Scenes(NamedTuple):
    """Pictures of `shapes`, 0 to 1, with what else is known of the form in each."""

    pictures: np.ndarray  # (n, 48, 48, 3)
    labels: np.ndarray
    places: np.ndarray  # (n, 2): row and column of the form's middle as shares of the side
    colours: np.ndarray  # (n, 3): the form's mean red, green and blue


def scenes(forms: dict[str, shapes.Form], per_class: int, seed: int) -> Scenes:
    """Draw pictures, and keep the outline of each form as it is drawn."""
    outlines: list[np.ndarray] = []

    def noting(form: shapes.Form) -> shapes.Form:
        def note(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            outlines.append(form(u, v))
            return outlines[-1]

        return note

    images, labels = shapes.pictures({name: noting(form) for name, form in forms.items()}, per_class, seed)
    pictures = rescale(images.astype(np.float32))
    shares = [outline.reshape(shapes.SIZE, 2, shapes.SIZE, 2).mean(axis=(1, 3)) for outline in outlines]
    places = [(np.argwhere(share > 0.5).mean(axis=0) + 0.5) / shapes.SIZE for share in shares]
    colours = [picture[share > 0.5].mean(axis=0) for picture, share in zip(pictures, shares, strict=True)]
    return Scenes(pictures, labels, np.stack(places), np.stack(colours))


def ridge(train: np.ndarray, test: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that fits ridge regression of targets (n, k) to `train` and predicts those of `test`.

    Inputs of any shape are flattened. The penalty is the one with the lowest error when each row is left out in turn.
    """
    mean = train.mean(axis=0)
    rows, others = ((inputs - mean).reshape(len(inputs), -1) for inputs in (train, test))
    scale = np.mean(np.sum(rows**2, axis=1))  # so that a penalty means the same for few inputs and for many
    values, vectors = np.linalg.eigh((rows @ rows.T / scale).astype(np.float64))
    similar = (others @ rows.T / scale).astype(np.float64)

    def predict(targets: np.ndarray) -> np.ndarray:
        middle = targets.mean(axis=0)
        turned, fits = vectors.T @ (targets - middle), []
        for penalty in 10.0 ** np.arange(-4, 3):
            inverse = 1 / (np.maximum(values, 0) + penalty)
            weights = vectors @ (inverse[:, None] * turned)
            # The middle is fitted, too: without its direction, in which the centred rows have no variance.
            left_out = weights / (vectors**2 @ inverse - 1 / (len(rows) * penalty))[:, None]
            fits.append((float(np.mean(left_out**2)), penalty, weights))
        return similar @ min(fits, key=lambda fit: fit[:2])[2] + middle

    return predict


def one_hot_accuracy(predict: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, test: np.ndarray) -> float:
    """Return the share of the labels `test` that regression of one-hot labels gets right."""
    return float(np.mean(predict(np.eye(labels.max() + 1)[labels]).argmax(axis=1) == test))


def explained(predict: Callable[[np.ndarray], np.ndarray], targets: np.ndarray, test: np.ndarray) -> float:
    """Return the share of the variance of the targets `test` that regression explains (R2)."""
    return float(1 - np.sum((predict(targets) - test) ** 2) / np.sum((test - test.mean(axis=0)) ** 2))
