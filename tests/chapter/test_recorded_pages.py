"""The pages that show the runs in fixtures/baselines: README, docs/results.md and docs/gates.md."""

from pathlib import Path

import numpy as np
import pytest
from builders import RECORDED_ON, recorded_runs

from convspec.accuracy import gate
from convspec.ladder.recipe import Scale
from convspec.ladder.rungs import RECIPES, RUNGS
from convspec.plugin.options import DEFAULT_SEEDS
from convspec.report import claims, tables

ROOT = Path(__file__).parents[2]
PAGES = {"mini": ROOT / "README.md", "full": ROOT / "docs" / "results.md"}
SEVERAL = [
    (scale, device, rung)
    for scale in RECIPES
    for device in RECORDED_ON
    for rung, runs in recorded_runs(scale, device).items()
    if rung in RUNGS and len(runs) > 2
]


@pytest.mark.parametrize(("scale", "device", "rung"), SEVERAL)
def test_a_gate_on_the_recorded_runs_sees_what_the_page_says(scale: Scale, device: str, rung: str) -> None:
    runs = [np.equal(run.predicted, run.test_labels) for run in recorded_runs(scale, device)[rung]]
    verdict = gate.gate(runs, runs[: DEFAULT_SEEDS["mini"]])
    assert verdict.smallest_drop is not None
    row = f"| `{rung}` | {verdict.baseline:.3f} | {100 * np.std(np.mean(runs, axis=1), ddof=1):.2f} | "
    assert f"{row}{100 * verdict.smallest_drop:.1f} |" in (ROOT / "docs" / "gates.md").read_text()


@pytest.mark.parametrize("scale", RECIPES)
def test_the_pages_show_the_recorded_runs_and_no_others(scale: Scale) -> None:
    seeds = {"mini": DEFAULT_SEEDS["mini"], "full": None}[scale]  # full has all that were recorded
    for device in RECORDED_ON:
        if shown := {name: runs[:seeds] for name, runs in recorded_runs(scale, device).items()}:
            table = tables.ladder(shown).text().split("\n\n")[0]
            assert f"\n{table}\n" in PAGES[scale].read_text(), f"{PAGES[scale].name} should have this table:\n{table}"


def test_the_published_verdicts_follow_from_the_recorded_runs() -> None:
    table = claims.claims(recorded_runs("full")).text()
    assert f"\n{table}\n" in PAGES["full"].read_text(), f"results.md should have these lines:\n{table}"


def test_every_recorded_run_is_of_a_recipe_as_it_is() -> None:
    current = {
        f"{run.recipe.name}-{run.dataset['name']}-{scale}-seed{run.seed}.json"
        for scale in RECIPES
        for runs in recorded_runs(scale).values()
        for run in runs
    }
    assert {file.name for file in (ROOT / "fixtures" / "baselines").rglob("*.json")} == current, (
        "a recipe changed since: run it with --convspec-update-baselines"
    )
