"""Checks that end a session before it trains: its root, its folders, and options that would skip it."""

import inspect
import os
import shlex
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from convspec import BadInput, MissingData
from convspec.plugin.options import FLAG, OPTIONS
from convspec.plugin.session import Session

PACKAGE = Path(__file__).parents[1]
# Beside the test files, where the package is installed; beside the package, in the repository.
BENCHMARKS = PACKAGE / "benchmarks" if (PACKAGE / "benchmarks").is_dir() else PACKAGE.parent / "benchmarks"
LADDER = BENCHMARKS / "test_ladder.py"


def refuse_moved_root(config: pytest.Config) -> None:
    """Raise UsageError where the value of an option, written with a space, decides which folder is pytest's root.

    pytest looks for its root before it knows the options of plugins, and takes such a value for a test path.
    """
    known, here = config.known_args_namespace, config.invocation_params.dir

    def root(*values: str) -> tuple[Path, Path | None]:
        from _pytest.config.findpaths import determine_setup  # there is no public way to ask

        given = {
            "inifile": known.inifilename,
            "override_ini": known.override_ini,
            "args": [*known.file_or_dir, *values],
            "rootdir_cmd_arg": known.rootdir or None,
            "invocation_dir": here,
        }
        accepted = inspect.signature(determine_setup).parameters
        return determine_setup(**{name: given[name] for name in given if name in accepted})[:2]

    options = {f"--convspec-{name}" for name, settings in OPTIONS.items() if settings is not FLAG}
    words = shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), map(str, config.invocation_params.args)
    for option, value in (pair for each in words for pair in pairwise(each) if pair[0] in options):
        there = here / value
        if option == "--convspec-report":  # so that the first session, which makes the folder, is as the second
            there = next(folder for folder in (there, *there.parents) if folder.exists())
        if there.exists() and root(str(there)) != root():
            raise pytest.UsageError(
                f"{option} {value}: written with a space, it makes pytest look for its root folder and its settings"
                f" there and not in {str(root()[0])!r}; write {option}={value}"
            )


def find_package(config: pytest.Config) -> None:
    """Let `--pyargs convspec` mean the benchmarks, also where they lie beside the package."""
    if config.option.pyargs and BENCHMARKS.parent != PACKAGE:
        config.args[:] = [str(BENCHMARKS) if argument == "convspec" else argument for argument in config.args]


def obstacle(session: Session, items: Sequence[pytest.Item]) -> str | None:
    """Return what keeps some tests from their work, and what to do; None for nothing."""
    settings = session.settings
    ladder = any(item.path == LADDER for item in items)
    gates = any("accuracy_gate" in getattr(item, "fixturenames", ()) for item in items)
    if ladder:
        for name in ("only", "skip"):
            if items[0].config.getoption(f"benchmark_{name}", False):
                return (
                    f"--benchmark-{name} would leave out rungs or gates of the ladder: leave that option out, or leave"
                    " the whole ladder out with -k 'not test_ladder'"
                )
        if why := why_unwritable(settings.folder):
            return f"--convspec-report: {why}; give a folder that can be written: --convspec-report=DIR"
        if problem := session.explanation[1]:
            return str(problem)
        if why := _why_without_base(session):
            return why
    begins = gates and not any(settings.baselines.rglob("*.json"))
    if (begins or (settings.update_baselines and (ladder or gates))) and (why := why_unwritable(settings.baselines)):
        return f"no baselines can be kept: {why}; {OTHER_BASELINES}"
    return None


OTHER_BASELINES = "give a folder that can be written: convspec_baselines in the ini file, or -o convspec_baselines=DIR"


def _why_without_base(session: Session) -> str | None:
    """Return why a base's required weights cannot be had, which Keras fetches, or why ncnn cannot compute a base."""
    from convspec.models import conv_base

    settings = session.settings
    bases = {(recipe.base, session.weights(recipe), recipe.size) for recipe in session.recipes if recipe.base}
    try:
        for base, weights, size in bases:
            if settings.require_data and weights == "imagenet":
                conv_base(base, weights, (size, size, 3))
            if settings.engine == "ncnn":
                from convspec.ladder import ncnn

                ncnn.check(conv_base(base, None, (size, size, 3)))
    except (BadInput, MissingData) as error:
        return str(error)
    return None


def why_unwritable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, which may be missing yet; None where one can."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"nothing can be written in {str(folder)!r} ({error.strerror})"


def refuse_ladder_under_xdist(config: pytest.Config, ids: Sequence[str]) -> None:
    """Raise UsageError where a worker of pytest-xdist collected the ladder."""

    def is_ladder(identifier: str) -> bool:
        file, _, test = identifier.partition("::")
        if not file:  # outside of the root folder pytest leaves the folder out, or even the file
            return f"def {test.partition('[')[0]}(" in LADDER.read_text(encoding="utf-8")
        path = config.rootpath / file
        return path.name == LADDER.name and (not path.exists() or path.samefile(LADDER))

    if any(map(is_ladder, ids)):
        raise pytest.UsageError(
            "the ladder trains and times one rung at a time: run it without pytest-xdist, -n 0 (-n may also stand in"
            " PYTEST_ADDOPTS), or leave it out with -k 'not test_ladder'"
        )
