"""The report of a run: what it says is what the runs say, whoever reads it and however the run ended."""

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import browser
import keras
import numpy as np
import pytest
from builders import result
from keras import layers
from PIL import Image
from test_plugin import LADDER

from convspec import models, training
from convspec.accuracy import baselines, judgement
from convspec.data.datasets import Dataset, Split
from convspec.ladder import run as run_module
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import run_key
from convspec.ladder.rungs import RUNGS, find_recipe
from convspec.plugin.session import SESSION, Session
from convspec.report import charts, claims
from convspec.report import html as html_module
from convspec.report import tables as tables_module
from convspec.report.html import SLOW, WRONG
from convspec.report.images import flipped_pictures
from convspec.visualization import maps

# Names are a user's own. These try to be more than text, are no Unicode, or are formulas to matplotlib.
CLASSES = ('<script>alert("fish")</script>', "key & 'lock' $x^$")
NAMES = ('"><img src=x onerror=alert(1)>', "caf\udce9.png", "{{ 7 * 7 }}", "</table></main><h1>x</h1>")
TOLD: dict[str, Any] = {
    "scale": "mini",
    "command": ["pytest", "benchmarks", "--dataset", "my pictures"],
    "written": "2026-01-02 03:04 UTC",
    "outcome": "complete",
    "failures": [],
    "unfinished": {},
    "repeats": {"fine_tuned": "bit-identical"},
    "verdicts": [],
}
VOID = {"meta", "img", "link", "br", "hr", "input"}


@dataclass(eq=False)
class Element:
    """One element of a page: its tag, its attributes, and all the text in it."""

    tag: str
    attributes: dict[str, str]
    inside: "Element | None"
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    def all(self, *tags: str) -> "list[Element]":
        """The elements in it with one of these tags, or all, in the page's order."""
        found = []
        for child in self.children:
            found += [child] * (not tags or child.tag in tags) + child.all(*tags)
        return found


class Parsed(HTMLParser):
    """A page as a tree; fails where an element is not closed, or another is."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.root = self.now = Element("", {}, None)
        self.feed(file.read_text(encoding="utf-8"))
        assert self.now is self.root, f"<{self.now.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.now)
        self.now.children.append(element)
        if tag not in VOID:
            self.now = element

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.now.tag, f"</{tag}> ends <{self.now.tag}> at {self.getpos()}"
        assert self.now.inside
        self.now = self.now.inside

    def handle_data(self, data: str) -> None:
        element: Element | None = self.now
        while element:
            element.text += data
            element = element.inside

    def all(self, *tags: str) -> list[Element]:
        return self.root.all(*tags)

    def section(self, name: str) -> Element:
        """The one under the heading of that id."""
        (found,) = [each for each in self.all("section") if each.attributes.get("aria-labelledby") == name]
        return found

    def rows(self, section: str, table: int = 0) -> list[list[str]]:
        """The cells of one of a section's tables, as text."""
        found = self.section(section).all("table")[table]
        return [[cell.text.strip() for cell in row.all("th", "td")] for row in found.all("tr")]


def image_of(element: Element) -> np.ndarray:
    content = element.attributes["src"].partition("base64,")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def climbed(rung: str, seed: int, accuracy: float) -> Result:
    """A run at mini with a whole history, of which the values say which run and epoch they are of."""
    made = result(rung, "mini", accuracy, seed)
    epochs = np.arange(made.recipe.epochs)
    rising = 0.5 + 0.4 * (1 - np.exp(-epochs / 10)) + 0.01 * seed
    history = {"accuracy": rising, "val_accuracy": rising - 0.05, "loss": 1 - rising, "val_loss": 1.1 - rising}
    return replace(made, history={name: values.tolist() for name, values in history.items()})


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

    def write(self, file: Path, **changes: Any) -> Parsed:
        """The page of the same, but for changes."""
        given: dict[str, Any] = {
            "runs": self.runs, "judgements": [], "told": TOLD, "dataset": lambda _: self.dataset,
            "model": lambda _: self.model,
        }  # fmt: skip
        html_module.write(file, **given | changes)
        return Parsed(file)


