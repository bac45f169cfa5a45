"""Settings and fixtures of this repository's own tests; the options come from convspec.plugin."""

import gc
import os
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import InvalidArgument

from convspec.plugin.session import SESSION

if TYPE_CHECKING:  # Keras is imported by convspec.plugin, which says so in one line where its backend is missing
    from collections.abc import Callable, Iterator

    import numpy as np
    from pages import Case
    from playwright.sync_api import Page

    from convspec.data.datasets import Dataset
    from convspec.ladder.result import Result

# Where another project's settings collect the ladder from this repository, `tests` is not on the path.
pytest_plugins = ["pytester", *(["claims"] if find_spec("claims") else [])]

try:
    settings.get_profile("quick")  # pytest in pytest reads this file again, and leaves the profile that was chosen
except InvalidArgument:
    # Times vary on shared machines: no deadline. Derandomised, so that a push that changes nothing fails nothing.
    settings.register_profile(
        "quick", max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.register_profile("thorough", settings.get_profile("quick"), max_examples=500, derandomize=False)
    # For seeded defects: searching for the smallest example takes a minute, the first one a second.
    settings.register_profile("first-example", settings.get_profile("quick"), phases=(Phase.explicit, Phase.generate))
    settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "full: needs the real pictures and weights; runs with --convspec-scale full only"
    )
    config.addinivalue_line("markers", "ladder: trains all rungs: minutes on a GPU, a day on a few cores")
    config.addinivalue_line("markers", "slow: runs with --slow only")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _refuse_stale_skips(config, items)
    enabled = {
        "full": config.stash[SESSION].scale == "full",
        "slow": config.option.slow,
        "experiment": "experiment" in config.option.markexpr,
    }
    left_out = [item for item in items if any(item.get_closest_marker(name) and not on for name, on in enabled.items())]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish() -> None:
    gc.freeze()  # pytest collects garbage five times at its end; pytest in pytest need not search all that is imported


