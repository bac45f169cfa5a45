"""Judgement of runs by their baseline: the verdict, what they are compared with and why, what changed, what flipped."""

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from convspec import BadInput
from convspec.accuracy import baselines, gate
from convspec.accuracy.baselines import Run
from convspec.accuracy.flips import Flips, flips
from convspec.accuracy.gate import MARGIN, AccuracyVerdict
from convspec.accuracy.measures import Measure, picture_weights

LIBRARIES = (  # recorded where they are imported
    "numpy", "scipy", "sklearn", "xgboost", "lightgbm", "torch", "torchvision", "keras", "tensorflow", "jax",
    "PIL", "cv2",
)  # fmt: skip
GAP = 3  # between two groups of a baseline's accuracies, in spreads (the largest less the smallest) within a group


@dataclass(frozen=True)
class Judgement:
    """Runs of one model and what the gate says of them."""

    name: str  # of the model
    outcome: Literal["pass", "regressed", "underpowered", "missing"]  # missing: there is no comparable baseline
    against: str  # which baseline it is, and why this one
    changes: list[str]  # in versions and machine
    left_out: list[str]  # which runs are not comparable, and why
    baseline: list[Run]
    runs: list[Run]
    verdict: AccuracyVerdict | None = None
    flips: Flips | None = None
    measure: Measure = "accuracy"

    @property
    def lines(self) -> list[str]:
        """Report in words, the verdict first."""
        if not self.verdict:
            return [f"{self.name}: {self.against}", *self.left_out]
        balanced = ", balanced accuracy" if self.measure == "balanced" else ""
        lines = [f"{self.name}{balanced}: {self.verdict}", f"against {self.against}", *self.left_out]
        if self.flips and self.flips.pictures:
            lines.append(str(self.flips))
            if self.names_flips:
                flipped = zip(self.flips.pictures[:5], self.flips.changes, strict=False)
                worst = [f"{self.runs[0].pictures[place]} ({change:+.2g})" for place, change in flipped]
                lines.append(f"flipped most consistently: {', '.join(worst)}")
            lines.append(f"changed: {', '.join(self.changes) or 'nothing that is recorded of versions and machine'}")
        return lines

    @property
    def names_flips(self) -> bool:
        """Whether to show what flipped: accuracy was lost, or more pictures flipped than by chance."""
        return self.flips is not None and (self.outcome == "regressed" or self.flips.outcome == "change")

    @property
    def differs_for_no_known_reason(self) -> bool:
        """Whether a seed of both sides gave other predictions with the same versions on the same machine."""
        before = {run.seed: run.predicted for run in self.baseline}
        return not self.changes and any(before.get(run.seed, run.predicted) != run.predicted for run in self.runs)

    @property
    def measured(self) -> str:
        """What is judged, and how much of it the new runs have: "an accuracy of 0.950"."""
        labels, balanced = self.runs[0].labels, self.measure == "balanced"
        right = np.equal([run.predicted for run in self.runs], labels)
        mean = np.average(right, axis=1, weights=picture_weights(labels) if balanced else None).mean()
        return f"{'a balanced' if balanced else 'an'} accuracy of {mean:.3f}"

    @property
    def properties(self) -> dict[str, Any]:
        """Figures for a machine to read, as in JUnit's XML."""
        figures: dict[str, Any] = {"name": self.name, "outcome": self.outcome, "against": self.against}
        if self.verdict and self.flips:
            figures |= asdict(self.verdict) | {"measure": self.measure, "flips": self.flips.outcome}
            figures |= {"flip_rate": self.flips.between, "flip_rate_by_chance": self.flips.within}
        return figures | {"changes": "; ".join(self.changes), "left_out": "; ".join(self.left_out)}


