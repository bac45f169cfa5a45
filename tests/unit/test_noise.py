"""What a session or a command writes on the terminal before it begins: nothing but what is worth reading."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convspec import backend, noise
from convspec.machine import versions

ABSL = "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
ONEDNN = "I0000 00:00:17.541114 20674 port.cc:153] oneDNN custom operations are on. You may see slightly different"
DRIVERS = "I0000 00:00:17.541458 20674 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will not be"
CUINIT = "E0000 00:00:18.849588 20674 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN (303)"
REAL = "W0000 00:00:18.849588 20674 cpu_allocator.cc:84] Allocation of 123 exceeds 10% of free system memory."


def run(code: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", f"import os\nfrom convspec import noise\n{code}"]
    return subprocess.run(command, env=environment | settings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("driver", [False, True], ids=["no driver", "a driver"])
def test_known_lines_are_dropped_and_all_others_pass_in_order(
    driver: bool, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: driver)
    with noise.without_noise():
        os.write(2, "\n".join([ABSL, REAL, ONEDNN, DRIVERS, "no newline of its own: Ä"]).encode())
        os.write(2, f"\n{CUINIT}\n".encode())
    os.write(2, f"{ABSL}\n".encode())
    kept = [REAL, DRIVERS, "no newline of its own: Ä", CUINIT] if driver else [REAL, "no newline of its own: Ä"]
    assert capfd.readouterr().err.splitlines() == [*kept, ABSL], "a failure of a GPU that is there is no noise"


def test_what_an_import_says_before_it_crashes_is_shown() -> None:
    ended = run("with noise.without_noise():\n    os.write(2, b'no AVX on this machine')\n    os.abort()")
    assert ended.returncode != 0
    assert "no AVX on this machine" in ended.stderr


@pytest.mark.parametrize("lack", ["os.close(2)", "noise.sys.executable = ''"])
def test_without_file_descriptor_2_or_pythons_name_nothing_is_filtered(lack: str) -> None:
    ended = run(f"{lack}\nwith noise.without_noise():\n    print('imported')")
    assert (ended.returncode, ended.stdout) == (0, "imported\n")


@pytest.mark.skipif(
    backend.BACKEND == "tensorflow" and int(versions()["tensorflow"].split(".")[1]) < 21,
    reason="TensorFlow before 2.21 reports missing drivers as errors, whatever the level",
)
def test_a_command_starts_its_backend_and_computes_with_its_error_alone() -> None:
    ended = run(
        "from convspec.cli.main import main\ncode = main(['activations', 'no.keras', 'no.png'])\n"
        "import keras\nkeras.layers.Dense(1)(keras.ops.ones((1, 1)))\nraise SystemExit(code)"
    )
    assert ended.returncode
    assert ended.stderr.startswith("convspec: error: "), ended.stderr
    assert ended.stderr.count("\n") == 1
