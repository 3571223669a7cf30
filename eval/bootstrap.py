"""Percentile bootstrap over questions: intervals of one run, and paired differences of two runs.

I questions, K columns of sums, R resamples. A resample is a row of multinomial counts, so that all resamples are one
product [R, I] @ [I, K].
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Callable[[Floats], Mapping[str, Floats]]

_AT_ONCE = 4_000_000  # counts in memory at a time: 32 MB


def intervals(
    sums_IK: Floats, scores: Scores, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)}: the central `level` of each metric over resamples of the questions."""
    parts = [scores(counts_RI @ sums_IK) for counts_RI in _counts(len(sums_IK), resamples, seed)]
    tail = 100 * (1 - level) / 2
    found = {}
    for name in parts[0]:
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), [tail, 100 - tail])
        found[name] = (float(low), float(high))
    return found


def paired(
    sums_a_IK: Floats, sums_b_IK: Floats, scores: Scores, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """{name: (b - a, p)} for two runs on the same questions in the same order.

    p is two-sided: twice the smaller share of resamples whose difference is <= 0, or >= 0. One is added to both
    counts, so that p is never 0.
    """
    if sums_a_IK.shape != sums_b_IK.shape:
        raise ValueError(f"paired sums of {sums_a_IK.shape} and {sums_b_IK.shape}")
    whole_a, whole_b = scores(sums_a_IK.sum(0)), scores(sums_b_IK.sum(0))
    names = [name for name in whole_a if name in whole_b]
    below, above = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for counts_RI in _counts(len(sums_a_IK), resamples, seed):
        a, b = scores(counts_RI @ sums_a_IK), scores(counts_RI @ sums_b_IK)
        for name in names:
            below[name] += int((b[name] - a[name] <= 0).sum())
            above[name] += int((b[name] - a[name] >= 0).sum())
    return {
        name: (
            float(whole_b[name][0] - whole_a[name][0]),
            min(1.0, 2 * (min(below[name], above[name]) + 1) / (resamples + 1)),
        )
        for name in names
    }


def _counts(questions: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Multinomial counts [R, I], in parts that fit into memory; the same seed gives the same counts."""
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(questions, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        yield rng.multinomial(questions, np.full(questions, 1 / questions), size=rows).astype(np.float64)
