"""Communication between the ranks of a run.

How ranks meet, and how all of them learn that one has failed: grpo/distributed/failure_detection.py.
"""

import os
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar, cast

from grpo.errors import UserError

T = TypeVar("T")


class Communicator:
    """Collective calls; every rank makes them together, in the same order. This class is that of one process."""

    rank: int = 0
    world: int = 1

    def shard(self, items: Sequence[T], *, even: bool = True) -> list[T]:
        """This rank's share of a list that is the same on all ranks; neighbours stay together.

        The shares have the same length, else UserError; with `even=False` their lengths may differ by one.
        """
        return list(items)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        return list(numbers)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The shares of all ranks, joined in the order of `shard`; their lengths may differ."""
        return list(items)

    def local_main_first(self, work: Callable[[], T]) -> T:
        """Run `work` on one rank of every node before the others: what it leaves in a cache is then made once."""
        return work()

    def on_rank0(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 alone and return its value on every rank. Where it raises, every rank ends."""
        return work()

    def barrier(self) -> None:
        """Return when every rank is here."""

    def abort(self, code: int, text: str) -> NoReturn:
        """End all ranks with this exit status and this line, whatever their main threads wait for.

        One rank calls this alone, from any thread.
        """
        os.write(2, f"stopped: {text}\n".encode())  # not print: the main thread may be in the middle of one
        os._exit(code)

    def on_abort(self, work: Callable[[], None]) -> None:
        """Register `work` to run in a background thread before this process ends because another rank has failed."""


class TorchDistributed(Communicator):
    """`Communicator` over the process group of torch.distributed, on CPU tensors also where the model is on GPUs."""

    def __init__(self, abort: Callable[[int, str], NoReturn], on_abort: Callable[[Callable[[], None]], None]) -> None:
        """Both arguments are those of `FailureDetector`, which reaches ranks that wait in a collective call."""
        import torch.distributed as dist

        self._dist, self._abort, self._on_abort = dist, abort, on_abort
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._is_local_main = int(os.environ.get("LOCAL_RANK", self.rank)) == 0

    def shard(self, items: Sequence[T], *, even: bool = True) -> list[T]:
        if even:
            check_divisible(len(items), self.world, "the batch")
        return list(items[len(items) * self.rank // self.world : len(items) * (self.rank + 1) // self.world])

    def sum(self, numbers: Sequence[float]) -> list[float]:
        import torch

        total = torch.tensor(list(numbers), dtype=torch.float64)
        self._dist.all_reduce(total)
        return total.tolist()

    def gather(self, items: Sequence[T]) -> list[T]:
        shares: list[list[T]] = [[]] * self.world
        self._dist.all_gather_object(shares, list(items))
        return [item for share in shares for item in share]

    def local_main_first(self, work: Callable[[], T]) -> T:
        if not self._is_local_main:
            self.barrier()
        value = work()
        if self._is_local_main:
            self.barrier()
        return value

    def on_rank0(self, work: Callable[[], T]) -> T:
        return cast(T, self.gather([work()] if self.rank == 0 else [])[0])

    def barrier(self) -> None:
        self.sum([0.0])  # not dist.barrier(), which would go through NCCL where there are GPUs

    def abort(self, code: int, text: str) -> NoReturn:
        self._abort(code, text)

    def on_abort(self, work: Callable[[], None]) -> None:
        self._on_abort(work)


def check_divisible(count: int, world: int, name: str) -> None:
    """UserError where `count` items cannot be shared equally by `world` ranks, with the nearest valid numbers.

    >>> check_divisible(4, 3, "prompts")
    Traceback (most recent call last):
    ...
    grpo.errors.UserError: prompts = 4 cannot be shared equally by 3 ranks; valid: 3 or 6, or 1, 2 or 4 ranks
    """
    if count % world == 0:
        return
    below, above = count // world * world, (count // world + 1) * world
    counts = f"{below} or {above}" if below else f"{above}"
    *most, last = [str(ranks) for ranks in range(1, count + 1) if count % ranks == 0]
    ranks = f"{', '.join(most)} or {last} ranks" if most else "1 rank"
    raise UserError(f"{name} = {count} cannot be shared equally by {world} ranks; valid: {counts}, or {ranks}")
