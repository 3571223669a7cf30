"""A command in one process, or as one of several ranks that a launcher has started: rank 0 speaks, and an error ends
all of them with one line."""

import os
import sys
from collections.abc import Callable

from grpo.distributed.communicator import Alone, Comm
from grpo.errors import EngineDied, NonFiniteError, StaleWeights, Stopped, UserError, exit_status
from grpo.telemetry.console import Console

Work = Callable[[Comm, Console], int]
"""Returns the exit status."""


def run(work: Work) -> int:
    """`work` with this process's ranks and console; its exit status, or that of the error that ended it."""
    try:
        return _together(work) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else work(Alone(), Console())
    except (NonFiniteError, EngineDied, UserError, StaleWeights, Stopped) as error:
        code, text = exit_status(error)
        Console().line(text)
        return code


def _together(work: Work) -> int:
    from grpo.distributed.failure_detection import OtherRankFailed, joined, leads_node  # torch takes seconds to load

    try:
        # Before any input is read: also an error of one rank alone, such as a file that its node lacks, ends all.
        with joined() as comm, open(os.devnull, "w", encoding="utf-8") as nowhere:
            return work(comm, Console() if comm.rank == 0 else Console(nowhere))
    except OtherRankFailed as other:
        mine = exit_status(other.__cause__)[1] if other.__cause__ else ""
        if leads_node() and mine != other.failure.text:  # else it has been said
            print(f"stopped: {other}", file=sys.stderr)
        return other.failure.code
