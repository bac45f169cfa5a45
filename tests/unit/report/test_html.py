"""The page of a run says what the runs say, and what could not be drawn."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import keras
import numpy as np
import pytest
from builders import result, result_with_history
from pages import CLASSES, METADATA, Case, every, parse, pixels, text

from convspec import models
from convspec.accuracy import baselines, judgement
from convspec.ladder.rungs import RUNGS, find_recipe
from convspec.report import html as html_module
from convspec.report.claims import claims
from convspec.report.html import MISTAKES, SLOW
from convspec.report.images import flipped_pictures
from convspec.timings import cost
from convspec.visualization import maps


def section(page: Element, name: str) -> Element:
    """Return the section under the heading of that id."""
    (element,) = page.findall(f".//section[@aria-labelledby='{name}']")
    return element


def rows(page: Element, name: str, table: int = 0) -> list[list[str]]:
    """Return the cells of one of a section's tables."""
    return [[text(cell) for cell in row] for row in section(page, name).findall(".//table")[table].iter("tr")]


@pytest.fixture(scope="module")
def page(case: Case) -> Element:
    return parse(case.file)


def test_all_parts_of_a_whole_run_are_drawn_in_less_than_5_mb(case: Case) -> None:
    assert case.undrawn == []
    assert case.file.stat().st_size < 5e6


def test_the_ladder_has_the_figures_of_each_rung(page: Element, case: Case) -> None:
    titles, *content = rows(page, "ladder")
    assert [row[0] for row in content] == list(RUNGS)
    for rung, row in zip(RUNGS, content, strict=True):
        cells, accuracies = dict(zip(titles, row, strict=True)), [run.test_accuracy for run in case.runs[rung]]
        mean, half = np.mean(accuracies), 2.776 * np.std(accuracies, ddof=1) / 5**0.5  # Student's t, 4 degrees
        assert cells["test"] == f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
        assert cells["val"] == f"{np.mean([max(run.history['val_accuracy']) for run in case.runs[rung]]):.3f}"
        assert (cells["seeds"], cells["published"], cells["gate"]) == ("5", "-", "-")
        assert cells["repeats"] == ("bit-identical" if rung == "fine_tuned" else "-")


def test_each_rung_has_its_two_curves_and_the_figures_in_words(page: Element, case: Case) -> None:
    curves = section(page, "curves")
    assert [text(heading) for heading in every(curves, "h3")] == list(RUNGS)
    captions = [text(each) for each in every(curves, "figcaption")]
    for rung, accuracy, loss in zip(RUNGS, captions[::2], captions[1::2], strict=True):
        means = {name: np.mean([run.history[name] for run in case.runs[rung]], axis=0) for name in ("accuracy", "loss")}
        for metric, caption, best in (("accuracy", accuracy, np.argmax), ("loss", loss, np.argmin)):
            values, epoch = means[metric], best(means[metric])
            assert (
                f"training ends at {values[-1]:.3f} and is best, {values[epoch]:.3f}, in epoch {epoch + 1}" in caption
            )
            assert "validation ends at" in caption


def test_a_rung_of_one_epoch_has_no_curves(case: Case, tmp_path: Path) -> None:
    runs = {rung: [result_with_history(rung, "mini", 0.9)] for rung in ("feature_extraction_fast", "fine_tuned")}
    for rungs, expected in (([*runs], ["fine_tuned"]), (["feature_extraction_fast"], [])):
        page = case.write(tmp_path / "index.html", {rung: runs[rung] for rung in rungs})
        assert [text(heading) for heading in every(section(page, "curves"), "h3")] == expected


def test_the_page_begins_with_the_advice_where_nothing_was_compared(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METADATA, "recommendation", {"lines": ["Use fine_tuned.", "It is."], "code": []})
    page = case.write(tmp_path / "index.html", {"fine_tuned": case.runs["fine_tuned"]})
    assert text(page.findall(".//p[@class='answer']")[0]) == "Use fine_tuned."


