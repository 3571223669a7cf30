"""Load balancing: the groups of a step, shared out so that ranks have about as many model tokens each."""

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from grpo.distributed.communicator import Communicator
from grpo.types import Group


def own_share(
    groups: Sequence[Group], advantages_PG: Tensor, comm: Communicator, *, drop_zero: bool = False
) -> tuple[list[Group], Tensor]:
    """Return the groups that this rank learns from, whichever rank sampled them, and their advantages.

    `groups` are the same on all ranks. With `drop_zero` a group of advantage 0 is left out of the update, and costs
    nothing.
    """
    costs = [len(g.prompt_ids) + sum(len(c.token_ids) - 1 for c in g.completions) for g in groups]
    if drop_zero:
        costs = [cost if row.any() else 1 for cost, row in zip(costs, advantages_PG, strict=True)]
    places = karmarkar_karp(costs, comm.world)[comm.rank]
    return [groups[place] for place in places], advantages_PG[torch.tensor(places, dtype=torch.long)]


def karmarkar_karp(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Return ascending indices of `costs` for each rank, with sums that are about equal.

    Largest differencing (Karmarkar and Karp 1982) for any number of ranks. The two partial solutions whose own sums are
    furthest apart are merged, the largest sum of one with the smallest of the other, until one solution is left. Every
    rank has an index where at least so many costs are above 0.

    Dealing out the largest first would end at 17 and 13 here:

    >>> karmarkar_karp([8, 7, 6, 5, 4], 2)
    [[1, 3, 4], [0, 2]]
    >>> karmarkar_karp([3, 1, 4], 1)
    [[0, 1, 2]]
    """
    empty: list[tuple[float, list[int]]] = [(0.0, [])] * (ranks - 1)
    heap = [(-float(cost), index, [(float(cost), [index]), *empty]) for index, cost in enumerate(costs)]
    heapq.heapify(heap)  # by spread, largest first; the index breaks ties in the same way on every rank
    while len(heap) > 1:
        _, index, one = heapq.heappop(heap)
        _, _, other = heapq.heappop(heap)
        merged = [(a + b, mine + theirs) for (a, mine), (b, theirs) in zip(one, reversed(other), strict=True)]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], index, merged))
    parts = heap[0][2] if heap else [*empty, (0.0, [])]
    return [sorted(indices) for _, indices in parts]
