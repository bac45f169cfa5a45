"""The ladder: every rung on one set of pictures, with its time, its gate and the order of the rungs.

`pytest benchmarks` from the repository, `pytest --pyargs convspec` where the package is installed.
"""

from pathlib import Path

import numpy as np
import pytest

from convspec.accuracy import statistics
from convspec.ladder.rungs import find_recipe
from convspec.plugin.session import SESSION, Session, skip_or_fail_on_bad_data
from convspec.plugin.verdicts import apply_gate
from convspec.report import tables

# Sections 5.1 to 5.3: (lower, higher, what the gain must exceed). Training through the base must be no worse than
# feature extraction by a margin of one point, and fine-tuning no worse than that.
STEPS = [
    ("dense_baseline", "mnist_convnet", 0.0),
    ("from_scratch", "augmented", 0.0),
    ("augmented", "feature_extraction", 0.0),
    ("feature_extraction", "frozen_end_to_end", -0.01),
    ("frozen_end_to_end", "fine_tuned", -0.01),
]

CURVES = "accuracy", "val_accuracy", "loss", "val_loss"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function in (test_rung, test_rung_repeats_itself, test_the_accuracy_is_that_of_the_baseline):
        recipes = metafunc.config.stash[SESSION].recipes
        metafunc.parametrize("rung", [recipe.name for recipe in recipes])


@pytest.fixture(scope="module")
def kept(convspec_session: Session) -> set[Path]:
    """Return the files of runs that an interrupted session finished; later ones may be trained ahead of their test."""
    return {*(convspec_session.folder / "unfinished").glob("*.json")}


def test_rung(rung: str, convspec_session: Session, kept: set[Path], request: pytest.FixtureRequest) -> None:
    """Train the rung with every seed, but for runs that an interrupted session finished."""
    session, config = convspec_session, request.config
    recipe = session.recipe(rung)
    session.failed.add(rung)
    with skip_or_fail_on_bad_data(config):
        runs = session.run_all_seeds(recipe)
    session.failed.remove(rung)
    new = [run for run in runs if session.unfinished(recipe, run.seed) not in kept]
    if new and config.getoption("benchmark_disable", None) is not None:  # None without the plugin
        benchmark = request.getfixturevalue("benchmark")
        benchmark.group = f"ladder, {session.dataset(recipe).name}, {session.scale}"
        benchmark.pedantic(lambda: None)
        if not benchmark.disabled:  # the runs were timed themselves, some of them side by side
            benchmark.stats.stats.data[:] = [run.wall_seconds for run in new]
        facts = {"recipe": runs[-1].as_run().conditions["recipe"], "pictures": runs[-1].dataset["pictures"]}
        benchmark.extra_info.update(tables.summary(runs), machine=runs[-1].machine, **facts)
    for run in runs:
        assert len(run.history["loss"]) == recipe.epochs, (
            f"{recipe.name}, seed {run.seed}: trained {len(run.history['loss'])} epochs"
        )


def test_rung_repeats_itself(rung: str, convspec_session: Session, request: pytest.FixtureRequest) -> None:
    """The same seed gives the same losses on this backend and device, to the rounding of float32."""
    session = convspec_session
    if rung in session.failed:
        pytest.skip(f"needs the rung {rung}, whose own test did not finish")
    with skip_or_fail_on_bad_data(request.config):
        repeat = session.repeat(rung)
    session.repeats[rung] = repeat
    request.node.user_properties.append(("determinism", repeat.outcome))
    assert not repeat.outcome.startswith("diverging"), (
        f"{rung} trained twice with seed 0 should be the same, but is {repeat.outcome}: its losses differ by up to"
        f" {repeat.largest:.2g}, so that seeds do not stand for runs here"
    )


