"""What `explain`, `filters` and `activations` draw: section 5.4 for a saved model and a picture, as files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import keras
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from scipy import special

from convspec import BadInput, models
from convspec.data import batches, decode
from convspec.files import DAMAGED, atomic_write
from convspec.ladder import saved_model
from convspec.visualization import maps as maps_module
from convspec.visualization.maps import (
    channel_tiles,
    class_activation_map,
    dead_share,
    occlusion_map,
    superimpose,
    tile,
)
from convspec.visualization.patterns import filter_patterns
from convspec.visualization.trace import ANY_SIZE, CONVOLUTIONS, Trace, input_shape

SOFTWARE = "convspec"  # in each picture that is written, so that the next one may take its place
IMAGENET = 1000  # classes
MARGIN, COLUMNS = 5, 8  # listing 5.39
WIDTH, TITLE = 960, 24  # pixels: of the picture of all activations, and of the line above each layer


def explain(
    model_file: Path,
    picture: Path,
    output: Path,
    *,
    wanted: str | None = None,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    preprocessing: str | None = None,
    occlusion: bool = False,
    overwrite: bool = False,
    progress: TextIO | None = None,
) -> list[str]:
    """Write the picture with the map of the class `wanted`, a name or a number, on top (listing 5.44); tells the
    classes that the model predicts, and what was written.

    `wanted` None is the class predicted. `classes` None is as the model's file tells, or Keras's ImageNet list where
    that is on this machine, or else numbers. Raises BadInput for whatever cannot be done.
    """
    _refuse_others(output, overwrite)
    saved = saved_model.load(model_file)
    whole, prepared = _prepared(saved, picture, preprocessing)
    layer = Trace(saved.model, prepared).maps(layer)
    shares = _shares(saved.model, prepared)
    names = list(classes or saved.classes or _imagenet(len(shares)) or map(str, range(len(shares))))
    if len(names) != len(shares):
        raise BadInput(f"classes must be {len(shares)} names, as {saved.model.name} has, got {', '.join(names)}")
    chosen = int(shares.argmax()) if wanted is None else _class(wanted, names)
    if occlusion:
        heatmap = occlusion_map(saved.model, prepared, chosen, progress=progress)
        how = "parts of the picture covered"
    else:
        heatmap = class_activation_map(saved.model, prepared, chosen, layer)
        how = f"Grad-CAM of {layer}"
    _write(superimpose(whole, heatmap), output)
    told = [f"{shares[number]:.3f}  {names[number]}" for number in np.argsort(-shares, kind="stable")[:3]]
    if names == [str(number) for number in range(len(shares))]:
        told.insert(0, "classes go by their numbers here: --classes A,B,... names them")
    if not heatmap.any():
        told.append(f"nothing in the picture speaks for {names[chosen]}: the map is 0 everywhere")
    return [*told, f"{output}: what speaks for {names[chosen]}, by {how}"]


def filters(
    source: str,
    layers: Sequence[str],
    folder: Path,
    *,
    weights: str | Path | None = None,
    count: int = 64,
    size: int = 64,
    steps: int = 40,
    seed: int = 0,
    preprocessing: str | None = None,
    overwrite: bool = False,
    progress: TextIO | None = None,
) -> list[str]:
    """Write the patterns of the first `count` filters of each of `layers` (listing 5.39); tells what was written.

    `source` is a model's file or a base of `models.BASES`, with `weights` as `models.conv_base` takes them. Without
    `layers` it is the first convolution at each size of its maps: of VGG16, the first of each block.
    """
    if source in models.BASES:
        saved = saved_model.SavedModel(models.conv_base(source, weights, (None, None, 3)), preprocessing=source)
    else:
        saved = saved_model.load(Path(source).expanduser())
    model, prepare = saved.model, _preparation(preprocessing or saved.preprocessing)
    channels = input_shape(model)[-1]
    low, high = (float(prepare(np.full((1, 1, 1, channels), shade, np.float32)).mean()) for shade in (0, 255))
    trace = _trace_of_grey(model, (low + high) / 2)
    names = list(layers) or _first_of_each_size(trace)
    outputs = [folder / f"{Path(source).stem}-{name.replace(':', '-')}.png" for name in names]
    for output in outputs:
        _refuse_others(output, overwrite)
    told = []
    for name, output in zip(names, outputs, strict=True):
        chosen = range(min(count, trace.output(trace.maps(name)).shape[-1]))
        patterns = filter_patterns(
            model, name, chosen, size, steps, seed=seed, value_range=(low, high), progress=progress
        )
        if channels == 3 and prepare(np.array([[[[255, 0, 0]]]], np.float32)).argmax() == 2:
            patterns = patterns[..., ::-1]  # the model's inputs are BGR
        grid = tile(patterns, COLUMNS, MARGIN)
        _write(grid[..., 0] if grid.shape[-1] == 1 else grid, output)
        told.append(f"{output}: patterns of {len(chosen)} filters of {name}")
    return told


def activations(
    model_file: Path,
    picture: Path,
    output: Path,
    layers: Sequence[str] = (),
    *,
    preprocessing: str | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write every channel of each of `layers`, or of all that have maps, as one picture (listing 5.31); tells each
    layer's share of dead channels.
    """
    _refuse_others(output, overwrite)
    saved = saved_model.load(model_file)
    found = maps_module.activations(saved.model, _prepared(saved, picture, preprocessing)[1])
    found = {name: maps for name, maps in found.items() if maps.ndim == 3}
    if unknown := [name for name in layers if name not in found]:
        raise BadInput(f"{saved.model.name} has no layer {unknown[0]!r} with maps; choose from {', '.join(found)}")
    found = {name: found[name] for name in layers or found}
    if not found:
        raise BadInput(f"{saved.model.name} has no layers with maps")
    dead = dead_share(found)
    titles = [
        f"{name}: {depth} maps of {height} x {width}, {dead[name]:.0%} of them dead"
        for name, (height, width, depth) in ((name, maps.shape) for name, maps in found.items())
    ]
    strips = [_strip(title, channel_tiles(found[name])) for title, name in zip(titles, found, strict=True)]
    _write(np.concatenate(strips), output)
    return [*titles, f"{output}: every channel, 16 a row, dead ones black"]


