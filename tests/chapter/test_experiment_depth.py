"""Experiment: what becomes of pictures, layer by layer, in the chapter's own trained convnet (sections 5.4.1, 5.4.2).

The convnet is the ladder's `from_scratch` at mini, trained with 600 pictures. (The section shows the one trained with
views and dropout, which would take twice as long to learn as much.) "Information about the visual
contents" is how much of the pixels, at 12 x 12, ridge regression explains from what a pooling layer gives;
"information related to the class" is the accuracy of a linear probe on the same. A filter is blank for a picture where
its map is 0 everywhere. Kernels of a first layer are "edges and colors" as far as they are a plane in each colour: a
level (colour) and a slope (directional edge). These are 9 of a kernel's 27 dimensions, so that a random one has a
third of its energy there. A seed draws the first weights and the order of the pictures.
"""

from functools import cache
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import keras
import numpy as np
import pytest
from builders import mini_base
from claims import Effect, Evidence, Experiment, assert_control, assert_effect, claim, paired, seeds
from experiments import claim_chart, one_hot_accuracy, r_squared, ridge
from matplotlib.figure import Figure

from convspec import models
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.data.datasets import Dataset, Split
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import find_recipe

SEEDS = seeds(5)
STAGES = ("pixels", "1", "2", "3", "4")  # numbers of convolutions passed, each with its pooling


@cache
def split(per_class: int, seed: int) -> Split:
    images, labels = shapes.pictures(shapes.TARGETS, per_class, seed)
    return Split(images, labels, tuple(f"{seed}/{place}" for place in range(len(labels))))


@cache
def convnet(seed: int, trained: bool) -> keras.Model:
    """Train the convnet, or return it as it was before training."""
    recipe = find_recipe("from_scratch", "mini")
    dataset = Dataset("shapes", tuple(shapes.TARGETS), split(300, 5), split(20, 6), split(300, 902))
    if not trained:
        keras.utils.set_random_seed(seed)
        return models.small_convnet((shapes.SIZE, shapes.SIZE, 3), recipe.dropout, 2, recipe.filters)
    with TemporaryDirectory() as folder:
        run_recipe(recipe, dataset, seed, Path(folder))
        (file,) = Path(folder, "models").glob("*.keras")
        return keras.models.load_model(file)


