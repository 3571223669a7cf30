"""The console of a run: lines that stay, and a status that is never silent for long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

HEARTBEAT = 5.0  # seconds: the longest time without a line where stdout is not a terminal


class Console:
    """Lines, and the status of the work that is being done now.

    On a terminal the status is rewritten in place. Elsewhere it becomes a line when nothing was written for `HEARTBEAT`
    seconds.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._terminal = self._out.isatty()
        self._written = self._since = time.monotonic()
        self._text = ""
        self._lock = threading.Lock()

    def line(self, text: str = "") -> None:
        with self._lock:
            self._write(("\r\x1b[2K" if self._terminal else "") + text + "\n")

    def status(self, text: str) -> None:
        """Set the status."""
        with self._lock:
            self._text, self._since = text, time.monotonic()
            self._show()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Repeat the status with its seconds while the context lasts, so that a long call does not look like a hang."""
        over = threading.Event()

        def tick() -> None:
            while not over.wait(1.0):
                with self._lock:
                    self._show()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _show(self) -> None:
        now = time.monotonic()
        if self._text and (self._terminal or now - self._written >= HEARTBEAT):
            seconds = f" ({now - self._since:.0f} s)" if now - self._since >= 1 else ""
            shown = f"... {self._text}{seconds}"
            self._write(f"\r\x1b[2K  {shown}" if self._terminal else f"  {shown}\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
        self._written = time.monotonic()
