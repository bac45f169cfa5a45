"""`convspec explain`: what in a picture speaks for a class, to a saved model (listing 5.44)."""

import argparse
import sys

from convspec.cli import Commands
from convspec.cli.arguments import add_looking, add_picture, output


def add_parser(commands: Commands) -> None:
    """Add the command and its arguments."""
    parser = commands.add_parser(
        "explain",
        help="show what in a picture speaks for a class, to a saved model",
        description="Write PICTURE with the model's class activation map on top, and say what the model predicts.",
    )
    add_picture(parser, "explain")
    add_looking(parser)
    parser.add_argument("--class", dest="wanted", metavar="CLASS", help="a name or number (default: the one predicted)")
    parser.add_argument(
        "--classes", metavar="A,B,...",
        help="the classes' names in order (default: as the model's file tells; for 1000 classes ImageNet's, if Keras"
        " has its list on this machine; else numbers)",
    )  # fmt: skip
    parser.add_argument("--layer", metavar="LAYER", help="whose maps (default: the last convolution's)")
    parser.add_argument("--occlusion", action="store_true", help="cover parts of the picture instead, the slow check")
    parser.set_defaults(run=run, resumable=False)


def run(options: argparse.Namespace) -> int:
    """Write the picture and print what the model predicts; 0."""
    from convspec.cli.pictures import explain

    lines = explain(
        options.model.expanduser(), options.picture.expanduser(), output(options), wanted=options.wanted,
        layer=options.layer, occlusion=options.occlusion, preprocessing=options.preprocessing,
        classes=options.classes.split(",") if options.classes else None, overwrite=options.overwrite,
        progress=sys.stderr,
    )  # fmt: skip
    print(*lines, sep="\n")
    return 0
