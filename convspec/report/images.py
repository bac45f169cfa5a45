"""Contact sheets: sample pictures, augmented views, flipped pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convspec.accuracy.judgement import Judgement
from convspec.data.augmentation import Augmentation
from convspec.data.batches import picture_rng
from convspec.data.datasets import Dataset

if TYPE_CHECKING:
    pass

from convspec.report.charts import save_figure

COLUMNS_OF_PICTURES = 8
MAX_ROWS = 10


def samples(dataset: Dataset, path: Path) -> None:
    """The rows of `sample_rows` as a picture."""
    _save_grid(*sample_rows(dataset), path)


def sample_rows(dataset: Dataset) -> tuple[list[list[np.ndarray]], list[str]]:
    """The first training pictures of each of up to ten classes, and for each its name and counts (figure 5.8)."""
    rows, titles = [], []
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        rows.append(list(dataset.train.images[np.flatnonzero(dataset.train.labels == label)[:COLUMNS_OF_PICTURES]]))
        counts = [f"{np.sum(split.labels == label):,} {part}" for part, split in parts.items() if split is not None]
        titles.append(f"{name}: {', '.join(counts)}")
    return rows, titles


def views(dataset: Dataset, augmentation: Augmentation, path: Path, seed: int = 0) -> None:
    """The rows of `view_rows` as a picture."""
    _save_grid(*view_rows(dataset, augmentation, seed), path)


def view_rows(dataset: Dataset, augmentation: Augmentation, seed: int = 0) -> tuple[list[list[np.ndarray]], list[str]]:
    """The first training picture of each of up to ten classes, and how training with `seed` shows it in its first
    passes (figure 5.11).
    """
    rows, titles = [], []
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        index = np.flatnonzero(dataset.train.labels == label)[0]
        picture = dataset.train.images[index]
        shown = [augmentation(picture, picture_rng(seed, number, index)) for number in range(COLUMNS_OF_PICTURES - 1)]
        rows.append([picture, *shown])
        titles.append(f"{name}: {dataset.train.names[index]}, then as augmented")
    return rows, titles


def flipped(dataset: Dataset, judgement: Judgement, path: Path) -> None:
    """The pictures of `flipped_pictures` as a contact sheet."""
    pictures, titles = flipped_pictures(dataset, judgement)
    if pictures:
        _save_sheet(pictures, titles, COLUMNS_OF_PICTURES // 2, path)


def flipped_pictures(dataset: Dataset, judgement: Judgement) -> tuple[list[np.ndarray], list[str]]:
    """The test pictures that flipped most consistently, with their label, the change in their rate of being right, and
    what both sides gave them in the mean: the class of most runs, and the confidence in it.
    """
    if not judgement.flips:
        return [], []
    shown = judgement.flips.pictures[: MAX_ROWS * COLUMNS_OF_PICTURES // 2]
    rows, titles = [], []
    for place, change in zip(shown, judgement.flips.changes, strict=False):
        said = []
        for side in (judgement.baseline, judgement.runs):
            classes = [run.predicted[place] for run in side]
            most = max(set(classes), key=classes.count)
            sure = np.mean([run.confidence[place] for run in side if run.predicted[place] == most])
            said.append(f"{dataset.classes[most]} {sure:.2f}")
        rows.append(dataset.test.images[place])
        label = dataset.classes[dataset.test.labels[place]]
        titles.append(f"{label} ({change:+.1f})\n{said[0]} > {said[1]}")
    return rows, titles


def _save_grid(rows: list[list[np.ndarray]], titles: list[str], path: Path) -> None:
    from matplotlib.figure import Figure

    height = 1.45 * len(rows)
    figure = Figure(figsize=(1.2 * COLUMNS_OF_PICTURES, height))
    figure.subplots_adjust(0.005, 0.05 / height, 0.995, 1 - 0.25 / height, wspace=0.04, hspace=0.25)
    grid = figure.subplots(len(rows), COLUMNS_OF_PICTURES, squeeze=False)
    for row, pictures, title in zip(grid, rows, titles, strict=True):
        row[0].set_title(ascii(title)[1:-1], loc="left", fontsize=9, parse_math=False)
        for axes in row:
            axes.axis("off")
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
    save_figure(figure, path)


def _save_sheet(pictures: list[np.ndarray], titles: list[str], columns: int, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.2 * columns, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=8, parse_math=False)
    save_figure(figure, path)
