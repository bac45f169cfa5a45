"""The plots look as they did when somebody looked at them; and a change that a person would see is seen."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import golden
import keras
import numpy as np
import pytest
from builders import result
from keras import layers
from matplotlib.figure import Figure

from convspec.ladder.result import Result
from convspec.report import charts
from convspec.visualization.maps import channel_tiles, tile
from convspec.visualization.patterns import filter_patterns

EPOCHS = np.arange(30)


def run(rung: str = "from_scratch", scale: str = "full", seed: int = 0, accuracy: float = 0.72) -> Result:
    """A run that overfits, as figures 5.9 and 5.10 show it; its noise is a wave, the same everywhere."""
    wave = 0.02 * np.sin(EPOCHS * (2.1 + seed)) + 0.06 * seed
    history = {
        "accuracy": 1 - 0.5 * np.exp(-EPOCHS / 12) + wave / 4,
        "val_accuracy": 0.72 - 0.2 * np.exp(-EPOCHS / 5) + wave,
        "loss": 0.7 * np.exp(-EPOCHS / 10) + wave / 4 + 0.02,
        "val_loss": 0.55 + 0.15 * np.exp(-EPOCHS / 3) + 0.0004 * EPOCHS**2 + wave,
    }
    made = result(rung, scale, accuracy, seed)
    return replace(made, history={name: values.tolist() for name, values in history.items()})


def ladder() -> Figure:
    rungs = {"from_scratch": 0.72, "augmented": 0.83, "feature_extraction": 0.9, "fine_tuned": 0.965}
    return charts.chart({
        rung: [run(rung, accuracy=accuracy + 0.01 * seed, seed=seed) for seed in range(3)]
        for rung, accuracy in rungs.items()
    })  # fmt: skip


def accuracy() -> Figure:
    return charts.curve([run(seed=seed) for seed in range(3)], "accuracy")


def loss() -> Figure:
    return charts.curve([run()], "loss")


def dead() -> Figure:
    return charts.dead_by_depth({"block1_conv1": 0.0, "block2_conv1": 0.06, "block3_conv1": 0.25, "block4_conv1": 0.5})


def tiles() -> np.ndarray:
    """20 channels, of which the fifth is dead and the sixth the same everywhere."""
    row, column = np.mgrid[:12, :12] / 12
    maps = np.stack([np.maximum(np.sin(6 * row + k) * np.cos((4 + k % 5) * column), 0) for k in range(20)], axis=-1)
    maps[..., 4], maps[..., 5] = 0, 1
    return np.repeat(channel_tiles(maps)[..., None], 3, axis=-1)


def patterns() -> np.ndarray:
    """Of four filters that look for edges, upright, level and both ways between."""
    row, column = np.mgrid[-2:3, -2:3]
    edges = np.stack([column, row, row + column, row - column], axis=-1) / 10
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 5, activation="relu", name="edges")])
    model.layers[0].set_weights([np.repeat(edges[:, :, None], 3, axis=2), np.ones(4)])
    return tile(filter_patterns(model, "edges", range(4), size=32), columns=4, margin=5)


PICTURES: dict[str, Callable[[], Figure | np.ndarray]] = {
    each.__name__: each for each in (ladder, accuracy, loss, dead, tiles, patterns)
}


@cache
def drawn(name: str) -> np.ndarray:
    made = PICTURES[name]()
    return golden.pixels(made) if isinstance(made, Figure) else made


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_the_golden_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = drawn(name)
    monkeypatch.chdir(tmp_path)
    golden.hold(name, picture)


def test_every_golden_picture_is_drawn_by_a_test() -> None:
    assert {file.stem for file in golden.FOLDER.iterdir()} == set(PICTURES)


def lines(figure: Figure) -> list:
    return list(figure.axes[0].lines)


def shift_a_curve(figure: Figure) -> None:
    """Up by a twentieth of the axis."""
    line, (low, high) = lines(figure)[1], figure.axes[0].get_ylim()
    line.set_ydata(np.asarray(line.get_ydata()) + (high - low) / 20)


def swap_colours(figure: Figure) -> None:
    first, second = lines(figure)[1], lines(figure)[3]
    colours = first.get_color(), second.get_color()
    first.set_color(colours[1])
    second.set_color(colours[0])


def leave_out_a_bar(figure: Figure) -> None:
    [*figure.axes[0].patches, *figure.axes[0].collections][1].remove()


def leave_out_the_band(figure: Figure) -> None:
    figure.axes[0].collections[0].remove()


def leave_out_the_published_figure(figure: Figure) -> None:
    lines(figure)[-1].remove()


def move_a_dot(figure: Figure) -> None:
    """One seed of the second rung, by half a point."""
    dots = [line for line in lines(figure) if line.get_marker() == "o"][1]
    moved = np.array(dots.get_xdata(), float)
    moved[0] -= 0.015
    dots.set_xdata(moved)


def turn_upside_down(figure: Figure) -> None:
    figure.axes[0].invert_yaxis()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ladder", leave_out_a_bar), ("ladder", move_a_dot), ("ladder", turn_upside_down),
        ("accuracy", shift_a_curve), ("accuracy", swap_colours), ("accuracy", leave_out_the_band),
        ("accuracy", leave_out_the_published_figure),
        ("loss", shift_a_curve), ("loss", turn_upside_down),
        ("dead", leave_out_a_bar), ("dead", turn_upside_down),
    ],
)  # fmt: skip
def test_a_change_that_a_person_would_see_is_caught(
    name: str, change: Callable[[Figure], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = PICTURES[name]()
    assert isinstance(figure, Figure)
    axes = figure.axes[0]
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # all else stays where it is, which is harder to see
    change(figure)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=rf"{name} differs by \d+ of 255"):
        golden.hold(name, golden.pixels(figure))
    assert (tmp_path / f"{name}-now.png").is_file(), "to be looked at beside the golden one"


@pytest.mark.parametrize(
    "change",
    [
        lambda p: np.roll(p, (1, 1), axis=(0, 1)),
        lambda p: cv2.warpAffine(p, np.array([[1, 0, 0.5], [0, 1, 0.5]]), p.shape[1::-1], borderValue=(255,) * 3),
        lambda p: np.clip(p + 3.0, 0, 255).astype("u1"),
    ],
    ids=["one pixel", "half a pixel", "lighter"],
)
@pytest.mark.parametrize("name", ["ladder", "accuracy", "loss", "dead"])
def test_what_nobody_would_see_is_let_pass(name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    assert golden.difference(drawn(name), change(drawn(name))) < golden.TOLERANCE


@pytest.mark.parametrize("name", ["tiles", "patterns"])
def test_two_tiles_that_change_places_are_caught(name: str) -> None:
    picture = drawn(name)
    changed = picture.copy()
    changed[:12, :12], changed[:12, 37:49] = picture[:12, 37:49], picture[:12, :12]
    assert golden.difference(picture, changed) > golden.TOLERANCE


def test_a_first_picture_is_written_and_fails_with_the_words_to_say_so(tmp_path: Path) -> None:
    picture = drawn("tiles")
    with pytest.raises(pytest.fail.Exception, match=r"no golden picture yet: look at .*tiles\.png.* and run again"):
        golden.hold("tiles", picture, tmp_path)
    golden.hold("tiles", picture, tmp_path)
