"""Entry of a command in one process, or as one of the ranks that a launcher has started.

Rank 0 prints, and an error ends all ranks with one line.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpo.distributed.communicator import Communicator
from grpo.errors import FatalError, StaleWeights, Stopped, UserError, exit_status
from grpo.telemetry.console import Console

Command = Callable[[Communicator, Console], int]
"""Returns the exit status."""


def run_on_ranks(command: Command) -> int:
    """Run `command` with this process's communicator and console; its exit status, or that of its error."""
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            return _run_distributed(command)
        console = Console()
        with logs_to(console):
            return command(Communicator(), console)
    except (FatalError, StaleWeights, Stopped, UserError) as error:
        code, text = exit_status(error)
        Console().line(text)
        return code


def _run_distributed(command: Command) -> int:
    from grpo.distributed.failure_detection import OtherRankFailed, init_distributed, is_local_main  # loads torch

    try:
        # Before any input is read: an error of one rank alone, such as a file that its node lacks, ends all ranks.
        with init_distributed() as comm, open(os.devnull, "w", encoding="utf-8") as nowhere:
            console = Console() if comm.rank == 0 else Console(nowhere)
            with logs_to(console):
                return command(comm, console)
    except OtherRankFailed as other:
        own = exit_status(other.__cause__)[1] if other.__cause__ else ""
        if is_local_main() and own != other.failure.text:  # else the line has been printed
            print(f"stopped: {other}", file=sys.stderr)
        return other.failure.code


@contextmanager
def logs_to(console: Console) -> Iterator[None]:
    """Show warnings of the program's own loggers on the console, until the block ends."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.line(f"{record.levelname.lower():12} {record.getMessage()}")

    loggers, handler = [logging.getLogger(package) for package in ("grpo", "launch")], Handler()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
