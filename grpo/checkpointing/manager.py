"""When is a run's state saved, and how does one go on from it? What `grpo.loop.train` calls at the end of every step.

All ranks copy their share into main memory together; a thread of each writes it while the next steps run, and rank 0's
seals the folder when every rank has written (grpo/checkpointing/writer.py, grpo/checkpointing/store.py).
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from grpo.checkpointing import store as snapshot
from grpo.checkpointing.rng_state import random_states, set_random_states
from grpo.checkpointing.settings import Keeping
from grpo.checkpointing.stop_signal import StopRequest
from grpo.checkpointing.store import Point, Snapshot
from grpo.checkpointing.writer import LONGEST, Mark, Writing, bytes_needed
from grpo.distributed.communicator import Comm
from grpo.errors import EXIT_HUNG, EngineDied, NonFiniteError, Stopped, UserError
from grpo.policy.base import PolicyEngine
from grpo.policy.optimizer_state import HostBuffers, OptimizerSnapshot
from grpo.telemetry.console import Console
from grpo.telemetry.step_metrics import Around

RESERVE = 1 << 28  # bytes that stay free: the run writes other files too


class Stateful(Protocol):
    """Goes on from what it told of itself, which is something that JSON takes."""

    def state_dict(self) -> dict[str, Any]:
        """A copy: it does not change when the run goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(kw_only=True)
