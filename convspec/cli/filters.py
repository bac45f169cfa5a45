"""`convspec filters`: draw the patterns that the filters of a model respond to (listing 5.39)."""

import argparse
import sys
from pathlib import Path

from convspec import BadInput
from convspec.cli.arguments import add_drawing, path, seed
from convspec.plugin.options import positive

HELP = "show the patterns that the filters of a model respond to"
DESCRIPTION = (
    "For each LAYER (default: the first convolution at each size of maps) write SOURCE-LAYER.png, a grid of patterns in"
    " the order of the filters, down the columns."
)
ROWS, MARGIN = 8, 5  # listing 5.39


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="a .keras file, or the name of a base, such as mini or VGG16")
    parser.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    add_drawing(parser)
    parser.add_argument("--folder", metavar="DIR", type=path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--count", metavar="N", type=positive, default=64, help="the first N filters (default: 64)")
    parser.add_argument("--size", metavar="PIXELS", type=positive, default=64, help="side of a pattern (default: 64)")
    parser.add_argument(
        "--steps", metavar="N", type=positive, default=40, help="steps of gradient ascent (default: 40)"
    )
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="seed of the noise at the start (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Write a grid of patterns for each layer and print the files' names; return 0."""
    from convspec.cli import pictures
    from convspec.ladder import saved_model
    from convspec.visualization.maps import tile
    from convspec.visualization.patterns import filter_pictures, trace_grey
    from convspec.visualization.trace import input_shape

    model, _, preprocessing, _ = pictures.load_model(options.source, options.weights, include_top=False)
    prepare = saved_model.find_preparation(options.preprocessing or preprocessing)
    if (channels := input_shape(model)[-1]) not in (1, 3):
        raise BadInput(f"{model.name} takes {channels} channels, and a picture has 1 or 3")
    trace = trace_grey(model, 0)
    if not (names := [trace.find_maps(name) for name in options.layers] or trace.first_convolutions()):
        raise BadInput(f"{model.name} has no convolution with maps")
    stem, folder = Path(options.source).stem, options.folder
    outputs = {name: folder / f"{stem}-{name.replace(':', '-')}.png" for name in names}
    for output in outputs.values():
        pictures.check_output(output, options.overwrite)
    for name, output in outputs.items():
        filters = range(min(options.count, trace.outputs[name].shape[-1]))
        arguments = name, filters, options.size, options.steps
        patterns = filter_pictures(model, prepare, *arguments, seed=options.seed, progress=sys.stderr)
        grid = tile(patterns, min(ROWS, len(filters)), MARGIN, down=True)
        pictures.write(grid[..., 0] if grid.shape[-1] == 1 else grid, output)
        print(f"{output}: patterns of {len(filters)} filters of {name}")
    return 0
