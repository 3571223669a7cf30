"""Two real ranks for a test: processes that meet over gloo and run one function each."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from grpo.ranks import joined


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_ranks(work: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What `work(comm, *args)` returned on each rank, or the exception that ended it there; None for a rank that ended
    without a word."""
    context = mp.get_context("forkserver")  # its one process imports what takes long, and the ranks are forked off it
    context.set_forkserver_preload(["transformers", "deepspeed"])
    results, port = context.SimpleQueue(), free_port()
    processes = [context.Process(target=_rank, args=(rank, world, port, results, work, args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    found = {}
    while not results.empty():
        rank, value = results.get()
        found[rank] = value
    return [found.get(rank) for rank in range(world)]


def _rank(rank: int, world: int, port: int, results: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with joined() as comm:
            results.put((rank, work(comm, *args)))
    except Exception as error:
        results.put((rank, error))
