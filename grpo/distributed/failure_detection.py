"""How ranks find each other, and how all of them learn that one has died: a key-value store, and a thread per rank.

A rank that fails writes its error into the store, and every other rank's thread reads it there, whatever that rank's
main thread is waiting for: the run ends everywhere with the first error, not with each rank's own time-out. A rank that
can no longer write is missed by its heartbeat.
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

from grpo.distributed.communicator import Ranks
from grpo.errors import UserError, exit_status

MEET = 300.0  # seconds in which all ranks must have started
BEAT = 1.0  # seconds between heartbeats
SILENT = 45.0  # seconds without one after which a rank is taken for dead
TOLD = 10.0  # seconds that a failed rank stays, so that the others hear of it before a launcher ends them all
LONGEST = timedelta(hours=4)  # in one collective call; a death is noticed long before


@dataclass(frozen=True, slots=True)
class Failure:
    """The first error of a run: `Failure(rank=3, code=2, text="error: data.jsonl:7: ...")`."""

    rank: int
    code: int  # exit status
    text: str


class OtherRankFailed(RuntimeError):
    """Another rank's failure came first; it says which and how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return f"rank {self.failure.rank}: {self.failure.text}"


def backend() -> str:
    """Collective calls on CPU tensors through gloo, on CUDA tensors through NCCL."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def leads_node() -> bool:
    """Whether this rank is the one that speaks where several ranks of a node have the same to say."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def ranks_of_node(world: int) -> int:
    """How many of the ranks are on this node: DeepSpeed's launcher and torchrun say it by different names."""
    said = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE")
    return int(said) if said else world


@contextmanager
def joined() -> Iterator[Ranks]:
    """The ranks that a launcher started (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), together until the block ends.

    An exception that leaves the block ends every rank. Raises OtherRankFailed where another rank's came first, and
    UserError where the ranks do not meet.
    """
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    if _is_loopback(host):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo listens where the host's name points to
    store = _meet(host, port, rank, world)
    watch = Watch(store.clone(), rank, world)  # a connection of its own: one that waits for a key is blocked
    watch.start()
    try:
        own = dist.PrefixStore("group", store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend(), store=own, rank=rank, world_size=world, timeout=LONGEST)
        comm = Ranks(watch.end, watch.before_end)
        yield comm
        comm.wait()
    except BaseException as error:
        first = watch.tell(error)
        if first.rank != rank:
            raise OtherRankFailed(first) from error
        raise
    watch.leave()
    dist.destroy_process_group()


