"""The report of a run: one HTML file with its pictures in it, which opens offline and loads nothing from elsewhere."""

import base64
import io
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import cv2
import keras
import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from convspec import BadInput
from convspec.accuracy.judgement import Judgement
from convspec.data.datasets import Dataset
from convspec.files import atomic_write
from convspec.ladder import saved_model
from convspec.ladder.recipe import Recipe
from convspec.ladder.result import Result
from convspec.ladder.run import preparation
from convspec.progress import bar
from convspec.report import charts, claims, tables
from convspec.report.images import flipped_pictures, sample_rows, view_rows
from convspec.report.tables import Runs
from convspec.visualization.maps import activations, channel_tiles, class_activation_maps, dead_share, superimpose, tile
from convspec.visualization.patterns import filter_patterns
from convspec.visualization.trace import CONVOLUTIONS, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WRONG = 8  # pictures that the best model gets wrong
FILTERS, PATTERN = 16, 48  # filters of a layer, and pixels of a side of their patterns
LOOKED_AT = 8  # test pictures that dead channels are counted on
ROWS = 8  # of 16 channels, of a layer's tiled picture
WIDEST = 1200  # pixels, of any picture in the file
SMALLEST = 192  # pixels of a picture's width: smaller ones are enlarged, pixel by pixel
PARTS = ("chart", "claims", "curves", "samples", "views", "wrong", "activations", "filters", "flipped")
SLOW = ("wrong", "activations", "filters")  # some 5 seconds at mini, minutes at full without a GPU


class Picture(NamedTuple):
    """A picture as it lies in the page: a data URI, what it shows in words, its size in pixels."""

    src: str
    alt: str
    width: int
    height: int
    caption: str = ""
    plot: bool = False  # lines on nothing, which the page may show in other colours


class _Seen(NamedTuple):
    """The best model, and what it takes to look into it."""

    run: Result
    model: keras.Model
    dataset: Dataset
    prepare: Callable[[np.ndarray], np.ndarray]
    convolutions: list[str]
    layers: dict[str, int]  # the first convolution at each size of maps, and how many channels it has


def write(
    path: Path,
    runs: Runs,
    judgements: Sequence[Judgement],
    told: Mapping[str, Any],
    dataset: Callable[[Recipe], Dataset],
    model: Callable[[Result], Path],
    progress: TextIO | None = None,
) -> list[str]:
    """Write the page of the runs, by rung and in the ladder's order, and of what a session has `told` of itself.

    `told` holds what the record has beside the runs: "outcome" ("complete", "failed" or "interrupted"), "failures" (a
    "test" and "why" for each), "unfinished" (the seeds that are finished of each rung that is not), "command" (a list
    of words), "scale", "repeats" (the outcome by rung) and "written" (when). `dataset` gives the pictures of a recipe,
    `model` the file of a trained model.
    A part that cannot be drawn is left out, and the page says why in its place; returns those reasons, one a line.
    """
    absent: dict[str, str] = {}
    undrawn: list[str] = []
    found: dict[str, Any] = dict.fromkeys(PARTS)
    look = cache(lambda: _look(runs, dataset, model))
    draw: dict[str, Callable[[], Any]] = {
        "chart": lambda: _chart(runs),
        "claims": lambda: (
            claims.claim_rows(runs) if any(tables.published(g[0]) != "-" for g in runs.values()) else None
        ),
        "curves": lambda: {rung: _curves(rung, group) for rung, group in runs.items()},
        "samples": lambda: _samples(runs, dataset),
        "views": lambda: _views(runs, dataset),
        "wrong": lambda: _wrong(look()),
        "activations": lambda: _activations(look()),
        "filters": lambda: _filters(look()),
        "flipped": lambda: _flipped(judgements, runs, dataset),
    }
    with bar(len(PARTS), "report", "part", progress) as shown:
        for part in PARTS if runs else ():
            try:
                if part in SLOW and told["outcome"] == "interrupted":
                    absent[part] = "This part is left out, so that a run that is interrupted ends soon."
                else:
                    found[part] = draw[part]()
            except Exception as error:  # of whatever kind: the page says so, and has the other parts all the same
                undrawn.append(f"{part} could not be drawn: {type(error).__name__}: {error}")
                absent[part] = f"The part {undrawn[-1]}"
            shown.update()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html").render(
        told,
        **found,
        absent=absent,
        command=shlex.join(told["command"]),
        datasets=", ".join(dict.fromkeys(group[0].dataset["name"] for group in runs.values())),
        ladder={rung: _rung(group) for rung, group in runs.items()},
        skipped=tables.skipped(runs),
        verdicts={judgement.name: judgement for judgement in judgements},
        best=_best(runs) if runs else None,
        phases=_phases(runs),
        timings={rung: _timing(group) for rung, group in runs.items()},
        machines=_machines(runs),
        seeds=sum(map(len, runs.values())),
    )
    with atomic_write(path) as partial:
        # Names of files need not be Unicode; what is not is shown as Python writes it.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
    return undrawn


