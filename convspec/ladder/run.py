"""Run a recipe: build the network, make its inputs, fit the head, summarise."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import keras
import msgspec
import numpy as np

from convspec import backend, features, machine, models, training
from convspec.data.augmentation import Augmentation
from convspec.data.batches import Batches, Prepare, View, identity, rescale, stream
from convspec.data.datasets import Dataset, Split
from convspec.files import checksum, lock, remove, room_for
from convspec.ladder import saved_model
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.progress import Clock

EVALUATION_BATCH = 100  # outside training the batch size changes the speed, not the result; a base would take GiB


class Architecture(NamedTuple):
    """How a network is built, whether its base's output is cached, and how its head is fitted."""

    build: Callable[[Recipe, Any, int], keras.Model]  # of recipe, base (else the pictures' shape), number of classes
    cached: bool = False  # always; otherwise where the recipe has views or is exact
    fit: Literal["gradient descent", "logistic regression"] = "gradient descent"


def _build_feature_extraction(recipe: Recipe, base: keras.Model, classes: int) -> keras.Model:
    head = models.feature_classifier(base.output_shape[1:], recipe.dropout, classes)
    return keras.Sequential([keras.Input(base.input_shape[1:]), base, head], name=recipe.name)


ARCHITECTURES = {  # by the name that a recipe has in `model`
    "dense_baseline": Architecture(lambda recipe, shape, classes: models.dense_baseline(shape, classes)),
    "mnist_convnet": Architecture(lambda recipe, shape, classes: models.mnist_convnet(shape, classes)),
    "small_convnet": Architecture(
        lambda recipe, shape, classes: models.small_convnet(shape, recipe.dropout, classes, recipe.filters)
    ),
    "feature_classifier": Architecture(_build_feature_extraction, cached=True),
    "end_to_end": Architecture(lambda recipe, base, classes: models.end_to_end(base, classes)),
    "linear_probe": Architecture(
        lambda recipe, base, classes: models.linear_probe(
            base, base.input_shape[1] or recipe.size, classes, recipe.extra_sizes
        ),
        cached=True,
        fit="logistic regression",
    ),
}


def run_key(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    weights: str | Path | None = None,
    engine: features.Engine = features.KERAS,
) -> str:
    """Return a name for one run, such as "augmented-shapes-seed0-1a2b3c4d".

    Two runs share it only where recipe, pictures, seed, weights, versions and precision are the same.
    """
    weights_name, versions = _weights_name(recipe, weights), machine.versions() | dict(engine.versions)
    settings = asdict(msgspec.convert(asdict(recipe), Recipe))  # 40 where a field is a float is 40.0, as in a file
    parts = [settings, dataset.fingerprint, weights_name, versions, _precision(recipe, engine)]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    return f"{recipe.name}-{dataset.name[:40]}-seed{seed}-{digest}"  # the name of a file has 255 bytes


class Run(NamedTuple):
    """What decides a run, as `run_recipe` takes it."""

    recipe: Recipe
    dataset: Dataset
    seed: int
    weights: str | None


def run_recipe(
    recipe: Recipe,
    dataset: Dataset,
    seed: int,
    folder: Path,
    *,
    weights: str | Path | None = None,
    devices: int = 1,
    engine: features.Engine = features.KERAS,
    progress: TextIO | None = None,
) -> Result:
    """Train `recipe` on `dataset` and evaluate it on the test pictures.

    The same seed on the same machine gives the same result to the last digit. An interrupted run resumes; of several
    processes with one run, each waits for the one before.

    Args:
        recipe: The rung, as data.
        dataset: Training, validation and test pictures; validation may be None.
        seed: Decides the initial weights, the order of the pictures, their augmentation and dropout.
        folder: Receives the trained model, which takes whole pictures prepared as in training, the base's features
            and, while the run lasts, a checkpoint.
        weights: A file or "imagenet" for the recipe's base; None takes `models.default_weights`.
        devices: How many devices share each batch, see `training.fit`; the test pictures are predicted on one.
        engine: Computes what the base's frozen part gives where the recipe caches it or is exact.
        progress: Where a bar shows steps, accuracy and time left; None shows none.

    Returns:
        Predictions for the test pictures, history, seconds by phase, and what is needed to repeat the run.

    Raises:
        BadInput: As `backend.batch_share` and `models.conv_base` do; the disk is full, or the loss is no number.
    """
    run = _Run(recipe, dataset, seed, folder, weights, devices, engine, progress)
    backend.batch_share(recipe.batch_size, devices)
    with room_for(run.title, folder), lock(run.model_file, progress):
        return run.train()


