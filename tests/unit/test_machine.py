"""What a record says of the machine, of what it reaches, and of the memory and energy that a run took."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import PIL
import psutil
import pytest

import convspec
from convspec import backend
from convspec import machine as machine_module
from convspec.machine import LOAD_AT_START, PROBE_SECONDS, Energy, PeakMemory, fast_precision, probe, time, versions


class Untold(Exception):
    """In the place of NVML's own error."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with two GPUs, "0" and "GPU-b", as NVML tells of them; not of the maximum clock of the second."""

    def most(gpu: str, clock: str) -> int:
        if gpu == "GPU-b":
            raise Untold
        return {"SM": 1980}[clock]

    joules = {"0": iter(range(1000, 9000, 1500)), "GPU-b": iter(range(0, 9000, 2000))}
    fake = SimpleNamespace(
        NVMLError=Untold,
        NVML_CLOCK_SM="SM",
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: str(index),
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetName=lambda gpu: f"NVIDIA {gpu}",
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=80 * 2**30, used=1, free=2),
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetClockInfo=lambda gpu, clock: {"SM": 345}[clock],
        nvmlDeviceGetMaxClockInfo=most,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda gpu: 0x1 | 0x4 | 0x40,
        nvmlDeviceGetTotalEnergyConsumption=lambda gpu: next(joules[gpu]),
    )
    monkeypatch.setattr(machine_module, "pynvml", fake)
    monkeypatch.setattr(backend, "accelerators", lambda: ["NVIDIA"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the energy counters, in microjoules, of two processor packages; a core's part and the whole board's, which
    are not to be added, stand beside them.
    """
    monkeypatch.setattr(machine_module, "POWERCAP", tmp_path)
    monkeypatch.setattr(backend, "accelerators", list)

    def counters(first: int, second: int) -> None:
        zones = [("intel-rapl:0", "package-0", first), ("intel-rapl:1", "package-1", second)]
        for zone, name, energy in [*zones, ("intel-rapl:0:0", "core", 3 * first), ("intel-rapl:2", "psys", 5 * first)]:
            (tmp_path / zone).mkdir(exist_ok=True)
            for file, text in (("name", f"{name}\n"), ("energy_uj", energy), ("max_energy_range_uj", 10_000_000)):
                (tmp_path / zone / file).write_text(str(text))

    return counters


def test_versions_are_those_of_what_was_imported() -> None:
    found = versions()
    expected = {
        "python": platform.python_version(),
        "convspec": convspec.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "opencv": cv2.__version__,
    }
    assert expected.items() <= found.items()
    assert keras.backend.backend() in found


def test_the_machine_is_described_by_processor_memory_accelerators_and_versions() -> None:
    machine = machine_module.machine()
    assert machine["versions"] == versions()
    assert machine["accelerators"] == backend.accelerators()
    assert machine["threads"] == backend.threads()
    assert machine["cores_used"] == backend.cores()
    assert machine["backend"] == keras.backend.backend()
    assert machine["precision"] == keras.config.dtype_policy().name
    assert machine["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.05)
    assert machine["processor"], "'unknown' where it is not known, never empty"
    assert machine["load_average"] == LOAD_AT_START, "of before this process was a load itself"
    assert len(LOAD_AT_START) == 3


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (SimpleNamespace(current=2596.106, min=0.0, max=3700.0), {"current": 2596, "max": 3700}),
        (SimpleNamespace(current=2596.106, min=0.0, max=0.0), {"current": 2596, "max": "unknown"}),
        (None, {"current": "unknown", "max": "unknown"}),
    ],
)
def test_a_clock_that_the_system_does_not_tell_is_unknown_and_never_0(
    told: object, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_freq", lambda: told)
    assert machine_module.machine()["processor_mhz"] == expected


def test_a_gpu_is_described_by_memory_driver_clocks_and_what_slows_it(nvml: SimpleNamespace) -> None:
    assert machine_module.machine()["accelerator_state"] == [
        {
            "name": "NVIDIA 0",
            "memory_mib": 80 * 1024,
            "driver": "570.1",
            "mhz": {"current": 345, "max": 1980},
            "throttled": ["power cap", "hardware, thermal"],
        }
    ]


def test_only_the_gpus_that_this_process_may_see_are_described(
    nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-b")
    states: Any = machine_module.machine()["accelerator_state"]
    assert [state["name"] for state in states] == ["NVIDIA 3", "NVIDIA GPU-b"]
    assert states[1]["mhz"] == {"current": 345, "max": "unknown"}, "what one model does not tell is unknown, not 0"


def test_without_nvml_or_a_gpu_the_state_of_the_accelerator_and_its_energy_are_unknown(
    nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise Untold

    states = []
    with monkeypatch.context() as without:
        without.setattr(nvml, "nvmlInit", broken)
        states.append(machine_module.machine()["accelerator_state"])
        with Energy() as energy:
            pass
    with monkeypatch.context() as without:
        without.setattr(machine_module, "pynvml", None)
        states.append(machine_module.machine()["accelerator_state"])
    monkeypatch.setattr(backend, "accelerators", list)
    states.append(machine_module.machine()["accelerator_state"])
    assert states == ["unknown"] * 3
    assert energy.joules == "unknown"


@pytest.mark.parametrize(
    ("whole", "half", "expected"),
    [(1.0, 0.5, "mixed_bfloat16"), (1.0, 0.9, "float32"), (1.0, 1.6, "float32"), (0.01, 0.007, "mixed_bfloat16")],
)
def test_bfloat16_is_for_machines_that_convolve_faster_in_it(
    whole: float, half: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their processor's flags promise."""
    seconds = {"float32": whole, "bfloat16": half}
    monkeypatch.setattr(machine_module, "probes", lambda precision: {"convolution": (lambda: precision, 1.0)})
    monkeypatch.setattr(machine_module, "_seconds", lambda work: seconds[work()])
    assert fast_precision.__wrapped__() == expected  # what it keeps for the process is left as it was


@pytest.mark.parametrize(("precision", "element"), [("float32", 4), ("bfloat16", 2)])
def test_the_probes_count_two_operations_a_multiply_add_and_each_byte_read_and_written(
    precision: str, element: int
) -> None:
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
    """A result that is there without the work, such as a view instead of a copy, would be counted as work."""
    probes = machine_module.probes("float32")
    product, maps, copied = (keras.ops.convert_to_numpy(probes[name][0]()) for name in probes)
    assert product.std() > 1, "of random numbers, as a GPU's clock follows the bits that change"
    assert maps.std() > 1
    assert np.array_equal(copied[: len(copied) // 2], copied[len(copied) // 2 :])
    assert copied.std() > 0.1


def test_the_machine_is_probed_in_every_precision_that_it_is_fast_in(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = probe()
    precisions = {"float32", fast_precision().removeprefix("mixed_")}
    assert figures.keys() == {
        f"{name}_{precision}" for name in ("matrix_product", "convolution", "copy") for precision in precisions
    }
    assert all(1e7 < figure < 1e16 for figure in figures.values()), f"FLOP/s and bytes/s: {figures}"
    monkeypatch.setattr(machine_module, "fast_precision", lambda: "float32")
    monkeypatch.setattr(machine_module, "_seconds", lambda work: 2.0)
    expected = {f"{name}_float32": amount / 2 for name, (_, amount) in machine_module.probes("float32").items()}
    assert probe() == expected, "half of the work in a second"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[float]], Callable[[], float]]:
    """Work that is handed over at once and done when the device is waited for, after so many seconds each time."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(backend, "synchronise", wait)
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def work(durations: Iterator[float]) -> Callable[[], float]:
        return lambda: next(durations, None) or pytest.fail(f"repeated without end, as the clock stands at {now}")

    return work


def test_a_probe_warms_up_waits_for_the_device_and_takes_the_fastest_of_three(clock: Any) -> None:
    assert machine_module._seconds(clock(iter([0.25, 3.0, 1.5, 2.0]))) == 1.5, "the first is the warm-up"


def test_what_is_quick_is_repeated_for_a_while(clock: Any) -> None:
    left = iter([0.01] * 100)
    assert machine_module._seconds(clock(left)) == pytest.approx(0.01)
    repeated = 100 - len(list(left))
    assert repeated == pytest.approx(PROBE_SECONDS / 0.01 + 1, abs=2)


def test_peak_memory_holds_what_was_taken_and_given_back_meanwhile() -> None:
    with PeakMemory() as memory:
        block = np.ones(64 * 2**20, np.uint8)
        memory._sample()
        del block
    assert memory.mib > psutil.Process().memory_info().rss / 2**20 + 50, "64 MiB were in use for a while"


@pytest.mark.parametrize(("told", "mib"), [([None] * 3, "unknown"), ([2**20, 7 * 2**20, 3 * 2**20], 7.0)])
def test_a_devices_peak_is_the_highest_it_told_of_or_unknown(
    told: list[int | None], mib: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls where another context begins inside."""
    answers = iter(told)
    monkeypatch.setattr(backend, "device_memory", lambda: lambda: next(answers, told[-1]))
    with PeakMemory() as memory:
        memory._sample()
    assert memory.device_mib == mib


def test_energy_is_what_all_visible_gpus_took_meanwhile(nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    with Energy() as energy:
        pass
    assert energy.joules == pytest.approx(1.5 + 2.0), "NVML counts in millijoules"


@pytest.mark.parametrize(
    ("before", "after", "joules"), [((1, 2), (4_000_001, 500_002), 4.5), ((9_000_000, 0), (1_000_000, 0), 2.0)]
)
def test_energy_on_a_cpu_is_that_of_its_packages_also_when_a_counter_starts_anew(
    before: tuple[int, int], after: tuple[int, int], joules: float, rapl: Callable[..., None]
) -> None:
    rapl(*before)
    with Energy() as energy:
        rapl(*after)
    assert energy.joules == pytest.approx(joules)


def test_energy_that_no_counter_tells_of_is_unknown_and_never_0(
    rapl: Callable[..., None], tmp_path: Path, nvml: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold(gpu: str) -> int:
        raise Untold

    found = []
    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", untold)
    rapl(1, 2)
    for accelerators in (["NVIDIA"], []):  # the processor's energy is not that of the GPU's work
        monkeypatch.setattr(backend, "accelerators", lambda accelerators=accelerators: accelerators)
        with Energy() as energy:
            if not accelerators:
                (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
        found.append(energy.joules)
    monkeypatch.setattr(machine_module, "POWERCAP", tmp_path / "missing")
    with Energy() as energy:
        pass
    assert [*found, energy.joules] == ["unknown"] * 3
