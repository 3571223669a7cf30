"""The background thread that writes one rank's share of a checkpoint; rank 0's thread also commits the checkpoint."""

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.checkpointing import store
from grpo.distributed.communicator import Communicator
from grpo.policy.optimizer_state import OptimizerSnapshot

NICE = 19  # niceness of the thread: the training steps come first
DISK_TIMEOUT = 600.0  # seconds that the disk is given where the run is about to end
OTHER_RANKS_TIMEOUT = 15.0  # seconds that rank 0 waits after its own share: another rank may be dead


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run between two steps without the policy's: small, so taken after every step."""

    step: int  # steps done
    updates: int  # of the policy's schedule
    nonfinite: int  # updates in a row that were not finite
    steps_applied: int  # updates that changed the weights: tells whether the weights are still those of this state
    shared: bytes  # JSON
    own: Mapping[str, Any]  # of this rank


def bytes_needed(shares: Sequence[int]) -> int:
    """Bytes on the disk of a checkpoint whose ranks hold these many bytes of tensors."""
    return int(sum(shares) * 1.01) + (1 << 20)


class CheckpointWriter(threading.Thread):
    """Writes one rank's share of one checkpoint. Rank 0 commits when all ranks have written, and prunes old ones."""

    def __init__(
        self,
        folder: Path,
        state: RunState,
        copy: OptimizerSnapshot,
        *,
        comm: Communicator,
        keep: int,
        before_commit: Callable[[], None],
    ) -> None:
        """`before_commit` puts what the checkpoint refers to, such as log files, on the disk."""
        super().__init__(daemon=True, name=f"checkpoint {state.step}")
        self.state, self._folder, self._copy, self._keep = state, folder, copy, keep
        self._rank, self._ranks, self._before_commit = comm.rank, comm.world, before_commit
        self.written, self.abandoned = threading.Event(), threading.Event()  # this rank's share; the checkpoint
        self._complete = threading.Event()  # all shares are written, or never will be
        self.failed = ""
        self.not_pruned = ""  # why older checkpoints are still there, although this one is complete

    def finish(self) -> None:
        """Return when this rank has done its part; for a run that ends and whose ranks no longer communicate."""
        self.written.wait(DISK_TIMEOUT)
        if self._rank == 0 and not self._complete.wait(OTHER_RANKS_TIMEOUT):
            self.abandoned.set()
        self.join(DISK_TIMEOUT)

    def run(self) -> None:
        if sys.platform == "linux":  # where each thread has its own niceness
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._write()
            del self._copy  # three times the weights
            self.written.set()
            if self._rank == 0:
                self._commit()
        except OSError as error:
            self.failed = f"rank {self._rank}: {error}"
        except Exception as error:
            self.failed = f"rank {self._rank}: {type(error).__name__}: {error}"
        finally:
            self.written.set()
            self._complete.set()

    def _write(self) -> None:
        place, digests = store.temp_path(self._folder, self.state.step), {}
        for name in self._copy.files(lead=self._rank == 0):
            digests[f"policy/{name}"] = store.write_file(place, f"policy/{name}", *self._copy.contents(name))
        store.write_rank_state(place, self._rank, self.state.own, digests)

    def _commit(self) -> None:
        place = store.temp_path(self._folder, self.state.step)
        while store.ranks_missing(place, self._ranks):
            if self.abandoned.wait(0.05):
                return
        self._complete.set()
        self._before_commit()
        store.commit(self._folder, self.state.step, ranks=self._ranks, shared=json.loads(self.state.shared))
        try:
            store.prune(self._folder, self._keep)
        except OSError as error:
            self.not_pruned = str(error)