def train_once(run: Run, file: Path, folder: Path, processes: int = 1, **options: Any) -> Result:
    """Return the result that `file` keeps, else run now and keep it; of several processes one runs, the others wait.

    `processes` is the number of runs at once, for the record; `options` are those of `run_recipe`, which says what is
    raised.
    """
    with lock(file, options.get("progress")):
        try:
            return Result.load(file)
        except FileNotFoundError:
            result = run_recipe(run.recipe, run.dataset, run.seed, folder, weights=run.weights, **options)
            result = replace(result, machine=result.machine | {"processes": processes})
            result.save(file)
            return result


def base_features(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    weights: str | Path | None = None,
    engine: features.Engine = features.KERAS,
    progress: TextIO | None = None,
) -> tuple[Batches, Batches | None, Batches]:
    """Return the features, by part, that a recipe with a cached base and no views trains its head on.

    The arguments are those of `run_recipe`, whose stores of features are read where they are there.
    """
    backend.make_deterministic()
    run = _Run(recipe, dataset, 0, folder, weights, 1, engine, progress)
    trunk = _build(recipe, dataset, weights, None, engine).trunk
    assert trunk is not None, f"{recipe.name} caches no features"
    inputs = run.cached_features(trunk, _pixels(recipe, dataset))
    return inputs.passes[0], inputs.validation, inputs.test


def preparation(recipe: Recipe, dataset: Dataset) -> Prepare:
    """Return the function that makes inputs of batches of pictures; a base gets grey ones in three channels."""
    prepare: Prepare = models.PREPROCESSING.get(_preprocessing(recipe), rescale)
    if recipe.base and dataset.train.images.shape[-1] == 1:
        return lambda grey: prepare(np.repeat(grey, 3, axis=-1))
    return prepare


def _preprocessing(recipe: Recipe) -> str:
    """Return the name of the recipe's preprocessing, as a saved model has it."""
    return recipe.base if recipe.base and recipe.preprocessing == "base" else "rescale"


class _Network(NamedTuple):
    """A model of whole pictures, its base's trunk (None where nothing is cached) and the head, which is trained."""

    model: keras.Model
    trunk: keras.Model | None
    head: keras.Model


class _Inputs(NamedTuple):
    """What the head is trained on, in turn, validated on and tested on."""

    passes: list[Batches]
    validation: Batches | None
    test: Batches
    augmentation: Augmentation | None = None
    trunk: keras.Model | None = None  # through which each batch of `passes` goes first


