"""A whole run at mini with its page, and the parts of a page that tests read."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from builders import result_with_history
from PIL import Image

from convspec import models, training
from convspec.data.datasets import Dataset, Split
from convspec.ladder.result import Result
from convspec.ladder.rungs import RUNGS
from convspec.report import html as html_module
from convspec.timings.cost import Cost, Point

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
    "recommendation": None,
    "reading": [],
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


def write_whole_run(folder: Path, shapes: Dataset) -> Case:
    """Write the page of seven rungs of five seeds, on pictures and classes with hostile names.

    The best model has an untrained head.
    """
    test = shapes.test
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
    dataset = replace(shapes, name='holiday"><b>', classes=CLASSES, test=split, validation=None)
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
