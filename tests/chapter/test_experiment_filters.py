"""Experiment: do filters get more complex by depth, and are inputs combinations of them (section 5.4.2)?

On the mini base, which was trained on 24 classes as VGG16 was on 1,000. Complexity is the spectral entropy of the
patterns of listing 5.38, of 0 (one frequency) to 1 (all alike): one measure of several, chosen as the section names
edges, then textures of edges, then textures of nature. "Their inputs can be expressed as a combination of the
filters": the share of the variance of a layer's input patches that lies in the span of its kernels. VGG16 has more
kernels in its first layer than a patch of three colours has values, 64 of 27; the mini base has fewer. A seed draws
eight filters a layer and the noise that patterns start from; or the pictures that patches are cut from, and the random
kernels, as many and as large, that the learned ones are compared with.
"""

from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from claims import Effect, Evidence, Experiment, assert_control, assert_effect, claim, paired, seeds
from experiments import claim_chart
from matplotlib.figure import Figure

from convspec import backend, models
from convspec.data import shapes
from convspec.data.batches import rescale
from convspec.data.decode import load_image
from convspec.visualization import filter_patterns

SEEDS = seeds(5)
FIRSTS = tuple(f"block{number}_conv1" for number in range(1, 5))  # the first layer of each block, as in listing 5.39
FILTERS, SIZE = 8, 48


@cache
def base(trained: bool, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return models.conv_base("mini", models.MINI_WEIGHTS if trained else None, (SIZE, SIZE, 3))


def entropy(patterns: np.ndarray) -> float:
    """Return the mean spectral entropy of patterns, (n, side, side, channels), as a share of the highest."""
    power = np.abs(np.fft.fft2(patterns - patterns.mean(axis=(1, 2), keepdims=True), axes=(1, 2))) ** 2
    shares = power.sum(axis=-1).reshape(len(patterns), -1)[:, 1:]  # without the mean, which is 0
    shares = shares / shares.sum(axis=1, keepdims=True)
    bits = -np.sum(shares * np.log(np.maximum(shares, 1e-30)), axis=1)
    return float(np.mean(bits) / np.log(shares.shape[1]))


@cache
def patterns(layer: str, seed: int, trained: bool) -> np.ndarray:
    backend.make_deterministic()
    model = base(trained, 0 if trained else seed)
    chosen = np.random.default_rng(seed).permutation(model.get_layer(layer).filters)[:FILTERS]
    return filter_patterns(
        model, layer, chosen.tolist(), SIZE, seed=seed, value_range=(0.0, 1.0), batch=FILTERS, as_pictures=False
    )


@cache
def complexities(seed: int, trained: bool) -> np.ndarray:
    """Return the spectral entropy by block."""
    return np.array([entropy(patterns(layer, seed, trained)) for layer in FIRSTS])


def trend(trained: bool = True) -> Effect:
    """Return the slope of the entropy over the blocks, seed by seed."""
    slopes = [float(np.polyfit(range(len(FIRSTS)), complexities(seed, trained), 1)[0]) for seed in SEEDS]
    return Effect(tuple(slopes))


def span(kernel: np.ndarray, patches: np.ndarray) -> float:
    """Return the share of the variance of patches, (n, d), in the span of kernels, (..., filters)."""
    axes, sizes, _ = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)
    axes = axes[:, sizes > 1e-6 * sizes[0]]
    centred = patches - patches.mean(axis=0)
    return float(np.sum((centred @ axes) ** 2) / np.sum(centred**2))


