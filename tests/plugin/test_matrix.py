"""A gate's verdict in other people's projects: the wheel, installed, with the plugins and options that people use."""

import ctypes
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from _pytest.config import default_plugins, essential_plugins

from convspec.accuracy import baselines
from convspec.accuracy.judgement import results_from_predictions

ROOT = Path(__file__).parents[2]
LABELS = np.arange(1000) % 2
TEST = """
import pathlib

import numpy as np

here = pathlib.Path(__file__).parent

def test_model(accuracy_gate):
    accuracy_gate("model", np.load(here / "predicted.npy"), np.arange(1000) % 2)
"""
VERDICTS = {  # exit code, and how the summary begins
    "pass": (0, "model: pass: "),
    "regressed": (10, "model: regressed: "),
    "underpowered": (0, "model: underpowered: "),
    "no baseline": (11, "model: no baseline yet of model"),
}
STOPPED = {verdict: (2, VERDICTS[verdict][1]) for verdict in ("regressed", "no baseline")}  # a failure interrupts
SILENT = {verdict: (code, "") for verdict, (code, _) in VERDICTS.items()}
UNWRITABLE = {"no baseline": (4, "give a folder that can be written: convspec_baselines in the ini file")}
# The plugins of its own that pytest runs a test without.
LET_GO = sorted(set(default_plugins) - set(essential_plugins) - {"python", "terminal"})
CONFTEST = """
import pytest

NAMES = "scale dataset data_root weights rungs mode precision devices engine seeds margin report".split()

def pytest_addoption(parser):
    for name in NAMES:
        parser.addoption("--" + name.replace("_", "-"), dest=name, default="theirs")
        parser.addini(name, "theirs", default="theirs")
    parser.addoption("--update-baselines", action="store_true")

def pytest_configure(config):
    assert {config.getoption(name) for name in NAMES} == {config.getini(name) for name in NAMES} == {"theirs"}

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    item.user_properties += [("outcome", ["a"]), "alone"]
    outcome = yield
    setattr(item, "report_" + outcome.get_result().when, outcome.get_result())

@pytest.fixture(autouse=True)
def session(request):
    yield "theirs"
    assert request.node.report_call.when == "call"
"""


@dataclass(frozen=True)
class Circumstance:
    """What a project, or the way pytest is started in it, has that others don't."""

    options: str = ""
    plugin: str = ""  # module of a plugin that not every environment has
    variables: dict[str, str] = field(default_factory=dict)
    python: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    folder: str = "project"
    elsewhere: bool = False  # pytest is started in another folder
    read_only: bool = False
    endings: dict[str, tuple[int, str]] = field(default_factory=dict)  # where they are not those of VERDICTS