class Watch:
    """One rank's thread: shows that this rank is alive, and ends the process when another one has failed."""

    def __init__(self, store: Any, rank: int, world: int) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._over = threading.Event()
        self._last: Callable[[], None] = lambda: None  # what is done before another rank's failure ends this process
        # The store lives in rank 0: it looks after all others, and they after it.
        self._minded = [other for other in range(world) if other != rank] if rank == 0 else [0]
        self._rounds = 0  # of `_run`
        self._thread = threading.Thread(target=self._run, daemon=True, name="watch")

    def start(self) -> None:
        self._thread.start()
        threading.Thread(target=self._mind_store, daemon=True, name="watch of the store").start()

    def before_end(self, work: Callable[[], None]) -> None:
        """`work()` is the last thing that is done where another rank's failure ends this process."""
        self._last = work

    def tell(self, error: BaseException) -> Failure:
        """Make this rank's error the run's, unless there is one already; returns the first when all have heard it."""
        self._over.set()
        code, text = exit_status(error)
        try:
            with self._in_time(Failure(self._rank, code, text)):
                vanished = self._vanished() if _lost_connection(error) and self._first() is None else None
                own = vanished or Failure(self._rank, code, text)
                first = _decode(self._store.compare_set("failure", "", json.dumps(asdict(own))))
                self._store.add("told", 1)
                self._wait_for("told")
        except dist.DistError:
            return Failure(0, 1, "it is gone, and the store with it") if self._rank else Failure(0, code, text)
        return first

    def end(self, code: int, text: str) -> NoReturn:
        """This rank ends the run, whatever the main threads of all ranks are waiting for."""
        self._end(Failure(self._rank, code, text))

    def leave(self) -> None:
        """The run is over and went well. Rank 0 stays until the others need its store no longer."""
        self._over.set()
        self._thread.join()
        with suppress(dist.DistError):
            self._store.add("left", 1)
            if self._rank == 0:
                self._wait_for("left")

    def _run(self) -> None:
        heard: dict[int, tuple[int, int]] = dict.fromkeys(self._minded, (0, 0))
        while not self._over.wait(BEAT):
            try:
                self._store.add(f"beat/{self._rank}", 1)
                failure = self._first() or self._silent(heard)
            except dist.DistError:
                failure = Failure(0, 1, "it is gone, and the store with it")
            self._rounds += 1
            if failure and not self._over.is_set():
                self._end(failure, self._last)

    @contextmanager
    def _in_time(self, failure: Failure) -> Iterator[None]:
        """Around calls of the store, of which none returns where rank 0 hangs: this process then ends all the same."""
        timer = threading.Timer(SILENT + TOLD + 10 * BEAT, self._exit, [failure])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _mind_store(self) -> None:
        """A rank 0 that hangs answers nobody, and a call of its store may then last for ever: `_run` sees nothing."""
        rounds, missed = 0, 0
        while not self._over.wait(BEAT):
            rounds, missed = self._rounds, missed + 1 if self._rounds == rounds else 0
            if missed * BEAT > SILENT and not self._over.is_set():
                self._exit(Failure(0, 1, f"no sign of life for {SILENT:.0f} s"))

    def _end(self, failure: Failure, last: Callable[[], None] = lambda: None) -> NoReturn:
        """The main thread may be waiting in a collective call that will never return, so this is no exception."""
        self._over.set()
        if leads_node():
            _say(failure)
        with self._in_time(failure), suppress(dist.DistError):
            self._store.compare_set("failure", "", json.dumps(asdict(failure)))
            self._store.add("told", 1)
            if self._rank == 0:
                self._wait_for("told")
        try:
            last()
        finally:
            os._exit(failure.code)

    def _exit(self, failure: Failure) -> NoReturn:
        """The same without rank 0, which also would have spoken for its node."""
        _say(failure)
        try:
            self._last()
        finally:
            os._exit(failure.code)

    def _first(self) -> Failure | None:
        return _decode(self._store.get("failure")) if self._store.check(["failure"]) else None

    def _silent(self, heard: dict[int, tuple[int, int]]) -> Failure | None:
        """A rank that missed too many heartbeats. Counted in this rank's own, not by the clock: where all are paused
        (a suspended machine), none is dead."""
        for other, (count, missed) in heard.items():
            new = self._store.add(f"beat/{other}", 0)
            heard[other] = (new, missed + 1 if new == count else 0)
            if heard[other][1] * BEAT > SILENT:
                return Failure(other, 1, f"no sign of life for {SILENT:.0f} s")
        return None

    def _vanished(self) -> Failure | None:
        """The rank whose heart stops beating while this one looks."""
        others = [other for other in range(self._world) if other != self._rank]
        before = [self._store.add(f"beat/{other}", 0) for other in others]
        time.sleep(3 * BEAT)
        for other, count in zip(others, before, strict=True):
            if self._first() is None and self._store.add(f"beat/{other}", 0) == count:
                return Failure(other, 1, "it ended without a word")
        return None

    def _wait_for(self, key: str) -> None:
        """Until every rank has counted itself there, or for `TOLD` seconds."""
        until = time.monotonic() + TOLD
        while self._store.add(key, 0) < self._world and time.monotonic() < until:
            time.sleep(0.05)
        if self._rank == 0:
            time.sleep(0.3)  # for those who are reading the last number just now


def _say(failure: Failure) -> None:
    print(f"stopped: rank {failure.rank}: {failure.text}", file=sys.stderr, flush=True)


def _meet(host: str, port: int, rank: int, world: int) -> Any:
    """The store, when all ranks have come to it."""
    listening = _listen(host, port) if rank == 0 else None
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host,
            port,
            is_master=rank == 0,
            timeout=timedelta(seconds=MEET),
            wait_for_workers=False,
            master_listen_fd=None if listening is None else listening.detach(),
        )
    except dist.DistError as error:
        raise UserError(f"rank {rank}: no rank 0 at {host}:{port} within {MEET:.0f} s: {_line(error)}") from None
    if rank == 0:
        store.set("world", str(world))
    others = store.get("world") != str(world).encode()
    if others or store.add(f"here/{rank}", 1) > 1:  # this run's rank 0 has found the port taken; that run is left alone
        raise UserError(f"rank {rank}: at {host}:{port} is another run; {_another(port)}")
    store.add("here", 1)
    until = time.monotonic() + MEET
    while (here := store.add("here", 0)) < world:
        if time.monotonic() > until:
            raise UserError(f"{here} of {world} ranks came to {host}:{port} within {MEET:.0f} s")
        time.sleep(0.05)
    return store


def _listen(host: str, port: int) -> socket.socket:
    """Rank 0's port: on loopback where that is the address given, else for every node to reach."""
    try:
        return socket.create_server((host if _is_loopback(host) else "", port))
    except OSError as error:
        raise UserError(f"port {port} of {host} cannot be used ({error.strerror}); {_another(port)}") from None


def _another(port: int) -> str:
    return f"another: deepspeed --master_port={port + 1} (make: PORT={port + 1})"


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost")


def _lost_connection(error: BaseException) -> bool:
    """Whether a collective call failed because of another rank, which says nothing of why."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection", "NCCL"))
    )


def _decode(text: bytes) -> Failure:
    return Failure(**json.loads(text))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
