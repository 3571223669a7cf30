"""A thread that reports phases of a run that take far longer than usual, and in the end ends the run.

A run of several ranks that hangs waits in a collective call for another rank. Each rank therefore reports for itself,
and the rank in another phase than all others stands out.
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

MIN_SAMPLES = 3  # durations of a phase that must be known before their median counts
FIRST_LIMIT = 3600.0  # seconds for a phase that is not known yet: compiling, loading, a cold cache
MAX_GAP = 10.0  # seconds between two looks beyond which the machine was suspended or the process stopped


class Watchdog:
    """Reports a phase that lasts `factor` times its median and at least `least` seconds, with all threads' stacks.

    The report is repeated when that time has doubled. A phase that lasts `hang` seconds beyond its limit ends the run.
    """

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
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=50))
        self._current: tuple[str, float] | None = None  # the innermost phase and when it began
        self._reported = 0.0  # seconds of the current phase that have been reported
        self._paused = 0.0  # seconds in which this process did not run
        self._over = threading.Event()

    @contextmanager
    def watching(self, every: float = 1.0, *, on_hang: Callable[[str], None] = lambda text: None) -> Iterator[None]:
        """Check every `every` seconds in a thread while the block lasts.

        `on_hang` is called there, once, with a line that says what hangs, and should not return.
        """

        def run() -> None:
            checked = time.monotonic()
            while not self._over.wait(every):
                gap, checked = time.monotonic() - checked, time.monotonic()
                self._paused += gap if gap > every + MAX_GAP else 0.0
                hanging = self.check(self._clock())
                if hanging:
                    return on_hang(hanging)

        thread = threading.Thread(target=run, daemon=True, name="watchdog")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as the phase `name`, less the phases within it."""
        outer, entered = self._current, self._clock()
        self._current, self._reported = (name, entered), 0.0
        try:
            yield
        finally:
            left = self._clock()
            self._durations[name].append(left - self._current[1])
            self._current = outer and (outer[0], outer[1] + left - entered)
            self._reported = 0.0

    def limit(self, name: str) -> float:
        """Seconds after which this phase is reported."""
        durations = self._durations[name]
        if len(durations) < MIN_SAMPLES:
            return max(FIRST_LIMIT, self._least)
        return max(self._factor * statistics.median(durations), self._least)

    def check(self, now: float) -> str:
        """Report the current phase where it is due at `now`, a time.monotonic without pauses.

        Returns a line that says what hangs where the phase must end the run, else "".
        """
        if self._current is None:
            return ""
        name, started = self._current
        seconds, limit = now - started, self.limit(name)
        hangs = seconds >= limit + self._hang
        if not hangs and seconds < max(limit, 2 * self._reported):
            return ""
        self._reported = seconds
        durations = self._durations[name]
        usual = f"usually {statistics.median(durations):.0f} s" if durations else "for the first time"
        text = f"{name} lasts {seconds:.0f} s, {usual}"
        print(f"rank {self._rank}: {text}; where it is:", file=self._out, flush=True)
        faulthandler.dump_traceback(self._out, all_threads=True)
        return text if hangs else ""

    def _clock(self) -> float:
        return time.monotonic() - self._paused
