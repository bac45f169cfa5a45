"""The gate by experiment: seeded faults in training at mini, held against sound runs, and sound runs against those.

A table on the terminal says what each fault cost and what the gate said of it, at the default number of seeds.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from convspec import models
from convspec.accuracy import gate
from convspec.data import batches, datasets
from convspec.data.datasets import Dataset, Split
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.rungs import find_recipe
from convspec.plugin.session import DEFAULT_SEEDS, terminal_stream

SEEDS = DEFAULT_SEEDS["mini"]
REPEATS = 20
Trained = tuple[Recipe, Dataset, Path | None, batches.Prepare | None]
Fault = Callable[[Recipe, Dataset, Path], Trained]


def changed(recipe: Recipe, dataset: Dataset, folder: Path, **changes: object) -> Trained:
    return replace(recipe, **changes), dataset, None, None  # type: ignore[arg-type]


def rate(recipe: Recipe, dataset: Dataset, folder: Path, factor: float) -> Trained:
    return changed(recipe, dataset, folder, learning_rate=recipe.learning_rate * factor)


def mislabelled(recipe: Recipe, dataset: Dataset, folder: Path, share: float) -> Trained:
    """The labels of that share of the training pictures, drawn anew among themselves."""
    rng, labels = np.random.default_rng(1), dataset.train.labels.copy()
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[chosen] = rng.permutation(labels[chosen])
    train = Split(dataset.train.images, labels, dataset.train.names)
    return recipe, replace(dataset, train=train), None, None


def fewer(recipe: Recipe, dataset: Dataset, folder: Path, share: float) -> Trained:
    whole, step = dataset.train, round(1 / share) | 1  # odd, as the classes alternate
    train = Split(whole.images[::step], whole.labels[::step], whole.names[::step])
    return recipe, replace(dataset, train=train), None, None


def prepared(recipe: Recipe, dataset: Dataset, folder: Path, prepare: batches.Prepare) -> Trained:
    return recipe, dataset, None, prepare


def randomised(recipe: Recipe, dataset: Dataset, folder: Path, block: str) -> Trained:
    base = models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3))
    fresh = models.conv_base("mini", None, (48, 48, 3))
    for layer in base.layers:
        if layer.name.startswith(block):
            layer.set_weights(fresh.get_layer(layer.name).get_weights())
    base.save_weights(folder / f"{block}.weights.h5")
    return recipe, dataset, folder / f"{block}.weights.h5", None


FAULTS: dict[str, tuple[str, Fault]] = {
    "3 % of the labels shuffled": ("feature_extraction", partial(mislabelled, share=0.03)),
    "10 % of the labels shuffled": ("feature_extraction", partial(mislabelled, share=0.1)),
    "60 % of the labels shuffled": ("feature_extraction", partial(mislabelled, share=0.6)),
    "learning rate x 10": ("feature_extraction", partial(rate, factor=10)),
    "learning rate / 10": ("feature_extraction", partial(rate, factor=0.1)),
    "learning rate / 100": ("feature_extraction", partial(rate, factor=0.01)),
    "dropout 0.9": ("feature_extraction", partial(changed, dropout=0.9)),
    "no dropout": ("feature_extraction", partial(changed, dropout=0.0)),
    "a single epoch": ("feature_extraction", partial(changed, epochs=1)),
    "a third of the training pictures": ("feature_extraction", partial(fewer, share=1 / 3)),
    "a tenth of the training pictures": ("feature_extraction", partial(fewer, share=0.1)),
    "not rescaled": ("feature_extraction", partial(prepared, prepare=batches.identity)),
    "rescaled twice": ("feature_extraction", partial(prepared, prepare=lambda batch: batches.rescale(batch / 255))),
    "colours in BGR": (
        "feature_extraction",
        partial(prepared, prepare=lambda batch: batches.rescale(batch[..., ::-1])),
    ),
    "block 1 of the base random": ("feature_extraction", partial(randomised, block="block1")),
    "block 4 of the base random": ("feature_extraction", partial(randomised, block="block4")),
    "learning rate x 10, fine-tuning": ("fine_tuned", partial(rate, factor=10)),
    "learning rate x 100, fine-tuning": ("fine_tuned", partial(rate, factor=100)),
    "no augmentation": ("fine_tuned", partial(changed, augmentation=None)),
    "nothing thawed": ("fine_tuned", partial(changed, thaw=None)),
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
    """What the two rungs get right as they are."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        yield {
            rung: right((find_recipe(rung, "mini"), shapes, None, None), range(SEEDS), folder, patch)
            for rung in ("feature_extraction", "fine_tuned")
        }


@pytest.mark.slow
def test_every_fault_that_costs_two_points_is_caught_at_the_default_seeds(
    shapes: Dataset,
    sound: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    terminal = terminal_stream(pytestconfig)
    missed = []
    for name, (rung, fault) in FAULTS.items():
        (folder := tmp_path / name.replace("/", "by")).mkdir()
        trained = fault(find_recipe(rung, "mini"), shapes, folder)
        verdict = gate.gate(sound[rung], right(trained, range(SEEDS), folder, monkeypatch))
        terminal.write(f"\n| {name} | {rung} | {100 * verdict.change:+.1f} | {verdict.outcome} |")
        if verdict.change <= -0.02 and verdict.outcome != "regressed":
            missed.append(f"{name}: {verdict}")
    assert not missed, "\n".join(missed)


@pytest.mark.slow
def test_runs_with_other_seeds_and_nothing_else_changed_all_pass(
    shapes: Dataset, sound: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = find_recipe("feature_extraction", "mini")
    verdicts = [
        gate.gate(
            sound["feature_extraction"],
            right((recipe, shapes, None, None), range(first, first + SEEDS), tmp_path, monkeypatch),
        )
        for first in range(SEEDS, SEEDS * (REPEATS + 1), SEEDS)
    ]
    failed = [str(verdict) for verdict in verdicts if verdict.outcome != "pass"]
    assert not failed, f"{len(failed)} of {REPEATS}: {failed}"
