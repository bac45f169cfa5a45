"""Baselines: runs under version control, one JSON file each, that later runs are compared with.

    tests/baselines/tensorflow-cpu/from_scratch-dogs_vs_cats-full-seed0.json

A folder is an environment: backend, device, and precision where it is not float32. Files are written whole or not at
all, so processes that update a baseline at once leave whole runs, the last one of each seed. A file may be laid out
anew, but not edited: it holds a checksum.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from convspec import BadInput
from convspec.accuracy import schema
from convspec.files import DAMAGED, atomic_write

REMEDY = (
    "restore it from version control (from Git LFS: git lfs pull), or delete it and run again with"
    " --convspec-update-baselines"
)
PER_PICTURE = ("labels", "predicted", "confidence")  # fields of a run
FACTS = ("processor", "threads", "system", "backend")  # of a machine, that do not change by themselves
DECODERS = ("pillow ", "opencv ", "simplejpeg ")  # whose versions may change pictures, and so a fingerprint


@dataclass(frozen=True)
class Run:
    """One training with one seed, and what its model predicted for each test picture.

    Two runs are comparable only where their `conditions` are equal; `measurements` are kept and never compared. Both
    are plain data, as JSON has it.
    """

    name: str  # of the model
    seed: int
    predicted: list[int]  # class of each test picture, from 0
    labels: list[int]  # the true ones
    pictures: list[str]  # the names
    confidence: list[float]  # probability given to each prediction
    machine: dict[str, Any]  # backend, accelerators, precision, versions, processor ...; any may be missing
    conditions: dict[str, Any]
    measurements: dict[str, Any]
    dataset: str = ""  # with its scale; empty for a model with test pictures of its own

    @property
    def accuracy(self) -> float:
        """Share of the test pictures that are right."""
        return sum(map(int.__eq__, self.predicted, self.labels)) / len(self.labels)


class Baseline(NamedTuple):
    """Earlier runs of one environment, by seed, that new ones are compared with."""

    runs: list[Run]  # none where no runs are comparable; with nothing left out either, the new ones are the first
    reason: str  # which they are, and why these
    left_out: list[str]  # for each group of runs of the same model and dataset that are not comparable, why


def environment(machine: Mapping[str, Any]) -> str:
    """Return the name of a folder: "tensorflow-cpu", "jax-nvidia-h200", "torch-cpu-mixed_bfloat16", "python"."""
    if "backend" not in machine:
        return "python"
    devices, precision = _devices_and_precision(machine)
    device = "-".join(re.findall(r"[a-z0-9]+", devices[0].lower()))
    return "-".join([machine["backend"], device, *([precision] if precision != "float32" else [])])


def write(folder: Path, run: Run) -> Path:
    """Keep a run, in place of an earlier one of the same environment, name, dataset and seed.

    That of schema 1, which had another file name, is removed. Raises BadInput, and writes nothing, for a run that
    `read` would refuse, such as one that diverged.
    """
    path = _path(folder, run)
    try:
        text = schema.encode(vars(run))
        _validated(schema.decode(text))
    except (ValueError, TypeError, msgspec.ValidationError) as error:
        raise BadInput(f"{path.stem} is no baseline: {error}") from error
    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
        _remove_earlier(folder, run)
    except OSError as error:
        raise BadInput(f"{path.stem} cannot be kept: {error}") from error
    return path


def read(folder: Path, name: str = "", dataset: str = "") -> list[Run]:
    """Return the runs of a model on a dataset, else all, by environment, name, dataset and seed.

    There are none where there is no such folder. Raises BadInput, naming file, key, value and remedy, where any of
    their files is cut short, damaged, edited, in conflict, of a later schema or in the wrong place.
    """
    try:
        entries = list(folder.iterdir()) if folder.exists() else []
        entries += [path for sub in entries if sub.is_dir() for path in sub.iterdir()]
    except OSError as error:
        raise BadInput(f"baselines cannot be read: {error}") from error
    # What `atomic_write` writes to just now, or left behind when it was killed, is no baseline yet.
    stem = re.escape(_stem(name, dataset))
    file = rf"{stem}(-{stem}-own)?-seed\d+\.json" if name else r"(?!\.partial\d+-).*-seed\d+\.json"
    runs = (_read(path, folder) for path in entries if re.fullmatch(file, path.name))
    return sorted(runs, key=lambda run: (environment(run.machine), run.name, run.dataset, run.seed))


def incomparable(old: Run, new: Run) -> list[str]:
    """Return why the accuracies of two runs cannot be compared: other conditions or other test pictures.

    Empty where they can. Seeds, versions and machines may differ, see `changes`.
    """
    reasons = list(_differences(old.conditions, new.conditions))
    decoders = [change for change in changes([old], [new]) if change.startswith(DECODERS)]
    if decoders:
        hint = f", which may come of {', '.join(decoders)}"
        reasons = [reason + hint * ("fingerprint is" in reason) for reason in reasons]
    if set(old.pictures) != set(new.pictures):
        sides = (("new", {*new.pictures} - {*old.pictures}), ("gone", {*old.pictures} - {*new.pictures}))
        how = ", ".join(f"{len(names)} are {which}" + (f" ({min(names)!r})" if names else "") for which, names in sides)
        reasons.append(f"the test pictures differ: {how}")
    elif differ := sum(map(int.__ne__, in_order(old, new.pictures).labels, new.labels)):
        which = f"{differ} test pictures have" if differ > 1 else "a test picture has"
        reasons.append(f"{which} another label")
    return reasons


def in_order(run: Run, pictures: Sequence[str]) -> Run:
    """Return a run with its pictures in another order, all of them."""
    if list(pictures) == run.pictures:
        return run
    places = {picture: place for place, picture in enumerate(run.pictures)}
    order = [places[picture] for picture in pictures]
    parts: dict[str, Any] = {name: [getattr(run, name)[place] for place in order] for name in PER_PICTURE}
    return replace(run, pictures=list(pictures), **parts)


def changes(old: Sequence[Run], new: Sequence[Run]) -> list[str]:
    """Return what changed in versions and machine: ["keras 3.15.1 -> 3.16.0", ...].

    What one side alone has recorded, such as a library that the other did not import, is no known change.
    """
    before, after = (_facts([run.machine for run in runs]) for runs in (old, new))
    return [f"{name} {fact} -> {after[name]}" for name, fact in before.items() if after.get(name, fact) != fact]


def choose(baselines: Sequence[Run], new: Sequence[Run]) -> Baseline:
    """Return the baseline of `new`, which are runs of one model on one dataset and machine.

    Of the comparable runs those of the same environment, else of one with the same backend, else of any; where there
    are several, of the one with the most runs. Their pictures are in the order of the new ones.
    """
    run = new[0]
    here, backend = environment(run.machine), run.machine.get("backend")
    comparable: dict[str, list[Run]] = defaultdict(list)
    others: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for old in baselines:
        if (old.name, old.dataset) == (run.name, run.dataset):
            place, reasons = environment(old.machine), incomparable(old, run)
            if reasons:
                others[place, "; ".join(reasons)].append(old)
            else:
                comparable[place].append(in_order(old, run.pictures))
    left_out = [f"{place}, {name_seeds(runs)}: not comparable, {why}" for (place, why), runs in others.items()]
    if not comparable:
        missing = f"no {'comparable baseline' if others else 'baseline yet'} of {run.name}"
        return Baseline([], missing + (f" on {run.dataset}" if run.dataset else ""), left_out)

    def nearness(place: str) -> tuple[bool, bool, int]:
        runs = comparable[place]
        return place == here, runs[0].machine.get("backend") == backend, len(runs)

    place = max(sorted(comparable), key=nearness)
    why = "the environment of this run" if place == here else f"the nearest, as nothing is comparable of {here}"
    return Baseline(comparable[place], f"{place}, {name_seeds(comparable[place])}: {why}", left_out)


def _path(folder: Path, run: Run) -> Path:
    return folder / environment(run.machine) / f"{_stem(run.name, run.dataset)}-seed{run.seed}.json"


def _earlier_name(run: Run) -> str:
    """Return what schema 1 called the file of a run of somebody's own model."""
    stem = _stem(run.name)
    return f"{stem}-{stem}-own-seed{run.seed}.json"