def cut_patches(layer: keras.Layer, maps: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return what a layer's kernels see in some places of its input, (count, values)."""
    windows = np.lib.stride_tricks.sliding_window_view(maps, layer.kernel_size, axis=(1, 2))
    pictures, rows, columns = (rng.integers(0, size, count) for size in windows.shape[:3])
    return np.moveaxis(windows[pictures, rows, columns], 1, -1).reshape(count, -1).astype(np.float64)


@cache
def expressed(seed: int, randomized: bool) -> dict[str, tuple[float, float, float]]:
    """Return by layer the shares that its kernels, random ones and as many principal components express.

    With `randomized` kernels the layer's own are random, too.
    """
    rng, model = np.random.default_rng(seed), base(True)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    images, _ = shapes.pictures(shapes.TARGETS, 20, 300 + seed)
    inputs = keras.Model(model.inputs, [layer.input for layer in layers]).predict(
        rescale(images.astype(np.float32)), verbose=0
    )
    shares = {}
    for layer, maps in zip(layers, inputs, strict=True):
        patches = cut_patches(layer, maps, 3000, rng)
        kernel = layer.get_weights()[0]
        random = [rng.normal(size=kernel.shape) for _ in range(11)]
        components = np.linalg.svd(patches - patches.mean(axis=0), full_matrices=False)[2][: kernel.shape[-1]].T
        own, control = random[0] if randomized else kernel, np.mean([span(each, patches) for each in random[1:]])
        shares[layer.name] = span(own, patches), float(control), span(components, patches)
    return shares


def chart_complexity() -> Figure:
    lines = {
        f"{'un' * (not trained)}trained base": np.transpose([complexities(seed, trained) for seed in SEEDS])
        for trained in (True, False)
    }
    title, ylabel = "Claim: filters get increasingly complex as you go higher", "spectral entropy of patterns (%)"
    return claim_chart(title, "first convolution of block", ylabel, range(1, 5), lines)


@pytest.mark.experiment
@claim(129, "5.4.2", "increasingly complex and refined as you go higher", "qualified", kind="measured")
def test_patterns_get_more_complex_by_depth_without_training_too(experiment: Experiment) -> None:
    """By spectral entropy, as much in a base that has learned nothing: depth makes it, not what was learned."""
    experiment(effect := trend(), "spectral entropy of filter patterns, a block deeper", chart_complexity())
    experiment(untrained := trend(trained=False), "the same of a base that has learned nothing")
    assert_effect(effect, above=0, why="later filters see more of a picture, and combine earlier ones")
    assert_effect(untrained, above=0, why="they do so before they have learned anything")


@pytest.mark.experiment
def test_patterns_of_one_layer_in_four_places_have_no_trend() -> None:
    """The defect that all patterns are of the first layer: two filters a place."""
    places = [[entropy(patterns(FIRSTS[0], seed, True)[place::4]) for place in range(4)] for seed in SEEDS]
    slopes = Effect(tuple(float(np.polyfit(range(4), each, 1)[0]) for each in places))
    assert_control(slopes, trend())


@pytest.mark.experiment
@claim(130, "5.4.2", "inputs can be expressed as a combination of the filters", "qualified", kind="measured")
def test_few_kernels_span_less_than_half_of_what_a_layer_gets(experiment: Experiment) -> None:
    """Of the mini base. Of its first layer less than random kernels do: edge detectors leave levels out, most of a
    patch's variance.
    """
    by_layer = {name: np.array([expressed(seed, False)[name] for seed in SEEDS]).T for name in expressed(0, False)}
    labels = "learned kernels", "random kernels, as many", "principal components, as many"
    lines = dict(zip(labels, np.stack([*by_layer.values()], axis=1), strict=True))
    title = "Claim: a layer's filters are such that its inputs are combinations of them"
    ylabel, names = "variance in the span of the kernels (%)", [name.replace("_", "\n") for name in by_layer]
    figure = claim_chart(title, "convolution", ylabel, range(6), lines, names)
    overall = Effect(tuple(np.mean([values[0] for values in by_layer.values()], axis=0)))
    experiment(overall, "variance of input patches in the span of a layer's kernels", figure)
    for name, (learned, random, _) in by_layer.items():
        experiment(effect := paired(learned, random), f"the same of {name}, learned over random kernels")
        if name == FIRSTS[0]:
            assert_effect(effect, below=0, why="edge detectors leave out the level")
        else:
            assert_effect(effect, above=0, why="kernels point where their inputs vary")
    assert_effect(overall, below=0.5, why="kernels are there to tell inputs apart, not to rebuild them")


@pytest.mark.full
@claim(130, "5.4.2", "inputs can be expressed as a combination of the filters", "qualified", kind="measured")
def test_vgg16s_kernels_span_more_of_what_they_get_than_random_ones(data_folder: Path, evidence: Evidence) -> None:
    """All of it in the first layer, where kernels are more than a patch has values; then less, down to a half."""
    model = models.conv_base("vgg16", models.default_weights("vgg16", data_folder), (96, 96, 3))
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][:9]  # up to block4_conv2
    files = sorted((data_folder / "dogs_vs_cats_small" / "test").glob("*/*.jpg"))[::50]
    pictures = models.PREPROCESSING["vgg16"](np.stack([load_image(file, 96) for file in files]).astype(np.float32))
    inputs = keras.Model(model.inputs, [layer.input for layer in layers]).predict(pictures, verbose=0)
    rng, shares = np.random.default_rng(54), []
    for layer, maps in zip(layers, inputs, strict=True):
        kernel, patches = layer.get_weights()[0], cut_patches(layer, maps, 3000, rng)
        shares.append((span(kernel, patches), span(rng.normal(size=kernel.shape), patches)))
    learned, random = np.array(shares).T
    evidence(
        f"VGG16: {', '.join(f'{share:.0%}' for share in learned)} in the span of the kernels of the first {len(layers)}"
        f" layers, of random ones {', '.join(f'{share:.0%}' for share in random)}"
    )
    assert learned[0] == pytest.approx(1)
    assert learned[1:].min() > 0.4 > 0.3 > random[1:].max()
    assert learned[1:].max() < 0.97


@pytest.mark.experiment
def test_random_kernels_express_no_more_than_other_random_ones() -> None:
    """The defect that the base's kernels are not the learned ones."""
    for name in expressed(0, False):
        effect, control = (
            paired(*zip(*(expressed(seed, randomized)[name][:2] for seed in SEEDS), strict=True))
            for randomized in (False, True)
        )
        assert_control(control, effect)