CIRCUMSTANCES = {
    "nothing else": Circumstance(),
    "all plugins that are installed": Circumstance(variables={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""}),
    "options, hooks and properties of their own": Circumstance(files={"conftest.py": CONFTEST}),
    "pytest-xdist": Circumstance("-p xdist -n 2", "xdist"),
    "pytest-xdist in a variable": Circumstance(variables={"PYTEST_ADDOPTS": "-p xdist -n 2"}, plugin="xdist"),
    "pytest-xdist with -x": Circumstance("-p xdist -n 1 -x", "xdist", endings=STOPPED),
    "pytest-randomly": Circumstance("-p randomly", "pytest_randomly"),
    "pytest-rerunfailures": Circumstance("-p rerunfailures --reruns 1", "pytest_rerunfailures"),
    "pytest-repeat": Circumstance("-p repeat --count 2", "pytest_repeat"),
    "pytest-html": Circumstance("-p metadata -p html -p html_fixtures --html report.html", "pytest_html"),
    "pytest-json-report": Circumstance("-p metadata -p pytest_jsonreport --json-report", "pytest_jsonreport"),
    "JUnit's XML": Circumstance("--junit-xml junit.xml"),
    "warnings are errors": Circumstance("-W error --strict-markers --strict-config", python=("-W", "error")),
    "without assertions": Circumstance(python=("-O",)),
    "none of pytest's plugins that it lets go": Circumstance(" ".join(f"-p no:{name}" for name in LET_GO)),
    "-p no:terminal": Circumstance("-p no:terminal", endings=SILENT),
    "--no-summary": Circumstance("--no-summary --tb no -qq"),
    "--collect-only": Circumstance("--co", endings=dict.fromkeys(VERDICTS, (0, ""))),
    "-x": Circumstance("-x"),
    "--stepwise": Circumstance("--sw", endings=STOPPED),
    "--last-failed": Circumstance("--lf"),
    "--failed-first": Circumstance("--ff"),
    "read-only root": Circumstance(read_only=True, endings=UNWRITABLE),
    "no git and no other command": Circumstance(variables={"PATH": ""}),
    "another working directory": Circumstance(elsewhere=True),
    "spaces and umlauts": Circumstance(folder="größere Übung 例"),
    "an ASCII terminal": Circumstance(folder="größere Übung 例", variables={"PYTHONIOENCODING": "ascii"}),
}
ONE_LESS = {f"-p no:{name}": Circumstance(f"-p no:{name}") for name in LET_GO}
FAST = {("nothing else", verdict) for verdict in VERDICTS} | {
    (name, "regressed")
    for name in (
        "all plugins that are installed", "options, hooks and properties of their own", "pytest-xdist",
        "none of pytest's plugins that it lets go", "read-only root",
    )
}  # fmt: skip
ROWS = [
    pytest.param(row, verdict, id=f"{name}: {verdict}", marks=[] if (name, verdict) in FAST else [pytest.mark.slow])
    for rows, verdicts in ((CIRCUMSTANCES, VERDICTS), (ONE_LESS, ("regressed",)))
    for name, row in rows.items()
    for verdict in verdicts
    if verdict != "underpowered" or name == "nothing else"  # elsewhere it ends as a pass does
]


def predict(runs: int, hard: int, generator: int) -> np.ndarray:
    """Return predictions of a model that is often wrong about the pictures below `hard`, a row for each run."""
    wrong = np.random.default_rng(generator).random((runs, 1000)) < np.where(np.arange(1000) < hard, 0.3, 0.001)
    return np.where(wrong, 1 - LABELS, LABELS)


