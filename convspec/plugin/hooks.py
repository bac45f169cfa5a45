"""The pytest face: options, header, fixtures, the ladder's table at the end of a run.

Imported by every pytest run in an environment that has convspec, so nothing heavy is imported at the top.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from convspec import BadInput, MissingData
from convspec.plugin.session import SESSION, Session, skip_or_fail_on_bad_data

if TYPE_CHECKING:
    import numpy as np


AUTO_SEEDS = (3, 5, 8, 12)  # after each, --seeds auto looks whether the verdict is certain
REGRESSED, NO_BASELINE = 10, 11  # exit codes beside pytest's own, where nothing else failed


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    return AUTO_SEEDS if text == "auto" else (_positive(text),)


def _share(text: str) -> float:
    try:
        if 0 < (share := float(text)) < 1:
            return share
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, such as 0.01 for one point, got {text!r}")


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
        type=_seeds,
        help="train each rung with seeds 0 to N-1 (default: 5 at mini, 1 at full); auto: with 3, and with up to 12"
        " until the verdict on its accuracy is certain",
    )
    group.addoption(
        "--margin", metavar="M", type=_share, default=0.01,
        help="the drop in accuracy that still passes the gate against the baseline (default: 0.01, one point)",
    )  # fmt: skip
    group.addoption(
        "--precision", choices=("float32", "tf32", "mixed_bfloat16", "mixed_float16"),
        help="what models compute in; baselines are kept apart by it (default: Keras's own setting, and TF32 where the"
        " backend takes it by itself)",
    )  # fmt: skip
    group.addoption(
        "--devices", metavar="N", type=_positive, default=1,
        help="train on N GPUs at once, each with its share of every batch; on TensorFlow or JAX (default: 1)",
    )  # fmt: skip
    group.addoption(
        "--engine", choices=("local", "ray"), default="local",
        help="ray: spread all runs over the machines of a Ray cluster ($RAY_ADDRESS, else this machine), or of a single"
        " run the base's features; times are then those of machines that share work (default: local)",
    )  # fmt: skip
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
        help="add this session's raw runs to fixtures/baselines under the root folder, in place of those of the same"
        " seeds; what they are held against is what was there before",
    )
    group.addoption(
        "--report", metavar="DIR", type=Path,
        help="folder for the report (index.html, one file that opens offline), the record that it was made from"
        " (ladder.json), the picture (ladder.png), a summary (ladder.md), trained models and checkpoints"
        " (default: .convspec under the root folder)",
    )  # fmt: skip


def _in_use(config: pytest.Config) -> bool:
    """Whether this run is about convspec: one of its options given, its own repository, or its installed benchmarks."""
    group = (
        "dataset",
        "data_root",
        "weights",
        "rungs",
        "seeds",
        "precision",
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
        or config.option.devices != 1
        or config.option.engine != "local"
        or (config.rootpath / "convspec" / "plugin" / "hooks.py").is_file()
        or any(argument.partition(".")[0] == "convspec" for argument in config.args)
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SESSION] = Session(config)
    if _in_use(config):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every import otherwise
        # Keras's own conversion of tensors, which NumPy 2 complains about hundreds of times a run.
        config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")
        with _usage_errors():
            from convspec import backend  # says so where the backend of Keras is missing
    if config.option.engine == "ray":
        with _usage_errors():
            from convspec.ladder import ray  # noqa: F401  says so where Ray is missing
    if config.option.precision:
        from convspec import backend

        backend.set_precision(config.option.precision)
    if config.option.rungs:
        from convspec.ladder.rungs import find_recipe

        for name in config.option.rungs:
            with _usage_errors():
                find_recipe(name, config.option.scale)
    if config.option.dataset:
        from convspec.data import datasets

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

    from convspec import backend

    session = config.stash[SESSION]
    devices = backend.accelerators()
    return [
        f"convspec: scale {session.scale}, dataset {config.option.dataset or 'each rung its own'},"
        f" seeds 0-{session.seeds[-1]}",
        f"convspec: data folder {session.data_root}, report folder {session.folder}",
        f"convspec: keras {keras.__version__} on {keras.backend.backend()}, device {', '.join(devices) or 'CPU'},"
        f" threads {backend.threads()}, precision {backend.precision()}",
    ]


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.require_gpu:
        from convspec import backend

        if not backend.accelerators():
            pytest.exit(
                "--require-gpu: the Keras backend sees no GPU on this machine", returncode=pytest.ExitCode.TESTS_FAILED
            )


@pytest.fixture(scope="session")
def convspec_session(pytestconfig: pytest.Config) -> Session:
    """What the options of convspec resolved to, and the runs of this session."""
    return pytestconfig.stash[SESSION]


class AccuracyGate:
    """Holds the accuracy of any model against its baseline; the fixture `accuracy_gate`."""

    def __init__(self, session: Session, item: pytest.Item) -> None:
        self._session, self._item = session, item

    def __call__(
        self,
        name: str,
        predicted: "np.ndarray",
        labels: "np.ndarray",
        *,
        names: "list[str] | None" = None,
        confidence: "np.ndarray | None" = None,
    ) -> None:
        """Pass, fail or skip the test as the gate says of what a model predicts for its test pictures.

        `name` is that of the model, under which its baseline is kept; `predicted` has the class of each picture, or a
        row of those for each run (training with seeds 0, 1, ...), `labels` the true ones, `names` the pictures' own
        names and `confidence`, shaped as `predicted`, the probability given to each prediction.
        """
        from convspec.accuracy.judgement import results_from_predictions

        with skip_or_fail_on_bad_data(self._item.config):
            self._session.hold(results_from_predictions(name, predicted, labels, names, confidence), self._item)


@pytest.fixture
def accuracy_gate(convspec_session: Session, request: pytest.FixtureRequest) -> AccuracyGate:
    """A function that holds a model's accuracy on its test pictures against the baseline in fixtures/baselines."""
    return AccuracyGate(convspec_session, request.node)


