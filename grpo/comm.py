"""What ranks say to each other."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Comm(Protocol):
    """Every rank calls these together, in the same order."""

    rank: int
    world: int

    def shard(self, items: Sequence[T]) -> list[T]:
        """This rank's share of a list that is the same on all ranks; the shares are equally long."""
        ...

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        ...

    def gather(self, items: Sequence[T]) -> list[T]:
        """The shares of all ranks, joined in the order of `shard`'s input."""
        ...


class Alone:
    """`Comm` for one process."""

    rank = 0
    world = 1

    def shard(self, items: Sequence[T]) -> list[T]:
        return list(items)

    def sum(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def gather(self, items: Sequence[T]) -> list[T]:
        return list(items)
