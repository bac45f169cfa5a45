"""What a record says of the machine, of its speed, and of the memory that a run took."""

import platform
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import PIL
import psutil
import pytest
import simplejpeg

import convspec
from convspec import backend
from convspec import machine as machine_module
from convspec.machine import LOAD_AT_START, PROBE_SECONDS, PeakMemory, best_seconds, faster_precision, versions


def test_versions_are_those_of_the_imported_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a distribution: TensorFlow, for one, is installed as tensorflow, tensorflow-cpu or tf-nightly."""
    framework = __import__(backend.BACKEND)
    monkeypatch.setattr(framework, "__version__", "1.2.3-nightly")
    monkeypatch.delattr(cv2, "__version__")
    assert versions() == {
        "python": platform.python_version(),
        "convspec": convspec.__version__,
        "keras": keras.__version__,
        backend.BACKEND: "1.2.3-nightly",
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "opencv": "unknown",
        "simplejpeg": simplejpeg.__version__,
    }


def test_the_machine_is_described_by_processor_memory_and_versions() -> None:
    machine = machine_module.machine()
    assert machine["versions"] == versions()
    assert machine["accelerators"] == backend.accelerators()
    assert machine["threads"] == backend.threads()
    assert machine["cores_used"] == backend.cores()
    assert machine["backend"] == keras.backend.backend()
    assert machine["precision"] == backend.precision()
    assert machine["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.05)
    assert machine["processor"], "'unknown' where it is not known, never empty"
    assert machine["load_average"] == LOAD_AT_START, "of before this process was a load itself"
    assert len(LOAD_AT_START) == 3


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (SimpleNamespace(current=2596.106, min=0.0, max=3700.0), {"current": 2596, "max": 3700}),
        (SimpleNamespace(current=2596.106, min=0.0, max=0.0), {"current": 2596, "max": "unknown"}),
        (None, {"current": "unknown", "max": "unknown"}),
    ],
)
def test_an_unknown_clock_is_unknown_and_never_0(
    clock: object, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: clock)
    assert machine_module.machine()["processor_mhz"] == expected


@pytest.mark.parametrize("error", [NotImplementedError, FileNotFoundError])
def test_a_clock_that_cannot_be_read_is_unknown(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def cpu_freq() -> None:
        raise error("can't find current frequency file")

    monkeypatch.setattr(psutil, "cpu_freq", cpu_freq)
    assert machine_module.machine()["processor_mhz"] == {"current": "unknown", "max": "unknown"}


class NVMLError(Exception):
    """Stands for NVML's own error."""


def nvml(**answers: object) -> SimpleNamespace:
    """A library that knows GPUs by index or UUID and answers these questions only."""

    def ask(answer: object) -> Callable[..., object]:
        def function(*_: object) -> object:
            if answer is None:
                raise NVMLError
            return answer

        return function

    questions = ("Name", "MemoryInfo", "ClockInfo", "MaxClockInfo", "CurrentClocksThrottleReasons")
    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlSystemGetDriverVersion=ask(answers.get("driver")),
        **{f"nvmlDeviceGet{question}": ask(answers.get(question)) for question in questions},
    )


def test_a_gpu_is_described_by_memory_driver_clocks_and_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {"Name": "NVIDIA", "driver": "570.1", "ClockInfo": 345, "MaxClockInfo": 1980}
    answers |= {"MemoryInfo": SimpleNamespace(total=80 * 2**30), "CurrentClocksThrottleReasons": 0x1 | 0x4 | 0x40}
    monkeypatch.setattr(machine_module, "pynvml", nvml(**answers))
    assert machine_module._describe_gpu(0) == {
        "name": "NVIDIA",
        "memory_mib": 80 * 1024,
        "driver": "570.1",
        "mhz": {"current": 345, "max": 1980},
        "throttled": ["power cap", "hardware, thermal"],
    }


def test_what_a_gpu_does_not_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "pynvml", nvml())
    unknown = {"name", "memory_mib", "driver", "throttled"}
    expected = dict.fromkeys(unknown, "unknown") | {"mhz": {"current": "unknown", "max": "unknown"}}
    assert machine_module._describe_gpu(0) == expected