def judge(
    folder: Path, runs: Sequence[Run], margin: float = MARGIN, looks: int = 1, measure: Measure = "accuracy"
) -> Judgement:
    """Return the judgement of `runs`, of one model on one machine, by their baseline in `folder`.

    Args:
        folder: That of the baselines; it may be missing.
        runs: The new runs, at least one.
        margin: The drop in accuracy that is tolerated.
        looks: Number of verdicts asked for while runs are added.
        measure: What is judged: the accuracy, or the balanced accuracy, in which every class counts the same.

    Raises:
        BadInput: For a folder with anything but sound baselines.
    """
    chosen = baselines.choose(baselines.read(folder, runs[0].name, runs[0].dataset), runs)
    missing = Judgement(
        runs[0].name, "missing", chosen.reason, [], chosen.left_out, chosen.runs, list(runs), measure=measure
    )
    if not chosen.runs:
        return missing
    sides = [np.equal([run.predicted for run in side], side[0].labels) for side in (chosen.runs, runs)]
    weights = picture_weights(runs[0].labels) if measure == "balanced" else None
    verdict = gate.gate(*sides, margin=margin, looks=looks, weights=weights)
    old, new = (np.average(side, axis=1, weights=weights) for side in sides)
    if mixed := _two_groups(chosen.runs, old, new, 1 / len(runs[0].labels)):
        verdict = replace(verdict, seeds_needed=None, note="; ".join(filter(None, (verdict.note, mixed))))
    changes = baselines.changes(chosen.runs, runs)
    return replace(missing, outcome=verdict.outcome, changes=changes, verdict=verdict, flips=flips(*sides))


def _two_groups(runs: Sequence[Run], old: np.ndarray, new: np.ndarray, picture: float) -> str:
    """Return which runs of a baseline seem to be of another model than the rest, if any.

    The seeds of one model hardly ever leave such a gap: where accuracies are normal, beside three new runs, of four in
    a baseline 5 times in 1,000, of six once and of ten never; beside five new ones at most once.

    Args:
        runs: The baseline.
        old: Their accuracies.
        new: Those of the new runs.
        picture: What one picture adds to an accuracy, the smallest spread.
    """
    if len(old) < 4 or len(new) < 3:
        return ""
    order = np.argsort(old)
    split = 2 + int(np.diff(old[order])[1:-1].argmax())  # two runs or more on each side
    groups = order[:split], order[split:]
    spread = max(picture, float(np.ptp(new)), *(float(np.ptp(old[group])) for group in groups))
    if old[groups[1]].min() - old[groups[0]].max() <= GAP * spread:
        return ""
    shown = [
        f"{baselines.name_seeds([runs[place] for place in group])} at {old[group].mean():.3f}"
        for group in sorted(groups, key=min)
    ]
    return (
        f"the baseline's runs fall into two groups, {' and '.join(shown)}, as if of two models: run"
        " --convspec-update-baselines with all of these seeds, or delete the files of the other model"
    )


def results_from_predictions(
    name: str,
    predicted: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    confidence: ArrayLike | None = None,
) -> list[Run]:
    """Return the runs of somebody's own model, one for each row of predictions.

    Args:
        name: That of the model.
        predicted: Class of each test picture (a number or a name), or a row of those for each seed from 0 on.
        labels: True class of each test picture.
        names: Those of the pictures; their numbers where there are none.
        confidence: Probability given to each prediction, shaped as `predicted`; 1 where there is none.

    Raises:
        BadInput: For shapes that do not fit, probabilities in the place of classes, predictions without any of the
            labels' classes, a confidence that is no probability, two pictures of one name, and a name of no line or
            several.
    """
    if not isinstance(name, str) or not name.strip() or name.splitlines() != [name]:
        raise BadInput(f"name must be that of the model, one line of text, got {name!r}")
    name = _encodable(name)
    rows, truth = np.atleast_2d(_as_classes(name, "predicted", predicted)), _as_classes(name, "labels", labels)
    try:
        sure = np.ones(rows.shape) if confidence is None else np.atleast_2d(np.asarray(confidence, float)).round(4)
    except (ValueError, TypeError, RuntimeError) as error:  # PyTorch's, of a tensor on a GPU or with a gradient
        reason = f"got {confidence!r:.60} ({error})"
        raise BadInput(f"{name}: confidence must be numbers, in rows of one length, {reason}") from error
    pictures = _as_pictures(name, range(truth.size) if names is None else names)
    fits = rows.shape[1:] == truth.shape and sure.shape == rows.shape and len(pictures) == truth.size
    if truth.ndim != 1 or truth.size < 2 or not rows.size or not fits:
        got = {"predicted": rows.shape, "labels": truth.shape}
        got |= {} if confidence is None else {"confidence": sure.shape}
        got |= {} if names is None else {"names": (len(pictures),)}
        raise BadInput(
            f"{name}: predicted must be a class for each of two or more pictures, (pictures,) or (seeds, pictures), and"
            " labels, names and confidence of the same pictures; got "
            + ", ".join(f"{key} {shape}" for key, shape in got.items())
        )
    if unsure := sure[~((sure >= 0) & (sure <= 1))].tolist():
        raise BadInput(f"{name}: confidence must be probabilities from 0 to 1, got {unsure[0]}")
    classes, given = np.unique(truth).tolist(), np.unique(rows).tolist()
    if len(classes) > 1 and set(classes).isdisjoint(given):
        raise BadInput(f"{name}: none of the classes predicted, {_few(given)}, is one of the labels, {_few(classes)}")
    # Classes that are only predicted come last, so that labels keep their numbers whatever a model predicts.
    numbers = {label: number for number, label in enumerate(dict.fromkeys([*classes, *given]))}
    return [
        Run(
            name=name,
            seed=seed,
            predicted=[numbers[label] for label in row],
            labels=[numbers[label] for label in truth.tolist()],
            pictures=pictures,
            confidence=confidences.tolist(),
            machine=machine_facts(),
            conditions={"classes": [str(label) for label in classes]},
            measurements={},
        )
        for seed, (row, confidences) in enumerate(zip(rows.tolist(), sure, strict=True))
    ]


