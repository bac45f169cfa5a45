"""What this machine is, and what a run took of it."""

import platform
import threading
from importlib.metadata import version
from pathlib import Path

import cv2
import keras
import psutil

from convspec import gradients


def machine() -> dict[str, object]:
    """The facts that a record needs to be compared with another: processor, memory, accelerator, versions."""
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False) or "unknown",
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": gradients.accelerators(),
        "threads": gradients.threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": keras.backend.backend(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of everything that takes part in a result: pictures are decoded and warped outside Keras."""
    packages = ("convspec", "keras", keras.backend.backend(), "numpy", "pillow")
    found = {"python": platform.python_version()} | {name: version(name) for name in packages}
    return found | {"opencv": cv2.__version__}  # distributed under several names


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


class PeakMemory:
    """The largest resident memory of this process while the context was open, in MiB, sampled every 50 ms."""

    def __enter__(self) -> "PeakMemory":
        self.mib, self._process, self._done = 0.0, psutil.Process(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _sample(self) -> None:
        self.mib = max(self.mib, self._process.memory_info().rss / 2**20)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self._sample()
