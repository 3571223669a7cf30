"""How does one rank's share of a checkpoint get to the disk beside the next steps, and who makes it whole?"""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.checkpointing import store as snapshot
from grpo.checkpointing.store import Point
from grpo.distributed.communicator import Comm
from grpo.policy.optimizer_state import OptimizerSnapshot

NICE = 19  # of the thread that writes
LONGEST = 600.0  # seconds that the disk is given where the run is about to end
OTHERS = 15.0  # seconds beyond its own share that rank 0 then waits for those of the others: one may be dead


@dataclass(frozen=True, slots=True)
class Mark:
    """A run as it stands between two steps, but for the policy: small, so taken
    whenever it comes there."""

    at: Point
    updates: int  # of the policy's schedule
    moved: int  # its weights, so often: tells whether they are still those
    shared: bytes  # JSON
    own: Mapping[str, Any]


def bytes_needed(shares: Sequence[int]) -> int:
    """On the disk, by a checkpoint whose ranks hold so many, with what lies beside the tensors."""
    return int(sum(shares) * 1.01) + (1 << 20)


class Writing(threading.Thread):
    """One rank's share of one checkpoint on its way to the disk; rank 0's seals the folder when all have written."""

    def __init__(
        self, folder: Path, mark: Mark, held: OptimizerSnapshot, *, comm: Comm, keep: int, settle: Callable[[], None]
    ) -> None:
        """`settle` is called before rank 0 seals: what the checkpoint counts on is then on the disk."""
        super().__init__(daemon=True, name=f"checkpoint {mark.at.name}")
        self.mark, self._folder, self._held, self._keep = mark, folder, held, keep
        self._rank, self._ranks, self._settle = comm.rank, comm.world, settle
        self.written, self.abandoned = threading.Event(), threading.Event()  # this rank's share; the checkpoint
        self._complete = threading.Event()  # all shares are there, or will not be
        self.failed = ""
        self.left = ""  # why older checkpoints are still there, of one that is whole

    def end(self) -> None:
        """The run ends, and its ranks do not talk to each other any more: return when this rank has done its part."""
        self.written.wait(LONGEST)
        if self._rank == 0 and not self._complete.wait(OTHERS):
            self.abandoned.set()
        self.join(LONGEST)

    def run(self) -> None:
        if sys.platform == "linux":  # where a thread has a niceness of its own: the steps beside it come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._write()
            del self._held  # three times the weights
            self.written.set()
            if self._rank == 0:
                self._seal()
        except OSError as error:
            self.failed = f"rank {self._rank}: {error}"
        except Exception as error:
            self.failed = f"rank {self._rank}: {type(error).__name__}: {error}"
        finally:
            self.written.set()
            self._complete.set()

    def _write(self) -> None:
        place, digests = snapshot.building(self._folder, self.mark.at), {}
        for name in self._held.files(lead=self._rank == 0):
            digests[f"policy/{name}"] = snapshot.put(place, f"policy/{name}", *self._held.contents(name))
        snapshot.put_own(place, self._rank, self.mark.own, digests)

    def _seal(self) -> None:
        """When every rank has written; the oldest checkpoints go after that."""
        place = snapshot.building(self._folder, self.mark.at)
        while snapshot.parts_missing(place, self._ranks):
            if self.abandoned.wait(0.05):
                return
        self._complete.set()
        self._settle()
        snapshot.seal(self._folder, self.mark.at, ranks=self._ranks, shared=json.loads(self.mark.shared))
        try:
            snapshot.keep_newest(self._folder, self._keep)
        except OSError as error:
            self.left = str(error)
