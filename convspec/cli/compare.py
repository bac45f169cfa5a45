"""`convspec compare`: lay timings side by side, or time two versions in turn on this machine."""

import argparse
import sys

from convspec import BadInput
from convspec.cli.arguments import path
from convspec.files import atomic_write

HELP = "lay timings side by side: records from any machines, or two versions on this one"
DESCRIPTION = (
    "Lay records of pytest-benchmark side by side, and end with exit code 1 where a benchmark of the first is missing"
    " in another; or time another version and this one in turn, and end with exit code 1 if this one is slower or lacks"
    " a benchmark of the other."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "records", nargs="*", default=[], metavar="FILE", type=path,
        help="what pytest wrote with --benchmark-json, or with --benchmark-save to .benchmarks/MACHINE/",
    )  # fmt: skip
    sources.add_argument("--interleave", metavar="BASE", type=path, help="a folder with another version's convspec/")
    parser.add_argument("--bench", metavar="EXPR", help="with --interleave, pytest's -k (default: reading, augmenting)")
    parser.add_argument("--rounds", metavar="N", type=int, help="with --interleave, runs of each side (default: 10)")
    parser.add_argument("--markdown", metavar="FILE", type=path, help="write the table as Markdown, too")
    parser.add_argument("--plot", metavar="FILE", type=path, help="draw records as a chart: a .png, .svg or .pdf")


def run(options: argparse.Namespace) -> int:
    """Print the table; return 1 where a benchmark is missing or this version is slower, else 0."""
    from convspec.timings import compare, interleave

    if options.interleave and options.plot:
        raise BadInput("--plot draws records; leave it out with --interleave")
    if options.records and (options.bench or options.rounds is not None):
        raise BadInput("--bench and --rounds go with --interleave; leave them out with records")
    if options.interleave:
        rounds = interleave.ROUNDS if options.rounds is None else options.rounds
        base, expression = options.interleave, options.bench or interleave.QUICK
        table, passed = interleave.interleave(base, expression, rounds, sys.stderr)
    else:
        records = compare.read(options.records)
        table = compare.compare(records)
        passed = all(record.timings.keys() >= records[0].timings.keys() for record in records)
        if options.plot:
            compare.plot(records, options.plot)
    print(table.text())
    if options.markdown:
        with atomic_write(options.markdown) as partial:
            partial.write_text(table.markdown(), encoding="utf-8")
    return 0 if passed else 1
