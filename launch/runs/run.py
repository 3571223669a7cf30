"""One training run, of any algorithm: its folder, lock, log, checkpoints, watchdog, signals and random state."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo.checkpointing.export import save_model_folder
from grpo.checkpointing.manager import CheckpointManager, Stateful
from grpo.checkpointing.rng_state import seed_all
from grpo.checkpointing.store import list_checkpoints, remove_all
from grpo.config import dump
from grpo.data.example import Example
from grpo.data.prompts import load_system_prompt
from grpo.distributed.communicator import Communicator
from grpo.distributed.watchdog import Watchdog
from grpo.errors import UserError
from grpo.policy.engine import Policy
from grpo.policy.optimizer import AdamWConfig
from grpo.rollout.base import RolloutEngine
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger, require_new_folder
from grpo.telemetry.throughput import ThroughputMeter
from launch.builders.models import check_context, load_shell
from launch.builders.policy import choose_dtype, make_meter, make_policy
from launch.builders.prompts import PromptCodec, make_prompt_codec
from launch.builders.rollout import choose_rollout, make_rollout
from launch.config.recipe import Recipe
from launch.runs import resume
from launch.runs.run_lock import RunLock
from launch.runs.target_check import TARGETS, check_targets, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What trains and what samples from the model whose training starts from the weights in `base`."""

    base: str
    codec: PromptCodec
    meter: ThroughputMeter
    policy: Policy
    rollout: RolloutEngine | None  # None where nothing is sampled


