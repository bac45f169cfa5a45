"""Machine description, speed probes and memory use. An unknown value is "unknown", never 0."""

import functools
import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import cv2
import keras
import numpy as np
import PIL
import psutil
import simplejpeg

from convspec import __version__, backend
from convspec.accuracy.judgement import processor

try:
    import pynvml  # of nvidia-ml-py, which the extra "gpu" brings
except ImportError:
    pynvml = None

LOAD_AT_START = [round(load, 2) for load in psutil.getloadavg()]  # later, this process is part of the load itself
THROTTLING = {  # NVML's reasons for lower clocks, without those that somebody set
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software, thermal",
    0x40: "hardware, thermal",
    0x80: "hardware, power brake",
}
PROBE_SECONDS = 0.3  # for each probe, and never fewer than three repetitions

Clock = Callable[[], float]
Work = Callable[[], Any]


def machine() -> dict[str, object]:
    """Return what a record needs to be compared with another: processor, memory, accelerators, load, versions.

    Clocks are in MHz, `load_average` is that of 1, 5 and 15 minutes when convspec was imported, `precision` that of
    `backend.precision`.
    """
    clock = None
    with suppress(NotImplementedError, OSError):  # psutil's, where the system has no file for a core's clock
        clock = psutil.cpu_freq()
    return {
        "processor": processor(),
        "processor_mhz": {name: round(getattr(clock, name, 0)) or "unknown" for name in ("current", "max")},
        "cores": psutil.cpu_count(logical=False) or "unknown",
        "cores_used": backend.cores(),
        "load_average": LOAD_AT_START,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": backend.accelerators(),
        "accelerator_state": [_describe_gpu(gpu) for gpu in _gpus()] or "unknown",
        "threads": backend.threads(),
        "precision": backend.precision(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": backend.BACKEND,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the modules that take part in a result, under whatever name they were installed."""
    framework = {backend.BACKEND: import_module(backend.BACKEND)}
    decoders = {"pillow": PIL, "opencv": cv2, "simplejpeg": simplejpeg}
    modules = {"keras": keras, **framework, "numpy": np, **decoders}
    others = {name: str(getattr(module, "__version__", "unknown")) for name, module in modules.items()}
    return {"python": platform.python_version(), "convspec": __version__} | others


def _gpus() -> list[Any]:
    """Return NVML's handles of the GPUs that the backend may use; none where NVML is missing."""
    if pynvml is None or not backend.accelerators():
        return []
    try:
        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(pynvml.nvmlDeviceGetCount())))
        return [
            pynvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(name)
            for name in visible.replace(" ", "").split(",")
        ]
    except pynvml.NVMLError:
        return []


def _describe_gpu(gpu: Any) -> dict[str, Any]:
    """Return name, memory in MiB, driver, clocks in MHz, and why the clocks are lower than they could be."""

    def ask(question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(*about)
        except pynvml.NVMLError:  # each model of GPU answers some questions only
            return "unknown"

    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, gpu)
    reasons = ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
    return {
        "name": ask(pynvml.nvmlDeviceGetName, gpu),
        "memory_mib": memory if memory == "unknown" else memory.total // 2**20,
        "driver": ask(pynvml.nvmlSystemGetDriverVersion),
        "mhz": {
            "current": ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
            "max": ask(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        },
        "throttled": reasons if reasons == "unknown" else [why for bit, why in THROTTLING.items() if reasons & bit],
    }


@functools.cache
def fast_precision() -> str:
    """Return the faster dtype policy on this machine, "mixed_bfloat16" or "float32"; measured once, in 2 seconds."""
    if not backend.computes("bfloat16"):
        return "float32"
    return faster_precision(*(probes(precision)["convolution"][0] for precision in ("float32", "bfloat16")))


def faster_precision(whole: Work, half: Work, clock: Clock = time.perf_counter) -> str:
    """Return "mixed_bfloat16" where `half` takes less than three quarters of the time of `whole`, else "float32".

    A processor's flags do not tell: with avx512_bf16 one was measured at 2.0, another at 0.6 times float32's speed.
    """
    in_turn = [(best_seconds(whole, clock), best_seconds(half, clock)) for _ in range(3)]  # other work slows both
    slow, quick = np.min(in_turn, axis=0)
    return "mixed_bfloat16" if quick < 0.75 * slow else "float32"


def probes(precision: str) -> dict[str, tuple[Work, float]]:
    """Return work like a convnet's in "float32" or "bfloat16": a function that does it once, and its amount.

    "matrix_product" and "convolution" (3x3, 256 to 256 channels, as in the middle of VGG16) in FLOP, a multiply-add
    being two; "copy" in bytes, read and written. The sizes keep a GPU, or a few cores, busy.
    """
    side, batch, length = (8192, 256, 2**28) if backend.accelerators() else (2048, 8, 2**23)
    draw, ops = np.random.default_rng(0), keras.ops  # not Keras's own generator, whose state others' results follow
    matrix, maps, kernel, block = (
        ops.cast(draw.random(shape, np.float32), precision)
        for shape in ((side, side), (batch, 32, 32, 256), (3, 3, 256, 256), (length,))
    )
    element = 4 if precision == "float32" else 2
    return {
        "matrix_product": (lambda: ops.matmul(matrix, matrix), 2 * side**3),
        "convolution": (lambda: ops.conv(maps, kernel, padding="same"), 2 * batch * 32 * 32 * 9 * 256 * 256),
        "copy": (lambda: ops.concatenate([block, block]), 2 * 2 * length * element),
    }


def probe(clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return this machine's speed at each of `probes`, in FLOP/s or bytes/s: {"matrix_product_float32": ...}.

    Includes bfloat16 where that is the `fast_precision`. Takes 2 to 5 seconds.
    """
    precisions = dict.fromkeys(("float32", fast_precision().removeprefix("mixed_")))
    return {
        f"{name}_{precision}": amount / best_seconds(work, clock)
        for precision in precisions
        for name, (work, amount) in probes(precision).items()
    }


def best_seconds(work: Work, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of the fastest of several repetitions, as other work can only slow them."""
    backend.synchronise(work())  # a warm-up: kernels are chosen, memory is taken
    times: list[float] = []
    while len(times) < 3 or sum(times) < PROBE_SECONDS:
        start = clock()
        backend.synchronise(work())
        times.append(clock() - start)
    return min(times)


class PeakMemory:
    """Peak memory in MiB while the context is open, sampled every 50 ms.

    `mib` is resident in this process, `device_mib` on the first accelerator, or "unknown".
    """

    def __init__(self, resident: Callable[[], int] = lambda: psutil.Process().memory_info().rss) -> None:
        self.resident, self._lock = resident, threading.Lock()

    def __enter__(self) -> "PeakMemory":
        self.mib, self._closed = 0.0, threading.Event()
        self.device_mib: float | str = "unknown"
        self._device_peak = backend.device_memory()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self._sample()

    def _sample(self) -> None:
        with self._lock:  # of two samples at once one might be lost
            self.mib = max(self.mib, self.resident() / 2**20)
            if peak := self._device_peak():  # the largest of them, as another context inside begins it anew
                before = self.device_mib if isinstance(self.device_mib, float) else 0.0
                self.device_mib = max(before, peak / 2**20)

    def _watch(self) -> None:
        while not self._closed.wait(0.05):
            self._sample()