def _rung(runs: Sequence[Result]) -> dict[str, Any]:
    return tables.summary(runs) | {"published": tables.published(runs[0]), "listings": runs[0].recipe.listings}


def _phases(runs: Runs) -> list[str]:
    return list(dict.fromkeys(phase for group in runs.values() for run in group for phase in run.seconds))


def _timing(runs: Sequence[Result]) -> dict[str, float]:
    """Median seconds by phase."""
    return {phase: float(np.median([run.seconds.get(phase, 0.0) for run in runs])) for phase in runs[0].seconds}


def _machines(runs: Runs) -> list[dict[str, str]]:
    """The facts about each machine that runs were made on, but for its load, which is never the same."""
    found: list[dict[str, str]] = []
    for run in (run for group in runs.values() for run in group):
        facts = {name.replace("_", " "): _words(fact) for name, fact in run.machine.items() if name != "load_average"}
        if facts not in found:
            found.append(facts)
    return found


def _words(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {_words(value)}" for name, value in fact.items())
    if isinstance(fact, list | tuple):
        return "; ".join(map(_words, fact)) or "none"
    return str(fact)


def _best(runs: Runs) -> Result:
    """Of the rung that gets most test pictures right in the mean, the run that gets most right."""
    group = max(runs.values(), key=lambda group: float(np.mean([run.test_accuracy for run in group])))
    return max(group, key=lambda run: run.test_accuracy)


def _chart(runs: Runs) -> Picture:
    said = [f"{rung} {tables.summary(group)['test_accuracy']:.3f}" for rung, group in runs.items()]
    return _plot(charts.chart(runs, width=6), f"Chart of the test accuracy of each rung: {', '.join(said)}.")


def _curves(rung: str, runs: Sequence[Result]) -> list[Picture]:
    found = []
    for metric in ("accuracy", "loss"):
        said = []
        for part, values in charts.values_by_part(runs, metric).items():
            means = values.mean(axis=0)
            best = means.argmax() if metric == "accuracy" else means.argmin()
            said.append(f"{part} ends at {means[-1]:.3f} and is best, {means[best]:.3f}, in epoch {best + 1}")
        caption = f"{metric.capitalize()} over {values.shape[1]} epochs: {'; '.join(said)}."
        seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
        found.append(_plot(charts.curve(runs, metric), f"Curves of the {metric} of {rung}, {seeds}.", caption))
    return found


def _samples(runs: Runs, dataset: Callable[[Recipe], Dataset]) -> dict[str, list[Picture]]:
    """Of each dataset, a row of pictures for each class."""
    found = {}
    for pictures in {id(each): each for each in (dataset(group[0].recipe) for group in runs.values())}.values():
        rows = zip(*sample_rows(pictures), pictures.classes, strict=False)
        shown = [_row(row, f"Training pictures of the class {name}", title) for row, title, name in rows]
        found[f"{pictures.name}, {pictures.train.images.shape[1]} pixels wide"] = shown
    return found


def _views(runs: Runs, dataset: Callable[[Recipe], Dataset]) -> dict[str, list[Picture]]:
    """Of each dataset that a rung augments, a row of views for each class."""
    found = {}
    for rung, group in runs.items():
        recipe = group[0].recipe
        if recipe.augmentation and (name := dataset(recipe).name) not in found:
            rows = zip(*view_rows(dataset(recipe), recipe.augmentation), strict=True)
            alt = f"A training picture and what {rung} sees of it"
            found[name] = [_row(row, f"{alt}: {title}", title) for row, title in rows]
    return found


def _row(pictures: list[np.ndarray], alt: str, caption: str) -> Picture:
    return _photo(tile([_enlarged(p, 96) for p in pictures], len(pictures), 4, fill=128), alt, caption)


def _look(runs: Runs, dataset: Callable[[Recipe], Dataset], model: Callable[[Result], Path]) -> _Seen:
    best = _best(runs)
    pictures, file = dataset(best.recipe), model(best)
    if list(pictures.test.names) != best.test_names:
        raise BadInput(f"{pictures.name}: its test pictures are not those that {best.recipe.name} was tested with")
    loaded = saved_model.load(file).model
    prepare = preparation(best.recipe, pictures)
    calls = Trace(loaded, prepare(pictures.test.images[0])).calls
    shapes = {name: call.output.shape[1:] for name, call in calls.items() if isinstance(call.layer, CONVOLUTIONS)}
    first: dict[tuple[int, ...], str] = {}
    for name, shape in shapes.items():
        first.setdefault(tuple(shape[:2]), name)
    return _Seen(best, loaded, pictures, prepare, list(shapes), {name: shapes[name][-1] for name in first.values()})


def _wrong(seen: _Seen) -> dict[str, Any]:
    """The test pictures that the model was most sure of and wrong, each beside its heatmap."""
    run, test = seen.run, seen.dataset.test
    places = [place for place, label in enumerate(run.test_labels) if run.predicted[place] != label]
    places.sort(key=lambda place: -run.confidence[place])
    shown = []
    heatmaps = np.empty(0)
    if seen.layers and places:
        images, classes = seen.prepare(test.images[places[:WRONG]]), [run.predicted[place] for place in places[:WRONG]]
        heatmaps = class_activation_maps(seen.model, images, classes)
    for number, place in enumerate(places[:WRONG]):
        label, said = (seen.dataset.classes[index] for index in (run.test_labels[place], run.predicted[place]))
        sides, speaks = [_enlarged(test.images[place], SMALLEST)], ""
        if len(heatmaps):
            sides.append(superimpose(sides[0], heatmaps[number]))
            speaks = f"; {'right, in red what' if heatmaps[number].any() else 'nothing'} spoke for {said}"
            sides[0] = np.broadcast_to(sides[0], sides[1].shape)
        caption = f"{test.names[place]}: {label}, taken for {said} with a confidence of {run.confidence[place]:.2f}"
        alt = f"The test picture {test.names[place]}{speaks}"
        shown.append(_photo(tile(sides, len(sides), 4, fill=128), alt, caption))
    confused = Counter(
        (seen.dataset.classes[run.test_labels[p]], seen.dataset.classes[run.predicted[p]]) for p in places
    )
    return {"pictures": shown, "count": len(places), "of": len(run.test_labels), "confused": confused.most_common(5)}


def _activations(seen: _Seen) -> dict[str, Any]:
    """Every channel of some layers for one picture, and the share of dead channels in all, over several pictures."""
    if not seen.layers:
        return {"layers": []}
    test = seen.dataset.test
    outputs = [activations(seen.model, seen.prepare(image)) for image in test.images[:LOOKED_AT]]
    shown = []
    for name, channels in seen.layers.items():
        maps = outputs[0][name][..., : 16 * ROWS]
        tiles = channel_tiles(maps)
        some = f"{channels} channels" if channels == maps.shape[-1] else f"{maps.shape[-1]} of {channels} channels"
        size = f"{maps.shape[0]} x {maps.shape[1]}"
        alt = f"What {name} makes of the picture: {some} of {size}, side by side; black ones are dead"
        shown.append(_photo(_enlarged(tiles, 16 * 48), alt, f"{name}: {some} of {size}"))
    dead = [dead_share({name: each[name] for name in seen.convolutions}) for each in outputs]
    shares = {name: float(np.mean([each[name] for each in dead])) for name in dead[0]}
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return {
        "picture": _photo(_enlarged(test.images[0], SMALLEST), f"The test picture {test.names[0]}", test.names[0]),
        "layers": shown,
        "dead": _plot(charts.dead_by_depth(shares), f"Share of dead channels by layer, the first at the top: {said}."),
        "pictures": len(outputs),
    }


def _filters(seen: _Seen) -> dict[str, Any]:
    """What the first filters of some layers respond to most."""
    if not seen.layers:
        return {"layers": []}
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], np.uint8)[:, None, None]
    black, white, red = np.asarray(seen.prepare(colours[..., : seen.dataset.test.images.shape[-1]]))
    blue_first = red[..., 0] == black[..., 0]  # what some bases were trained with, and no picture is
    shown = []
    for name, channels in seen.layers.items():
        count = min(FILTERS, channels)
        patterns = filter_patterns(
            seen.model, name, range(count), PATTERN, value_range=(float(black.min()), float(white.max()))
        )
        grid = tile(patterns[..., ::-1] if blue_first else patterns, 8, 4, fill=128)
        alt = f"The patterns that the first {count} filters of {name} respond to most, side by side"
        shown.append(_photo(grid, alt, name))
    return {"layers": shown}


