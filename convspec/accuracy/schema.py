"""JSON text of a baseline file: its schema number, its checksum, and the migration of earlier schemas.

The number rises when a field changes its meaning or a default is another. Each step has a function in MIGRATIONS, which
is never edited afterwards. Readers accept all earlier numbers and refuse later ones.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from math import isfinite
from reprlib import repr as brief
from typing import Any

SCHEMA = 2
NO_INFLUENCE = ("listings", "published")  # fields of a recipe that do not decide its accuracy
DEFAULTS_1: dict[str, Any] = {  # of recipes and of their augmentation, when schema 1 was current
    "steps": None, "dropout": 0.0, "filters": [32, 64, 128, 128], "base": None, "thaw": None, "starts_from": None,
    "augmentation": None, "extra_sizes": [], "interpolation": "nearest", "preprocessing": "rescale", "views": 0,
    "precision": "float32", "rotation_range": 0.0, "width_shift_range": 0.0, "height_shift_range": 0.0,
    "shear_range": 0.0, "zoom_range": 0.0, "horizontal_flip": False, "fill_mode": "nearest",
}  # fmt: skip


def encode(content: dict[str, Any]) -> str:
    """Return a file's text, a line for each field; ValueError, naming the field, for a number that is not finite."""
    sealed = {"schema": SCHEMA, **content}
    sealed["sha256"] = _digest(sealed)
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sealed.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def decode(text: str) -> dict[str, Any]:
    """Return a file's content in the current schema, without number and checksum; ValueError for a damaged file."""
    if any(marker in f"\n{text}" for marker in ("\n<<<<<<<", "\n>>>>>>>")):
        raise ValueError("a merge conflict: take one side whole, `git checkout --ours` or `--theirs`")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"damaged or cut short, {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the file must be a JSON object, got {brief(content)}")
    schema, digest = content.get("schema"), content.pop("sha256", None)
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(f"schema must be from 1 to {SCHEMA}, got {brief(schema)}: upgrade convspec where it is later")
    if digest != _digest(content):
        raise ValueError(f"sha256 is {brief(digest)}, which is not that of the content: edited, or damaged")
    del content["schema"]
    for number in range(schema, SCHEMA):
        try:
            content = MIGRATIONS[number](content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a run of schema {number}: {type(error).__name__} {error}") from error
    return content


def deciding(recipe: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the accuracy of a recipe; a later field with a default leaves earlier runs comparable."""
    return {
        name: deciding(value, defaults) if isinstance(value, dict) else value
        for name, value in recipe.items()
        if name not in NO_INFLUENCE and not (name in defaults and value == defaults[name])
    }


def _from_1(old: dict[str, Any]) -> dict[str, Any]:
    """Split the fields of one run of the ladder into conditions and measurements."""
    recipe, dataset = json.loads(json.dumps(old["recipe"]).replace('"smaller":', '"extra_sizes":')), old["dataset"]
    common = {name: old[name] for name in ("seed", "predicted", "confidence", "machine")}
    common |= {"name": recipe["name"], "labels": old["test_labels"], "pictures": old["test_names"]}
    if recipe["scale"] == "own":  # somebody's own model
        return common | {"dataset": "", "conditions": {"classes": dataset["classes"]}, "measurements": {}}
    kept = ("weights", "history", "seconds", "images_per_second", "peak_memory_mib", "base_pictures")
    return common | {
        "dataset": f"{dataset['name']}-{recipe['scale']}",
        "conditions": {
            "recipe": deciding(recipe, DEFAULTS_1),
            "dataset": {"fingerprint": dataset["fingerprint"]},
            "weights": old["weights"] and old["weights"].rpartition("sha256:")[2],
        },
        "measurements": {"recipe": recipe, "dataset": dataset} | {name: old[name] for name in kept if name in old},
    }


MIGRATIONS = {1: _from_1}


def _digest(content: dict[str, Any]) -> str:
    try:
        text = json.dumps(content, sort_keys=True, allow_nan=False)
    except ValueError:
        raise ValueError(next(_non_finite(content))) from None
    return hashlib.sha256(text.encode()).hexdigest()


def _non_finite(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, float) and not isfinite(value):
        yield f"{path.removeprefix('.')} must be a finite number, got {value}"
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _non_finite(part, f"{path}.{key}")
