"""The curves show the histories that they are drawn from, and their colours can be told apart."""

import io
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from builders import result
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from convspec import BadInput
from convspec.accuracy.judgement import results_from_predictions
from convspec.accuracy.measures import measure
from convspec.ladder.recipe import Scale
from convspec.ladder.result import Result
from convspec.report import charts

# What a colour is to those without cones for long and for medium waves, in linear RGB: Machado et al. 2009, table 1.
COLOUR_BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    "nobody": np.eye(3),
}


def runs(scale: Scale = "full", **histories: list[list[float]]) -> list[Result]:
    """One run a seed, with these histories."""
    seeds = range(len(next(iter(histories.values()))))
    return [
        replace(
            result("from_scratch", scale, 0.7, seed), history={name: rows[seed] for name, rows in histories.items()}
        )
        for seed in seeds
    ]


def words(figure: Figure) -> set[str]:
    """All that can be read in the figure."""
    figure.draw_without_rendering()
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()}


TWO = runs(accuracy=[[0.5, 0.75, 0.875], [0.625, 0.75, 1.0]], val_accuracy=[[0.5, 0.5, 0.25], [0.75, 0.5, 0.5]])


def drawn(figure: Figure, marker: str, place: int) -> np.ndarray:
    """The values of one of the lines with that marker, in the order in which they were drawn."""
    return np.asarray([line for line in figure.axes[0].lines if line.get_marker() == marker][place].get_ydata(), float)


def test_dots_are_the_raw_values_in_the_mean_over_the_seeds() -> None:
    figure = charts.curve(TWO, "accuracy")
    np.testing.assert_allclose(drawn(figure, "o", 0), [0.5625, 0.75, 0.9375])
    np.testing.assert_allclose(drawn(figure, "o", 1), [0.625, 0.5, 0.375])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1, 2, 3], "epochs are counted from one")


@pytest.mark.parametrize(("epochs", "kept"), [(15, 0.0), (16, 0.8)])
def test_lines_and_bands_are_smoothed_from_16_epochs_on(epochs: int, kept: float) -> None:
    """A seed that falls from 1 to 0, and one that is always 0."""
    falling = [1.0] + [0.0] * (epochs - 1)
    axes = charts.curve(runs(accuracy=[falling, [0.0] * epochs]), "accuracy").axes[0]
    expected = kept ** np.arange(epochs)
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata(), float), expected / 2)
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    for epoch, high in enumerate(expected, start=1):
        there = band[np.isclose(band[:, 0], epoch), 1]
        assert (there.min(), there.max()) == pytest.approx((0, high)), f"epoch {epoch}"
    assert not charts.curve(runs(accuracy=[falling]), "accuracy").axes[0].collections, "one seed has no band"


PETS = measure(
    results_from_predictions("pets", [[0, 0, 1], [0, 1, 1]], [0, 0, 1], confidence=[[0.6, 0.6, 0.9]] * 2),
    ("cat", "dög"),
)


def test_a_row_of_the_confusion_matrix_holds_the_answers_to_a_class() -> None:
    axes = charts.confusion(PETS).axes[0]
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    assert shown == {(0.5, 0.5): "1.5", (1.5, 0.5): "0.5", (1.5, 1.5): "1"}
    low, high = axes.get_ylim()
    assert low > high, "downwards"
    assert [[label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())] == [
        ["cat", "dög"]
    ] * 2


def test_counts_have_three_digits_or_are_whole() -> None:
    assert " ".join(map(charts.count_of, (0.5, 12.75, 999.4, 1000, 12345.6))) == "0.5 12.8 999 1,000 12,346"


def test_reliability_has_the_accuracy_and_the_share_of_each_confidence() -> None:
    axes = charts.reliability(PETS).axes[0]
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_xydata(), float), [[0.6, 0.75], [0.9, 1.0]])
    assert [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)] == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("кошка", "кошка"),
        ("猫", r"\u732b"),
        ("ח", r"\u05d7"),
        ("a\nb", r"a\nb"),
        ("a long name of a class", "a long name o..."),
    ],
)
def test_a_class_is_labelled_by_signs_that_the_font_has(name: str, label: str) -> None:
    matrix = charts.confusion(replace(PETS, classes=("cat", name)))
    assert matrix.axes[0].get_yticklabels()[1].get_text() == label


@pytest.mark.parametrize("name", ["pets", "n" * 120])
def test_a_long_name_of_a_folder_leaves_the_chart_its_width(name: str) -> None:
    figure = charts.chart({"augmented": [result("augmented", "mini", 0.9, dataset=name)]}, width=6)
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_position().width > 0.75
    assert name in figure.axes[0].get_title(loc="left").replace("\n", "")


