"""What the ladder claims of its rungs holds for any seeds, as other processors give other runs of the same ones."""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from builders import recorded_runs

from convspec.ladder.result import Result

DRAWS = 300
ladder = import_module("benchmarks.test_ladder")  # what is tested, no place of helpers


@pytest.mark.parametrize("count", [3, 5])
def test_the_ladders_claims_hold_for_nearly_any_recorded_seeds(count: int, rng: np.random.Generator) -> None:
    """Of 300 draws at most 2 in 100 fail with three seeds, and none with five, the default."""
    recorded = recorded_runs("mini", "CPU")
    failed = 0
    for _ in range(DRAWS):
        drawn = {
            name: _draw(runs, count, rng) for name, runs in recorded.items() if name in ("from_scratch", "augmented")
        }
        session = SimpleNamespace(
            results=(recorded | drawn).get,
            settings=SimpleNamespace(base=None, dataset=None), scale="mini", seeds=range(count),
        )  # fmt: skip
        try:
            ladder.test_from_scratch_overfits_and_augmentation_holds_it_off(session)
            for step in ladder.STEPS:
                ladder.test_the_ladder_has_the_chapters_order(*step, session)
        except AssertionError:
            failed += 1
    assert failed <= {3: 0.02, 5: 0}[count] * DRAWS


def _draw(runs: list[Result], count: int, rng: np.random.Generator) -> list[Result]:
    return [runs[index] for index in rng.choice(len(runs), count, replace=False)]
