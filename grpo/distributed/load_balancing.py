"""Which rank takes which work? Costs shared out so that no rank waits long for another.

Largest differencing (Karmarkar and Karp 1982), for any number of ranks: the two partial solutions whose own sums are
furthest apart are merged, the largest sum of one with the smallest of the other, until one is left.
"""

import heapq
from collections.abc import Sequence


def balanced(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """Indices of `costs` for each rank, rising; every rank has some where so many costs are above 0.

    The classic case, in which dealing out the largest first would end at 17 and 13:

    >>> balanced([8, 7, 6, 5, 4], 2)
    [[1, 3, 4], [0, 2]]
    >>> balanced([3, 1, 4], 1)
    [[0, 1, 2]]
    """
    nothing: list[tuple[float, list[int]]] = [(0.0, [])] * (ranks - 1)
    heap = [(-float(cost), place, [(float(cost), [place]), *nothing]) for place, cost in enumerate(costs)]
    heapq.heapify(heap)  # by how far a solution's sums are apart; the place breaks ties, the same way on every rank
    while len(heap) > 1:
        _, place, one = heapq.heappop(heap)
        _, _, other = heapq.heappop(heap)
        merged = [(a + b, mine + theirs) for (a, mine), (b, theirs) in zip(one, reversed(other), strict=True)]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(heap, (merged[-1][0] - merged[0][0], place, merged))
    parts = heap[0][2] if heap else [*nothing, (0.0, [])]
    return [sorted(places) for _, places in parts]
