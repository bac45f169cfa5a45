"""The page of a run: one HTML file with its pictures in it, which loads nothing from elsewhere."""

import base64
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import keras
import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
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
from convspec.report import charts, tables
from convspec.report.answer import answer
from convspec.report.claims import claims
from convspec.report.images import flipped_pictures, sample_rows, view_rows
from convspec.report.tables import Runs
from convspec.timings import cost
from convspec.visualization.maps import activations, channel_tiles, class_activation_maps, dead_share, superimpose, tile
from convspec.visualization.patterns import filter_pictures
from convspec.visualization.trace import CONVOLUTIONS, Trace

MISTAKES = 8  # pictures shown that the best model gets wrong
FILTERS, PATTERN = 16, 48  # filters of a layer, and pixels of a side of their patterns
MAX_CLASSES = 20  # in the picture of a confusion matrix
MAX_CONFUSIONS = 10  # in a list
DEAD_ON = 8  # test pictures that dead channels are counted on
MAX_CHANNELS = 128  # of a layer, 16 in a row
MAX_WIDTH = 1200  # pixels, of any picture in the file
MIN_WIDTH = 192  # pixels, of a picture on its own: smaller ones are enlarged, pixel by pixel
SLOW = "wrong", "activations", "filters"  # parts that take some 5 seconds at mini, minutes at full without a GPU

Load = Callable[[Recipe], Dataset]


class Picture(NamedTuple):
    """An image of the page: data URI, description in words, size in pixels."""

    src: str
    alt: str
    width: int
    height: int
    caption: str = ""
    plot: bool = False  # lines on a transparent ground, which the page inverts in its dark scheme


class _BestModel(NamedTuple):
    run: Result
    model: keras.Model
    dataset: Dataset
    prepare: Callable[[np.ndarray], np.ndarray]
    convolutions: list[str]
    shown: dict[str, int]  # the first convolution at each size of maps, and its number of channels


def write(
    path: Path,
    runs: Runs,
    judgements: Sequence[Judgement],
    metadata: Mapping[str, Any],
    dataset: Load,
    model: Callable[[Result], Path],
    progress: TextIO | None = None,
) -> list[str]:
    """Write the page of a session; the reason stands in the place of what cannot be drawn.

    Args:
        path: File to write.
        runs: Runs by rung, in the ladder's order.
        judgements: What the gate says of them.
        metadata: What the record has beside the runs, such as "outcome", "failures" and "unfinished"; see
            `plugin.summary.write_report`.
        dataset: Returns the pictures of a recipe.
        model: Returns the file of a run's trained model.
        progress: Stream for a progress bar.

    Returns:
        The parts that could not be drawn and why, one a line.
    """
    best = cache(lambda: _load_best(runs, dataset, model))
    means = ", ".join(f"{rung} {tables.summary(group)['test_accuracy']:.3f}" for rung, group in runs.items())
    draw: dict[str, Callable[[], Any]] = {
        "chart": lambda: _plot(charts.chart(runs, width=6), f"Chart of the test accuracy of each rung: {means}."),
        "claims": lambda: claims(runs) if any(tables.published(group[0]) for group in runs.values()) else None,
        "worth": lambda: {rung: _worth(rung, group) for rung, group in runs.items()},
        "curves": lambda: {rung: _curves(rung, group) for rung, group in runs.items() if group[0].recipe.epochs > 1},
        "samples": lambda: _samples(runs, dataset),
        "views": lambda: _views(runs, dataset),
        "wrong": lambda: _mistakes(best()),
        "activations": lambda: _activations(best()),
        "filters": lambda: _filters(best()),
        "flipped": lambda: _flipped(runs, judgements, dataset),
        "costs": lambda: _costs(metadata),
    }
    parts: dict[str, Any] = dict.fromkeys(draw)
    absent, undrawn = {}, []
    with bar(len(draw), "report", "part", progress) as shown:
        for part, function in draw.items() if runs else ():
            try:
                if part in SLOW and metadata["outcome"] == "interrupted":
                    absent[part] = "This part is left out, so that a run that is interrupted ends soon."
                else:
                    parts[part] = function()
            except Exception as error:  # of whatever kind: the other parts are worth having
                undrawn.append(f"{part} could not be drawn: {type(error).__name__}: {error}")
                absent[part] = f"The part {undrawn[-1]}"
            shown.update()
    beside = {"absent": absent, "claims_page": path.with_name("claims.html").exists()}
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    facts = dict(metadata) | parts | _facts(runs, judgements, metadata) | beside
    text = pages.get_template("page.html").render(facts)
    with atomic_write(path) as partial:
        # A file's name need not be Unicode: what isn't is written as Python escapes it.
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
    return undrawn


