"""The page of a run says what the runs say, and can be read by everyone, in any browser."""

import base64
import io
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import keras
import numpy as np
import pytest
from builders import result, result_with_history
from PIL import Image

from convspec import models, training
from convspec.accuracy import baselines, judgement
from convspec.data.datasets import Dataset, Split
from convspec.ladder.result import Result
from convspec.ladder.rungs import RUNGS, find_recipe
from convspec.report import html as html_module
from convspec.report.claims import claims
from convspec.report.html import MISTAKES, SLOW
from convspec.report.images import flipped_pictures
from convspec.timings import cost
from convspec.timings.cost import Cost, Point
from convspec.visualization import maps

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Names are a user's own. These try to be more than text, are no Unicode, or are formulas to matplotlib.
CLASSES = ('<script>alert("fish")</script>', "key & 'lock' $x^$")
NAMES = ('"><img src=x onerror=alert(1)>', "caf\udce9.png", "{{ 7 * 7 }}", "</table></main><h1>x</h1>")
METADATA: dict[str, Any] = {
    "scale": "mini",
    "command": ["pytest", "benchmarks", "--convspec-dataset", "my pictures"],
    "written": "2026-01-02 03:04 UTC",
    "outcome": "complete",
    "failures": [],
    "unfinished": {},
    "repeats": {"fine_tuned": "bit-identical"},
    "costs": [
        Cost("feature_extraction", 4.0, 0.01, 0.001, [Point(30, 600, 28.0)]),
        Cost("literal", 2.0, 0.0, 0.006, [Point(10, 100, 8.0)]),
    ],
}


def parse(file: Path) -> Element:
    """Read a page, which is well-formed XML, too: an element that isn't closed is an error."""
    return ElementTree.parse(file).getroot()


def every(element: Element, *tags: str) -> list[Element]:
    """Return the elements in it with one of these tags, in the page's order."""
    return [each for each in element.iter() if each.tag in tags]


def text(element: Element) -> str:
    """Return all text in an element, with single spaces."""
    return " ".join("".join(element.itertext()).split())


def section(page: Element, name: str) -> Element:
    """Return the section under the heading of that id."""
    (element,) = page.findall(f".//section[@aria-labelledby='{name}']")
    return element


def rows(page: Element, name: str, table: int = 0) -> list[list[str]]:
    """Return the cells of one of a section's tables."""
    return [[text(cell) for cell in row] for row in section(page, name).findall(".//table")[table].iter("tr")]


def pixels(image: Element) -> np.ndarray:
    """Return an image of the page, as floats."""
    content = base64.b64decode(image.attrib["src"].partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)), float)


@dataclass
class Case:
    """A whole run at mini as its page was made from it."""

    file: Path
    runs: dict[str, list[Result]]
    dataset: Dataset
    model: Path
    undrawn: list[str]

    @property
    def best(self) -> Result:
        return self.runs["fine_tuned"][3]

    def write(self, file: Path, runs: dict[str, list[Result]], model: Path | None = None, *judgements: Any) -> Element:
        """Write and parse a page of other runs; without a model, parts are missing."""
        model = model or file.with_name("none")
        html_module.write(file, runs, judgements, METADATA, lambda _: self.dataset, lambda _: model)
        return parse(file)


