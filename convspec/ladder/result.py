"""Result of one run of a recipe."""

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from convspec import BadInput, training
from convspec.accuracy.baselines import Run
from convspec.accuracy.schema import deciding
from convspec.data.augmentation import Augmentation
from convspec.files import atomic_write, room_for
from convspec.ladder.recipe import Recipe

SCHEMA = 3  # of a saved result; it rises whenever a field changes, as a result waits only until its session is done
_FIELDS = (*fields(Recipe), *fields(Augmentation))
_DEFAULTS = {field.name: field.default for field in _FIELDS if field.default is not MISSING}
_PER_PICTURE = {"test_names": "pictures", "test_labels": "labels", "predicted": "predicted", "confidence": "confidence"}


@dataclass(frozen=True)
class Result:
    """One run of a recipe: what came out, and all that is needed to repeat it."""

    recipe: Recipe
    seed: int
    dataset: dict[str, Any]  # name, fingerprint, classes, number of pictures in each part, files that were skipped
    weights: str | None  # file name and checksum of those of the base
    history: training.History  # one value an epoch for each metric
    test_accuracy: float
    test_names: list[str]
    test_labels: list[int]
    predicted: list[int]  # class given to each test picture
    confidence: list[float]  # probability given to that class
    seconds: dict[str, float]  # by phase
    machine: dict[str, Any]
    images_per_second: float | None = None
    peak_memory_mib: int | None = None
    base_pictures: int | None = None  # how many went through the base

    @property
    def validation_accuracy(self) -> float | None:
        """Of the best epoch; None where the dataset has no validation part."""
        return max(self.history["val_accuracy"]) if "val_accuracy" in self.history else None

    @property
    def wall_seconds(self) -> float:
        """All phases but "input", which overlaps them."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "input")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as JSON has it."""
        return json.loads(self._json())

    def as_run(self) -> Run:
        """Return what a gate needs: the recipe, the pictures and the base's weights decide the accuracy."""
        content = self.as_dict()
        weights, taken = content["weights"], {*_PER_PICTURE, "seed", "machine", "test_accuracy"}
        return Run(
            name=self.recipe.name,
            dataset=f"{self.dataset['name']}-{self.recipe.scale}",
            seed=self.seed,
            machine=content["machine"],
            conditions={
                "recipe": deciding(content["recipe"], json.loads(json.dumps(_DEFAULTS))),
                "dataset": {"fingerprint": self.dataset["fingerprint"]},
                "weights": weights and weights.rpartition("sha256:")[2],  # whatever the file is called
            },
            measurements={field: value for field, value in content.items() if field not in taken},
            **{theirs: content[ours] for ours, theirs in _PER_PICTURE.items()},
        )

    @classmethod
    def from_run(cls, run: Run) -> "Result":
        """Return the result that `as_run` was called on; BadInput for a run that isn't one of the ladder."""
        per_picture = {ours: getattr(run, theirs) for ours, theirs in _PER_PICTURE.items()}
        common = {"seed": run.seed, "machine": run.machine, "test_accuracy": run.accuracy}
        try:
            return msgspec.convert(run.measurements | per_picture | common, cls)
        except msgspec.ValidationError as error:
            raise BadInput(f"run {run.name!r}, seed {run.seed}, is not a result of the ladder: {error}") from error

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all; BadInput where the disk is full."""
        with room_for(f"{self.recipe.name} seed {self.seed}", path.parent), atomic_write(path) as partial:
            partial.write_text(self._json(schema=SCHEMA))

    def _json(self, **more: int) -> str:
        return json.dumps({**more, **vars(self), "recipe": asdict(self.recipe)})  # which copies number by number

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Read what `save` wrote; BadInput, naming the file, for anything else."""
        try:
            content = json.loads(path.read_bytes())
            if (schema := content.get("schema")) != SCHEMA:
                raise ValueError(f"its schema is {schema}, not {SCHEMA}: delete what another version wrote")
            return msgspec.convert(content, cls)
        except (ValueError, AttributeError, msgspec.ValidationError) as error:
            raise BadInput(f"{str(path)!r} is not a saved result: {error}") from error
