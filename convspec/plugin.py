"""The pytest face: options, header, fixtures, the ladder's table at the end of a run.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pytest

from convspec import BadInput, MissingData

if TYPE_CHECKING:
    from convspec.datasets import Dataset
    from convspec.recipes import Recipe, Result

DEFAULT_SEEDS = {"mini": 5, "full": 1}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("convspec", "transfer learning with convnets")
    group.addoption(
        "--scale", choices=("mini", "full"), default="mini",
        help="mini (default): pictures that convspec draws itself, minutes on two cores;"
        " full: MNIST, Dogs vs. Cats and VGG16",
    )  # fmt: skip
    group.addoption(
        "--dataset", metavar="NAME_OR_DIR",
        help="run every rung on these pictures: shapes, mnist, dogs_vs_cats, or a folder with one subfolder a class,"
        " or with train, validation and test that each have one (default: each rung's own)",
    )  # fmt: skip
    group.addoption(
        "--data-root", metavar="DIR", type=Path,
        help="folder with mnist.npz, dogs_vs_cats_small/ and weights; the variable CONVSPEC_DATA overrides it"
        " (default: the user's cache folder)",
    )  # fmt: skip
    group.addoption(
        "--weights",
        metavar="FILE_OR_imagenet",
        help="weights of the convolutional base (default: BASE_notop.weights.h5 in the data folder,"
        " else imagenet, which Keras fetches)",
    )
    group.addoption(
        "--rungs", metavar="A,B", type=_names, help="run only these rungs of the ladder (default: all seven)"
    )
    group.addoption(
        "--mode", choices=("literal", "fast", "both"), default="literal",
        help="literal (default): every rung as its listings have it; fast: the frozen part of a base sees each picture"
        " once, and feature extraction ends in a linear probe; both: one beside the other",
    )  # fmt: skip
    group.addoption(
        "--seeds",
        metavar="N",
        type=_positive,
        help="train each rung with seeds 0 to N-1 (default: 5 at mini, 1 at full)",
    )
    group.addoption(
        "--require-gpu", action="store_true", help="fail, instead of running on the CPU, where there is no GPU"
    )
    group.addoption(
        "--require-data", action="store_true", help="fail, instead of skipping, where pictures or weights are missing"
    )
    group.addoption(
        "--strict-images", action="store_true",
        help="fail at the first file that is no picture (default: leave such files out, count and name them, and fail"
        " where they are more than 5 %%)",
    )  # fmt: skip
    group.addoption(
        "--update-baselines",
        action="store_true",
        help="keep this run's raw results as fixtures/baselines/RUN.json under the root folder",
    )
    group.addoption(
        "--report", metavar="DIR", type=Path,
        help="folder for the record (ladder.json), the picture (ladder.png), trained models and checkpoints"
        " (default: .convspec under the root folder)",
    )  # fmt: skip


class Session:
    """What the options resolved to, and the runs of this session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        option = config.option
        self.scale: str = option.scale
        self.seeds = range(option.seeds or DEFAULT_SEEDS[option.scale])
        given, default = option.report, config.rootpath / ".convspec"
        self.folder: Path = (config.invocation_params.dir / given.expanduser()).resolve() if given else default
        self.runs: dict[str, list[Result]] = {}
        self._datasets: dict[tuple[str, int, str], Dataset] = {}

    @property
    def data_root(self) -> Path:
        """$CONVSPEC_DATA, else --data-root, else the user's cache folder."""
        if given := os.environ.get("CONVSPEC_DATA") or self.config.option.data_root:
            return Path(given).expanduser().resolve()
        import platformdirs

        return platformdirs.user_cache_path("convspec")

    def weights(self, recipe: "Recipe") -> str | None:
        """--weights, else the base's file in the data folder, else None, which leaves it to the recipe."""
        if recipe.base is None or self.config.option.weights:
            return self.config.option.weights
        file = self.data_root / f"{recipe.base}_notop.weights.h5"
        return str(file) if file.is_file() else None

    def dataset(self, recipe: "Recipe") -> "Dataset":
        """The recipe's dataset or the one of --dataset, loaded once a session."""
        from convspec import datasets

        name, size, interpolation = key = (
            self.config.option.dataset or recipe.dataset,
            recipe.size,
            recipe.interpolation,
        )
        if key not in self._datasets:
            self._datasets[key] = datasets.load(
                name,
                size,
                self.data_root,
                interpolation=interpolation,
                most_bad=0.0 if self.config.option.strict_images else 0.05,
                progress=uncaptured(self.config),
            )
        return self._datasets[key]

    def unfinished(self, recipe: "Recipe", seed: int) -> Path:
        """Where a run's result waits until the whole session is done, so that a session that was cut off can go on."""
        from convspec.recipes import run_key

        return self.folder / "unfinished" / f"{run_key(recipe, self.dataset(recipe), seed, self.weights(recipe))}.json"

    def finish(self) -> None:
        """Write the record and the picture of all runs; nothing is left unfinished."""
        from convspec import report

        report.record(
            self.runs,
            self.folder / "ladder.json",
            scale=self.scale,
            command=["pytest", *self.config.invocation_params.args],
        )
        report.picture(self.runs, self.folder / "ladder.png")
        for group in self.runs.values():
            recipe, dataset = group[0].recipe, self.dataset(group[0].recipe)
            report.samples(dataset, self.folder / f"samples-{dataset.name}.png")
            if recipe.augmentation:
                report.views(dataset, recipe.augmentation, self.folder / f"views-{dataset.name}.png")
        for group in self.runs.values():
            for result in group:
                if self.config.option.update_baselines:
                    result.save(self.config.rootpath / "fixtures" / "baselines" / result.file_name)
                self.unfinished(result.recipe, result.seed).unlink(missing_ok=True)


