"""Chromium without a window, asked by the DevTools protocol over a pipe: what a page looks like and how it behaves."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60.0  # seconds for one answer, on a machine that has other work to do


def found() -> str | None:
    """The browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page, and what its console said."""

    def __init__(self, process: subprocess.Popen, asked: int, answers: int) -> None:
        self._process, self._asked, self._answers = process, asked, answers
        self._number, self._rest, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one command of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._asked, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            assert self._process.poll() is None, f"the browser ended with {self._process.returncode}"
            assert time.monotonic() < until, f"no answer from the browser in {PATIENCE} s"
            try:
                self._rest += os.read(self._answers, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, file: Path, width: int, dark: bool = False) -> None:
        """Load the page in a window of that width."""
        self._events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 700)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=file.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    def tell(self, expression: str) -> Any:
        """The value of an expression in JavaScript."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def complaints(self) -> list[str]:
        """What the console showed as an error or a warning since the page was opened."""
        self.tell("1")  # so that all that came before is there
        said = []
        for event in self._events:
            told = event.get("params", {})
            if event.get("method") == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
                said.append(told["entry"]["text"])
            if event.get("method") == "Runtime.exceptionThrown":
                said.append(told["exceptionDetails"]["text"])
            if event.get("method") == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
                said.append(str(told["args"]))
        return said

    def requested(self) -> list[str]:
        """The addresses that the page asked for, but for those that carry their content."""
        sent = [event["params"] for event in self._events if event.get("method") == "Network.requestWillBeSent"]
        return [told["request"]["url"] for told in sent if not told["request"]["url"].startswith("data:")]

    def screenshot(self, whole: bool = True) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def printed(self) -> bytes:
        """The page as PDF, on A4."""
        sheet = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        return base64.b64decode(self.ask("Page.printToPDF", **sheet)["data"])


# Chromium reads from 3 and writes to 4.
RENUMBER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


@contextmanager
def started(program: str) -> Iterator[Browser]:
    """A browser that lives as long as the context."""
    (asked, ask), (answers, answer) = (_far(*os.pipe()) for _ in range(2))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-gpu"]
        options += ["--hide-scrollbars", "--no-first-run", "--disable-dev-shm-usage"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium's own refuses the superuser
        command = [sys.executable, "-c", RENUMBER, str(asked), str(answer), program, *options]
        process = subprocess.Popen(
            command, pass_fds=(asked, answer), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(asked)
        os.close(answer)
        os.set_blocking(answers, False)
        try:
            yield Browser(process, ask, answers)
        finally:
            process.terminate()
            process.wait(30)
            os.close(ask)
            os.close(answers)


def _far(*ends: int) -> tuple[int, ...]:
    """The same under numbers from 10 up, so that 3 and 4 are none of them."""
    found = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return found
