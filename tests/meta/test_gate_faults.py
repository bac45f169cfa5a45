"""The gate by experiment: faulty trainings at mini, and sound ones with other seeds, judged against sound ones.

A table on the terminal shows the change of accuracy by each fault and the gate's verdict, at the default seeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convspec import models
from convspec.accuracy import gate
from convspec.data import batches, datasets
from convspec.data.datasets import Dataset, Split
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.rungs import find_recipe
from convspec.plugin.options import DEFAULT_SEEDS
from convspec.plugin.session import terminal_stream

SEEDS = DEFAULT_SEEDS["mini"]
REPEATS = 20
Trained = tuple[Recipe, Dataset, Path | None, batches.Prepare | None]
Fault = Callable[[Recipe, Dataset, Path, Any], Trained]  # the last is how large the fault is


def change(recipe: Recipe, dataset: Dataset, folder: Path, changes: dict[str, Any]) -> Trained:
    return replace(recipe, **changes), dataset, None, None


def scale_rate(recipe: Recipe, dataset: Dataset, folder: Path, factor: float) -> Trained:
    return change(recipe, dataset, folder, {"learning_rate": recipe.learning_rate * factor})


def shuffle_labels(recipe: Recipe, dataset: Dataset, folder: Path, share: float) -> Trained:
    """Permute the labels of that share of the training pictures."""
    rng, labels = np.random.default_rng(1), dataset.train.labels.copy()
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[chosen] = rng.permutation(labels[chosen])
    train = Split(dataset.train.images, labels, dataset.train.names)
    return recipe, replace(dataset, train=train), None, None


def keep_share(recipe: Recipe, dataset: Dataset, folder: Path, share: float) -> Trained:
    whole, step = dataset.train, round(1 / share) | 1  # odd, as the classes alternate
    train = Split(whole.images[::step], whole.labels[::step], whole.names[::step])
    return recipe, replace(dataset, train=train), None, None


def prepare_by(recipe: Recipe, dataset: Dataset, folder: Path, prepare: batches.Prepare) -> Trained:
    return recipe, dataset, None, prepare


def randomise(recipe: Recipe, dataset: Dataset, folder: Path, block: str) -> Trained:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    fresh = models.conv_base("mini", None, (48, 48, 3))
    for layer in base.layers:
        if layer.name.startswith(block):
            layer.set_weights(fresh.get_layer(layer.name).get_weights())
    base.save_weights(folder / f"{block}.weights.h5")
    return recipe, dataset, folder / f"{block}.weights.h5", None


EXTRACTION, TUNING = "feature_extraction", "fine_tuned"
FAULTS: dict[str, tuple[str, Fault, Any]] = {
    "3 % of the labels shuffled": (EXTRACTION, shuffle_labels, 0.03),
    "10 % of the labels shuffled": (EXTRACTION, shuffle_labels, 0.1),
    "60 % of the labels shuffled": (EXTRACTION, shuffle_labels, 0.6),
    "learning rate x 10": (EXTRACTION, scale_rate, 10),
    "learning rate / 10": (EXTRACTION, scale_rate, 0.1),
    "learning rate / 100": (EXTRACTION, scale_rate, 0.01),
    "dropout 0.9": (EXTRACTION, change, {"dropout": 0.9}),
    "no dropout": (EXTRACTION, change, {"dropout": 0.0}),
    "a single epoch": (EXTRACTION, change, {"epochs": 1}),
    "a third of the training pictures": (EXTRACTION, keep_share, 1 / 3),
    "a tenth of the training pictures": (EXTRACTION, keep_share, 0.1),
    "not rescaled": (EXTRACTION, prepare_by, batches.identity),
    "rescaled twice": (EXTRACTION, prepare_by, lambda batch: batches.rescale(batch / 255)),
    "colours in BGR": (EXTRACTION, prepare_by, lambda batch: batches.rescale(batch[..., ::-1])),
    "block 1 of the base random": (EXTRACTION, randomise, "block1"),
    "block 4 of the base random": (EXTRACTION, randomise, "block4"),
    "learning rate x 10, fine-tuning": (TUNING, scale_rate, 10),
    "learning rate x 100, fine-tuning": (TUNING, scale_rate, 100),
    "no augmentation": (TUNING, change, {"augmentation": None}),
    "nothing thawed": (TUNING, change, {"thaw": None}),
}


@pytest.fixture(scope="module")
def shapes() -> Dataset:
    return datasets.load_dataset("shapes", 48, Path())


def right(trained: Trained, seeds: range, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    recipe, dataset, weights, prepare = trained
    with monkeypatch.context() as patch:
        if prepare:
            patch.setattr(run_module, "preparation", lambda *_: prepare)
        runs = [run_module.run_recipe(recipe, dataset, seed, folder, weights=weights) for seed in seeds]
    return np.array([np.equal(run.predicted, run.test_labels) for run in runs])


@pytest.fixture(scope="module")
def sound(shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, np.ndarray]]:
    """What the two rungs get right as they are: rung to booleans of shape (seeds, pictures)."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        yield {
            rung: right((find_recipe(rung, "mini"), shapes, None, None), range(SEEDS), folder, patch)
            for rung in (EXTRACTION, TUNING)
        }


@pytest.mark.slow
def test_no_fault_that_costs_two_points_passes(
    shapes: Dataset,
    sound: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    """It is regressed, or underpowered where the fault makes the seeds scatter."""
    terminal = terminal_stream(pytestconfig)
    missed = []
    for name, (rung, fault, size) in FAULTS.items():
        (folder := tmp_path / name.replace("/", "by")).mkdir()
        trained = fault(find_recipe(rung, "mini"), shapes, folder, size)
        verdict = gate.gate(sound[rung], right(trained, range(SEEDS), folder, monkeypatch))
        terminal.write(f"\n| {name} | {rung} | {100 * verdict.change:+.1f} | {verdict.outcome} |")
        if verdict.change <= -0.02 and verdict.outcome == "pass":
            missed.append(f"{name}: {verdict}")
    assert not missed, "\n".join(missed)


@pytest.mark.slow
def test_runs_with_other_seeds_all_pass(
    shapes: Dataset, sound: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find_recipe(EXTRACTION, "mini")
    verdicts = [
        gate.gate(
            sound[EXTRACTION], right((recipe, shapes, None, None), range(first, first + SEEDS), tmp_path, monkeypatch)
        )
        for first in range(SEEDS, SEEDS * (REPEATS + 1), SEEDS)
    ]
    failed = [str(verdict) for verdict in verdicts if verdict.outcome != "pass"]
    assert not failed, f"{len(failed)} of {REPEATS}: {failed}"
