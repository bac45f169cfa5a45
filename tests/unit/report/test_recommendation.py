"""Which rung is recommended, and what is said of it and of more pictures."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from builders import result

from convspec import BadInput
from convspec.ladder.learning_curve import Gain, LearningCurve
from convspec.ladder.result import Result
from convspec.report import tables
from convspec.report.recommendation import describe_better_probe, describe_curve, recommend

TEST = 400


def run(rung: str, wrong: Iterable[int], seconds: float = 10.0, seed: int = 0, of_class_0: int = TEST // 2) -> Result:
    """A run on a folder whose first `of_class_0` test pictures are of class a; those at `wrong` are wrong."""
    labels = [int(place >= of_class_0) for place in range(TEST)]
    wrong = set(wrong)
    return replace(
        result(rung, "mini", 1 - len(wrong) / TEST, seed, dataset="pets"),
        test_labels=labels,
        test_names=[str(place) for place in range(TEST)],
        predicted=[1 - label if place in wrong else label for place, label in enumerate(labels)],
        confidence=[0.9] * TEST,
        seconds={"train": seconds},
    )


def test_the_cheapest_rung_no_worse_by_the_margin_is_recommended() -> None:
    runs = {
        "from_scratch": [run("from_scratch", range(150, 250 + seed), 1, seed) for seed in range(5)],
        "feature_extraction": [run("feature_extraction", range(190, 212 + seed), 20, seed) for seed in range(5)],
        "augmented": [run("augmented", range(190, 210 + seed), 300, seed) for seed in range(5)],
    }
    assert recommend(runs, margin=0.02).lines == [
        "Use feature_extraction.",
        "It gets 0.940 of the 400 test pictures right, on average over 5 seeds (95 % interval 0.935 to 0.945), in 20 s"
        " a run.",
        "It is the cheapest rung that comes within 2 points of the best, augmented, with confidence: -0.5 points"
        " [-1.0, -0.0].",
        "The next by time, augmented, takes 5.0 min and gains less than 2 points: +0.5 points [+0.0, +1.0].",
        "Differences are given with their 90 % interval, over 5 seeds a rung.",
    ]
    uneven = runs | {"from_scratch": runs["from_scratch"][:3]}
    assert recommend(uneven, margin=0.02).lines[-1].endswith("over 3 to 5 seeds a rung.")
    strict = recommend(runs, margin=0.004)
    assert strict.lines[0] == "Use augmented."
    assert "the best of those, feature_extraction, takes 20 s and differs by -0.5 points" in strict.lines[2]
    assert strict.run is not None
    assert strict.run.recipe.name == "augmented"


@pytest.mark.parametrize(("wrong", "rung"), [(range(20), "augmented"), (range(200, 221), "fine_tuned")])
def test_with_one_seed_the_same_pictures_are_compared_in_pairs(wrong: range, rung: str) -> None:
    runs = {"augmented": [run("augmented", wrong, 1)], "fine_tuned": [run("fine_tuned", range(20), 9)]}
    best = recommend(runs, margin=0.01)
    assert best.lines[0] == f"Use {rung}."
    assert "one seed a rung does not show how much seeds differ" in best.lines[-1]


def test_a_rung_costs_what_the_rung_it_starts_from_cost_too() -> None:
    runs = {
        "feature_extraction": [run("feature_extraction", range(20), 50)],
        "frozen_end_to_end": [run("frozen_end_to_end", range(90), 100)],
        "fine_tuned": [run("fine_tuned", range(20), 1)],
    }
    assert recommend(runs, margin=0.01).lines[0] == "Use feature_extraction."
    del runs["feature_extraction"]
    assert "in 101 s with frozen_end_to_end before it." in recommend(runs, margin=0.01).lines[1]


def test_a_rung_without_the_one_it_starts_from_is_not_compared_by_time() -> None:
    short = {"fine_tuned": [run("fine_tuned", range(190, 210), 1)]}
    best = recommend({"dense_baseline": [run("dense_baseline", range(90), 50)]} | short, margin=0.01).lines
    assert best[0] == "Use fine_tuned."
    assert best[1].endswith("in 1.0 s, without frozen_end_to_end before it.")
    assert best[2].startswith("It is the best, and no rung whose whole time is known comes within 1 point of it with")
    assert best[3].startswith("Differences are given"), "which rung is slower is not known"
    runs = {"feature_extraction": [run("feature_extraction", range(190, 210), 50)]} | short
    equal = recommend(runs, margin=0.01).lines
    assert equal[0] == "Use feature_extraction."
    assert equal[2] == "It is the best and the cheapest whose whole time is known."
    assert equal[3] == (
        "Not compared by time, fine_tuned takes 1.0 s, without frozen_end_to_end before it, and gains less than 1"
        " point: +0.0 points [-0.7, +0.7]."
    )
    alone = recommend({"fine_tuned_fast": [run("fine_tuned_fast", range(90), 50)]} | short, margin=0.01).lines
    assert alone[2] == "It is the best."


@pytest.mark.parametrize(("wrong", "learned"), [(150, False), (100, True)])
def test_nothing_is_recommended_that_the_commonest_class_may_reach(wrong: int, learned: bool) -> None:
    runs = {rung: [run(rung, range(wrong), of_class_0=240)] for rung in ("from_scratch", "augmented")}
    best = recommend(runs, margin=0.01)
    assert (best.run is not None) == learned
    if not learned:
        assert best.lines == [
            "No recommendation: no rung is shown to do better than always answering a, which is right for 0.600 of the"
            " 400 test pictures; the best, from_scratch, gets 0.625. What is left to try:"
            " --rungs ...,feature_extraction_fast adds the linear probe feature_extraction_fast, and --scale full"
            " adds a base trained on photographs."
        ]
        runs["feature_extraction_fast"] = [run("feature_extraction_fast", range(wrong), of_class_0=240)]
        left = recommend(runs, margin=0.01).lines[0].partition("What is left to try: ")[2]
        assert left == "--scale full adds a base trained on photographs."


def test_a_rung_alone_has_its_figures_and_its_model_but_no_comparison() -> None:
    best = recommend({"augmented": [run("augmented", range(190, 210), 7)]}, margin=0.01)
    assert best.lines[0] == "Only augmented ran, so that there is nothing to compare it with."
    assert best.run is not None
    assert len(best.lines) == 2


def test_the_model_is_of_the_seed_that_ends_best_in_validation() -> None:
    histories = [0.70, 0.99, 0.60], [0.70, 0.80, 0.85], [0.70, 0.80, 0.80]
    runs = [
        replace(run("augmented", range(190, 210), seed=seed), history={"accuracy": [0.9], "val_accuracy": history})
        for seed, history in enumerate(histories)
    ]
    best = recommend({"augmented": runs}, margin=0.01)
    assert best.run is runs[1], "the first is best in between, and its weights of then are gone"
    unvalidated = [replace(each, history={"accuracy": [0.9]}) for each in runs]
    assert recommend({"augmented": unvalidated}, margin=0.01).run is unvalidated[0]


@pytest.mark.parametrize(("wrong", "named"), [(range(190, 210), False), (range(200, 240), True)])
def test_the_worst_class_is_named_where_it_is_worse_than_chance_makes_it(wrong: range, named: bool) -> None:
    lines = recommend({"augmented": [run("augmented", wrong)]}, margin=0.01).lines
    assert ("The worst class is b: 0.800 of its 200 are right." in lines) == named


def test_the_commonest_wrong_answer_for_the_worst_class_is_not_called_most() -> None:
    spread = run("augmented", range(200, 240))
    spread.predicted[216:240] = [2] * 12 + [3] * 12
    spread.dataset["classes"] = ["a", "b", "c", "d"]
    last = recommend({"augmented": [spread]}, margin=0.01).lines[-1]
    assert last == "The worst class is b: 0.800 of its 200 are right, and the others are most often taken for a."


def test_names_of_classes_with_control_characters_break_no_line() -> None:
    names = ["a\n\x1b[31m", "b\u202e", "c"]
    named, unlearned = run("augmented", range(200, 240)), run("augmented", range(200))
    named.dataset["classes"] = unlearned.dataset["classes"] = names
    lines = [recommend({"augmented": [each]}, margin=0.01).lines[-1] for each in (named, unlearned)]
    lines += tables.worth({"augmented": [named]}).text().split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert r"The worst class is 'b\u202e': " in lines[0]
    assert r"taken for 'a\n\x1b[31m'." in lines[0]


def test_rungs_tested_with_other_pictures_are_not_compared() -> None:
    other = replace(run("augmented", range(9)), test_names=["x", *map(str, range(1, TEST))])
    with pytest.raises(BadInput, match="not tested with the same pictures"):
        recommend({"from_scratch": [run("from_scratch", range(9))], "augmented": [other]}, margin=0.01)


@pytest.mark.parametrize(
    ("last", "outlook"),
    [
        (Gain(0.001, -0.004, 0.006), "more pictures of this kind would hardly help."),
        (Gain(0.02, 0.005, 0.035), "another doubling would bring about 2.0 points or less."),
        (Gain(0.02, -0.01, 0.05), "may be chance, and another doubling would hardly bring more than 5.0 points."),
    ],
)
def test_the_last_doubling_says_what_another_would_bring(last: Gain, outlook: str) -> None:
    accuracies = [[0.90, 0.91], [0.92, 0.93], [0.94]]
    curve = LearningCurve("vgg16", [250, 500, 1000], accuracies, [Gain(0.02, 0.01, 0.03), last])
    lines = describe_curve(curve, margin=0.01)
    assert "reaches 0.905 with 250 (0.900 to 0.910), 0.925 with 500 (0.920 to 0.930), 0.940 with 1000" in lines[0]
    assert lines[1].startswith("From a quarter to a half it gained +2.0 points [+1.0, +3.0], from a half to all ")
    assert lines[1].endswith(outlook)


@pytest.mark.parametrize(("rungs", "accuracy", "option"), [
    (["feature_extraction"], 0.98, "--mode both"),
    (["augmented"], 0.98, "--rungs ...,feature_extraction_fast"),
    (["augmented"], 0.955, None),  # within the margin
    (["augmented", "feature_extraction_fast"], 0.98, None),  # it ran, and was compared
])  # fmt: skip
def test_a_probe_that_beats_the_recommended_rung_is_told_with_its_option(
    rungs: list[str], accuracy: float, option: str | None
) -> None:
    runs = {rung: [run(rung, range(190, 210))] for rung in rungs}
    curve = LearningCurve("mini", [25, 50, 100], [[0.90], [0.92], [accuracy]], [Gain(0.02, 0.01, 0.03)] * 2)
    expected = (
        f" But a linear probe on mini's features gets 0.980 of the same test pictures right: {option} adds the linear"
        " probe feature_extraction_fast, and --scale full adds a base trained on photographs."
    )
    assert describe_better_probe(runs, rungs[0], curve, margin=0.01) == (expected if option else "")
