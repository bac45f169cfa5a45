"""Baselines: raw runs under version control, one JSON file each, that later runs are held against.

    fixtures/baselines/tensorflow-cpu/from_scratch-dogs_vs_cats-full-seed0.json

A folder is an environment: backend, device, and precision where it is not float32. Runs that update a baseline at the
same time write files of their own, or replace one whole file by another. A file has a line for each field of `Result`,
the version of the schema, and a checksum of what it says: it may be laid out anew, but not edited.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from math import inf, isclose, isfinite
from pathlib import Path
from reprlib import repr as brief
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote

from convspec import BadInput
from convspec.files import atomic_write
from convspec.ladder.result import Result

SCHEMA = 1
REMEDY = "restore it from version control, or delete it and run again with --update-baselines"
DATASET = {"name": str, "fingerprint": str, "classes": list[str], "pictures": dict[str, int]}
MACHINE = {"backend": str, "accelerators": list[str], "versions": dict[str, str]}
PLAIN = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
WORDS = ("listings", "published")  # of a recipe, that no result follows from
FACTS = ("backend", "processor", "threads", "system")  # of a machine, that do not change by themselves


@dataclass(frozen=True)
class Baseline:
    """What runs are held against: earlier ones of one environment, by seed; none where there is nothing comparable.

    `reason` says which they are and why these. `left_out` has a line for each group of runs of the same rung, dataset
    and scale that cannot be compared, and why; where there are no `runs` and nothing is left out, these were the first.
    """

    runs: list[Result]
    reason: str
    left_out: list[str]


def environment(machine: Mapping[str, Any]) -> str:
    """What the runs of one folder have in common: "tensorflow-cpu", "jax-nvidia-h200", "torch-cpu-mixed_bfloat16"."""
    device = (
        "-".join(re.findall(r"[a-z0-9]+", machine["accelerators"][0].lower())) if machine["accelerators"] else "cpu"
    )
    precision = _precision(machine)
    return "-".join([machine["backend"], device, *([precision] if precision != "float32" else [])])


def write(folder: Path, result: Result) -> Path:
    """Keep a run, in place of an earlier one of the same environment, rung, dataset, scale and seed.

    BadInput, and nothing is written, for a run that `read` would refuse, such as one that diverged.
    """
    content = {"schema": SCHEMA, **json.loads(json.dumps(result.as_dict()))}
    path = _path(folder, result)
    try:
        _sound(content)
        content["sha256"] = _checksum(content)
    except ValueError as error:
        raise BadInput(f"{path.stem} is no baseline: {error}") from error
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    with atomic_write(path) as partial:
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read(folder: Path) -> list[Result]:
    """All runs, by environment, rung, dataset, scale and seed; none where there is no such folder.

    BadInput, naming file, key, value and remedy, where any file is cut short, damaged, edited, in conflict, of another
    schema or in the wrong place. A field that a file lacks has the default that it has in `Result` or `Recipe`.
    """
    try:
        inside = list(folder.iterdir()) if folder.exists() else []
        inside += [path for sub in inside if sub.is_dir() for path in sub.iterdir()]
    except OSError as error:
        raise BadInput(f"baselines cannot be read: {error}") from error
    # What `atomic_write` writes to just now, or left behind when it was killed, is no baseline yet.
    paths = [path for path in inside if path.suffix == ".json" and not re.match(r"partial\d+-", path.name)]
    return sorted(
        (_read(path, folder) for path in paths),
        key=lambda run: (environment(run.machine), *_subject(run), run.seed),
    )


def incomparable(old: Result, new: Result) -> list[str]:
    """Why the accuracies of two runs say nothing of each other: what differs in the recipe but words, the pictures or
    the base's weights. Empty where they can be compared; seeds, versions and machines may differ, see `changes`.
    """
    reasons = list(_differences(asdict(old.recipe), asdict(new.recipe)))
    before, after = old.dataset["fingerprint"], new.dataset["fingerprint"]
    if before != after:
        decoders = [change for change in changes([old], [new]) if change.startswith(("pillow ", "opencv "))]
        hint = f", which may come of {', '.join(decoders)}" if decoders else ""
        reasons.append(f"the dataset's fingerprint is {after[:12]}, was {before[:12]}{hint}")
    if (old.test_names, old.test_labels) != (new.test_names, new.test_labels):
        were, are = set(old.test_names), set(new.test_names)
        how = f"{len(are - were)} are new, {len(were - are)} are gone" if were != are else "in order or labels"
        reasons.append(f"the test pictures differ: {how}")
    before, after = (str(run.weights).rpartition("sha256:")[2] for run in (old, new))  # whatever the file is called
    if before != after:
        reasons.append(f"the base's weights are {new.weights}, were {old.weights}")
    return reasons


def changes(old: Sequence[Result], new: Sequence[Result]) -> list[str]:
    """What changed in backend, device, precision, processor and versions: ["keras 3.15.1 -> 3.16.0", ...]."""
    before, after = (_facts([run.machine for run in runs]) for runs in (old, new))
    return [
        f"{name} {before.get(name, 'not recorded')} -> {after.get(name, 'not recorded')}"
        for name in before | after
        if before.get(name) != after.get(name)
    ]


def choose(baselines: Sequence[Result], new: Sequence[Result]) -> Baseline:
    """What to hold `new` against, which are runs of one recipe on one dataset and machine.

    Of what can be compared: the runs of the same environment, else of one with the same backend, else of any; where
    there are several, of the one with the most runs.
    """
    run = new[0]
    here, backend = environment(run.machine), run.machine["backend"]
    found: dict[str, list[Result]] = defaultdict(list)
    left: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for old in baselines:
        if _subject(old) == _subject(run):
            place, reasons = environment(old.machine), incomparable(old, run)
            (left[place, "; ".join(reasons)] if reasons else found[place]).append(old)
    left_out = [f"{place}, {_seeds(runs)}: not comparable, {why}" for (place, why), runs in left.items()]
    what = "{} on {} at --scale {}".format(*_subject(run))
    if not found:
        none = "no baseline yet" if not left else "no comparable baseline"
        return Baseline([], f"{none} of {what}", left_out)
    place = max(sorted(found), key=lambda p: (p == here, found[p][0].machine["backend"] == backend, len(found[p])))
    runs = found[place]
    if place == here:
        why = "the environment of this run"
    elif runs[0].machine["backend"] == backend:
        why = f"there is nothing comparable of {here}, and this is the same backend"
    else:
        why = f"there is nothing comparable of {here}, nor of another device with {backend}"
    return Baseline(runs, f"{place}, {_seeds(runs)}: {why}", left_out)


def _subject(run: Result) -> tuple[str, str, str]:
    return run.recipe.name, run.dataset["name"], run.recipe.scale


def _path(folder: Path, run: Result) -> Path:
    name = quote("-".join(_subject(run)), safe=" ", errors="surrogatepass")  # another's model may have any name
    return folder / environment(run.machine) / f"{name}-seed{run.seed}.json"


def _precision(machine: Mapping[str, Any]) -> str:
    return str(machine.get("precision", "float32"))  # which was all there was before it was recorded


def _seeds(runs: Sequence[Result]) -> str:
    return f"seed{'s' * (len(runs) > 1)} {', '.join(str(run.seed) for run in runs)}"


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, folder: Path) -> Result:
    try:
        text = path.read_text(encoding="utf-8")
        if re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE):
            raise ValueError("a merge conflict: take one side whole, `git checkout --ours` or `--theirs`")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"damaged or cut short, {error}") from error
        checksum = content.pop("sha256", None) if isinstance(content, dict) else None
        result = _sound(content)
        if checksum != _checksum(content):
            raise ValueError(f"sha256 is {brief(checksum)}, which is not that of the content: edited, or damaged")
        if path != (right := _path(folder, result)):
            raise ValueError(f"this is {str(right.relative_to(folder))!r} by its content, moved or copied")
        return result
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"baseline {str(path)!r}: {error}; {REMEDY}") from error


def _sound(content: Any) -> Result:
    """The result that a file without its checksum holds; ValueError, naming key and value, where it holds none, or one
    that contradicts itself.
    """
    renamed = json.loads(json.dumps(content).replace('"smaller":', '"extra_sizes":'))
    run = _built(renamed, dict[str, Any], "the file")
    if (schema := run.pop("schema", None)) != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}, got {schema!r}: another version of convspec wrote it")
    result: Result = _built(run, Result, "")
    for key, kinds in (("dataset", DATASET), ("machine", MACHINE)):
        for name, kind in kinds.items():
            _built(getattr(result, key).get(name), kind, f"{key}.{name}")
    for fault in _faults(result):
        raise ValueError(fault)
    return result


def _faults(run: Result) -> Iterator[str]:
    pictures, classes = len(run.test_names), len(run.dataset["classes"])
    if run.seed < 0:
        yield f"seed must not be negative, got {run.seed}"
    if not pictures or len(set(run.test_names)) < pictures:
        yield f"test_names must name at least one picture, and each once, got {brief(run.test_names)}"
    if (counted := run.dataset["pictures"].get("test")) != pictures:
        yield f"dataset.pictures.test must be {pictures}, as there are test_names, got {counted}"
    for name in ("test_labels", "predicted", "confidence"):
        if (length := len(getattr(run, name))) != pictures:
            yield f"{name} must have {pictures} entries, as there are test_names, got {length}"
    for name in ("test_labels", "predicted"):
        if wrong := set(getattr(run, name)) - set(range(classes)):
            yield f"{name} must be from 0 to {classes - 1}, the classes' numbers, got {min(wrong)}"
    if not 0 <= min(run.confidence) <= max(run.confidence) <= 1:
        yield f"confidence must be from 0 to 1, got {min(run.confidence)} to {max(run.confidence)}"
    right = sum(given == label for given, label in zip(run.predicted, run.test_labels, strict=True))
    if not isclose(run.test_accuracy * pictures, right, abs_tol=1e-6):
        yield f"test_accuracy must be {right} / {pictures}, what predicted gets right, got {run.test_accuracy}"
    if len(epochs := {len(values) for values in run.history.values()}) > 1 or 0 in epochs:
        yield f"history must have the same epochs, at least one, for each metric, got {brief(run.history)}"


def _built(value: Any, kind: Any, key: str) -> Any:
    """`value`, as JSON has it, as a `kind`; ValueError, naming `key`, where it is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and NoneType in inner):
        return value
    if origin in (Union, UnionType):
        return _built(value, next(other for other in inner if other is not NoneType), key)
    if isinstance(kind, type) and is_dataclass(kind):
        hints, given = get_type_hints(kind), _built(value, dict[str, Any], key or "the file")
        for field in fields(kind):
            if field.name not in given and field.default is MISSING and field.default_factory is MISSING:
                raise ValueError(f"{_below(key, field.name)} is missing")
        if unknown := given.keys() - hints.keys():
            raise ValueError(f"{_below(key, min(unknown))} is not known")
        return kind(**{name: _built(part, hints[name], _below(key, name)) for name, part in given.items()})
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{key} must be a JSON object, got {brief(value)}")
        return {name: _built(part, inner[1], _below(key, name)) for name, part in value.items()}
    if origin in (list, tuple):
        length = None if origin is list or Ellipsis in inner else len(inner)
        if not isinstance(value, list) or length not in (None, len(value)):
            raise ValueError(f"{key} must be a list{f' of {length}' if length else ''}, got {brief(value)}")
        if {type(part) for part in value} <= {inner[0]} and (inner[0] is not float or all(map(isfinite, value))):
            return origin(value)  # the quick way for what may be one for each of 10,000 pictures
        return origin(_built(part, inner[0], f"{key}[{place}]") for place, part in enumerate(value))
    if origin is Literal:
        kind = type(inner[0])
    fits = type(value) in (int, float) and -inf < value < inf if kind is float else type(value) is kind
    if not fits:
        raise ValueError(f"{key} must be {PLAIN[kind]}, got {brief(value)}")
    return value


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old:
            if name not in WORDS:
                yield from _differences(old[name], new[name], _below(key, name))
    elif old != new:
        yield f"the recipe has {key} {brief(new)}, had {brief(old)}"


def _facts(machines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is known of the machines under each name; several values where they differ."""
    found: dict[str, set[str]] = defaultdict(set)
    for machine in machines:
        facts = {name: machine[name] for name in FACTS if name in machine}
        facts |= {"device": ", ".join(machine["accelerators"]) or "CPU", "precision": _precision(machine)}
        for gpu in machine.get("accelerator_state") or ():
            if isinstance(gpu, dict) and "driver" in gpu:
                facts["driver"] = gpu["driver"]
        for name, value in (facts | machine["versions"]).items():
            found[name].add(str(value))
    return {name: ", ".join(sorted(values)) for name, values in found.items()}
