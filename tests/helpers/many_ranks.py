"""Several real ranks for a test: processes that meet over gloo and run one function each."""

import os
import pickle
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo.distributed.failure_detection import init_distributed
from tests.helpers.forked import forked, write_output_to


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a rank: the value returned or the exception raised, the exit status (None: still running when its
    time was up), and what it printed."""

    value: Any
    code: int | None
    said: str


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_ranks(work: Callable[..., Any], *args: Any, world: int = 2, grace: float = 60.0) -> list[Ran]:
    """`work(comm, *args)` on every rank. When the first has ended the others have `grace` seconds, then are killed."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(rank) for rank in range(world)]
        processes = []
        for rank, folder in enumerate(folders):
            folder.mkdir()
            processes.append(forked().Process(target=_rank, args=(rank, world, port, folder, work, args)))
            processes[-1].start()
        codes = _codes(processes, grace)
        return [_ran(folder, code) for folder, code in zip(folders, codes, strict=True)]


def _codes(processes: list[Any], grace: float) -> list[int | None]:
    left = 900.0  # seconds, counted by sleeps and not by the clock: a machine that is paused is not late
    grace = max(grace, 0.5)  # of two that end at once, any may be heard of first
    while any(process.exitcode is None for process in processes) and left > 0:
        if any(process.exitcode is not None for process in processes):
            left, grace = min(left, grace), 900.0
        time.sleep(0.05)
        left -= 0.05
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _ran(folder: Path, code: int | None) -> Ran:
    file = folder / "value"
    value = pickle.loads(file.read_bytes()) if file.exists() else None
    return Ran(value, code, (folder / "said").read_text(encoding="utf-8"))


def _rank(rank: int, world: int, port: int, folder: Path, work: Callable[..., Any], args: Any) -> None:
    write_output_to(folder / "said")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    value: Any
    try:
        with init_distributed() as comm:
            value = work(comm, *args)
    except Exception as error:
        value = error
    (folder / "value").write_bytes(pickle.dumps(value))  # a pipe would be full before the test reads it
