"""`convspec fetch`: datasets and weights into the data folder."""

import argparse
import sys

from convspec.cli.arguments import path
from convspec.data.fetch import FETCHABLE, fetch

HELP = "download datasets and weights into the data folder, ready for use"
DESCRIPTION = (
    "Download, verify and prepare what --scale full needs. What is there already is not fetched again;"
    " a download that was interrupted begins anew."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("names", nargs="+", choices=tuple(FETCHABLE), metavar="NAME", help=", ".join(FETCHABLE))
    parser.add_argument(
        "--data-root", metavar="DIR", type=path, help="data folder (default: $CONVSPEC_DATA, else the cache folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Fetch each name once; return 0."""
    from convspec.data.datasets import data_folder

    root = (options.data_root or data_folder()).resolve()
    for name in dict.fromkeys(options.names):
        place, fetched = fetch(name, root, sys.stderr)
        print(f"{name}: {'now' if fetched else 'already'} at {place}")
    return 0
