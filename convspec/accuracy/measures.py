"""What an accuracy is worth on these pictures: share of the commonest class, recalls, confusions and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from convspec import BadInput
from convspec.accuracy.baselines import Run

Measure = Literal["accuracy", "balanced"]  # what a gate judges
UNBALANCED = 1.2  # times the share of each class if all had the same, from which on the accuracy alone misleads
BINS = 15  # of the confidence, as in Guo et al. 2017 (arXiv:1706.04599)


@dataclass(frozen=True)
class Measures:
    """Measures of runs on the same test pictures, averaged over the runs; shares and accuracies are from 0 to 1."""

    classes: tuple[str, ...]
    commonest: str  # class
    majority: float  # its share, which a model that always answers it reaches
    balanced: float  # mean of the recalls
    recalls: dict[str, float]  # share of each class's test pictures that is recognised
    confusion: np.ndarray  # (classes, classes), true by predicted: test pictures, mean over the runs
    calibration_error: float  # expected calibration error: mean distance of confidence and accuracy over the bins
    reliability: list[tuple[float, float, float]]  # mean confidence, accuracy and share of the predictions, by bin

    @property
    def lowest(self) -> tuple[str, float]:
        """Class that is recognised least often, and its recall."""
        return min(self.recalls.items(), key=lambda item: item[1])

    @property
    def say_more_than_accuracy(self) -> bool:
        """Whether there are more than two classes, or some are much rarer than others."""
        return len(self.recalls) > 2 or self.majority * len(self.recalls) > UNBALANCED

    @property
    def confusions(self) -> list[tuple[str, str, float]]:
        """True class, predicted class and mean number of test pictures, the most frequent confusion first."""
        wrong = self.confusion * (1 - np.eye(len(self.classes)))
        order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
        pairs = [divmod(int(place), len(self.classes)) for place in order]
        return [(self.classes[true], self.classes[given], float(wrong[true, given])) for true, given in pairs]


def measure(runs: Sequence[Run], classes: Sequence[str]) -> Measures:
    """Return the measures of runs of one model; `classes` names the labels.

    Classes without a test picture have no recall and don't count for the balanced accuracy. Raises BadInput for a label
    or a prediction without a name.
    """
    labels, predicted = np.array(runs[0].labels), np.array([run.predicted for run in runs])
    confidence = np.array([run.confidence for run in runs], float).ravel()
    count, right = len(classes), predicted == labels
    if unnamed := sorted({*labels.tolist(), *predicted.ravel().tolist()} - {*range(count)}):
        raise BadInput(f"classes must name each class, but of {count} names none is that of {unnamed[0]}")
    pairs = np.bincount((labels * count + predicted).ravel(), minlength=count * count)
    confusion = pairs.reshape(count, count) / len(runs)
    pictures = np.bincount(labels, minlength=count)
    tested = np.flatnonzero(pictures).tolist()
    recalls = confusion.diagonal()[tested] / pictures[tested]
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # each bin holds its upper edge
    reliability = [
        (float(confidence[chosen].mean()), float(right.ravel()[chosen].mean()), float(chosen.mean()))
        for chosen in (bins == number for number in np.unique(bins))
    ]
    return Measures(
        classes=tuple(classes),
        commonest=classes[int(pictures.argmax())],
        majority=float(pictures.max() / len(labels)),
        balanced=float(recalls.mean()),
        recalls={classes[place]: float(recall) for place, recall in zip(tested, recalls, strict=True)},
        confusion=confusion,
        calibration_error=sum(share * abs(sure - accuracy) for sure, accuracy, share in reliability),
        reliability=reliability,
    )


def picture_weights(labels: ArrayLike) -> np.ndarray:
    """Return the weight of each picture, 1 on average, with which the accuracy is the balanced accuracy."""
    _, positions, pictures = np.unique(labels, return_inverse=True, return_counts=True)
    return (len(positions) / len(pictures) / pictures)[positions]
