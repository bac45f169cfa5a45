"""Networks, pictures and charts of the experiments on the chapter's arguments."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure

from convspec import backend, training
from convspec.accuracy.statistics import interval
from convspec.data import datasets, shapes
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, rescale, stream
from convspec.report.charts import BLUE, GREEN, GREY, ORANGE

COLOURS = BLUE, ORANGE, GREEN, GREY, "#aa3377"
SHAPES_SIZE = 32  # pixels a side: of these, three convolutions with pooling leave 2 x 2 places


class Learner:
    """A network that is trained anew for each seed, but compiled once, which takes longer than a short training."""

    def __init__(
        self, build: Callable[[], keras.Model], learning_rate: float = 1e-3, ema_momentum: float = 0.98
    ) -> None:
        backend.make_deterministic()
        self.build, self.model = build, build()
        training.compile_model(self.model, learning_rate, ema_momentum)  # by default as the ladder's rungs on digits
        self.start = [keras.ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables]

    def train(
        self,
        pictures: Batches | list[Batches],
        seed: int,
        steps: int,
        *,
        epochs: int = 1,
        augmentation: Augmentation | None = None,
    ) -> training.History:
        """Train from new weights; see `stream` for `pictures`, of which several are views, and `augmentation`.

        All batches are drawn first: handed over one by one they would take a tenth longer.
        """
        keras.utils.set_random_seed(seed)
        fresh = [*self.build().variables, *self.start]
        for variable, value in zip([*self.model.variables, *self.model.optimizer.variables], fresh, strict=True):
            variable.assign(value)
        with closing(stream(pictures, seed, augmentation)) as batches:
            inputs, labels = map(np.concatenate, zip(*islice(batches, epochs * steps), strict=True))
        size = len(labels) // (epochs * steps)
        fitted = self.model.fit(inputs, labels, size, epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
        return fitted.history

    def accuracy(self, pictures: Batches) -> float:
        """Return the share of pictures that the network gets right."""
        inputs = pictures.prepare(pictures.inputs.astype(np.float32))
        predicted = training.predicted_classes(self.model.predict(inputs, batch_size=500, verbose=0))
        return float(np.mean(predicted == pictures.labels))


def as_batches(images: np.ndarray, labels: np.ndarray) -> Batches:
    """Return pictures of 0 to 255 as batches of 32."""
    return Batches(images, labels, 32, rescale)


@cache
def all_digits(size: int, mnist: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures and labels of scikit-learn's 1,797 digits, or of MNIST's 70,000 from a data folder."""
    parts = datasets.load_dataset("mnist" if mnist else "digits", size, mnist)
    images, labels = zip(*((part.images, part.labels) for part in (parts.train, parts.test)), strict=True)
    return np.concatenate(images), np.concatenate(labels)


@cache
def drawn_shapes(count: int, size: int = SHAPES_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Return that many drawn pictures of the two target classes, and their labels."""
    return shapes.pictures(shapes.TARGETS, count // 2, seed=17, size=size)


def draw_parts(pool: tuple[np.ndarray, np.ndarray], seed: int, *counts: int) -> list[Batches]:
    """Return disjoint parts of a pool of pictures, drawn at random for each seed."""
    order = np.random.RandomState(seed).permutation(len(pool[1]))[: sum(counts)]
    return [as_batches(*(part[chosen] for part in pool)) for chosen in np.split(order, np.cumsum(counts[:-1]))]


def claim_chart(
    title: str,
    xlabel: str,
    ylabel: str,
    x: Sequence[float],
    lines: Mapping[Any, Any],
    ticks: Sequence[str] = (),
    *,
    joined: bool = True,
    log: bool = False,
) -> Figure:
    """Return a chart whose title is a claim, with values by line, (places, seeds): shares, shown as percent.

    Small dots are the values, large ones their means with 95 % intervals.
    """
    figure = Figure(figsize=(7, 3.8), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    for (label, values), colour, style in zip(lines.items(), COLOURS, ("-", "--", ":", "-.", "-"), strict=False):
        percent = 100 * np.asarray(values)
        half = [np.ptp(interval(row, 1)) / 2 if np.ptp(row) else 0.0 for row in percent]
        axes.plot(x[: len(percent)], percent, ".", color=colour, alpha=0.4, markersize=5)
        form = f"o{style}" if joined else "o"
        axes.errorbar(x[: len(percent)], percent.mean(axis=1), half, color=colour, fmt=form, capsize=4, label=label)
    axes.set_xticks(x, ticks or [f"{each:,}" for each in x])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def gap(accuracies: np.ndarray) -> np.ndarray:
    """Return how much higher the first row, of training pictures, is than the last, of test pictures, one a seed."""
    return accuracies[0] - accuracies[-1]


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


def r_squared(predict: Callable[[np.ndarray], np.ndarray], targets: np.ndarray, test: np.ndarray) -> float:
    """Return the share of the variance of the targets `test` that regression explains (R2)."""
    return float(1 - np.sum((predict(targets) - test) ** 2) / np.sum((test - test.mean(axis=0)) ** 2))
