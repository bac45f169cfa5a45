"""The rungs of the ladder as data, and `run(recipe, dataset, seed)`, which runs any of them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np

from convspec import BadInput, features, gradients, hardware, images, models, saving, training
from convspec.augmentation import Augmentation
from convspec.datasets import Dataset
from convspec.storage import replacing

EVALUATION_BATCH = 100  # outside training the batch size changes the speed, not the result; a base would take GiB


@dataclass(frozen=True)
class Recipe:
    """One rung: dataset, model, optimizer (RMSprop at `learning_rate`), schedule and augmentation as plain data.

    `steps` None means one pass over the training pictures an epoch. `thaw` names the first trainable layer of the
    base; None freezes it all. `starts_from` is the rung whose trained model this one goes on with. `interpolation`
    resizes the pictures, `preprocessing` is "rescale" or "base", which is what the base's weights were trained with.
    With `views` the frozen part of the base sees that many augmented views of each picture once, in `precision`,
    and training takes them in turn; with 0 it runs in every step, as in the listings. A linear probe sees each picture
    at the `smaller` sizes, too. `published` holds the chapter's accuracies by part, (lowest, highest) where it names
    more than one.
    """

    name: str
    scale: str
    listings: str
    dataset: str
    model: str
    size: int
    learning_rate: float
    epochs: int
    batch_size: int
    steps: int | None = None
    dropout: float = 0.0
    filters: tuple[int, ...] = (32, 64, 128, 128)
    base: str | None = None
    thaw: str | None = None
    starts_from: "Recipe | None" = None
    augmentation: Augmentation | None = None
    smaller: tuple[int, ...] = ()
    interpolation: str = "nearest"
    preprocessing: str = "rescale"
    views: int = 0
    precision: str = "float32"
    published: dict[str, tuple[float, float]] = field(default_factory=dict)


CHAPTER_AUGMENTATION = Augmentation(
    rotation_range=40,
    width_shift_range=0.2,
    height_shift_range=0.2,
    shear_range=0.2,
    zoom_range=0.2,
    horizontal_flip=True,
)  # listing 5.11


def _ladder(*rungs: Recipe) -> dict[str, Recipe]:
    return {rung.name: rung for rung in rungs}


def _fast(rungs: dict[str, Recipe], views: int, epochs: int, size: int) -> dict[str, Recipe]:
    """The rungs with a base as an expert climbs them: pictures reduced by area and prepared as those that the base
    was trained with, the frozen part of the base run once for each view, `epochs` of fine-tuning instead of the
    listing's, and feature extraction as a linear probe at `size`."""
    expert: dict[str, Any] = {"interpolation": "area", "preprocessing": "base", "precision": "fast", "published": {}}
    frozen = replace(rungs["frozen_end_to_end"], name="frozen_end_to_end_fast", views=views, **expert)
    return _ladder(
        replace(
            rungs["feature_extraction"], name="feature_extraction_fast", model="linear_probe", dropout=0.0, epochs=1,
            size=size, **expert,
        ),
        frozen,
        replace(
            rungs["fine_tuned"], name="fine_tuned_fast", starts_from=frozen, views=views, epochs=epochs, **expert
        ),
    )  # fmt: skip


def _full() -> dict[str, Recipe]:
    dogs: dict[str, Any] = {"scale": "full", "dataset": "dogs_vs_cats", "size": 150, "batch_size": 20, "steps": 100}
    digits: dict[str, Any] = {"scale": "full", "dataset": "mnist", "size": 28, "learning_rate": 1e-3, "epochs": 5}
    frozen = Recipe(
        "frozen_end_to_end",
        listings="5.20-5.21",
        model="end_to_end",
        learning_rate=2e-5,
        epochs=30,
        base="vgg16",
        augmentation=CHAPTER_AUGMENTATION,
        published={"validation": (0.96, 0.96)},
        **dogs,
    )
    return _ladder(
        Recipe(
            "dense_baseline", listings="ch. 2", model="dense_baseline", batch_size=128,
            published={"test": (0.978, 0.978)}, **digits,
        ),
        Recipe(
            "mnist_convnet", listings="5.1-5.3", model="mnist_convnet", batch_size=64,
            published={"test": (0.991, 0.993)}, **digits,
        ),
        Recipe(
            "from_scratch", listings="5.5-5.10", model="small_convnet", learning_rate=1e-4, epochs=30,
            published={"validation": (0.70, 0.72)}, **dogs,
        ),
        Recipe(
            "augmented", listings="5.11-5.15", model="small_convnet", learning_rate=1e-4, epochs=100, dropout=0.5,
            augmentation=CHAPTER_AUGMENTATION, published={"validation": (0.82, 0.83)}, **dogs | {"batch_size": 32},
        ),
        Recipe(
            "feature_extraction", listings="5.16-5.19", model="feature_classifier", learning_rate=2e-5, epochs=30,
            dropout=0.5, base="vgg16", published={"validation": (0.90, 0.90)}, **dogs,
        ),
        frozen,
        replace(
            frozen, name="fine_tuned", listings="5.22-5.24", learning_rate=1e-5, epochs=100, thaw="block5_conv1",
            starts_from=frozen, published={"validation": (0.97, 0.97), "test": (0.968, 0.97)},
        ),
    )  # fmt: skip


