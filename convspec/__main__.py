"""`python -m convspec`: fetch the real data, split a folder or an archive of pictures, compare timings."""

import argparse
import os
import sys
from pathlib import Path

from convspec import BadInput, download
from convspec.storage import replacing


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
        prog="python -m convspec", description="Data for convspec's full scale, and its timings side by side."
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
    compare = commands.add_parser(
        "compare",
        help="lay timings side by side: records from any machines, or two versions on this one",
        description="Lay records of pytest-benchmark side by side; or time another version and this one in turn, and"
        " end with exit code 1 where this one is slower.",
    )
    sources = compare.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "records", nargs="*", default=[], metavar="FILE", type=Path,
        help="what pytest wrote with --benchmark-json, or with --benchmark-save to .benchmarks/MACHINE/",
    )  # fmt: skip
    sources.add_argument("--interleave", metavar="BASE", type=Path, help="a folder with another version's convspec/")
    compare.add_argument(
        "--bench", metavar="EXPR", help="with --interleave, pytest's -k (default: reading, augmenting)"
    )
    compare.add_argument("--rounds", metavar="N", type=int, help="with --interleave, runs of each side (default: 10)")
    compare.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as Markdown, too")
    compare.add_argument("--plot", metavar="FILE", type=Path, help="draw records as a chart, too: a .png, .svg or .pdf")
    return parser


def _compare(options: argparse.Namespace) -> int:
    from convspec import comparison

    if options.interleave and options.plot:
        raise BadInput("--plot draws records; leave it out with --interleave")
    if options.records and (options.bench or options.rounds is not None):
        raise BadInput("--bench and --rounds go with --interleave; leave them out with records")
    if options.interleave:
        rounds = comparison.ROUNDS if options.rounds is None else options.rounds
        base, expression = options.interleave.expanduser(), options.bench or comparison.QUICK
        table, passed = comparison.interleave(base, expression, rounds, sys.stderr)
    else:
        records = comparison.read([path.expanduser() for path in options.records])
        table, passed = comparison.compare(records), True
        if options.plot:
            comparison.plot(records, options.plot.expanduser())
    print(table.text())
    if options.markdown:
        with replacing(options.markdown.expanduser()) as partial:
            partial.write_text(table.markdown(), encoding="utf-8")
    return 0 if passed else 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 1 after an error (a line on stderr) or slower, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every import otherwise
    try:
        if options.command == "fetch":
            root = (options.data_root or _data_root()).expanduser().resolve()
            for name in dict.fromkeys(options.names):
                fetched = download.fetch(name, root, sys.stderr)
                print(f"{name}: {'now' if fetched else 'already'} at {root / download.FETCHABLE[name].target}")
        elif options.command == "compare":
            return _compare(options)
        else:
            from convspec import gradients, splitting  # noqa: F401, the first says so where Keras's backend is missing

            source, target = options.source.expanduser(), options.target.expanduser()
            manifest = splitting.split(source, target, seed=options.seed, link=options.link, progress=sys.stderr)
            print(*manifest.summary(), sep="\n")
    except (BadInput, OSError) as error:
        print(f"convspec: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        then = "starts again" if options.command == "compare" else "goes on where it stopped"
        print(f"convspec: interrupted; the same command {then}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
