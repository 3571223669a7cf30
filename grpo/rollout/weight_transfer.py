"""How do weights get from the trainer to a rollout server? As files in memory, or broadcast within a group of the two.

Files serve one machine. A group serves others, and GPUs, whose weights then never leave them. What is sent is a bucket:
some weights by name, which the server's engine has taken when `send` returns.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch import distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  (not in its stubs)

from grpo.errors import EngineDied

Bucket = dict[str, Tensor]
Ask = Callable[..., Any]
"""A request to the server: (what, **body) -> its answer."""
Transfer = Literal["auto", "files", "broadcast"]
"""What a recipe asks for; "auto" is files to a server on this machine, and a broadcast to any other."""
Described = Sequence[tuple[str, Sequence[int], str]]
"""What a bucket holds: name, shape and dtype of each tensor, as JSON takes it."""

BUCKET = 256 * 2**20  # bytes of weights that go at once; a larger tensor goes alone


class Carrier(Protocol):
    """The trainer's end."""

    @property
    def device(self) -> torch.device:
        """Where it takes tensors from."""
        ...

    def send(self, bucket: Bucket, ask: Ask) -> None:
        """Bring them to the server; EngineDied where it is gone."""
        ...


class Files:
    """Safetensors files in a folder that both see, one at a time."""

    device = torch.device("cpu")

    def __init__(self, folder: Path) -> None:
        self._folder, self._sent = folder, 0

    def send(self, bucket: Bucket, ask: Ask) -> None:
        file, self._sent = self._folder / f"{self._sent}.safetensors", self._sent + 1
        try:
            save_file(bucket, file)
            ask("bucket", file=file.name)
        finally:
            file.unlink(missing_ok=True)


class Broadcast:
    """Tensors over the group: the server is told what comes, and gets it."""

    def __init__(self, pair: "Pair") -> None:
        self._pair, self.device = pair, pair.device

    def send(self, bucket: Bucket, ask: Ask) -> None:
        ask(
            "bucket",
            tensors=[(name, tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in bucket.items()],
        )
        try:
            self._pair.send(bucket)
        except RuntimeError as error:
            raise EngineDied(f"weights could not be broadcast to the rollout server: {one_line(error)}") from None
        ask("taken")


class Pair:
    """A group of two processes, 0 the trainer and 1 the server, that is part of no other: NCCL for tensors on GPUs,
    gloo for the others. Gloo's ends wait for each other when they are made, NCCL's in the first broadcast."""

    def __init__(self, store: Store, rank: int, *, device: torch.device, host: str, patience: float) -> None:
        """`host` is this end's address, the only one that gloo listens at; `patience` in seconds, for every call.

        RuntimeError where the other end does not come.
        """
        self.device, self._limit = device, timedelta(seconds=patience)
        if device.type == "cuda":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = 2 * self._limit  # NCCL's own watchdog, which ends the process, comes after `wait`
            self._group: Any = dist.ProcessGroupNCCL(store, rank, 2, options)
        else:
            gloo: Any = dist.ProcessGroupGloo  # its options are not in torch's stubs
            options = gloo._Options()
            options._timeout, options._devices = self._limit, [gloo.create_device(hostname=host)]
            self._group = gloo(store, rank, 2, options)

    def send(self, bucket: Bucket) -> None:
        """RuntimeError where the other end is gone or too slow."""
        for tensor in bucket.values():
            self._group.broadcast(tensor, 0).wait(self._limit)  # without a limit NCCL's would only order streams

    def receive(self, described: Described) -> Bucket:
        """As `send`, at the other end."""
        bucket = {
            name: torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=self.device)
            for name, shape, dtype in described
        }
        self.send(bucket)
        return bucket


def listening_store(host: str, patience: float) -> tuple[TCPStore, int]:
    """Where the two ends of a pair meet, and its port. It listens at `host` alone, which a plain TCPStore does not."""
    with socket.create_server((host, 0)) as bound:
        port = bound.getsockname()[1]
        store = TCPStore(
            host,
            port,
            2,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=patience),
            master_listen_fd=bound.detach(),  # the store closes it
        )
    return store, port


def reached_store(host: str, port: int, patience: float) -> TCPStore:
    """The same from the other end."""
    return TCPStore(host, port, 2, is_master=False, timeout=timedelta(seconds=patience))


def buckets(
    weights: Iterable[tuple[str, Tensor]], *, device: torch.device | str = "cpu", size: int = BUCKET
) -> Iterator[Bucket]:
    """The weights in order on `device`, as many at a time as `size` bytes hold, at least one; held until the next."""
    bucket: Bucket = {}
    for name, tensor in weights:
        if bucket and sum(held.nbytes for held in bucket.values()) + tensor.nbytes > size:
            yield bucket
            bucket = {}
        bucket[name] = tensor.to(device).contiguous()
    if bucket:
        yield bucket


def gpu(device: torch.device) -> str:
    """Which GPU a device is, the same in every process; empty for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def one_line(error: Exception) -> str:
    """The beginning of what torch says, which is often a page."""
    return " ".join(str(error).split())[:200]
