"""Processes for tests, forked off one that has imported everything: a second each instead of ten."""

import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 6000  # tenths of a second for one process; counted, not by the clock: a machine that is paused is not late


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a program, named as `subprocess` does."""

    returncode: int
    stdout: str
    stderr: str


def forked() -> Any:
    """Where all processes of tests come from. There is one such server, and what it has imported is settled when the
    first of them starts."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload"])
    return context


def wait_for(process: Any) -> int | None:
    """The exit status; None for one that is still running when its time is up."""
    for _ in range(PATIENCE):
        process.join(0.1)
        if process.exitcode is not None:
            break
    return process.exitcode


def run_program(module: str, arguments: Sequence[str], **environment: str) -> Done:
    """`main(arguments)` of a module, from the checkout, with these variables: what its command line would do."""
    with tempfile.TemporaryDirectory() as name:
        said = Path(name)
        process = forked().Process(target=_program, args=(module, list(arguments), environment, said))
        process.start()
        code = wait_for(process)
        stdout, stderr = ((said / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
    assert code is not None, stdout + stderr
    return Done(code, stdout, stderr)


def write_output_to(out: Path, err: Path | None = None) -> None:
    """Let this process, and what it starts, print into files until it ends; errors into `out` too without `err`."""
    sys.stdout = out.open("w", buffering=1, encoding="utf-8")
    sys.stderr = err.open("w", buffering=1, encoding="utf-8") if err else sys.stdout
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)


def _program(module: str, arguments: list[str], environment: dict[str, str], said: Path) -> None:
    write_output_to(said / "stdout", said / "stderr")
    os.chdir(ROOT)
    os.environ |= environment
    sys.exit(importlib.import_module(module).main(arguments))
