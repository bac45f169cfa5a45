"""`python -m convspec`: data fetched and split, timings compared, and what a saved model sees in a picture."""

import argparse
import os
import sys
from pathlib import Path

from convspec import BadInput
from convspec.data import fetch as fetch_module
from convspec.data.fetch import FETCHABLE
from convspec.files import atomic_write


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def _data_root() -> Path:
    if given := os.environ.get("CONVSPEC_DATA"):
        return Path(given)
    import platformdirs

    return platformdirs.user_cache_path("convspec")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m convspec",
        description="Data for convspec's full scale, its timings side by side, and what a saved model sees.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    fetch = commands.add_parser(
        "fetch",
        help="download data sets and weights into the data folder, ready for use",
        description="Download, verify and prepare what --scale full needs. What is there already is not fetched again;"
        " after an interruption the same command goes on where it stopped.",
    )
    fetch.add_argument("names", nargs="+", choices=tuple(FETCHABLE), metavar="NAME", help=", ".join(FETCHABLE))
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
    _add_explaining(commands)
    return parser


def _add_explaining(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands of section 5.4."""
    explain = commands.add_parser(
        "explain",
        help="show what in a picture speaks for a class, to a saved model",
        description="Write PICTURE with the model's class activation map on top, and say what the model predicts.",
    )
    activations = commands.add_parser(
        "activations",
        help="show every channel of a saved model's layers for a picture",
        description="Write the maps of LAYERs (default: all that have some) as one picture, and say how many are dead.",
    )
    filters = commands.add_parser(
        "filters",
        help="show the patterns that the filters of a model respond to",
        description="Write a grid of patterns for each LAYER (default: the first convolution at each size of its maps),"
        " SOURCE-LAYER.png.",
    )
    for command in (explain, activations):
        command.add_argument("model", metavar="MODEL", type=Path, help="a .keras file, of convspec's or any other")
        command.add_argument(
            "picture", metavar="PICTURE", type=Path, help="a picture file; it is resized for the model"
        )
        command.add_argument(
            "--output", metavar="FILE", type=Path,
            help=f"the .png to write (default: PICTURE's name with -{command.prog.split()[-1]}, in the current folder)",
        )  # fmt: skip
    filters.add_argument("source", metavar="SOURCE", help="a .keras file, or the name of a base, such as mini or vgg16")
    for command in (activations, filters):
        command.add_argument("layers", metavar="LAYER", nargs="*", help="names of layers, those in a nested base, too")
    for command in (explain, activations, filters):
        command.add_argument(
            "--preprocessing", metavar="HOW",
            help="how the model's inputs are prepared: rescale (0 to 1), none (0 to 255), or as for the weights of a"
            " base, such as vgg16 (default: as the model's file tells if convspec wrote it, else rescale; of a base its"
            " own)",
        )  # fmt: skip
        command.add_argument(
            "--overwrite", action="store_true",
            help="replace whatever is there under the output's name (else: only what one of these commands wrote)",
        )  # fmt: skip
    explain.add_argument(
        "--class", dest="wanted", metavar="CLASS", help="a name or number (default: the one predicted)"
    )
    explain.add_argument(
        "--classes", metavar="A,B,...",
        help="the classes' names in order (default: as the model's file tells; for 1000 classes ImageNet's, if Keras"
        " has its list on this machine; else numbers)",
    )  # fmt: skip
    explain.add_argument("--layer", metavar="LAYER", help="whose maps (default: the last convolution's)")
    explain.add_argument("--occlusion", action="store_true", help="cover parts of the picture instead, the slow check")
    filters.add_argument("--folder", metavar="DIR", type=Path, default=Path(), help="where to write (default: here)")
    filters.add_argument(
        "--weights", metavar="FILE", help="a base's weights (default: the data folder's, else Keras's)"
    )
    filters.add_argument("--count", metavar="N", type=_positive, default=64, help="the first N filters (default: 64)")
    filters.add_argument("--size", metavar="PIXELS", type=_positive, default=64, help="of a pattern (default: 64)")
    filters.add_argument("--steps", metavar="N", type=_positive, default=40, help="of gradient ascent (default: 40)")
    filters.add_argument("--seed", metavar="N", type=_seed, default=0, help="of the noise at the start (default: 0)")


def _explain(options: argparse.Namespace) -> None:
    from convspec import models
    from convspec.cli import explain as explain_module

    common = {"preprocessing": options.preprocessing, "overwrite": options.overwrite}
    if options.command == "filters":
        weights = options.weights or (models.MINI_WEIGHTS if options.source == "mini" else "imagenet")
        if not options.weights and (kept := _data_root() / f"{options.source}_notop.weights.h5").is_file():
            weights = kept
        lines = explain_module.filters(
            options.source, options.layers, options.folder.expanduser(), weights=weights, count=options.count,
            size=options.size, steps=options.steps, seed=options.seed, progress=sys.stderr, **common,
        )  # fmt: skip
    else:
        model, picture = options.model.expanduser(), options.picture.expanduser()
        output = options.output.expanduser() if options.output else Path(f"{picture.stem}-{options.command}.png")
        if options.command == "activations":
            lines = explain_module.activations(model, picture, output, options.layers, **common)
        else:
            lines = explain_module.explain(
                model, picture, output, wanted=options.wanted, layer=options.layer, occlusion=options.occlusion,
                classes=options.classes.split(",") if options.classes else None, progress=sys.stderr, **common,
            )  # fmt: skip
    for line in lines:
        print(line)


def _compare(options: argparse.Namespace) -> int:
    from convspec.timings import compare as compare_module
    from convspec.timings import interleave
    from convspec.timings.compare import plot, read

    if options.interleave and options.plot:
        raise BadInput("--plot draws records; leave it out with --interleave")
    if options.records and (options.bench or options.rounds is not None):
        raise BadInput("--bench and --rounds go with --interleave; leave them out with records")
    if options.interleave:
        rounds = interleave.ROUNDS if options.rounds is None else options.rounds
        base, expression = options.interleave.expanduser(), options.bench or interleave.QUICK
        table, passed = interleave.interleave(base, expression, rounds, sys.stderr)
    else:
        records = read([path.expanduser() for path in options.records])
        table, passed = compare_module.compare(records), True
        if options.plot:
            plot(records, options.plot.expanduser())
    print(table.text())
    if options.markdown:
        with atomic_write(options.markdown.expanduser()) as partial:
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
                fetched = fetch_module.fetch(name, root, sys.stderr)
                print(f"{name}: {'now' if fetched else 'already'} at {root / FETCHABLE[name].target}")
        elif options.command == "compare":
            return _compare(options)
        elif options.command in ("explain", "activations", "filters"):
            _explain(options)
        else:
            from convspec.data import split as split_module

            source, target = options.source.expanduser(), options.target.expanduser()
            manifest = split_module.split(source, target, seed=options.seed, link=options.link, progress=sys.stderr)
            print(*manifest.summary(), sep="\n")
    except (BadInput, OSError) as error:
        print(f"convspec: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        then = "goes on where it stopped" if options.command in ("fetch", "split") else "starts again"
        print(f"convspec: interrupted; the same command {then}", file=sys.stderr)
        return 130
    return 0
