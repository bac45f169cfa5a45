"""Runs in several processes are those of one thread, fail one by one, and survive the death of a process."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import pytest
from builders import assert_end, short_recipe

from convspec import BadInput, machine
from convspec.data.datasets import Dataset
from convspec.ladder.processes import Processes
from convspec.ladder.result import Result
from convspec.ladder.run import Run, run_key

pytestmark = pytest.mark.slow  # each process imports the backend


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.close()


def test_results_are_kept_and_do_not_depend_on_what_ran_before(
    processes: Processes, few_shapes: Dataset, tmp_path: Path
) -> None:
    runs = {tmp_path / f"{seed}.json": Run(short_recipe("from_scratch"), few_shapes, seed, None) for seed in range(3)}
    for file, run in runs.items():
        processes.train(file, run)
    results = [processes.result(file) for file in runs]
    assert [Result.load(file) for file in runs] == results
    assert {(result.machine["threads"], result.machine["processes"]) for result in results} == {(1, processes.count)}
    alone = Processes(tmp_path / "alone")
    alone.train(again := tmp_path / "again.json", runs[tmp_path / "2.json"])
    assert (alone.result(again).history, alone.result(again).confidence) == (results[2].history, results[2].confidence)
    alone.close()


def test_what_a_run_raises_is_raised_for_that_run_alone(
    processes: Processes, few_shapes: Dataset, tmp_path: Path
) -> None:
    recipe = short_recipe("dense_baseline")
    diverging = replace(recipe, learning_rate=1e38)
    processes.train(bad := tmp_path / "bad.json", Run(diverging, few_shapes, 0, None))
    processes.train(good := tmp_path / "good.json", Run(recipe, few_shapes, 0, None))
    with pytest.raises(BadInput, match=r"^dense_baseline seed 0: the loss is no number any more"):
        processes.result(bad)
    assert processes.result(good).recipe == recipe
    assert not bad.exists()


@pytest.mark.parametrize("measured", ["float32", "mixed_bfloat16"])
def test_the_fast_precision_is_the_one_that_the_session_measured(
    measured: str, processes: Processes, few_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two runs of a rung may differ in it, and a session look for a model under another key."""
    monkeypatch.setattr(machine, "fast_precision", lambda: measured)
    run = Run(short_recipe("feature_extraction_fast"), few_shapes, 0, None)
    processes.begin("key", lambda run: run_key(*run), run)
    assert processes.result("key") == run_key(*run)


KILLED = """
import os, signal, time
from pathlib import Path

import psutil

from convspec.data.datasets import load_dataset
from convspec.ladder.processes import Processes
from convspec.ladder.run import Run
from convspec.ladder.rungs import find_recipe

processes = Processes(Path("runs"))
run = Run(find_recipe("dense_baseline", "mini"), load_dataset("digits", 28), 0, None)
processes.begin("begun", lambda run: None, run)
processes.result("begun")
processes.begin("sleeping", lambda run: __import__("time").sleep(600), run)
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_end_with_a_session_that_was_killed(tmp_path: Path) -> None:
    with open(tmp_path / "numbers", "w+") as file:  # what lives on would keep a pipe open
        done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, stdout=file)
        assert done.returncode == -signal.SIGKILL
        file.seek(0)
        numbers = file.read().split()
    assert numbers, "it had processes"
    assert_end(map(int, numbers))


@pytest.mark.parametrize("waited_for", [True, False])
def test_what_a_killed_process_was_to_do_can_be_begun_again(
    waited_for: bool, processes: Processes, few_shapes: Dataset, tmp_path: Path
) -> None:
    """A process may be killed while the session does something else."""
    run = Run(short_recipe("dense_baseline"), few_shapes, 0, None)
    processes.begin("killed", lambda _: os.kill(os.getpid(), signal.SIGKILL), run)
    if waited_for:
        with pytest.raises(BadInput, match=r"^a process that trained was killed: there may be too little memory$"):
            processes.result("killed")
    else:
        futures.wait(processes._jobs.values())
    processes.train(tmp_path / "next.json", run)
    assert processes.result(tmp_path / "next.json").seed == 0
    processes.begin("killed", lambda _: "done", run)
    assert processes.result("killed") == "done"


def test_a_full_temporary_folder_is_one_line_and_leaves_no_half_pictures(
    processes: Processes, few_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(short_recipe("dense_baseline"), few_shapes, 0, None)

    def fill_disk(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill_disk)
        with pytest.raises(BadInput, match=r"^no room for the pictures in .*another folder with the variable TMPDIR"):
            processes.begin("key", lambda run: run.dataset.fingerprint, run)
    processes.begin("key", lambda run: run.dataset.fingerprint, run)
    assert processes.result("key") == few_shapes.fingerprint
