"""Unique names for the memory that the ranks of one vLLM engine share on a CPU.

vLLM 0.32 names this memory by the ranks alone and never removes it. A second engine of as many ranks could therefore
not start on the same machine, also after a kill.
"""

import glob
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FOLDER = Path("/dev/shm")  # the folder of shm_open on Linux


@contextmanager
def unique_shared_memory() -> Iterator[None]:
    """Around the start of an engine, on all ranks; afterwards they have opened the memory, and its name is removed."""
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
