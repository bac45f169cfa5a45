"""The rungs of the ladder as data, and `run(recipe, dataset, seed)`, which runs any of them."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np

from convspec import backend, features, models, training
from convspec import machine as machine_module
from convspec.data.batches import Batches, Prepare, View, identity, rescale, stream
from convspec.data.datasets import Dataset
from convspec.files import checksum
from convspec.ladder import saved_model
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.machine import PeakMemory, fast_precision, versions
from convspec.progress import Clock

EVALUATION_BATCH = 100  # outside training the batch size changes the speed, not the result; a base would take GiB


def run_key(recipe: Recipe, dataset: Dataset, seed: int, weights: str | Path | None = None) -> str:
    """A name for one run, such as "augmented-shapes-seed0-1a2b3c4d": equal only where everything that decides the
    outcome is equal (recipe, pictures, seed, weights, versions).
    """
    weights_name = _weights_name(recipe, weights)
    parts = [asdict(recipe), dataset.fingerprint, weights_name, versions(), _precision(recipe)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    return f"{recipe.name}-{dataset.name}-seed{seed}-{digest}"


def run(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    folder: Path,
    *,
    weights: str | Path | None = None,
    devices: int = 1,
    predict: features.BatchPredictor = features.predict_batches,
    progress: TextIO | None = None,
) -> Result:
    """Train `recipe` on `dataset` and evaluate it on the test pictures.

    `folder` receives the trained model, which takes whole pictures prepared as in training, the base's features, and
    while the run lasts a checkpoint from which an interrupted run goes on. `weights` is a file or "imagenet" for the
    recipe's base; None takes the package's own for the mini base and "imagenet" for others. The same seed on the same
    machine gives the same result to the last digit. A bar on `progress` shows steps, accuracy and time left.

    With more `devices` than one each trains on its share of every batch, which gives the same steps to rounding (see
    `training.fit`); the test pictures are predicted on one. `predict` computes the base's features, see
    `features.extract`. Raises BadInput as `backend.batch_share` does.
    """
    backend.batch_share(recipe.batch_size, devices)
    clock = Clock()
    backend.make_deterministic()
    title = f"{recipe.name} seed {seed}"
    key = run_key(recipe, dataset, seed, weights)
    with PeakMemory() as memory:
        start = None
        if recipe.starts_from:
            start = folder / "models" / f"{run_key(recipe.starts_from, dataset, seed, weights)}.keras"
            if not start.is_file():
                same: Any = {"weights": weights, "devices": devices, "predict": predict, "progress": progress}
                run(recipe.starts_from, dataset, seed, folder, **same)
        keras.utils.set_random_seed(seed)
        with clock("build"):
            model, base = _build(recipe, dataset, weights, start)
            prepare = preparation(recipe, dataset)
        parts = {
            part: Batches(
                split.images,
                split.labels,
                recipe.batch_size if part == "train" or recipe.base else EVALUATION_BATCH,
                prepare,
            )
            for part, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test))
            if split is not None
        }
        pictures = {part: len(batches.labels) for part, batches in parts.items()}
        steps = recipe.steps or -(-pictures["train"] // recipe.batch_size)
        passes, augmentation = [parts["train"]], recipe.augmentation
        trunk, trainee = _cut(recipe, model, base)
        if trunk is None:
            through_base = (
                recipe.epochs * (steps * recipe.batch_size + pictures.get("validation", 0)) + pictures["test"]
            )
        else:
            augmentation = None
            through_base = max(recipe.views, 1) * pictures["train"] + pictures.get("validation", 0) + pictures["test"]
            through_base *= 1 + len(recipe.extra_sizes)

            def recorded(batches: Batches, name: str) -> Batches:
                found = features.extract(
                    trunk,
                    batches,
                    folder / "features",
                    dtype="float16" if recipe.views else "float32",
                    clock=clock,
                    predict=predict,
                    title=f"{title}: {name} features",
                    progress=progress,
                )
                return Batches(found, batches.labels, batches.batch_size, identity)

            if recipe.views and recipe.augmentation:
                passes = [
                    recorded(View(parts["train"], recipe.augmentation, seed, number), f"view {number + 1}")
                    for number in range(recipe.views)
                ]
            else:
                passes = [recorded(parts["train"], "train")]
            parts |= {part: recorded(batches, part) for part, batches in parts.items() if part != "train"}
        checkpoint = training.Checkpoint(folder / "checkpoints" / f"{key}.npz", key)
        if recipe.model == "linear_probe":
            with clock("train"):
                history = training.fit_linear(trainee.layers[-1], passes[0], parts.get("validation", passes[0]))
        else:
            training.compile_model(trainee, recipe.learning_rate)
            history = checkpoint.restore(trainee, clock)
            training.fit(
                trainee,
                stream(passes, seed, augmentation, start=len(history.get("loss", [])) * steps),
                recipe.epochs,
                steps,
                parts.get("validation"),
                clock=clock,
                history=history,
                checkpoint=checkpoint,
                devices=devices,
                title=title,
                progress=progress,
            )
        with clock("evaluate"):
            probabilities = trainee.predict(backend.feed(parts["test"]), verbose=0)
    with clock("save"):
        prepared = recipe.base if recipe.base and recipe.preprocessing == "base" else "rescale"
        saved_model.save(model, folder / "models" / f"{key}.keras", dataset.classes, prepared, recipe.interpolation)
    checkpoint.path.unlink(missing_ok=True)
    predicted = training.predicted_classes(probabilities)
    return Result(
        recipe=recipe,
        seed=seed,
        dataset={
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "classes": list(dataset.classes),
            "pictures": pictures,
            "skipped": list(dataset.skipped),
        },
        weights=_weights_name(recipe, weights),
        history=history,
        test_accuracy=float(np.mean(predicted == dataset.test.labels)),
        test_names=list(dataset.test.names),
        test_labels=dataset.test.labels.tolist(),
        predicted=predicted.tolist(),
        confidence=np.round(training.confidence(probabilities).astype(float), 4).tolist(),
        seconds={phase: round(seconds, 3) for phase, seconds in clock.seconds.items()},
        images_per_second=round(recipe.epochs * steps * recipe.batch_size / clock.seconds["train"], 1),
        peak_memory_mib=round(memory.mib),
        machine=machine_module.machine() | {"precision": _precision(recipe), "devices": devices},
        base_pictures=through_base if base else None,
    )


def _build(
    recipe: Recipe, dataset: Dataset, weights: str | Path | None, start: Path | None
) -> tuple[keras.Model, keras.Model | None]:
    """The model, and the base in it if it has one, frozen and thawed as the recipe says."""
    shape, classes = dataset.train.images.shape[1:], len(dataset.classes)
    if recipe.base is None:
        if recipe.model == "small_convnet":
            return models.small_convnet(shape, recipe.dropout, classes, recipe.filters), None
        return {"dense_baseline": models.dense_baseline, "mnist_convnet": models.mnist_convnet}[recipe.model](
            shape, classes
        ), None
    if start:
        model = keras.models.load_model(start)
        base = model.get_layer(recipe.base)
    else:
        sides = (None, None) if recipe.extra_sizes else shape[:2]
        precision = _precision(recipe)
        policy = precision if precision.startswith("mixed") else None
        base = models.conv_base(recipe.base, _weights(recipe, weights), (*sides, 3), policy)
        if recipe.model == "linear_probe":
            model = models.linear_probe(base, recipe.size, classes, recipe.extra_sizes)
        elif recipe.model == "feature_classifier":
            head = models.feature_classifier(base.output_shape[1:], recipe.dropout, classes)
            model = keras.Sequential([keras.Input(base.input_shape[1:]), base, head], name=recipe.name)
        else:
            model = models.end_to_end(base, classes)
    if recipe.thaw:
        models.thaw_from(base, recipe.thaw)
    else:
        models.freeze(base)
    return model, base


def _cut(recipe: Recipe, model: keras.Model, base: keras.Model | None) -> tuple[keras.Model | None, keras.Model]:
    """The part of the model that need see each picture once only, if it is to be used so, and what is trained."""
    if base is None or not (recipe.views or recipe.model in ("feature_classifier", "linear_probe")):
        return None, model
    if recipe.model == "linear_probe":
        pooled = model.get_layer("pooled").output
        return keras.Model(model.input, pooled, name=f"{base.name}_pooled"), keras.Model(pooled, model.output)
    if recipe.model == "feature_classifier":
        return base, model.layers[-1]
    trunk, top = models.cut_before(base, recipe.thaw) if recipe.thaw else (base, None)
    head = model.layers[model.layers.index(base) + 1 :]
    return trunk, keras.Sequential([keras.Input(trunk.output_shape[1:]), *([top] if top else []), *head])


def preparation(recipe: Recipe, dataset: Dataset) -> Prepare:
    """What makes inputs of batches of its pictures, grey ones in the three channels that a base takes."""
    prepare: Prepare = rescale
    if recipe.base and recipe.preprocessing == "base":
        prepare = models.PREPROCESSING[recipe.base]
    if recipe.base and dataset.train.images.shape[-1] == 1:
        return lambda grey: prepare(np.repeat(grey, 3, axis=-1))
    return prepare


def _precision(recipe: Recipe) -> str:
    """That of the session, and of the base alone where the recipe asks for the fast one and the session for none."""
    running = backend.precision()
    if recipe.precision == "fast" and not running.startswith("mixed"):
        return fast if (fast := fast_precision()) != "float32" else running
    return running


def _weights(recipe: Recipe, given: str | Path | None) -> str | Path:
    return given or (models.MINI_WEIGHTS if recipe.base == "mini" else "imagenet")


def _weights_name(recipe: Recipe, given: str | Path | None) -> str | None:
    """Name and checksum of the weights' file: the same on every machine."""
    if recipe.base is None:
        return None
    weights = _weights(recipe, given)
    if weights == "imagenet" or not Path(weights).is_file():
        return str(weights)
    return f"{Path(weights).name} sha256:{checksum(Path(weights))}"
