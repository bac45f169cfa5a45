"""Atomic writes, locks and checksums of files."""

import errno
import hashlib
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tokenize import TokenError
from typing import TextIO
from zipfile import BadZipFile

from convspec import BadInput

if sys.platform != "win32":
    import fcntl

# What NumPy raises for an archive that is cut short, overwritten or something else altogether.
DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error, TokenError)
PATIENCE = 5.0  # seconds until a message says which lock is waited for; doubled after each message
MAX_WRITERS = 16  # of one file at once, whose folders are removed once they were killed


def expand(path: str | Path) -> Path:
    """Return the path with a home folder in the place of ~; an unknown user's ~name stays as it is."""
    return Path(os.path.expanduser(path))


@contextmanager
def lock(path: Path, progress: TextIO | None = None) -> Iterator[None]:
    """Let one process or thread at a time into a block that makes `path`; `progress` shows what others await.

    The system frees the lock of a killed process.
    """
    from filelock import FileLock, Timeout  # gates do without

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    held, patience = FileLock(file), PATIENCE
    while not held.is_locked:
        try:
            held.acquire(timeout=patience)
        except Timeout:
            if progress:
                print(f"waiting for another process, which holds {str(file)!r}", file=progress, flush=True)
            patience *= 2
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows removes no open file
            file.unlink(missing_ok=True)  # or the folder was removed meanwhile
        held.release()


@contextmanager
def room_for(what: str, folder: Path, option: str = "--convspec-report") -> Iterator[None]:
    """Raise BadInput, with the remedy, where a block that writes to `folder` finds its disk full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInput(
            f"no room for {what} in {str(folder)!r}: free some, or name another folder with {option}; what is computed"
            " is kept"
        ) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a name to write to; it replaces `path` when the block ends, or vanishes where the block fails.

    Several processes may write one file; the last one wins. What killed ones left is removed.
    """
    _remove_abandoned(path)
    folder, held = _make_folder(path)
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        if sys.platform == "win32":  # which removes no open file
            os.close(held)
        shutil.rmtree(folder, ignore_errors=True)  # as soon as it is empty, others may remove it and make theirs
        if sys.platform != "win32":
            os.close(held)


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what killed processes left of writing it."""
    path.unlink(missing_ok=True)
    _remove_abandoned(path)


def _folder(path: Path, number: int) -> Path:
    start = os.fsencode(path.name)[:200].decode(errors="ignore")  # a name has 255 bytes, and only whole letters
    return path.parent / f".partial{number}-{start}"


def _make_folder(path: Path) -> tuple[Path, int]:
    """Return the first folder that no other process has, and the descriptor of a file in it that stays locked."""
    numbers = count()
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _folder(path, number := next(numbers))
        try:
            folder.mkdir()
            held = os.open(folder / ".lock", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        except FileExistsError:  # another has it
            continue
        except FileNotFoundError:  # another took it for abandoned and removed it
            with suppress(OSError):
                folder.rmdir()
            if number >= MAX_WRITERS:  # which nobody removes: Windows finds the path too long
                raise
            continue
        with suppress(OSError):  # no locks on this file system: what a killed process leaves will stay
            _lock(held)
        if os.fstat(held).st_nlink:
            return folder, held
        os.close(held)


def _remove_abandoned(path: Path) -> None:
    for folder in (_folder(path, number) for number in range(MAX_WRITERS)):
        if folder.is_dir():
            with suppress(OSError), open(folder / ".lock", "r+") as held:  # in use, or another user's
                _lock(held.fileno(), wait=False)
                if os.path.samestat(os.fstat(held.fileno()), os.stat(held.name)):
                    shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # in use, or of a process that was killed before it had a lock
                folder.rmdir()


def _lock(descriptor: int, wait: bool = True) -> None:
    """Lock an open file until it is closed or the process ends; OSError where another has it or nobody can."""
    if sys.platform == "win32":
        raise OSError("this system has no such locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