@pytest.fixture(scope="module")
def case(few_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Seven rungs of five seeds, on pictures and classes with hostile names; the best model has an untrained head."""
    folder, test = tmp_path_factory.mktemp("page"), few_shapes.test
    keras.utils.set_random_seed(3)
    model = models.end_to_end(models.conv_base("mini", models.MINI_WEIGHTS, (48, 48, 3)))
    model.save(folder / "model.keras")
    shares = model.predict(test.images / np.float32(255), verbose=0)
    predicted, sure = training.predicted_classes(shares), training.confidence(shares)
    names = [f"{place}.png" for place in range(len(test))]
    wrong = sorted(np.flatnonzero(predicted != test.labels), key=lambda place: -sure[place])
    for name, place in zip(NAMES, wrong, strict=False):
        names[place] = name
    shown = Split(test.images, test.labels, tuple(names))
    dataset = replace(few_shapes, name='holiday"><b>', classes=CLASSES, test=shown, validation=None)
    runs = {rung: [climbed(rung, seed, 0.2 + 0.01 * seed) for seed in range(5)] for rung in RUNGS}
    right = float(np.mean(predicted == test.labels))
    runs["fine_tuned"] = [
        replace(
            climbed("fine_tuned", seed, right - 0.01 * abs(seed - 3)), test_names=names,
            test_labels=test.labels.tolist(), predicted=predicted.tolist(), confidence=sure.astype(float).tolist(),
        )
        for seed in range(5)
    ]  # fmt: skip
    for run in (run for group in runs.values() for run in group):
        run.dataset.update(name=dataset.name, classes=list(CLASSES))
    undrawn = html_module.write(
        folder / "index.html", runs, [], TOLD, lambda _: dataset, lambda _: folder / "model.keras"
    )  # fmt: skip
    return Case(folder / "index.html", runs, dataset, folder / "model.keras", undrawn)


@pytest.fixture(scope="module")
def parsed(case: Case) -> Parsed:
    return Parsed(case.file)


def test_a_whole_run_at_mini_is_drawn_in_all_its_parts_and_takes_less_than_5_mb(case: Case) -> None:
    assert case.undrawn == []
    assert case.file.stat().st_size < 5e6


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(parsed: Parsed, case: Case) -> None:
    assert not parsed.all("script", "link", "iframe", "object", "embed", "base", "form")
    for element in parsed.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.tag} {name}>"
            if name in ("src", "href", "srcset", "poster", "action", "data"):
                assert re.match(r"data:image/(webp|svg\+xml);base64,|#", value), f"<{element.tag} {name}={value[:60]}>"
            if value.startswith("data:image/svg"):
                drawing = base64.b64decode(value.partition("base64,")[2]).decode()
                assert not re.search(r"<script|<image|<foreignObject|href=\"[^#]|url\([^#]", drawing)
    (style,) = parsed.all("style")
    assert not re.search(r"url\(|@import|@font-face", style.text)
    (policy,) = [e for e in parsed.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none';"), "the browser sees to it, too"


def test_a_users_names_are_text_and_nothing_else(parsed: Parsed, case: Case) -> None:
    told = "\n".join([parsed.root.text, *(each.attributes["alt"] for each in parsed.all("img"))])
    for name in (*CLASSES, 'holiday"><b>', NAMES[0], r"caf\udce9.png", *NAMES[2:]):
        assert name in told, f"{name} should be there as it is"
    assert not parsed.all("b"), "no element comes from a name"


def test_headings_begin_with_one_h1_and_leave_out_no_level(parsed: Parsed) -> None:
    levels = [int(each.tag[1]) for each in parsed.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels


def test_language_title_width_and_both_schemes_are_declared(parsed: Parsed) -> None:
    (html,), (title,) = parsed.all("html"), parsed.all("title")
    declared = {each.attributes.get("name"): each.attributes.get("content") for each in parsed.all("meta")}
    assert html.attributes["lang"] == "en"
    assert "holiday" in title.text
    assert "complete" in title.text
    assert declared["viewport"] == "width=device-width, initial-scale=1", "which leaves a reader free to zoom"
    assert declared["color-scheme"] == "light dark"


def test_every_link_leads_to_a_part_of_the_page_and_the_first_past_the_navigation(parsed: Parsed) -> None:
    ids = [each.attributes["id"] for each in parsed.all() if "id" in each.attributes]
    assert len(set(ids)) == len(ids), "an id stands for one element"
    first, *rest = parsed.all("a")
    assert first.attributes == {"class": "skip", "href": "#ladder"}
    assert {link.attributes["href"][1:] for link in (first, *rest)} <= set(ids)
    linked = {link.attributes["href"][1:] for nav in parsed.all("nav") for link in nav.all("a")}
    assert linked == {section.attributes["aria-labelledby"] for section in parsed.all("section")}


def test_every_region_is_labelled_by_something_that_is_there(parsed: Parsed) -> None:
    named = {each.attributes["id"]: each.text.strip() for each in parsed.all() if "id" in each.attributes}
    for element in parsed.all():
        if label := element.attributes.get("aria-labelledby"):
            assert named.get(label), f"<{element.tag}> is labelled by {label}, which says nothing"
        if element.attributes.get("role") == "region":
            assert element.attributes["tabindex"] == "0", "what scrolls must be reached by the keyboard"
    assert len(parsed.all("main")) == 1


def test_every_picture_says_in_words_what_it_shows_and_how_large_it_is(parsed: Parsed) -> None:
    pictures = parsed.all("img")
    assert len(pictures) > 30
    texts = [each.attributes["alt"] for each in pictures]
    assert all(len(text) > 12 for text in texts)
    assert len(set(texts)) == len(texts), "no two pictures show the same"
    for each in pictures:
        if "webp" in each.attributes["src"][:20]:
            height, width = image_of(each).shape[:2]
            assert (each.attributes["width"], each.attributes["height"]) == (str(width), str(height))


def test_every_table_has_a_caption_and_headers_with_their_scope(parsed: Parsed) -> None:
    tables = parsed.all("table")
    assert len(tables) >= 3
    for table in tables:
        (caption,) = table.all("caption")
        assert caption.text.strip()
        assert {header.attributes.get("scope") for header in table.all("th")} <= {"row", "col"}
        assert all(len(row.all("th", "td")) > 1 for row in table.all("tr"))
        assert table.inside, "a table scrolls inside of its own container"
        assert table.inside.attributes["class"] == "scroll"


def test_the_ladder_has_the_figures_of_each_rung(parsed: Parsed, case: Case) -> None:
    titles, *rows = parsed.rows("ladder")
    assert [row[0] for row in rows] == list(RUNGS)
    for rung, row in zip(RUNGS, rows, strict=True):
        cells = dict(zip(titles, row, strict=True))
        group = case.runs[rung]
        mean = np.mean([run.test_accuracy for run in group])
        half = 2.776 * np.std([run.test_accuracy for run in group], ddof=1) / 5**0.5  # Student's t with four degrees
        assert cells["test"] == f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
        assert cells["val"] == f"{np.mean([max(run.history['val_accuracy']) for run in group]):.3f}"
        assert (cells["seeds"], cells["published"], cells["gate"]) == ("5", "-", "-")
        assert cells["repeats"] == ("bit-identical" if rung == "fine_tuned" else "-")


def test_each_rung_has_its_two_curves_and_the_figures_in_words(parsed: Parsed, case: Case) -> None:
    section = parsed.section("curves")
    assert [heading.text for heading in section.all("h3")] == list(RUNGS)
    captions = [each.text.strip() for each in section.all("figcaption")]
    assert len(captions) == 2 * len(RUNGS)
    for rung, accuracy, loss in zip(RUNGS, captions[::2], captions[1::2], strict=True):
        last = np.mean([run.history["accuracy"][-1] for run in case.runs[rung]])
        assert f"training ends at {last:.3f} and is best, {last:.3f}, in epoch {case.runs[rung][0].recipe.epochs}" in (
            accuracy
        )
        assert f"validation ends at {1.1 - last:.3f}" in loss


def test_the_samples_are_those_of_each_class_and_the_views_those_of_training(parsed: Parsed, case: Case) -> None:
    figures = parsed.section("samples").all("figure")
    assert [figure.text.strip() for figure in figures[:2]] == [
        f"{name}: {np.sum(case.dataset.train.labels == label)} train, {np.sum(case.dataset.test.labels == label)} test"
        for label, name in enumerate(CLASSES)
    ]
    for label, figure in enumerate(figures[:2]):
        shown = image_of(figure.all("img")[0])[:96:2, :96:2]
        first = case.dataset.train.images[np.flatnonzero(case.dataset.train.labels == label)[0]]
        assert np.abs(shown.astype(float) - first).mean() < 12, "the first of its class, but for what WebP loses"
    assert len(figures) == 4
    assert all("then as augmented" in figure.text for figure in figures[2:])


def test_what_the_best_model_gets_wrong_is_shown_most_confident_first_beside_its_heatmap(
    parsed: Parsed, case: Case
) -> None:
    section, run, test = parsed.section("wrong"), case.best, case.dataset.test
    wrong = sorted(np.flatnonzero(np.array(run.predicted) != test.labels), key=lambda place: -run.confidence[place])
    assert len(wrong) > WRONG, "this model is to be wrong often"
    assert f"It gets {len(wrong)} of {len(test)} test pictures wrong." in section.text
    assert "fine_tuned with seed 3" in section.text, "the seed that gets most right"
    model, figures = keras.models.load_model(case.model), section.all("figure")
    assert len(figures) == WRONG
    for place, figure in zip(wrong, figures, strict=False):
        label, said = CLASSES[test.labels[place]], CLASSES[run.predicted[place]]
        name = test.names[place].encode("utf-8", "backslashreplace").decode()
        caption = f"{name}: {label}, taken for {said} with a confidence of {run.confidence[place]:.2f}"
        assert figure.text.strip() == caption
        pictures = image_of(figure.all("img")[0]).astype(float)
        heatmap = maps.class_activation_map(model, test.images[place] / np.float32(255), int(run.predicted[place]))
        large = test.images[place].repeat(4, axis=0).repeat(4, axis=1)
        assert np.abs(pictures[:, :192] - large).mean() < 12
        assert np.abs(pictures[:, 196:] - maps.superimpose(large, heatmap)).mean() < 12


def test_activations_are_those_of_the_first_convolution_at_each_size(parsed: Parsed, case: Case) -> None:
    section = parsed.section("activations")
    captions = [each.text.strip() for each in section.all("figcaption")]
    sides = {"block1_conv1": (16, 48), "block2_conv1": (32, 24), "block3_conv1": (64, 12), "block4_conv1": (96, 6)}
    assert captions[1:] == [f"{name}: {depth} channels of {side} x {side}" for name, (depth, side) in sides.items()]
    outputs = maps.activations(keras.models.load_model(case.model), case.dataset.test.images[0] / np.float32(255))
    for name, shown in zip(sides, section.all("img")[1:], strict=False):
        tiles = maps.channel_tiles(outputs[name])
        times = 768 // tiles.shape[1]
        drawn = image_of(shown)[..., 0][times // 2 :: times, times // 2 :: times]
        assert np.abs(drawn.astype(float) - tiles).mean() < 12, name


def test_the_share_of_dead_channels_is_the_mean_over_pictures(parsed: Parsed, case: Case) -> None:
    model, images = keras.models.load_model(case.model), case.dataset.test.images[:8] / np.float32(255)
    base = keras.Model(model.layers[0].input, model.layers[0].get_layer("block4_conv2").output)
    dead = ~np.asarray(base.predict(images, verbose=0)).any(axis=(1, 2))
    alt = parsed.section("activations").all("img")[-1].attributes["alt"]
    assert f"block4_conv2 {dead.mean():.0%}." in alt


def test_each_filter_is_shown_what_it_responds_to_most(parsed: Parsed, case: Case) -> None:
    figures = parsed.section("filters").all("figure")
    assert [figure.text.strip() for figure in figures] == [f"block{number}_conv1" for number in range(1, 5)]
    grid = image_of(figures[1].all("img")[0]).astype(np.float32) / 255
    model = keras.models.load_model(case.model)
    first = keras.Model(model.layers[0].input, model.layers[0].get_layer("block2_conv1").output)
    patterns = [
        grid[top : top + 48, left : left + 48] for top in range(0, 100, 52) for left in range(0, 8 * 52, 52)
    ]  # fmt: skip
    means = np.asarray(first.predict(np.array(patterns), verbose=0)).mean(axis=(1, 2))[:, :16]
    own = np.mean(means.argmax(axis=0) == np.arange(16))
    assert own > 0.5, f"of 16 filters {own:.0%} respond to their own pattern more than to the others"


def test_patterns_have_their_own_colours_where_a_base_was_trained_on_blue_first(
    case: Case, one_convolution: Path, tmp_path: Path
) -> None:
    """A filter that looks at the first channel alone, which is blue to VGG16 as it was trained."""
    run = replace(case.best, recipe=replace(case.best.recipe, base="vgg16", preprocessing="base"))
    for recipe, brightest in ((run.recipe, 2), (case.best.recipe, 0)):
        written = case.write(
            tmp_path / "index.html", runs={"fine_tuned": [replace(run, recipe=recipe)]},
            model=lambda _: one_convolution,
        )  # fmt: skip
        (shown,) = written.section("filters").all("img")
        assert image_of(shown)[:48, :48].mean(axis=(0, 1)).argmax() == brightest


def test_timings_machine_versions_and_the_exact_command_are_there(parsed: Parsed, case: Case) -> None:
    titles, *rows = parsed.rows("timings")
    assert dict(zip(titles, rows[0], strict=True)) == {
        "rung": "dense_baseline", "features": "2.0", "train": "10.0", "input": "5.0", "a run": "12.0",
        "pictures/s": "123", "peak MiB": "904",
    }  # fmt: skip
    assert parsed.rows("environment") == [["backend", "tensorflow"]]
    (command,) = parsed.section("environment").all("code")
    assert command.text == "pytest benchmarks --dataset 'my pictures'", "as a shell takes it"


def test_machines_are_told_apart_and_the_same_one_is_there_once(case: Case, tmp_path: Path) -> None:
    machine = {"processor_mhz": {"max": 3000}, "accelerators": ["A", "B"], "load_average": [1.0]}
    runs = {
        "fine_tuned": [
            replace(run, machine=machine | {"load_average": [run.seed]} if run.seed else {"accelerators": []})
            for run in case.runs["fine_tuned"]
        ]
    }
    written = case.write(tmp_path / "index.html", runs=runs, model=lambda _: tmp_path / "none")
    assert written.rows("environment", 0) == [["accelerators", "none"]]
    assert written.rows("environment", 1) == [["processor mhz", "max 3000"], ["accelerators", "A; B"]]
    assert len(written.section("environment").all("table")) == 2


def test_a_part_that_cannot_be_drawn_is_named_and_takes_no_other_with_it(case: Case, tmp_path: Path) -> None:
    runs = {rung: case.runs[rung][:1] for rung in ("from_scratch", "fine_tuned")}
    runs["augmented"] = [replace(case.runs["augmented"][0], history={"accuracy": [0.5]})]
    gone = tmp_path / "gone.keras"
    undrawn = html_module.write(
        tmp_path / "index.html", runs, [], TOLD, lambda _: case.dataset, lambda _: gone
    )  # fmt: skip
    expected = [f"{part} could not be drawn: BadInput: no model file {str(gone)!r}" for part in SLOW]
    assert undrawn[1:] == expected
    assert undrawn[0].startswith("curves could not be drawn: BadInput: runs must have a history of loss")
    written = Parsed(tmp_path / "index.html")
    for part, line in zip(("curves", "wrong", "activations", "filters"), undrawn, strict=True):
        (note,) = [each for each in written.section(part).all("p") if each.attributes.get("role") == "note"]
        assert note.text == f"The part {line}"
    assert len(written.rows("ladder")) == 4
    assert written.section("samples").all("img")
    assert html_module.write(tmp_path / "again.html", {}, [], TOLD, lambda _: case.dataset, lambda _: gone) == []


def test_pictures_that_are_not_those_that_were_tested_with_are_not_shown_as_if_they_were(
    case: Case, tmp_path: Path
) -> None:
    other = replace(case.best, test_names=["other.png", *case.best.test_names[1:]])
    written = case.write(tmp_path / "index.html", runs={"fine_tuned": [other]})
    assert "its test pictures are not those that fine_tuned was tested with" in written.section("wrong").text
    assert not written.section("wrong").all("img")


def test_a_model_without_convolutions_has_mistakes_but_nothing_to_look_into(case: Case, tmp_path: Path) -> None:
    models.dense_baseline((48, 48, 3), 2).save(tmp_path / "dense.keras")
    run = replace(case.best, recipe=find_recipe("dense_baseline", "mini"))
    written = case.write(
        tmp_path / "index.html", runs={"dense_baseline": [run]}, model=lambda _: tmp_path / "dense.keras"
    )
    assert len(written.section("wrong").all("img")) == WRONG
    for part in ("activations", "filters"):
        assert "dense_baseline has no convolution." in written.section(part).text


def test_the_chapters_claims_are_there_for_its_own_runs_and_for_no_others(case: Case, tmp_path: Path) -> None:
    runs = {"from_scratch": [result("from_scratch", "full", 0.7)]}
    written = case.write(tmp_path / "full.html", runs=runs, model=lambda _: tmp_path / "none")
    assert written.rows("claims") == [list(row) for row in claims.claim_rows(runs)]
    assert ["from_scratch", "validation", "0.7-0.72", "0.750", "1", "0.722 to 0.776", "not reproduced"] in (
        written.rows("claims")
    )
    assert "claims" not in {each.attributes.get("id") for each in Parsed(case.file).all()}


def test_verdicts_and_the_pictures_that_flipped_are_there(case: Case, tmp_path: Path) -> None:
    labels = case.dataset.test.labels
    after = np.tile(labels, (5, 1))
    after[:, 7] = 1 - after[:, 7]
    before = np.tile(labels, (5, 1))
    sides = [judgement.results_from_predictions("fine_tuned", side, labels) for side in (before, after)]
    for run in sides[0]:
        baselines.write(tmp_path / "baselines", run)
    held, runs = judgement.judge(tmp_path / "baselines", sides[1]), {"fine_tuned": case.runs["fine_tuned"][:1]}
    written = case.write(tmp_path / "index.html", runs=runs, judgements=[held], model=lambda _: tmp_path / "none")
    assert dict(row[:1] + row[7:8] for row in written.rows("ladder"))["fine_tuned"] == held.outcome
    assert held.lines[0] in written.section("ladder").text
    figure, *others = written.section("flipped").all("figure")
    assert not others
    assert f"{CLASSES[labels[7]]} (-1.0)" in figure.text
    assert flipped_pictures(case.dataset, replace(held, flips=None)) == ([], [])
    shown = image_of(figure.all("img")[0])[::4, ::4].astype(float)
    assert np.abs(shown - case.dataset.test.images[7]).mean() < 12
    other = replace(held, name="somebody's own")
    written = case.write(tmp_path / "own.html", runs=runs, judgements=[other], model=lambda _: tmp_path / "none")
    assert not [each for each in written.all("section") if each.attributes["aria-labelledby"] == "flipped"], (
        "of pictures that convspec does not have there are none to show"
    )


# How a session ends.


@pytest.fixture(scope="module")
def one_convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for two classes that looks at the first channel alone."""
    model = keras.Sequential(
        [keras.Input((48, 48, 3)), layers.Conv2D(1, 1), layers.Flatten(), layers.Dense(1, "sigmoid")]
    )
    model.layers[0].set_weights([np.array([1.0, 0, 0]).reshape(1, 1, 3, 1), np.zeros(1)])
    model.save(file := tmp_path_factory.mktemp("one") / "convolution.keras")
    return file


@pytest.fixture
def select_recipes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, few_shapes: Dataset, one_convolution: Path
) -> Callable:
    """The ladder in this process, with runs that take no time; one of them raises what is given."""
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)

    def select_recipes(raises: BaseException | None = None, *arguments: str) -> tuple[str, Path]:
        def run(recipe: Recipe, dataset: Dataset, seed: int, folder: Path, **_: Any) -> Result:
            if recipe.name == "from_scratch" and seed == 1 and raises:
                raise raises
            file = folder / "models" / f"{run_key(recipe, dataset, seed)}.keras"
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one_convolution, file)
            labels = dataset.test.labels
            return replace(
                climbed(recipe.name, seed, 0.5), predicted=[0] * len(labels), test_labels=labels.tolist(),
                test_names=list(dataset.test.names), confidence=[0.75] * len(labels),
            )  # fmt: skip

        monkeypatch.setattr(run_module, "run", run)
        monkeypatch.setattr(Session, "dataset", _noting(few_shapes))
        ended = pytester.runpytest_inprocess(
            LADDER, "--rootdir", str(pytester.path), "-p", "no:cacheprovider", "-p", "no:randomly",
            "--rungs", "dense_baseline,from_scratch,augmented", "--seeds", "2", "-k", "test_rung[", "-x", *arguments,
            no_reraise_ctrlc=True,
        )  # fmt: skip
        return "\n".join(ended.outlines + ended.errlines), pytester.path / ".convspec"

    return select_recipes


