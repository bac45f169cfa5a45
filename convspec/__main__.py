"""`python -m convspec`: fetch the real data, split a folder or an archive of pictures."""

import argparse
import os
import sys
from pathlib import Path

from convspec import BadInput, download


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def _data_root() -> Path:
    if given := os.environ.get("CONVSPEC_DATA"):
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("convspec")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convspec", description="Get the real data for convspec's full scale."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser(
        "fetch",
        help="download data sets and weights into the data folder, ready for use",
        description="Download, verify and prepare what --scale full needs. What is there already is not fetched again;"
        " after an interruption the same command goes on where it stopped.",
    )
    fetch.add_argument(
        "names", nargs="+", choices=tuple(download.FETCHABLE), metavar="NAME", help=", ".join(download.FETCHABLE)
    )
    fetch.add_argument(
        "--data-root", metavar="DIR", type=Path, help="the data folder (default: $CONVSPEC_DATA, else the cache folder)"
    )
    split = commands.add_parser(
        "split",
        help="make train, validation and test of a folder or an archive of pictures",
        description="Copy pictures into TARGET/{train,validation,test}/CLASS/, the same way every time.",
    )
    split.add_argument("source", metavar="SOURCE", type=Path, help="folder of pictures, or a zip or tar of one")
    split.add_argument("target", metavar="TARGET", type=Path, help="new folder, or one that was interrupted")
    split.add_argument("--seed", metavar="N", type=_seed, default=0, help="which split (default: 0)")
    split.add_argument("--link", action="store_true", help="hard-link a folder's pictures, instead of copying")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 1 after an error (a line on stderr), 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every import otherwise
    try:
        if options.command == "fetch":
            root = (options.data_root or _data_root()).expanduser().resolve()
            for name in dict.fromkeys(options.names):
                fetched = download.fetch(name, root, sys.stderr)
                print(f"{name}: {'now' if fetched else 'already'} at {root / download.FETCHABLE[name].target}")
        else:
            from convspec import splitting

            source, target = options.source.expanduser(), options.target.expanduser()
            manifest = splitting.split(source, target, seed=options.seed, link=options.link, progress=sys.stderr)
            print(*manifest.summary(), sep="\n")
    except (BadInput, OSError) as error:
        print(f"convspec: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("convspec: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
