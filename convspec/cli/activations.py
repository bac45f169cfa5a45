"""`convspec activations`: every channel of a saved model's layers for a picture (listing 5.31)."""

import argparse

from convspec.cli import Commands
from convspec.cli.arguments import add_looking, add_picture, output


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "activations",
        help="show every channel of a saved model's layers for a picture",
        description="Write the maps of LAYERs (default: all that have some) as one picture, and say how many are dead.",
    )
    add_picture(parser, "activations")
    parser.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    add_looking(parser)
    parser.set_defaults(run=run, resumable=False)


def run(options: argparse.Namespace) -> int:
    """Write the picture and print each layer's share of dead channels; 0."""
    from convspec.cli.pictures import activations

    common = {"preprocessing": options.preprocessing, "overwrite": options.overwrite}
    model, picture = options.model.expanduser(), options.picture.expanduser()
    print(*activations(model, picture, output(options), options.layers, **common), sep="\n")
    return 0
