"""Requests to end a run: Ctrl-C, SIGTERM, and SIGUSR1, which Slurm sends before the time is up.

The first request is remembered and honoured between two steps. A second Ctrl-C ends the process at once, whatever it
is waiting for: the handler gives the signal back to the system.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """`name` is that of the first signal received, such as "SIGTERM"; empty before."""

    def __init__(self) -> None:
        self.name = ""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals while the block lasts; in the main thread, the only one that Python delivers them to."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = self.name or signal.Signals(number).name
        again = ""
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            again = "; Ctrl-C again ends it at once"
        # Not print: the main thread may be in the middle of one.
        os.write(2, f"\n{self.name}: this step is finished and saved, then the run ends{again}\n".encode())
