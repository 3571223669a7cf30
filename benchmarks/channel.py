"""How is a contender told to take a step? One process each: a line `step` comes in, a line of JSON goes out.

Standard library only, since both virtual environments use it.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


class Channel:
    """The contender's end. Whatever libraries print goes to stderr, so that stdout holds answers and nothing else."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def say(self, **values: Any) -> None:
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()

    def steps(self) -> Iterator[int]:
        """The number of each step that is asked for, from 0, until the other end closes."""
        for number, _ in enumerate(sys.stdin):
            yield number


class Contender:
    """The driver's end: a process that takes one step when it is told to."""

    def __init__(self, name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> None:
        """Starts it and waits until it is ready; what it prints goes to the file `log`."""
        self.name, self._log = name, log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                cwd=Path(__file__).resolve().parents[1],
                text=True,
            )
        self.ready = self._answer()

    def step(self) -> dict[str, Any]:
        """What the step took, as the contender measured it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; that no answer comes says so, with its last words
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process and give its memory back."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ContenderLost(f"{self.name} ended with {self._process.returncode}: {said[-1] if said else 'no word'}")
        return json.loads(line)


class ContenderLost(RuntimeError):
    """A contender's process has ended. The message is one line: which, and the last that it said."""
