"""Checkpoints of a run: when they are taken, how a run resumes from one, how it ends saved.

All ranks copy their share into main memory together. A thread of each rank writes the copy during the next steps, and
rank 0's thread commits the folder when every rank has written (grpo/checkpointing/writer.py and store.py).
"""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from grpo.checkpointing import store
from grpo.checkpointing.rng_state import get_rng_state, set_rng_state
from grpo.checkpointing.stop_signal import StopSignal
from grpo.checkpointing.store import Checkpoint
from grpo.checkpointing.writer import DISK_TIMEOUT, CheckpointWriter, RunState, bytes_needed
from grpo.distributed.communicator import Communicator
from grpo.errors import EXIT_HUNG, FatalError, Stopped, UserError
from grpo.policy.engine import Policy
from grpo.policy.optimizer_state import HostBuffers, OptimizerSnapshot
from grpo.settings import CheckpointConfig
from grpo.telemetry.console import Console
from grpo.telemetry.step_metrics import PhaseHook

RESERVE = 1 << 28  # bytes that stay free on the disk: the run writes other files too


class Stateful(Protocol):
    """A part of a run that a checkpoint holds; its state is JSON."""

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, which does not change when the run continues."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from this state."""
        ...


@dataclass(kw_only=True)
class CheckpointManager:
    """Takes, writes and restores the checkpoints of one run; `on_step_end` is called after every step.

    `shared` are the parts that are the same on all ranks or that rank 0 alone keeps, `own` those of each rank. `about`
    is recorded and must be the same when the run resumes. `before_commit` puts on the disk what `shared` refers to.
    """

    folder: Path
    settings: CheckpointConfig
    steps: int
    policy: Policy
    shared: Mapping[str, Stateful]
    own: Mapping[str, Stateful]
    about: Mapping[str, str]
    comm: Communicator
    console: Console
    stop: StopSignal = field(default_factory=StopSignal)
    reserve: int = RESERVE
    phase: PhaseHook = nullcontext  # entered as "save" where the loop waits for the disk
    before_commit: Callable[[], None] = lambda: None
    _copies: HostBuffers = field(default_factory=HostBuffers, init=False)
    _writer: CheckpointWriter | None = field(default=None, init=False)
    _state: RunState | None = field(default=None, init=False)  # after the last step
    _overdue: int = field(default=0, init=False)  # bytes of a checkpoint that had no room on the disk

    def __post_init__(self) -> None:
        self.comm.on_rank0(lambda: self.folder.mkdir(exist_ok=True))
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder}: rank {self.comm.rank} does not see it; checkpoints need a run folder that all nodes "
                "share (run.folder)"
            )
        self.comm.on_abort(self._finish_writer)

    def on_step_end(self, done: int) -> None:
        """After `done` steps: save where a checkpoint is due. Raises Stopped where the run was asked to end."""
        self._state = self._take_state(done)
        self._stop_if_asked()
        if self._is_due(done):
            with self.phase("save"):
                self._save(self._state)

    def _is_due(self, done: int) -> bool:
        every = self.settings.every
        if every and (done % every == 0 or done == self.steps):
            return True
        return self._overdue > 0 and self.comm.on_rank0(lambda: not self._disk_shortage(self._overdue))

    def _disk_shortage(self, needed: int) -> str:
        return store.disk_shortage(self.folder, needed, reserve=self.reserve)

    def _stop_if_asked(self) -> None:
        """Where any rank has been asked to end, save on all ranks and raise Stopped."""
        if asked := next((name for name in self.comm.gather([self.stop.name]) if name), ""):
            raise Stopped(f"{asked}: {self._save_last_state(all_ranks=True)}")

    def restore(self, checkpoint: Checkpoint) -> int:
        """Restore all parts and return the number of steps done. UserError where the run is about something else."""
        try:
            state = checkpoint.shared_state()
            for name, value in self.about.items():
                if state["about"].get(name) != value:
                    raise UserError(f"{checkpoint.path}: {name} are not those that the run began with")
            self.policy.load_state(checkpoint.path / "policy")
            for name, part in self.shared.items():
                part.load_state_dict(state["parts"][name])
            own = checkpoint.rank_state(self.comm.rank)
            if own is not None:
                for name, part in self.own.items():
                    part.load_state_dict(own["parts"][name])
                set_rng_state(own["random"])
        except UserError:
            raise
        except store.DAMAGE as error:
            raise UserError(f"{checkpoint.path}: cannot be resumed from: {error!r}") from error
        if checkpoint.ranks != self.comm.world:
            self.console.line(
                f"             written by {checkpoint.ranks} ranks; the samples of {self.comm.world} differ"
            )
        self._state = self._take_state(checkpoint.step)
        return checkpoint.step

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around the training: listen for signals, finish the last checkpoint, and save a run that fails.

        A run of one rank that fails before its policy has moved is saved as it was after its last step.
        """
        self._state = self._state or self._take_state(0)
        with self.stop.listening():
            try:
                yield
                with self.phase("save"):
                    self._wait_for_writer()
                self._stop_if_asked()  # since the last step ended
            except Stopped:
                raise
            except FatalError as error:
                note = self._save_last_state(all_ranks=error.all_ranks or self.comm.world == 1)
                raise type(error)(f"{error}; {note}", all_ranks=error.all_ranks) from error
            except Exception:
                self.console.line(f"             {self._save_last_state(all_ranks=self.comm.world == 1)}")
                raise

    def on_hang(self, text: str) -> NoReturn:
        """Called by the watchdog's thread while the main thread hangs, as `text` says: save, and end all ranks.

        A run of one rank is saved as it was after its last step, if its weights are still those. Of several ranks each
        has a part of the weights, and a rank that hangs takes no part in collective calls: so there is no new
        checkpoint, and every rank waits for the one that is being written.
        """
        saving = threading.Thread(target=self._save_from_other_thread, daemon=True, name="save of a run that hangs")
        saving.start()
        saving.join(DISK_TIMEOUT)  # the disk, or the device of the weights, may be what hangs
        self.comm.abort(EXIT_HUNG, f"{text}; {self._where_to_resume(self._state.step if self._state else 0)}")

    def _save_from_other_thread(self) -> None:
        self._finish_writer()
        state = self._state
        unchanged = state is not None and self.policy.num_updates == state.updates
        if state is None or self.comm.world > 1 or not unchanged or store.latest_step(self.folder) >= state.step:
            return
        copy = self.policy.snapshot_state()  # in memory of its own: the buffers may still be in use by the writer
        if self.policy.num_updates != state.updates:  # an update has begun while the state was copied
            return
        if not store.create(self.folder, state.step, needed=bytes_needed([copy.nbytes]), reserve=self.reserve):
            self._start_writer(state, copy).join()

    def _finish_writer(self) -> None:
        if (writer := self._writer) is not None:
            writer.finish()

    def _save_last_state(self, *, all_ranks: bool) -> str:
        """Save a run that ends, where all ranks have come here; returns what there is to resume from."""
        if self._state is None or not all_ranks:
            self._finish_writer()
            return self._where_to_resume(0)
        with self.phase("save"):
            self._wait_for_writer()
            latest = self.comm.on_rank0(lambda: store.latest_step(self.folder))
            if self.policy.num_steps_applied == self._state.steps_applied and latest < self._state.step:
                self._save(self._state)
                self._wait_for_writer()
        return self._where_to_resume(self._state.step)

    def _where_to_resume(self, reached: int) -> str:
        checkpoints = store.list_checkpoints(self.folder)
        if not checkpoints:
            return "there is no checkpoint to resume from"
        step, path = checkpoints[0]
        lost = "" if step >= reached else f" of {reached}"
        return f"saved after step {step}{lost}, {path}; the same command resumes from there"

    def _take_state(self, done: int) -> RunState:
        shared: dict[str, Any] = {}
        if self.comm.rank == 0:  # the copies of other ranks would be thrown away
            shared = {"done": done, "about": dict(self.about), "parts": _states(self.shared)}
        own = {"parts": _states(self.own), "random": get_rng_state()}
        text = json.dumps(shared, ensure_ascii=False).encode()
        policy = self.policy
        return RunState(done, policy.num_updates, policy.num_nonfinite, policy.num_steps_applied, text, own)

    def _save(self, state: RunState) -> None:
        """Start a checkpoint, on all ranks together. Where the disk has no room, the run continues without it."""
        self._wait_for_writer()
        copies = self._copies if self.settings.background else None
        copy = self.policy.snapshot_state(copies)
        # Skipped updates since then move the schedule only.
        copy = replace(copy, num_updates=state.updates, num_nonfinite=state.nonfinite)
        needed = bytes_needed(self.comm.gather([copy.nbytes]))
        reason = self.comm.on_rank0(lambda: store.create(self.folder, state.step, needed=needed, reserve=self.reserve))
        self._overdue = needed if reason else 0
        if reason:
            self.console.line(f"no room      for a checkpoint of step {state.step}: {reason}; the run continues")
            return
        self._start_writer(state, copy)
        if not self.settings.background:
            self._wait_for_writer()

    def _start_writer(self, state: RunState, copy: OptimizerSnapshot) -> CheckpointWriter:
        self._writer = CheckpointWriter(
            self.folder, state, copy, comm=self.comm, keep=self.settings.keep, before_commit=self.before_commit
        )
        self._writer.start()
        return self._writer

    def _wait_for_writer(self) -> None:
        """Return when the checkpoint being written is complete on all ranks; report why one failed."""
        if (writer := self._writer) is None:
            return
        step = writer.state.step
        writer.written.wait()
        failures = [text for text in self.comm.gather([writer.failed]) if text]
        if failures:
            writer.abandoned.set()
        writer.join()
        failures += [text for text in self.comm.gather([writer.failed]) if text and text not in failures]
        if failures and self.comm.rank == 0:
            shutil.rmtree(store.temp_path(self.folder, step), ignore_errors=True)  # it may fill the disk
        for text in failures:
            self.console.line(f"not saved    the checkpoint of step {step}: {text}; the run continues")
        if writer.not_pruned:
            self.console.line(
                f"not removed  checkpoints older than step {step}, which is complete: {writer.not_pruned}"
            )
        self._writer = None  # only now: the watchdog's thread waits for the writer too


def _states(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}
