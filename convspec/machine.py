"""What this machine is and what it reaches, and what a run took of it. What cannot be known is "unknown", never 0."""

import functools
import os
import platform
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import psutil

from convspec import backend

try:
    import pynvml  # of nvidia-ml-py, which the extra "gpu" brings
except ImportError:
    pynvml = None

POWERCAP = Path("/sys/class/powercap")  # the processor's energy counters under Linux
LOAD_AT_START = [round(load, 2) for load in psutil.getloadavg()]  # later, this process is part of the load itself
THROTTLING = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software, thermal",
    0x40: "hardware, thermal",
    0x80: "hardware, power brake",
}  # of NVML's reasons for lower clocks, those that are not anybody's setting
PROBE_SECONDS = 0.3  # for each probe, and never fewer than three repetitions


def machine() -> dict[str, object]:
    """The facts that a record needs to be compared with another: processor, memory, accelerator, load, versions.

    Clocks are in MHz, the load averages those of 1, 5 and 15 minutes when convspec was imported, `precision` is that
    of `gradients.precision`. What is not told is "unknown".
    """
    clock = psutil.cpu_freq()
    return {
        "processor": _processor(),
        "processor_mhz": {name: round(getattr(clock, name, 0)) or "unknown" for name in ("current", "max")},
        "cores": psutil.cpu_count(logical=False) or "unknown",
        "cores_used": backend.cores(),
        "load_average": LOAD_AT_START,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": backend.accelerators(),
        "accelerator_state": [_state(gpu) for gpu in _gpus()] or "unknown",
        "threads": backend.threads(),
        "precision": backend.precision(),
        "system": f"{platform.system()} {platform.machine()}",
        "backend": keras.backend.backend(),
        "versions": versions(),
    }


@functools.cache
def fast_precision() -> str:
    """A Keras dtype policy: "mixed_bfloat16" where a convolution in bfloat16 takes this machine less than three
    quarters of the time that one in float32 takes, else "float32". Measured once a process, in some 2 seconds.

    What a processor says of itself does not tell: with the flag avx512_bf16 one was measured at 2.0, another at 0.6
    times the speed of float32.
    """
    whole, half = (probes(precision)["convolution"][0] for precision in ("float32", "bfloat16"))
    in_turn = [(_seconds(whole), _seconds(half)) for _ in range(3)]  # so that other work slows both
    times = [min(seconds) for seconds in zip(*in_turn, strict=True)]
    return "mixed_bfloat16" if times[1] < 0.75 * times[0] else "float32"


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


def _gpus() -> list[Any]:
    """NVML's handles of the GPUs that the backend may use; empty where there is none, or NVML is not to be had."""
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


def _told(question: Callable[..., Any], *about: Any) -> Any:
    """NVML's answer; "unknown" where it has none, as each model answers some questions only."""
    try:
        return question(*about)
    except pynvml.NVMLError:
        return "unknown"


def _state(gpu: Any) -> dict[str, Any]:
    """What NVML tells of one GPU: MiB, MHz, and why its clocks are lower than they could be."""
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, gpu)
    reasons = _told(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu)
    return {
        "name": _told(pynvml.nvmlDeviceGetName, gpu),
        "memory_mib": memory if memory == "unknown" else memory.total // 2**20,
        "driver": _told(pynvml.nvmlSystemGetDriverVersion),
        "mhz": {
            "current": _told(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
            "max": _told(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        },
        "throttled": reasons if reasons == "unknown" else [why for bit, why in THROTTLING.items() if reasons & bit],
    }


def probes(precision: str) -> dict[str, tuple[Callable[[], Any], float]]:
    """Work of a convnet's kind through the running backend, in "float32" or "bfloat16": how to do it once, and how
    much that is.

    "matrix_product" and "convolution" (3x3, 256 to 256 channels, as in the middle of VGG16) in FLOP, a multiply-add
    being two; "copy" in bytes, read and written. Sizes are such that a GPU, or a few cores, are kept busy.
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


def probe() -> dict[str, float]:
    """What this machine reaches at each of `probes`, in FLOP/s or bytes/s: {"matrix_product_float32": ...}, and in
    bfloat16 where `fast_precision` has it. Takes 2 to 5 seconds.
    """
    precisions = dict.fromkeys(("float32", fast_precision().removeprefix("mixed_")))
    return {
        f"{name}_{precision}": amount / _seconds(work)
        for precision in precisions
        for name, (work, amount) in probes(precision).items()
    }


def _seconds(work: Callable[[], Any]) -> float:
    """Of the fastest of several repetitions, as whatever else the machine does can only slow them."""
    backend.synchronise(work())  # a warm-up: kernels are chosen, memory is taken
    times: list[float] = []
    while len(times) < 3 or sum(times) < PROBE_SECONDS:
        start = time.perf_counter()
        backend.synchronise(work())
        times.append(time.perf_counter() - start)
    return min(times)


class PeakMemory:
    """The largest memory in use while the context was open, in MiB, sampled every 50 ms: `mib` resident in this
    process, `device_mib` on the first accelerator as the backend tells it, or "unknown".
    """

    def __enter__(self) -> "PeakMemory":
        self.mib, self._process, self._done = 0.0, psutil.Process(), threading.Event()
        self.device_mib: float | str = "unknown"
        self._device = backend.device_memory()
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
        if device := self._device():  # itself a peak; the largest of them, as another context inside begins it anew
            before = self.device_mib if isinstance(self.device_mib, float) else 0.0
            self.device_mib = max(before, device / 2**20)

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self._sample()


class Energy:
    """What was taken while the context was open, by whatever ran: `joules` of the GPUs that the backend may use, or
    where it uses none of the processor (under Linux, to who may read it; right for up to some 40 minutes, in which its
    counter starts anew once at most), else "unknown".
    """

    joules: float | str = "unknown"

    def __enter__(self) -> "Energy":
        self._before = _counters()
        return self

    def __exit__(self, *_: object) -> None:
        after = _counters()
        if after and after.keys() == self._before.keys():
            taken = ((joules - self._before[name][0]) % wraps for name, (joules, wraps) in after.items())
            self.joules = sum(taken)


def _counters() -> dict[str, tuple[float, float]]:
    """Joules on each energy counter, and at how many it starts anew; empty where one cannot be read."""
    if backend.accelerators():
        told = [_told(pynvml.nvmlDeviceGetTotalEnergyConsumption, gpu) for gpu in _gpus()]
        return {} if "unknown" in told else {str(place): (joules / 1e3, inf) for place, joules in enumerate(told)}

    def joules(file: Path) -> float:
        return int(file.read_text()) / 1e6

    try:
        return {
            zone.name: (joules(zone / "energy_uj"), joules(zone / "max_energy_range_uj"))
            for zone in POWERCAP.glob("intel-rapl:*")  # AMD's processors have it, too
            if (zone / "name").read_text().startswith("package")
        }
    except OSError:  # the superuser's alone on most systems
        return {}