def test_the_accuracy_is_that_of_the_baseline(
    rung: str, convspec_session: Session, request: pytest.FixtureRequest
) -> None:
    """The gate compares the runs of this session with their baselines."""
    session, settings = convspec_session, convspec_session.settings
    if not settings.baselines.is_dir() and not settings.update_baselines:
        pytest.skip(f"no baselines in {str(settings.baselines)!r}: --convspec-update-baselines begins them")
    runs = [result.as_run() for result in session.results(rung)]
    with skip_or_fail_on_bad_data(request.config):
        if not settings.update_baselines and session.judge(runs).outcome == "missing":
            pytest.skip(f"no comparable baseline for {rung}: --convspec-update-baselines begins one")
        apply_gate(session, runs, request.node)


def skip_where_the_chapter_claims_nothing(session: Session, rung: str) -> None:
    """Skip on other pictures or bases than the chapter's, and with one seed or two, which show a difference by luck."""
    if session.settings.base:
        pytest.skip(f"the chapter claims this for its own base, not for {session.settings.base}")
    if session.settings.dataset not in (None, find_recipe(rung, session.scale).dataset):
        pytest.skip(f"the chapter claims this for its own pictures, not for {session.settings.dataset}")
    if len(session.seeds) < 3:
        pytest.skip("fewer than three seeds cannot show a difference between rungs: give --convspec-seeds 5")


@pytest.mark.parametrize(("lower", "higher", "min_gain"), STEPS)
def test_the_ladder_has_the_chapters_order(lower: str, higher: str, min_gain: float, convspec_session: Session) -> None:
    skip_where_the_chapter_claims_nothing(convspec_session, lower)
    below, above = ([run.test_accuracy for run in convspec_session.results(rung)] for rung in (lower, higher))
    p = statistics.probability_of_no_gain(below, above, min_gain)
    assert p < 0.05, (
        f"{higher} should gain more than {min_gain} over {lower} with p < 0.05; p is {p:.3f},"
        f" {lower} reached {below}, {higher} {above}"
    )


def test_from_scratch_overfits_and_augmentation_holds_it_off(convspec_session: Session) -> None:
    """Figures 5.9 to 5.13, over the last quarter of the epochs.

    From scratch, training climbs five points above validation, and its loss falls far below; with augmentation
    validation keeps up. Other processors give other runs: 300 draws of five of the forty recorded ones all show this.
    """
    rungs = "from_scratch", "augmented"
    skip_where_the_chapter_claims_nothing(convspec_session, rungs[0])
    ends, above = {}, {}
    for rung in rungs:
        runs = convspec_session.results(rung)
        last = {name: [np.mean(np.array_split(run.history[name], 4)[-1]) for run in runs] for name in CURVES}
        ends[rung] = last["accuracy"], last["val_accuracy"]
        above[rung] = np.subtract(last["val_loss"], last["loss"]).tolist()
    gap, kept, apart = (
        statistics.probability_of_no_gain(ends["from_scratch"][1], ends["from_scratch"][0], 0.05),
        statistics.probability_of_no_gain(ends["augmented"][0], ends["augmented"][1], -0.1),
        statistics.probability_of_no_gain(above["augmented"], above["from_scratch"]),
    )
    assert gap < 0.05, f"from scratch training should end five points above validation, p is {gap:.3f}: {ends}"
    assert kept < 0.05, f"with augmentation validation should end no ten points below training, p is {kept:.3f}: {ends}"
    assert apart < 0.05, (
        f"the validation loss should be further above that of training from scratch, p is {apart:.3f}: {above}"
    )


@pytest.mark.parametrize(("rung", "low", "high"), [("from_scratch", 0.5, 0.9), ("fine_tuned", 0.93, 1.0)])
def test_shapes_leaves_each_rung_something_to_win(
    rung: str, low: float, high: float, convspec_session: Session
) -> None:
    settings = convspec_session.settings
    if settings.base or settings.dataset not in (None, "shapes") or settings.scale != "mini":
        pytest.skip("a claim on shapes at --convspec-scale mini, with the mini base")
    runs = convspec_session.results(rung)
    mean = sum(run.test_accuracy for run in runs) / len(runs)
    assert low <= mean <= high, f"{rung} on shapes should reach {low} to {high}, got {mean:.3f}"
