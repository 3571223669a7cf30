"""When is a run's state saved, and how does one go on from it? What `grpo.loop.train` calls at the end of every step.

All ranks copy their share into main memory together; a thread of each writes it while the next steps run, and rank 0's
seals the folder when every rank has written (grpo/snapshot.py).
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from grpo import snapshot
from grpo.comm import HUNG, Comm
from grpo.policy.base import PolicyEngine
from grpo.policy.state import Held
from grpo.random_states import random_states, set_random_states
from grpo.runlog import Around, Console
from grpo.signals import StopRequest
from grpo.snapshot import Snapshot
from grpo.types import BadNumbers, EngineLost, InputError, Stopped
from launch.keeping import Keeping

RESERVE = 1 << 28  # bytes that stay free: the run writes other files too
NICE = 19  # of the thread that writes
LONGEST = 600.0  # seconds in which a run that hangs is to be saved


class Stateful(Protocol):
    """Goes on from what it told of itself, which is something that JSON takes."""

    def state_dict(self) -> dict[str, Any]:
        """A copy: it does not change when the run goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """A run as it stands between two steps, but for the policy: small, so taken after every step."""

    done: int
    updates: int  # of the policy's schedule
    moved: int  # its weights, so often: tells whether they are still those
    shared: bytes  # JSON
    own: Mapping[str, Any]


@dataclass(kw_only=True)
class Checkpoints:
    """A run's checkpoints. `shared` are the parts that are the same on all ranks, or that rank 0 alone keeps, and `own`
    those of each rank; `about` is told once and must be the same when the run goes on."""

    folder: Path
    settings: Keeping
    steps: int
    policy: PolicyEngine
    shared: Mapping[str, Stateful]
    own: Mapping[str, Stateful]
    about: Mapping[str, str]
    comm: Comm
    console: Console
    stop: StopRequest = field(default_factory=StopRequest)
    reserve: int = RESERVE
    around: Around = nullcontext  # entered as "save" where the loop waits for the disk
    _writing: "Writing | None" = field(default=None, init=False)
    _mark: Mark | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.comm.lead(lambda: self.folder.mkdir(exist_ok=True))
        if not self.folder.is_dir():
            raise InputError(
                f"{self.folder}: rank {self.comm.rank} does not see it; checkpoints need a run folder that all nodes "
                "share (run.folder)"
            )

    def __call__(self, done: int) -> None:
        """After `done` steps: a checkpoint where one is due. Raises Stopped where somebody has asked the run to end."""
        self._mark = self._stand(done)
        asked = next((name for name in self.comm.gather([self.stop.name]) if name), "")
        every = self.settings.every
        if asked or (every and (done % every == 0 or done == self.steps)):
            with self.around("save"):
                self._save(self._mark)
        if asked:
            raise Stopped(f"{asked}: {self._kept(done)}")

    def restore(self, found: Snapshot) -> int:
        """Put everything where it was; the number of steps done. InputError where the run is about something else."""
        try:
            self._put_back(found)
        except InputError:
            raise
        except snapshot.DAMAGE as error:
            raise InputError(f"{found.path}: cannot be gone on from: {error!r}") from error
        self._mark = self._stand(found.step)
        return found.step

    def _put_back(self, found: Snapshot) -> None:
        state = found.shared()
        for name, value in self.about.items():
            if state["about"].get(name) != value:
                raise InputError(f"{found.path}: {name} are not those that the run began with")
        self.policy.load_state(found.path / "policy")
        for name, part in self.shared.items():
            part.load_state_dict(state["parts"][name])
        own = found.own(self.comm.rank)
        if found.ranks != self.comm.world:
            self.console.line(f"             written by {found.ranks} ranks; the samples of {self.comm.world} differ")
        if own is not None:
            for name, part in self.own.items():
                part.load_state_dict(own["parts"][name])
            set_random_states(own["random"])

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around the training: listens for requests to end it; what is being written is finished in any case. A run of
        one rank that ends by an error before its policy has moved is saved as it stood after its last step."""
        self._mark = self._mark or self._stand(0)
        try:
            with self.stop.listening():
                yield
        except Stopped:
            raise
        except Exception as error:
            note = self._rescue(together=self.comm.world == 1 or isinstance(error, BadNumbers | EngineLost))
            if isinstance(error, BadNumbers | EngineLost):
                raise type(error)(f"{error}; {note}") from error
            self.console.line(f"             {note}")
            raise
        with self.around("save"):
            self._finish()

    def hung(self, text: str) -> NoReturn:
        """The main thread hangs, as `text` says, and this is another one: save what can be saved, and end all ranks.

        A run of one rank is saved as it stood after its last step, where its weights are still those. Of several ranks
        each has a part of them, and they are joined by calls that a rank that hangs does not make: the checkpoint that
        is on its way is waited for, and there is no new one.
        """
        beside = threading.Thread(target=self._save_beside, daemon=True, name="save of a run that hangs")
        beside.start()
        beside.join(LONGEST)  # the disk, or the device that the weights are on, may be what hangs
        done = self._mark.done if self._mark else 0
        self.comm.end(HUNG, f"{text}; {self._kept(done, finish=False)}")

    def _save_beside(self) -> None:
        """What `_save` does, but from another thread than the one that trains, which may at any time go on."""
        mark, writing = self._mark, self._writing
        if writing is not None:
            writing.join()
        untouched = mark is not None and self.policy.done == mark.updates
        if mark is None or self.comm.world > 1 or not untouched or snapshot.newest_step(self.folder) >= mark.done:
            return
        held = self.policy.hold()
        if self.policy.done != mark.updates:  # an update has begun while they were copied
            return
        if not snapshot.begin(self.folder, mark.done, needed=_needed([held.nbytes]), reserve=self.reserve):
            writing = Writing(self.folder, mark, held, comm=self.comm, keep=self.settings.keep)
            writing.start()
            writing.join()

    def _rescue(self, *, together: bool) -> str:
        """What is kept of a run that ends by an error; `together` where all ranks have come here, so none waits."""
        if self._mark is None or not together:
            return self._kept(0, finish=together)
        self._finish()
        newest = self.comm.lead(lambda: snapshot.newest_step(self.folder))
        if self.policy.moved == self._mark.moved and newest < self._mark.done:
            self._save(self._mark)
        return self._kept(self._mark.done)

    def _kept(self, done: int, *, finish: bool = True) -> str:
        """What there is to go on from, now that the run ends."""
        if finish:
            self._finish()
        newest = snapshot.steps_in(self.folder)
        if not newest:
            return "no checkpoint is there to go on from"
        step, path = newest[0]
        lost = "" if step >= done else f" of {done}"
        return f"saved after step {step}{lost}, {path}; the same command goes on from there"

    def _stand(self, done: int) -> Mark:
        shared: dict[str, Any] = {}
        if self.comm.rank == 0:  # the others' copies would be thrown away
            parts = {name: part.state_dict() for name, part in self.shared.items()}
            shared = {"done": done, "about": dict(self.about), "parts": parts}
        own = {"parts": {name: part.state_dict() for name, part in self.own.items()}, "random": random_states()}
        return Mark(done, self.policy.done, self.policy.moved, json.dumps(shared, ensure_ascii=False).encode(), own)

    def _save(self, mark: Mark) -> None:
        """By all ranks together. A disk without room is told, and the run goes on with the checkpoints that it has."""
        self._finish()
        held = replace(self.policy.hold(), updates=mark.updates)  # a skipped update moves the schedule only
        needed = _needed(self.comm.gather([held.nbytes]))
        reason = self.comm.lead(lambda: snapshot.begin(self.folder, mark.done, needed=needed, reserve=self.reserve))
        if reason:
            self.console.line(f"no room      for a checkpoint of step {mark.done}: {reason}; the run goes on")
            return
        self._writing = Writing(self.folder, mark, held, comm=self.comm, keep=self.settings.keep)
        self._writing.start()
        if not self.settings.background:
            self._finish()

    def _finish(self) -> None:
        """Wait until what is being written is whole, on all ranks; tell what failed."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        writing.written.wait()
        failures = [text for text in self.comm.gather([writing.failed]) if text]
        if failures:
            writing.abandoned.set()
        writing.join()
        failures += [text for text in self.comm.gather([writing.failed]) if text and text not in failures]
        if failures and self.comm.rank == 0:
            shutil.rmtree(snapshot.building(self.folder, writing.mark.done), ignore_errors=True)  # it may fill the disk
        for text in failures:
            self.console.line(f"not saved    the checkpoint of step {writing.mark.done}: {text}; the run goes on")


