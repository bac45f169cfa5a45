"""The seven rungs: the listings' schedules, and at full the accuracy of their baselines.

The latter need `pytest tests --scale full`, on a GPU with --require-gpu.
"""

import pytest

from convspec.ladder.rungs import CHAPTER_AUGMENTATION, RECIPES, RUNGS, find_recipe
from convspec.plugin.session import Session, skip_or_fail_on_bad_data
from convspec.plugin.verdicts import apply_gate


@pytest.mark.parametrize(
    ("rung", "learning_rate", "epochs", "steps", "batch_size"),
    [
        ("dense_baseline", 1e-3, 5, None, 128),
        ("mnist_convnet", 1e-3, 5, None, 64),
        ("augmented", 1e-4, 100, 100, 32),
    ],
)
def test_the_full_schedule_is_the_listings(
    rung: str, learning_rate: float, epochs: int, steps: int | None, batch_size: int
) -> None:
    """Those of the other rungs stand in the files of sections 5.2 and 5.3."""
    recipe = find_recipe(rung, "full")
    schedule = (recipe.learning_rate, recipe.epochs, recipe.steps, recipe.batch_size)
    assert schedule == (learning_rate, epochs, steps, batch_size)


def test_listings_5_14_5_21_and_5_23_augment_alike_and_no_others() -> None:
    augmentations = {name: find_recipe(name, "full").augmentation for name in RUNGS}
    augmented = ("augmented", "frozen_end_to_end", "fine_tuned")
    assert augmentations == {name: CHAPTER_AUGMENTATION if name in augmented else None for name in RUNGS}


def test_both_scales_have_the_same_seven_rungs_in_order() -> None:
    assert [name for name in RECIPES["mini"] if not name.endswith("_fast")] == list(RUNGS)
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
