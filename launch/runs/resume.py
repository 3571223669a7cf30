"""Does a run begin, go on, or is it refused? From a recipe and what is in its run folder."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from grpo.checkpointing import store as snapshot
from grpo.checkpointing.store import DAMAGE, Snapshot, flush, newest_whole, points_in
from grpo.config import dump, parsed
from grpo.data.example import Example
from grpo.data.prompts import load_system_prompt
from grpo.errors import UserError
from grpo.telemetry.console import Console
from grpo.telemetry.run_logger import RunLogger, refuse_existing
from launch.builders.assemble import save_recipe
from launch.config.recipe import Recipe
from launch.runs.lineage import FILE as STAGES
from launch.runs.run_lock import LOCK, FolderLock

LOGS = ("metrics.jsonl", "rollouts.jsonl", "notes.jsonl", "held_out.jsonl")
# What may differ when a run goes on: where things are and, since a run may have ended for want of memory, how it is
# computed. None of it changes what is computed but for rounding.
HOW = ("engine", "stage", "offload", "layout", "token_budget", "gradient_checkpointing")
FREE = {"run.folder", "run.project"} | {f"policy.{key}" for key in HOW}
FREE_SECTIONS = ("checkpoint.", "rollout.")


def checkpoints_of(folder: Path) -> Path:
    """Where a run's checkpoints are."""
    return folder / "checkpoints"


def has_finished(folder: Path) -> bool:
    """Whether the run there has left its model whole: this list is the last thing that a run writes."""
    return (folder / "model" / STAGES).is_file()


def find(recipe: Recipe, folder: Path, console: Console) -> Snapshot | None:
    """The checkpoint that a run goes on from, or None for a run that begins.

    UserError where something is there that is not gone on with: a finished run, one of another recipe, what is no run,
    or any where `checkpoint.resume = "never"`. Nothing is changed on the disk, but that the checkpoints of a finished
    run go, which was killed before it had removed them.
    """
    if has_finished(folder):
        snapshot.remove_all(checkpoints_of(folder))
        refuse_existing(folder)
    if is_cut_off(recipe, folder):
        return None
    if recipe.checkpoint.resume == "never" or not points_in(checkpoints_of(folder)):
        refuse_existing(folder)
        return None
    check_same(recipe, folder, tell=console.line)
    found = newest_whole(checkpoints_of(folder), tell=console.line, lacks=partial(_lacks, folder))
    assert found is not None  # there are some, and one that is whole, or newest_whole would have raised
    console.line(f"goes on      from {found.path}, after {found.at}")
    return found


def is_cut_off(recipe: Recipe, folder: Path) -> bool:
    """Whether a run of this recipe is there that ended before its first checkpoint, so that it begins anew. UserError
    for one of another recipe."""
    ours = recipe.checkpoint.resume == "auto" and (folder / LOCK).exists()
    if not ours or has_finished(folder) or points_in(checkpoints_of(folder)):
        return False
    if (folder / STAGES).is_file():  # else it was killed while its folder was made
        check_same(recipe, folder)
    return True


def set_aside(folder: Path, lock: FolderLock) -> Path | None:
    """Move a run that was cut off out of the way, where it holds nothing to go on from: its new place. Nothing is
    deleted, and `lock`, which is that folder's, is let go.

    UserError where it was not cut off, but another process is at it, or where nobody can tell.
    """
    if not folder.is_dir() or has_finished(folder) or points_in(checkpoints_of(folder)):
        return None
    lock.take(create=True)
    if not lock.held:
        raise UserError(
            f"{folder}: a run that was cut off, or is alive: a file system without locks does not tell; valid: move it "
            f"away by hand, or another run, --run.name={folder.name}-2 (make: NAME={folder.name}-2)"
        )
    for number in range(1, 10_000):
        aside = folder.with_name(f"{folder.name}.cut-off-{number}")
        if not aside.exists():
            folder.rename(aside)
            lock.release()
            return aside
    raise UserError(f"{folder}: 9,999 runs of this name were cut off; remove some of {folder.name}.cut-off-*")


