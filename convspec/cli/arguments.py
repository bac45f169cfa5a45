"""Argument types that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from convspec import MissingData
from convspec.files import expand
from convspec.plugin.options import HELP, OPTIONS


def seed(text: str) -> int:
    """Parse a whole number from 0 to 2**32 - 1."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def path(text: str) -> Path:
    """Parse a path, in which ~ is a home folder; an empty text is refused."""
    if not text:
        raise argparse.ArgumentTypeError("must be a path, got ''")  # which would be the current folder
    return expand(text)


def require_folder(folder: Path) -> None:
    """Raise MissingData, with what to give instead, where there is no folder."""
    if folder.is_file():
        raise MissingData(f"{str(folder)!r} is a file: give a folder; `convspec split` makes one of an archive")
    if not folder.is_dir():
        raise MissingData(f"no folder {str(folder)!r}: give one with a subfolder of pictures for each class")


def add_plugin_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options of the pytest plugin, as text, also under their names there, which errors speak of."""
    for name in names:
        settings = OPTIONS[name] | {"type": _checked(OPTIONS[name].get("type", str))}
        parser.add_argument(f"--{name}", help=HELP[name], **settings)
        parser.add_argument(f"--convspec-{name}", dest=name, help=argparse.SUPPRESS, **settings)


def _checked(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Return a type that refuses what `parse` refuses, and leaves the rest as text."""

    def check(text: str) -> str:
        parse(text)
        return text

    return check


def add_picture(parser: argparse.ArgumentParser, command: str) -> None:
    """Add MODEL, PICTURE and --output."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .keras file, also one that Keras alone wrote, or the name of a base"
    )
    parser.add_argument("picture", metavar="PICTURE", type=path, help="a picture file; it is resized for the model")
    parser.add_argument(
        "--output", metavar="FILE", type=path,
        help=f"the .png or .jpg to write (default: PICTURE's name with -{command}.png, in the current folder)",
    )  # fmt: skip


def add_drawing(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --preprocessing and --overwrite."""
    parser.add_argument(
        "--weights", "--convspec-weights", metavar="FILE",  # errors speak of the second
        help="file of a base's weights (default: the data folder's, else Keras's)",
    )  # fmt: skip
    parser.add_argument(
        "--preprocessing", metavar="HOW",
        help="how the model's inputs are prepared: rescale (0 to 1), none (0 to 255), or a base's name, such as vgg16,"
        " for what its weights expect (default: what the model's file says if convspec wrote it, else rescale; for a"
        " base its own)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true",
        help="replace any file of the output's name (default: only one that convspec wrote)",
    )  # fmt: skip


def find_output(options: argparse.Namespace) -> Path:
    """Return the file that --output names, else PICTURE's name with the command's, in the current folder."""
    return options.output or Path(f"{options.picture.stem}-{options.command}.png")
