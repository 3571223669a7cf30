"""The places where a run is killed: a phase, a stage of writing a checkpoint, or wherever the run touches a file.

A process that trains comes to these places again and again. `Places` counts how often, and kills it at one of them.
A kill between two touches of a file leaves what the touch before it left, so a phase is one place.
"""

import os
import random
import re
import signal
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from grpo.checkpointing import store
from grpo.distributed.watchdog import Watchdog

PHASES = ("sync", "rollout", "score", "update", "watch", "held_out", "save")
# Stages of a checkpoint, in their order: what is about to be done there, as Python's audit hooks name it (an event and
# its path), and in words.
STAGES = {
    "begun": ("os.mkdir", r"\.writing/policy$", "its folder is made"),
    "torn": ("", "", "half of a file is written"),  # by `_tear`
    "share": ("os.rename", r"/\.part-\d+\.new$", "a rank's share is written"),
    "seal": ("os.remove", r"\.writing/\.part-0$", "all shares are written"),
    "manifest": ("open", r"\.writing/manifest\.json$", "its manifest is written, or read back"),
    "rename": ("os.rename", r"/\.step-\d+\.writing$", "it is about to be renamed"),
    "clear": ("shutil.rmtree", r"\.writing$", "an old one is about to be removed"),
}
# What touches a run's files at all (os.replace is an os.rename, Path.open an open).
TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")
PLACES = (*PHASES, *STAGES, "touch")
WORLDS = ("one process", "two ranks of ZeRO-2", "two ranks of ZeRO-3")

Seen = dict[str, int]
"""How often a process came to each place."""


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal to one rank at the `at`-th time that it comes to a place, counted from 0."""

    place: str
    at: int = 0
    rank: int = 0
    number: int = signal.SIGKILL


def named(place: str) -> str:
    """The fault in words."""
    where = f"in a checkpoint, where {STAGES[place][2]}" if place in STAGES else f"in {place}"
    return f"kill -9 {'at the touch of a file' if place == 'touch' else where}"


def kill_at(place: str, share: float, seen: Seen, *, rank: int = 0) -> Kill:
    """At this share of all the times that a rank comes to a place; `seen` is of a run that nobody kills."""
    return Kill(place, int(share * seen[place]), rank)


def random_kills(world: str) -> list[tuple[str, float, int]]:
    """(place, share, number) of those of the long form's KILLS that are for such runs: every place about as often."""
    combinations = list(product(PLACES, WORLDS))
    random.Random(0).shuffle(combinations)
    chosen = [(combinations[n % len(combinations)], n) for n in range(int(os.environ.get("KILLS", "0")))]
    return [(place, random.Random(n).random(), n) for (place, where), n in chosen if where == world]


class Places:
    """What this process comes to, from now on: `seen`. It is killed where `kill` says so. When it begins to train, the
    time is left in the file `began`."""

    def __init__(self, kill: Kill | None, *, began: Path | None) -> None:
        self.seen: Seen = {}
        self.looking = True
        self._kill, self._began = kill, began
        self._phase, self._put = Watchdog.phase, store.write_file

        def phase(dog: Watchdog, name: str) -> AbstractContextManager[None]:
            if name == "sync" and self._began and "sync" not in self.seen:
                self._began.write_text(str(time.monotonic()))
            self._come_to(name)
            return self._phase(dog, name)

        Watchdog.phase = phase
        store.write_file = self._tear
        sys.addaudithook(self._touched)

    def _is_here(self, place: str) -> bool:
        at = self.seen.get(place, 0)
        self.seen[place] = at + 1
        return self._kill is not None and (place, at) == (self._kill.place, self._kill.at)

    def _come_to(self, place: str) -> None:
        if self._is_here(place) and self._kill:
            os.kill(os.getpid(), self._kill.number)

    def _tear(self, place: Path, name: str, *pieces: Any) -> tuple[int, str]:
        if name.startswith("policy/") and self._is_here("torn"):
            whole = b"".join(bytes(piece) for piece in pieces)
            (place / name).write_bytes(whole[: len(whole) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._put(place, name, *pieces)

    def _touched(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.looking or event not in TOUCHES or not any("/run/" in f"{path}/" for path in arguments[:2]):
            return
        self._come_to("touch")
        for place, (kind, pattern, _) in STAGES.items():
            if kind == event and re.search(pattern, str(arguments[0])):
                self._come_to(place)