@cache
def stages(seed: int, trained: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what 600 pictures are, and 600 new ones, as pixels and after each pooling."""
    model = convnet(seed, trained)
    pooled = [layer.output for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    see, parts = keras.Model(model.inputs, pooled), []
    for part in (split(300, 5), split(300, 902)):
        pictures = rescale(part.images.astype(np.float32))
        parts.append([pictures, *see.predict(pictures, batch_size=100, verbose=0)])
    return list(zip(*parts, strict=True))


@cache
def information(seed: int, trained: bool) -> np.ndarray:
    """Return what each stage says of pixels (R2) and class (accuracy), and, the same, of shuffled ones; (4, stages)."""
    parts = split(300, 5), split(300, 902)
    small = [
        np.stack([cv2.resize(image, (12, 12), interpolation=cv2.INTER_AREA) for image in part.images]) for part in parts
    ]
    contents, labels = (
        [pictures.reshape(len(pictures), -1) / 255 for pictures in small],
        [part.labels for part in parts],
    )
    order, found = np.random.default_rng(seed).permutation(len(parts[0])), list[list[float]]()
    for train, test in stages(seed, trained):
        predict = ridge(train, test)
        found.append([])
        for places in (slice(None), order):
            found[-1].append(r_squared(predict, contents[0][places], contents[1]))
            found[-1].append(one_hot_accuracy(predict, labels[0][places], labels[1]))
    return np.array(found).T


@cache
def blank(seed: int, trained: bool) -> np.ndarray:
    """Return the share of blank filters after each convolution, in the mean over 200 new pictures."""
    model = convnet(seed, trained)
    convolutions = [layer.output for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    pictures = rescale(split(300, 902).images[:200].astype(np.float32))
    maps = keras.Model(model.inputs, convolutions).predict(pictures, batch_size=100, verbose=0)
    return np.array([np.mean(output.max(axis=(1, 2)) == 0) for output in maps])


def trend(by_stage: list[np.ndarray]) -> Effect:
    """Return the slope over the stages, a stage, seed by seed."""
    return Effect(tuple(float(np.polyfit(range(len(values)), values, 1)[0]) for values in by_stage))


def edges_and_colours(kernel: np.ndarray) -> float:
    """Return the share of the energy of kernels, (3, 3, 3, filters), that is a plane in each colour."""
    line = np.array([-1.0, 0.0, 1.0])
    planes = np.stack([np.ones((3, 3)), *np.meshgrid(line, line)]).reshape(3, 9)
    planes /= np.linalg.norm(planes, axis=1, keepdims=True)
    flat = kernel.reshape(9, -1)
    return float(np.sum((planes @ flat) ** 2) / np.sum(flat**2))


def chart(title: str, ylabel: str, lines: dict[str, list[np.ndarray]], first: int) -> Figure:
    """Plot each line's values, an array a seed, over the stages from `first` on."""
    by_stage, names = {label: np.transpose(values) for label, values in lines.items()}, STAGES[first:]
    return claim_chart(title, "convolutions passed", ylabel, range(len(names)), by_stage, names)


@pytest.mark.experiment
@pytest.mark.slow
@claim(124, "5.4.1", "less information about the specific input being seen", "holds", kind="measured")
def test_by_depth_less_is_said_of_the_pixels_and_more_of_the_class(experiment: Experiment) -> None:
    lines = {
        label: [information(seed, True)[row] for seed in SEEDS]
        for row, label in enumerate(("of the pixels: variance explained", "of the class: accuracy of a linear probe"))
    }
    title = "Claim: higher layers carry less and less information about the input,\nand more and more about its class"
    figure = chart(title, "information of new pictures (%)", lines, 0)
    contents, classes = (trend(values) for values in lines.values())
    experiment(contents, "explained variance of the pixels, a stage deeper", figure)
    experiment(classes, "accuracy of a linear probe for the class, a stage deeper")
    learned = []
    for row, about in enumerate(("explained variance of the pixels", "accuracy of a linear probe for the class")):
        after, before = ([information(seed, trained)[row, -1] for seed in SEEDS] for trained in (True, False))
        learned.append(paired(after, before))
        experiment(learned[row], f"{about}, at the end, convnet after over before training")
    assert_effect(contents, below=0, why="maps shrink, and what doesn't tell classes is left out")
    assert_effect(classes, above=0, why="what tells classes is magnified")
    assert_effect(learned[0], below=0, why="maps of the same size keep more before anything is learned")
    assert_effect(learned[1], above=0, why="that is what is learned")


@pytest.mark.experiment
@pytest.mark.slow
def test_shuffled_pixels_and_classes_have_no_trend_by_depth() -> None:
    """The defect that pixels and classes belong to other pictures."""
    for row in (2, 3):
        effect, control = (trend([information(seed, True)[each] for seed in SEEDS]) for each in (row - 2, row))
        assert_control(control, effect)


@pytest.mark.experiment
@pytest.mark.slow
@claim(125, "5.4.1", "The sparsity of the activations increases with the depth", "qualified", kind="measured")
@claim(125.3, "5.4.1", "in the first layer, all filters are activated", "qualified", kind="measured")
def test_more_filters_are_blank_the_deeper_the_layer(experiment: Experiment) -> None:
    """Of the mini convnet. Most of that it has before training, and of the first layer some are blank, too."""
    lines = {"trained": [blank(seed, True) for seed in SEEDS], "untrained": [blank(seed, False) for seed in SEEDS]}
    figure = chart("Claim: the sparsity of activations increases with the depth of the layer",
                   "filters that are 0 all over a picture (%)", lines, 1)  # fmt: skip
    experiment(effect := trend(lines["trained"]), "blank filters, a convolution deeper", figure)
    experiment(trend(lines["untrained"]), "the same before training")
    experiment(Effect(tuple(each[0] for each in lines["trained"])), "blank filters of the first layer")
    assert_effect(effect, above=0, why="the pattern of a deeper filter is a rarer one")


@pytest.mark.experiment
@pytest.mark.slow
def test_layers_in_a_random_order_have_no_trend_of_blank_filters() -> None:
    """The defect that layers stand in a wrong order, another for each seed."""
    orders = [(1, 3, 0, 2), (2, 0, 3, 1), (3, 1, 2, 0), (0, 2, 1, 3), (1, 2, 3, 0)]
    mixed = trend([blank(seed, True)[list(order)] for seed, order in zip(SEEDS, cycle(orders), strict=False)])
    assert_control(mixed, trend([blank(seed, True) for seed in SEEDS]))


@pytest.mark.experiment
@pytest.mark.slow
@claim(129.1, "5.4.2", "encode simple directional edges and colors", "holds", kind="measured")
def test_first_kernels_are_edges_and_colours_more_than_random_ones(experiment: Experiment) -> None:
    """The mini base saw 19,200 pictures again and again, the convnet 600."""
    first = {
        trained: [edges_and_colours(convnet(seed, trained).layers[0].get_weights()[0]) for seed in SEEDS]
        for trained in (True, False)
    }
    base = mini_base()
    pretrained = [edges_and_colours(base.get_layer("block1_conv1").get_weights()[0])] * len(SEEDS)
    experiment(effect := paired(pretrained, first[False]), "energy in edges and colours, mini base over random kernels")
    experiment(begun := paired(first[True], first[False]), "the same, convnet after over before training")
    assert_effect(effect, above=0.2, why="edges and colours are what pictures have most of")
    assert_effect(begun, above=0, why="few pictures begin to")


@pytest.mark.full
@claim(129.1, "5.4.2", "encode simple directional edges and colors", "holds")
def test_vgg16s_first_kernels_are_edges_and_colours_by_four_fifths(data_folder: Path, evidence: Evidence) -> None:
    base = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (32, 32, 3))
    share = edges_and_colours(base.get_layer("block1_conv1").get_weights()[0])
    evidence(f"{share:.3f} of the kernels' energy, of random kernels' 0.333")
    assert share > 0.8


def test_a_plane_in_each_colour_is_all_edge_and_colour_and_a_line_is_not() -> None:
    planes = np.stack([np.full((3, 3), 2.0), np.arange(9.0).reshape(3, 3), np.arange(9.0).reshape(3, 3).T], axis=-1)
    assert edges_and_colours(planes[..., None]) == pytest.approx(1)
    line = np.array([[0, 0, 0], [-1, 2, -1], [0, 0, 0.0]])
    assert edges_and_colours(np.stack([line] * 3, axis=-1)[..., None]) == pytest.approx(0)
