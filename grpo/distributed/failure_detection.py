"""How ranks meet, and how all of them end with the first error.

A rank that fails writes its error into a key-value store. A thread of every other rank reads it there, whatever the
main thread waits for. So the run ends everywhere with the first error, and not with time-outs. A rank that can no
longer write is noticed by its missing heartbeat.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from grpo.distributed.communicator import TorchDistributed
from grpo.errors import UserError, exit_status

RENDEZVOUS_TIMEOUT = 300.0  # seconds in which all ranks must have started
HEARTBEAT_SECONDS = 1.0
HEARTBEAT_TIMEOUT = 45.0  # seconds without a heartbeat after which a rank counts as dead
FAILURE_GRACE = 10.0  # seconds that a failed rank stays, so that others read its error before a launcher ends them
COLLECTIVE_TIMEOUT = timedelta(hours=4)  # of one call; a dead rank is noticed long before
STORE_GONE = "it is gone, and the store with it"


@dataclass(frozen=True, slots=True)
class Failure:
    """The first error of a run: `Failure(rank=3, code=2, text="error: data.jsonl:7: ...")`."""

    rank: int
    code: int  # exit status
    text: str


class OtherRankFailed(RuntimeError):
    """Another rank failed first."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return f"rank {self.failure.rank}: {self.failure.text}"


def backend() -> str:
    """Return the backend of torch.distributed: gloo for CPU tensors, and NCCL for CUDA tensors."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def is_local_main() -> bool:
    """Whether this rank is the one of its node that prints what all ranks would print."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def ranks_per_node(world: int) -> int:
    """The number of ranks on this node, as DeepSpeed's launcher or torchrun gives it."""
    size = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE")
    return int(size) if size else world


@contextmanager
def init_distributed() -> Iterator[TorchDistributed]:
    """Join the ranks that a launcher started (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) until the block ends.

    An exception that leaves the block ends every rank. Raises OtherRankFailed where another rank failed first, and
    UserError where the ranks do not meet.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    if _is_loopback(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo listens where the host's name points to
    store = _rendezvous(host, port, rank, world)
    detector = FailureDetector(store.clone(), rank, world)  # a second connection: a call that waits blocks its own
    detector.start()
    try:
        own = dist.PrefixStore("group", store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend(), store=own, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
        comm = TorchDistributed(detector.abort, detector.on_abort)
        yield comm
        comm.barrier()
    except BaseException as error:
        first = detector.report_failure(error)
        if first.rank != rank:
            raise OtherRankFailed(first) from error
        raise
    detector.shutdown()
    dist.destroy_process_group()


class FailureDetector:
    """The threads of one rank that show it is alive, and end the process when another rank has failed."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._over = threading.Event()
        self._last_work: Callable[[], None] = lambda: None
        # The store lives in rank 0, which watches all other ranks; they watch rank 0.
        self._watched = [other for other in range(world) if other != rank] if rank == 0 else [0]
        self._rounds = 0  # of `_run`
        self._thread = threading.Thread(target=self._run, daemon=True, name="failure detector")

    def start(self) -> None:
        self._thread.start()
        threading.Thread(target=self._watch_store, daemon=True, name="store watcher").start()

    def on_abort(self, work: Callable[[], None]) -> None:
        """Register the work to do before another rank's failure ends this process."""
        self._last_work = work

    def report_failure(self, error: BaseException) -> Failure:
        """Publish this rank's error unless another rank was first. Returns the first error once all have read it."""
        self._over.set()
        code, text = exit_status(error)
        try:
            with self._deadline(Failure(self._rank, code, text)):
                vanished = self._find_vanished() if _lost_connection(error) and self._first_failure() is None else None
                own = vanished or Failure(self._rank, code, text)
                first = _decode(self._store.compare_set("failure", "", json.dumps(asdict(own))))
                self._store.add("informed", 1)
                self._wait_for_all("informed")
        except dist.DistError:
            return Failure(0, 1, STORE_GONE) if self._rank else Failure(0, code, text)
        return first

    def abort(self, code: int, text: str) -> NoReturn:
        """End the run from this rank, whatever the main threads of all ranks wait for."""
        self._exit(Failure(self._rank, code, text))

    def shutdown(self) -> None:
        """Stop after a run that succeeded. Rank 0 stays until the others no longer need its store."""
        self._over.set()
        self._thread.join()
        with suppress(dist.DistError):
            self._store.add("left", 1)
            if self._rank == 0:
                self._wait_for_all("left")

    def _run(self) -> None:
        beats: dict[int, tuple[int, int]] = dict.fromkeys(self._watched, (0, 0))  # rank -> last count, missed rounds
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self._store.add(f"beat/{self._rank}", 1)
                failure = self._first_failure() or self._find_silent(beats)
            except dist.DistError:
                failure = Failure(0, 1, STORE_GONE)
            self._rounds += 1
            if failure and not self._over.is_set():
                self._exit(failure, self._last_work)

    @contextmanager
    def _deadline(self, failure: Failure) -> Iterator[None]:
        """End the process where a call of the store within the block does not return, because rank 0 hangs."""
        seconds = HEARTBEAT_TIMEOUT + FAILURE_GRACE + 10 * HEARTBEAT_SECONDS
        timer = threading.Timer(seconds, self._exit_without_store, [failure])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _watch_store(self) -> None:
        """End this process where `_run` makes no progress: rank 0 hangs, and a call of its store never returns."""
        rounds, missed = 0, 0
        while not self._over.wait(HEARTBEAT_SECONDS):
            rounds, missed = self._rounds, missed + 1 if self._rounds == rounds else 0
            if missed * HEARTBEAT_SECONDS > HEARTBEAT_TIMEOUT and not self._over.is_set():
                self._exit_without_store(_silent(0))

    def _exit(self, failure: Failure, last_work: Callable[[], None] = lambda: None) -> NoReturn:
        """End this process and all others. No exception: the main thread may wait in a call that never returns."""
        self._over.set()
        if is_local_main():
            _print(failure)
        with self._deadline(failure), suppress(dist.DistError):
            self._store.compare_set("failure", "", json.dumps(asdict(failure)))
            self._store.add("informed", 1)
            if self._rank == 0:
                self._wait_for_all("informed")
        try:
            last_work()
        finally:
            os._exit(failure.code)

    def _exit_without_store(self, failure: Failure) -> NoReturn:
        """End this process alone, because rank 0 hangs. Every rank prints, since rank 0 may be the one that prints."""
        _print(failure)
        try:
            self._last_work()
        finally:
            os._exit(failure.code)

    def _first_failure(self) -> Failure | None:
        return _decode(self._store.get("failure")) if self._store.check(["failure"]) else None

    def _find_silent(self, beats: dict[int, tuple[int, int]]) -> Failure | None:
        """Return the failure of a rank without heartbeats.

        Time is counted in this rank's own heartbeats, so that suspending the machine does not look like a failure.
        """
        for other, (count, missed) in beats.items():
            new = self._store.add(f"beat/{other}", 0)
            beats[other] = (new, missed + 1 if new == count else 0)
            if beats[other][1] * HEARTBEAT_SECONDS > HEARTBEAT_TIMEOUT:
                return _silent(other)
        return None

    def _find_vanished(self) -> Failure | None:
        """Return the failure of a rank whose heartbeat stops within the next three seconds."""
        others = [other for other in range(self._world) if other != self._rank]
        before = [self._store.add(f"beat/{other}", 0) for other in others]
        time.sleep(3 * HEARTBEAT_SECONDS)
        for other, count in zip(others, before, strict=True):
            if self._first_failure() is None and self._store.add(f"beat/{other}", 0) == count:
                return Failure(other, 1, "it ended without a word")
        return None

    def _wait_for_all(self, key: str) -> None:
        """Return when every rank has counted itself under `key`, or after `FAILURE_GRACE` seconds."""
        until = time.monotonic() + FAILURE_GRACE
        while self._store.add(key, 0) < self._world and time.monotonic() < until:
            time.sleep(0.05)
        if self._rank == 0:
            time.sleep(0.3)  # another rank may be reading the last number


