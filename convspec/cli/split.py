"""`convspec split`: a folder or an archive of pictures, copied into train, validation and test."""

import argparse
import sys

from convspec.cli.arguments import add_plugin_options, path, seed

HELP = "make train, validation and test of a folder or an archive of pictures"
DESCRIPTION = "Copy pictures into TARGET/{train,validation,test}/CLASS/, the same way every time."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SOURCE", type=path, help="folder of pictures, or a zip or tar of one")
    parser.add_argument(
        "target", metavar="TARGET", type=path, help="new folder, or one that an interrupted split left unfinished"
    )
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="seed of the random split (default: 0)")
    parser.add_argument("--link", action="store_true", help="hard-link a folder's pictures, instead of copying")
    add_plugin_options(parser, "layout")


def run(options: argparse.Namespace) -> int:
    """Split, and print the counts of each class; return 0."""
    from convspec.data.split import split

    source, target = options.source, options.target
    manifest = split(source, target, seed=options.seed, layout=options.layout, link=options.link, progress=sys.stderr)
    print(*manifest.summary(), sep="\n")
    return 0
