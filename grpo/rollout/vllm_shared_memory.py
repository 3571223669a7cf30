"""Memory that the ranks of one vLLM engine share on a CPU: a name for each run, and nothing left behind.

vLLM 0.32 names it by the numbers of the ranks alone, since ranks that a launcher has started have no address of their
own in it, and never removes it: no second engine of as many ranks would start on that machine, also after a kill.
"""

import glob
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FOLDER = Path("/dev/shm")  # where shm_open keeps it on Linux


@contextmanager
def of_its_own() -> Iterator[None]:
    """Around the start of an engine, by all ranks: when it has started, its ranks have opened the memory."""
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    run = torch.tensor([secrets.randbits(62)])
    torch.distributed.broadcast(run, 0)
    make, names = _CPUSHMDistributed.make_group_name, set[str]()

    def named(communicator: Any) -> str:
        names.add(name := f"{make(communicator)}-{int(run):x}")
        return name

    _CPUSHMDistributed.make_group_name = staticmethod(named)
    try:
        yield
    finally:
        _CPUSHMDistributed.make_group_name = staticmethod(make)
        for path in (path for name in names for path in FOLDER.glob(f"{glob.escape(name.lstrip('/'))}_*")):
            path.unlink(missing_ok=True)
