"""The ladder's table, its record, the claims and the rows of pictures say what the runs say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import result

from convspec.accuracy import baselines
from convspec.accuracy.gate import AccuracyVerdict, Outcome
from convspec.accuracy.judgement import Judgement, judge
from convspec.data import batches as batches_module
from convspec.data.batches import Batches, identity
from convspec.data.datasets import Dataset, Split
from convspec.ladder.result import Result
from convspec.ladder.rungs import CHAPTER_AUGMENTATION
from convspec.report import charts, images, tables
from convspec.report.answer import answer
from convspec.report.claims import claims


def test_the_table_has_a_row_for_each_rung_with_its_own_figures() -> None:
    runs = {
        "from_scratch": [result("from_scratch", "mini", accuracy, seed) for seed, accuracy in enumerate((0.7, 0.8))],
        "fine_tuned": [
            replace(
                result("fine_tuned", "mini", 0.8), history={"accuracy": [0.5]}, base_pictures=7_000,
                images_per_second=None, peak_memory_mib=None,
            )
        ],
    }  # fmt: skip
    assert tables.ladder(runs).rows == [
        # Student's t with one degree of freedom: 12.706 standard errors of 0.05, cut at 0 and 1.
        ["from_scratch", "-", "0.750 [0.115, 1.000]", "0.750", "0.900", "2", "12.0", "123", "-", "901"],
        # Wilson's interval of 800 in 1,000. What was not measured is unknown.
        ["fine_tuned", "-", "0.800 [0.774, 0.824]", "-", "0.500", "1", "12.0", "unknown", "7000", "unknown"],
    ]


@pytest.mark.parametrize(
    ("rung", "expected"),
    [
        ("dense_baseline", "test 0.978"),
        ("mnist_convnet", "test 0.991-0.993"),
        ("from_scratch", "val 0.7-0.72"),
        ("augmented", "val 0.82-0.83"),
        ("feature_extraction", "val 0.9"),
        ("frozen_end_to_end", "val 0.96"),
        ("fine_tuned", "val 0.97, test 0.968-0.97"),
    ],
)
def test_published_figures_stand_beside_the_chapters_own_pictures_at_full(rung: str, expected: str) -> None:
    assert tables.format_published(result(rung, "full", 0.9)) == expected
    assert tables.format_published(result(rung, "full", 0.9, dataset="holiday")) == "-"
    assert tables.format_published(result(rung, "mini", 0.9)) == "-"


def test_the_record_holds_every_raw_run_and_reads_back(tmp_path: Path) -> None:
    runs = {"augmented": [result("augmented", "mini", 0.8, seed) for seed in (0, 1)]}
    tables.record(runs, tmp_path / "ladder.json", scale="mini", command=["pytest", "benchmarks"])
    content = json.loads((tmp_path / "ladder.json").read_text())
    assert (content["schema"], content["command"]) == (1, ["pytest", "benchmarks"])
    assert content["rungs"]["augmented"]["test_accuracy"] == pytest.approx(0.8)
    worth = {
        "majority_share": 1.0,
        "balanced_accuracy": 0.8,
        "recalls": {"b": 0.8},
        "calibration_error": pytest.approx(0.1),
    }
    assert {name: content["rungs"]["augmented"][name] for name in worth} == worth
    assert content["runs"] == [json.loads(json.dumps(run.as_dict())) for run in runs["augmented"]]


def test_the_markdown_summary_has_a_row_and_verdict_for_each_rung(tmp_path: Path) -> None:
    groups = {rung: [result(rung, "mini", 0.9, seed) for seed in (0, 1)] for rung in ("augmented", "fine_tuned")}
    for run in groups["augmented"]:
        baselines.write(tmp_path / "baselines", run.as_run())
    judgements = [judge(tmp_path / "baselines", [run.as_run() for run in group]) for group in groups.values()]
    groups["augmented"][0].machine["processes"] = 2
    tables.markdown(groups, judgements, [], [], tmp_path / "ladder.md")
    text = (tmp_path / "ladder.md").read_text()
    assert re.search(r"^\| augmented \|.* \| 0\.900 .* \| \**pass\** \|$", text, re.MULTILINE)
    assert re.search(r"^\| fine_tuned \|.* \**no baseline\** \|$", text, re.MULTILINE)
    assert "- fine_tuned: no baseline yet of fine_tuned" in text
    assert "- timed in one thread each, 2 runs at once." in text


def pets(rung: str, cats: int, wrong: int, *others: str) -> list[Result]:
    """Return two runs on 1,000 pictures, of which `wrong` dogs are taken for cats."""
    labels = np.where(np.arange(1000) < cats, 0, 1 + np.arange(1000) % (1 + len(others))).tolist()
    answers = [0 if place >= 1000 - wrong else label for place, label in enumerate(labels)]
    runs = [result(rung, "mini", 1 - wrong / 1000, seed, "pets") for seed in (0, 1)]
    return [
        replace(run, dataset=run.dataset | {"classes": ["cat", "dog", *others]}, test_labels=labels, predicted=answers)
        for run in runs
    ]


def test_measures_stand_below_the_ladder_where_accuracy_alone_misleads(tmp_path: Path) -> None:
    runs = {"augmented": pets("augmented", 900, 60), "fine_tuned": pets("fine_tuned", 500, 60)}
    table = tables.worth(runs)
    assert table.rows == [["augmented", "0.940", "0.700", "0.400 dog", "dog as cat", "0.040"]]
    assert table.above == ["pets: always answering 'cat' reaches 0.900"]
    tables.markdown(runs, [], [], [], tmp_path / "ladder.md")
    assert table.markdown() in (tmp_path / "ladder.md").read_text()
    assert tables.worth({"fine_tuned": runs["fine_tuned"]}).rows == []
    three = tables.worth({"fine_tuned": pets("fine_tuned", 334, 60, "a very long name of a class")})
    assert [row[0] for row in three.rows] == ["fine_tuned"], "more than two classes"
    assert max(map(len, three.text().splitlines())) <= 110


def gate(outcome: Outcome, change: float = 0.0, smallest_drop: float | None = 0.02, **other: Any) -> Judgement:
    verdict = AccuracyVerdict(
        outcome, (5, 5), 0.9, 0.9 + change, change, change - 0.01, change + 0.01, 0.5, 0.01, smallest_drop, 5, "", ""
    )
    return Judgement(f"{-100 * change:.0f} {smallest_drop}", outcome, "", [], [], [], [], verdict, **other)


MISSING = Judgement("new", "missing", "", [], [], [], [])


@pytest.mark.parametrize(
    ("judgements", "expected"),
    [
        ([], "Nothing was compared with a baseline."),
        ([MISSING], "Nothing was compared with a baseline."),
        ([gate("pass"), gate("underpowered", 0.0, 0.03), gate("pass", 0.0, 0.03)],
         "Still as accurate: 2 of 2 gates passed; each would have seen a drop of 3.0 points."),
        ([gate("pass", 0.0, None)], "Still as accurate: 1 of 1 gate passed; 1 could have seen no drop."),
        ([gate("pass"), gate("underpowered", -0.3), MISSING],
         "Not certain to be as accurate: 1 of 3 gates underpowered, 1 without baseline, 1 passed."),
        ([gate("regressed", -0.05), gate("regressed", -0.2), gate("underpowered", -0.3)],
         "No longer as accurate: 2 of 3 gates regressed, 1 underpowered; the largest drop is 20.0 points, of 20 0.02."),
        ([gate("pass", measure="balanced")],
         "Still as accurate in balanced accuracy: 1 of 1 gate passed; each would have seen a drop of 2.0 points."),
    ],
)  # fmt: skip
def test_the_first_sentence_says_whether_it_is_still_as_accurate(judgements: list[Judgement], expected: str) -> None:
    assert answer({}, judgements) == [expected]


def test_without_a_verdict_the_first_sentence_is_the_advice() -> None:
    assert answer({}, [MISSING], "Use augmented.") == ["Use augmented."]
    assert answer({}, [gate("pass")], "Use augmented.") == answer({}, [gate("pass")])


def test_the_second_sentence_says_how_fast_the_best_rung_is() -> None:
    runs = {"augmented": [result("augmented", "mini", 0.8)] * 10, "fine_tuned": [result("fine_tuned", "mini", 0.9)]}
    runs["fine_tuned"][0].machine["accelerators"] = ["H200", "H200"]
    assert answer(runs, [])[1] == (
        "fine_tuned is the most accurate with 0.900 [0.880, 0.917]; it takes 12 s a run, without frozen_end_to_end"
        " before it, on H200, H200 (123 pictures a second in training), and the 11 runs took 2.2 min."
    )
    assert answer({"fine_tuned": runs["fine_tuned"]}, [])[1].endswith(" in training)."), "of one run that is all"
    runs["mnist_convnet"] = [result("mnist_convnet", "mini", 0.95)]  # on easier pictures
    assert answer(runs, [])[1].startswith(
        "fine_tuned is the most accurate on shapes with 0.900 [0.880, 0.917], on digits mnist_convnet with"
        " 0.950 [0.935, 0.962]; fine_tuned takes 12 s"
    )


def test_rungs_on_different_pictures_are_told_apart() -> None:
    runs = {rung: [result(rung, "mini", 0.8)] for rung in ("mnist_convnet", "augmented", "fine_tuned")}
    assert [row[:2] for row in tables.ladder(runs).rows] == [
        ["mnist_convnet", "digits"],
        ["augmented", "shapes"],
        ["fine_tuned", "shapes"],
    ]
    (axes,) = charts.chart(runs).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "mnist_convnet\ndigits",
        "augmented\nshapes",
        "fine_tuned\nshapes",
    ]
    (between,) = [
        line for line in axes.lines if len(set(np.asarray(line.get_ydata()))) == 1 and line.get_marker() == "None"
    ]
    assert 0 < np.asarray(between.get_ydata())[0] < 1
    del runs["mnist_convnet"]
    assert tables.ladder(runs).titles[1] == "published"
    assert [label.get_text() for label in charts.chart(runs).axes[0].get_yticklabels()] == list(runs)


def test_what_was_left_out_or_cut_is_named_once_for_each_dataset() -> None:
    some = result("augmented", "mini", 0.8)
    runs = {"augmented": [some, some], "fine_tuned": [result("fine_tuned", "mini", 0.8, dataset="whole")]}
    assert tables.skipped(runs) == []
    some.dataset["skipped"] += ["'a.jpg' is empty", "'b.jpg' is a copy"]
    some.dataset["incomplete"] = ["'c.jpg' is cut"]
    left_out = ["shapes: 2 files left out", "  'a.jpg' is empty", "  'b.jpg' is a copy"]
    assert tables.skipped(runs) == [*left_out, "shapes: 1 file read in part", "  'c.jpg' is cut"]


@pytest.mark.parametrize(
    ("validation", "verdict"),
    [((0.71,), "cannot tell"), ((0.80,), "not reproduced"), ((0.62,), "not reproduced"),
     ((0.75, 0.752, 0.748), "not reproduced"), ((0.71, 0.715, 0.705), "reproduced"),
     ((0.734, 0.735, 0.736), "not reproduced"), ((0.727, 0.728, 0.729), "reproduced"),
     ((0.75, 0.70, 0.80), "cannot tell")],
)  # fmt: skip
def test_a_claim_is_reproduced_where_another_run_could_give_its_figure(
    validation: tuple[float, ...], verdict: str
) -> None:
    """0.70 to 0.72 in the chapter, so up to 0.725; of one run another could be 0.039 away, of three as they scatter."""
    runs = [
        replace(result("from_scratch", "full", 0.7, seed), history={"accuracy": [0.9], "val_accuracy": [accuracy]})
        for seed, accuracy in enumerate(validation)
    ]
    (row,) = [row for row in claims({"from_scratch": runs}).rows if row[0] == "from_scratch"]
    assert row[1:3] == ["validation", "0.7-0.72"]
    assert row[-1] == verdict


def test_a_curves_end_is_judged_by_its_last_ten_epochs_not_its_best() -> None:
    curve = [0.5] * 20 + [0.80, 0.95] + [0.80] * 8
    run = replace(result("frozen_end_to_end", "full", 0.8), history={"accuracy": [0.9], "val_accuracy": curve})
    (row,) = [row for row in claims({"frozen_end_to_end": [run]}).rows if row[0] == "frozen_end_to_end"]
    assert row[2:6] == ["0.96", "0.815", "0.950", "1"]
    assert row[-1] == "not reproduced"


def test_a_claim_without_a_run_of_the_recipe_as_it_is_was_not_run_here() -> None:
    other = result("fine_tuned", "full", 0.97)
    rows = claims({"fine_tuned": [replace(other, recipe=replace(other.recipe, epochs=3))]}).rows
    assert len(rows) == 8, "seven rungs, of which fine_tuned has two figures"
    assert all(row[-1] == "not run here" for row in rows)


@pytest.mark.parametrize(("pictures", "verdict"), [("dogs_vs_cats", "see fine_tuned_exact"), ("mine", "not run here")])
def test_a_rung_whose_exact_form_was_run_refers_to_it(pictures: str, verdict: str) -> None:
    rows = claims({"fine_tuned_exact": [result("fine_tuned_exact", "full", 0.97, dataset=pictures)]}).rows
    assert {row[-1] for row in rows if row[0] == "fine_tuned"} == {verdict}


RED, BLUE = [220, 0, 0], [0, 0, 220]


@pytest.fixture
def flags() -> Dataset:
    """Red pictures, then blue ones, each with a white corner."""
    pictures = np.array([[[colour] * 12] * 12 for colour in (RED, BLUE) for _ in range(3)], np.uint8)
    pictures[:, :6, :6] = 255
    split = Split(pictures, np.repeat([0, 1], 3), tuple("abcdef"))
    return Dataset("flags", ("caf\udce9 $x$", "other"), split, None, split)


def test_each_class_has_a_row_of_its_own_pictures(flags: Dataset) -> None:
    for rows in (images.sample_rows(flags), images.view_rows(flags, CHAPTER_AUGMENTATION)):
        for (_, row), colour in zip(rows, (RED, BLUE), strict=True):
            shown = [colour in picture.reshape(-1, 3).tolist() for picture in row]
            assert all(shown), f"a row should show {colour}"


def test_the_views_are_those_that_training_sees(flags: Dataset) -> None:
    titles, rows = zip(*images.view_rows(flags, CHAPTER_AUGMENTATION), strict=True)
    assert titles[0] == "caf\udce9 $x$: a, then as augmented"
    batches = Batches(flags.train.images, np.arange(6), 6, identity)
    stream = batches_module.stream(batches, 0, CHAPTER_AUGMENTATION)
    for place, (inputs, indices) in zip(range(1, 8), stream, strict=False):
        for row, index in zip(rows, (0, 3), strict=True):
            np.testing.assert_array_equal(row[place], inputs[list(indices).index(index)])
    np.testing.assert_array_equal(rows[1][0], flags.train.images[3], "the first is the picture itself")