def test_whole_rungs_have_their_cost_with_a_picture_where_they_were_timed(
    page: Element, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cost.table(METADATA["costs"], 30, 600)
    assert rows(page, "timings", 1) == [[*expected.titles], *expected.rows]
    (chart,) = every(section(page, "timings"), "img")
    assert chart.attrib["alt"] == "Seconds of feature_extraction, literal over 1 to 30 epochs on 600 pictures."
    monkeypatch.setitem(METADATA, "costs", [])
    without = section(case.write(tmp_path / "index.html", {"fine_tuned": case.runs["fine_tuned"]}), "timings")
    assert len(every(without, "table")) == 1
    assert not every(without, "img", "h3")


def test_the_samples_and_views_are_those_of_each_class(page: Element, case: Case) -> None:
    figures = every(section(page, "samples"), "figure")
    train, test = case.dataset.train, case.dataset.test
    for label, (name, figure) in enumerate(zip(CLASSES, figures[:2], strict=True)):
        assert text(figure) == f"{name}: {np.sum(train.labels == label)} train, {np.sum(test.labels == label)} test"
        shown = pixels(every(figure, "img")[0])[:96:2, :96:2]
        first = train.images[np.flatnonzero(train.labels == label)[0]]
        assert np.abs(shown - first).mean() < 12, "the first of its class, but for what WebP loses"
    assert ["then as augmented" in text(figure) for figure in figures[2:]] == [True, True]


def test_the_samples_of_ten_classes_say_of_how_many(case: Case) -> None:
    train = replace(case.dataset.train, labels=np.arange(40) % 12)
    many = replace(case.dataset, name="many", classes=tuple("abcdefghijkl"), train=train)
    assert [*html_module._samples(case.runs, lambda _: many)] == ["many, 48 pixels wide: 10 of 12 classes"]
    assert [*html_module._samples(case.runs, lambda _: case.dataset)] == [f"{case.dataset.name}, 48 pixels wide"]


def test_mistakes_come_most_confident_first_beside_their_heatmaps(page: Element, case: Case) -> None:
    mistakes, run, test = section(page, "wrong"), case.best, case.dataset.test
    wrong = sorted(np.flatnonzero(np.array(run.predicted) != test.labels), key=lambda place: -run.confidence[place])
    assert len(wrong) > MISTAKES, "this model is to be wrong often"
    assert f"It gets {len(wrong)} of {len(test)} test pictures wrong." in text(mistakes)
    assert "fine_tuned with seed 3" in text(mistakes), "the seed that gets most right"
    model, figures = keras.models.load_model(case.model), every(mistakes, "figure")
    for place, figure in zip(wrong[:MISTAKES], figures, strict=True):
        label, answer = CLASSES[test.labels[place]], CLASSES[run.predicted[place]]
        name = test.names[place].encode("utf-8", "backslashreplace").decode()
        caption = f"{name}: {label}, taken for {answer} with a confidence of {run.confidence[place]:.2f}"
        assert text(figure) == caption
        shown = pixels(every(figure, "img")[0])
        heatmap = maps.class_activation_map(model, test.images[place] / np.float32(255), int(run.predicted[place]))
        large = test.images[place].repeat(4, axis=0).repeat(4, axis=1)
        assert np.abs(shown[:, :192] - large).mean() < 12, "but for what WebP loses"
        assert np.abs(shown[:, 196:] - maps.superimpose(large, heatmap)).mean() < 12


def test_activations_are_those_of_the_first_convolution_at_each_size(page: Element, case: Case) -> None:
    figures = every(section(page, "activations"), "figure")[1:]
    sides = {"block1_conv1": (16, 48), "block2_conv1": (32, 24), "block3_conv1": (64, 12), "block4_conv1": (96, 6)}
    model, images = keras.models.load_model(case.model), case.dataset.test.images[:8] / np.float32(255)
    outputs = maps.activations(model, images[0])
    for (name, (depth, side)), figure in zip(sides.items(), figures, strict=False):
        assert text(figure) == f"{name}: {depth} channels of {side} x {side}"
        tiles = maps.channel_tiles(outputs[name])
        times = 768 // tiles.shape[1]
        shown = pixels(every(figure, "img")[0])[times // 2 :: times, times // 2 :: times]
        assert np.abs(shown - tiles).mean() < 16, f"{name}: WebP halves the resolution of colours"
    base = keras.Model(model.layers[0].input, model.layers[0].get_layer("block4_conv2").output)
    dead = ~np.asarray(base.predict(images, verbose=0)).any(axis=(1, 2))
    assert f"block4_conv2 {dead.mean():.0%}." in every(figures[-1], "img")[0].attrib["alt"], "a mean over pictures"


def test_each_filter_is_shown_what_it_responds_to_most(page: Element, case: Case) -> None:
    figures = every(section(page, "filters"), "figure")
    assert [text(figure) for figure in figures] == [f"block{number}_conv1" for number in range(1, 5)]
    grid = pixels(every(figures[1], "img")[0])[::2, ::2].astype(np.float32) / 255
    model = keras.models.load_model(case.model)
    layer = keras.Model(model.layers[0].input, model.layers[0].get_layer("block2_conv1").output)
    patterns = [grid[top : top + 48, left : left + 48] for top in (0, 52) for left in range(0, 8 * 52, 52)]
    means = np.asarray(layer.predict(np.array(patterns), verbose=0)).mean(axis=(1, 2))[:, :16]
    own = np.mean(means.argmax(axis=0) == np.arange(16))
    assert own > 0.5, f"of 16 filters {own:.0%} respond to their own pattern more than to the others"


def test_timings_machine_and_the_exact_command_are_there(page: Element) -> None:
    titles, *content = rows(page, "timings")
    assert dict(zip(titles, content[0], strict=True)) == {
        "rung": "dense_baseline", "features": "2.0", "train": "10.0", "input": "5.0", "a run": "12.0",
        "pictures/s": "123", "peak MiB": "904",
    }  # fmt: skip
    assert rows(page, "environment") == [["backend", "tensorflow"]]
    (command,) = every(section(page, "environment"), "code")
    assert text(command) == "pytest benchmarks --convspec-dataset 'my pictures'", "as a shell takes it"


def test_machines_are_told_apart_and_what_is_unknown_is_named(case: Case, tmp_path: Path) -> None:
    machine: dict[str, Any] = {"processor_mhz": {"max": 3000}, "accelerators": ["A", "B"], "load_average": [1.0]}
    machines: list[dict[str, Any]] = [{"accelerators": []}, machine, machine | {"load_average": [2.0]}]
    group = [
        replace(run, machine=facts, images_per_second=None, peak_memory_mib=None)
        for run, facts in zip(case.runs["fine_tuned"], machines, strict=False)
    ]
    written = case.write(tmp_path / "index.html", {"fine_tuned": group})
    assert rows(written, "environment", 0) == [["accelerators", "none"]]
    assert rows(written, "environment", 1) == [["processor mhz", "max 3000"], ["accelerators", "A; B"]]
    assert len(every(section(written, "environment"), "table")) == 2, "load is never the same"
    assert rows(written, "timings")[1][-2:] == ["unknown", "unknown"]


def test_a_part_that_cannot_be_drawn_takes_no_other_with_it(case: Case, tmp_path: Path) -> None:
    runs = {rung: case.runs[rung][:1] for rung in ("from_scratch", "fine_tuned")}
    runs["augmented"] = [replace(case.runs["augmented"][0], history={"accuracy": [0.5]})]
    file, gone = tmp_path / "index.html", tmp_path / "gone.keras"
    undrawn = html_module.write(file, runs, [], METADATA, lambda _: case.dataset, lambda _: gone)
    assert undrawn[0].startswith("curves could not be drawn: BadInput: runs must have a history of loss")
    why = f"BadInput: no model file {str(gone)!r}: give a .keras file"
    assert undrawn[1:] == [f"{part} could not be drawn: {why}" for part in SLOW]
    written = parse(file)
    for part, line in zip(("curves", *SLOW), undrawn, strict=True):
        (note,) = section(written, part).findall(".//p[@role='note']")
        assert text(note) == f"The part {line}"
    assert len(rows(written, "ladder")) == 4
    assert every(section(written, "samples"), "img")
    assert html_module.write(file, {}, [], METADATA, lambda _: case.dataset, lambda _: gone) == []


def test_pictures_other_than_those_tested_are_not_shown_as_mistakes(case: Case, tmp_path: Path) -> None:
    other = replace(case.best, test_names=["other.png", *case.best.test_names[1:]])
    wrong = section(case.write(tmp_path / "index.html", {"fine_tuned": [other]}, case.model), "wrong")
    assert "its test pictures are not those that fine_tuned was tested with" in text(wrong)
    assert not every(wrong, "img")


def test_a_model_without_convolutions_has_only_mistakes_to_show(case: Case, tmp_path: Path) -> None:
    models.dense_baseline((48, 48, 3), 2).save(tmp_path / "dense.keras")
    run = replace(case.best, recipe=find_recipe("dense_baseline", "mini"))
    written = case.write(tmp_path / "index.html", {"dense_baseline": [run]}, tmp_path / "dense.keras")
    assert len(every(section(written, "wrong"), "img")) == MISTAKES
    for part in ("activations", "filters"):
        assert "dense_baseline has no convolution." in text(section(written, part))


def test_the_claims_are_there_for_the_chapters_own_runs_alone(case: Case, page: Element, tmp_path: Path) -> None:
    runs = {"from_scratch": [result("from_scratch", "full", 0.7)]}
    table = claims(runs)
    assert rows(case.write(tmp_path / "full.html", runs), "claims") == [[*row] for row in (table.titles, *table.rows)]
    assert not page.findall(".//*[@id='claims']")
    (tmp_path / "claims.html").write_text("every claim")
    beside = case.write(tmp_path / "a.html", runs)
    links = [[each.get("href") for each in every(shown, "a")] for shown in (page, beside)]
    assert ["claims.html" in hrefs for hrefs in links] == [False, True], "where that page lies beside it"


def judged(case: Case, folder: Path) -> judgement.Judgement:
    """Return the verdict of five seeds on the test pictures, of which all have lost the seventh, two the third."""
    labels = case.dataset.test.labels
    before, after = np.tile(labels, (2, 5, 1))
    after[:, 7], after[:2, 3] = 1 - labels[7], 1 - labels[3]
    sides = [judgement.results_from_predictions("fine_tuned", side, labels) for side in (before, after)]
    for run in sides[0]:
        baselines.write(folder, run)
    return judgement.judge(folder, sides[1])


def test_verdicts_and_the_pictures_that_flipped_are_there(case: Case, tmp_path: Path) -> None:
    gate, labels = judged(case, tmp_path / "baselines"), case.dataset.test.labels
    runs = {"fine_tuned": case.runs["fine_tuned"][:1]}
    written = case.write(tmp_path / "index.html", runs, None, gate)
    assert rows(written, "ladder")[1][7] == gate.outcome
    assert gate.verdict
    shares = gate.verdict.change, gate.verdict.low, gate.verdict.high, gate.verdict.smallest_drop
    change, low, high, drop = (f"{100 * share:+.1f}" for share in shares if share is not None)
    row = ["fine_tuned", gate.outcome, f"{change} [{low}, {high}]", drop[1:], "nothing known"]
    assert rows(written, "verdicts")[1:] == [row]
    (fold,) = every(section(written, "verdicts"), "details")
    assert gate.lines[0] in text(fold)
    assert "open" not in fold.attrib
    for place, rate, figure in zip((7, 3), ("-1.0", "-0.4"), every(section(written, "flipped"), "figure"), strict=True):
        assert f"{CLASSES[labels[place]]} ({rate})" in text(figure), "the most consistently flipped first"
        shown = pixels(every(figure, "img")[0])[::4, ::4]
        assert np.abs(shown - case.dataset.test.images[place]).mean() < 12
    assert flipped_pictures(case.dataset, replace(gate, flips=None)) == []
    written = case.write(tmp_path / "own.html", {"augmented": case.runs["augmented"]}, None, gate)
    assert not written.findall(".//*[@id='flipped']"), "of another's model there are no pictures to show"


@pytest.mark.parametrize(
    ("outcomes", "mark"),
    [(["pass", "pass"], "certain"), (["pass", "underpowered"], "uncertain"), (["missing"], "uncertain"), ([], "")],
)
def test_the_answer_is_marked_green_where_every_gate_passed(
    outcomes: list[Any], mark: str, case: Case, tmp_path: Path
) -> None:
    gate = judged(case, tmp_path / "baselines")
    gates = [replace(gate, name=f"gate {number}", outcome=each) for number, each in enumerate(outcomes)]
    written = case.write(tmp_path / "index.html", {}, None, *gates)
    marks = [each.attrib["class"].split() for each in every(written, "div") if "outcome" in each.get("class", "")]
    assert marks == [["outcome", mark] if mark else ["outcome"]]


def test_failures_of_gates_are_folded_below_the_others(case: Case, tmp_path: Path) -> None:
    gate = judged(case, tmp_path / "baselines")
    why = "Failed: " + "\n".join(gate.lines), "the disk is full\nat line 3"
    failures = [{"test": f"a.py::test_{number}", "why": each} for number, each in enumerate(why)]
    file, metadata = tmp_path / "index.html", METADATA | {"failures": failures}
    html_module.write(file, {}, [gate], metadata, lambda _: case.dataset, lambda _: case.model)
    other, gates = section(parse(file), "failures").findall("./details")
    assert [text(each) for each in other] == ["the disk is fulltest_1", "a.py::test_1 the disk is full at line 3"]
    assert text(gates[0]) == "1 gate, by the verdicts above"
    assert f"a.py::test_0 {' '.join(why[0].split())}" in text(gates)


def test_the_measures_of_each_rung_are_there_those_of_the_best_unfolded(page: Element, case: Case) -> None:
    worth, (titles, *content) = section(page, "worth"), rows(page, "worth")
    assert [row[0] for row in content] == list(RUNGS)
    labels, predicted = case.dataset.test.labels, np.array(case.best.predicted)
    recalls = [float(np.mean(predicted[labels == label] == label)) for label in (0, 1)]
    cells, lowest = dict(zip(titles, content[-1], strict=True)), int(np.argmin(recalls))
    assert cells["balanced"] == f"{np.mean(recalls):.3f}"
    assert cells["lowest recall"] == f"{recalls[lowest]:.3f} {CLASSES[lowest]}"
    share = np.bincount(labels).max() / len(labels)
    assert cells["majority"] == f"{share:.3f} {CLASSES[int(np.bincount(labels).argmax())]}"
    assert [row[-1] for row in rows(page, "worth", 1)[1:]] == [f"{recall:.3f}" for recall in recalls]
    wrong = int(np.sum((labels == lowest) & (predicted != lowest)))
    mistake = f"{CLASSES[lowest]} taken for {CLASSES[1 - lowest]}: {wrong} of {np.sum(labels == lowest)} test pictures"
    (first,) = worth.findall("./div[@class='side']")
    assert mistake in [text(item) for item in every(first, "li")]
    assert [len(every(fold, "img")) for fold in every(worth, "details")] == [2] * 6 + [0]


def test_more_than_20_classes_have_their_confusions_in_words_alone(case: Case, tmp_path: Path) -> None:
    runs = [
        replace(run, dataset=run.dataset | {"classes": [*CLASSES, *map(str, range(19))]})
        for run in case.runs["augmented"]
    ]
    worth = section(case.write(tmp_path / "index.html", {"augmented": runs}), "worth")
    (side,) = worth.findall("./div[@class='side']")
    assert [each.attrib["alt"].split()[0] for each in every(side, "img")] == ["Reliability"]
    assert len(every(side, "li")) == 1
