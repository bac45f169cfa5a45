"""`convspec ladder`: the ladder of techniques on somebody's pictures."""

import argparse
import os
from pathlib import Path

import pytest

from convspec.cli.arguments import add_plugin_options, path, require_folder
from convspec.plugin.checks import BENCHMARKS

HELP = "train each technique on a folder of pictures, report accuracy and time, and recommend one"
DESCRIPTION = (
    "Run pytest on the ladder's benchmarks with the pictures of DIR, away from any project's settings."
    " Results go to .convspec in the current folder. What follows -- goes to pytest."
)
OPTIONS = "scale", "mode", "rungs", "seeds", "base", "margin", "weights", "report", "layout", "truncated", "engine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder", metavar="DIR", type=path,
        help="folder with a subfolder of pictures for each class, or with train, validation and test that have those",
    )  # fmt: skip
    add_plugin_options(parser, *OPTIONS)


def run(options: argparse.Namespace) -> int:
    """Run pytest; return its exit code."""
    require_folder(options.folder)
    os.environ.pop("PYTEST_ADDOPTS", None)
    arguments = [
        str(BENCHMARKS),
        "--override-ini=python_files=test_ladder.py",  # given itself, the file outside of the root folder has no name
        f"--rootdir={Path.cwd()}",
        f"--config-file={os.devnull}",
        "--strict-markers",
        *("-p", "convspec", "-p", "no:cacheprovider"),  # also where PYTEST_DISABLE_PLUGIN_AUTOLOAD is set
        *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),  # by this command
        f"--convspec-dataset={options.folder.resolve()}",
        "--convspec-require-data",  # a base's weights, without which the recommendation would be among the other rungs
    ]
    arguments += [f"--convspec-{name}={value}" for name in OPTIONS if (value := getattr(options, name)) is not None]
    return int(pytest.main([*arguments, *options.pytest]))
