"""Results, folders and files that several test modules build."""

import json
from pathlib import Path

import pytest

from convspec.ladder.result import Result
from convspec.ladder.rungs import find_recipe


def result(rung: str, scale: str, accuracy: float, seed: int = 0, dataset: str | None = None) -> Result:
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


def store_in(folder: Path) -> Path:
    """Return the one feature store in a folder."""
    (store,) = folder.iterdir()
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Return the content of all files, but for the seconds in the record."""
    files = {file.name: file.read_bytes() for file in store.iterdir()}
    record = json.loads(files["store.json"])
    return files | {"store.json": json.dumps(record | {"seconds": 0}).encode()}


# pytest in pytest.
LADDER = str(Path(__file__).parents[1] / "benchmarks" / "test_ladder.py")


def lines(result: pytest.RunResult) -> str:
    """Return what the terminal shows of a run of pytest."""
    return "\n".join(result.outlines + result.errlines)
