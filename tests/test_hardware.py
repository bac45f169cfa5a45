"""What a record says of the machine and of the memory that a run took."""

import platform

import cv2
import keras
import numpy as np
import PIL
import psutil
import pytest

import convspec
from convspec import gradients, hardware


def test_versions_are_those_of_what_was_imported() -> None:
    found = hardware.versions()
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
    machine = hardware.machine()
    assert machine["versions"] == hardware.versions()
    assert machine["accelerators"] == gradients.accelerators()
    assert machine["threads"] == gradients.threads()
    assert machine["backend"] == keras.backend.backend()
    assert machine["memory_gib"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.05)
    assert machine["processor"], "'unknown' where it is not known, never empty"


def test_peak_memory_holds_what_was_taken_and_given_back_meanwhile() -> None:
    with hardware.PeakMemory() as before:
        pass
    with hardware.PeakMemory() as memory:
        block = np.ones(64 * 2**20, np.uint8)
        memory._sample()
        del block
    assert memory.mib > before.mib + 50, "64 MiB were in use for a while"
