"""Runs that compute frozen layers once where a picture stays the same."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import recorded_runs

from convspec.data.datasets import Dataset
from convspec.ladder.result import Result
from convspec.ladder.run import run_key, run_recipe
from convspec.ladder.rungs import find_recipe


def run(name: str, dataset: Dataset, folder: Path) -> tuple[Result, list[np.ndarray]]:
    """Return the result of a rung after 20 steps, its literal predecessor after 4, and the weights of its model."""
    recipe, frozen = find_recipe(name, "mini"), find_recipe("frozen_end_to_end", "mini")
    start = replace(frozen, epochs=2, batch_size=20) if recipe.starts_from else None
    result = run_recipe(replace(recipe, epochs=2, steps=10, batch_size=4, starts_from=start), dataset, 0, folder)
    file = folder / "models" / f"{run_key(result.recipe, dataset, 0)}.keras"
    return result, keras.models.load_model(file).get_weights()


@pytest.mark.parametrize("rung", [pytest.param("frozen_end_to_end", marks=pytest.mark.slow), "fine_tuned"])
def test_exact_runs_have_the_losses_and_weights_of_literal_ones(rung: str, few_shapes: Dataset, tmp_path: Path) -> None:
    """Up to rounding: a graph of the base alone adds up in another order than one with the head."""
    (literal, weights), (exact, same) = (run(name, few_shapes, tmp_path) for name in (rung, f"{rung}_exact"))
    assert exact.history.keys() == literal.history.keys()
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(exact.history[name], literal.history[name], rtol=1e-5, err_msg=name)
    for before, after in zip(weights, same, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)
    assert literal.base_pictures == 80 + 2 * 20 + 20
    assert exact.base_pictures == 80 + 20 + 20


def test_exact_is_the_literal_rung_in_all_but_what_is_computed_once() -> None:
    for rung in ("frozen_end_to_end", "fine_tuned"):
        literal, exact = find_recipe(rung, "full"), find_recipe(f"{rung}_exact", "full")
        start = exact.starts_from and replace(exact.starts_from, name="frozen_end_to_end", exact=False)
        assert replace(exact, name=rung, exact=False, starts_from=start) == literal


def test_a_whole_exact_run_on_ncnn_ends_as_the_literal_one() -> None:
    """Recorded: 3,000 steps on VGG16, in which rounding adds up to less than one picture in 500."""
    literal, exact = (recorded_runs("full", "CPU")[f"frozen_end_to_end{end}"][0] for end in ("", "_exact"))
    assert exact.machine["engine"] == "ncnn"
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(exact.history[name][:4], literal.history[name][:4], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(exact.history[name], literal.history[name], rtol=1e-3, err_msg=name)
    assert np.mean(np.not_equal(exact.predicted, literal.predicted)) < 1 / 500
