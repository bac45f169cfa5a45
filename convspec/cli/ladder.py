"""`convspec ladder`: the ladder of techniques on somebody's pictures."""

import argparse
import os
from pathlib import Path
from typing import get_args

from convspec.cli.arguments import add_layout, add_truncated, require_folder
from convspec.files import expand
from convspec.plugin.options import RUNGS, Mode

HELP = "train each technique on a folder of pictures, report accuracy and time, and recommend one"
DESCRIPTION = (
    "Run pytest on the ladder's benchmarks with the pictures of DIR, away from any project's settings."
    " Results go to .convspec in the current folder. What follows -- goes to pytest."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=expand, help="a subfolder a class, or train, validation and test")
    parser.add_argument(
        "--scale",
        choices=("mini", "full"),
        default="mini",
        help="mini (default): a small base, trained on drawn shapes; full: VGG16, for photographs",
    )
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="literal",
        help="literal (default): as in the chapter; exact: the same steps in less time; fast: frozen layers see each"
        " picture once; both: literal beside fast",
    )
    parser.add_argument("--rungs", metavar="A,B", help=f"run only these of {RUNGS} (default: all)")
    parser.add_argument("--seeds", metavar="N|auto", help="runs of each rung (default: 5 at mini, 1 at full)")
    parser.add_argument("--base", metavar="NAME", help="such as EfficientNetV2B0 (default: mini, or VGG16 at full)")
    parser.add_argument(
        "--margin", metavar="M", help="how much less than the best is still recommended (default: 0.01, one point)"
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="weights of the base (default: the data folder's, or Keras's)"
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        type=expand,
        default=Path(".convspec"),
        help="folder for the page, the record and the models (default: .convspec)",
    )
    add_layout(parser)
    add_truncated(parser)


def run(options: argparse.Namespace) -> int:
    """Run pytest; return its exit code."""
    import pytest

    from convspec.timings.interleave import find_benchmarks

    require_folder(options.folder)
    here, report = Path.cwd(), options.report.resolve()
    os.environ.pop("PYTEST_ADDOPTS", None)
    arguments = [
        str(find_benchmarks(Path(__file__).parents[2])),
        "--override-ini=python_files=test_ladder.py",  # given itself, the file outside of the root folder has no name
        f"--rootdir={here}",
        f"--config-file={os.devnull}",
        "--strict-markers",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore:Module already imported:pytest.PytestAssertRewriteWarning",  # by this command
        f"--convspec-dataset={options.folder.resolve()}",
        "--convspec-require-data",  # a base's weights, without which the recommendation would be among the other rungs
        f"--convspec-report={report}",
        f"--convspec-scale={options.scale}",
        f"--convspec-mode={options.mode}",
    ]
    names = "rungs", "seeds", "base", "margin", "weights", "layout", "truncated"
    values = {name: getattr(options, name) for name in names}
    arguments += [f"--convspec-{name}={value}" for name, value in values.items() if value is not None]
    return int(pytest.main([*arguments, *options.pytest]))
