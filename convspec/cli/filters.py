"""`convspec filters`: draw the patterns that the filters of a model respond to (listing 5.39)."""

import argparse
import sys
from pathlib import Path

from convspec import BadInput
from convspec.cli import Commands
from convspec.cli.arguments import add_drawing, positive, seed

COLUMNS, MARGIN = 8, 5  # listing 5.39


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "filters",
        help="show the patterns that the filters of a model respond to",
        description="Write a grid of patterns for each LAYER (default: the first convolution at each size of its maps),"
        " SOURCE-LAYER.png.",
    )
    parser.add_argument("source", metavar="SOURCE", help="a .keras file, or the name of a base, such as mini or vgg16")
    parser.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    add_drawing(parser)
    parser.add_argument("--folder", metavar="DIR", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--weights", metavar="FILE", help="a base's weights (default: the data folder's, else Keras's)")
    parser.add_argument("--count", metavar="N", type=positive, default=64, help="the first N filters (default: 64)")
    parser.add_argument("--size", metavar="PIXELS", type=positive, default=64, help="of a pattern (default: 64)")
    parser.add_argument("--steps", metavar="N", type=positive, default=40, help="of gradient ascent (default: 40)")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of the noise at the start (default: 0)")
    parser.set_defaults(run=run, resumable=False)


def run(options: argparse.Namespace) -> int:
    """Write a grid of patterns for each layer and print the files' names; return 0."""
    import numpy as np

    from convspec import models
    from convspec.cli import pictures
    from convspec.data.datasets import data_folder
    from convspec.ladder import saved_model
    from convspec.visualization.maps import tile
    from convspec.visualization.patterns import filter_patterns, inputs_are_bgr, trace_grey
    from convspec.visualization.trace import input_shape

    if options.source in models.BASES:
        weights = options.weights or models.default_weights(options.source, data_folder())
        model, preprocessing = models.conv_base(options.source, weights, (None, None, 3)), options.source
    else:
        model, _, preprocessing, _ = saved_model.load(Path(options.source).expanduser())
    prepare = pictures.find_preparation(options, preprocessing)
    channels = input_shape(model)[-1]
    low, high = (float(prepare(np.full((1, 1, 1, channels), shade, np.float32)).mean()) for shade in (0, 255))
    trace = trace_grey(model, (low + high) / 2)
    if not (names := [trace.find_maps(name) for name in options.layers] or trace.first_convolutions()):
        raise BadInput(f"{model.name} has no convolution with maps")
    stem, folder = Path(options.source).stem, options.folder.expanduser()
    outputs = {name: folder / f"{stem}-{name.replace(':', '-')}.png" for name in names}
    for output in outputs.values():
        pictures.check_output(output, options.overwrite)
    for name, output in outputs.items():
        filters = range(min(options.count, trace.outputs[name].shape[-1]))
        patterns = filter_patterns(
            model, name, filters, options.size, options.steps,
            seed=options.seed, value_range=(low, high), progress=sys.stderr,
        )  # fmt: skip
        if inputs_are_bgr(prepare):
            patterns = patterns[..., ::-1]
        grid = tile(patterns, COLUMNS, MARGIN)
        pictures.write(grid[..., 0] if channels == 1 else grid, output)
        print(f"{output}: patterns of {len(filters)} filters of {name}")
    return 0