def _noting(dataset: Dataset) -> Callable[[Session, Recipe], Dataset]:
    def of(session: Session, recipe: Recipe) -> Dataset:
        session.begun.setdefault(recipe.name, [])
        return dataset

    return of


def test_a_run_that_went_well_ends_in_a_page_with_all_its_parts_and_says_where(select_recipes: Callable) -> None:
    text, folder = select_recipes(None, "--rungs", "dense_baseline,from_scratch")
    assert text.count(f"report: {folder / 'index.html'}") == 1
    assert "could not be" not in text
    written = Parsed(folder / "index.html")
    assert "Complete. 2 rungs finished, 4 runs in all." in " ".join(written.root.text.split())
    assert written.section("wrong").all("img")
    assert written.section("filters").all("img")
    assert json.loads((folder / "ladder.json").read_text())["outcome"] == "complete"
    assert not list((folder / "unfinished").iterdir())


def test_a_run_that_failed_half_way_has_a_page_that_says_which_test_and_why(select_recipes: Callable) -> None:
    text, folder = select_recipes(RuntimeError("<b>the disk is full</b>"))
    assert str(folder / "index.html") in text
    written = Parsed(folder / "index.html")
    said = " ".join(written.root.text.split())
    assert "Failed. 1 rung finished, 2 runs in all; not finished: from_scratch (1 run kept), augmented. 1 test" in said
    test, why = written.section("failures").all("dt", "dd")
    assert test.text.endswith("::test_rung[from_scratch]")
    assert "RuntimeError: <b>the disk is full</b>" in why.text
    assert "failed" in written.all("title")[0].text
    assert [row[0] for row in written.rows("ladder")[1:]] == ["dense_baseline", "from_scratch", "augmented"]
    record = json.loads((folder / "ladder.json").read_text())
    assert record["outcome"] == "failed"
    assert "the disk is full" in record["failures"][0]["why"]
    assert record["unfinished"] == {"from_scratch": [0], "augmented": []}


