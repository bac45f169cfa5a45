"""Contact sheets: sample pictures, augmented views, flipped pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convspec.accuracy.judgement import Judgement
from convspec.data.augmentation import Augmentation
from convspec.data.batches import picture_rng
from convspec.data.datasets import Dataset
from convspec.report.charts import save_figure

MAX_ROWS, COLUMNS = 10, 8
FLIPPED_COLUMNS = 4

Rows = tuple[list[list[np.ndarray]], list[str]]  # rows of pictures, and a title for each row


def samples(dataset: Dataset, path: Path) -> None:
    """Write the rows of `sample_rows` as one image file."""
    _save_rows(*sample_rows(dataset), path)


def sample_rows(dataset: Dataset) -> Rows:
    """Return the first training pictures of each of up to ten classes, titled with name and counts (figure 5.8)."""
    rows, titles = [], []
    parts = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        rows.append(list(dataset.train.images[np.flatnonzero(dataset.train.labels == label)[:COLUMNS]]))
        counts = [f"{np.sum(split.labels == label):,} {part}" for part, split in parts.items() if split is not None]
        titles.append(f"{name}: {', '.join(counts)}")
    return rows, titles


def views(dataset: Dataset, augmentation: Augmentation, path: Path, seed: int = 0) -> None:
    """Write the rows of `view_rows` as one image file."""
    _save_rows(*view_rows(dataset, augmentation, seed), path)


def view_rows(dataset: Dataset, augmentation: Augmentation, seed: int = 0) -> Rows:
    """Return the first training picture of each of up to ten classes and its views in the first epochs (figure 5.11).

    The views are those that training with `seed` sees.
    """
    rows, titles = [], []
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        index = np.flatnonzero(dataset.train.labels == label)[0]
        picture = dataset.train.images[index]
        rows.append([picture, *(augmentation(picture, picture_rng(seed, n, index)) for n in range(COLUMNS - 1))])
        titles.append(f"{name}: {dataset.train.names[index]}, then as augmented")
    return rows, titles


def flipped(dataset: Dataset, judgement: Judgement, path: Path) -> None:
    """Write the pictures of `flipped_pictures`, each under its title, as one image file; none if nothing flipped."""
    pictures, titles = flipped_pictures(dataset, judgement)
    if pictures:
        starts = range(0, len(pictures), FLIPPED_COLUMNS)
        rows = [pictures[start : start + FLIPPED_COLUMNS] for start in starts]
        names = [titles[start : start + FLIPPED_COLUMNS] for start in starts]
        figure = Figure(figsize=(2.2 * FLIPPED_COLUMNS, 2.6 * len(starts)), layout="constrained")
        _save_sheet(figure, rows, names, path, FLIPPED_COLUMNS, fontsize=8)


def flipped_pictures(dataset: Dataset, judgement: Judgement) -> tuple[list[np.ndarray], list[str]]:
    """Return the test pictures that flipped most consistently, and a title for each.

    The title has the label, the change in the rate of being right, and for both sides the class that most runs gave
    with their mean confidence in it.
    """
    pictures, titles = [], []
    flips = list(zip(judgement.flips.pictures, judgement.flips.changes, strict=True)) if judgement.flips else []
    for place, change in flips[: MAX_ROWS * FLIPPED_COLUMNS]:
        answers = []
        for side in (judgement.baseline, judgement.runs):
            classes = [run.predicted[place] for run in side]
            answer = max(set(classes), key=classes.count)
            confidence = np.mean([run.confidence[place] for run in side if run.predicted[place] == answer])
            answers.append(f"{dataset.classes[answer]} {confidence:.2f}")
        pictures.append(dataset.test.images[place])
        titles.append(f"{dataset.classes[dataset.test.labels[place]]} ({change:+.1f})\n{' > '.join(answers)}")
    return pictures, titles


def _save_rows(rows: list[list[np.ndarray]], titles: list[str], path: Path) -> None:
    height = 1.45 * len(rows)
    figure = Figure(figsize=(1.2 * COLUMNS, height))
    figure.subplots_adjust(0.005, 0.05 / height, 0.995, 1 - 0.25 / height, wspace=0.04, hspace=0.25)
    _save_sheet(figure, rows, [[ascii(title)[1:-1]] for title in titles], path, COLUMNS, loc="left", fontsize=9)


def _save_sheet(
    figure: Figure, rows: list[list[np.ndarray]], titles: list[list[str]], path: Path, columns: int, **style: Any
) -> None:
    """Draw rows of pictures, each row with titles above its first pictures."""
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, pictures, names in zip(grid, rows, titles, strict=True):
        for axes, picture in zip(line, pictures, strict=False):
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
        for axes, name in zip(line, names, strict=False):
            axes.set_title(name, parse_math=False, **style)
    save_figure(figure, path)
