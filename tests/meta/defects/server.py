"""Runs parts of the specification against rewritten copies of the package: `python -m defects.server`.

Requests are lines of JSON: the module (None for none), its rewritten source, and pytest's arguments. Each is run in a
fork that has the heavy libraries imported but nothing of the package and no TensorFlow runtime, which starts its
threads at the first operation: a process with one thread forks safely. The answer is a line of JSON: the exit code
and the failures, each with its test, its phase and the lines that pytest marks with "E".
"""

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMIT = 240  # seconds; a fault that hangs the specification is no failure that points at it


class _Failures:
    """A pytest plugin that keeps what failed and why."""

    def __init__(self) -> None:
        self.found: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            text = report.longreprtext
            marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
            self.found.append({"test": report.nodeid, "when": report.when or "", "message": "\n".join(marked) or text})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.found.append({"test": report.nodeid, "when": "collect", "message": report.longreprtext})


def _copy(folder: Path, module: str | None, source: str) -> None:
    """The package in `folder`, by links, but for the module that is rewritten."""
    package = folder / "convspec"
    shutil.copytree(ROOT / "convspec", package, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    if module:
        (package / f"{module}.py").unlink()
        (package / f"{module}.py").write_text(source)


def _run(folder: Path, module: str | None, source: str, arguments: list[str]) -> None:
    """In the fork: make the copy the package, here and in whatever the tests start, and run pytest."""
    os.setpgid(0, 0)  # so that a run that hangs can be ended with all that it started
    signal.alarm(LIMIT)
    _copy(folder, module, source)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT / "tests")])
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    import convspec

    assert Path(convspec.__file__).is_relative_to(folder), "the copy must be what is tested"
    failures = _Failures()
    basetemp = folder / "basetemp"
    standard = [
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
        f"--basetemp={basetemp}",
        "--no-header",
        "-vv",
    ]
    standard += ["-p", "no:cacheprovider", "-p", "no:randomly", "--maxfail=1", "--hypothesis-profile=first-example"]
    code = pytest.main([*standard, *arguments], plugins=[failures])
    (folder / "answer.json").write_text(json.dumps({"code": int(code), "failures": failures.found}))


def _answer(request: dict) -> dict:
    with tempfile.TemporaryDirectory(prefix="convspec-defect-") as name:
        child = os.fork()
        if not child:
            try:
                _run(Path(name), request["module"], request["source"], request["arguments"])
                os._exit(0)
            except BaseException as error:
                (Path(name) / "error.txt").write_text(repr(error))
                os._exit(1)
        _, status = os.waitpid(child, 0)
        answer, broken = Path(name) / "answer.json", Path(name) / "error.txt"
        if answer.is_file():
            return json.loads(answer.read_text())
        return {"code": -1, "failures": [], "error": broken.read_text() if broken.is_file() else f"status {status}"}


if __name__ == "__main__":
    # One thread only, see above: OpenBLAS starts its own at import. The libraries are imported for the forks.
    for library in ("cv2", "keras", "matplotlib.figure", "scipy.signal", "scipy.stats"):
        import_module(library)
    for plugin in ("_hypothesis_pytestplugin", "_pytest.pytester", "pytest_benchmark.plugin", "xdist.plugin"):
        import_module(plugin)
    gc.freeze()  # pytest collects garbage at its end, which would look through all of these in each fork
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 1
    print(json.dumps({"threads": threads}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
