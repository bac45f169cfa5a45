"""`convspec explain`: map what in a picture speaks for a class, to a saved model (listing 5.44)."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convspec import BadInput
from convspec.cli.arguments import add_drawing, add_picture, find_output

HELP = "show what in a picture speaks for a class, to a saved model"
DESCRIPTION = "Write PICTURE with the model's class activation map on top, and say what the model predicts."
IMAGENET = 1000  # classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture(parser, "explain")
    add_drawing(parser)
    parser.add_argument("--class", dest="wanted", metavar="CLASS", help="a name or number (default: the one predicted)")
    parser.add_argument(
        "--classes", metavar="A,B,...",
        help="the classes' names in order (default: as the model's file tells; for 1000 classes ImageNet's, if Keras"
        " has its list on this machine; else numbers)",
    )  # fmt: skip
    parser.add_argument("--layer", metavar="LAYER", help="whose maps (default: the last convolution's)")
    parser.add_argument("--occlusion", action="store_true", help="cover parts of the picture instead, the slow check")


def run(options: argparse.Namespace) -> int:
    """Write the picture with the map on top, and print the three likeliest classes; return 0."""
    from convspec.cli import pictures
    from convspec.ladder.saved_model import find_probabilities
    from convspec.visualization.maps import class_activation_map, occlusion_map, superimpose
    from convspec.visualization.trace import Trace

    model, classes, picture, inputs = pictures.load(options)
    layer = Trace(model, inputs).find_maps(options.layer)
    probabilities = find_probabilities(model, inputs)
    numbers = [str(number) for number in range(len(probabilities))]
    classes = options.classes.split(",") if options.classes else classes
    names = list(classes or _imagenet(len(numbers)) or numbers)
    if len(names) != len(numbers):
        raise BadInput(f"classes must be {len(numbers)} names, as {model.name} has, got {', '.join(names)}")
    index = int(probabilities.argmax()) if options.wanted is None else _class_index(options.wanted, names)
    if options.occlusion:
        method = "parts of the picture covered"
        heatmap = occlusion_map(model, inputs, index, progress=sys.stderr)
    else:
        method = f"Grad-CAM of {layer}"
        heatmap = class_activation_map(model, inputs, index, layer)
    pictures.write(superimpose(picture, heatmap), find_output(options))
    if names == numbers:
        print("classes go by their numbers here: --classes A,B,... names them")
    for number in (-probabilities).argsort(kind="stable")[:3]:
        print(f"{probabilities[number]:.3f}  {names[number]}")
    if not heatmap.any():
        print(f"nothing in the picture speaks for {names[index]}: the map is 0 everywhere")
    print(f"{find_output(options)}: what speaks for {names[index]}, by {method}")
    return 0


def _imagenet(classes: int) -> list[str] | None:
    """Return ImageNet's names for 1000 classes, in the order of Keras's models, if Keras has its list here."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    if classes != IMAGENET or not (file := Path(home, "models", "imagenet_class_index.json")).is_file():
        return None
    entries = json.loads(file.read_text())  # {"0": ["n01440764", "tench"], ...}
    return [entries[str(number)][1] for number in range(IMAGENET)]


def _class_index(wanted: str, names: Sequence[str]) -> int:
    """Return the index of a class given by name, in upper or lower case, or by number."""
    lower = [name.casefold() for name in names]
    if wanted.casefold() in lower:
        return lower.index(wanted.casefold())
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    choices = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise BadInput(f"no class {wanted!r}; choose from {choices}, or a number from 0 to {len(names) - 1}")