def _remove_earlier(folder: Path, run: Run) -> None:
    """Remove what schema 1 kept of the same model and seed, but nothing of a model with such a name."""
    for path in folder.glob(f"*/*-own-seed{run.seed}.json"):
        if path.name == _earlier_name(run):
            with suppress(BadInput):
                old = _read(path, folder)
                if (old.name, old.dataset) == (run.name, run.dataset):
                    path.unlink(missing_ok=True)


def _stem(name: str, dataset: str = "") -> str:
    stem = "-".join(filter(None, (name, dataset)))
    return quote(stem, safe=" ", errors="surrogatepass")  # somebody's own model may have any name


def _devices_and_precision(machine: Mapping[str, Any]) -> tuple[list[str], str]:
    return machine.get("accelerators") or ["CPU"], machine.get("precision", "float32")  # the one before it was recorded


def name_seeds(runs: Sequence[Run]) -> str:
    """Return "seed 3", "seeds 0, 2" or, of more than five in a row, "seeds 0-9, 12"."""
    parts: list[str] = []
    for _, numbered in groupby(enumerate(sorted(run.seed for run in runs)), lambda pair: pair[1] - pair[0]):
        row = [str(seed) for _, seed in numbered]
        parts += row if len(row) <= 5 else [f"{row[0]}-{row[-1]}"]
    return f"seed{'s' * (len(runs) > 1)} {', '.join(parts)}"