@dataclass(frozen=True)
class _Run:
    """The steps of a run; its fields are the arguments of `run_recipe`."""

    recipe: Recipe
    dataset: Dataset
    seed: int
    folder: Path
    weights: str | Path | None
    devices: int
    engine: features.Engine
    progress: TextIO | None
    clock: Clock = field(default_factory=Clock)

    @cached_property
    def key(self) -> str:
        return run_key(self.recipe, self.dataset, self.seed, self.weights, self.engine)

    @property
    def model_file(self) -> Path:
        return self.folder / "models" / f"{self.key}.keras"

    @property
    def title(self) -> str:
        return f"{self.recipe.name} seed {self.seed}"

    @property
    def steps(self) -> int:
        return self.recipe.steps or -(-len(self.dataset.train) // self.recipe.batch_size)

    def train(self) -> Result:
        backend.make_deterministic()
        checkpoint = training.Checkpoint(self.folder / "checkpoints" / f"{self.key}.npz", self.key)
        with machine.PeakMemory() as memory:
            start = self.train_predecessor(self.recipe.starts_from) if self.recipe.starts_from else None
            keras.utils.set_random_seed(self.seed)
            with self.clock("build"):
                network = _build(self.recipe, self.dataset, self.weights, start, self.engine)
            inputs = _pixels(self.recipe, self.dataset)
            if network.trunk:
                inputs = self.cached_features(network.trunk, inputs)
            history = self.fit(network.head, inputs, checkpoint)
            with self.clock("evaluate"):
                probabilities = network.head.predict(backend.feed(inputs.test), verbose=0)
        with self.clock("save"):
            settings = self.dataset.classes, _preprocessing(self.recipe), self.recipe.interpolation
            saved_model.save(network.model, self.model_file, *settings)
        remove(checkpoint.path)
        return self.summarise(network, history, probabilities, round(memory.mib))

    def train_predecessor(self, recipe: Recipe) -> Path:
        """Return the file of the model that this run goes on with, trained now if it isn't there."""
        predecessor = replace(self, recipe=recipe, clock=Clock())
        with lock(predecessor.model_file, self.progress):
            if not predecessor.model_file.is_file():
                predecessor.train()
        return predecessor.model_file

    def cached_features(self, trunk: keras.Model, pixels: _Inputs) -> _Inputs:
        recipe, (train,), folder = self.recipe, pixels.passes, self.folder / "features"
        options: Any = {"dtype": "float16" if recipe.views else "float32", "engine": self.engine}
        options |= {"clock": self.clock, "progress": self.progress}

        def extract(batches: Batches, name: str) -> Batches:
            output = features.extract(trunk, batches, folder, title=f"{self.title}: {name} features", **options)
            return Batches(output, batches.labels, batches.batch_size, identity)

        passes, augmentation = [train], pixels.augmentation if recipe.exact else None
        if recipe.views and recipe.augmentation:
            views = [View(train, recipe.augmentation, self.seed, number) for number in range(recipe.views)]
            passes = [extract(view, f"view {number}") for number, view in enumerate(views, start=1)]
        elif not recipe.exact:
            passes = [extract(train, "train")]
        validation = extract(pixels.validation, "validation") if pixels.validation else None
        test = extract(pixels.test, "test")
        return _Inputs(passes, validation, test, augmentation, trunk if recipe.exact else None)

    def fit(self, head: keras.Model, inputs: _Inputs, checkpoint: training.Checkpoint) -> training.History:
        if ARCHITECTURES[self.recipe.model].fit == "logistic regression":
            with self.clock("train"):
                return training.fit_linear(head.layers[-1], inputs.passes[0], inputs.validation)
        training.compile_model(head, self.recipe.learning_rate, self.recipe.ema_momentum)
        history = checkpoint.restore(head, self.clock)
        done = len(history.get("loss", [])) * self.steps
        batches = stream(inputs.passes, self.seed, inputs.augmentation, start=done)
        return training.fit(
            head,
            self.engine.stream(inputs.trunk, batches) if inputs.trunk else batches,
            self.recipe.epochs,
            self.steps,
            inputs.validation,
            clock=self.clock,
            history=history,
            checkpoint=checkpoint,
            devices=self.devices,
            title=self.title,
            progress=self.progress,
        )

    def summarise(
        self, network: _Network, history: training.History, probabilities: np.ndarray, memory_mib: int
    ) -> Result:
        recipe, dataset, predicted = self.recipe, self.dataset, training.predicted_classes(probabilities)
        pictures = {part: len(split) for part, split in dataset.parts.items()}
        once = ARCHITECTURES[recipe.model].fit == "logistic regression"
        in_training = pictures["train"] if once else recipe.epochs * self.steps * recipe.batch_size
        streamed = not network.trunk or recipe.exact
        through_base = in_training if streamed else max(recipe.views, 1) * pictures["train"]
        through_base += pictures.get("validation", 0) * (1 if network.trunk else recipe.epochs) + pictures["test"]
        through_base *= 1 + len(recipe.extra_sizes)
        timed = in_training - (0 if once else recipe.batch_size)  # the first step counts as "compile"
        return Result(
            recipe=recipe,
            seed=self.seed,
            dataset={
                "name": dataset.name,
                "fingerprint": dataset.fingerprint,
                "classes": list(dataset.classes),
                "pictures": pictures,
                "skipped": list(dataset.skipped),
                "incomplete": list(dataset.incomplete),
            },
            weights=_weights_name(recipe, self.weights),
            history=history,
            test_accuracy=float(np.mean(predicted == dataset.test.labels)),
            test_names=list(dataset.test.names),
            test_labels=dataset.test.labels.tolist(),
            predicted=predicted.tolist(),
            confidence=np.round(training.confidence(probabilities).astype(float), 4).tolist(),
            seconds={phase: round(seconds, 3) for phase, seconds in self.clock.seconds.items()},
            images_per_second=round(timed / self.clock.seconds["train"], 1) or None,
            peak_memory_mib=memory_mib,
            machine=machine.machine()
            | {"precision": _precision(recipe, self.engine), "devices": self.devices, "engine": self.engine.name}
            | {"versions": machine.versions() | dict(self.engine.versions)},
            base_pictures=through_base if recipe.base else None,
        )


def _build(
    recipe: Recipe, dataset: Dataset, weights: str | Path | None, start: Path | None, engine: features.Engine
) -> _Network:
    """Build the network or load it from `start`; freeze, thaw and split it as the recipe says."""
    shape, classes = dataset.train.images.shape[1:], len(dataset.classes)
    architecture = ARCHITECTURES[recipe.model]
    if recipe.base is None:
        model = architecture.build(recipe, shape, classes)
        return _Network(model, None, model)
    if start:
        model = saved_model.load(start).model
        base = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    else:
        sides = (None, None) if recipe.extra_sizes else shape[:2]
        policy = precision if (precision := _precision(recipe, engine)).startswith("mixed") else None
        base = models.conv_base(recipe.base, weights or models.default_weights(recipe.base), (*sides, 3), policy)
        model = architecture.build(recipe, base, classes)
    thaw = recipe.thaw and models.first_thawed(base, recipe.thaw)
    if thaw:
        models.thaw_from(base, thaw)
    else:
        models.freeze(base)
    if architecture.fit == "logistic regression":
        pooled = model.layers[-1].input
        trunk = keras.Model(model.input, pooled, name="_".join([base.name, "pooled", *map(str, recipe.extra_sizes)]))
        return _Network(model, trunk, keras.Model(pooled, model.output))
    if architecture.cached or recipe.views or recipe.exact:
        trunk, top = models.cut_before(base, thaw) if thaw else (base, None)
        head = [*([top] if top else []), *model.layers[model.layers.index(base) + 1 :]]
        return _Network(model, trunk, keras.Sequential([keras.Input(trunk.output_shape[1:]), *head]))
    return _Network(model, None, model)


def _pixels(recipe: Recipe, dataset: Dataset) -> _Inputs:
    prepare, size = preparation(recipe, dataset), recipe.batch_size if recipe.base else EVALUATION_BATCH

    def batches(split: Split, batch_size: int = size) -> Batches:
        return Batches(split.images, split.labels, batch_size, prepare)

    validation = batches(dataset.validation) if dataset.validation else None
    return _Inputs([batches(dataset.train, recipe.batch_size)], validation, batches(dataset.test), recipe.augmentation)


def _precision(recipe: Recipe, engine: features.Engine) -> str:
    """Return the session's precision, or the fast one for the base where the recipe asks and the session doesn't."""
    running = backend.precision()
    if recipe.precision == "fast" and engine.mixed and not running.startswith("mixed"):
        return fast if (fast := machine.fast_precision()) != "float32" else running
    return running


def _weights_name(recipe: Recipe, weights: str | Path | None) -> str | None:
    """Return name and checksum of the weights' file, which are the same on every machine."""
    if recipe.base is None:
        return None
    weights = weights or models.default_weights(recipe.base)
    if weights == "imagenet" or not Path(weights).is_file():
        return str(weights)
    status = Path(weights).stat()
    unchanged = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return f"{Path(weights).name} sha256:{_checksum_once(Path(weights), unchanged)}"


@cache
def _checksum_once(path: Path, unchanged: tuple[int, ...]) -> str:
    """Return a file's checksum, which the key of each run has."""
    return checksum(path)