BASELINES = {"pass": predict(5, 20, 0), "regressed": predict(5, 20, 0), "underpowered": predict(2, 500, 0)}
PREDICTED = {
    "pass": predict(5, 20, 1), "regressed": predict(5, 150, 1), "underpowered": predict(2, 500, 1),
    "no baseline": predict(5, 20, 1),
}  # fmt: skip


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has the wheel, and all packages of this one but for the editable convspec."""
    pytest.importorskip("hatchling", reason='hatchling builds the wheel: pip install "convspec[dev]"')
    folder = tmp_path_factory.mktemp("guest")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")], check=True)
    python = folder / "environment" / "bin" / "python"
    (wheel,) = folder.glob("convspec-*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *options, str(wheel)], check=True)
    (site,) = folder.glob("environment/lib/python*/site-packages")
    # A path in a .pth file is searched, but the .pth files there, such as that of an editable package, are not read.
    (site / "packages.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python


def make_project(folder: Path, verdict: str, files: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in (
        {"test_model.py": TEST, "test_other.py": "def test_other(): pass", "pytest.ini": ""} | files
    ).items():
        (folder / name).write_text(text)
    np.save(folder / "predicted.npy", PREDICTED[verdict])
    if verdict in BASELINES:
        for run in results_from_predictions("model", BASELINES[verdict], LABELS):
            baselines.write(folder / "tests" / "baselines", run)


def run_pytest(python: Path, row: Circumstance, folder: Path, here: Path) -> tuple[int, str]:
    """Return the exit code and what the terminal shows."""
    plugin = ["-p", "convspec"] if "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in row.variables else []
    paths = [str(folder)] if here != folder else []
    words = [*row.python, "-m", "pytest", *plugin, *row.options.split(), *paths]
    ended = run_python(python, words, here, row.variables, give_up_root_privilege if row.read_only else None)
    return ended.returncode, ended.stdout


def run_python(
    python: Path,
    words: Sequence[str],
    here: Path,
    variables: Mapping[str, str] = MappingProxyType({}),
    before: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    environment = inherited | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | dict(variables)
    return subprocess.run(
        [python, *words], cwd=here, env=environment, preexec_fn=before, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip


def give_up_root_privilege() -> None:
    """Let folders that may not be written be so for root, too (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0):
        raise OSError("prctl")


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Return a function that makes a folder read-only until the end of the test."""
    changed = []

    def change(folder: Path) -> None:
        changed.append(folder)
        folder.chmod(0o555)

    yield change
    for folder in changed:
        folder.chmod(0o755)


@pytest.mark.parametrize(("row", "verdict"), ROWS)
def test_a_gate_gives_its_verdict(
    row: Circumstance, verdict: str, guest: Path, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    if row.plugin:
        pytest.importorskip(row.plugin, reason=f'{row.plugin} is not installed: pip install "convspec[dev]"')
    make_project(folder := tmp_path / row.folder, verdict, row.files)
    if row.read_only:
        read_only(folder)
    code, text = run_pytest(guest, row, folder, tmp_path if row.elsewhere else folder)
    expected, words = row.endings.get(verdict, VERDICTS[verdict])
    assert code == expected, text
    assert words in text
    summary = text.partition("= accuracy against the baseline =")[2]
    assert summary.lstrip("=\n").startswith(words) if words.startswith("model: ") else not summary
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    files = list((folder / "tests" / "baselines").rglob("*.json"))
    assert len(files) == (len(BASELINES[verdict]) if verdict in BASELINES else 5 * (code in (2, 11)))
    assert not (folder / ".convspec").exists()


@pytest.mark.parametrize(
    "option", ["--lf", *(pytest.param(option, marks=pytest.mark.slow) for option in ("--ff", "--sw"))]
)
def test_what_failed_is_judged_again_until_it_is_mended(option: str, guest: Path, tmp_path: Path) -> None:
    make_project(folder := tmp_path / "project", "regressed", {})
    row = Circumstance(option)
    stopped = 2 if option == "--sw" else 10
    assert run_pytest(guest, Circumstance(), folder, folder)[0] == 10
    code, text = run_pytest(guest, row, folder, folder)
    assert (code, "model: regressed: " in text) == (stopped, True)
    np.save(folder / "predicted.npy", PREDICTED["pass"])
    code, text = run_pytest(guest, row, folder, folder)
    assert (code, "model: pass: " in text) == (0, True)


def test_the_plugin_comes_from_the_wheel_by_its_entry_point(guest: Path, tmp_path: Path) -> None:
    make_project(folder := tmp_path / "project", "pass", {})
    row = Circumstance("--trace-config", variables={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": ""})
    _, text = run_pytest(guest, row, folder, folder)
    (line,) = (line for line in text.splitlines() if line.strip().startswith("convspec "))
    assert str(guest.parents[1] / "lib") in line
    assert "hooks.py" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("pytest -p convspec --pyargs convspec --co", 0, "<Function test_rung[fine_tuned]>"),
        ("pytest -p convspec -p benchmark --pyargs convspec --benchmark-only", 4, "--benchmark-only would leave out"),
        ("pytest -p convspec -p xdist --pyargs convspec -n 2", 4, "run it without pytest-xdist"),
        ("convspec ladder pictures -- -p convspec -p xdist -n 2", 4, "run it without pytest-xdist"),
    ],
)
def test_the_installed_ladder_is_found_or_refused_before_it_trains(
    command: str, code: int, words: str, guest: Path, tmp_path: Path
) -> None:
    for name in ("project/pictures/a", "project/pictures/b"):
        (tmp_path / name).mkdir(parents=True)
    ended = run_python(guest, ["-m", *command.split()], tmp_path / "project")
    assert (ended.returncode, words in ended.stdout) == (code, True), ended.stdout
    assert not list(tmp_path.rglob("*.keras"))


@pytest.mark.slow
def test_pytest_itself_runs_without_each_of_those_plugins(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    control = [sys.executable, "-m", "pytest", "-p", "no:convspec"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    for name in [*LET_GO, "terminal", "python"]:
        ended = subprocess.run([*control, "-p", f"no:{name}"], cwd=tmp_path, env=environment, capture_output=True)
        assert (ended.returncode == 0) == (name != "python"), name
