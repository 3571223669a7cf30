"""Two real ranks for a test: processes that meet over gloo and run one function each."""

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from grpo.ranks import OtherRankFailed, joined


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_ranks(work: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What `work(comm, *args)` returned on each rank, or the exception that ended it there."""
    context = mp.get_context("spawn")
    results = context.Queue()
    port = free_port()
    processes = [context.Process(target=_rank, args=(rank, world, port, results, work, args)) for rank in range(world)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=300) for _ in range(world))
    for process in processes:
        process.join(60)
    return [found[rank] for rank in range(world)]


def _rank(rank: int, world: int, port: int, results: Any, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with joined() as comm:
            results.put((rank, work(comm, *args)))
    except OtherRankFailed as error:
        results.put((rank, error))
    except BaseException as error:
        traceback.print_exc()
        results.put((rank, error))
