"""`convspec filters`: the patterns that the filters of a model respond to (listing 5.39)."""

import argparse
import sys
from pathlib import Path

from convspec.cli import Commands
from convspec.cli.arguments import add_looking, positive, seed


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
    add_looking(parser)
    parser.add_argument("--folder", metavar="DIR", type=Path, default=Path(), help="where to write (default: here)")
    parser.add_argument("--weights", metavar="FILE", help="a base's weights (default: the data folder's, else Keras's)")
    parser.add_argument("--count", metavar="N", type=positive, default=64, help="the first N filters (default: 64)")
    parser.add_argument("--size", metavar="PIXELS", type=positive, default=64, help="of a pattern (default: 64)")
    parser.add_argument("--steps", metavar="N", type=positive, default=40, help="of gradient ascent (default: 40)")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="of the noise at the start (default: 0)")
    parser.set_defaults(run=run, resumable=False)


def run(options: argparse.Namespace) -> int:
    """Write a grid for each layer and print the files' names; 0."""
    from convspec.cli.pictures import filters
    from convspec.data.datasets import data_folder
    from convspec.models import default_weights

    lines = filters(
        options.source, options.layers, options.folder.expanduser(),
        weights=options.weights or default_weights(options.source, data_folder()), count=options.count,
        size=options.size, steps=options.steps, seed=options.seed, progress=sys.stderr,
        preprocessing=options.preprocessing, overwrite=options.overwrite,
    )  # fmt: skip
    print(*lines, sep="\n")
    return 0