def test_each_metric_has_its_own_values_and_words() -> None:
    both = runs(accuracy=[[0.5, 0.75]], loss=[[2.0, 1.0]])
    np.testing.assert_allclose(drawn(charts.curve(both, "loss"), "o", 0), [2.0, 1.0])
    assert charts.curve(both, "loss").axes[0].get_ylabel() == "loss"
    read = words(charts.curve(both, "accuracy"))
    assert {"accuracy", "epoch", "training"} <= read
    assert "validation" not in read, "there is none"


def test_the_published_figure_is_a_line_in_the_middle_of_its_band() -> None:
    figure = charts.curve(TWO, "accuracy")
    np.testing.assert_allclose(np.ptp(drawn(figure, "None", 2)), 0)
    np.testing.assert_allclose(drawn(figure, "None", 2)[0], 0.71)
    (band,) = figure.axes[0].patches
    assert np.ravel(band.get_window_extent().transformed(figure.axes[0].transData.inverted()))[[1, 3]] == pytest.approx(
        [0.70, 0.72]
    )
    assert "validation, published" in words(figure)


@pytest.mark.parametrize(("metric", "scale"), [("accuracy", "mini"), ("loss", "full")])
def test_no_published_figure_lies_over_the_loss_or_another_scale(metric: str, scale: Scale) -> None:
    figure = charts.curve(runs(scale, **{metric: [[0.5, 0.75]]}), metric)
    assert not [word for word in words(figure) if "published" in word]
    assert not figure.axes[0].patches


def test_values_are_of_the_parts_and_the_epochs_that_all_seeds_have() -> None:
    values = charts.values_by_part(runs(loss=[[3.0, 2.0, 1.0], [4.0, 3.0]]), "loss")
    assert list(values) == ["training"]
    np.testing.assert_array_equal(values["training"], [[3.0, 2.0], [4.0, 3.0]])
    np.testing.assert_array_equal(charts.values_by_part(TWO, "accuracy")["validation"][1], [0.75, 0.5, 0.5])


def test_runs_without_the_metric_are_refused_with_what_they_have() -> None:
    with pytest.raises(BadInput, match=r"runs must have a history of loss, got \[\['accuracy', 'val_accuracy'\]"):
        charts.curve(TWO, "loss")


def test_the_ladders_chart_shows_each_run_in_its_rungs_row_from_the_top() -> None:
    accuracies = {"from_scratch": [0.7, 0.75], "augmented": [0.8], "fine_tuned": [0.95]}
    figure = charts.chart({
        rung: [result(rung, "full", accuracy, seed) for seed, accuracy in enumerate(group)]
        for rung, group in accuracies.items()
    })  # fmt: skip
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [list(np.asarray(line.get_xdata())) for line in dots] == list(accuracies.values())
    assert [set(np.asarray(line.get_ydata())) for line in dots] == [{0}, {1}, {2}]
    low, high = figure.axes[0].get_ylim()
    assert low > high, "downwards"
    assert {*accuracies, "0.725", "test, one seed", "published"} <= words(figure)


@pytest.mark.parametrize("shares", [(0.0, 0.25, 0.5), (0.5, 0.125, 1.0)])
def test_a_bar_is_as_long_as_its_share_and_the_first_layer_at_the_top(shares: tuple[float, float, float]) -> None:
    figure = charts.dead_by_depth(dict(zip(("first", "middle", "last"), shares, strict=True)))
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] == pytest.approx(
        [100 * share for share in shares]
    )
    low, high = axes.get_ylim()
    assert low > high, "downwards"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "middle", "last"]
    assert {f"{share:.0%}" for share in shares} <= words(figure)


@pytest.mark.parametrize("kind", COLOUR_BLIND)
def test_training_and_validation_can_be_told_apart_by_everyone(kind: str) -> None:
    """By colour, at least 30 in CIELAB's units, of which 2.3 can just be seen; and by the line alone."""
    seen = []
    for _, colour, _ in charts.PARTS.values():
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        seen.append(_lab(np.clip(np.asarray(COLOUR_BLIND[kind]) @ linear, 0, 1)))
    assert np.linalg.norm(seen[0] - seen[1]) > 30
    assert all(one != other for one, other in combinations([style for _, _, style in charts.PARTS.values()], 2))


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, under D65."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(np.array(matrix) @ linear / [0.9505, 1, 1.089], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
