"""The result of one run of a recipe."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from convspec import BadInput, training
from convspec.data.augmentation import Augmentation
from convspec.files import atomic_write
from convspec.ladder.recipe import Recipe


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
        with atomic_write(path) as partial:
            partial.write_text(json.dumps(self.as_dict()))

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Read what `save` wrote; BadInput, naming the file, for anything else."""
        try:
            content = json.loads(path.read_text())
            return cls(**content | {"recipe": recipe_from(content["recipe"])})
        except (ValueError, TypeError, KeyError) as error:
            raise BadInput(f"{str(path)!r} is not a saved result: {error}") from error


def recipe_from(content: dict[str, Any]) -> Recipe:
    if content["starts_from"]:
        content["starts_from"] = recipe_from(content["starts_from"])
    if content["augmentation"]:
        content["augmentation"] = Augmentation(**content["augmentation"])
    published = {part: tuple(figures) for part, figures in content["published"].items()}
    if "smaller" in content:  # schema 1
        content["extra_sizes"] = content.pop("smaller")
    sizes = {name: tuple(content[name]) for name in ("filters", "extra_sizes") if name in content}
    return Recipe(**content | sizes | {"published": published})