def _mini() -> dict[str, Recipe]:
    """The same rungs on `shapes`: fewer and smaller pictures, narrower layers, fewer and larger steps."""
    full = _full()

    def mini(name: str, epochs: int, learning_rate: float, **changes: Any) -> Recipe:
        return replace(
            full[name], scale="mini", dataset="shapes", size=48, batch_size=20, steps=None, filters=(16, 32, 64, 64),
            epochs=epochs, learning_rate=learning_rate, **changes,
        )  # fmt: skip

    frozen = mini("frozen_end_to_end", 6, 2e-4, base="mini")
    return _ladder(
        mini("dense_baseline", 3, 1e-3),
        mini("mnist_convnet", 6, 1e-3),
        mini("from_scratch", 40, 1e-3),
        mini("augmented", 100, 1e-3),
        mini("feature_extraction", 10, 1e-4, base="mini"),
        frozen,
        mini("fine_tuned", 8, 1e-4, base="mini", thaw="block3_conv1", starts_from=frozen),
    )


RUNGS = tuple(_full())
RECIPES: dict[str, dict[str, Recipe]] = {
    "mini": _mini() | _fast(_mini(), views=2, epochs=8, size=48),
    "full": _full() | _fast(_full(), views=3, epochs=30, size=160),
}


def _beside() -> dict[str, Recipe]:
    """What stands beside the rungs at full and runs when it is named.

    The best that the base's features alone gave, from two larger sizes; and the trial of the 0.96 that the chapter has
    for a frozen base: as written, but with recorded views; so with the preprocessing that the base's weights were
    trained with; and as written with the base left trainable, for a single epoch, too.
    """
    full = RECIPES["full"]
    recorded = replace(full["frozen_end_to_end"], name="frozen_end_to_end_recorded", views=3)
    trainable = replace(full["frozen_end_to_end"], name="frozen_end_to_end_trainable", thaw="block1_conv1")
    return _ladder(
        replace(full["feature_extraction_fast"], name="feature_extraction_best", size=288, smaller=(224,)),
        recorded,
        replace(recorded, name="frozen_end_to_end_preprocessed", preprocessing="base"),
        trainable,
        replace(trainable, name="frozen_end_to_end_trainable_1_epoch", epochs=1),
    )


RECIPES["full"] |= _beside()


def climb(scale: str, mode: str, rungs: Sequence[str] = RUNGS) -> list[Recipe]:
    """The recipes of those rungs in the ladder's order, which a rung that starts from another needs: as in the
    listings ("literal"), as an expert climbs them ("fast"; a rung without a base is the same), or "both". A name that
    is not one of RUNGS is a recipe of its own, which runs after them."""
    recipes = RECIPES[scale]
    forms = {"literal": ("{}",), "fast": ("{}_fast",), "both": ("{}", "{}_fast")}[mode]
    names = [form.format(rung) for rung in RUNGS if rung in rungs for form in forms]
    names = [name if name in recipes else name.removesuffix("_fast") for name in names]
    return [recipes[name] for name in dict.fromkeys([*names, *(name for name in rungs if name not in RUNGS)])]


@dataclass(frozen=True)
class Result:
    """One run of a recipe: what came out, and all that is needed to repeat it.

    `history` holds one value an epoch for each metric; `predicted` and `confidence` the class given to each test
    picture and the probability given to it; `seconds` the time by phase; `dataset`, `weights` and `machine` what it
    was run with and on; `base_pictures` how many pictures went through the base. What was not measured is None.
    """

    recipe: Recipe
    seed: int
    dataset: dict[str, Any]
    weights: str | None
    history: training.History
    test_accuracy: float
    test_names: list[str]
    test_labels: list[int]
    predicted: list[int]
    confidence: list[float]
    seconds: dict[str, float]
    machine: dict[str, Any]
    images_per_second: float | None = None
    peak_memory_mib: int | None = None
    base_pictures: int | None = None

    @property
    def validation_accuracy(self) -> float | None:
        """Of the best epoch; None where the dataset has no validation part."""
        return max(self.history["val_accuracy"]) if "val_accuracy" in self.history else None

    @property
    def wall_seconds(self) -> float:
        """All phases but "input", which overlaps them."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "input")

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `save` writes it."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        with replacing(path) as partial:
            partial.write_text(json.dumps(self.as_dict()))

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Read what `save` wrote; BadInput, naming the file, for anything else."""
        try:
            content = json.loads(path.read_text())
            return cls(**content | {"recipe": _recipe_from(content["recipe"])})
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{str(path)!r} is not a saved result: {error}") from error


