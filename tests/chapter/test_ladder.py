"""The seven rungs, and at full the accuracy of their baselines; each rung's schedule stands with its section.

The accuracies need `pytest tests --convspec-scale full`, on a GPU with --convspec-require-gpu.
"""

import pytest

from convspec.ladder.rungs import RECIPES, RUNGS, find_recipe
from convspec.plugin.session import Session, skip_or_fail_on_bad_data
from convspec.plugin.verdicts import apply_gate


def test_both_scales_have_the_same_seven_rungs_in_order() -> None:
    assert [name for name in RECIPES["mini"] if not name.endswith(("_exact", "_fast"))] == list(RUNGS)
    assert list(RECIPES["mini"]) == list(RECIPES["full"])[: len(RECIPES["mini"])]
    assert len(RUNGS) == 7


@pytest.mark.full
@pytest.mark.ladder
@pytest.mark.parametrize("rung", RUNGS)
def test_the_rung_still_reaches_the_accuracy_of_its_baseline(
    rung: str, convspec_session: Session, request: pytest.FixtureRequest
) -> None:
    with skip_or_fail_on_bad_data(request.config):
        results = convspec_session.run_all_seeds(find_recipe(rung, "full"))
        apply_gate(convspec_session, [result.as_run() for result in results], request.node)
