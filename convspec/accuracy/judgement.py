"""Runs held against their baseline: the verdict, what they were held against and why, what changed, what flipped."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convspec import BadInput, machine
from convspec.accuracy import baselines, gate
from convspec.accuracy import flips as flips_module
from convspec.accuracy.flips import Flips
from convspec.accuracy.gate import MARGIN, AccuracyVerdict
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result


@dataclass(frozen=True)
class Judgement:
    """Of the runs of one recipe on one dataset: `outcome` is that of the gate ("pass", "regressed", "underpowered"), or
    "missing" where there is no comparable baseline; `verdict` and `flips` are None then.

    `against` says which baseline it is and why this one, `changes` what differs in versions and machine, `left_out`
    which runs could not be compared, and why. `baseline` and `runs` are the two sides themselves.
    """

    outcome: str
    against: str
    changes: list[str]
    left_out: list[str]
    baseline: list[Result]
    runs: list[Result]
    verdict: AccuracyVerdict | None = None
    flips: Flips | None = None

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.runs[0].recipe.name

    @property
    def lines(self) -> list[str]:
        """What there is to say, the verdict first."""
        name = self.runs[0].recipe.name
        if not self.verdict:
            return [f"{name}: {self.against}", *self.left_out]
        said = [f"{name}: {self.verdict}", f"against {self.against}", *self.left_out]
        if self.flips and self.flips.pictures:
            said.append(str(self.flips))
            if self.flips.outcome == "change":
                worst = [f"{self.runs[0].test_names[place]} ({change:+.2g})" for place, change in self._flipped[:5]]
                said.append(f"flipped most consistently: {', '.join(worst)}")
            said.append(f"changed: {', '.join(self.changes) or 'neither versions nor machine'}")
        return said

    @property
    def differs_for_no_known_reason(self) -> bool:
        """Whether a seed that both sides have gave other predictions with the same versions on the same machine."""
        before = {run.seed: run.predicted for run in self.baseline}
        return not self.changes and any(before.get(run.seed, run.predicted) != run.predicted for run in self.runs)

    @property
    def _flipped(self) -> list[tuple[int, float]]:
        return list(zip(self.flips.pictures, self.flips.changes, strict=True)) if self.flips else []

    @property
    def properties(self) -> dict[str, Any]:
        """The figures under names for a machine to read, as in JUnit's XML."""
        told: dict[str, Any] = {"rung": self.runs[0].recipe.name, "outcome": self.outcome, "against": self.against}
        if self.verdict:
            told |= {field.name: getattr(self.verdict, field.name) for field in fields(self.verdict)}
        if self.flips:
            told |= {
                "flips": self.flips.outcome,
                "flip_rate": self.flips.between,
                "flip_rate_by_chance": self.flips.within,
            }
        return told | {"changes": "; ".join(self.changes), "left_out": "; ".join(self.left_out)}


def judge(folder: Path, runs: Sequence[Result], margin: float = MARGIN, looks: int = 1) -> Judgement:
    """Hold `runs`, of one recipe on one dataset and machine, against the baseline that `folder` has for them.

    `margin` is the drop in accuracy that is none, `looks` how often it is asked while runs are added. Raises BadInput
    for a folder with anything but sound baselines.
    """
    found = baselines.choose(baselines.read(folder), runs)
    if not found.runs:
        return Judgement("missing", found.reason, [], found.left_out, [], list(runs))
    sides = [np.equal([run.predicted for run in side], side[0].test_labels) for side in (found.runs, runs)]
    verdict = gate.gate(*sides, margin=margin, looks=looks)
    changes = baselines.changes(found.runs, runs)
    return Judgement(
        verdict.outcome,
        found.reason,
        changes,
        found.left_out,
        found.runs,
        list(runs),
        verdict,
        flips_module.flips(*sides),
    )


def results_from_predictions(
    name: str,
    predicted: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str] | None = None,
    confidence: ArrayLike | None = None,
) -> list[Result]:
    """The runs of a model that is not convspec's, from what it predicts: the class of each test picture, or a row of
    those for each seed from 0 on, beside the true `labels`; classes may be numbers or names.

    `names` are the pictures' own (else their numbers), `confidence` is shaped as `predicted`. Raises BadInput for
    shapes that do not fit.
    """
    rows, truth = np.atleast_2d(predicted), np.asarray(labels)
    given = np.ones(rows.shape) if confidence is None else np.atleast_2d(confidence)
    named = [str(place) for place in range(truth.size)] if names is None else list(names)
    if truth.ndim != 1 or rows.shape[1:] != truth.shape or given.shape != rows.shape or len(named) != truth.size:
        raise BadInput(
            f"{name}: predicted, confidence, labels and names must be of the same pictures, got shapes {rows.shape},"
            f" {given.shape}, {truth.shape} and {len(named)} names"
        )
    classes, numbers = np.unique(np.concatenate([truth[None], rows]), return_inverse=True)
    numbers = numbers.reshape(-1, truth.size)
    kept = {
        "name": name,
        "fingerprint": hashlib.sha256(json.dumps([named, truth.tolist()]).encode()).hexdigest(),
        "classes": [str(label) for label in classes],
        "pictures": {"test": truth.size},
        "skipped": [],
    }
    # What convspec does not know of another's recipe stays empty.
    recipe = Recipe(name, "own", "", name, "", size=0, learning_rate=0.0, epochs=0, batch_size=0)
    return [
        Result(
            recipe=recipe,
            seed=seed,
            dataset=kept,
            weights=None,
            history={},
            test_accuracy=float(np.mean(row == numbers[0])),
            test_names=named,
            test_labels=numbers[0].tolist(),
            predicted=row.tolist(),
            confidence=np.round(sure, 4).tolist(),
            seconds={},
            machine=machine.machine(),
        )
        for seed, (row, sure) in enumerate(zip(numbers[1:], given, strict=True))
    ]