def _read(path: Path, folder: Path) -> Run:
    try:
        run = _validated(schema.decode(path.read_text(encoding="utf-8")))
        wanted = _path(folder, run)
        if path != wanted and (run.dataset or path != wanted.with_name(_earlier_name(run))):
            raise ValueError(f"this is {str(wanted.relative_to(folder))!r} by its content, moved or copied")
        return run
    except (*DAMAGED, AttributeError, msgspec.ValidationError) as error:
        raise BadInput(f"baseline {str(path)!r}: {error}; {REMEDY}") from error


def _validated(content: dict[str, Any]) -> Run:
    run = msgspec.convert(content, Run)
    count = len(run.pictures)
    if run.seed < 0:
        raise ValueError(f"seed must not be negative, got {run.seed}")
    if not count or len(set(run.pictures)) < count:
        raise ValueError(f"pictures must name at least one picture, and each once, got {brief(run.pictures)}")
    for name in PER_PICTURE:
        values = getattr(run, name)
        if len(values) != count:
            raise ValueError(f"{name} must have {count} entries, one for each of the pictures, got {len(values)}")
        if min(values) < 0:
            raise ValueError(f"{name} must not be negative, got {min(values)}")
    if max(run.confidence) > 1:
        raise ValueError(f"confidence must be at most 1, got {max(run.confidence)}")
    return run


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key in {**old, **new}:
        before, after = (side.get(key, ...) for side in (old, new))
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{path}{key}.")
        elif before != after:
            was, now = ("not set" if value is ... else brief(value) for value in (before, after))
            if was == now and isinstance(before, list):  # they differ where they are cut
                was += f" with {brief([each for each in before if each not in after])} of {len(before)}"
                now += f" with {brief([each for each in after if each not in before])} of {len(after)}"
            yield f"{path}{key} is {now}, was {was}"


def _facts(machines: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what is known of the machines under each name; several values where they differ."""
    values: dict[str, set[str]] = defaultdict(set)
    for machine in machines:
        facts = {name: machine[name] for name in FACTS if name in machine}
        if "backend" in machine:
            devices, precision = _devices_and_precision(machine)
            facts |= {"device": ", ".join(devices), "precision": precision, "engine": machine.get("engine", "keras")}
        for gpu in machine.get("accelerator_state") or ():
            if isinstance(gpu, dict) and "driver" in gpu:
                facts["driver"] = gpu["driver"]
        for name, value in (facts | machine.get("versions", {})).items():
            values[name].add(str(value))
    return {name: ", ".join(sorted(each)) for name, each in values.items()}
