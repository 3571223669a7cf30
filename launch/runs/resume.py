"""Resuming a run: whether a run folder is new, resumed or refused, and its log files as they were at a checkpoint."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo.checkpointing import store
from grpo.checkpointing.store import DAMAGE, Checkpoint, fsync
from grpo.config import dump, parse_toml
from grpo.data.example import Example
from grpo.data.prompts import load_system_prompt
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger
from launch.config.recipe import Recipe
from launch.runs.run_lock import LOCK

LOGS = ("metrics.jsonl", "rollouts.jsonl", "notes.jsonl", "held_out.jsonl")
# Keys that may differ when a run resumes: places and, since a run may have ended for want of memory, ways of computing.
# None of them changes the results but for rounding.
HOW = ("engine", "stage", "offload", "layout", "token_budget", "gradient_checkpointing")
FREE = {"run.folder", "run.project"} | {f"policy.{key}" for key in HOW}
FREE_SECTIONS = ("checkpoint.", "rollout.")


def checkpoints_of(folder: Path) -> Path:
    """The folder of a run's checkpoints."""
    return folder / "checkpoints"


def has_finished(folder: Path) -> bool:
    """Whether the run in `folder` is finished: its model, complete or absent, is the last thing that a run writes."""
    return (folder / "model").is_dir()


def is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, perhaps killed while it was made."""
    return (folder / LOCK).is_file()


def latest_usable(folder: Path, console: Console) -> Checkpoint | None:
    """The newest checkpoint in a run folder that is intact and whose log files are there; None where there is none."""
    checkpoint = store.latest_valid(checkpoints_of(folder), lambda found: _short_log(folder, log_sizes(found)))
    if checkpoint is not None:
        console.line(f"resumes      from {checkpoint.path}, after step {checkpoint.step}")
    elif (folder / "recipe.toml").is_file():
        console.line(f"begins again {folder}: a run without a checkpoint")
    return checkpoint


def check_same_recipe(recipe: Recipe, folder: Path, *, tell: Callable[[str], None] = lambda text: None) -> None:
    """UserError, with a key that differs, where the run in `folder` was begun with another recipe or system prompt.

    A key that the saved recipe does not name had its default. `tell` gets a line for each key that differs and may.
    """
    file = folder / "recipe.toml"
    try:
        saved, prompt = _keys(parse_toml(file.read_text("utf-8"))), (folder / "prompt.txt").read_text("utf-8")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as the recipe of this run: {error}") from None
    new, old = _keys(parse_toml(dump(recipe))), _keys(parse_toml(dump(Recipe()))) | saved
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    forbidden = [key for key in differing if key not in FREE and not key.startswith(FREE_SECTIONS)]
    valid = f"valid: the recipe as it was, or a new run, --run.name={folder.name}-2 (make: NAME={folder.name}-2)"
    if forbidden:
        key, more = forbidden[0], f", and {len(forbidden) - 1} more keys differ" if len(forbidden) > 1 else ""
        was, now = _shown(old, key), _shown(new, key)
        raise UserError(f"{file}: the run was begun with {key} = {was}, now it is {now}{more}; {valid}")
    for key in differing:
        tell(f"             {key} = {_shown(new, key)} from here on, {_shown(old, key)} before")
    if prompt != load_system_prompt(recipe.model.system_prompt) + "\n":
        raise UserError(f"{folder / 'prompt.txt'}: the run there was begun with another system prompt; {valid}")


def restore_folder(folder: Path, checkpoint: Checkpoint | None) -> None:
    """Bring a run folder to its state at the checkpoint, or to that of a new run: later steps are made again."""
    if checkpoint is None:
        for path in (checkpoints_of(folder), folder / "bad", *folder.glob("best-step-*")):
            store.remove_all(path)
        sizes: Mapping[str, int] = {}
    else:
        store.discard_newer(checkpoints_of(folder), checkpoint.step)
        sizes = log_sizes(checkpoint)
    if short := _short_log(folder, sizes):
        raise UserError(short)
    for file in _log_files(folder):
        os.truncate(file, sizes.get(file.name, 0))
        fsync(file)


def log_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes of the log files at a checkpoint, in bytes."""
    sizes = _logs(checkpoint)[0]
    if min(sizes.values(), default=0) < 0:
        raise UserError(f"{checkpoint.path}: a log file of {min(sizes.values())} bytes; expected 0 or more")
    return sizes


def _short_log(folder: Path, sizes: Mapping[str, int]) -> str:
    """Why steps would be missing from a log file that had these sizes; "" where none would."""
    for name in LOGS:
        file, size = folder / name, sizes.get(name, 0)
        found = file.stat().st_size if file.exists() else 0
        if found < size:
            return f"{file}: has {found} bytes, and {size} at the checkpoint; valid: the file as it was left"
    return ""


class LogFiles:
    """The log files' sizes and wandb's run id, as a part of a checkpoint."""

    def __init__(self, folder: Path, log: RunLogger) -> None:
        self._folder, self._log = folder, log

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": {f.name: f.stat().st_size for f in _log_files(self._folder)}, "wandb": self._log.wandb_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing: the log was opened from this state (`restore_folder`, `wandb_id`)."""

    def fsync(self) -> None:
        """Put the files on the disk, or a checkpoint could outlast the lines that it counts."""
        for file in _log_files(self._folder):
            fsync(file)


def _log_files(folder: Path) -> list[Path]:
    return [folder / name for name in LOGS if (folder / name).exists()]


def wandb_id(checkpoint: Checkpoint | None) -> str:
    """The id at wandb of the run that is resumed; empty for a new one."""
    return _logs(checkpoint)[1] if checkpoint else ""


def _logs(checkpoint: Checkpoint) -> tuple[dict[str, int], str]:
    """Sizes of the log files, and wandb's run id, as `LogFiles` saved them."""
    try:
        logs = checkpoint.shared_state()["parts"]["logs"]
        return {str(name): int(size) for name, size in logs["bytes"].items()}, str(logs["wandb"])
    except DAMAGE as error:
        raise UserError(f"{checkpoint.path}: its part on the log files cannot be read: {error!r}") from None


def digest(examples: Sequence[Example]) -> str:
    """A hash that tells one list of examples from another."""
    sha = hashlib.sha256()
    for example in examples:
        sha.update(repr(asdict(example)).encode())
    return sha.hexdigest()


def _keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in recipe.items() for key, value in keys.items()}


def _shown(keys: Mapping[str, Any], key: str) -> str:
    return repr(keys[key]) if key in keys else "not set"
