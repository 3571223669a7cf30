"""Does a phase take far longer than it used to? A thread that then says where this rank is, with every thread's stack,
and in the end ends the run.

A run of several ranks that hangs waits in a collective call, and what it waits for is on another rank: each rank speaks
for itself, so that the one that is in another phase than all others stands out.
"""

import faulthandler
import math
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

KNOWN = 3  # times that a phase must have been seen before its median means something
FIRST = 3600.0  # seconds for a phase that is not known yet: compiling, loading, a cold cache
LATE = 10.0  # seconds without a look that are not counted: the machine was suspended, or this process was stopped


class Watchdog:
    """Measures the phases that it is told of, and reports one that takes `factor` times its median and at least `least`
    seconds; again when that time has doubled. One that lasts `hang` seconds beyond that is the end of the run."""

    def __init__(
        self,
        *,
        rank: int,
        factor: float = 20.0,
        least: float = 300.0,
        hang: float = math.inf,
        out: TextIO | None = None,
    ) -> None:
        self._rank, self._factor, self._least, self._out = rank, factor, least, out or sys.stderr
        self._hang = hang
        self._seen: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._now: tuple[str, float] | None = None  # the innermost phase and when it began
        self._reported = 0.0  # seconds of the current phase that have been reported
        self._paused = 0.0  # seconds in which this process did not run
        self._over = threading.Event()

    @contextmanager
    def watching(self, every: float = 1.0, *, end: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """While this lasts, a thread looks every so many seconds. `end` is called there, once, with a line that says
        what hangs; it should not return."""

        def run() -> None:
            looked = time.monotonic()
            while not self._over.wait(every):
                gap, looked = time.monotonic() - looked, time.monotonic()
                self._paused += gap if gap > every + LATE else 0.0
                hanging = self.look(self._clock())
                if hanging:
                    return end(hanging)

        thread = threading.Thread(target=run, daemon=True, name="watchdog")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The phase `name` lasts as long as this does, less the phases that lie within it."""
        outer, entered = self._now, self._clock()
        self._now, self._reported = (name, entered), 0.0
        try:
            yield
        finally:
            left = self._clock()
            self._seen[name].append(left - self._now[1])
            self._now = outer and (outer[0], outer[1] + left - entered)
            self._reported = 0.0

    def limit(self, name: str) -> float:
        """Seconds after which this phase is reported."""
        seen = self._seen[name]
        if len(seen) < KNOWN:
            return max(FIRST, self._least)
        return max(self._factor * statistics.median(seen), self._least)

    def look(self, now: float) -> str:
        """Report the phase that lasts at `now`, of time.monotonic without pauses, if it is time to. Returns what hangs,
        in words, where it is to be the end; else nothing."""
        if self._now is None:
            return ""
        name, started = self._now
        seconds, limit = now - started, self.limit(name)
        hangs = seconds >= limit + self._hang
        if not hangs and seconds < max(limit, 2 * self._reported):
            return ""
        self._reported = seconds
        usual = f"usually {statistics.median(self._seen[name]):.0f} s" if self._seen[name] else "for the first time"
        said = f"rank {self._rank}: {name} lasts {seconds:.0f} s, {usual}"
        print(f"{said}; where it is:", file=self._out, flush=True)
        faulthandler.dump_traceback(self._out, all_threads=True)
        return f"{name} lasts {seconds:.0f} s, {usual}" if hangs else ""

    def _clock(self) -> float:
        return time.monotonic() - self._paused
