"""The plots look as they did when somebody looked at them; and a change that a person would see is caught."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
from builders import result_with_history
from matplotlib.figure import Figure
from matplotlib.text import Text
from pytest_regressions.image_regression import ImageRegressionFixture

from convspec.accuracy.judgement import results_from_predictions
from convspec.accuracy.measures import Measures, measure
from convspec.report import charts

# Mean difference in percent of white. A second rendering differs by 0, the smallest change below by 0.005.
TOLERANCE = 0.003
ACCURACIES = {"from_scratch": 0.72, "augmented": 0.83, "feature_extraction": 0.9, "fine_tuned": 0.965}


def pets() -> Measures:
    """Of 400 pictures in seven classes one in three is taken for the next class, with less confidence."""
    labels = np.arange(400) ** 2 % 23 % 7
    wrong = np.arange(400) % 3 == 0
    runs = results_from_predictions(
        "pets", (labels + wrong) % 7, labels, None, np.arange(1, 401) / 400 * (1 - wrong / 2)
    )
    return measure(runs, tuple("abcdefg"))


PICTURES: dict[str, Callable[[], Figure]] = {
    "ladder": lambda: charts.chart({
        rung: [result_with_history(rung, "full", accuracy + 0.01 * seed, seed) for seed in range(3)]
        for rung, accuracy in ACCURACIES.items()
    }),
    "accuracy": lambda: charts.curve(
        [result_with_history("from_scratch", "full", 0.72, seed) for seed in range(3)], "accuracy"
    ),
    "loss": lambda: charts.curve([result_with_history("from_scratch", "full", 0.72)], "loss"),
    "confusion": lambda: charts.confusion(pets()),
    "reliability": lambda: charts.reliability(pets()),
    "dead": lambda: charts.dead_by_depth(
        {"block1_conv1": 0.0, "block2_conv1": 0.06, "block3_conv1": 0.25, "block4_conv1": 0.5}
    ),
}  # fmt: skip


def png(name: str, change: Callable[[Figure], None] | None = None) -> bytes:
    """The plot as a file, without its words, whose shapes and room follow the release of the fonts."""
    file = io.BytesIO()
    with matplotlib.style.context("default"):
        figure = PICTURES[name]()
        figure.draw_without_rendering()  # so that all that there is has been made
        figure.set_layout_engine("none")
        for axes in figure.axes:
            axes.set(position=(0.1, 0.1, 0.85, 0.85), xlim=axes.get_xlim(), ylim=axes.get_ylim())
        for text in [*figure.findobj(Text), *figure.legends]:
            text.set_visible(False)
        if change:
            change(figure)
        figure.savefig(file, dpi=60, facecolor="white")
    return file.getvalue()


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_golden_one(name: str, image_regression: ImageRegressionFixture) -> None:
    image_regression.check(png(name), TOLERANCE, basename=name)


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