def _silent(rank: int) -> Failure:
    return Failure(rank, 1, f"no sign of life for {HEARTBEAT_TIMEOUT:.0f} s")


def _print(failure: Failure) -> None:
    print(f"stopped: rank {failure.rank}: {failure.text}", file=sys.stderr, flush=True)


def _rendezvous(host: str, port: int, rank: int, world: int) -> Any:
    """Return the store when all ranks have come to it."""
    listening = _listen(host, port) if rank == 0 else None
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host,
            port,
            is_master=rank == 0,
            timeout=timedelta(seconds=RENDEZVOUS_TIMEOUT),
            wait_for_workers=False,
            master_listen_fd=None if listening is None else listening.detach(),
        )
    except dist.DistError as error:
        within = f"no rank 0 at {host}:{port} within {RENDEZVOUS_TIMEOUT:.0f} s"
        raise UserError(f"rank {rank}: {within}: {' '.join(str(error).split())[:200]}") from None
    if rank == 0:
        store.set("world", str(world))
    is_other_run = store.get("world") != str(world).encode()
    if is_other_run or store.add(f"here/{rank}", 1) > 1:  # this run's rank 0 will find the port taken
        raise UserError(f"rank {rank}: at {host}:{port} is another run; {_other_port(port)}")
    store.add("here", 1)
    until = time.monotonic() + RENDEZVOUS_TIMEOUT
    while (here := store.add("here", 0)) < world:
        if time.monotonic() > until:
            raise UserError(f"{here} of {world} ranks came to {host}:{port} within {RENDEZVOUS_TIMEOUT:.0f} s")
        time.sleep(0.05)
    return store


def _listen(host: str, port: int) -> socket.socket:
    """Open rank 0's port: on loopback where that is the address given, else for every node to reach."""
    try:
        return socket.create_server((host if _is_loopback(host) else "", port))
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used ({error.strerror}); {_other_port(port)}") from None


def _other_port(port: int) -> str:
    return f"another: deepspeed --master_port={port + 1} (make: PORT={port + 1})"


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost")


def _lost_connection(error: BaseException) -> bool:
    """Whether a collective call failed because of another rank, whose own error says why."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
    )


def _decode(text: bytes) -> Failure:
    return Failure(**json.loads(text))