def _needed(shares: Sequence[int]) -> int:
    """Bytes on the disk of a checkpoint whose ranks hold so many, with what lies beside the tensors."""
    return int(sum(shares) * 1.01) + (1 << 20)


class Writing(threading.Thread):
    """One rank's share of one checkpoint on its way to the disk."""

    def __init__(self, folder: Path, mark: Mark, held: Held, *, comm: Comm, keep: int) -> None:
        super().__init__(daemon=True, name=f"checkpoint {mark.done}")
        self.mark, self._folder, self._held, self._keep = mark, folder, held, keep
        self._rank, self._ranks = comm.rank, comm.world
        self.written, self.abandoned = threading.Event(), threading.Event()  # this rank's share; the checkpoint
        self.failed = ""

    def run(self) -> None:
        if sys.platform == "linux":  # where a thread has a niceness of its own: the steps beside it come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            self._write()
            self.written.set()
            if self._rank == 0:
                self._seal()
        except OSError as error:
            self.failed = f"rank {self._rank}: {error}"
        except Exception as error:
            self.failed = f"rank {self._rank}: {type(error).__name__}: {error}"
        finally:
            self.written.set()

    def _write(self) -> None:
        place, digests = snapshot.building(self._folder, self.mark.done), {}
        for name in self._held.files(lead=self._rank == 0):
            digests[f"policy/{name}"] = snapshot.put(place, f"policy/{name}", *self._held.contents(name))
        snapshot.put_own(place, self._rank, self.mark.own, digests)

    def _seal(self) -> None:
        """When every rank has written; the oldest checkpoints go after that."""
        place = snapshot.building(self._folder, self.mark.done)
        while snapshot.parts_missing(place, self._ranks):
            if self.abandoned.wait(0.05):
                return
        snapshot.seal(self._folder, self.mark.done, ranks=self._ranks, shared=json.loads(self.mark.shared))
        snapshot.keep_newest(self._folder, self._keep)
