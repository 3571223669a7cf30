"""Several real ranks for a test: processes that meet over gloo and run one function each."""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from grpo.ranks import joined


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
    context = mp.get_context("forkserver")  # its one process imports what takes long, and the ranks are forked off it
    context.set_forkserver_preload(["transformers", "deepspeed"])
    results, port = context.SimpleQueue(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / f"rank-{rank}" for rank in range(world)]
        processes = [
            context.Process(target=_rank, args=(rank, world, port, results, str(said[rank]), work, args))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        codes = _codes(processes, grace)
        values = {}
        while not results.empty():
            rank, value = results.get()
            values[rank] = value
        return [Ran(values.get(rank), codes[rank], said[rank].read_text()) for rank in range(world)]


def _codes(processes: list[Any], grace: float) -> list[int | None]:
    until = time.monotonic() + 600
    while any(process.exitcode is None for process in processes) and time.monotonic() < until:
        if any(process.exitcode is not None for process in processes):
            until = min(until, time.monotonic() + grace)
            grace = 600.0
        time.sleep(0.05)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _rank(rank: int, world: int, port: int, results: Any, said: str, work: Callable[..., Any], args: Any) -> None:
    sys.stdout = sys.stderr = Path(said).open("w", buffering=1)  # noqa: SIM115 (open until the process ends)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with joined() as comm:
            results.put((rank, work(comm, *args)))
    except Exception as error:
        results.put((rank, error))