@pytest.mark.parametrize(
    ("visible", "expected"), [("", [0, 1]), ("3, GPU-b", [3, "GPU-b"])], ids=["all", "by index and UUID"]
)
def test_only_the_gpus_that_this_process_may_see_are_described(
    visible: str, expected: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "pynvml", nvml())
    monkeypatch.setattr(backend, "accelerators", lambda: ["NVIDIA"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine_module._gpus() == expected


@pytest.mark.parametrize("missing", ["library", "driver", "GPU"])
def test_without_nvml_or_a_gpu_the_accelerators_state_is_unknown(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = nvml()
    if missing == "driver":
        library.nvmlInit = library.nvmlSystemGetDriverVersion  # which raises
    monkeypatch.setattr(machine_module, "pynvml", None if missing == "library" else library)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "accelerators", lambda: [] if missing == "GPU" else ["NVIDIA"])
        assert machine_module._gpus() == []
    monkeypatch.setattr(backend, "accelerators", list)
    assert machine_module.machine()["accelerator_state"] == "unknown"


class FakeClock:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *durations: float) -> Callable[[], object]:
        """Return work that takes these seconds one after another, at last the last one for ever."""
        left = list(durations)

        def do() -> object:
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return keras.ops.ones(1)

        return do


def test_a_probe_warms_up_and_takes_the_fastest_of_three() -> None:
    clock = FakeClock()
    assert best_seconds(clock.work(0.25, 3.0, 1.5, 2.0, 0.1), clock) == 1.5, "the first is the warm-up"
    assert clock.now == 0.25 + 3.0 + 1.5 + 2.0


def test_quick_work_is_repeated_for_a_while() -> None:
    clock = FakeClock()
    assert best_seconds(clock.work(0.01), clock) == pytest.approx(0.01)
    assert clock.now == pytest.approx(PROBE_SECONDS + 0.01, abs=0.011), "and one more for the warm-up"


def test_a_clock_is_read_after_the_device_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    wait = clock.work(2.0)
    monkeypatch.setattr(backend, "synchronise", lambda value: wait())
    assert best_seconds(lambda: None, clock) == 2.0


@pytest.mark.parametrize(
    ("whole", "half", "expected"),
    [(1.0, 0.5, "mixed_bfloat16"), (1.0, 0.9, "float32"), (1.0, 1.6, "float32"), (0.01, 0.007, "mixed_bfloat16")],
)
def test_bfloat16_is_for_machines_that_convolve_faster_in_it(whole: float, half: float, expected: str) -> None:
    clock = FakeClock()
    assert faster_precision(clock.work(whole), clock.work(half), clock) == expected


@pytest.mark.parametrize(("precision", "element"), [("float32", 4), ("bfloat16", 2)])
def test_probes_count_two_flop_a_multiply_add_and_bytes_both_ways(precision: str, element: int) -> None:
    probes = machine_module.probes(precision)
    done = {name: work() for name, (work, _) in probes.items()}
    assert {keras.backend.standardize_dtype(result.dtype) for result in done.values()} == {precision}
    rows, columns = done["matrix_product"].shape
    maps = done["convolution"].shape
    assert rows == columns
    assert maps[-1] == 256, "as in the middle of VGG16"
    assert {name: amount for name, (_, amount) in probes.items()} == {
        "matrix_product": 2 * rows * columns * rows,
        "convolution": 2 * np.prod(maps) * 3 * 3 * 256,
        "copy": 2 * done["copy"].shape[0] * element,
    }


def test_a_probe_does_the_work_that_it_counts() -> None:
    """A result without the work, such as a view instead of a copy, would be counted as work."""
    probes = machine_module.probes("float32")
    product, maps, copied = (keras.ops.convert_to_numpy(probes[name][0]()) for name in probes)
    assert product.std() > 1, "of random numbers, as a GPU's clock follows the bits that change"
    assert maps.std() > 1
    assert np.array_equal(copied[: len(copied) // 2], copied[len(copied) // 2 :])
    assert copied.std() > 0.1


@pytest.mark.parametrize(("fast", "precisions"), [("float32", 1), ("mixed_bfloat16", 2)])
def test_the_machine_is_probed_in_every_precision_that_it_is_fast_in(
    fast: str, precisions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(machine_module, "fast_precision", lambda: fast)
    monkeypatch.setattr(machine_module, "probes", lambda precision: {"copy": (clock.work(2.0), 10.0)})
    figures = machine_module.probe(clock)
    assert figures == dict.fromkeys(["copy_float32", "copy_bfloat16"][:precisions], 5.0), "amount a second"


def test_peak_memory_is_the_largest_meanwhile() -> None:
    resident = [3 * 2**20]
    with PeakMemory(lambda: resident[0]) as memory:
        resident[0] = 7 * 2**20
        memory._sample()
        resident[0] = 2 * 2**20
    assert memory.mib == 7


def test_of_two_samples_at_once_none_is_lost() -> None:
    watching, over = threading.Event(), threading.Event()

    def resident() -> int:
        if threading.current_thread() is threading.main_thread():
            return 7 * 2**20
        watching.set()
        over.wait(0.2)
        return 3 * 2**20

    with PeakMemory(resident) as memory:
        memory.mib = 0.0
        watching.wait()
        memory._sample()
        over.set()
        memory.resident = lambda: 2**20
    assert memory.mib == 7


def test_memory_is_that_of_this_process_and_sampled_meanwhile() -> None:
    with PeakMemory() as memory:
        assert 50 < memory.mib < psutil.virtual_memory().total / 2**20, "Keras alone takes more than 50 MiB"
        assert memory._thread.is_alive()
    assert not memory._thread.is_alive()


@pytest.mark.parametrize(("peaks", "mib"), [([None] * 3, "unknown"), ([2**20, 7 * 2**20, 3 * 2**20], 7.0)])
def test_a_devices_peak_is_the_highest_sample_or_unknown(
    peaks: list[int | None], mib: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample falls where another context begins inside."""
    samples = iter(peaks)
    monkeypatch.setattr(backend, "device_memory", lambda: lambda: next(samples, peaks[-1]))
    with PeakMemory() as memory:
        memory._sample()
    assert memory.device_mib == mib