def _strip(title: str, tiles: np.ndarray) -> np.ndarray:
    """The tiles at WIDTH under a line that says what they are."""
    grid = Image.fromarray(tiles)
    grid = grid.resize((WIDTH, max(round(grid.height * WIDTH / grid.width), 1)), Image.Resampling.NEAREST)
    strip = Image.new("L", (WIDTH, TITLE + grid.height), 255)
    ImageDraw.Draw(strip).text((4, 4), title, fill=0, font=ImageFont.load_default(TITLE - 10))
    strip.paste(grid, (0, TITLE))
    return np.asarray(strip)


def _preparation(name: str | None) -> batches.Prepare:
    known = models.PREPROCESSING | {"rescale": batches.rescale, "none": batches.identity}
    if (name or "rescale") not in known:
        raise BadInput(f"preprocessing must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name or "rescale"]


def _prepared(saved: saved_model.SavedModel, file: Path, preprocessing: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture, uint8, and what the model is shown of it."""
    if not file.is_file():
        raise BadInput(f"no picture {str(file)!r}")
    whole = decode.load_image(file)
    height, width, channels = input_shape(saved.model)
    sides = width or ANY_SIZE, height or ANY_SIZE
    if sides[0] == sides[1]:
        seen = Image.fromarray(decode.load_image(file, sides[0], saved.interpolation or "nearest"))
    else:
        seen = Image.fromarray(whole).resize(sides, Image.Resampling.NEAREST)
    if channels not in (1, 3):
        raise BadInput(f"{saved.model.name} takes {channels} channels, and a picture has 1 or 3")
    array = np.asarray(seen.convert("L") if channels == 1 else seen, np.float32).reshape(1, *sides[::-1], channels)
    return whole, _preparation(preprocessing or saved.preprocessing)(array)[0]


def _shares(model: keras.Model, prepared: np.ndarray) -> np.ndarray:
    """The probability that the model gives each class; of one unit, class 0 has what is left of 1."""
    output = np.asarray(model.predict_on_batch(prepared[None]), np.float64)[0]
    if output.ndim != 1:
        raise BadInput(f"model must end in a score for each class, {model.name} has {output.shape}: add a head")
    if output.min() < 0 or output.max() > 1:  # a model that ends in logits
        output = special.expit(output) if len(output) == 1 else special.softmax(output)
    return np.array([1 - output[0], output[0]]) if len(output) == 1 else output


def _imagenet(classes: int) -> list[str] | None:
    """ImageNet's names in the order of Keras's models, where Keras has left its list on this machine."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    if classes != IMAGENET or not (file := Path(home, "models", "imagenet_class_index.json")).is_file():
        return None
    listed = json.loads(file.read_text())  # {"0": ["n01440764", "tench"], ...}
    return [listed[str(number)][1] for number in range(IMAGENET)]


def _class(wanted: str, names: Sequence[str]) -> int:
    """The position of a class given by name or number."""
    lower = [name.casefold() for name in names]
    if wanted.casefold() in lower:
        return lower.index(wanted.casefold())
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    choices = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise BadInput(f"no class {wanted!r}; choose from {choices}, or a number from 0 to {len(names) - 1}")


def _trace_of_grey(model: keras.Model, grey: float) -> Trace:
    height, width, channels = input_shape(model)
    sides = height or ANY_SIZE, width or ANY_SIZE
    return Trace(model, np.full((*sides, channels), grey, np.float32))


def _first_of_each_size(trace: Trace) -> list[str]:
    first: dict[tuple[int, ...], str] = {}
    for name, call in trace.calls.items():
        if isinstance(call.layer, CONVOLUTIONS) and max(call.output.shape[1:3]) > 1:
            first.setdefault(tuple(call.output.shape[1:3]), name)
    if not first:
        raise BadInput(f"{trace.model.name} has no convolution with maps")
    return list(first.values())


def _refuse_others(output: Path, overwrite: bool) -> None:
    """BadInput for a place where something lies that convspec did not write, unless it is to be overwritten."""
    if output.suffix.lower() != ".png":
        raise BadInput(f"output must be a .png, got {str(output)!r}")
    if output.is_dir() or (output.exists() and not overwrite and not _own(output)):
        raise BadInput(f"{str(output)!r} is there already and not convspec's own: name another, or give --overwrite")


def _own(file: Path) -> bool:
    try:
        with Image.open(file) as picture:
            return picture.info.get("Software") == SOFTWARE
    except DAMAGED:
        return False


def _write(picture: np.ndarray, output: Path) -> None:
    told = PngInfo()
    told.add_text("Software", SOFTWARE)
    with atomic_write(output) as partial:
        Image.fromarray(picture).save(partial, "PNG", pnginfo=told)
