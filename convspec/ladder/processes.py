"""Work in several processes with a thread each.

Small networks leave cores idle, and in several threads their last bits depend on the number of cores.
"""

import os
import pickle
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, wait
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import loky
import psutil
from loky.process_executor import TerminatedWorkerError

from convspec import BadInput, backend, machine
from convspec.data.datasets import Dataset
from convspec.files import atomic_write, room_for
from convspec.ladder.run import Run, train_once
from convspec.progress import bar

MEMORY_EACH = 2 << 30  # bytes that a process may need, half of them for the backend
ENVIRONMENT = dict.fromkeys(  # one thread, where TensorFlow, XLA, PyTorch, NumPy and SciPy look
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
) | {"LOKY_MAX_MEMORY_LEAK_SIZE": str(MEMORY_EACH)}  # a larger network is no leak


class Processes:
    """As many processes as there are cores and memory for; each job has a key."""

    def __init__(self, folder: Path, progress: TextIO | None = None) -> None:
        """Start none yet; `folder` is that of `run_recipe`, and `progress` shows how many jobs are done."""
        self.folder, self.progress = folder, progress
        room = psutil.virtual_memory().available // MEMORY_EACH
        self.count = max(min(loky.cpu_count(), room), 1)  # on two cores three took a tenth longer
        self._executor = self._start()
        self._jobs: dict[Hashable, loky.Future] = {}
        self._datasets, self._started = TemporaryDirectory(), time.time()

    def _start(self) -> loky.ProcessPoolExecutor:
        return loky.ProcessPoolExecutor(self.count, env=ENVIRONMENT, initializer=_end_with, initargs=(os.getpid(),))

    def begin(self, key: Hashable, task: Callable[[Run], Any], run: Run) -> None:
        """Let a task be done with a run after what was begun before it, unless that key is begun already.

        Raises BadInput where the pictures have no room.
        """
        if (job := self._jobs.get(key)) and not (job.done() and isinstance(job.exception(), TerminatedWorkerError)):
            return
        pictures = Path(self._datasets.name, run.dataset.fingerprint)
        if not pictures.is_file():
            with room_for("the pictures", pictures.parent, "the variable TMPDIR"), atomic_write(pictures) as new:
                new.write_bytes(pickle.dumps(run.dataset))
        fast = machine.fast_precision() if run.recipe.precision == "fast" else None
        call = _do, task, run._replace(dataset=None), pictures, backend.precision(), fast  # type: ignore[arg-type]
        try:
            self._jobs[key] = self._executor.submit(*call)
        except TerminatedWorkerError:  # where one was killed, all have ended
            self._executor = self._start()
            self._jobs[key] = self._executor.submit(*call)

    def train(self, file: Path, run: Run) -> None:
        """Begin to train; `file`, the key, is to keep the result."""
        self.begin(file, partial(train_once, file=file, folder=self.folder, processes=self.count), run)

    def result(self, key: Hashable) -> Any:
        """Wait for a job; raise what it raised, and BadInput where its process was killed."""
        with bar(len(self._jobs), "training", "run", self.progress) as shown:
            shown.n = [job.done() for job in self._jobs.values()].count(True)
            shown.start_t, shown.smoothing = self._started, 0  # the speed is that of all jobs
            while not self._jobs[key].done():
                running = [job for job in self._jobs.values() if not job.done()]
                shown.update(len(wait(running, return_when=FIRST_COMPLETED).done))
        try:
            return self._jobs[key].result()
        except TerminatedWorkerError as error:
            raise BadInput("a process that trained was killed: there may be too little memory") from error

    def close(self) -> None:
        """End what still runs; what it has trained is kept."""
        self._executor.shutdown(kill_workers=not all(job.done() for job in self._jobs.values()))
        self._datasets.cleanup()


def _end_with(session: int) -> None:
    """End this process when the session has ended, also where that was killed."""

    def watch() -> None:
        process = psutil.Process()
        while (parent := process.parent()) and parent.pid == session:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(task: Callable[[Run], Any], run: Run, pictures: Path, precision: backend.Precision, fast: str | None) -> Any:
    if backend.precision() != precision:
        backend.set_precision(precision)
    if fast:  # which this process might measure otherwise, with one thread and beside others
        machine.fast_precision = lambda: fast  # type: ignore[assignment]
    return task(run._replace(dataset=_read(pictures)))


@lru_cache(maxsize=2)
def _read(pictures: Path) -> Dataset:
    return pickle.loads(pictures.read_bytes())
