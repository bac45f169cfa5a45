"""The plots look as they did when somebody looked at them; and a change that a person would see is caught."""

import io
from collections.abc import Callable
from pathlib import Path

import keras
import matplotlib.style
import numpy as np
import pytest
from builders import result_with_history
from keras import layers
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from pytest_regressions.image_regression import ImageRegressionFixture

from convspec.accuracy.judgement import results_from_predictions
from convspec.accuracy.measures import Measures, measure
from convspec.report import charts
from convspec.visualization.maps import channel_tiles, tile
from convspec.visualization.patterns import filter_patterns

# Mean difference in percent of white. A second rendering differs by 0, the smallest change below by 0.005; floats of
# another backend move the pixels of a pattern by a few levels.
TOLERANCE, PATTERN_TOLERANCE = 0.003, 0.2
ACCURACIES = {"from_scratch": 0.72, "augmented": 0.83, "feature_extraction": 0.9, "fine_tuned": 0.965}


def ladder() -> Figure:
    return charts.chart({
        rung: [result_with_history(rung, "full", accuracy + 0.01 * seed, seed) for seed in range(3)]
        for rung, accuracy in ACCURACIES.items()
    })  # fmt: skip


def accuracy() -> Figure:
    return charts.curve([result_with_history("from_scratch", "full", 0.72, seed) for seed in range(3)], "accuracy")


def loss() -> Figure:
    return charts.curve([result_with_history("from_scratch", "full", 0.72)], "loss")


def confusion() -> Figure:
    return charts.confusion(pets())


def reliability() -> Figure:
    return charts.reliability(pets())


def pets() -> Measures:
    """Of 400 pictures in seven classes one in three is taken for the next class, with less confidence."""
    labels = np.arange(400) ** 2 % 23 % 7
    wrong = np.arange(400) % 3 == 0
    runs = results_from_predictions(
        "pets", (labels + wrong) % 7, labels, None, np.arange(1, 401) / 400 * (1 - wrong / 2)
    )
    return measure(runs, tuple("abcdefg"))


def dead() -> Figure:
    return charts.dead_by_depth({"block1_conv1": 0.0, "block2_conv1": 0.06, "block3_conv1": 0.25, "block4_conv1": 0.5})


def tiles() -> np.ndarray:
    """20 channels, of which the fifth is dead and the sixth the same everywhere."""
    row, column = np.mgrid[:12, :12] / 12
    maps = np.stack([np.maximum(np.sin(6 * row + k) * np.cos((4 + k % 5) * column), 0) for k in range(20)], axis=-1)
    maps[..., 4], maps[..., 5] = 0, 1
    return channel_tiles(maps)


def patterns() -> np.ndarray:
    """Of four filters that look for edges, upright, level and both ways between."""
    row, column = np.mgrid[-2:3, -2:3]
    edges = np.stack([column, row, row + column, row - column], axis=-1) / 10
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 5, activation="relu", name="edges")])
    model.layers[0].set_weights([np.repeat(edges[:, :, None], 3, axis=2), np.ones(4)])
    return tile(filter_patterns(model, "edges", range(4), size=32), columns=4, margin=5)


PICTURES: dict[str, Callable[[], Figure | np.ndarray]] = {
    each.__name__: each for each in (ladder, accuracy, loss, confusion, reliability, dead, tiles, patterns)
}


def png(name: str, change: Callable[[Figure], None] | None = None) -> bytes:
    """The picture as a file; of a plot without its words, whose shapes and room follow the release of the fonts."""
    file = io.BytesIO()
    with matplotlib.style.context("default"):
        made = PICTURES[name]()
        if not isinstance(made, Figure):
            Image.fromarray(made).save(file, "PNG")
            return file.getvalue()
        made.draw_without_rendering()  # so that all that there is has been made
        made.set_layout_engine("none")
        for axes in made.axes:
            axes.set(position=(0.1, 0.1, 0.85, 0.85), xlim=axes.get_xlim(), ylim=axes.get_ylim())
        for text in [*made.findobj(Text), *made.legends]:
            text.set_visible(False)
        if change:
            change(made)
        made.savefig(file, dpi=60, facecolor="white")
    return file.getvalue()


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_golden_one(name: str, image_regression: ImageRegressionFixture) -> None:
    tolerance = PATTERN_TOLERANCE if name == "patterns" else TOLERANCE
    image_regression.check(png(name), tolerance, basename=name)


def test_every_golden_picture_is_drawn_by_a_test(original_datadir: Path) -> None:
    assert {file.stem for file in original_datadir.iterdir()} == set(PICTURES)


def shift_a_curve(figure: Figure) -> None:
    """Up by a twentieth of the axis."""
    line, (low, high) = figure.axes[0].lines[1], figure.axes[0].get_ylim()
    line.set_ydata(np.asarray(line.get_ydata()) + (high - low) / 20)


def move_a_dot(figure: Figure) -> None:
    """One seed of the second rung, by a point and a half."""
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"][1]
    dots.set_xdata(np.asarray(dots.get_xdata()) - [0.015, 0, 0])


@pytest.mark.parametrize(
    ("name", "change"), [("ladder", move_a_dot), ("accuracy", shift_a_curve), ("loss", shift_a_curve)]
)
def test_a_change_that_a_person_would_see_is_caught(
    name: str, change: Callable[[Figure], None], image_regression: ImageRegressionFixture
) -> None:
    image_regression.check(png(name, change), TOLERANCE, expect_equal=False, basename=name)