def test_a_run_that_was_interrupted_has_a_page_that_says_so_and_keeps_what_it_needs_to_go_on(
    select_recipes: Callable,
) -> None:
    _, folder = select_recipes(KeyboardInterrupt())
    said = " ".join(Parsed(folder / "index.html").root.text.split())
    assert "Interrupted. 1 rung finished, 2 runs in all; not finished: from_scratch (1 run kept), augmented." in said
    assert "The same command goes on from here" in said
    assert said.count("left out, so that a run that is interrupted ends soon") == 3
    assert json.loads((folder / "ladder.json").read_text())["outcome"] == "interrupted"
    assert len(list((folder / "unfinished").iterdir())) == 3, "two runs of one rung, and one of the next"


def test_a_run_that_fails_before_any_rung_is_finished_has_a_page_too(select_recipes: Callable) -> None:
    _, folder = select_recipes(RuntimeError("no"), "--rungs", "from_scratch")
    said = " ".join(Parsed(folder / "index.html").root.text.split())
    assert "Failed. 0 rungs finished, 0 runs in all; not finished: from_scratch (1 run kept). 1 test failed" in said


def test_what_cannot_be_drawn_is_told_and_the_record_is_written_all_the_same(
    select_recipes: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts")

    with monkeypatch.context() as patch:
        patch.setattr(charts, "chart", broken)
        patch.setattr(tables_module, "markdown", broken)
        text, folder = select_recipes(None, "--rungs", "dense_baseline", "--seeds", "1")
    for line in ("ladder.md could not be written: RuntimeError: no fonts",
                 "ladder.png could not be written: RuntimeError: no fonts",
                 "index.html: chart could not be drawn: RuntimeError: no fonts"):  # fmt: skip
        assert line in text
    assert len(json.loads((folder / "ladder.json").read_text())["runs"]) == 1
    assert Parsed(folder / "index.html").section("curves").all("img")
    assert "could not be" not in select_recipes(None, "--rungs", "dense_baseline", "--seeds", "1")[0], (
        "and the next is whole"
    )


def test_each_model_is_found_where_its_training_left_it(
    pytester: pytest.Pytester, few_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pytester.parseconfigure("--report", str(pytester.path)).stash[SESSION]
    monkeypatch.setattr(Session, "dataset", lambda *_: few_shapes)
    recipe = replace(find_recipe("dense_baseline", "mini"), epochs=1, steps=1)
    runs = [run_module.run(recipe, few_shapes, seed, session.folder) for seed in (0, 1)]
    left = {seed: file for seed in (0, 1) for file in (session.folder / "models").glob(f"*seed{seed}*")}
    assert {run.seed: session.model(run) for run in runs} == left


# In a browser.


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    if not (program := browser.found()):
        pytest.skip(
            f"needs a browser: none of {', '.join(browser.NAMES)} is on the path (Debian: apt install chromium)"
        )
    with browser.started(program) as started:
        yield started


OVERFLOW = """[...document.body.querySelectorAll("*")].filter(each => !each.closest(".scroll, pre, .skip") &&
    each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 80))"""
BROKEN = "[...document.images].filter(each => !each.complete || !each.naturalWidth).map(each => each.alt)"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, pytest.param(768, marks=pytest.mark.slow), 1280])
def test_in_a_browser_nothing_overflows_no_picture_is_broken_and_the_console_is_silent(
    width: int, dark: bool, chromium: browser.Browser, case: Case
) -> None:
    chromium.open(case.file, width, dark)
    assert chromium.tell("document.documentElement.scrollWidth") <= width
    assert chromium.tell(OVERFLOW) == []
    assert chromium.tell("document.images.length") == len(Parsed(case.file).all("img"))
    assert chromium.tell(BROKEN) == []
    assert chromium.complaints() == []
    assert chromium.requested() == [case.file.as_uri()], "the file and nothing else"
    shot = np.asarray(Image.open(io.BytesIO(chromium.screenshot())).convert("L"), float)
    assert shot.shape[1] == width
    assert (np.median(shot) < 60) == dark, "the ground is dark where that is asked for"
    assert shot.std() > 20, "and there is something on it"


