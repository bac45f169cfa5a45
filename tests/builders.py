"""Results, folders and files that several test modules build."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