class Run:
    """A run in its folder; `with Run(...) as run` holds the lock and knows the checkpoint to resume from.

    Nothing is created before `training`, so that wrong input leaves nothing behind. All ranks make all calls together;
    rank 0 alone touches the files.
    """

    log: RunLogger  # from `training` on
    checkpoints: CheckpointManager  # likewise

    def __init__(
        self, recipe: Recipe, *, comm: Communicator, console: Console, folder: Path | None = None, shared: bool = False
    ) -> None:
        """`folder` is that of the recipe's name by default. A `shared` run is one that other runs may need too, such as
        a warm-up: whoever comes second waits for the first, and takes the model that it made."""
        self.recipe, self.comm, self.console, self.shared = recipe, comm, console, shared
        self.folder = folder or Path(recipe.run.folder) / recipe.run_name
        self._lock = RunLock(self.folder)

    def __enter__(self) -> "Run":
        try:
            self.checkpoint = self.comm.on_rank0(self._open)
        except BaseException:
            self._lock.release()
            raise
        return self

    def _open(self) -> resume.Checkpoint | None:
        """Lock the folder; the checkpoint to resume from, or None for a run that begins, also again in place.

        UserError where the folder holds a finished run, a run of another recipe, or no run, and for any run where
        `checkpoint.resume = "never"`.
        """
        folder = self.folder
        check_writable(folder)
        if self.shared:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire(create=True, wait=True)
            return None if self.is_finished else resume.latest_usable(folder, self.console)
        self._lock.acquire(create=False)
        if self.is_finished:
            remove_all(resume.checkpoints_of(folder))  # the run was killed before it had
            require_new_folder(folder)
        if self.recipe.checkpoint.resume == "never" or not resume.is_run(folder):
            require_new_folder(folder)
            return None
        if (folder / "recipe.toml").is_file():  # else the run was killed while its folder was made
            resume.check_same_recipe(self.recipe, folder, tell=self.console.line)
        return resume.latest_usable(folder, self.console)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "model"

    @property
    def is_finished(self) -> bool:
        return resume.has_finished(self.folder)

    def load_engines(
        self,
        base: str,
        optim: AdamWConfig,
        *,
        targets: Sequence[Example],
        updates: int,
        samples: bool,
        **policy: Any,
    ) -> Engines:
        """The engines over the weights in `base`, for that many updates; `policy` is for `make_policy`.

        `targets` are the questions that the run trains on, with prompts that fit; their gold answers are checked. A
        context that is too long and a rollout engine that cannot be are refused first.
        """
        recipe, console, comm = self.recipe, self.console, self.comm
        limit, context = recipe.sampling.max_tokens, recipe.model.context
        codec = make_prompt_codec(recipe.model, base, console, max_tokens=limit)
        kinds = sorted(targets, key=lambda example: example.answerable)  # equal distances could leave out all refusals
        gold, may_lose = spread(kinds, TARGETS), recipe.run.max_lost_targets
        check_targets(codec, gold, recipe.reward, console, max_tokens=limit, may_lose=may_lose)
        check_context(context, load_shell(base), base)
        engine = choose_rollout(recipe.rollout, base, console) if samples else None
        console.line(f"loading      {base}")
        meter = make_meter(recipe.policy, recipe.model, base)
        about = {"console": console, "comm": comm}
        trained = make_policy(recipe.policy, optim, base, updates=updates, meter=meter, **about, **policy)
        about |= {"codec": codec, "context": context, "dtype": choose_dtype(recipe.policy)}
        sampler = make_rollout(engine, recipe.rollout, base, **about) if engine else None
        return Engines(base=base, codec=codec, meter=meter, policy=trained, rollout=sampler)

    @contextmanager
    def training(
        self,
        *,
        steps: int,
        engines: Engines,
        shared: Mapping[str, Stateful],
        about: Mapping[str, str],
        own: Mapping[str, Stateful] | None = None,
    ) -> Iterator[int]:
        """Create or restore the folder, and yield the number of steps that are done.

        When the block ends, the model is written, as the last thing, and the checkpoints are removed. The arguments
        `shared`, `own` and `about` are those of `CheckpointManager`.
        """
        recipe, comm = self.recipe, self.comm
        comm.on_rank0(self._prepare_folder)
        dog = Watchdog(rank=comm.rank, hang=recipe.checkpoint.hang_timeout or math.inf)
        self.log = self._make_log(steps, dog, engines.meter)
        logs = resume.LogFiles(self.folder, self.log)
        self.checkpoints = CheckpointManager(
            folder=resume.checkpoints_of(self.folder),
            settings=recipe.checkpoint,
            steps=steps,
            policy=engines.policy,
            shared={**shared, "logs": logs},
            own=own or {},
            about=about,
            comm=comm,
            console=self.console,
            phase=dog.phase,
            before_commit=logs.fsync,
        )
        seed_all(recipe.run.seed, rank=comm.rank)  # for whatever draws beside the steps, such as a user's reward
        with self.log, dog.watching(on_hang=self.checkpoints.on_hang):
            with self.checkpoints.guard():
                yield self.checkpoints.restore(self.checkpoint) if self.checkpoint else 0
            with self.log.phase("save"):
                codec = engines.codec
                save_model_folder(engines.policy, codec.tokenizer, self.model, comm, stop_ids=codec.stop_ids)
        comm.on_rank0(lambda: remove_all(resume.checkpoints_of(self.folder)))
        self.console.line(f"model        {self.model}")

    def _make_log(self, steps: int, dog: Watchdog, meter: ThroughputMeter) -> RunLogger:
        return RunLogger(
            self.folder,
            name=self.folder.name,
            steps=steps,
            console=self.console,
            project=self.recipe.run.project,
            settings={"recipe": dump(self.recipe)},
            rollouts_every=self.recipe.run.rollouts_every,
            writes=self.comm.rank == 0,
            wandb_id=resume.wandb_id(self.checkpoint),
            phase_hook=dog.phase,
            meter=meter,
        )

    def _prepare_folder(self) -> None:
        if not resume.is_run(self.folder):
            require_new_folder(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._lock.acquire(create=True)
        if self.checkpoint is None and (self.is_finished or list_checkpoints(resume.checkpoints_of(self.folder))):
            require_new_folder(self.folder)  # another process has made this run meanwhile
        resume.restore_folder(self.folder, self.checkpoint)
        if self.checkpoint is None:
            save_recipe(self.recipe, self.folder)


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Save the whole recipe, and the text of its system prompt, whose file may change later."""
    (folder / "prompt.txt").write_text(load_system_prompt(recipe.model.system_prompt) + "\n", encoding="utf-8")
    new = folder / ".recipe.toml.new"
    new.write_text(dump(recipe), encoding="utf-8")
    new.rename(folder / "recipe.toml")  # complete or absent


def check_writable(folder: Path) -> None:
    """UserError where `folder` cannot be written, or cannot be created in the nearest folder that exists."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"run.folder: {existing} cannot be written to; valid: a folder that can, --run.folder=FOLDER")
