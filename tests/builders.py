"""Results, folders and files that several test modules build."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from PIL import Image

from convspec import models
from convspec.accuracy import baselines
from convspec.accuracy.baselines import Run
from convspec.data import shapes
from convspec.data.batches import Batches, rescale, stream
from convspec.data.datasets import Dataset, Split
from convspec.ladder.recipe import Recipe, Scale
from convspec.ladder.result import Result
from convspec.ladder.run import run_recipe
from convspec.ladder.rungs import RECIPES, find_recipe


def result(rung: str, scale: Scale, accuracy: float, seed: int = 0, dataset: str | None = None) -> Result:
    """A run that got `accuracy` of 1,000 test pictures right."""
    recipe = find_recipe(rung, scale)
    right = round(accuracy * 1000)
    return Result(
        recipe=recipe,
        seed=seed,
        dataset={
            "name": dataset or recipe.dataset,
            "fingerprint": "0",
            "classes": ["a", "b"],
            "skipped": [],
            "pictures": {"validation": 1000, "test": 1000},
        },
        weights=None,
        history={"accuracy": [0.5, 0.9], "val_accuracy": [0.75, 0.625]},
        test_accuracy=accuracy,
        test_names=[str(i) for i in range(1000)],
        test_labels=[1] * 1000,
        predicted=[1] * right + [0] * (1000 - right),
        confidence=[0.9] * 1000,
        seconds={"features": 2.0, "train": 10.0, "input": 5.0},
        images_per_second=123.4,
        peak_memory_mib=900 + seed,
        machine={"backend": "tensorflow"},
    )


def result_with_history(rung: str, scale: Scale, accuracy: float, seed: int = 0) -> Result:
    """Return a run that overfits, as figures 5.9 and 5.10 show it; its noise is a wave, the same everywhere."""
    run = result(rung, scale, accuracy, seed)
    epochs = np.arange(run.recipe.epochs)
    wave = 0.02 * np.sin(epochs * (2.1 + seed)) + 0.06 * seed
    history = {
        "accuracy": 1 - 0.5 * np.exp(-epochs / 12) + wave / 4,
        "val_accuracy": 0.72 - 0.2 * np.exp(-epochs / 5) + wave,
        "loss": 0.7 * np.exp(-epochs / 10) + wave / 4 + 0.02,
        "val_loss": 0.55 + 0.15 * np.exp(-epochs / 3) + 0.0004 * epochs**2 + wave,
    }
    return replace(run, history={name: values.tolist() for name, values in history.items()})


# Runs as baselines keep them.
H200 = {"accelerators": ["NVIDIA H200"], "accelerator_state": [{"name": "NVIDIA H200", "driver": "570.1"}]}
CPU = {
    "backend": "tensorflow", "accelerators": [], "processor": "AMD EPYC", "threads": 2, "system": "Linux x86_64",
    "precision": "float32", "load_average": [0.1, 0.2, 0.3],
    "versions": {"python": "3.11.7", "keras": "3.15.1", "tensorflow": "2.21.0", "pillow": "11.0.0"},
}  # fmt: skip


def baseline_run(seed: int = 0, machine: dict[str, Any] | None = None, **changes: Any) -> Run:
    """Return a run on four test pictures, of which three are right."""
    recipe = {"epochs": 100, "learning_rate": 1e-5, "starts_from": {"epochs": 30}}
    usual: dict[str, Any] = {
        "name": "fine_tuned", "dataset": "pets-full", "seed": seed, "machine": CPU | (machine or {}),
        "predicted": [0, 0, 1, 0], "labels": [0, 0, 1, 1], "pictures": ["cats/1", "cats/2", "dogs/1", "dogs/2"],
        "confidence": [0.9, 0.8, 0.7, 0.6],
        "conditions": {"recipe": recipe, "dataset": {"fingerprint": "2002bfeb03a8"}, "weights": "a2f5"},
        "measurements": {"history": {"loss": [0.7, 0.25]}, "seconds": {"train": 12.5}},
    }  # fmt: skip
    return Run(**usual | changes)


RECORDED_ON = {
    "CPU": ("tensorflow-cpu", "tensorflow-cpu-mixed_bfloat16"),  # fast mode takes the faster one for the base
    "GPU": ("jax-nvidia-h200-tf32",),
}


@cache
def recorded_runs(scale: Scale, device: str = "") -> dict[str, list[Result]]:
    """Return the runs in fixtures/baselines of recipes as they are, by name, in each machine's own precision.

    `device` is one of RECORDED_ON; without it runs of both count, as their seeds give other initial weights.
    """
    folders = RECORDED_ON[device] if device else [folder for on in RECORDED_ON.values() for folder in on]
    recorded = baselines.read(Path(__file__).parents[1] / "fixtures" / "baselines")
    runs = [Result.from_run(run) for run in recorded if baselines.environment(run.machine) in folders]
    recipes = RECIPES[scale].items()
    return {name: own for name, recipe in recipes if (own := [run for run in runs if run.recipe == recipe])}


def store_in(folder: Path) -> Path:
    """Return the one feature store in a folder."""
    (store,) = (entry for entry in folder.iterdir() if entry.is_dir())
    return store


def contents(store: Path) -> dict[str, bytes]:
    """Return the content of all files, but for the seconds in the record."""
    files = {file.name: file.read_bytes() for file in store.iterdir()}
    record = json.loads(files["store.json"])
    return files | {"store.json": json.dumps(record | {"seconds": 0}).encode()}


def short_recipe(rung: str, **changes: Any) -> Recipe:
    """Return a rung at mini cut to two epochs, and its predecessor to one."""
    recipe = find_recipe(rung, "mini")
    start = replace(recipe.starts_from, epochs=1, **changes) if recipe.starts_from else None
    return replace(recipe, epochs=2, starts_from=start, **changes)


def put_shapes(folder: Path) -> Path:
    """Write a user's folder: two classes of 12 drawn pictures."""
    pictures, labels = shapes.pictures(shapes.TARGETS, 12, seed=1)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        (place := folder / ("fish", "key")[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number}.png")
    return folder


def noting_layer(calls: list[str], name: str) -> keras.Layer:
    """Return a layer that hands on its input and appends its name to `calls` each time it is called."""

    def note(inputs: Any) -> Any:
        calls.append(name)
        return inputs * 1

    return keras.layers.Lambda(note, name=name)


def mini_base(side: int | None = 48, weights: str | Path | None = models.MINI_WEIGHTS) -> keras.Model:
    """Return the package's own base, pretrained unless told otherwise: small enough to be run."""
    return models.conv_base("mini", weights, (side, side, 3))


def vgg_by_hand(side: int, *blocks: tuple[int, int]) -> keras.Model:
    """Return padded convolutions of 3 x 3 and poolings, from the depth and the number of convolutions of each block.

    By the summary after listing 5.16, and by what Simonyan and Zisserman (2014) say that it doesn't show.
    """
    model = keras.Sequential([keras.Input((side, side, 3))])
    for depth, convolutions in blocks:
        for _ in range(convolutions):
            model.add(keras.layers.Conv2D(depth, (3, 3), padding="same", activation="relu"))
        model.add(keras.layers.MaxPooling2D((2, 2), strides=(2, 2)))
    return model


# Listings, against what the package has in their place.
def assert_builds_as_listed(build: Callable[[], keras.Model], listing: Callable[[], keras.Model]) -> None:
    """Assert that both build one network: all settings of all layers, the weights that a seed draws, the output."""

    def settings(model: keras.Model) -> dict[str, object]:
        values: dict[str, object] = {"input": (model.input_shape, model.inputs[0].dtype)}
        inner = (layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
        for place, layer in enumerate(inner):
            config = {name: value for name, value in layer.get_config().items() if name not in ("name", "seed")}
            values |= {f"{place} {type(layer).__name__} {name}": value for name, value in config.items()}
        return values

    sides = []
    for make in (build, listing):
        keras.utils.set_random_seed(51)
        sides.append(make())
    ours, listed = map(settings, sides)
    pairs = {name: (ours.get(name), listed.get(name)) for name in sorted(ours.keys() | listed.keys())}
    differences = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert not differences, f"settings here and in the listing: {differences}"
    batch = np.random.default_rng(51).random((2, *sides[1].input_shape[1:]), np.float32)
    weights, outputs = zip(*((model.get_weights(), model.predict(batch, verbose=0)) for model in sides), strict=True)
    for weight, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)


def assert_trains_as_listed(
    rung: str, dataset: Dataset, listing: Callable[[], keras.Model], batch_size: int, folder: Path, **changes: Any
) -> None:
    """Assert that two epochs of a rung at full are those of its listing's compiled model, fitted by Keras itself."""
    recipe = replace(find_recipe(rung, "full"), epochs=2, **changes)
    run = run_recipe(recipe, dataset, 3, folder)
    keras.utils.set_random_seed(3)
    model = listing()

    def inputs(part: "Split") -> np.ndarray:
        return part.images.reshape(-1, *model.input_shape[1:])

    def targets(part: "Split") -> np.ndarray:
        return keras.utils.to_categorical(part.labels, 10) if model.loss == "categorical_crossentropy" else part.labels

    source = stream(Batches(inputs(dataset.train), targets(dataset.train), batch_size, rescale), 3, recipe.augmentation)
    steps = recipe.steps or -(-len(dataset.train) // batch_size)
    held_out = dataset.validation and (inputs(dataset.validation) / np.float32(255), targets(dataset.validation))
    fitted = model.fit(source, epochs=2, steps_per_epoch=steps, validation_data=held_out, shuffle=False, verbose=0)
    for name, values in fitted.history.items():  # sparse labels round otherwise
        name = {"acc": "accuracy", "val_acc": "val_accuracy"}.get(name, name)
        assert run.history[name] == pytest.approx(values, rel=1e-4), f"{name} of {rung}"
    assert len(run.history) == len(fitted.history)
    shares = model.predict(inputs(dataset.test) / np.float32(255), verbose=0)
    shares = np.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares
    assert run.confidence == pytest.approx(shares.max(axis=1).tolist(), abs=1e-4), "rounded to four places"
    assert run.predicted == shares.argmax(axis=1).tolist()


# pytest in pytest.
LADDER = str(Path(__file__).parents[1] / "benchmarks" / "test_ladder.py")


def lines(result: pytest.RunResult) -> str:
    """Return what the terminal shows of a run of pytest."""
    return "\n".join(result.outlines + result.errlines)


def assert_end(numbers: Iterable[int], seconds: float = 60) -> None:
    """Assert that processes end; one that nobody waits for, as in many a container, is a zombie, and has ended, too."""

    def lives(number: int) -> bool:
        try:
            return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    until, alive = time.monotonic() + seconds, list(numbers)
    while alive := [number for number in alive if lives(number)]:
        assert time.monotonic() < until, f"{alive} are there still"
        time.sleep(0.1)


# Pictures and folders of them.
def exif(orientation: int) -> Image.Exif:
    """Return EXIF data that say how a picture is turned."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def put_noise(folder: Path, *classes: str, count: int = 10) -> Path:
    """Write pictures of noise into each of these subfolders."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = [number, *name.encode()]
            noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


def tiny_picture(number: int) -> bytes:
    """Return a whole picture of four pixels, another one for each number."""
    return b"P6 2 2 255\n" + number.to_bytes(4, "big") * 3


def put_tiny(folder: Path, **counts: int) -> Path:
    """Write so many pictures a class, no two of them alike."""
    number = 0
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for position in range(count):
            (folder / label / f"{position:02d}.ppm").write_bytes(tiny_picture(number))
            number += 1
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Return all that is in a folder, hidden or not; folders as themselves."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
    }


def pictures_in(folder: Path) -> dict[str, bytes]:
    """Return the pictures in a folder that are tiny ones."""
    return {name: content for name, content in tree(folder).items() if content.startswith(b"P6")}


def states(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what changes when somebody writes to a file, or puts another in its place."""
    return {
        str(path): (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        for path in folder.rglob("*")
        if (status := path.lstat())
    }
