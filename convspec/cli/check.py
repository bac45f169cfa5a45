"""`convspec check`: how a folder of pictures is read, before anything is trained."""

import argparse
import sys

from convspec.cli.arguments import add_plugin_options, path, require_folder, seed

HELP = "say how a folder of pictures is read: parts, classes, what is left out, near copies"
DESCRIPTION = (
    "Print the parts and classes of DIR with counts, what is left out, near copies, and what speaks against using it."
    " The exit code is 1 where it cannot be used."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=path, help="folder of pictures")
    parser.add_argument("--seed", metavar="N", type=seed, default=0, help="seed of the random split (default: 0)")
    parser.add_argument("--all", action="store_true", help="name every file that is left out or a copy, one a line")
    add_plugin_options(parser, "layout", "truncated")


def run(options: argparse.Namespace) -> int:
    """Print the reading; return 0, or raise BadInput where the folder cannot be used."""
    from convspec.data import folders

    require_folder(options.folder)
    reading = folders.read_layout(options.folder, options.layout)
    reading = folders.compare(reading, sys.stderr, options.truncated or "skip")
    lines, problem = reading.explain(options.seed, options.all)
    print(*lines, sep="\n")
    if problem:
        raise problem
    return 0