def check_same(recipe: Recipe, folder: Path, *, tell: Callable[[str], None] = lambda text: None) -> None:
    """UserError, naming a key that differs, where the run in `folder` was begun with another recipe or prompt.

    A key that its recipe does not name had its default: the program of that time may not have known it. `tell` gets a
    line for every key that may differ and does.
    """
    file = folder / "recipe.toml"
    try:
        was, prompt = _keys(parsed(file.read_text("utf-8"))), (folder / "prompt.txt").read_text("utf-8")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as the recipe of this run: {error}") from None
    new, old = _keys(parsed(dump(recipe))), _keys(parsed(dump(Recipe()))) | was
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _is_free(key)]
    valid = f"valid: the recipe as it was, or a new run, --run.name={folder.name}-2 (make: NAME={folder.name}-2)"
    if differing:
        key, more = differing[0], f", and {len(differing) - 1} more keys differ" if len(differing) > 1 else ""
        old_value, new_value = _shown(old, key), _shown(new, key)
        raise UserError(f"{file}: the run was begun with {key} = {old_value}, now it is {new_value}{more}; {valid}")
    for key in (key for key in {**old, **new} if old.get(key) != new.get(key)):
        tell(f"             {key} = {_shown(new, key)} from here on, {_shown(old, key)} before")
    if prompt != load_system_prompt(recipe.prompt_file) + "\n":
        raise UserError(f"{folder / 'prompt.txt'}: the run there was begun with another system prompt; {valid}")


def prepare_folder(recipe: Recipe, folder: Path, found: Snapshot | None) -> None:
    """The recipe into a new folder; or the one that is there, with its logs as they were at the checkpoint."""
    if found is None:
        save_recipe(recipe, folder)
        return
    snapshot.set_aside(checkpoints_of(folder), after=found.at)
    if not has_finished(folder):
        shutil.rmtree(folder / "model", ignore_errors=True)  # of steps that are now made again
    cut_back(folder, log_sizes(found))


def log_sizes(found: Snapshot) -> dict[str, int]:
    """How long the log files were at a checkpoint."""
    try:
        sizes = {str(name): int(size) for name, size in found.shared()["parts"]["logs"]["bytes"].items()}
    except DAMAGE as error:
        raise UserError(f"{found.path}: the log files' lengths cannot be read: {error!r}") from None
    if min(sizes.values(), default=0) < 0:
        raise UserError(f"{found.path}: a log file of {min(sizes.values())} bytes; expected 0 or more")
    return sizes


def _lacks(folder: Path, found: Snapshot) -> str:
    """Why a checkpoint that is whole cannot be gone on from; or nothing. A log file may be shorter than it was, so that
    steps would be missing from it."""
    return _too_short(folder, log_sizes(found))


def _too_short(folder: Path, sizes: Mapping[str, int]) -> str:
    for name in LOGS:
        file, size = folder / name, sizes.get(name, 0)
        found = file.stat().st_size if file.exists() else 0
        if found < size:
            return f"{file}: has {found} bytes, and {size} at the checkpoint; valid: the file as it was left"
        if size and not _ends_line(file, size):
            return f"{file}: no line ends after {size} bytes, as at the checkpoint; valid: the file as it was left"
    return ""


def _ends_line(file: Path, size: int) -> bool:
    with file.open("rb") as opened:
        opened.seek(size - 1)
        return opened.read(1) == b"\n"


def cut_back(folder: Path, sizes: Mapping[str, int]) -> None:
    """The log files as they were when they had these sizes: the steps after that are made again.

    UserError where a file is shorter than it was, since steps would be missing from it.
    """
    if short := _too_short(folder, sizes):
        raise UserError(short)
    for name in LOGS:
        if (folder / name).exists():
            os.truncate(folder / name, sizes.get(name, 0))
            flush(folder / name)


class Logs:
    """The log files' lengths and wandb's run id, as a part of a checkpoint."""

    def __init__(self, folder: Path, log: RunLogger) -> None:
        self._folder, self._log = folder, log

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": {file.name: file.stat().st_size for file in self._files()}, "wandb": self._log.wandb_id}

    def flush(self) -> None:
        """See them to the disk, or a checkpoint could outlast the lines that it counts."""
        for file in self._files():
            flush(file)

    def _files(self) -> list[Path]:
        return [self._folder / name for name in LOGS if (self._folder / name).exists()]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The log was opened from it already (`prepare_folder`, `wandb_id`)."""


def wandb_id(found: Snapshot | None) -> str:
    """Of the run that is gone on with; empty for a new one."""
    if found is None:
        return ""
    try:
        return str(found.shared()["parts"]["logs"]["wandb"])
    except DAMAGE as error:
        raise UserError(f"{found.path}: wandb's run id cannot be read: {error!r}") from None


def digest(examples: Sequence[Example]) -> str:
    """What tells one list of questions from another."""
    sha = hashlib.sha256()
    for example in examples:
        sha.update(repr(asdict(example)).encode())
    return sha.hexdigest()


def _keys(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in recipe.items() for key, value in keys.items()}


def _is_free(key: str) -> bool:
    return key in FREE or key.startswith(FREE_SECTIONS)


def _shown(keys: Mapping[str, Any], key: str) -> str:
    return repr(keys[key]) if key in keys else "not set"
