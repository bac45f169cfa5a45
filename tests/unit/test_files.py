"""Files that are whole or absent under their final name."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout

from convspec import files
from convspec.files import DAMAGED, atomic_write, checksum, lock, remove

# Holds a lock or is about to write a file, says so, and waits to be killed.
HOLDER = """
import sys
from pathlib import Path
from convspec.files import atomic_write, lock
with globals()[sys.argv[1]](Path(sys.argv[2])) as partial:
    if partial:
        partial.write_text("half")
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


@pytest.fixture
def writer(file: Path) -> Iterator[subprocess.Popen]:
    """A process that is writing the file."""
    yield from hold("atomic_write", file)


@pytest.fixture
def holder(file: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the lock of the file."""
    yield from hold("lock", file)


def hold(what: str, file: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLDER, what, str(file)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"holds\n"
        yield process
        process.kill()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    assert process.wait() == -signal.SIGKILL


def names(file: Path) -> list[str]:
    return sorted(os.listdir(file.parent))


def test_a_block_that_succeeds_replaces_the_file_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "record.json"
    for content in ("first", "second"):
        with atomic_write(file) as partial:
            assert partial.suffix == ".json", "which Keras and Matplotlib go by"
            partial.write_text(content)
        assert file.read_text() == content
    assert list(file.parent.iterdir()) == [file]


def test_a_path_that_windows_finds_too_long_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise FileNotFoundError(2, "The filename or extension is too long", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FileNotFoundError, match="too long"), atomic_write(file):
        raise AssertionError("there is nothing to write to")
    assert names(file) == []


def test_a_long_name_is_cut_between_letters_as_macos_and_windows_ask(tmp_path: Path) -> None:
    file = tmp_path / ("x" + "\u0436" * 110 + ".json")
    with atomic_write(file) as partial:
        assert partial.parent.name.isprintable()
        partial.write_text("whole")
    assert file.read_text() == "whole"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_block_that_fails_keeps_the_old_file_and_leaves_no_other(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    file.write_text("old")

    def write() -> None:
        with atomic_write(file) as partial:
            partial.write_text("half of the n")
            assert file.read_text() == "old"
            raise error

    with pytest.raises(type(error)):
        write()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_write(file: Path, writer: subprocess.Popen) -> None:
    kill(writer)
    assert names(file) == [".partial0-record.json"]
    with atomic_write(file) as partial:
        partial.write_text("whole")
    assert names(file) == ["record.json"]
    assert file.read_text() == "whole"


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_removed(file: Path, writer: subprocess.Popen) -> None:
    file.touch()
    kill(writer)
    remove(file)
    assert names(file) == []


def test_what_a_living_process_writes_is_never_removed(file: Path, writer: subprocess.Popen) -> None:
    with atomic_write(file) as partial:
        partial.write_text("ours")
    remove(file)
    assert names(file) == [".partial0-record.json"]
    assert writer.communicate() == (b"", None)
    assert writer.returncode == 0
    assert file.read_text() == "half", "all that the other process wrote"
    assert names(file) == ["record.json"]


def test_many_processes_that_write_a_file_at_once_leave_it_whole(file: Path) -> None:
    """And threads, which is what these are."""
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        start.wait()
        try:
            for _ in range(50):
                with atomic_write(file) as partial:
                    partial.write_text(str(number) * 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert file.read_text() in {str(number) * 1000 for number in range(8)}
    assert names(file) == ["record.json"]


def test_a_lock_that_is_held_is_waited_for_and_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    said, order = io.StringIO(), list[str]()

    def wait() -> None:
        with lock(file, said):
            order.append("second")

    thread = threading.Thread(target=wait)
    with lock(file):
        thread.start()
        while thread.is_alive() and not said.getvalue():
            thread.join(timeout=0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert set(said.getvalue().splitlines()) == {
        f"waiting for another process, which holds '{file.with_name('.record.json.lock')}'"
    }
    assert names(file) == []


def test_the_lock_of_a_killed_process_is_free(file: Path, holder: subprocess.Popen) -> None:
    other = FileLock(file.with_name(".record.json.lock"))
    with pytest.raises(Timeout):
        other.acquire(timeout=0)
    kill(holder)
    with lock(file), pytest.raises(Timeout):
        other.acquire(timeout=0)
    assert names(file) == []


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 300])
def test_an_archive_cut_anywhere_is_recognised_as_damaged(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "arrays.npz"
    np.savez(file, values=np.arange(20))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DAMAGED):
        np.load(file)


def test_a_checksum_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert checksum(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