def _facts(runs: Runs, judgements: Sequence[Judgement], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the page's figures that need no drawing."""
    results = [run for group in runs.values() for run in group]
    machines = [
        {name.replace("_", " "): _format_fact(fact) for name, fact in run.machine.items() if name != "load_average"}
        for run in results
    ]
    gates = [judgement.lines[0] for judgement in judgements]
    advice = metadata["recommendation"]
    return {
        "answer": answer(runs, judgements, advice["lines"][0] if advice else ""),
        "command": shlex.join(metadata["command"]),
        "of_gates": [failure for failure in metadata["failures"] if any(line in failure["why"] for line in gates)],
        "ladder": {rung: tables.summary(group) | _facts_of_rung(group) for rung, group in runs.items()},
        "datasets": ", ".join(tables.by_dataset(runs)),
        "several": len(tables.by_dataset(runs)) > 1,
        "skipped": tables.skipped(runs),
        "verdicts": {judgement.name: judgement for judgement in judgements},
        "best": _best_run(runs) if runs else None,
        "phases": list(dict.fromkeys(phase for run in results for phase in run.seconds)),
        "machines": [facts for place, facts in enumerate(machines) if facts not in machines[:place]],
        "seeds": len(results),
    }


def _facts_of_rung(runs: Sequence[Result]) -> dict[str, Any]:
    return {
        "published": tables.format_published(runs[0]),
        "listings": runs[0].recipe.listings,
        "pictures": runs[0].dataset["name"],
        "phases": {phase: np.median([run.seconds.get(phase, 0.0) for run in runs]) for phase in runs[0].seconds},
    }


def _format_fact(fact: Any) -> str:
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {_format_fact(value)}" for name, value in fact.items())
    if isinstance(fact, list | tuple):
        return "; ".join(map(_format_fact, fact)) or "none"
    return str(fact)


def _best_run(runs: Runs) -> Result:
    """Return the best run of the rung with the highest mean test accuracy."""
    return max(runs[tables.best_rung(runs)], key=lambda run: run.test_accuracy)


def _worth(rung: str, runs: Sequence[Result]) -> dict[str, Any]:
    """Return the measures of a rung, its largest confusions in words, and pictures of both up to 20 classes."""
    measured = tables.measures(runs)
    pictures = dict(zip(measured.classes, measured.confusion.sum(axis=1), strict=True))
    alt = f"Confusion matrix of {rung}, the true classes in rows and the answers in columns."
    caption = "Test pictures by true class (rows) and answer (columns), mean over the seeds."
    small = len(measured.classes) <= MAX_CLASSES
    reliability = f"Reliability of {rung}: accuracy by confidence, and the share of the answers with each confidence."
    below = "Above the dotted line the model is right more often than its confidence says, below it less often."
    return {
        "measured": measured,
        "confusion": _plot(charts.confusion(measured), alt, caption) if small else None,
        "reliability": _plot(charts.reliability(measured), reliability, below),
        "mistakes": [
            f"{name} taken for {answer}: {charts.count_of(count)} of {pictures[name]:,.0f} test pictures"
            for name, answer, count in measured.confusions[:MAX_CONFUSIONS]
        ],
    }


def _curves(rung: str, runs: Sequence[Result]) -> list[Picture]:
    """Draw the curves of accuracy and loss, captioned with the last and the best epoch."""
    curves = []
    seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    for metric in ("accuracy", "loss"):
        texts = []
        for part, values in charts.values_by_part(runs, metric).items():
            means = values.mean(axis=0)
            best = np.nan_to_num(means if metric == "accuracy" else -means, nan=-np.inf).argmax()
            texts.append(f"{part} ends at {means[-1]:.3f} and is best, {means[best]:.3f}, in epoch {best + 1}")
        caption = f"{metric.capitalize()} over {values.shape[1]} epochs: {'; '.join(texts)}."
        curves.append(_plot(charts.curve(runs, metric), f"Curves of the {metric} of {rung}, {seeds}.", caption))
    return curves


def _samples(runs: Runs, dataset: Load) -> dict[str, list[Picture]]:
    """Return a row of pictures for each class, by dataset."""
    samples = {}
    for data in {id(each): each for each in (dataset(group[0].recipe) for group in runs.values())}.values():
        rows = sample_rows(data)
        some = f": {len(rows)} of {len(data.classes)} classes" if len(rows) < len(data.classes) else ""
        samples[f"{data.name}, {data.train.images.shape[1]} pixels wide{some}"] = [
            _row(row, f"Training pictures of the class {name}", title)
            for name, (title, row) in zip(data.classes, rows, strict=False)
        ]
    return samples


def _views(runs: Runs, dataset: Load) -> dict[str, list[Picture]]:
    """Return a row of augmented views for each class, by dataset."""
    views: dict[str, list[Picture]] = {}
    for rung, group in runs.items():
        recipe = group[0].recipe
        if recipe.augmentation and (name := dataset(recipe).name) not in views:
            alt = f"A training picture and what {rung} sees of it"
            rows = view_rows(dataset(recipe), recipe.augmentation)
            views[name] = [_row(row, f"{alt}: {title}", title) for title, row in rows]
    return views


def _load_best(runs: Runs, dataset: Load, model: Callable[[Result], Path]) -> _BestModel:
    run = _best_run(runs)
    data, file = dataset(run.recipe), model(run)
    if list(data.test.names) != run.test_names:
        raise BadInput(f"{data.name}: its test pictures are not those that {run.recipe.name} was tested with")
    network = saved_model.load(file).model
    prepare = preparation(run.recipe, data)
    trace = Trace(network, prepare(data.test.images[0]))
    convolutions = [name for name, layer in trace.layers.items() if isinstance(layer, CONVOLUTIONS)]
    shown = {name: trace.outputs[name].shape[-1] for name in trace.first_convolutions()}
    return _BestModel(run, network, data, prepare, convolutions, shown)


def _mistakes(best: _BestModel) -> dict[str, Any]:
    """Return the test pictures that the model was most confident of and wrong, each beside its heatmap."""
    run, test, classes = best.run, best.dataset.test, best.dataset.classes
    places = [place for place, label in enumerate(run.test_labels) if run.predicted[place] != label]
    places.sort(key=lambda place: -run.confidence[place])
    top, pictures, heatmaps = places[:MISTAKES], [], None
    if best.shown and top:
        given = [run.predicted[place] for place in top]
        heatmaps = class_activation_maps(best.model, best.prepare(test.images[top]), given)
    for number, place in enumerate(top):
        label, answer = classes[run.test_labels[place]], classes[run.predicted[place]]
        sides, evidence = [_enlarge(test.images[place], MIN_WIDTH)], ""
        if heatmaps is not None:
            sides.append(superimpose(sides[0], heatmaps[number]))
            sides[0] = np.broadcast_to(sides[0], sides[1].shape)
            evidence = f"; {'right, in red what' if heatmaps[number].any() else 'nothing'} spoke for {answer}"
        caption = f"{test.names[place]}: {label}, taken for {answer} with a confidence of {run.confidence[place]:.2f}"
        alt = f"The test picture {test.names[place]}{evidence}"
        pictures.append(_photo(tile(sides, len(sides), 4, fill=128), alt, caption))
    return {"pictures": pictures, "count": len(places), "of": len(run.test_labels)}


def _activations(best: _BestModel) -> dict[str, Any]:
    """Return the channels of some layers for one picture, and the share of dead channels over several pictures."""
    if not best.shown:
        return {}
    test, layers = best.dataset.test, []
    outputs = [activations(best.model, best.prepare(picture)) for picture in test.images[:DEAD_ON]]
    for name, channels in best.shown.items():
        maps = outputs[0][name][..., :MAX_CHANNELS]
        count = f"{channels} channels" if channels == maps.shape[-1] else f"{maps.shape[-1]} of {channels} channels"
        size = f"{maps.shape[0]} x {maps.shape[1]}"
        alt = f"Activations of {name} for the picture: {count} of {size}, side by side; black ones are dead"
        layers.append(_photo(_enlarge(channel_tiles(maps), 16 * 48), alt, f"{name}: {count} of {size}"))
    dead = [dead_share(maps) for maps in outputs]
    shares = {name: float(np.mean([each[name] for each in dead])) for name in best.convolutions}
    texts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return {
        "picture": _photo(_enlarge(test.images[0], MIN_WIDTH), f"The test picture {test.names[0]}", test.names[0]),
        "layers": layers,
        "dead": _plot(charts.dead_by_depth(shares), f"Share of dead channels by layer, the first at the top: {texts}."),
        "pictures": len(outputs),
    }


def _filters(best: _BestModel) -> list[Picture]:
    """Return what the first filters of some layers respond to most."""
    layers = []
    for name, channels in best.shown.items():
        count = min(FILTERS, channels)
        grid = tile(filter_pictures(best.model, best.prepare, name, range(count), PATTERN), 8, 4, fill=128)
        alt = f"The patterns that the first {count} filters of {name} respond to most, side by side"
        layers.append(_photo(_enlarge(grid, 16 * 48), alt, name))
    return layers


def _flipped(runs: Runs, judgements: Sequence[Judgement], dataset: Load) -> dict[str, list[Picture]]:
    """Return the test pictures that flipped most consistently, by rung whose judgement names them."""
    flipped = {}
    for judgement in judgements:
        if judgement.name in runs and judgement.names_flips:
            flipped[judgement.name] = [
                _photo(_enlarge(picture, MIN_WIDTH), f"A test picture that flipped: {title}", title)
                for title, picture in flipped_pictures(dataset(runs[judgement.name][0].recipe), judgement)
            ]
    return flipped


def _costs(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the table of what whole rungs cost, and its picture; None where none was timed."""
    costs, (epochs, pictures) = metadata["costs"], cost.WHOLE[metadata["scale"]]
    if not costs:
        return None
    alt = f"Seconds of {', '.join(each.rung for each in costs)} over 1 to {epochs} epochs on {pictures:,} pictures."
    chart = _plot(cost.chart(costs, epochs, pictures), alt, "Lines are fitted, dots measured.")
    return {"table": cost.table(costs, epochs, pictures), "chart": chart}


def _row(pictures: list[np.ndarray], alt: str, caption: str) -> Picture:
    return _photo(tile([_enlarge(picture, 96) for picture in pictures], len(pictures), 4, fill=128), alt, caption)


def _enlarge(picture: np.ndarray, width: int) -> np.ndarray:
    """Return the picture at least `width` pixels wide, each pixel a square of pixels."""
    times = -(-width // picture.shape[1])
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _photo(picture: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Return a picture as WebP, a tenth of a PNG's size."""
    image, file = Image.fromarray(picture.squeeze()), io.BytesIO()
    image.thumbnail((MAX_WIDTH, image.height))
    image.save(file, "WEBP", quality=85)
    return Picture(_data_uri("webp", file), alt, *image.size, caption)


def _plot(figure: Figure, alt: str, caption: str = "") -> Picture:
    """Return a figure as SVG, sharp at any size, on a transparent ground."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "convspec"}):  # the same figure, the same file
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(_data_uri("svg+xml", file), alt, width, height, caption, plot=True)


def _data_uri(kind: str, file: io.BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