class Checkpoints:
    """A run's checkpoints. `shared` are the parts that are the same on all ranks, or that rank 0 alone keeps, and `own`
    those of each rank; `about` is told once and must be the same when the run goes on. `settle` sees to the disk what
    `shared` counts on; it is called before each checkpoint is sealed."""

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
    settle: Callable[[], None] = lambda: None
    _copies: HostBuffers = field(default_factory=HostBuffers, init=False)
    _writing: Writing | None = field(default=None, init=False)
    _mark: Mark | None = field(default=None, init=False)
    _lacking: int = field(default=0, init=False)  # bytes of a checkpoint that is overdue, for want of room

    def __post_init__(self) -> None:
        self.comm.lead(lambda: self.folder.mkdir(exist_ok=True))
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder}: rank {self.comm.rank} does not see it; checkpoints need a run folder that all nodes "
                "share (run.folder)"
            )
        self.comm.before_end(self._end_writing)

    def __call__(self, done: int) -> None:
        """After `done` steps: a checkpoint where one is due. Raises Stopped where somebody has asked the run to end."""
        self._mark = self._stand(done)
        self._stop_if_asked()
        if self._is_due(done):
            with self.around("save"):
                self._save(self._mark)

    def _is_due(self, done: int) -> bool:
        every = self.settings.every
        if every and (done % every == 0 or done == self.steps):
            return True
        return self._lacking > 0 and self.comm.lead(lambda: not self._no_room(self._lacking))

    def _no_room(self, needed: int) -> str:
        return snapshot.no_room(self.folder, needed, reserve=self.reserve)

    def _stop_if_asked(self) -> None:
        """Between two steps: where a rank has been asked to end, all save and raise Stopped."""
        if asked := next((name for name in self.comm.gather([self.stop.name]) if name), ""):
            raise Stopped(f"{asked}: {self._rescue(together=True)}")

    def restore(self, found: Snapshot) -> int:
        """Put everything where it was; the number of steps done. UserError where the run is about something else."""
        with _readable(found.path):
            self._put_back(found)
        return found.at.step

    def _put_back(self, found: Snapshot) -> None:
        state = found.shared()
        for name, value in self.about.items():
            if state["about"].get(name) != value:
                raise UserError(f"{found.path}: {name} are not those that the run began with")
        self.policy.load_state(found.path / "policy")
        for name, part in self.shared.items():
            part.load_state_dict(state["parts"][name])
        own = found.own(self.comm.rank)
        if found.ranks != self.comm.world:
            self.console.line(f"             written by {found.ranks} ranks; the samples of {self.comm.world} differ")
        if own is not None:
            _set_states(self.own, own)
        self._mark = self._stand(found.at.step)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around the training: listens for requests to end it, also while what was begun last is written, which is
        finished in any case. A run of one rank that ends by an error before its policy has moved is saved as it stood
        after its last step."""
        self._mark = self._mark or self._stand(0)
        with self.stop.listening():
            try:
                yield
                with self.around("save"):
                    self._finish()
                self._stop_if_asked()  # since the last step ended
            except Stopped:
                raise
            except Exception as error:
                note = self._rescue(together=self.comm.world == 1 or isinstance(error, NonFiniteError | EngineDied))
                if isinstance(error, NonFiniteError | EngineDied):
                    raise type(error)(f"{error}; {note}") from error
                self.console.line(f"             {note}")
                raise

    def hung(self, text: str) -> NoReturn:
        """The main thread hangs, as `text` says, and this is another one: save what can be saved, and end all ranks.

        A run of one rank is saved as it stood after its last step, where its weights are still those. Of several ranks
        each has a part of them, and they are joined by calls that a rank that hangs does not make: the checkpoint that
        is on its way is waited for, by every rank, and there is no new one.
        """
        beside = threading.Thread(target=self._save_beside, daemon=True, name="save of a run that hangs")
        beside.start()
        beside.join(LONGEST)  # the disk, or the device that the weights are on, may be what hangs
        self.comm.end(EXIT_HUNG, f"{text}; {self._kept(self._mark.at if self._mark else Point(0))}")

    def _save_beside(self) -> None:
        """What `_save` does, but from another thread than the one that trains, which may at any time go on."""
        self._end_writing()
        mark = self._mark
        untouched = mark is not None and self.policy.num_updates == mark.updates
        if mark is None or self.comm.world > 1 or not untouched or snapshot.newest(self.folder) >= mark.at:
            return
        held = self.policy.snapshot_state()  # in memory of its own: the disk may not be done with the last one's
        if self.policy.num_updates != mark.updates:  # an update has begun while they were copied
            return
        if not snapshot.begin(self.folder, mark.at, needed=bytes_needed([held.nbytes]), reserve=self.reserve):
            self._begin_writing(mark, held).join()

    def _end_writing(self) -> None:
        if (writing := self._writing) is not None:
            writing.end()

    def _rescue(self, *, together: bool) -> str:
        """What is kept of a run that ends; `together` where all ranks have come here, so none waits for another."""
        if self._mark is None or not together:
            self._end_writing()
            return self._kept(Point(0))
        with self.around("save"):
            self._finish()
            newest = self.comm.lead(lambda: snapshot.newest(self.folder))
            if self.policy.num_steps_applied == self._mark.moved and newest < self._mark.at:
                self._save(self._mark)
                self._finish()
        return self._kept(self._mark.at)

    def _kept(self, reached: Point) -> str:
        """What there is to go on from, now that the run ends."""
        newest = snapshot.points_in(self.folder)
        if not newest:
            return "no checkpoint is there to go on from"
        at, path = newest[0]
        lost = "" if at >= reached else f" of {reached.step}"
        return f"saved after {at}{lost}, {path}; the same command goes on from there"

    def _stand(self, done: int) -> Mark:
        shared: dict[str, Any] = {}
        if self.comm.rank == 0:  # the others' copies would be thrown away
            shared = {"done": done, "about": dict(self.about), "parts": _states(self.shared)}
        own = {"parts": _states(self.own), "random": random_states()}
        told = json.dumps(shared, ensure_ascii=False).encode()
        return Mark(Point(done), self.policy.num_updates, self.policy.num_steps_applied, told, own)

    def _save(self, mark: Mark) -> None:
        """By all ranks together. A disk without room is told, and the run goes on with the checkpoints that it has."""
        self._finish()
        copies = self._copies if self.settings.background else None
        held = replace(self.policy.snapshot_state(copies), updates=mark.updates)
        needed = bytes_needed(self.comm.gather([held.nbytes]))
        reason = self.comm.lead(lambda: snapshot.begin(self.folder, mark.at, needed=needed, reserve=self.reserve))
        self._lacking = needed if reason else 0
        if reason:
            self.console.line(f"no room      for a checkpoint of {mark.at}: {reason}; the run goes on")
            return
        self._begin_writing(mark, held)
        if not self.settings.background:
            self._finish()

    def _begin_writing(self, mark: Mark, held: OptimizerSnapshot) -> Writing:
        self._writing = Writing(self.folder, mark, held, comm=self.comm, keep=self.settings.keep, settle=self.settle)
        self._writing.start()
        return self._writing

    def _finish(self) -> None:
        """Wait until what is being written is whole, on all ranks; tell what failed."""
        if (writing := self._writing) is None:
            return
        writing.written.wait()
        failures = [text for text in self.comm.gather([writing.failed]) if text]
        if failures:
            writing.abandoned.set()
        writing.join()
        failures += [text for text in self.comm.gather([writing.failed]) if text and text not in failures]
        if failures and self.comm.rank == 0:
            shutil.rmtree(snapshot.building(self.folder, writing.mark.at), ignore_errors=True)  # it may fill the disk
        for text in failures:
            self.console.line(f"not saved    the checkpoint of {writing.mark.at}: {text}; the run goes on")
        if writing.left:
            self.console.line(f"not removed  what is older than {writing.mark.at}, which is whole: {writing.left}")
        self._writing = None  # only now: the watchdog's thread waits for it too


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """UserError where what is read in the checkpoint `path` is not what is written there."""
    try:
        yield
    except UserError:
        raise
    except snapshot.DAMAGE as error:
        raise UserError(f"{path}: cannot be gone on from: {error!r}") from error


def _states(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


def _set_states(parts: Mapping[str, Stateful], state: Mapping[str, Any]) -> None:
    """The parts, and where this rank's random generators stood."""
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    set_random_states(state["random"])
