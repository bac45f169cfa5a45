"""The seven rungs at full, each held against its baseline: `pytest tests --scale full`, on a GPU with --require-gpu."""

import pytest

from convspec.ladder.rungs import RUNGS, find_recipe
from convspec.plugin.session import Session, skip_or_fail_on_bad_data
from convspec.plugin.verdicts import apply_gate


@pytest.mark.full
@pytest.mark.ladder
@pytest.mark.parametrize("rung", RUNGS)
def test_the_rung_still_reaches_the_accuracy_of_its_baseline(
    rung: str, convspec_session: Session, request: pytest.FixtureRequest
) -> None:
    with skip_or_fail_on_bad_data(request.config):
        results = convspec_session.run_all_seeds(find_recipe(rung, "full"))
        apply_gate(convspec_session, [result.as_run() for result in results], request.node)
