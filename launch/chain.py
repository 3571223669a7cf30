"""Runs one after another, each in a process of its own: what one leaves in memory is gone before the next begins.

A run that is finished is not run again, so that the same command goes on after a kill.
"""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from grpo.checkpointing.stop_signal import SIGNALS
from grpo.checkpointing.store import remove_all
from grpo.config import load
from grpo.errors import EXIT_STOPPED
from grpo.telemetry.console import Console
from launch.config.recipe import Recipe
from launch.runs.resume import check_same, checkpoints_of, has_finished, set_aside
from launch.runs.run_lock import FolderLock

ROOT = Path(__file__).resolve().parents[1]
TRAIN = str(ROOT / "scripts" / "train.sh")


class RunFailed(RuntimeError):
    """A run ended with an error, which it has said itself; `code` is its exit status."""

    def __init__(self, folder: Path, code: int) -> None:
        super().__init__(f"{folder.name} ended with exit code {code}")
        self.code = code


def launcher(gpus: int = 0, port: int = 0) -> tuple[str, ...]:
    """The command that trains: one process, or a rank on each of several GPUs. 0: what the environment says."""
    numbers = {"GPUS": gpus, "PORT": port}
    return ("env", *(f"{name}={number}" for name, number in numbers.items() if number), TRAIN)


def folder_of(recipe: Recipe) -> Path:
    return Path(recipe.run.folder) / recipe.run_name


def is_finished(arguments: Sequence[str]) -> bool:
    """Whether the run of this recipe has left its model; UserError where a run of another recipe has."""
    recipe = load(Recipe, arguments)
    folder = folder_of(recipe)
    if not has_finished(folder):
        return False
    check_same(recipe, folder)
    return True


def run(arguments: Sequence[str], *, command: Sequence[str] = (TRAIN,), console: Console) -> Path:
    """The folder of the finished run of this recipe: as it is, or after training it now. RunFailed where it fails."""
    folder = folder_of(load(Recipe, arguments))
    if is_finished(arguments):
        with FolderLock(folder) as lock:
            lock.take(create=False)
            remove_all(checkpoints_of(folder))  # the run was perhaps killed before it had
        console.line(f"finished     {folder} is there already")
        return folder
    with FolderLock(folder) as lock:
        if aside := set_aside(folder, lock):
            console.line(f"set aside    {aside}: a run that was cut off")
    console.line(f"run          {folder}")
    code = wait_for([*command, *arguments])
    if code:
        raise RunFailed(folder, code)
    return folder


def wait_for(command: Sequence[str]) -> int:
    """Run a command to its end; its exit status. Requests to end are the command's: it saves, and then ends itself.

    A terminal sends Ctrl-C to both; SIGTERM and SIGUSR1 come to this process alone, and are passed on. A command that
    was through before it heard of one has ended well, but nothing may follow it: the status is then that of a run that
    was asked to end.
    """
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def heard(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    before = {number: signal.signal(number, heard) for number in SIGNALS}
    try:
        child = subprocess.Popen(command)
        for number in asked:  # before there was a child to pass it on to
            if number != signal.SIGINT:
                child.send_signal(number)
        return child.wait() or (EXIT_STOPPED if asked else 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