def _as_pictures(name: str, names: Iterable[object]) -> list[str]:
    """Return the pictures' names as text; BadInput, naming the model, where two are the same."""
    if not isinstance(names, Iterable):
        raise BadInput(f"{name}: names must be those of the pictures, got {names!r:.60}")
    pictures = [_encodable(str(picture)) for picture in names]
    for picture, times in Counter(pictures).most_common(1):
        if times > 1:
            raise BadInput(f"{name}: names must tell the pictures apart, got {picture!r} {times} times; a path does")
    return pictures


def _encodable(name: str) -> str:
    """Return a name, which may have any bytes, as UTF-8 can have it: pytest-xdist sends that."""
    return name.encode(errors="backslashreplace").decode()


def _as_classes(name: str, argument: str, values: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype == object:
            array = np.array(array.tolist())
    except (ValueError, TypeError, RuntimeError) as error:
        reason = f"got {values!r:.60} ({error})"
        raise BadInput(f"{name}: {argument} must be an array, or rows of one length, {reason}") from error
    if np.ma.is_masked(values):
        raise BadInput(f"{name}: {argument} must be classes, and none masked; leave these pictures out")
    strange: list = []
    if array.dtype.kind == "f":
        array = array.astype(float)  # float16 has no 2**53
        strange = array[~((abs(array) < 2**53) & (array == np.rint(array)))].tolist()
    elif array.dtype.kind not in "biuSU":
        strange = [value for value in array.ravel().tolist() if not isinstance(value, str | int)]
    elif array.dtype.kind == "U" and (array == "nan").any():  # as NumPy spells a missing one among names
        strange = [value for value in np.asarray(values, object).ravel().tolist() if value != value]
    if strange:
        raise BadInput(
            f"{name}: {argument} must be classes, whole numbers or names, got {strange[0]!r:.60}; the classes of"
            " probabilities are their argmax(axis=-1), or of one for each picture whether it is > 0.5"
        )
    return array.astype(np.int64) if array.dtype.kind == "f" else array


def _few(classes: list) -> str:
    return ", ".join(map(repr, classes[:3])) + ", ..." * (len(classes) > 3)


def processor() -> str:
    """Return the name of this machine's processor, else "unknown"."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    model = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    return model[1] if model else platform.processor() or "unknown"


def machine_facts() -> dict[str, Any]:
    """Return processor, system and versions, as far as Python and the libraries that are imported already know them."""
    versions = {name: getattr(sys.modules.get(name), "__version__", None) for name in LIBRARIES}
    return {
        "processor": processor(),
        "threads": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: text for name, text in versions.items() if text},
    }