SESSION = pytest.StashKey[Session]()


def _in_use(config: pytest.Config) -> bool:
    """Whether this run is about convspec: one of its options given, its own repository, or its installed benchmarks."""
    group = (
        "dataset",
        "data_root",
        "weights",
        "rungs",
        "seeds",
        "require_gpu",
        "require_data",
        "strict_images",
        "update_baselines",
        "report",
    )
    return (
        any(config.getoption(name) for name in group)
        or config.option.scale != "mini"
        or config.option.mode != "literal"
        or (config.rootpath / "convspec" / "plugin.py").is_file()
        or any(argument.partition(".")[0] == "convspec" for argument in config.args)
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SESSION] = Session(config)
    if _in_use(config):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every import otherwise
        # Keras's own conversion of tensors, which NumPy 2 complains about hundreds of times a run.
        config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")
    if config.option.rungs:
        from convspec.recipes import find_recipe

        for name in config.option.rungs:
            with _usage_errors():
                find_recipe(name, config.option.scale)
    if config.option.dataset:
        from convspec import datasets

        with _usage_errors():
            datasets.check(config.option.dataset)
    weights = config.option.weights
    if weights and weights != "imagenet" and not Path(weights).is_file():
        raise pytest.UsageError(f"--weights: no file {weights!r}; give a file, or imagenet")


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (BadInput, MissingData) as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not _in_use(config):
        return []
    import keras

    from convspec import gradients

    session = config.stash[SESSION]
    devices = gradients.accelerators()
    return [
        f"convspec: scale {session.scale}, dataset {config.option.dataset or 'each rung its own'},"
        f" seeds 0-{session.seeds[-1]}",
        f"convspec: data folder {session.data_root}, report folder {session.folder}",
        f"convspec: keras {keras.__version__} on {keras.backend.backend()}, device {', '.join(devices) or 'CPU'},"
        f" threads {gradients.threads()}",
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.require_gpu:
        from convspec import gradients

        if not gradients.accelerators():
            pytest.exit(
                "--require-gpu: the Keras backend sees no GPU on this machine", returncode=pytest.ExitCode.TESTS_FAILED
            )


@pytest.fixture(scope="session")
def convspec_session(pytestconfig: pytest.Config) -> Session:
    """What the options of convspec resolved to, and the runs of this session."""
    return pytestconfig.stash[SESSION]


@contextmanager
def explained(config: pytest.Config) -> Iterator[None]:
    """Missing data is a skip (a failure under --require-data) and bad input a failure, each told in one line."""
    try:
        yield
    except MissingData as error:
        if config.option.require_data:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    except BadInput as error:
        pytest.fail(str(error), pytrace=False)


class _Uncaptured(io.TextIOBase):
    def __init__(self, config: pytest.Config) -> None:
        super().__init__()
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")

    def write(self, text: str) -> int:
        with self._capture.global_and_fixture_disabled():
            return sys.stderr.write(text)

    def isatty(self) -> bool:
        with self._capture.global_and_fixture_disabled():
            return sys.stderr.isatty()

    def flush(self) -> None:
        with self._capture.global_and_fixture_disabled():
            sys.stderr.flush()


def uncaptured(config: pytest.Config) -> TextIO:
    """A text stream to the terminal that pytest's capturing does not swallow, for progress bars."""
    return cast(TextIO, _Uncaptured(config))


def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter", exitstatus: int, config: pytest.Config
) -> None:
    session = config.stash[SESSION]
    if not session.runs:
        return
    from convspec import report

    terminalreporter.section("the ladder")
    for line in report.table(session.runs):
        terminalreporter.write_line(line)
    terminalreporter.write_line(report.FOOTNOTE)
    for line in report.skipped(session.runs):
        terminalreporter.write_line(line, yellow=True)
    if exitstatus == pytest.ExitCode.INTERRUPTED:
        terminalreporter.write_line(
            "interrupted: the same command goes on from here; finished runs and checkpoints are kept", yellow=True
        )
    else:
        session.finish()
        terminalreporter.write_line(
            f"record and picture: {session.folder / 'ladder.json'}, {session.folder / 'ladder.png'}"
        )
