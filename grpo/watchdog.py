"""Does a phase take far longer than it used to? A thread that then says where this rank is, with every thread's stack.

A run of several ranks that hangs waits in a collective call, and what it waits for is on another rank: each rank speaks
for itself, so that the one that is in another phase than all others stands out.
"""

import faulthandler
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

KNOWN = 3  # times that a phase must have been seen before its median means something
FIRST = 3600.0  # seconds for a phase that is not known yet: compiling, loading, a cold cache


class Watchdog:
    """Measures the phases that it is told of, and reports one that takes `factor` times its median and at least `least`
    seconds; again when that time has doubled. It ends nothing."""

    def __init__(self, *, rank: int, factor: float = 20.0, least: float = 300.0, out: TextIO | None = None) -> None:
        self._rank, self._factor, self._least, self._out = rank, factor, least, out or sys.stderr
        self._seen: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._now: tuple[str, float] | None = None  # the innermost phase and when it began
        self._reported = 0.0  # seconds of the current phase that have been reported
        self._over = threading.Event()

    @contextmanager
    def watching(self, every: float = 1.0) -> Iterator[None]:
        """While this lasts, a thread looks every so many seconds."""

        def run() -> None:
            while not self._over.wait(every):
                self.look(time.monotonic())

        thread = threading.Thread(target=run, daemon=True, name="watchdog")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The phase `name` lasts as long as this does. Phases may lie within each other."""
        outer, started = self._now, time.monotonic()
        self._now, self._reported = (name, started), 0.0
        try:
            yield
        finally:
            self._seen[name].append(time.monotonic() - started)
            self._now, self._reported = outer, 0.0

    def limit(self, name: str) -> float:
        """Seconds after which this phase is reported."""
        seen = self._seen[name]
        if len(seen) < KNOWN:
            return max(FIRST, self._least)
        return max(self._factor * statistics.median(seen), self._least)

    def look(self, now: float) -> None:
        """Report the phase that lasts at `now`, of time.monotonic, if it is time to."""
        if self._now is None:
            return
        name, started = self._now
        seconds, limit = now - started, self.limit(name)
        if seconds < max(limit, 2 * self._reported):
            return
        self._reported = seconds
        usual = f"usually {statistics.median(self._seen[name]):.0f} s" if self._seen[name] else "for the first time"
        print(f"rank {self._rank}: {name} lasts {seconds:.0f} s, {usual}; where it is:", file=self._out, flush=True)
        faulthandler.dump_traceback(self._out, all_threads=True)
