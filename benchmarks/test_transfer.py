"""Timings of transfer: recorded features against the base alone, the machine's limit, and the base in every step.

Two sides run in turn in one process. `share_of_probe` is against one probe a session, so it is less sharp than the
ratios on a busy machine. Pictures and base are those of the rung `fine_tuned`: drawn ones of 48 x 48 and the package's
own base, or at full scale Dogs vs. Cats and VGG16. An epoch has STEPS steps, on a CPU a tenth of the chapter's 100.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from convspec import MissingData, backend, features, machine, models, progress, training
from convspec.arithmetic import multiply_adds
from convspec.data import datasets, decode
from convspec.data.batches import Batches, View, identity, rescale, stream
from convspec.ladder.recipe import Recipe
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.plugin.session import SESSION, Session, skip_or_fail_on_bad_data
from convspec.timings.cost import WHOLE, Point, fit

from .conftest import ROUNDS, Side, find_recipe

PICTURES = {"mini": 200, "full": 40}
STEPS = 10
if backend.accelerators():  # which are done with those before the tenth of a second that every call takes
    PICTURES["full"], STEPS = 1_000, 50
COUNTS = {"mini": (150, 600), "full": (20, 80)}
MAX_GROWTH = 10  # MiB from the smallest count to the largest; at mini the inputs alone would be 12 MiB more
POINTS = {  # epochs and pictures of the runs that show what a whole rung costs
    "mini": {"recorded": ((5, 120), (30, 600)), "literal": ((5, 60), (30, 120))},
    "full": {"recorded": ((2, 20), (10, 60)), "literal": ((2, 20), (2, 40))},
}
FAST = "feature_extraction_fast", "frozen_end_to_end_fast"
BASES = {  # two kinds, or the six of section 5.3.1, of which building takes most of the time at mini
    "mini": ("vgg16", "mobilenet"),
    "full": ("xception", "inception_v3", "resnet50", "vgg16", "vgg19", "mobilenet"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_a_base_does_nearly_the_arithmetic_that_the_machine_can:
        metafunc.parametrize("name", BASES[metafunc.config.stash[SESSION].scale])


@pytest.fixture(scope="module")
def recipe(convspec_session: Session) -> Recipe:
    return find_recipe("fine_tuned", convspec_session)


@pytest.fixture(scope="module")
def paths(recipe: Recipe, convspec_session: Session, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return files to decode, as many as an epoch needs."""
    count = STEPS * recipe.batch_size
    if recipe.scale == "full":
        folder = convspec_session.data_root / "dogs_vs_cats_small" / "train"
        with skip_or_fail_on_bad_data(convspec_session.config):
            if len(files := sorted(folder.rglob("*.jpg"))) < count:
                raise MissingData(f"Dogs vs. Cats is not in {str(folder)!r}: `convspec fetch dogs_vs_cats`")
        return files[:: len(files) // count][:count]
    folder = tmp_path_factory.mktemp("shapes")
    files = [folder / f"{number:04d}.png" for number in range(count)]
    for picture, file in zip(datasets.load_dataset("shapes", recipe.size, folder).train.images, files, strict=False):
        Image.fromarray(picture).save(file)
    return files


@pytest.fixture
def base(recipe: Recipe, convspec_session: Session) -> keras.Model:
    """Return the rung's base with its weights."""
    with skip_or_fail_on_bad_data(convspec_session.config):
        weights = convspec_session.weights(recipe)
        return models.conv_base(str(recipe.base), weights, (recipe.size, recipe.size, 3))


def read(paths: list[Path], recipe: Recipe) -> Batches:
    """Return the decoded files in batches of the rung's size."""
    decoded, failures, _ = decode.load_images(paths, recipe.size, recipe.interpolation)
    assert not failures
    return Batches(decoded, np.arange(len(decoded)) % 2, recipe.batch_size, rescale)


def extract(base: keras.Model, batches: Batches, folder: Path) -> np.ndarray:
    """Return features, recorded in a new folder each time, as recorded ones are not computed again."""
    return features.extract(base, batches, Path(tempfile.mkdtemp(dir=folder)), clock=progress.Clock())


@pytest.mark.parametrize(
    ("source", "max_ratio"), [("memory", {"mini": 1.5, "full": 1.2}), ("files", {})], ids=["memory", "files"]
)
def test_recording_costs_little_beside_the_base_alone(
    source: str,
    max_ratio: dict[str, float],
    record: Callable[..., None],
    recipe: Recipe,
    base: keras.Model,
    paths: list[Path],
    tmp_path: Path,
) -> None:
    """Decoding counts where pictures are in files; at mini it takes as long as the base."""
    files = paths[: PICTURES[recipe.scale]]
    decoded = read(files, recipe)
    prepared = [decoded[number][0] for number in range(len(decoded))]
    batches = {"memory": lambda: decoded, "files": lambda: read(files, recipe)}[source]
    record(
        "features",
        Side(f"recorded, of pictures in {source}", lambda: extract(base, batches(), tmp_path), len(files)),
        Side("the base alone", lambda: [base.predict_on_batch(batch) for batch in prepared], len(files)),
        pictures=len(files),
        flop=2 * multiply_adds(base),
        max_ratio=max_ratio.get(recipe.scale),
    )


def test_a_base_does_nearly_the_arithmetic_that_the_machine_can(
    name: str, record: Callable[..., None], recipe: Recipe, tmp_path: Path
) -> None:
    """Recording included. Claimed of VGG16 alone: depthwise convolutions wait for memory."""
    size, count, products = {"mini": (96, 4, 1), "full": (150, 40, 5)}[recipe.scale]
    base = models.conv_base(name, None, (size, size, 3))
    drawn = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    batches = Batches(drawn, np.arange(count) % 2, recipe.batch_size, rescale)
    product, flop_of_product = machine.probes("float32")["matrix_product"]
    flop = 2 * multiply_adds(base)
    record(
        f"features by each base at {size} x {size}",
        Side(name, lambda: extract(base, batches, tmp_path), count * flop),
        Side("matrix products", lambda: [product() for _ in range(products)], products * flop_of_product),
        pictures=count,
        flop=flop,
        max_ratio=1 / 0.7 if (recipe.scale, name) == ("full", "vgg16") else None,
    )


def test_ncnn_computes_a_base_in_less_time_than_keras(
    record: Callable[..., None], recipe: Recipe, base: keras.Model, paths: list[Path]
) -> None:
    """Claimed of VGG16 on a CPU."""
    pytest.importorskip("ncnn", reason="needs ncnn: pip install -e '.[ncnn]'")
    if recipe.base not in ("mini", "vgg16", "vgg19"):
        pytest.skip(f"ncnn is not given {recipe.base}")
    from convspec.ladder import ncnn

    files, network = paths[: PICTURES[recipe.scale]], ncnn.Network(base)
    decoded = read(files, recipe)
    prepared = [decoded[number][0] for number in range(len(decoded))]
    record(
        "a frozen base",
        Side("ncnn", lambda: [network.predict_on_batch(batch) for batch in prepared], len(files)),
        Side("Keras", lambda: [base.predict_on_batch(batch) for batch in prepared], len(files)),
        pictures=len(files),
        max_ratio=0.75 if recipe.scale == "full" and not backend.accelerators() else None,
    )


@pytest.mark.parametrize(
    ("rung", "max_ratio"),
    [("frozen_end_to_end", {"mini": 0.7, "full": 0.05}), ("fine_tuned", {"full": 0.35})],
    ids=["frozen_end_to_end", "fine_tuned"],
)
def test_an_epoch_on_recorded_views_takes_a_fraction_of_a_literal_one(
    rung: str,
    max_ratio: dict[str, float],
    record: Callable[..., None],
    recipe: Recipe,
    base: keras.Model,
    paths: list[Path],
    tmp_path: Path,
) -> None:
    """Not claimed of fine-tuning at mini: nine tenths of the arithmetic of that step are after the cut."""
    model = models.end_to_end(base)
    models.freeze(base)
    trunk, trained = base, model.layers[model.layers.index(base) + 1 :]
    if rung == "fine_tuned":
        models.thaw_from(base, thawed := models.first_thawed(base, str(recipe.thaw)))
        trunk, top = models.cut_before(base, thawed)
        trained = [top, *trained]
    trainee = keras.Sequential([keras.Input(trunk.output_shape[1:]), *trained])
    for compiled in (model, trainee):
        training.compile_model(compiled, recipe.learning_rate)
    decoded, steps = read(paths, recipe), STEPS
    views = extract(trunk, View(decoded, CHAPTER_AUGMENTATION, seed=0, number=0), tmp_path)
    recorded = Batches(views, decoded.labels, recipe.batch_size, identity)

    def epoch(model: keras.Model, source: Iterator[tuple[np.ndarray, np.ndarray]]) -> Callable[[], object]:
        return lambda: [model.train_on_batch(*next(source)) for _ in range(steps)]

    record(
        f"an epoch of {steps} steps",
        Side(f"{rung}: recorded views", epoch(trainee, stream(recorded, 0)), steps),
        Side("literal", epoch(model, stream(decoded, 0, CHAPTER_AUGMENTATION)), steps),
        pictures=steps * recipe.batch_size,
        flop=3 * 2 * multiply_adds(trainee),  # forward, and for two gradients
        max_ratio=max_ratio.get(recipe.scale),
    )


def test_each_picture_costs_the_same_however_many_there_are(
    benchmark: BenchmarkFixture,
    report: Callable[..., None],
    convspec_session: Session,
    recipe: Recipe,
    base: keras.Model,
    tmp_path: Path,
) -> None:
    """Time grows with the count to the power 1.1 at most, and memory does not grow."""
    counts = COUNTS[recipe.scale]
    drawn = np.random.default_rng(0).integers(0, 256, (counts[-1], recipe.size, recipe.size, 3), np.uint8)
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    peaks: dict[int, list[float]] = {count: [] for count in counts}

    def in_turn() -> None:
        for count in counts:
            batches = Batches(drawn[:count], np.arange(count) % 2, recipe.batch_size, rescale)
            start = time.perf_counter()
            with machine.PeakMemory() as memory:
                recorded = extract(base, batches, tmp_path)
            del recorded  # not before memory was sampled
            seconds[count].append((time.perf_counter() - start) / count)
            peaks[count].append(memory.mib)

    benchmark.group = f"features of more and more pictures, {recipe.scale}"
    benchmark.pedantic(in_turn, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.disabled:
        return
    few, many = (seconds[count][1 : 1 + ROUNDS] for count in counts)
    growth = max(peaks[counts[-1]][1:]) - min(peaks[counts[0]][1:])
    report(
        f"one of {counts[-1]:,} / one of {counts[0]:,}",
        (many, few),
        (counts[-1] / counts[0]) ** 0.1,
        images_per_second=round(1 / float(np.median(many)), 1),
        peak_memory_mib=round(max(peaks[counts[-1]])),
        memory_growth_mib=round(growth),
    )
    if convspec_session.settings.enforce_timings:
        assert growth < MAX_GROWTH, f"memory grew by {growth:.0f} MiB from {counts[0]} to {counts[-1]} pictures"


def test_an_epoch_on_recorded_features(record: Callable[..., None], recipe: Recipe, base: keras.Model) -> None:
    """The chapter has it under a second, of 2,000 pictures; what features are made of does not change the time."""
    _, count = WHOLE[recipe.scale]
    head = models.feature_classifier(base.output_shape[1:])
    training.compile_model(head, recipe.learning_rate)
    drawn = np.random.default_rng(0).random((count, *base.output_shape[1:]), np.float32)
    batches, steps = Batches(drawn, np.arange(count) % 2, recipe.batch_size, identity), count // recipe.batch_size

    def epoch() -> None:
        training.fit(head, stream(batches, 0), 1, steps, None, clock=progress.Clock(), history={})

    record(
        "an epoch on recorded features", Side(f"of {count:,} pictures, the head alone", epoch, steps), pictures=count
    )


@pytest.mark.parametrize("rung", ["feature_extraction", "frozen_end_to_end", *FAST])
def test_what_a_whole_rung_costs(
    rung: str, benchmark: BenchmarkFixture, report: Callable[..., None], convspec_session: Session, tmp_path: Path
) -> None:
    """Each run begins with nothing recorded; without validation, as every data set decides how much there is."""
    recipe = find_recipe(rung, convspec_session)
    with skip_or_fail_on_bad_data(convspec_session.config):
        pictures, weights = convspec_session.dataset(recipe), convspec_session.weights(recipe)
    engine = convspec_session.engine
    kind = "literal" if rung == "frozen_end_to_end" else "recorded"
    has_epochs = recipe.model != "linear_probe"
    points: list[Point] = []

    def run(epochs: int, count: int) -> None:
        cut = replace(pictures, train=pictures.train.cut(count), validation=None, test=pictures.test.cut(2))
        changed = replace(recipe, epochs=epochs if has_epochs else 1, steps=None)
        start = time.perf_counter()
        result = run_recipe(changed, cut, 0, Path(tempfile.mkdtemp(dir=tmp_path)), weights=weights, engine=engine)
        seconds, recording = time.perf_counter() - start, result.seconds.get("features", 0.0)
        if has_epochs:
            steps = epochs * -(-count // recipe.batch_size)
            trained = result.seconds["train"] * steps / (steps - 1)  # the first step, which builds the graph, is apart
            points.append(Point(epochs, count, seconds, recording, trained))
        else:
            points.append(Point(0, count, seconds, recording + result.seconds["train"]))

    small, large = POINTS[recipe.scale][kind]
    benchmark.group = f"whole rungs, epochs x pictures, {recipe.scale}"
    if not benchmark.disabled:
        run(*small)
        points.clear()  # imports, and whatever else is done once a process
        run(*small)
    benchmark.pedantic(run, large, rounds=1)
    if benchmark.disabled:
        return
    convspec_session.costs.append(cost := fit(rung, points))
    epochs, count = large if has_epochs else (1, large[1])
    speed = round(epochs * count / points[-1].seconds, 1)
    report(f"{rung}, {epochs} x {count}", images_per_second=speed, cost=asdict(cost))


def test_the_harness_itself_costs_next_to_nothing(record: Callable[..., None]) -> None:
    """The time of no work is part of every other record."""
    record("the harness", Side("no work", lambda: None))
