"""Run tests against copies of the package with one module rewritten: `python -m defects.server`.

A request is a line of JSON: the module's file (or null), its source, the tests, and a limit in seconds. Each runs in a
fork that has the heavy libraries imported but nothing of the package, and no TensorFlow runtime, which starts its
threads at the first operation: a process with one thread forks safely. The answer is a line of JSON: pytest's exit
code and the failures, each with its test, its phase and the lines that pytest marks with "E".
"""

import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIBRARIES = ("cv2", "hypothesis.extra.numpy", "jinja2", "keras", "matplotlib.figure", "scipy.signal", "scipy.stats")
PLUGINS = ("_hypothesis_pytestplugin", "_pytest.pytester", "pytest_benchmark.plugin", "xdist.plugin")
OPTIONS = ("-vv", "--no-header", "--maxfail=1", "--hypothesis-profile=first-example", "--slow")


class _Failures:
    """A pytest plugin that keeps what failed and why."""

    def __init__(self) -> None:
        self.kept: list[dict[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            text = report.longreprtext
            marked = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
            self.kept.append({"test": report.nodeid, "when": report.when or "", "message": "\n".join(marked) or text})

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.kept.append({"test": report.nodeid, "when": "collect", "message": report.longreprtext})


def _run(folder: Path, file: str | None, source: str, tests: list[str], limit: int) -> None:
    """Make a copy the package, here and in whatever the tests start, and run pytest; in the fork."""
    os.setpgid(0, 0)  # so that what it started can be ended with it
    signal.alarm(limit)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "convspec", folder / "convspec", copy_function=os.symlink, ignore=ignore)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")  # beside the package, where they are looked for
    if file:
        (folder / file).unlink()
        (folder / file).write_text(source)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    import convspec

    assert Path(convspec.__file__).is_relative_to(folder), "the copy must be what is tested"
    failures = _Failures()
    places = [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), f"--basetemp={folder / 'basetemp'}"]
    places.append(f"--convspec-report={folder / 'report'}")  # else the page of claims would be the defect's
    left_out = ["-p", "no:cacheprovider", "-p", "no:randomly"]
    code = pytest.main([*places, *left_out, *OPTIONS, *tests], plugins=[failures])
    (folder / "answer.json").write_text(json.dumps({"code": int(code), "failures": failures.kept}))


def _answer(request: dict) -> dict:
    with tempfile.TemporaryDirectory(prefix="convspec-defect-", ignore_cleanup_errors=True) as name:
        child = os.fork()
        if not child:
            try:
                _run(Path(name), **request)
                os._exit(0)
            except BaseException as error:
                (Path(name) / "error.txt").write_text(repr(error))
                os._exit(1)
        _, status = os.waitpid(child, 0)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what the tests left running
        answer, broken = Path(name) / "answer.json", Path(name) / "error.txt"
        if answer.is_file():
            return json.loads(answer.read_text())
        return {"code": -1, "failures": [], "error": broken.read_text() if broken.is_file() else f"status {status}"}


if __name__ == "__main__":
    # One thread only, see above: OpenBLAS starts its own at import.
    for module in (*LIBRARIES, *PLUGINS):
        import_module(module)
    gc.freeze()  # pytest collects garbage at its end, which would look through all of these in each fork
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 1
    print(json.dumps({"threads": threads}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
