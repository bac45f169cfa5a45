"""Work in several processes with a thread each.

Small networks leave cores idle, and in several threads their last bits depend on the number of cores.
"""

import pickle
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

from convspec import BadInput, backend
from convspec.data.datasets import Dataset
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