@pytest.fixture(scope="module")
def case(few_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Seven rungs of five seeds, on pictures and classes with hostile names; the best model has an untrained head."""
    folder, test = tmp_path_factory.mktemp("page"), few_shapes.test
    rng = np.random.default_rng(3)  # the same weights on every backend
    model = models.end_to_end(models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3)))
    for layer in model.layers[-2:]:
        layer.set_weights([rng.normal(0, 0.05, weight.shape) for weight in layer.get_weights()])
    model.save(file := folder / "model.keras")
    shares = model.predict(test.images / np.float32(255), verbose=0)
    predicted, confidence = training.predicted_classes(shares), training.confidence(shares)
    names = [f"{place}.png" for place in range(len(test))]
    wrong = sorted(np.flatnonzero(predicted != test.labels), key=lambda place: -confidence[place])
    for name, place in zip(NAMES, wrong, strict=False):
        names[place] = name
    split = Split(test.images, test.labels, tuple(names))
    dataset = replace(few_shapes, name='holiday"><b>', classes=CLASSES, test=split, validation=None)
    runs = {rung: [result_with_history(rung, "mini", 0.2 + 0.01 * seed, seed) for seed in range(5)] for rung in RUNGS}
    right = float(np.mean(predicted == test.labels))
    runs["fine_tuned"] = [
        replace(
            run, test_accuracy=right - 0.01 * abs(run.seed - 3), test_names=names, test_labels=test.labels.tolist(),
            predicted=predicted.tolist(), confidence=confidence.astype(float).tolist(),
        )
        for run in runs["fine_tuned"]
    ]  # fmt: skip
    for run in (run for group in runs.values() for run in group):
        run.dataset.update(name=dataset.name, classes=list(CLASSES))
    page = folder / "index.html"
    return Case(
        page, runs, dataset, file, html_module.write(page, runs, [], METADATA, lambda _: dataset, lambda _: file)
    )


@pytest.fixture(scope="module")
def page(case: Case) -> Element:
    return parse(case.file)


def test_all_parts_of_a_whole_run_are_drawn_in_less_than_5_mb(case: Case) -> None:
    assert case.undrawn == []
    assert case.file.stat().st_size < 5e6


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page: Element) -> None:
    assert not every(page, "script", "link", "iframe", "object", "embed", "base", "form")
    for element in page.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on"), f"<{element.tag} {name}>"
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert re.match(r"data:image/(webp|svg\+xml);base64,|#", value), f"<{element.tag} {name}={value[:60]}>"
            if value.startswith("data:image/svg"):
                drawing = base64.b64decode(value.partition("base64,")[2]).decode()
                assert not re.search(r"<script|<image|<foreignObject|href=\"[^#]|url\([^#]", drawing)
    (style,) = every(page, "style")
    assert not re.search(r"url\(|@import|@font-face", text(style))
    (policy,) = page.findall(".//meta[@http-equiv='Content-Security-Policy']")
    assert policy.attrib["content"].startswith("default-src 'none';"), "the browser sees to it, too"


def test_a_users_names_are_text_and_nothing_else(page: Element) -> None:
    shown = "\n".join([text(page), *(image.attrib["alt"] for image in every(page, "img"))])
    for name in (*CLASSES, 'holiday"><b>', NAMES[0], r"caf\udce9.png", *NAMES[2:]):
        assert name in shown, f"{name} should be there as it is"
    assert not every(page, "b"), "no element comes from a name"


def test_headings_language_title_and_both_schemes_are_declared(page: Element) -> None:
    levels = [int(each.tag[1]) for each in every(page, "h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels
    declared = {each.get("name"): each.get("content") for each in every(page, "meta")}
    assert page.attrib["lang"] == "en"
    assert re.search("holiday.*complete", text(every(page, "title")[0]))
    assert declared["viewport"] == "width=device-width, initial-scale=1", "which leaves a reader free to zoom"
    assert declared["color-scheme"] == "light dark"
    assert len(every(page, "main")) == 1


def test_every_link_leads_to_a_section_and_the_first_past_the_navigation(page: Element) -> None:
    ids = [each.attrib["id"] for each in page.iter() if "id" in each.attrib]
    assert len(set(ids)) == len(ids), "an id stands for one element"
    links = every(page, "a")
    assert links[0].attrib == {"class": "skip", "href": "#ladder"}
    assert {link.attrib["href"][1:] for link in links} <= set(ids)
    linked = {link.attrib["href"][1:] for link in page.findall(".//nav//a")}
    assert linked == {each.attrib["aria-labelledby"] for each in every(page, "section")}


def test_every_region_is_labelled_and_reached_by_the_keyboard(page: Element) -> None:
    labels = {each.attrib["id"]: text(each) for each in page.iter() if "id" in each.attrib}
    for element in page.iter():
        if label := element.get("aria-labelledby"):
            assert labels.get(label), f"<{element.tag}> is labelled by {label}, which says nothing"
        if element.get("role") == "region":
            assert element.attrib["tabindex"] == "0"


def test_every_picture_has_a_description_of_its_own_and_its_size(page: Element) -> None:
    pictures = every(page, "img")
    assert len(pictures) > 30
    descriptions = [each.attrib["alt"] for each in pictures]
    assert all(len(description) > 12 for description in descriptions)
    assert len(set(descriptions)) == len(descriptions), "no two pictures show the same"
    for each in pictures:
        if "webp" in each.attrib["src"][:20]:
            height, width = pixels(each).shape[:2]
            assert (each.attrib["width"], each.attrib["height"]) == (str(width), str(height))


def test_every_table_has_a_caption_scopes_and_scrolls_on_its_own(page: Element) -> None:
    tables = every(page, "table")
    assert len(tables) >= 3
    assert len(page.findall(".//div[@class='scroll']/table")) == len(tables)
    for table in tables:
        (caption,) = every(table, "caption")
        assert text(caption)
        assert {header.get("scope") for header in every(table, "th")} <= {"row", "col"}
        assert all(len(row) > 1 for row in every(table, "tr"))


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
    assert undrawn[1:] == [f"{part} could not be drawn: BadInput: no model file {str(gone)!r}" for part in SLOW]
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


# In a browser.


def new_window(browser: "Browser", width: int = 1280, dark: bool = False) -> "Page":
    return browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light")


OVERFLOW = """[...document.body.querySelectorAll("*")].filter(each => !each.closest(".scroll, pre, .skip") &&
    each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
BROKEN = "[...document.images].filter(each => !each.complete || !each.naturalWidth).map(each => each.alt)"
# Texts that stand out from their ground by less than 4.5 to 1, WCAG's level AA.
FAINT = """(() => { const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(c)) return c } return "rgb(255, 255, 255)" };
  return [...document.body.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType == 3 &&
    n.data.trim())).map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) =>
    y - x); return [(a + .05) / (b + .05), e.outerHTML.slice(0, 60)] }).filter(([ratio]) => ratio < 4.5) })()"""


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_in_a_browser_it_is_whole_legible_and_silent(width: int, dark: bool, browser: "Browser", case: Case) -> None:
    window = new_window(browser, width, dark)
    requests: list[str] = []
    complaints: list[str] = []
    window.on("request", lambda request: requests.append(request.url))
    window.on("console", lambda message: complaints.append(message.text))
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.goto(case.file.as_uri())
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert window.evaluate(OVERFLOW) == []
    assert window.evaluate("document.images.length") == len(every(parse(case.file), "img"))
    assert window.evaluate(BROKEN) == []
    assert window.evaluate(FAINT) == []
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [case.file.as_uri()], "the file and nothing else"
    shot = np.asarray(Image.open(io.BytesIO(window.screenshot())).convert("L"), float)
    assert (np.median(shot) < 60) == dark, "the ground is dark where that is asked for"
    assert shot.std() > 20, "and there is something on it"
    window.close()


def test_in_a_browser_the_first_key_leads_past_the_navigation(browser: "Browser", case: Case) -> None:
    window = new_window(browser)
    window.goto(case.file.as_uri())
    window.keyboard.press("Tab")
    assert window.evaluate("document.activeElement.textContent") == "Skip to the ladder"
    assert window.evaluate("document.activeElement.getBoundingClientRect().left") >= 0, "it comes into sight"
    window.keyboard.press("Tab")
    assert window.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert window.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2
    window.close()


def test_in_a_browser_it_prints_dark_on_white_without_navigation(browser: "Browser", case: Case) -> None:
    window = new_window(browser, dark=True)
    window.goto(case.file.as_uri())
    assert window.pdf(format="A4", print_background=True).startswith(b"%PDF")
    window.emulate_media(media="print")
    assert not window.locator("nav").is_visible()
    assert window.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    window.close()
