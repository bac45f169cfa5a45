"""Atomic writes and checksums of files."""

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

# What NumPy raises for an archive that is cut short, overwritten or something else altogether.
DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, BadZipFile, zlib.error, TokenError)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a name to write to; it replaces `path` when the block ends, or vanishes where the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial{threading.get_native_id()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