def _verdicts(config: pytest.Config) -> list[dict[str, object]]:
    """The properties of every test that a gate decided, wherever it ran."""
    found = [dict(report.user_properties) for report in _reports(config) if getattr(report, "when", "") == "call"]
    return [properties for properties in found if "verdict" in properties]


def _reports(config: pytest.Config, *outcomes: str) -> list[pytest.TestReport]:
    """Those of a session's tests with one of these outcomes, or all."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    stats = reporter.stats if reporter else {}
    return [report for outcome in outcomes or stats for report in stats.get(outcome, [])]


def _why(report: pytest.TestReport) -> str:
    """The message of a failure, without the way there."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message if crash else report.longreprtext


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """An exit code of its own for a run in which nothing failed but gates."""
    if exitstatus != pytest.ExitCode.TESTS_FAILED:
        return
    outcomes = {dict(report.user_properties).get("outcome") for report in _reports(session.config, "failed", "error")}
    if outcomes and outcomes <= {"regressed", "missing"}:
        session.exitstatus = REGRESSED if "regressed" in outcomes else NO_BASELINE


def pytest_terminal_summary(
    terminalreporter: "pytest.TerminalReporter", exitstatus: int, config: pytest.Config
) -> None:
    session = config.stash[SESSION]
    verdicts = _verdicts(config)
    if verdicts:
        terminalreporter.section("accuracy against the baseline")
        for properties in verdicts:
            first, *rest = str(properties["verdict"]).splitlines()
            colour = {"pass": "green", "underpowered": "yellow"}.get(str(properties["outcome"]), "red")
            terminalreporter.write_line(first, **{colour: True})
            for line in rest:
                terminalreporter.write_line(f"    {line}")
    failures = [(report.nodeid, _why(report)) for report in _reports(config, "failed", "error")]
    interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
    if not session.runs and not (session.begun and (failures or interrupted)):
        return
    from convspec.report import claims, tables

    terminalreporter.section("the ladder")
    if session.runs:
        terminalreporter.write_line(tables.ladder(session.runs).text())
    if session.scale == "full" and not config.option.dataset:
        terminalreporter.section("what the chapter claims")
        terminalreporter.write_line(claims.claims(session.runs).text())
    if session.repeats:
        repeats = ", ".join(f"{rung} {repeat.outcome}" for rung, repeat in session.repeats.items())
        terminalreporter.write_line(f"trained twice with one seed: {repeats}")
    for line in tables.skipped(session.runs):
        terminalreporter.write_line(line, yellow=True)
    if interrupted:
        terminalreporter.write_line(
            "interrupted: the same command goes on from here; finished runs and checkpoints are kept", yellow=True
        )
    for line in session.finish("interrupted" if interrupted else "failed" if failures else "complete", failures):
        terminalreporter.write_line(line, red=True)
    terminalreporter.write_line("record, picture and a summary in Markdown: ladder.json, ladder.png, ladder.md beside")
    terminalreporter.write_line(f"report: {session.folder / 'index.html'}")
