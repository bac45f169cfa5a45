"""Sessions that share one report folder: at once, or after one that was killed."""

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import LADDER, put_shapes

from convspec.accuracy import baselines
from convspec.plugin.verdicts import NO_BASELINE

OK = pytest.ExitCode.OK

# Writes what a session's runs predicted to a file of its own, and a checkpoint after every epoch, and says so.
RECORDER = """
import json, os, pathlib
from convspec import training
from convspec.plugin.session import SESSION

training.CHECKPOINT_EVERY = 0.0
save = training.Checkpoint.save

def save_aloud(*arguments):
    save(*arguments)
    print("\\nsaved", flush=True)

training.Checkpoint.save = save_aloud

def pytest_runtestloop():
    print("ready", flush=True)

def pytest_sessionfinish(session):
    runs = {name: [[run.predicted, run.confidence, run.history] for run in group]
            for name, group in session.config.stash[SESSION].runs.items()}
    pathlib.Path(os.environ["RECORD"]).write_text(json.dumps(runs))
"""


def begin(folder: Path, record: Path, *arguments: str) -> subprocess.Popen:
    """Begin a session with one seed, whose report and baselines go to `folder`."""
    folder.mkdir(exist_ok=True)
    plugins = record.parent / "plugins"
    if not plugins.is_dir():  # else another session may be reading it
        plugins.mkdir(parents=True)
        (plugins / "recorder.py").write_text(RECORDER)
    command = [sys.executable, "-m", "pytest", LADDER, "-s", "-q", "-p", "no:cacheprovider", "-p", "recorder"]
    command += ["-k", "test_rung[ or test_the_accuracy", f"--rootdir={folder}", "-o", "convspec_baselines=baselines"]
    command += [f"--convspec-report={folder}", "--convspec-seeds=1", "--convspec-update-baselines", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(plugins), *sys.path]), "RECORD": str(record)}
    with record.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            command, cwd=record.parent, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )


def end(process: subprocess.Popen, record: Path, epochs: int | None = None, seconds: float | None = None) -> Any:
    """Return what the runs predicted; None where the session was killed, `seconds` after it had trained `epochs`."""
    assert process.stdout
    shown = [process.stdout.readline()]
    while shown[-1] not in ("ready\n", ""):
        shown.append(process.stdout.readline())
    assert shown[-1], f"{shown}, {process.wait()}: {record.with_suffix('.log').read_text()}"
    if epochs:
        saved = (line for line in process.stdout if line == "saved\n")
        next(islice(saved, epochs - 1, None), None)
    try:
        output = process.communicate(timeout=seconds)[0]
        assert process.returncode in (OK, NO_BASELINE), output + record.with_suffix(".log").read_text()
        return json.loads(record.read_text())
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None


def entries(folder: Path) -> set[str]:
    """Return the names of everything in a report folder, hidden or not."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def in_baselines(folder: Path) -> dict[str, list[int]]:
    return {run.name: run.predicted for run in baselines.read(folder / "baselines")}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_sessions_at_once_end_as_one_alone_and_leave_what_it_leaves(count: int, tmp_path: Path) -> None:
    options = f"--convspec-dataset={put_shapes(tmp_path / 'holiday')}", "--convspec-rungs=feature_extraction,fine_tuned"
    alone, together = tmp_path / "alone", tmp_path / "together"
    expected = end(begin(alone, tmp_path / "alone.json", *options), tmp_path / "alone.json")
    records = [tmp_path / f"{number}.json" for number in range(count)]
    sessions = [(begin(together, record, *options), record) for record in records]
    for process, record in sessions:
        assert end(process, record) == expected
    assert expected.keys() == {"feature_extraction", "fine_tuned"}
    assert in_baselines(together) == in_baselines(alone)
    assert entries(together) == entries(alone)
    assert not [name for name in entries(together) if "/." in name or name.startswith((".", "unfinished/"))]


@pytest.mark.slow
def test_sessions_killed_at_20_moments_end_in_the_predictions_of_one(tmp_path: Path) -> None:
    """All seven rungs; each session goes on from where the one before was killed."""
    expected = end(begin(tmp_path / "whole", tmp_path / "whole.json"), tmp_path / "whole.json")
    assert len(expected) == 7
    share = 3 * sum(len(history["loss"]) for ((_, _, history),) in expected.values()) // 20
    moments, killed, resumed, rungs = np.random.default_rng(0), 0, False, set[str]()
    folder, record = tmp_path / "killed", tmp_path / "killed.json"
    while killed < 20:
        recorded = end(begin(folder, record), record, int(moments.integers(share)), moments.uniform())
        assert recorded in (None, expected)
        killed += recorded is None
        resumed |= any((folder / "checkpoints").glob("*.npz"))
        rungs |= {file.name.partition("-")[0] for file in (folder / "unfinished").glob("*.json")}
        print(f"killed {killed}, finished so far: {sorted(rungs)}", flush=True)
    assert end(begin(folder, record), record) == expected
    assert resumed, "no kill came upon a checkpoint to go on from"
    assert len(rungs) > 2, "no kill came upon the later rungs"
    assert entries(folder) == entries(tmp_path / "whole")
