"""What is asked of the Keras backend, and what it says of the machine."""

import os
from types import SimpleNamespace

import keras
import pytest

from convspec import gradients

tensorflow = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs Keras on TensorFlow")


def test_determinism_is_asked_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(tensorflow.config.experimental, "enable_op_determinism", lambda: asked.append(True))
    gradients.make_deterministic()
    assert asked == [True], "the same seed gives the same result only with kernels that add in one order"


def test_accelerators_go_by_the_names_of_their_models(monkeypatch: pytest.MonkeyPatch) -> None:
    details = {"GPU:0": {"device_name": "NVIDIA H100"}, "GPU:1": {}}
    devices = [SimpleNamespace(name=name) for name in details]
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda kind: devices if kind == "GPU" else [])
    monkeypatch.setattr(tensorflow.config.experimental, "get_device_details", lambda device: details[device.name])
    assert gradients.accelerators() == ["NVIDIA H100", "GPU:1"], "the model's name, else the device's"


@pytest.mark.parametrize("said", [3, 0])
def test_threads_are_those_the_backend_says_else_the_cores_of_this_process(
    said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow.config.threading, "get_intra_op_parallelism_threads", lambda: said)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert gradients.threads() == (said or cores)