def _recipe_from(content: dict[str, Any]) -> Recipe:
    if content["starts_from"]:
        content["starts_from"] = _recipe_from(content["starts_from"])
    if content["augmentation"]:
        content["augmentation"] = Augmentation(**content["augmentation"])
    published = {part: tuple(figures) for part, figures in content["published"].items()}
    sizes = {name: tuple(content[name]) for name in ("filters", "smaller") if name in content}
    return Recipe(**content | sizes | {"published": published})


def find_recipe(name: str, scale: str) -> Recipe:
    """The rung of that name, or another form of one; BadInput, listing all, for any other."""
    if name not in RECIPES[scale]:
        raise BadInput(f"unknown rung {name!r} at scale {scale}; choose from {', '.join(RECIPES[scale])}")
    return RECIPES[scale][name]


def run_key(recipe: Recipe, dataset: Dataset, seed: int, weights: str | Path | None = None) -> str:
    """A name for one run, such as "augmented-shapes-seed0-1a2b3c4d": equal only where everything that decides the
    outcome is equal (recipe, pictures, seed, weights, versions)."""
    weights_name = _weights_name(recipe, weights)
    parts = [asdict(recipe), dataset.fingerprint, weights_name, hardware.versions(), _precision(recipe)]
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
    outputs: features.Outputs = features.outputs,
    progress: TextIO | None = None,
) -> Result:
    """Train `recipe` on `dataset` and evaluate it on the test pictures.

    `folder` receives the trained model, which takes whole pictures prepared as in training, the base's features, and
    while the run lasts a checkpoint from which an interrupted run goes on. `weights` is a file or "imagenet" for the
    recipe's base; None takes the package's own for the mini base and "imagenet" for others. The same seed on the same
    machine gives the same result to the last digit. A bar on `progress` shows steps, accuracy and time left.

    With more `devices` than one each trains on its share of every batch, which gives the same steps to rounding (see
    `training.fit`); the test pictures are predicted on one. `outputs` computes the base's features, see
    `features.extract`. Raises BadInput as `gradients.share` does.
    """
    gradients.share(recipe.batch_size, devices)
    clock = training.Clock()
    gradients.make_deterministic()
    title = f"{recipe.name} seed {seed}"
    key = run_key(recipe, dataset, seed, weights)
    with hardware.PeakMemory() as memory:
        start = None
        if recipe.starts_from:
            start = folder / "models" / f"{run_key(recipe.starts_from, dataset, seed, weights)}.keras"
            if not start.is_file():
                same: Any = {"weights": weights, "devices": devices, "outputs": outputs, "progress": progress}
                run(recipe.starts_from, dataset, seed, folder, **same)
        keras.utils.set_random_seed(seed)
        with clock("build"):
            model, base = _build(recipe, dataset, weights, start)
            prepare = preparation(recipe, dataset)
        parts = {
            part: images.Batches(
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
            through_base *= 1 + len(recipe.smaller)

            def recorded(batches: images.Batches, name: str) -> images.Batches:
                found = features.extract(
                    trunk,
                    batches,
                    folder / "features",
                    dtype="float16" if recipe.views else "float32",
                    clock=clock,
                    outputs=outputs,
                    title=f"{title}: {name} features",
                    progress=progress,
                )
                return images.Batches(found, batches.labels, batches.batch_size, images.unchanged)

            if recipe.views and recipe.augmentation:
                passes = [
                    recorded(images.View(parts["train"], recipe.augmentation, seed, number), f"view {number + 1}")
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
                images.stream(passes, seed, augmentation, start=len(history.get("loss", [])) * steps),
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
            probabilities = trainee.predict(gradients.feed(parts["test"]), verbose=0)
    with clock("save"):
        prepared = recipe.base if recipe.base and recipe.preprocessing == "base" else "rescale"
        saving.save(model, folder / "models" / f"{key}.keras", dataset.classes, prepared, recipe.interpolation)
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
        machine=hardware.machine() | {"precision": _precision(recipe), "devices": devices},
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
        sides = (None, None) if recipe.smaller else shape[:2]
        precision = _precision(recipe)
        policy = precision if precision.startswith("mixed") else None
        base = models.conv_base(recipe.base, _weights(recipe, weights), (*sides, 3), policy)
        if recipe.model == "linear_probe":
            model = models.linear_probe(base, recipe.size, classes, recipe.smaller)
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


def preparation(recipe: Recipe, dataset: Dataset) -> images.Prepare:
    """What makes inputs of batches of its pictures, grey ones in the three channels that a base takes."""
    prepare: images.Prepare = images.rescale
    if recipe.base and recipe.preprocessing == "base":
        prepare = models.PREPROCESSING[recipe.base]
    if recipe.base and dataset.train.images.shape[-1] == 1:
        return lambda grey: prepare(np.repeat(grey, 3, axis=-1))
    return prepare


def _precision(recipe: Recipe) -> str:
    """That of the session, and of the base alone where the recipe asks for the fast one and the session for none."""
    running = gradients.precision()
    if recipe.precision == "fast" and not running.startswith("mixed"):
        return fast if (fast := hardware.fast_precision()) != "float32" else running
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
    with open(weights, "rb") as file:
        return f"{Path(weights).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