def _refuse_stale_skips(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Raise UsageError for an id under --deselect that matches nothing, and for a skip without a condition."""
    collected = {item.nodeid.partition("::")[0] for item in items}
    for prefix in config.option.deselect or ():
        file = prefix.partition("::")[0]
        elsewhere = (config.rootpath / file).exists() and file not in collected
        if not elsewhere and not any(item.nodeid.startswith(prefix) for item in items):
            raise pytest.UsageError(f"--deselect {prefix}: stale, no such test")
    for item in items:
        if item.get_closest_marker("skip"):
            raise pytest.UsageError(f"{item.nodeid}: skipped for good; mark it xfail, which says when it is stale")


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Count the seeded defects that tests/meta/test_defects.py killed; under xdist they ran in other processes."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "when")]
    recorded = [name for report in reports if report.when == "call" for name, _ in report.user_properties]
    if seeded := recorded.count("seeded"):
        terminalreporter.write_line(f"defects: {recorded.count('killed')} killed / {seeded} seeded")


@pytest.fixture(scope="session")
def data_folder(pytestconfig: pytest.Config) -> Path:
    """Return the folder of real data; where any are missing skip, or fail under --convspec-require-data."""
    from convspec import MissingData, models
    from convspec.plugin.session import skip_or_fail_on_bad_data

    folder = pytestconfig.stash[SESSION].data_root
    with skip_or_fail_on_bad_data(pytestconfig):
        missing = [name for name in ("mnist.npz", "dogs_vs_cats_small") if not (folder / name).exists()]
        missing += ["vgg16_notop.weights.h5"] * (models.default_weights("vgg16", folder) == "imagenet")
        if missing:
            raise MissingData(
                f"needs the real data: {str(folder)!r} lacks {', '.join(missing)}; get them with `convspec fetch`, or"
                " name the folder that holds them in CONVSPEC_DATA"
            )
    return folder


@pytest.fixture(scope="session")
def elephant(data_folder: Path) -> Path:
    """Return listing 5.41's picture, which `convspec fetch` does not get; skip where it isn't on this machine."""
    if (file := data_folder / "creative_commons_elephant.jpg").is_file():
        return file
    pytest.skip(f"needs {file.name} in the data folder")


def _cut(whole: "Dataset", *counts: int) -> "Dataset":
    """Return about `counts` pictures of the parts, evenly spread, so that all classes stay."""
    from convspec.data.datasets import Dataset, Split

    parts = [part for part in (whole.train, whole.validation, whole.test) if part is not None]
    steps = [len(part) // count | 1 for part, count in zip(parts, counts, strict=True)]
    cut = [Split(p.images[::s], p.labels[::s], p.names[::s]) for p, s in zip(parts, steps, strict=True)]
    return Dataset(whole.name, whole.classes, cut[0], cut[1], cut[2])


@pytest.fixture(scope="session")
def few_shapes() -> "Dataset":
    """Return 40, 20 and 20 pictures of `shapes`, drawn alone: all of it takes seconds in each process."""
    from convspec.data import shapes
    from convspec.data.datasets import Dataset, Split

    def part(name: str, per_class: int, seed: int) -> Split:
        images, labels = shapes.pictures(shapes.TARGETS, per_class, seed)
        return Split(images, labels, tuple(f"{name}/{place:04d}" for place in range(len(labels))))

    return Dataset(
        "shapes", tuple(shapes.TARGETS), part("train", 20, 5), part("validation", 10, 6), part("test", 10, 7)
    )


@pytest.fixture(scope="session")
def dogs_and_weights(data_folder: Path) -> "tuple[Dataset, Path]":
    """Return some 40, 20 and 20 pictures of Dogs vs. Cats at 150 x 150, and VGG16's weights."""
    from convspec import models
    from convspec.data import datasets

    pictures = _cut(datasets.load_dataset("dogs_vs_cats", 150, data_folder), 40, 20, 20)
    return pictures, Path(models.default_weights("vgg16", data_folder))


@pytest.fixture(scope="session")
def top_weights(data_folder: Path) -> Path:
    """Return the file of VGG16's weights with its dense top; skip where it isn't on this machine."""
    from convspec import models

    keras_file = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models", keras_file)
    default = models.default_weights("vgg16", data_folder, include_top=True)
    if (file := home if default == "imagenet" else Path(default)).is_file():
        return file
    pytest.skip(
        f"needs VGG16's weights with its dense top: vgg16.weights.h5 or {keras_file} in the data folder, or the latter"
        " where keras.applications.VGG16(weights='imagenet') puts it, in Keras's own"
    )


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs of `trained`."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="session")
def trained(few_shapes: "Dataset", run_folder: Path) -> "Callable[[str], Result]":
    """Return a function that runs a rung for two epochs with seed 0, once for all tests."""
    from builders import short_recipe

    from convspec.ladder.run import run_recipe

    return cache(lambda rung: run_recipe(short_recipe(rung), few_shapes, 0, run_folder))


@pytest.fixture(scope="session")
def case(few_shapes: "Dataset", tmp_path_factory: pytest.TempPathFactory) -> "Case":
    """Return a whole run at mini, on pictures and classes with hostile names, and its page."""
    from pages import write_whole_run

    return write_whole_run(tmp_path_factory.mktemp("page"), few_shapes)


PROGRAMS = "chromium", "chromium-browser", "google-chrome"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
PATIENCE = 600_000  # milliseconds, in place of Playwright's 30 seconds, which a busy machine may take


@pytest.fixture(scope="session")
def new_page() -> "Iterator[Callable[..., Page]]":
    """Return `Browser.new_page` of the system's Chromium; skip, and say what is missing, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if not (program := next(filter(None, map(shutil.which, PROGRAMS)), None)):
        pytest.skip(f"needs a browser: none of {', '.join(PROGRAMS)} is on the path (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=ARGUMENTS, timeout=PATIENCE)

        def open_page(**options: Any) -> "Page":
            page = chromium.new_page(**options)
            page.set_default_timeout(PATIENCE)
            return page

        yield open_page
        chromium.close()


@pytest.fixture
def no_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable name the folder of real data."""
    monkeypatch.delenv("CONVSPEC_DATA", raising=False)


@pytest.fixture
def rng() -> "np.random.Generator":
    """Return a generator that draws the same for every test, in whatever order they run."""
    import numpy as np

    return np.random.default_rng(5)


@pytest.fixture
def own_precision() -> "Iterator[None]":
    """Set the precision back at the end."""
    from convspec import backend

    before = backend.precision()
    yield
    backend.set_precision(before)
