"""Sessions whose runs train in several processes: what is begun ahead, and what an interruption leaves."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from builders import assert_end, put_shapes

from convspec import backend
from convspec.plugin.checks import LADDER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(backend.cores() == 1, reason="on one core runs train in the session"),
]


def command(folder: Path, *arguments: str) -> list[str]:
    options = f"--convspec-dataset={put_shapes(folder / 'pictures')}", "--convspec-seeds=2", "-p", "no:cacheprovider"
    return [sys.executable, "-m", "pytest", str(LADDER), "--rootdir", str(folder), *options, *arguments]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the backend have all its threads, which a worker of pytest-xdist has not."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_only_rungs_whose_tests_are_selected_are_trained(tmp_path: Path) -> None:
    selection = "-k", "test_rung[dense_baseline] or test_rung[feature_extraction]"
    done = subprocess.run(command(tmp_path, *selection), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    trained = [file.name.partition("-pictures")[0] for file in (tmp_path / ".convspec" / "models").glob("*.keras")]
    assert sorted(trained) == ["dense_baseline", "dense_baseline", "feature_extraction", "feature_extraction"]
    assert "timed in one thread each, " in done.stdout


def test_an_interrupted_session_ends_its_processes_and_keeps_their_runs(tmp_path: Path) -> None:
    words = command(tmp_path, "--convspec-rungs=dense_baseline,from_scratch,augmented", "-k", "test_rung[")
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell runs in the background ignores it
    session = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, preexec_fn=heed)
    kept = tmp_path / ".convspec" / "unfinished"
    while not list(kept.glob("*.json")):
        assert session.poll() is None, session.stdout and session.stdout.read()
        time.sleep(0.05)
    processes = psutil.Process(session.pid).children(recursive=True)
    session.send_signal(signal.SIGINT)  # to the session alone; a terminal sends it to all of them
    printed, _ = session.communicate()
    assert session.returncode == pytest.ExitCode.INTERRUPTED, printed
    assert "interrupted: the same command goes on from here" in printed
    assert_end(process.pid for process in processes)
    before = [json.loads(file.read_text())["seconds"] for file in kept.glob("*.json")]
    assert len(before) < 6, "the session went on until all were trained"
    record = json.loads((kept.parent / "ladder.json").read_text())
    assert 0 < sum(map(len, record["unfinished"].values())) <= len(before), "the page says which are kept"
    assert subprocess.run(words, cwd=tmp_path, capture_output=True).returncode == 0
    runs = json.loads((tmp_path / ".convspec" / "ladder.json").read_text())["runs"]
    assert len(runs) == 6
    assert all(seconds in [run["seconds"] for run in runs] for seconds in before), "as they were"
