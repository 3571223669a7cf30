"""Transfer of weights from the trainer to a rollout server: as files in memory, or by a broadcast between the two.

Files serve one machine. A broadcast serves several machines, and GPUs, whose weights then never leave them. Weights are
sent in buckets of some parameters by name; the server's engine has taken a bucket when `send` returns.
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

TransferKind = Literal["auto", "files", "broadcast"]
""""auto" is files to a server on this machine, and a broadcast to any other."""

TensorMetadata = Sequence[tuple[str, Sequence[int], str]]
"""Name, shape and dtype of each tensor in a bucket, as JSON takes them."""

BUCKET_BYTES = 256 * 2**20  # a larger tensor is a bucket of its own


class WeightTransfer(Protocol):
    """The trainer's end of a transfer."""

    @property
    def device(self) -> torch.device:
        """The device that it takes tensors from."""
        ...

    def send(self, bucket: Bucket, ask: Ask) -> None:
        """Send a bucket; EngineDied where the server is gone."""
        ...


class FileTransfer:
    """Sends a bucket as a safetensors file in a folder that both processes see."""

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


class BroadcastTransfer:
    """Announces a bucket to the server and broadcasts its tensors."""

    def __init__(self, pair: "ProcessPair") -> None:
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


class ProcessPair:
    """A process group of the trainer, 0, and the server, 1: NCCL for tensors on GPUs, gloo for others.

    The two ends wait for each other when they are created with gloo, and in the first broadcast with NCCL.
    """

    def __init__(self, store: Store, rank: int, *, device: torch.device, host: str, timeout: float) -> None:
        """`host` is this end's address, the only one that gloo listens at; `timeout` is in seconds, for every call.

        RuntimeError where the other end does not join.
        """
        self.device, self._limit = device, timedelta(seconds=timeout)
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

    def receive(self, metadata: TensorMetadata) -> Bucket:
        """Receive a bucket at the other end of `send`."""
        bucket = {
            name: torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=self.device)
            for name, shape, dtype in metadata
        }
        self.send(bucket)
        return bucket


def create_store(host: str, timeout: float) -> tuple[TCPStore, int]:
    """The store where the two ends of a pair meet, and its port. Unlike a plain TCPStore it listens at `host` alone."""
    with socket.create_server((host, 0)) as bound:
        port = bound.getsockname()[1]
        store = TCPStore(
            host,
            port,
            2,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout),
            master_listen_fd=bound.detach(),  # the store closes it
        )
    return store, port


def connect_store(host: str, port: int, timeout: float) -> TCPStore:
    """The same store, from the other end."""
    return TCPStore(host, port, 2, is_master=False, timeout=timedelta(seconds=timeout))


def buckets(
    weights: Iterable[tuple[str, Tensor]], *, device: torch.device | str = "cpu", size: int = BUCKET_BYTES
) -> Iterator[Bucket]:
    """Yield the weights in order on `device`, in buckets of at most `size` bytes, or of one larger tensor."""
    bucket: Bucket = {}
    for name, tensor in weights:
        if bucket and sum(held.nbytes for held in bucket.values()) + tensor.nbytes > size:
            yield bucket
            bucket = {}
        bucket[name] = tensor.to(device).contiguous()
    if bucket:
        yield bucket


def gpu_uuid(device: torch.device) -> str:
    """The identity of a GPU, the same in every process; empty for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def one_line(error: Exception) -> str:
    """The first 200 characters of an error on one line."""
    return " ".join(str(error).split())[:200]