def _flipped(
    judgements: Sequence[Judgement], runs: Runs, dataset: Callable[[Recipe], Dataset]
) -> dict[str, list[Picture]]:
    """Of each rung with more flips than chance has, the test pictures that flipped most consistently."""
    found = {}
    for judgement in judgements:
        if judgement.name in runs and judgement.flips and judgement.flips.outcome == "change":
            pictures, titles = flipped_pictures(dataset(runs[judgement.name][0].recipe), judgement)
            found[judgement.name] = [
                _photo(_enlarged(picture, SMALLEST), f"A test picture that flipped: {title}", title)
                for picture, title in zip(pictures, titles, strict=True)
            ]
    return found


def _enlarged(picture: np.ndarray, width: int) -> np.ndarray:
    """Each pixel as a square of pixels, so that the picture is at least that wide."""
    times = -(-width // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _photo(picture: np.ndarray, alt: str, caption: str = "") -> Picture:
    """As WebP, which takes a tenth of a PNG."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        height, width = round(height * WIDEST / width), WIDEST
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "WEBP", quality=85)
    return Picture(_uri("image/webp", file.getvalue()), alt, width, height, caption)


def _plot(figure: "Figure", alt: str, caption: str = "") -> Picture:
    """As SVG, which is sharp at any size, on a transparent ground."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "convspec"}):  # the same figure, the same file
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(_uri("image/svg+xml", file.getvalue()), alt, width, height, caption, plot=True)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