def test_in_a_browser_every_text_stands_out_from_its_ground(chromium: browser.Browser, case: Case) -> None:
    """By 4.5 to 1, WCAG's level AA, in both schemes."""
    script = """(() => { const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)$/.test(c)) return c } return "rgb(255, 255, 255)" };
      return [...document.body.querySelectorAll("*")].filter(e => [...e.childNodes].some(n => n.nodeType == 3 &&
        n.data.trim())).map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) =>
        y - x); return [(a + .05) / (b + .05), e.outerHTML.slice(0, 60)] }).filter(([ratio]) => ratio < 4.5) })()"""
    for dark in (False, True):
        chromium.open(case.file, 1280, dark)
        assert chromium.tell(script) == []


def test_in_a_browser_the_first_key_leads_past_the_navigation_and_focus_is_seen(
    chromium: browser.Browser, case: Case
) -> None:
    chromium.open(case.file, 1280)
    chromium.press("Tab")
    first = chromium.tell("document.activeElement.textContent")
    assert first == "Skip to the ladder"
    assert chromium.tell("document.activeElement.getBoundingClientRect().left") >= 0, "it comes into sight"
    chromium.press("Tab")
    assert chromium.tell("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert chromium.tell("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2


def test_in_a_browser_it_prints_dark_on_white_and_leaves_the_navigation_out(
    chromium: browser.Browser, case: Case
) -> None:
    chromium.open(case.file, 1280, dark=True)
    assert chromium.printed().startswith(b"%PDF")
    chromium.ask("Emulation.setEmulatedMedia", media="print", features=[])
    assert chromium.tell("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert chromium.tell("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    chromium.ask("Emulation.setEmulatedMedia", media="", features=[])
