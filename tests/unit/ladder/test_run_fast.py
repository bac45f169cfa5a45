"""The fast forms of the rungs, and runs in mixed precision."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convspec import backend
from convspec.accuracy import baselines
from convspec.data.datasets import Dataset
from convspec.ladder.result import Result
from convspec.ladder.run import run_key, run_recipe
from convspec.ladder.rungs import RUNGS, find_recipe, select_recipes


@pytest.mark.parametrize("mode", ["literal", "fast", "both"])
def test_a_mode_climbs_the_ladder_in_its_order(mode: Any) -> None:
    names = [recipe.name for recipe in select_recipes("mini", mode)]
    assert list(dict.fromkeys(name.removesuffix("_fast") for name in names)) == list(RUNGS)
    with_base = [rung for rung in RUNGS if find_recipe(rung, "mini").base]
    assert [name for name in names if name.endswith("_fast")] == (
        [] if mode == "literal" else [f"{rung}_fast" for rung in with_base]
    )
    assert len(names) == len(RUNGS) + (len(with_base) if mode == "both" else 0)


@pytest.mark.parametrize(
    ("mode", "chosen", "expected"),
    [
        ("both", ["fine_tuned"], ["fine_tuned", "fine_tuned_fast"]),
        ("fast", ["fine_tuned", "augmented"], ["augmented", "fine_tuned_fast"]),
        ("exact", ["fine_tuned", "feature_extraction"], ["feature_extraction", "fine_tuned_exact"]),
        (
            "both",
            ["feature_extraction_best", "feature_extraction"],  # the first is no rung
            ["feature_extraction", "feature_extraction_fast", "feature_extraction_best"],
        ),
    ],
)
def test_a_chosen_rung_is_climbed_in_the_form_of_the_mode(mode: Any, chosen: list[str], expected: list[str]) -> None:
    assert [recipe.name for recipe in select_recipes("full", mode, chosen)] == expected


def test_a_probe_at_two_sizes_runs_like_any_recipe(few_shapes: Dataset, tmp_path: Path) -> None:
    recipe = replace(find_recipe("feature_extraction_fast", "mini"), extra_sizes=(32,), steps=100)
    result = run_recipe(recipe, few_shapes, 0, tmp_path)
    assert result.base_pictures == 2 * (40 + 20 + 20)
    assert result.images_per_second == pytest.approx(40 / result.seconds["train"], rel=0.5)  # not 100 steps
    assert result.test_accuracy > 0.8
    other = run_recipe(replace(recipe, extra_sizes=(24,)), few_shapes, 0, tmp_path)
    assert other.history != result.history, "features of one size were taken for those of another"


def test_a_probe_without_validation_pictures_has_no_validation_accuracy(few_shapes: Dataset, tmp_path: Path) -> None:
    result = run_recipe(
        find_recipe("feature_extraction_fast", "mini"), replace(few_shapes, validation=None), 0, tmp_path
    )
    assert result.validation_accuracy is None
    assert set(result.history) == {"loss", "accuracy"}


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("rung", ["frozen_end_to_end", "fine_tuned"])
def test_the_fast_form_of_a_rung_changes_what_an_expert_would_change(rung: str, scale: Any) -> None:
    """Pictures by area, the base's own preprocessing and its frozen part once a view; and fewer epochs of fine-tuning
    at full, where each costs two cores the better part of a minute.
    """
    literal, fast = find_recipe(rung, scale), find_recipe(f"{rung}_fast", scale)
    changed = {field.name for field in fields(fast) if getattr(fast, field.name) != getattr(literal, field.name)}
    intended = {"name", "interpolation", "preprocessing", "precision", "views", "published"}
    if rung == "fine_tuned":
        intended |= {"starts_from"} | ({"epochs"} if scale == "full" else set())
    assert changed == intended
    assert (literal.preprocessing, fast.preprocessing) == ("rescale", "base")
    assert 0 < fast.views < fast.epochs <= literal.epochs


@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        # 40 pictures for training, 20 for validation after each of 2 epochs, 20 for the test; 2 views
        ("frozen_end_to_end", 2 * (40 + 20) + 20),
        ("frozen_end_to_end_fast", 2 * 40 + 20 + 20),
        pytest.param("feature_extraction", 40 + 20 + 20, marks=pytest.mark.slow),
        ("feature_extraction_fast", 40 + 20 + 20),
        pytest.param("from_scratch", None, marks=pytest.mark.slow),
    ],
)
def test_a_result_counts_the_pictures_that_went_through_the_base(
    rung: str, expected: int | None, trained: Callable[[str], Result]
) -> None:
    assert trained(rung).base_pictures == expected


@pytest.mark.usefixtures("own_precision")
@pytest.mark.parametrize("name", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_a_run_in_mixed_precision_learns_as_in_float32_and_is_kept_apart(
    name: backend.Precision, few_shapes: Dataset, tmp_path: Path
) -> None:
    """To 3 of some 20 test pictures: the digits that are left are 8 or 11 of 24."""
    if not backend.computes(name.removeprefix("mixed_")):
        pytest.skip(f"{backend.BACKEND} of this version computes {name} wrongly on this device")
    recipe = replace(find_recipe("feature_extraction", "mini"), epochs=3, learning_rate=1e-3)
    results, keys = {}, set()
    precisions: list[backend.Precision] = ["float32", name]
    for precision in precisions:
        backend.set_precision(precision)
        keys.add(run_key(recipe, few_shapes, 0))
        results[precision] = run_recipe(recipe, few_shapes, 0, tmp_path)
    assert results[name].test_accuracy == pytest.approx(results["float32"].test_accuracy, abs=3 / 20)
    assert results[name].history["loss"] != results["float32"].history["loss"], "nothing was computed otherwise"
    assert np.isfinite(results[name].history["loss"]).all()
    assert len(keys) == 2, "a run in one precision would be taken for one in the other"
    assert baselines.environment(results[name].machine) == f"{baselines.environment(results['float32'].machine)}-{name}"


@pytest.mark.usefixtures("own_precision")
def test_a_precision_that_the_session_asks_for_wins_over_the_fast_one(few_shapes: Dataset, tmp_path: Path) -> None:
    backend.set_precision("mixed_float16")
    result = run_recipe(find_recipe("feature_extraction_fast", "mini"), few_shapes, 0, tmp_path)
    assert result.machine["precision"] == "mixed_float16"
