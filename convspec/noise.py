"""Start-up messages of TensorFlow that say nothing of the user's run, kept off the terminal.

They come before any setting of TensorFlow's can stop them, from C++ on file descriptor 2.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Whole lines. What is said of a GPU counts as noise only where the system has no driver for one.
KNOWN = rb"WARNING: All log messages before absl::InitializeLog|I\d{4} .*oneDNN custom operations are on"
OF_GPUS = rb"|[IEW]\d{4} .*(Could not find cuda drivers|failed call to cuInit)"
# In a process of its own, which neither waits for Python's lock nor dies with an import that crashes.
FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
known = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not known.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


@contextmanager
def without_noise() -> Iterator[None]:
    """Drop known lines of TensorFlow's from file descriptor 2 while the context is open; all others pass."""
    known = KNOWN if Path("/proc/driver/nvidia").exists() else KNOWN + OF_GPUS
    try:
        terminal = os.dup(2 if sys.executable else -1)  # an embedded Python may know no program of its own
    except OSError:  # a program without one
        yield
        return
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", FILTER, known.decode()], stdin=subprocess.PIPE)
    assert child.stdin
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        with suppress(subprocess.TimeoutExpired):  # a process that was begun meanwhile writes there still
            child.wait(timeout=10)
