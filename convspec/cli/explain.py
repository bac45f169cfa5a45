"""`convspec explain`: map what in a picture speaks for a class, to a model (listings 5.40 to 5.44)."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convspec import BadInput
from convspec.cli.arguments import add_drawing, add_picture, find_output
from convspec.files import DAMAGED

HELP = "show what in a picture speaks for a class, to a model or to a base with its classifier, such as VGG16"
DESCRIPTION = "Write PICTURE with the model's class activation map on top, and say what the model predicts."
IMAGENET = 1000  # classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_picture(parser, "explain")
    add_drawing(parser)
    parser.add_argument(
        "--class", dest="wanted", metavar="CLASS",
        help="the class's name or number, or the WordNet id of one of ImageNet's (default: the predicted class)",
    )  # fmt: skip
    parser.add_argument(
        "--classes", metavar="A,B,...",
        help="the classes' names in order (default: those in the model's file; for 1000 classes ImageNet's, if Keras"
        " has its list on this machine; else numbers)",
    )  # fmt: skip
    parser.add_argument(
        "--layer", metavar="LAYER", help="the layer whose maps are weighed (default: the last convolution)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--probability", dest="of", action="store_const", const="probability", default="score",
        help="take the gradient of the class's probability (listing 5.42), not of its score before the softmax",
    )  # fmt: skip
    how.add_argument(
        "--occlusion", action="store_true", help="cover parts of the picture instead: a slow check of Grad-CAM"
    )


def run(options: argparse.Namespace) -> int:
    """Write the picture with the map on top, and print the three likeliest classes; return 0."""
    from convspec.cli import pictures
    from convspec.ladder.saved_model import find_probabilities
    from convspec.visualization.maps import class_activation_map, occlusion_map, superimpose
    from convspec.visualization.trace import Trace

    (model, classes, *_), picture, inputs = pictures.load(options, include_top=True)
    if options.occlusion and options.layer:
        raise BadInput("--layer is Grad-CAM's; leave it out with --occlusion")
    probabilities = find_probabilities(model, inputs)
    numbers = [str(number) for number in range(len(probabilities))]
    classes = tuple(map(str.strip, options.classes.split(","))) if options.classes else classes
    entries = {} if classes else _imagenet(len(numbers))
    names = list(classes or entries.values() or numbers)
    if len(names) != len(numbers):
        raise BadInput(f"classes must be {len(numbers)} names, as {model.name} has, got {', '.join(names)}")
    ids = list(entries)
    index = int(probabilities.argmax()) if options.wanted is None else _class_index(options.wanted, names, ids)
    if options.occlusion:
        method = "parts of the picture covered"
        heatmap = occlusion_map(model, inputs, index, progress=sys.stderr)
    else:
        layer = Trace(model, inputs).find_maps(options.layer)
        method = f"Grad-CAM of {layer}" + (", of the probability" if options.of == "probability" else "")
        heatmap = class_activation_map(model, inputs, index, layer, options.of)
    pictures.write(superimpose(picture, heatmap), find_output(options))
    if not classes and not entries:
        print("classes go by their numbers here: --classes A,B,... names them")
    for number in (-probabilities).argsort(kind="stable")[:3]:
        print(f"{probabilities[number]:.3f}  {names[number]}" + (f" ({ids[number]}, {number})" if ids else ""))
    if not heatmap.any():
        print(f"nothing in the picture speaks for {names[index]}: the map is 0 everywhere")
    print(f"{find_output(options)}: what speaks for {names[index]}, by {method}")
    return 0


def _imagenet(classes: int) -> dict[str, str]:
    """Return ImageNet's names by WordNet id, in the order of Keras's models, if Keras has its list here."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    if classes != IMAGENET or not (file := Path(home, "models", "imagenet_class_index.json")).is_file():
        return {}
    try:
        entries = json.loads(file.read_bytes())  # {"0": ["n01440764", "tench"], ...}
        return dict(entries[str(number)] for number in range(IMAGENET))
    except DAMAGED as error:
        raise BadInput(f"{str(file)!r} is damaged: remove it, and Keras fetches it again") from error


def _class_index(wanted: str, names: Sequence[str], ids: Sequence[str]) -> int:
    """Return the index of a class given by name, in upper or lower case, by WordNet id or by number."""
    for known in ([name.casefold() for name in names], ids):
        if wanted.casefold() in known:
            return known.index(wanted.casefold())
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    choices = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    raise BadInput(f"no class {wanted!r}; choose from {choices}, or a number from 0 to {len(names) - 1}")
