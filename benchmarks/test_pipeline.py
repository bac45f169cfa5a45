"""Timings of reading and augmenting pictures, beside other libraries that do the same to the same pictures.

Both sides run in turn, in one process and, but for the last test, on one core. The pictures are those of Dogs vs. Cats
where the data folder has them, else drawn ones of about the same size: 80, or 2,000 at full scale.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from convspec import models, training
from convspec.data import datasets, decode, shapes
from convspec.data.batches import Batches, rescale, stream
from convspec.ladder import rungs
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.plugin.session import Session

from .conftest import ROUNDS, Side

SIZE, BATCH = 150, 20  # listing 5.7

pytestmark = pytest.mark.filterwarnings("ignore:.*scipy.ndimage.interpolation.*:DeprecationWarning")


@pytest.fixture
def one_core() -> Iterator[None]:
    """Keep every thread of this process on one core, where the system can; OpenCV's own threads are off."""
    threads, cores = cv2.getNumThreads(), os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    cv2.setNumThreads(1)
    _pin({min(cores)} if cores else cores)
    yield
    _pin(cores)
    cv2.setNumThreads(threads)


def _pin(cores: set[int]) -> None:
    for thread in os.listdir("/proc/self/task") if cores else ():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cores)


@pytest.fixture(scope="module")
def folder(convspec_session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 80 or 2,000 training pictures in all, and one of each class for validation and test."""
    source, copies = convspec_session.data_root / "dogs_vs_cats_small", tmp_path_factory.mktemp("pictures")
    each = {"mini": 40, "full": 1000}[convspec_session.scale]
    for label, form in zip(("cats", "dogs"), shapes.TARGETS.values(), strict=True):
        files = sorted(source.rglob(f"{label}/*.jpg"))[: each + 2]
        if len(files) < each + 2:
            files = _drawn(form, copies / "drawn" / label, each + 2)
        for part, chosen in (("train", files[:-2]), ("validation", files[-2:-1]), ("test", files[-1:])):
            (copies / part / label).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, copies / part / label)
    return copies


def _drawn(form: shapes.Form, folder: Path, count: int) -> list[Path]:
    """Return files of 500 x 375 pixels: five drawings, copied with other comments, as drawing takes a while."""
    folder.mkdir(parents=True)
    rng, files = np.random.RandomState(0), [folder / f"{number}.jpg" for number in range(count)]
    drawn = [Image.fromarray(shapes.draw(form, rng, 500)[:375]) for _ in range(5)]
    for number, file in enumerate(files):
        drawn[number % 5].save(file, comment=str(number))
    return files


@pytest.fixture
def noted_pictures(benchmark: BenchmarkFixture, folder: Path) -> None:
    """Keep in the record which files are read: drawn ones take other times than photographs."""
    benchmark.extra_info["pictures"] = "drawn" if (folder / "drawn").is_dir() else "Dogs vs. Cats"


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return sorted((folder / "train").rglob("*.jpg"))


@pytest.fixture(scope="module")
def forty(paths: list[Path]) -> list[Path]:
    """Return the pictures that are timed one by one."""
    return paths[:: len(paths) // 40]


def albumentations() -> Callable[[np.ndarray], object]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer version otherwise
    a = pytest.importorskip("albumentations", reason="needs Albumentations: pip install -e '.[compare]'")
    ranges = CHAPTER_AUGMENTATION
    shift = -ranges.width_shift_range, ranges.width_shift_range
    zoom = 1 - ranges.zoom_range, 1 + ranges.zoom_range
    affine = a.Affine(
        rotate=(-ranges.rotation_range, ranges.rotation_range),
        translate_percent={"x": shift, "y": shift},
        shear={"x": (0.0, 0.0), "y": (-ranges.shear_range, ranges.shear_range)},
        scale={"x": zoom, "y": zoom},
        interpolation=cv2.INTER_LINEAR,
        border_mode=cv2.BORDER_REPLICATE,
        p=1,
    )
    both = a.Compose([affine, a.HorizontalFlip(p=0.5)])
    return lambda image: both(image=image)


def keras_layers(as_a_graph: bool) -> Callable[[np.ndarray], object]:
    """Return the chapter's augmentation as Keras layers, called directly or compiled, as in `tf.data` and `fit`."""
    layers = [
        keras.layers.RandomRotation(40 / 360, fill_mode="nearest"),
        keras.layers.RandomTranslation(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomShear(y_factor=0.0035, fill_mode="nearest"),
        keras.layers.RandomZoom(0.2, 0.2, fill_mode="nearest"),
        keras.layers.RandomFlip("horizontal"),
    ]
    augment: Callable = partial(keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers]), training=True)
    if as_a_graph:
        if keras.backend.backend() != "tensorflow":
            pytest.skip("a graph as in tf.data needs Keras on TensorFlow: KERAS_BACKEND=tensorflow")
        import tensorflow as tf

        augment = tf.function(augment)
    return lambda batch: keras.ops.convert_to_numpy(augment(batch))


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize(
    ("rival", "times", "max_ratio"),
    [
        pytest.param("ImageDataGenerator", 10, 0.1, id="ImageDataGenerator"),
        pytest.param("Albumentations", 1, 0.75, id="Albumentations"),
        pytest.param("Keras layers", 20, 0.05, id="Keras layers"),
        pytest.param("Keras layers as a graph", 10, 0.1, id="Keras layers as a graph"),
    ],
)
def test_a_picture_is_augmented_in_a_fraction_of_the_time(
    rival: str, times: int, max_ratio: float, record: Callable[..., None], forty: list[Path]
) -> None:
    """Ours runs several times in each round, so that other work on the machine meets both sides alike."""
    pictures, rng = np.stack([decode.load_image(path, SIZE) for path in forty]), np.random.default_rng(0)
    count, inputs = len(pictures), [*pictures]
    if rival.startswith("Keras layers"):
        augment, inputs = keras_layers(as_a_graph=rival.endswith("graph")), np.split(pictures, count // BATCH)
    elif rival == "Albumentations":
        augment = albumentations()
    else:
        augment = ImageDataGenerator(**asdict(CHAPTER_AUGMENTATION)).random_transform

    def ours() -> None:
        for image in [*pictures] * times:
            CHAPTER_AUGMENTATION(image, rng)

    def theirs() -> None:
        for each in inputs:
            augment(each)

    record(
        f"augment a picture of {SIZE} x {SIZE}, one core",
        Side("convspec", ours, count * times),
        Side(rival, theirs, count),
        pictures=count * times,
        max_ratio=max_ratio,
    )


@pytest.mark.usefixtures("one_core", "noted_pictures")
@pytest.mark.parametrize(
    ("interpolation", "enlarged", "max_ratio"),
    [
        pytest.param("nearest", 1, 1.1, id="nearest"),
        pytest.param("area", 1, 0.9, id="area"),
        pytest.param("area", 4, 0.65, id="area of large ones"),
    ],
)
def test_a_picture_is_read_as_fast_as_by_keras_or_faster(
    interpolation: str, enlarged: int, max_ratio: float, record: Callable[..., None], forty: list[Path], tmp_path: Path
) -> None:
    files = forty
    if enlarged > 1:
        files = [tmp_path / f"{path.parent.name}-{path.name}" for path in forty[::5]]
        for path, file in zip(forty[::5], files, strict=True):
            with Image.open(path) as picture:
                picture.resize((picture.width * enlarged, picture.height * enlarged)).save(file)

    def ours() -> np.ndarray:
        return np.stack([decode.load_image(file, SIZE, interpolation) for file in files])

    def by_keras() -> np.ndarray:
        loaded = [keras.utils.load_img(file, target_size=(SIZE, SIZE)) for file in files]
        return np.stack([keras.utils.img_to_array(image, dtype=np.uint8) for image in loaded])

    assert interpolation == "area" or np.array_equal(ours(), by_keras()), "not the same work"
    record(
        f"read and resize a picture of {'500 x 375' if enlarged == 1 else '2000 x 1500'} at most, one core",
        Side(f"convspec, {interpolation}", ours, len(files)),
        Side("Keras", by_keras, len(files)),
        pictures=len(files),
        max_ratio=max_ratio,
    )


@pytest.mark.usefixtures("one_core", "noted_pictures")
@pytest.mark.parametrize(
    ("epoch", "times", "max_ratio"),
    [pytest.param("first", 2, 0.5, id="first"), pytest.param("later", 8, 0.125, id="later")],
)
def test_an_epoch_of_augmented_pictures_takes_a_fraction_of_the_time(
    epoch: str, times: int, max_ratio: float, record: Callable[..., None], folder: Path, paths: list[Path]
) -> None:
    def ours() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        train = datasets.load_dataset(folder, SIZE, folder).train
        return stream(Batches(train.images, train.labels, BATCH, rescale), 0, CHAPTER_AUGMENTATION)

    def theirs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = ImageDataGenerator(rescale=1 / 255, **asdict(CHAPTER_AUGMENTATION))
        return generator.flow_from_directory(
            folder / "train", target_size=(SIZE, SIZE), batch_size=BATCH, class_mode="binary", seed=0
        )

    def through(batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        for inputs, _ in islice(batches, len(paths) // BATCH):
            assert (inputs.shape, inputs.dtype) == ((BATCH, SIZE, SIZE, 3), np.float32)

    ours_once, theirs_once = (
        partial(through, side()) if epoch == "later" else lambda side=side: through(side()) for side in (ours, theirs)
    )
    record(
        f"an epoch of {len(paths):,} augmented pictures from a folder, one core",
        Side(f"convspec, {epoch}", lambda: [ours_once() for _ in range(times)], len(paths) * times),
        Side("ImageDataGenerator", theirs_once, len(paths)),
        pictures=len(paths) * times,
        max_ratio=max_ratio,
    )


@pytest.mark.parametrize("rung", ["from_scratch", "augmented"])
def test_a_training_step_hardly_waits_for_its_pictures(
    rung: str, benchmark: BenchmarkFixture, report: Callable[..., None], folder: Path
) -> None:
    """A GPU's steps are so short that two cores cannot feed them."""
    recipe, train = rungs.find_recipe(rung, "full"), datasets.load_dataset(folder, SIZE, folder).train
    model = models.small_convnet((SIZE, SIZE, 3), recipe.dropout)
    training.compile_model(model, recipe.learning_rate)
    source = stream(Batches(train.images, train.labels, recipe.batch_size, rescale), 0, recipe.augmentation)
    waits: list[float] = []

    def wait() -> tuple[tuple, dict]:
        start = time.perf_counter()
        batch = next(source)
        waits.append(time.perf_counter() - start)
        return batch, {}

    model.train_on_batch(*next(source))  # builds the graph
    benchmark.group = f"a training step of {recipe.batch_size} pictures of 150 x 150"
    benchmark.pedantic(model.train_on_batch, setup=wait, rounds=ROUNDS)
    if not benchmark.disabled:
        steps = benchmark.stats.stats
        facts = {"images_per_second": round(recipe.batch_size / steps.median, 1), "batch_size": recipe.batch_size}
        report(f"{rung}: waiting / step", (waits[:ROUNDS], steps.data), 0.05, **facts)
