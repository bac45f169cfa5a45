"""Rows of pictures, each with its title: samples of each class, their augmented views, pictures that flipped."""

import numpy as np

from convspec.accuracy.judgement import Judgement
from convspec.data.augmentation import Augmentation
from convspec.data.batches import picture_rng
from convspec.data.datasets import Dataset

MAX_ROWS, COLUMNS, MAX_FLIPPED = 10, 8, 40

Rows = list[tuple[str, list[np.ndarray]]]


def sample_rows(dataset: Dataset) -> Rows:
    """Return the first training pictures of each of up to ten classes, titled with name and counts (figure 5.8)."""
    rows = []
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        counts = [f"{np.sum(split.labels == label):,} {part}" for part, split in dataset.parts.items()]
        pictures = dataset.train.images[np.flatnonzero(dataset.train.labels == label)[:COLUMNS]]
        rows.append((f"{name}: {', '.join(counts)}", list(pictures)))
    return rows


def view_rows(dataset: Dataset, augmentation: Augmentation) -> Rows:
    """Return the first training picture of up to ten classes, each with its `picture_views` (figure 5.11)."""
    rows = []
    for label, name in enumerate(dataset.classes[:MAX_ROWS]):
        index = np.flatnonzero(dataset.train.labels == label)[0]
        views = picture_views(dataset.train.images[index], augmentation, COLUMNS - 1, index)
        rows.append((f"{name}: {dataset.train.names[index]}, then as augmented", views))
    return rows


def picture_views(picture: np.ndarray, augmentation: Augmentation, count: int = 4, index: int = 0) -> list[np.ndarray]:
    """Return a picture, then its views as seed 0 sees them in the first `count` epochs (listing 5.12).

    `index` is its number among the training pictures.
    """
    return [picture, *(augmentation(picture, picture_rng(0, epoch, index)) for epoch in range(count))]


def flipped_pictures(dataset: Dataset, judgement: Judgement) -> list[tuple[str, np.ndarray]]:
    """Return the test pictures that flipped most consistently, each with its title.

    The title has the label, the change in the rate of being right, and for both sides the class that most runs gave
    with their mean confidence in it.
    """
    pictures = []
    flips = zip(judgement.flips.pictures, judgement.flips.changes, strict=True) if judgement.flips else ()
    for place, change in [*flips][:MAX_FLIPPED]:
        answers = []
        for side in (judgement.baseline, judgement.runs):
            classes = [run.predicted[place] for run in side]
            answer = max(set(classes), key=classes.count)
            confidence = np.mean([run.confidence[place] for run in side if run.predicted[place] == answer])
            answers.append(f"{dataset.classes[answer]} {confidence:.2f}")
        title = f"{dataset.classes[dataset.test.labels[place]]} ({change:+.1f})\n{' > '.join(answers)}"
        pictures.append((title, dataset.test.images[place]))
    return pictures
