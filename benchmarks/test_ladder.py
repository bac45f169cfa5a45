"""The ladder: every rung on one set of pictures, timed, and the order of the rungs.

`pytest benchmarks` from the repository, `pytest --pyargs convspec` where the package is installed.
"""

import pytest

from convspec import recipes, regression, report
from convspec.plugin import Session, explained, uncaptured
from convspec.recipes import Result

# Sections 5.2 and 5.3: (lower, higher, what the gain must exceed). Fine-tuning must be no worse than feature
# extraction, by a margin of one point, which is what "<=" can mean between two samples.
STEPS = [
    ("from_scratch", "augmented", 0.0),
    ("augmented", "feature_extraction", 0.0),
    ("feature_extraction", "fine_tuned", -0.01),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_rung:
        option = metafunc.config.option
        climbed = recipes.climb(option.scale, option.mode, option.rungs or recipes.RUNGS)
        metafunc.parametrize("rung", [recipe.name for recipe in climbed])


def test_rung(rung: str, convspec_session: Session, request: pytest.FixtureRequest) -> None:
    """Train the rung once a seed; a run finished in a session that was cut off is not trained again."""
    session, config = convspec_session, request.config
    recipe = recipes.find_recipe(rung, session.scale)
    if hasattr(config, "workerinput"):
        pytest.skip("the ladder is timed, one run at a time: leave out -n")
    with explained(config):
        dataset, weights = session.dataset(recipe), session.weights(recipe)
        kept = {seed: session.unfinished(recipe, seed) for seed in session.seeds}
        results = {seed: Result.load(path) for seed, path in kept.items() if path.is_file()}
        pending = iter([seed for seed in session.seeds if seed not in results])

        def train(seed: int) -> None:
            result = recipes.run(recipe, dataset, seed, session.folder, weights=weights, progress=uncaptured(config))
            result.save(kept[seed])
            results[seed] = result

        if rounds := len(session.seeds) - len(results):
            benchmark = request.getfixturevalue("benchmark")
            benchmark.group = f"ladder, {dataset.name}, {session.scale}"
            benchmark.pedantic(train, setup=lambda: ((next(pending),), {}), rounds=rounds)
            for seed in pending:  # under --benchmark-disable one round was all
                train(seed)
    runs = session.runs.setdefault(recipe.name, [results[seed] for seed in session.seeds])
    if rounds:
        benchmark.extra_info.update(report.summary(runs), machine=runs[-1].machine)
    for run in runs:
        assert len(run.history["loss"]) == recipe.epochs, (
            f"{recipe.name}, seed {run.seed}: trained {len(run.history['loss'])} epochs"
        )


@pytest.mark.parametrize(("lower", "higher", "least_gain"), STEPS)
def test_the_ladder_has_the_chapters_order(
    lower: str, higher: str, least_gain: float, convspec_session: Session
) -> None:
    runs = convspec_session.runs
    if lower not in runs or higher not in runs:
        pytest.skip(f"needs the rungs {lower} and {higher} in this session")
    if (name := runs[lower][0].dataset["name"]) != runs[lower][0].recipe.dataset:
        pytest.skip(f"the chapter claims this order for its own pictures, not for {name}")
    below, above = ([run.test_accuracy for run in runs[rung]] for rung in (lower, higher))
    if len(below) < 2:
        pytest.skip("one seed cannot show a step of the order: give --seeds 5")
    p = regression.probability_of_no_gain(below, above, least_gain)
    assert p < 0.05, (
        f"{higher} should gain more than {least_gain} over {lower}, paired by seed, with p < 0.05; p is {p:.3f},"
        f" {lower} reached {below}, {higher} {above}"
    )


@pytest.mark.parametrize(("rung", "low", "high"), [("from_scratch", 0.5, 0.85), ("fine_tuned", 0.93, 1.0)])
def test_shapes_leaves_each_rung_something_to_win(
    rung: str, low: float, high: float, convspec_session: Session
) -> None:
    runs = convspec_session.runs.get(rung)
    if not runs or runs[0].dataset["name"] != "shapes" or convspec_session.scale != "mini":
        pytest.skip(f"needs the rung {rung} on shapes at --scale mini in this session")
    mean = sum(run.test_accuracy for run in runs) / len(runs)
    assert low <= mean <= high, f"{rung} on shapes should reach {low} to {high}, got {mean:.3f}"
