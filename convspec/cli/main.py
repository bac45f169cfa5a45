"""The entry point: parses the command line, runs one command, and turns errors into one line."""

import argparse
import os
import sys
from io import TextIOWrapper

from convspec import BadInput, __version__, require_extras


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    The exit code is 1 after an error, where slower, or with a benchmark gone; 130 after Ctrl-C; 141 where the reader of
    the output has gone, as of other programs in a pipe.
    """
    words, resumable = sys.argv[1:] if arguments is None else arguments, False
    end = words.index("--") if words[:1] == ["ladder"] and "--" in words else len(words)
    if isinstance(sys.stdout, TextIOWrapper):  # names of any letters on any terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with require_extras():
            options, unknown = _parser().parse_known_args(words[:end])
            if unknown:
                apart = unknown[0][:1] != "-" and any(word[:1] == "-" for word in words[:end])
                remedy = "; names stand together, with options before or after them" if apart else ""
                options.parser.error(f"unrecognized arguments: {' '.join(unknown)}{remedy}")
            options.pytest = words[end + 1 :]
            resumable = options.resumable
            if options.looks_into_models:
                from convspec import backend  # noqa: F401  before Keras, as it keeps start-up noise from the terminal
            code = options.run(options)
            print(end="", flush=True)
            return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python, which flushes at its end
        return 141
    except (BadInput, OSError) as error:
        print(f"convspec: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        then = "goes on where it stopped" if resumable else "starts again"
        print(f"convspec: interrupted; the same command {then}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from convspec.cli import activations, check, compare, explain, fetch, filters, ladder, split

    parser = argparse.ArgumentParser(
        prog="convspec",
        description="The ladder on your pictures, data for it, timings side by side, and what a model sees.",
    )
    parser.add_argument("--version", action="version", version=f"convspec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (ladder, check, fetch, split, compare, explain, activations, filters):
        name = command.__name__.rpartition(".")[2]
        subparser = commands.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(subparser)
        subparser.set_defaults(parser=subparser, run=command.run, resumable=command in (ladder, split))
        subparser.set_defaults(looks_into_models=command in (explain, activations, filters))
    return parser
