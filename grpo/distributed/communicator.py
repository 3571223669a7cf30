"""What ranks say to each other. How they find each other, and learn that one has died:
`grpo/distributed/failure_detection.py`."""

import os
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol, TypeVar, cast

from grpo.errors import UserError

T = TypeVar("T")


class Comm(Protocol):
    """Every rank calls these together, in the same order."""

    rank: int
    world: int

    def shard(self, items: Sequence[T], *, even: bool = True) -> list[T]:
        """This rank's share of a list that is the same on all ranks; neighbours stay together.

        The shares are equally long, or it is an UserError; with `even=False` their lengths may differ by one.
        """
        ...

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        ...

    def gather(self, items: Sequence[T]) -> list[T]:
        """The shares of all ranks, joined in the order of `shard`'s input; they need not be equally long."""
        ...

    def first(self, work: Callable[[], T]) -> T:
        """`work()`, by one rank of every node before the others: what it leaves in a cache is then made once."""
        ...

    def lead(self, work: Callable[[], T]) -> T:
        """`work()` by rank 0 alone: what it returned, on every rank. Where it raises, every rank ends."""
        ...

    def wait(self) -> None:
        """Return when every rank is here."""
        ...

    def end(self, code: int, text: str) -> NoReturn:
        """From any thread, and by one rank alone: end the processes of all ranks with this exit status and this line,
        whatever their main threads are waiting for."""
        ...

    def before_end(self, work: Callable[[], None]) -> None:
        """By one rank alone: where this process is ended because another rank has failed, `work()` is done first, by
        another thread than the main one."""
        ...


class Alone:
    """`Comm` for one process."""

    rank = 0
    world = 1

    def shard(self, items: Sequence[T], *, even: bool = True) -> list[T]:
        return list(items)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def gather(self, items: Sequence[T]) -> list[T]:
        return list(items)

    def first(self, work: Callable[[], T]) -> T:
        return work()

    def lead(self, work: Callable[[], T]) -> T:
        return work()

    def wait(self) -> None:
        """Everybody is here."""

    def end(self, code: int, text: str) -> NoReturn:
        os.write(2, f"stopped: {text}\n".encode())  # not print: the main thread may be in the middle of one
        os._exit(code)

    def before_end(self, work: Callable[[], None]) -> None:
        """There is no other rank."""


class Ranks:
    """`Comm` over the process group of torch.distributed, on CPU tensors (gloo) also where the model is on GPUs."""

    def __init__(
        self, end_all: Callable[[int, str], NoReturn], before_end: Callable[[Callable[[], None]], None]
    ) -> None:
        """`end_all` reaches the other ranks also while they are in a collective call; `before_end` is told what is done
        where another rank's has reached this one."""
        import torch.distributed as dist

        self._dist, self._end_all, self._before_end = dist, end_all, before_end
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._leads_node = int(os.environ.get("LOCAL_RANK", self.rank)) == 0

    def shard(self, items: Sequence[T], *, even: bool = True) -> list[T]:
        if even:
            check_shares(len(items), self.world, "the batch")
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

    def first(self, work: Callable[[], T]) -> T:
        if not self._leads_node:
            self.wait()
        done = work()
        if self._leads_node:
            self.wait()
        return done

    def lead(self, work: Callable[[], T]) -> T:
        return cast(T, self.gather([work()] if self.rank == 0 else [])[0])

    def wait(self) -> None:
        self.sum([0.0])  # not dist.barrier(): with GPUs that one would go through NCCL

    def end(self, code: int, text: str) -> NoReturn:
        self._end_all(code, text)

    def before_end(self, work: Callable[[], None]) -> None:
        self._before_end(work)


def check_shares(count: int, world: int, name: str) -> None:
    """UserError where `count` items cannot be shared equally, naming the nearest counts and ranks that can.

    >>> check_shares(4, 3, "prompts")
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
